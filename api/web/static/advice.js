// Draws an advice; _advice.html makes the same block on the server.

import { el, svg } from "/static/dom.js";
import { count, figures, percent } from "/static/numbers.js";

/**
 * Fill a container with an advice.
 * @param container Where it goes; what was there goes away.
 * @param advice As the API gives it.
 * @param words The page's words, from its data block.
 * @param key Keeps ids apart where a page shows two.
 */
export function renderAdvice(container, advice, words, key) {
  const { recommended, decision, expected } = advice;
  const blocking = advice.warnings.filter((one) => one.blocking);
  const [low, middle, high] = expected.loss_ratio.map((ratio) => ratio.toFixed(2));
  const time =
    expected.time_ratio === null
      ? "More than half never got to the default’s best loss."
      : `In the median it took ${expected.time_ratio.toFixed(2)} times the default’s steps to get to the default’s best loss.`;
  const id = `${key}-code`;
  const parts = [
    blocking.length && noted("Mend this first", blocking.map((one) => one.text), "note bad"),
    el("p", { class: "verdict" }, el("strong", {}, recommended.label), " ", el("span", {}, odds(expected))),
    el(
      "div",
      { class: "code" },
      el(
        "div",
        { class: "bar" },
        el("span", {}, "Python"),
        el("button", { type: "button", "data-copy": id }, "Copy code"),
      ),
      el("pre", { tabindex: 0, "aria-label": "Python code" }, el("code", { id }, recommended.code)),
    ),
    schedule(recommended),
    el("h3", {}, "Why"),
    el("p", {}, `${words.basis[decision.basis]}:`),
    el(
      "ul",
      { class: "reasons" },
      decision.reasons.map((reason) =>
        el("li", {}, el("span", { class: `tag ${decision.basis}` }, decision.basis), ` ${reason}`),
      ),
    ),
    el("h3", {}, "What to expect"),
    el(
      "p",
      {},
      `On 80\u00a0% of those tasks the best validation loss was ${low} to ${high} times the default’s, ${middle} times in the median. ${time}`,
    ),
    el("p", { class: "quiet" }, `Grounds: ${expected.basis}.`),
    known(advice),
    el(
      "details",
      {},
      el("summary", {}, "What else was considered"),
      el(
        "ul",
        {},
        advice.alternatives.map((one) => el("li", {}, el("strong", {}, one.label), `: ${one.reason}.`)),
      ),
    ),
    el("p", { class: "quiet" }, `${cost(advice.cost)} Versions: ${versions(advice.versions)}.`),
  ];
  container.replaceChildren(...parts.filter(Boolean));
}

const odds = ({ p_beats_default, tasks, confidence }) =>
  `Odds of beating Keras’ default: ${percent(p_beats_default)}, from ${tasks} recorded tasks (${confidence} confidence).`;

const versions = (all) =>
  Object.keys(all)
    .sort()
    .map((name) => `${name} ${all[name]}`)
    .join(", ");

function noted(title, lines, kind) {
  const items = lines.map((line) => el("li", {}, line));
  return el("div", { class: kind }, el("h3", {}, title), el("ul", {}, items));
}

function known({ warnings, evidence }) {
  const lines = [
    ...warnings.filter((one) => !one.blocking).map((one) => one.text),
    ...evidence.notes,
  ];
  if (evidence.kind === "synthetic") {
    lines.unshift("Probes ran on data drawn from your description, not on your data.");
  }
  return lines.length && noted("Worth knowing", lines, "note");
}

function schedule({ learning_rate, schedule: parts, total_steps }) {
  const constant = parts.shape === "constant";
  const bend = (1 + (158 * parts.stable_steps) / total_steps).toFixed(1);
  const text = constant
    ? `for all ${count(total_steps)} steps.`
    : `for ${count(parts.stable_steps)} steps, then in a straight line to 0 over the last ${count(parts.decay_steps)} steps.`;
  return el(
    "div",
    { class: "schedule" },
    svg(
      "svg",
      { viewBox: "0 0 160 40", width: 160, height: 40, "aria-hidden": "true" },
      svg("path", { class: "axis", d: "M1 1V38H159" }),
      svg("polyline", { points: constant ? "1,8 159,8" : `1,8 ${bend},8 159,38` }),
    ),
    el("p", {}, `Learning rate ${figures(learning_rate)} ${text}`),
  );
}

function cost({ gradient_evaluations, fraction_of_full, limit_fraction, seconds, compile_seconds }) {
  if (!gradient_evaluations) return "Cost: nothing was trained.";
  return (
    `Cost: ${percent(fraction_of_full, 1)} of one full training (limit ${percent(limit_fraction)}), ` +
    `${count(gradient_evaluations)} gradient evaluations, ${seconds.toFixed(1)}\u00a0s, ` +
    `of which ${compile_seconds.toFixed(1)}\u00a0s compiling.`
  );
}
