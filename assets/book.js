// A few lines that the theme and the notebook outputs need: names for screen readers, marks for claims.

document.addEventListener("DOMContentLoaded", () => {
  // The theme names these buttons otherwise than by what they show.
  for (const button of document.querySelectorAll(".search-button-field")) button.removeAttribute("aria-label");
  for (const icon of document.querySelectorAll(".theme-switch")) icon.removeAttribute("title");

  // The brand block stands outside of every landmark.
  const brand = document.querySelector(".bd-sidebar-primary .navbar-brand")?.parentElement;
  brand?.setAttribute("role", "region");
  brand?.setAttribute("aria-label", "Title");

  // References stand in a list, but do not say that they are its items.
  for (const item of document.querySelectorAll(".citation-list > .citation")) item.setAttribute("role", "listitem");

  // What scrolls sideways can be scrolled by keyboard.
  for (const block of document.querySelectorAll("div.highlight pre, .cell_output pre, .mm-scroll, .mm-entry pre")) {
    block.tabIndex = 0;
  }

  // A link to an entry of the reference unfolds it.
  const unfold = () => {
    const entry = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (entry?.matches("details.mm-entry")) entry.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();

  // A line that begins with a check mark is a claim that held.
  for (const output of document.querySelectorAll(".cell_output .output.stream")) {
    if (output.textContent.trim().startsWith("✓")) output.classList.add("mm-claims");
  }

  // A folded cell is named by the words on it, and one that solves an exercise says so.
  for (const fold of document.querySelectorAll(".cell summary")) fold.removeAttribute("aria-label");
  for (const word of document.querySelectorAll('.cell[class*="tag_solution"] summary *')) {
    word.textContent = word.textContent.replace("code cell content", "solution");
  }

  // Wide tables scroll in a frame of their own.
  let tables = 0;
  for (const table of document.querySelectorAll("article table:not(.mm-scroll table, .mmt-page table)")) {
    const frame = document.createElement("div");
    frame.className = "mm-scroll";
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", table.caption?.textContent || `Table ${++tables}`);
    table.replaceWith(frame);
    frame.append(table);
  }
});
