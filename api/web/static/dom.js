// Finds elements, and says things in them.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** Set text only where it differs: a live region then speaks up only when something changed. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
