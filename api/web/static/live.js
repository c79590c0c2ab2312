// A job's page: follows its events until the end, without loading the page again.

import { renderAdvice } from "/static/advice.js";
import { draw } from "/static/chart.js";
import { byId, dataOf, el, say, svg } from "/static/dom.js";
import { count, figures, percent } from "/static/numbers.js";
import { call } from "/static/problem.js";
import { Trials } from "/static/trials.js";

const DRAW_MS = 250;
const AGAIN_MS = 3000;
const LIVE = ["queued", "running", "cancelling"];
const NO_PROGRESS = { trials_total: 0, trials_done: 0, fraction: 0, eta_seconds: null, best_so_far: null };

const words = dataOf("words");
const page = document.documentElement;
let job = dataOf("job");
let trials = new Trials(dataOf("trials"), { curves: true });
let [seen, due, points] = [0, 0, 0];
const path = `/v1/recommendations/${job.id}`;

// --- what the events change ---

const on = {
  status(data) {
    if (!LIVE.includes(data.status)) return; // `done` tells, together with the result
    if (data.status === "queued" || data.status === "running") {
      // A new attempt, or the first: its trials begin at step 0.
      trials = new Trials(trials.all, { curves: false });
      job.progress = NO_PROGRESS;
    }
    job.status = data.status;
    logRestart(data);
  },
  "trial.started": (data) => trials.started(data),
  "trial.metric": (data) => trials.trained(data),
  "trial.judged": (data) => trials.judged(data),
  "trial.finished": (data) => trials.finished(data),
  best: (data) => (job.progress = { ...job.progress, best_so_far: data }),
  progress: (data) => (job.progress = data),
  log: ({ text }) => log(text),
  warning: ({ text, detail }) => log(text ?? detail),
};

async function done({ status, result }) {
  Object.assign(job, { status, result });
  try {
    const [now, { data }] = await Promise.all([call(path), call(`${path}/trials`)]);
    job = now;
    trials.ended(data);
  } catch {
    // What the event told is enough to go on with.
  }
}

/** The ledger cannot go on from where this page is: take over how things stand. */
async function reset() {
  const [now, { data }] = await Promise.all([call(path), call(`${path}/trials?curve=true`)]);
  job = now;
  trials = new Trials(data, { curves: true });
}

/** An ended job is shown by the server already, but for its log. */
async function readLog() {
  for (let [after, more] = [0, true]; more; ) {
    const part = await call(`${path}/events?limit=1000&after=${after}`);
    [after, more] = [part.next, part.has_more];
    for (const { type, data } of part.data) {
      if (type === "log") on.log(data);
      if (type === "status") logRestart(data);
    }
  }
}

// --- the stream ---

function follow() {
  const stream = new EventSource(`${path}/stream?after=${seen}`);
  const hear = (kind, act) =>
    stream.addEventListener(kind, async (event) => {
      const number = Number(event.lastEventId);
      if (kind !== "reset" && number <= seen) return; // told twice after a reconnection
      seen = number || seen;
      await act(JSON.parse(event.data));
      soon();
    });
  for (const [kind, act] of Object.entries(on)) hear(kind, act);
  hear("reset", reset);
  hear("done", (data) => {
    stream.close();
    return done(data);
  });
  stream.onopen = () => connection("");
  stream.onerror = () => {
    connection("The connection is lost. Trying again; measuring goes on meanwhile.");
    // The browser tries again by itself, except where it got an answer that is no stream.
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, AGAIN_MS);
  };
}

function connection(text) {
  say(byId("connection"), text);
  byId("connection").hidden = !text;
}

// --- what is shown ---

/** Show how things stand, at most four times a second. */
function soon() {
  due ||= setTimeout(() => {
    due = 0;
    show();
  }, DRAW_MS);
}

