// The form: sent whenever it changes, for the answer to it as it stands, or because a button is pressed.

import { byId, say } from "/static/dom.js";
import { load, update } from "/static/page.js";
import { watchUpload } from "/static/upload.js";

const TYPING_MS = 250;
const AGAIN_MS = 3000;

const form = byId("ask");
const files = [...form.querySelectorAll("input[type=file]")];
let sent = 0;
let timer = 0;

/** Send the form as it stands, with the button that was pressed if one was. */
async function send(button) {
  const mine = ++sent;
  const body = new FormData(form);
  for (const { name } of files) body.delete(name); // the ids of what was uploaded go instead
  if (button) body.set(button.name, button.value);
  const page = await load("/", { method: "POST", body });
  if (page?.movedTo) {
    location.assign(page.movedTo);
  } else if (mine !== sent) {
    return;
  } else if (!page) {
    byId("answer").hidden = true; // it is to an earlier form
    say(byId("answer-state"), "There is no answer at the moment; it is asked for again.");
    timer = setTimeout(() => send(null), AGAIN_MS);
  } else {
    update(page.main);
    form.querySelector("details [aria-invalid]")?.closest("details").setAttribute("open", "");
  }
}

function changed() {
  sent += 1; // an answer that is under way is to an earlier form
  clearTimeout(timer);
  timer = setTimeout(() => send(null), TYPING_MS);
}

async function submit(event) {
  event.preventDefault();
  if (form.ariaBusy) return;
  clearTimeout(timer);
  form.ariaBusy = "true";
  await send(event.submitter);
  form.ariaBusy = null;
  byId("problem").focus(); // cannot be focused where it is hidden, because there is none
}

for (const input of files) watchUpload(input, changed);
form.addEventListener("input", changed);
form.addEventListener("submit", submit);
addEventListener("pageshow", changed); // from the history, the form comes filled in
