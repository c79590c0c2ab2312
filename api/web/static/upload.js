// Uploads a file as soon as it is chosen or dropped. What was read of it is for the server to say.

import { byId } from "/static/dom.js";
import { ask } from "/static/server.js";

/**
 * Watch a file input: `data-path` says where its files go, `data-id-in` which input gets their ids,
 * and `data-sends` which input's text goes along, where there is some.
 * `changed` is called whenever an id changes.
 */
export function watchUpload(input, changed) {
  const { path, idIn, mostMib, sends } = input.dataset;
  const along = sends ? byId(sends) : null;
  const told = byId(`${input.id}-read`);
  let running = null;

  function tell(text, failed = false) {
    told.dataset.kept = ""; // until the server has something to say
    told.classList.toggle("failed", failed);
    told.textContent = text;
    // The server does not know of a file that it has not taken.
    input.toggleAttribute("data-kept", failed);
    if (failed) input.ariaInvalid = "true";
    else input.removeAttribute("aria-invalid");
  }

  async function send() {
    const [file] = input.files;
    running?.abort();
    running = new AbortController();
    byId(idIn).value = "";
    tell(file ? `Uploading ${file.name}, ${mebibytes(file)} …` : "");
    changed();
    if (!file) return;
    try {
      if (file.size > mostMib * 2 ** 20) {
        const most = `It has ${mebibytes(file)}; at most ${mostMib} MiB are taken.`;
        throw new Error(`${most} Upload a part: probes need some thousand examples.`);
      }
      const answer = await ask(path, { method: "POST", signal: running.signal, ...contentOf(file, along) });
      byId(idIn).value = (await answer.json()).id;
      delete told.dataset.kept;
    } catch (error) {
      if (error.name === "AbortError") return;
      tell(`${file.name} was not taken. ${error.message}`, true);
    }
    changed();
  }

  input.addEventListener("change", send);
  along?.addEventListener("change", () => input.files.length && send());
  for (const [name, over] of [["dragenter", true], ["dragleave", false], ["drop", false]]) {
    input.addEventListener(name, () => input.classList.toggle("over", over));
  }
  // A page that comes back from the history has the file still chosen, but not its id.
  addEventListener("pageshow", () => input.files.length && !byId(idIn).value && send());
}

// A file dropped beside its field must not make the browser leave the page.
for (const name of ["dragover", "drop"]) {
  addEventListener(name, (event) => event.target.type === "file" || event.preventDefault());
}

function contentOf(file, along) {
  if (file.name.toLowerCase().endsWith(".json")) {
    return { body: file, headers: { "Content-Type": "application/json" } };
  }
  const body = new FormData();
  if (along?.value) body.append(along.name, along.value.trim());
  body.append("file", file);
  return { body };
}

const mebibytes = ({ size }) => `${(size / 2 ** 20).toFixed(1)} MiB`;
