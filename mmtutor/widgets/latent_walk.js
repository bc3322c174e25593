// A map of generated things, each in several views: the reader walks, the views change.

const SIZE = 32; // of a picture on the sheet
const FADE = 140; // milliseconds from one place to the next

/** Where an arrow key leads from [row, column], or null for another key. */
export function step(key, [row, column], [rows, columns]) {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -columns], End: [0, columns], PageUp: [-rows, 0], PageDown: [rows, 0] };
  if (!(key in moves)) return null;
  const within = (x, most) => Math.max(0, Math.min(most - 1, x));
  return [within(row + moves[key][0], rows), within(column + moves[key][1], columns)];
}

function inWords(state) {
  const k = state.row * state.shape[1] + state.column;
  return `Row ${state.row + 1} of ${state.shape[0]}, column ${state.column + 1} of ${state.shape[1]}. The nearest thing learnt is ${state.names[state.nearest[k]]}, ${state.apart[k].toFixed(2)} away.`;
}

async function render({ model, el }) {
  el.classList.add("mmt", "mmt-walk");
  const names = ["views", "shape", "names", "nearest", "apart", "row", "column"];
  const state = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const { views, shape: [rows, columns] } = state();
  const sprite = await loadSprite(model.get("pictures"), SIZE, model.get("sheet_columns"));
  const place = (view, row, column) => view * rows * columns + row * columns + column;
  const go = ([row, column]) => {
    if (row === model.get("row") && column === model.get("column")) return;
    model.set("row", row);
    model.set("column", column);
    model.save_changes();
  };

  const map = element("canvas", { class: "mmt-map", "aria-hidden": "true" });
  map.width = columns * SIZE;
  map.height = rows * SIZE;
  const ink = map.getContext("2d");
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) sprite.draw(ink, place(0, r, c), c * SIZE, r * SIZE, SIZE);
  const ring = element("div", { class: "mmt-ring", style: `width:${100 / columns}%;height:${100 / rows}%` });
  const ground = keepKeys(element("div", { class: "mmt-ground", tabindex: "0", role: "slider", "aria-label": "place on the map", "aria-valuemin": "1", "aria-valuemax": rows * columns }, map, ring));

  const large = views.map((name) => {
    const canvas = element("canvas", { class: "mmt-large", "aria-hidden": "true" });
    canvas.width = canvas.height = 5 * SIZE;
    return { canvas, node: element("figure", {}, canvas, element("figcaption", {}, name)) };
  });
  const twin = element("canvas", { class: "mmt-twin", "aria-hidden": "true" });
  twin.width = twin.height = 3 * SIZE;
  const twinName = element("figcaption");
  const status = liveText();

  let fading = null;
  const paint = (canvas, from, to, share) => {
    const pen = canvas.getContext("2d");
    pen.globalAlpha = 1;
    sprite.draw(pen, from, 0, 0, canvas.width);
    pen.globalAlpha = share;
    sprite.draw(pen, to, 0, 0, canvas.width);
  };
  let before = [model.get("row"), model.get("column")];
  const draw = () => {
    const now = state();
    const at = [now.row, now.column];
    const k = now.row * columns + now.column;
    ring.style.left = `${(100 * now.column) / columns}%`;
    ring.style.top = `${(100 * now.row) / rows}%`;
    ground.setAttribute("aria-valuenow", k + 1);
    ground.setAttribute("aria-valuetext", inWords(now));
    const learnt = place(views.length, 0, 0) + now.nearest[k];
    sprite.draw(twin.getContext("2d"), learnt, 0, 0, twin.width);
    twinName.textContent = `nearest learnt: ${now.names[now.nearest[k]]}, ${now.apart[k].toFixed(2)} away`;
    status.say(inWords(now));
    fading?.stop();
    const from = before;
    const show = (share) => large.forEach(({ canvas }, v) => paint(canvas, place(v, ...from), place(v, ...at), share));
    if (reducedMotion()) show(1);
    else {
      fading = animate((time) => {
        show(Math.min(1, time / FADE));
        return time < FADE;
      });
    }
    before = at;
  };

  const under = (event) => {
    const box = map.getBoundingClientRect();
    const cell = (x, start, length, count) => Math.max(0, Math.min(count - 1, Math.floor(((x - start) / length) * count)));
    return [cell(event.clientY, box.top, box.height, rows), cell(event.clientX, box.left, box.width, columns)];
  };
  ground.addEventListener("pointerdown", (event) => {
    ground.setPointerCapture(event.pointerId);
    ground.focus({ preventScroll: true });
    go(under(event));
    event.preventDefault();
  });
  ground.addEventListener("pointermove", (event) => {
    if (ground.hasPointerCapture(event.pointerId)) go(under(event));
  });
  ground.addEventListener("keydown", (event) => {
    const to = step(event.key, [model.get("row"), model.get("column")], [rows, columns]);
    if (!to) return;
    event.preventDefault();
    go(to);
  });
  for (const name of ["row", "column"]) model.on(`change:${name}`, draw);
  el.append(
    invitation("walk over the map, by arrow keys or by dragging.", "Both views are drawn from the same noise: does anything ever change in one of them alone?"),
    element("div", { class: "mmt-scene" }, ground, element("div", { class: "mmt-both" }, ...large.map(({ node }) => node), element("figure", { class: "mmt-known" }, twin, twinName))),
    status.node);
  draw();
  return () => {
    fading?.stop();
    for (const name of ["row", "column"]) model.off(`change:${name}`, draw);
  };
}

export default { render };
