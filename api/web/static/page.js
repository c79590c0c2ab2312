// Takes over what the server renders anew, and leaves alone what the person does on the page.

import { byId, say } from "/static/dom.js";
import { ask } from "/static/server.js";

/** A page's `main`, and `movedTo` if it lies elsewhere; null if none comes, as the banner then says. */
export async function load(path, options) {
  try {
    const answer = await ask(path, options);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    tell("");
    return { main: page.getElementById("main"), movedTo: answer.redirected ? answer.url : null };
  } catch (error) {
    tell(error.message);
    return null;
  }
}

/** Tell in the banner what is in the way; nothing takes the banner away. */
export function tell(text) {
  say(byId("connection"), text);
  byId("connection").hidden = !text;
}

/** Make the page that is shown like one that was loaded; what has `data-kept` is a script's own. */
export const update = (main) => liken(byId("main"), main);

// With as few changes as may be: a node that stays keeps focus, caret and scrolling.
function liken(node, wanted) {
  if (node.isEqualNode(wanted) || node.dataset?.kept !== undefined) return;
  if (node.nodeType !== Node.ELEMENT_NODE) {
    node.nodeValue = wanted.nodeValue;
    return;
  }
  for (const name of [...node.getAttributeNames(), ...wanted.getAttributeNames()]) {
    if (isThePersons(node, name)) continue;
    const value = wanted.getAttribute(name);
    if (value === null) node.removeAttribute(name);
    else if (value !== node.getAttribute(name)) node.setAttribute(name, value);
  }
  likenChildren(node, wanted);
}

function likenChildren(node, wanted) {
  let next = node.firstChild;
  for (const child of [...wanted.childNodes]) {
    let found = next;
    while (found && kindOf(found) !== kindOf(child)) found = found.nextSibling;
    if (found) {
      while (next !== found) next = without(next);
      next = found.nextSibling;
      liken(found, child);
    } else {
      node.insertBefore(child, next);
    }
  }
  while (next) next = without(next);
}

function without(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

// Only nodes of one kind are made alike.
const kindOf = (node) => `${node.nodeName} ${node.id || node.getAttribute?.("class") || ""}`;

// What a person types, chooses or opens.
const isThePersons = (node, name) =>
  ["checked", "selected", "open"].includes(name) || (name === "value" && node.localName === "input");
