// Makes elements. Text goes in as text nodes only, so nothing in it can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (false and null are left out) and children (nodes or text). */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** What the server wrote into a data block of the page. */
export const dataOf = (id) => JSON.parse(byId(id).textContent);

/** Set text only where it differs: a live region then speaks up only when something changed. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}
