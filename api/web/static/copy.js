// Copy buttons: `data-copy` names the element whose text they take, or whose address if it is a link.

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  const label = (button.dataset.label ??= button.textContent);
  try {
    await navigator.clipboard.writeText(source.href ?? source.textContent);
    button.textContent = "Copied";
  } catch {
    // No clipboard over plain HTTP or without permission: select it, so that the keyboard can.
    getSelection().selectAllChildren(source);
    button.textContent = "Selected: press Ctrl+C or ⌘C";
  }
  setTimeout(() => (button.textContent = label), 3000);
});
