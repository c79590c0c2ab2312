// Filters the catalogue, and opens the entry that the address names.

import { byId, say } from "/static/dom.js";

const entries = [...document.querySelectorAll(".entry")];
const texts = entries.map((entry) => entry.textContent.toLowerCase());
const [filter, family] = [byId("filter"), byId("family")];

function search() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  entries.forEach((entry, at) => {
    const wanted = !family.value || entry.dataset.family === family.value;
    entry.hidden = !wanted || !words.every((word) => texts[at].includes(word));
  });
  for (const section of document.querySelectorAll("main > section")) {
    section.hidden = !section.querySelector(".entry:not([hidden])");
  }
  const shown = entries.filter((entry) => !entry.hidden).length;
  say(byId("found"), shown < entries.length ? `${shown} of ${entries.length} entries` : `${entries.length} entries`);
}

function openNamed() {
  const named = entries.find((entry) => entry.id === location.hash.slice(1));
  if (!named) return;
  named.open = true;
  named.scrollIntoView();
}

filter.addEventListener("input", search);
family.addEventListener("input", search);
addEventListener("hashchange", openNamed);
search();
openNamed();