function show() {
  const { progress, status } = job;
  const live = LIVE.includes(status);
  const share = percent(progress.fraction);
  const eta = progress.eta_seconds === null ? "" : `, about ${count(progress.eta_seconds)}\u00a0s left`;
  say(byId("status").firstElementChild, words.status[status]);
  byId("bar").value = 100 * progress.fraction;
  say(byId("told"), `${share}, ${progress.trials_done} of ${progress.trials_total} trials done${eta}`);
  if (!live && byId("going").contains(document.activeElement)) byId("status").focus();
  byId("going").hidden = !live;
  byId("trained").hidden = !live && !trials.all.length;
  points = draw(trials.all);
  showTable();
  showReason();
  if (job.result && byId("measured").hidden) showResult();
  page.dataset.state = status;
}

function showTable() {
  const best = job.progress.best_so_far?.trial;
  const rows = trials.ranked.map((one) => {
    const [step, loss] = one.judged.at(-1) ?? [];
    const judged = step === undefined ? "–" : `${figures(loss, "not finite")} at step ${count(step)}`;
    const why = one.stopped && one.stopped !== one.status ? `: ${one.stopped}` : "";
    const lowest = one.id !== undefined && one.id === best;
    return el(
      "tr",
      { class: lowest && "best" },
      el(
        "th",
        { scope: "row" },
        svg(
          "svg",
          { class: `dash s${one.index % 8}`, viewBox: "0 0 28 8", width: 28, height: 8, "aria-hidden": "true" },
          svg("path", { d: "M0 4H28" }),
        ),
        one.label,
        lowest && [" ", el("span", { class: "tag" }, "lowest")],
      ),
      el("td", { class: "number" }, judged),
      el("td", { class: "number" }, one.losses.length ? figures(one.losses.at(-1)[1], "not finite") : "–"),
      el("td", { class: "number" }, count(one.steps)),
      el("td", { class: "words" }, words.trial[one.status] + why),
    );
  });
  if (rows.length) byId("table").tBodies[0].replaceChildren(...rows);
}

function showReason() {
  const reason = job.status === "cancelled" ? null : job.status_reason;
  byId("reason").hidden = !reason;
  if (!reason) return;
  const next = words.next[reason.code] ?? words.next.other;
  byId("reason").replaceChildren(el("p", {}, reason.detail), el("p", {}, next));
}

function showResult() {
  const [was, now] = [job.advice_before, job.result];
  const [old, fresh] = [was.recommended.label, now.recommended.label];
  const [before, after] = [was, now].map(({ expected }) => percent(expected.p_beats_default));
  const sentences = [
    words.changed[now.decision.code],
    old === fresh ? `The answer is still ${fresh}.` : `The answer was ${old}, and is now ${fresh}.`,
    before === after
      ? `The odds of beating Keras’ default are still ${after}.`
      : `The odds of beating Keras’ default were ${before}, and are now ${after}.`,
    job.partial && "Measuring was cut short: this is what could be told by then.",
  ];
  byId("changed").replaceChildren(
    el("h3", {}, "What measuring changed"),
    el("p", {}, sentences.filter(Boolean).join(" ")),
  );
  renderAdvice(byId("result"), now, words, "result");
  byId("measured").hidden = false;
}

function logRestart({ reason }) {
  if (reason === "worker_lost") log("The process that worked on this was lost: it begins again.");
  if (reason === "worker_stopped") log("The worker was stopped: this begins again with the next one.");
}

function log(text) {
  byId("log").hidden = false;
  byId("lines").append(el("li", {}, text));
}

async function cancel(event) {
  event.preventDefault();
  const button = byId("cancel").querySelector("button");
  button.disabled = true;
  button.textContent = "Cancelling…";
  try {
    await call(`${path}/cancel`, { method: "POST" });
  } catch (problem) {
    connection(problem.detail);
    button.disabled = false;
    button.textContent = "Cancel";
  }
}

// For tests: how many points are drawn.
window.gradopt = { points: () => points };
byId("cancel").addEventListener("submit", cancel);
byId("plotly").addEventListener("load", soon);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
show();
if (LIVE.includes(job.status)) follow();
else readLog();
