// Filters the catalogue, and opens the entry that the address names.

import { byId, say } from "/static/dom.js";

const entries = [...document.querySelectorAll(".entry")];
const texts = entries.map((entry) => entry.textContent.toLowerCase());
const filter = byId("filter");

function search() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  entries.forEach((entry, at) => (entry.hidden = !words.every((word) => texts[at].includes(word))));
  const shown = entries.filter((entry) => !entry.hidden).length;
  say(byId("found"), words.length ? `${shown} of ${entries.length} entries` : `${entries.length} entries`);
}

function openNamed() {
  const named = entries.find((entry) => entry.id === location.hash.slice(1));
  if (!named) return;
  named.open = true;
  named.scrollIntoView();
}

filter.addEventListener("input", search);
addEventListener("hashchange", openNamed);
search();
openNamed();
