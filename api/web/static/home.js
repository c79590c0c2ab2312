// The form: an instant answer while typing, uploads at once, and the start of a measurement.

import { renderAdvice } from "/static/advice.js";
import { byId, dataOf, say } from "/static/dom.js";
import { adviceOf, markErrors, requestOf } from "/static/form.js";
import { call, showProblem } from "/static/problem.js";
import { describeData, describeModel, watchUpload } from "/static/upload.js";

const TYPING_MS = 250;
const SHARES = { quick: "10\u00a0%", standard: "50\u00a0%", thorough: "200\u00a0%" };

const form = byId("ask");
const answer = byId("answer");
const button = form.querySelector("button.primary");
const words = dataOf("words");
let asked = 0;
let timer = 0;

async function answerAtOnce() {
  const mine = ++asked; // what answers an earlier state of the form is dropped
  let line;
  try {
    const advice = await call("/v1/advice", { body: adviceOf(requestOf(form)) });
    if (mine !== asked) return;
    markErrors(form, []);
    renderAdvice(answer, advice, words, "answer");
    answer.hidden = false;
    line = `For the form as it stands: ${advice.recommended.label}.`;
  } catch (problem) {
    if (mine !== asked) return;
    answer.hidden = true; // it would answer another form than the one that stands there
    const errors = problem.errors ?? [];
    const marked = markErrors(form, errors.filter((one) => !one.missing));
    line = marked ? "Correct what is marked in the form, and the answer appears here." : null;
    line ??= errors[0]?.missing ? errors[0].detail : (problem.detail ?? String(problem));
  }
  say(byId("answer-state"), line);
}

function changed() {
  const sample = form.elements.sample.selectedOptions[0].dataset;
  const own = form.elements.source.value === "sample" ? sample : { epochs: 20, batchSize: 32 };
  say(byId("sample-hint"), sample.about);
  form.elements.epochs.placeholder = own.epochs;
  form.elements.batch_size.placeholder = own.batchSize;
  const seconds = form.elements.max_seconds.value.trim() || "120";
  const share = SHARES[form.elements.tier.value];
  say(byId("budget"), `Measuring costs at most ${share} of one full training and ${seconds}\u00a0s.`);
  clearTimeout(timer);
  timer = setTimeout(answerAtOnce, TYPING_MS);
}

async function start(event) {
  event.preventDefault();
  const label = button.textContent;
  button.disabled = true;
  button.textContent = "Starting…";
  byId("problem").hidden = true;
  try {
    const { id } = await call("/v1/recommendations", { body: requestOf(form) });
    location.assign(`/recommendations/${id}`);
  } catch (problem) {
    markErrors(form, problem.errors ?? []);
    showProblem(byId("problem"), problem);
  }
  // Also on the way to the next page: from there one may come back.
  button.disabled = false;
  button.textContent = label;
}

for (const one of document.querySelectorAll(".without-scripts")) one.hidden = true;
const mostMiB = Number(form.dataset.uploadMb);
for (const [input, keptIn, path, describe] of [
  ["model_file", "model_id", "/v1/models", describeModel],
  ["data_file", "dataset_id", "/v1/datasets", describeData],
]) {
  watchUpload({ input: byId(input), keptIn: byId(keptIn), path, describe, mostMiB, changed });
}
// A file dropped beside its field must not make the browser leave the page.
for (const name of ["dragover", "drop"]) {
  addEventListener(name, (event) => event.target.type === "file" || event.preventDefault());
}
form.addEventListener("input", changed);
form.addEventListener("submit", start);
changed();
