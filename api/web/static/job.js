// A job's page: follows its events to the end. The server renders all of it but the chart and the log.

import { draw } from "/static/chart.js";
import { byId } from "/static/dom.js";
import { load, tell, update } from "/static/page.js";

const SHOW_MS = 500;
const AGAIN_MS = 3000;
const RESTARTS = {
  worker_lost: "The process that worked on this was lost: it begins again.",
  worker_stopped: "The worker was stopped: this begins again with the next one.",
};

const curves = new Map(); // by the trial's index
let [seen, points, changed, showing] = [0, 0, false, false];

// --- what the events tell ---

const on = {
  status({ status, reason }) {
    if (status === "queued" || status === "running") curves.clear(); // an attempt begins at step 0
    if (reason in RESTARTS) log(RESTARTS[reason]);
  },
  "trial.started": ({ index, label }) => (curve(index).label = label),
  "trial.metric"({ index, points: fresh, loss, lr }) {
    curve(index).losses.push(...fresh);
    curve(index).rate = lr;
    curve(index).diverged ||= loss === null;
  },
  "trial.judged"({ index, step, val_loss, cooled_from: from }) {
    curve(index).judged.push([step, val_loss]);
    if (from < step) curve(index).cooled.push([from, step]);
  },
  "trial.finished"() {},
  progress() {},
  log: ({ text }) => log(text),
  done() {},
};

function curve(index) {
  const blank = { index, label: `trial ${index}`, losses: [], judged: [], cooled: [], rate: null, diverged: false };
  if (!curves.has(index)) curves.set(index, blank);
  return curves.get(index);
}

function log(text) {
  const line = document.createElement("li");
  line.textContent = text;
  byId("lines").append(line);
  byId("log").hidden = false;
}

function follow() {
  const stream = new EventSource(`/v1${location.pathname}/stream?after=${seen}`);
  for (const [kind, take] of Object.entries(on)) {
    stream.addEventListener(kind, ({ data, lastEventId }) => {
      if (Number(lastEventId) <= seen) return; // told twice after a reconnection
      seen = Number(lastEventId);
      take(JSON.parse(data));
      if (kind === "done") stream.close();
      soon();
    });
  }
  // The ledger cannot go on from where this page is.
  stream.addEventListener("reset", () => location.reload());
  stream.onopen = () => tell("");
  stream.onerror = () => {
    tell("The connection is lost. Trying again; measuring goes on meanwhile.");
    // The browser tries again by itself, except where it got an answer that is no stream.
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, AGAIN_MS);
  };
}

// --- what is shown ---

/** Show how things stand, at most twice a second. */
async function soon() {
  changed = true;
  if (showing) return;
  showing = true;
  while (changed) {
    changed = false;
    points = draw([...curves.values()].sort((one, other) => one.index - other.index));
    const shown = byId("going").hidden || (await showAnew()); // an ended job's page stays
    changed ||= !shown;
    await new Promise((go) => setTimeout(go, shown ? SHOW_MS : AGAIN_MS));
  }
  showing = false;
}

async function showAnew() {
  const page = await load(location.pathname + location.search);
  if (!page) return false;
  const stopping = byId("going").contains(document.activeElement);
  update(page.main);
  if (stopping && byId("going").hidden) byId("status").focus();
  tellState();
  return true;
}

const tellState = () => (document.documentElement.dataset.state = byId("status").dataset.state);

async function cancel(event) {
  event.preventDefault();
  if (await load(event.target.action, { method: "POST" })) soon();
}

/** Sort the table: the address holds the order, so the link keeps it. */
function sort(event) {
  event.preventDefault();
  history.replaceState(null, "", `?sort=${event.submitter.value}`);
  showAnew();
}

// For tests: how many points are drawn.
window.gradopt = { points: () => points };
byId("cancel").addEventListener("submit", cancel);
byId("sorting").addEventListener("submit", sort);
byId("plotly").addEventListener("load", soon);
byId("rates").addEventListener("change", soon);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
tellState();
follow();
