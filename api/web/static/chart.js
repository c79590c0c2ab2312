// Draws the loss curves, and the learning rates below them, with plotly; colours come from the style sheet, so they follow dark mode.

import { byId } from "/static/dom.js";

// Points that a cooldown is drawn with, and the part of the height that the rates have.
const COOLING = 16;
const RATES = 0.24;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px,2px", "2px,6px"];
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

/** Draw the curves of trials; nothing happens before plotly is loaded. Returns how many losses were drawn. */
export function draw(trials) {
  if (!window.Plotly) return 0;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const painted = trials.map((one) => ({ ...one, color: colour(`--series-${one.index % 8}`) }));
  const losses = painted.flatMap(lossesOf);
  const rates = byId("rates").checked ? painted.flatMap(ratesOf) : [];
  const values = losses.flatMap((trace) => trace.y);
  const axis = { gridcolor: colour("--line"), linecolor: colour("--quiet"), zeroline: false, automargin: true };
  // On a narrow screen the table below, which has the same lines and dashes, is the legend.
  const wide = byId("chart").clientWidth > 560;
  window.Plotly.react(
    byId("chart"),
    [...losses, ...rates],
    {
      height: (wide ? 460 : 340) + (rates.length ? 120 : 0),
      margin: { l: 8, r: 8, t: 34, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--text"), family: "system-ui, sans-serif", size: 13 },
      hoverlabel: { bgcolor: colour("--raised"), font: { color: colour("--text") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--accent") },
      showlegend: wide,
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, xanchor: "left" },
      xaxis: { ...axis, title: { text: "steps" }, rangemode: "tozero", anchor: rates.length ? "y2" : "y" },
      yaxis: { ...axis, title: { text: "loss" }, ...scale(values), domain: [rates.length ? RATES + 0.06 : 0, 1] },
      yaxis2: { ...axis, title: { text: "rate" }, type: "log", tickformat: "~g", dtick: 1, domain: [0, RATES] },
      uirevision: "kept", // zoom and hidden lines survive an update
    },
    CONFIG,
  );
  return values.length;
}

function lossesOf({ index, label, diverged, losses, judged, color }) {
  const finite = (points) => points.filter(([, y]) => y !== null);
  const along = finite(losses);
  const shared = { legendgroup: label, hovertemplate: "%{y:.4g} at step %{x}" };
  const traces = [];
  if (along.length) {
    traces.push({
      ...shared, ...xy(along), mode: "lines", name: diverged ? `${label} (diverged)` : label,
      line: { color, width: 2, dash: DASHES[index % DASHES.length] },
    });
  }
  const after = finite(judged);
  if (after.length) {
    traces.push({
      ...shared, ...xy(after), mode: "markers", name: `${label}, validation`, showlegend: !along.length,
      marker: { color, size: 11, symbol: "diamond", line: { color: "rgba(128,128,128,.9)", width: 1 } },
    });
  }
  if (diverged && along.length) {
    traces.push({
      ...shared, ...xy([along.at(-1)]), mode: "markers", name: `${label}, diverged after this`, showlegend: false,
      marker: { color, size: 13, symbol: "x-thin", line: { color, width: 3 } },
    });
  }
  return traces;
}

// The rate stays; each copy that is judged goes on from it to its last step in a straight line towards 0.
function ratesOf({ index, label, losses, cooled, rate, color }) {
  if (!losses.length || !(rate > 0)) return [];
  const points = [[0, rate], [losses.at(-1)[0], rate]];
  for (const [from, to] of cooled) {
    points.push([null, null]); // a gap in the line
    const steps = to - from;
    const parts = Math.min(COOLING, steps);
    for (let part = 0; part <= parts; part += 1) {
      const done = Math.round(((steps - 1) * part) / parts);
      points.push([from + done, rate * (1 - done / steps)]);
    }
  }
  return [{
    ...xy(points), yaxis: "y2", mode: "lines", name: `${label}, learning rate`, legendgroup: label, showlegend: false,
    line: { color, width: 2, dash: DASHES[index % DASHES.length] }, hovertemplate: "rate %{y:.3g} at step %{x}",
  }];
}

// Some losses, such as cosine similarity, are negative: they have no logarithm.
function scale(values) {
  const least = values.reduce((one, other) => Math.min(one, other), Infinity);
  const most = values.reduce((one, other) => Math.max(one, other), 0);
  if (!(least > 0)) return { type: "linear" };
  const decades = Math.log10(most / least);
  // Ticks at 1, 2 and 5 of each decade; plotly's own choice is better below one decade and above three.
  return { type: "log", tickformat: "~g", dtick: decades > 1 && decades < 3 ? "D2" : undefined };
}

const xy = (points) => ({ x: points.map(([x]) => x), y: points.map(([, y]) => y) });
