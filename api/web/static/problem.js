// Talks to the API; an error is thrown as a Problem, which can be shown on the page.

import { el } from "/static/dom.js";

/** An error in the words of the API, or in ours where it cannot be reached. */
export class Problem extends Error {
  constructor({ title, detail, errors }) {
    super(detail);
    this.title = title;
    this.detail = detail;
    this.errors = errors ?? [];
  }
}

/** JSON from a path of this server. A `body` that is no string or form goes out as JSON. */
export async function call(path, { body, method = body === undefined ? "GET" : "POST", signal } = {}) {
  const ready = body === undefined || body instanceof FormData || typeof body === "string";
  const headers = { Accept: "application/json" };
  if (body !== undefined && !(body instanceof FormData)) headers["Content-Type"] = "application/json";
  let answer, content;
  try {
    const options = { method, headers, signal, body: ready ? body : JSON.stringify(body) };
    answer = await fetch(path, options);
    content = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      title: "No connection",
      detail: "The server cannot be reached. Check that it runs, then try again.",
    });
  }
  let data = null;
  try {
    data = JSON.parse(content);
  } catch {
    // Something between here and the server answered with a page of its own.
  }
  if (answer.ok && data !== null) return data;
  throw new Problem(
    data?.detail
      ? data
      : { title: "No answer", detail: `The server answered ${answer.status}. Try again in a moment.` },
  );
}

/** Put a problem into its box and the focus there; _problem.html makes the same block. */
export function showProblem(box, problem) {
  box.replaceChildren(
    el("h2", {}, problem.title ?? "Something broke"),
    el("p", {}, problem.detail ?? String(problem)),
  );
  if (problem.errors?.length) {
    const places = problem.errors.map((e) => el("li", {}, el("code", {}, e.pointer), ` ${e.detail}`));
    box.append(el("ul", {}, places));
  }
  box.hidden = false;
  box.focus();
}
