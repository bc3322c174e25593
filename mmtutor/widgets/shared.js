// Helpers that every widget of the book uses. The text of this file stands in front of each widget's own
// file, so nothing has to be imported and there is no build step.

const SVG = "http://www.w3.org/2000/svg";

/** Make an HTML element: element("button", { onclick: step }, "Step"). A string child is text, never markup. */
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element in the same way. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Keep JupyterLab from taking this element's arrow and letter keys for its own shortcuts. */
function keepKeys(node) {
  node.setAttribute("data-lm-suppress-shortcuts", "true");
  return node;
}

function button(label, onclick) {
  return keepKeys(element("button", { type: "button", onclick }, label));
}

/** A labelled slider that shows its value in words. `show(value)` makes those words, `onInput(value)` hears changes. */
function slider({ label, min, max, step, value, show, onInput }) {
  const input = keepKeys(element("input", { type: "range", min, max, step }));
  const output = element("output");
  const set = (number) => {
    input.value = number;
    output.textContent = show(number);
    input.setAttribute("aria-valuetext", show(number));
  };
  input.addEventListener("input", () => {
    set(Number(input.value));
    onInput(Number(input.value));
  });
  set(value);
  const node = element("label", { class: "mmt-slider" }, element("span", {}, label), input, output);
  return { node, input, set };
}

function checkbox(label, checked, onChange) {
  const input = keepKeys(element("input", { type: "checkbox" }));
  input.checked = checked;
  input.addEventListener("change", () => onChange(input.checked));
  return { node: element("label", { class: "mmt-check" }, input, label), input };
}

function select(label, options, value, onChange) {
  const input = keepKeys(element("select"));
  options.forEach((option, i) => input.append(element("option", { value: i }, option)));
  input.value = value;
  input.addEventListener("change", () => onChange(Number(input.value)));
  return { node: element("label", {}, element("span", {}, label), " ", input), input };
}

/** A line that screen readers speak when it changes; it waits until the changes stop. */
function liveText(className = "mmt-status") {
  const node = element("p", { class: className, "aria-live": "polite" });
  let timer;
  const say = (text) => {
    clearTimeout(timer);
    timer = setTimeout(() => (node.textContent = text), 150);
  };
  return { node, say };
}

/** The line that says what to try, and the question that the widget asks. */
function invitation(tryThis, question) {
  return element("p", { class: "mmt-try" }, element("b", {}, "Try: "), tryThis + " ", element("em", {}, question));
}

/** Read an array that Python sent as bytes: numbers(model.get("positions"), Uint16Array). */
function numbers(view, Type) {
  return new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

/** Load a sheet of equal square pictures, `columns` in a row; `draw` puts picture `i` on a canvas. */
async function loadSprite(view, size, columns) {
  const sheet = new Image();
  const address = URL.createObjectURL(new Blob([view]));
  sheet.src = address;
  await sheet.decode();
  URL.revokeObjectURL(address);
  return {
    draw(context, i, x, y, width) {
      const [left, top] = [(i % columns) * size, Math.floor(i / columns) * size];
      context.drawImage(sheet, left, top, size, size, x, y, width, width);
    },
  };
}

/** One picture of a sheet as an element of its own; its name stands beside it, so readers' software skips it. */
function thumbnail(sprite, i, width) {
  const node = element("canvas", { class: "mmt-thumb", "aria-hidden": "true", style: `width:${width}px;height:${width}px` });
  node.width = node.height = 2 * width;
  sprite.draw(node.getContext("2d"), i, 0, 0, 2 * width);
  return node;
}

/** The book's colour of a modality, as a CSS value. */
function modalityColour(modality) {
  return `var(--mmt-${modality}, var(--mmt-ink))`;
}

/** A swatch of a modality: pictures are discs, words diamonds, anything else a square, so colour is not all. */
function swatch(modality) {
  return element("span", { class: `mmt-swatch mmt-${modality}`, style: `background:${modalityColour(modality)}`, "aria-hidden": "true" });
}

function reducedMotion() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Call `draw(timeInMs)` on every frame until it returns false or `stop()` is called. */
function animate(draw) {
  let frame;
  const start = performance.now();
  const tick = (now) => {
    if (draw(now - start) !== false) frame = requestAnimationFrame(tick);
  };
  frame = requestAnimationFrame(tick);
  return { stop: () => cancelAnimationFrame(frame) };
}

/** Call `redraw` when the page turns light or dark (the book's site, JupyterLab, or the system). */
function onThemeChange(redraw) {
  const observer = new MutationObserver(redraw);
  const watched = { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light", "class"] };
  for (const node of [document.documentElement, document.body]) observer.observe(node, watched);
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", redraw);
  return () => {
    observer.disconnect();
    system.removeEventListener("change", redraw);
  };
}

/** A small matrix as a table: heads of rows and columns are lists of text and elements; `shade(i, j)` is in 0..1. */
function matrix({ caption, rows, columns, text, shade, mark }) {
  const head = element("tr", {}, element("td"), ...columns.map((name) => element("th", { scope: "col" }, ...name)));
  const body = rows.map((name, i) => {
    const cells = columns.map((_, j) => {
      const cell = element("td", { style: `--mmt-shade:${(100 * shade(i, j)).toFixed(0)}%` }, text(i, j));
      if (mark(i, j)) cell.classList.add("mmt-true");
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row" }, ...name), ...cells);
  });
  return element("table", { class: "mmt-matrix" }, element("caption", {}, caption), head, ...body);
}
