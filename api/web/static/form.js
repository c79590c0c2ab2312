// What the form says, as the API takes it, and errors of the API at the fields that they are about.

import { byId, el } from "/static/dom.js";
import { Problem } from "/static/problem.js";

const text = (form, name) => form.elements[name].value.trim();

/**
 * The form as the body of POST /v1/recommendations; throws a Problem where it cannot be one. An
 * error is `missing` where a field waits to be filled in, which is no mistake while typing.
 */
export function requestOf(form) {
  const errors = [];
  const number = (name, whole = true) => {
    const value = text(form, name).replaceAll(",", "");
    if (value === "") return undefined;
    const found = Number(value);
    if (Number.isFinite(found) && (!whole || Number.isInteger(found))) return found;
    const detail = `This must be a ${whole ? "whole " : ""}number, like 20. Received “${value}”.`;
    errors.push({ pointer: `/${name}`, detail });
    return undefined;
  };
  const numbers = (name) => {
    const found = list(text(form, name).replaceAll("x", " ")).map(Number);
    if (found.every((one) => Number.isInteger(one))) return found.length ? found : undefined;
    errors.push({ pointer: `/${name}`, detail: "Write whole numbers with commas, like 28, 28, 1." });
    return undefined;
  };
  const chosen = (name) => text(form, name) || undefined;
  const asked = {
    ...subject(form, number, numbers, errors),
    training: {
      epochs: number("epochs"),
      batch_size: number("batch_size"),
      loss: chosen("loss"),
      from_logits: form.elements.from_logits.checked,
      backend: chosen("backend"),
    },
    seed: number("seed"),
    tier: chosen("tier"),
    max_seconds: number("max_seconds", false),
    include: list(text(form, "include")),
    label: chosen("label"),
  };
  if (!errors.length) return asked;
  const detail = "Nothing was sent. Correct the fields that are marked.";
  throw new Problem({ title: "The form is not complete yet", detail, errors });
}

/** The part of a request that the instant answer takes. */
export const adviceOf = ({ model, data, training, seed }) => ({ model, data, training, seed });

/** Write each error below its field, after those of before are taken away; how many had a field. */
export function markErrors(form, errors) {
  for (const line of form.querySelectorAll(".wrong")) line.hidden = true;
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  let marked = 0;
  for (const { pointer, detail } of errors) {
    const field = byId(fieldOf(pointer));
    const line = field && byId(`${field.id}-wrong`);
    if (!line || !form.contains(field)) continue;
    field.setAttribute("aria-invalid", "true");
    line.replaceChildren(el("span", {}, detail));
    line.hidden = false;
    field.closest("details")?.setAttribute("open", "");
    marked += 1;
  }
  return marked;
}

function subject(form, number, numbers, errors) {
  const source = text(form, "source");
  if (source === "sample") {
    const ref = { kind: "ref", id: `sample:${text(form, "sample")}` };
    return { model: ref, data: ref };
  }
  if (source === "upload") {
    const needed = [["model_id", "model_file", "a model"], ["dataset_id", "data_file", "a data file"]];
    for (const [id, file, what] of needed) {
      if (!text(form, id)) missing(errors, file, `Choose ${what} first.`);
    }
    const ref = (name) => ({ kind: "ref", id: text(form, name) });
    return { model: ref("model_id"), data: ref("dataset_id") };
  }
  const shape = numbers("shape");
  if (!shape && !text(form, "shape")) {
    missing(errors, "shape", "Give the shape of one input, like 64 or 28, 28, 1.");
  }
  const task = text(form, "task");
  const width = task === "regression" ? { outputs: number("outputs") } : { classes: number("classes") };
  const samples = number("samples_count");
  return {
    model: { kind: "summary", family: text(form, "family"), units: numbers("units") },
    data: { kind: "summary", shape, task, samples, ...width },
  };
}

const missing = (errors, name, detail) => errors.push({ pointer: `/${name}`, detail, missing: true });

// The last word of a pointer names the field, positions in a list aside.
function fieldOf(pointer) {
  const parts = pointer.split("/").filter((part) => part && !/^\d+$/.test(part));
  const name = parts.at(-1) ?? "";
  if (name === "id") return parts[0] === "model" ? "model_file" : "data_file";
  return name === "samples" ? "samples_count" : name;
}

const list = (value) => value.split(/[\s,×]+/).filter(Boolean);
