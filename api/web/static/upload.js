// Uploads a file as soon as it is chosen or dropped, and says what was read.

import { byId, say } from "/static/dom.js";
import { count, mebibytes } from "/static/numbers.js";
import { Problem, call } from "/static/problem.js";

/**
 * Watch a file input.
 * @param input The input; `<its id>-read` tells how it goes.
 * @param keptIn Hidden input that gets the id of what was uploaded.
 * @param path Where to upload.
 * @param describe Says what the API read.
 * @param mostMiB Largest upload.
 * @param changed Is called whenever the id changes.
 */
export function watchUpload({ input, keptIn, path, describe, mostMiB, changed }) {
  const told = byId(`${input.id}-read`);
  let running = null;

  async function send() {
    const [file] = input.files;
    running?.abort();
    running = new AbortController();
    const { signal } = running;
    keptIn.value = "";
    told.classList.remove("failed");
    if (!file) say(told, "");
    changed();
    if (!file) return;
    say(told, `Uploading ${file.name}, ${mebibytes(file.size)} …`);
    try {
      if (file.size > mostMiB * 2 ** 20) throw tooLarge(file, mostMiB);
      const found = await call(path, { body: await bodyOf(file), signal });
      keptIn.value = found.id;
      say(told, `Read ${file.name}: ${describe(found)}`);
    } catch (error) {
      if (error.name === "AbortError") return;
      told.classList.add("failed");
      say(told, `${file.name} was not taken. ${error.detail ?? error.message}`);
    }
    changed();
  }

  input.addEventListener("change", send);
  for (const [name, over] of [["dragenter", true], ["dragleave", false], ["drop", false]]) {
    input.addEventListener(name, () => input.classList.toggle("over", over));
  }
  // A page that comes back from the history has the file still chosen, but not its id.
  if (input.files.length && !keptIn.value) send();
}

/** What was read of a model. */
export function describeModel({ layers, input_shape, output_units, loss }) {
  const all = Object.values(layers).reduce((sum, one) => sum + one, 0);
  const kinds = Object.entries(layers).map(([name, many]) => `${many} ${name}`);
  return [
    `${all} layers (${kinds.join(", ")})`,
    input_shape && `input ${input_shape.map((n) => n ?? "any").join(" × ")}`,
    output_units && `output ${output_units}`,
    loss && `loss ${loss.name}`,
    "weights are ignored: probes draw fresh ones.",
  ]
    .filter(Boolean)
    .join("; ");
}

/** What was read of a data set. */
export function describeData({ rows, arrays }) {
  const one = ([name, { shape, dtype }]) => {
    const kind = /^(u?int|bool)/.test(dtype) ? "whole numbers" : "numbers";
    const each = shape.length > 1 ? shape.slice(1).join(" × ") : "1";
    const own = name.endsWith("_val") ? `${count(shape[0])} rows, ` : "";
    return `${name}: ${own}${each} each, ${kind} (${dtype})`;
  };
  return [`${count(rows)} rows`, ...Object.entries(arrays).map(one)].join("; ") + ".";
}

async function bodyOf(file) {
  if (file.name.toLowerCase().endsWith(".json")) return file.text();
  const body = new FormData();
  body.append("file", file);
  return body;
}

function tooLarge(file, most) {
  const detail = `It has ${mebibytes(file.size)}; this service takes at most ${most} MiB. Probes need some thousand examples: upload a part.`;
  return new Problem({ title: "The file is too large", detail });
}
