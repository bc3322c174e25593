// Pictures and words on the unit circle; two losses, their gradients, and steps downhill.

const STEP = 0.12; // radians moved by a full-length arrow

/** Softmax of a list, and the log of it, without overflow. */
function softmax(scores) {
  const top = Math.max(...scores);
  const logSum = top + Math.log(scores.reduce((sum, s) => sum + Math.exp(s - top), 0));
  return { log: scores.map((s) => s - logSum), p: scores.map((s) => Math.exp(s - logSum)) };
}

const transpose = (table) => table[0].map((_, j) => table.map((row) => row[j]));
const sum = (list) => list.reduce((total, x) => total + x, 0);

/**
 * InfoNCE in both directions for unit vectors given by their angles (radians): S_ij = cos(a_i - b_j) / τ,
 * L = ½ [mean_i -log softmax_row(S)_ii + mean_j -log softmax_col(S)_jj]; gradients with respect to the angles.
 */
export function infoNce(a, b, temperature) {
  const n = a.length;
  const scores = a.map((ai) => b.map((bj) => Math.cos(ai - bj) / temperature));
  const byRow = scores.map(softmax);
  const byColumn = transpose(scores).map(softmax);
  const loss = -sum(a.map((_, i) => byRow[i].log[i] + byColumn[i].log[i])) / (2 * n);
  const rows = byRow.map((row) => row.p);
  const columns = transpose(byColumn.map((column) => column.p));
  // dL/dS_ij = (P_row + P_col - 2 [i = j]) / 2n, and dS_ij/da_i = -sin(a_i - b_j)/τ = -dS_ij/db_j
  const flow = a.map((ai, i) =>
    b.map((bj, j) => ((rows[i][j] + columns[i][j] - 2 * (i === j)) / (2 * n)) * (-Math.sin(ai - bj) / temperature)),
  );
  return { loss, rows, columns, gradA: flow.map(sum), gradB: transpose(flow).map((column) => -sum(column)) };
}

/**
 * Margin loss over all pairs: mean over i, j of y D + (1 - y) max(0, γ - D), or with both terms squared;
 * D_ij = |a_i - b_j|, y = 1 for i = j. The gradient of D at D = 0 is defined as 0.
 */
export function marginLoss(a, b, margin, squared) {
  const n = a.length;
  const distances = a.map((ai) => b.map((bj) => 2 * Math.abs(Math.sin((ai - bj) / 2))));
  const terms = distances.map((row, i) => row.map((D, j) => (i === j ? D : Math.max(0, margin - D)) ** (squared ? 2 : 1)));
  const flow = a.map((ai, i) =>
    b.map((bj, j) => {
      const D = distances[i][j];
      if (D === 0 || (i !== j && D >= margin)) return 0;
      const outer = squared ? 2 * (i === j ? D : D - margin) : i === j ? 1 : -1;
      return (outer * Math.sin(ai - bj)) / D / n ** 2; // dD/da_i = sin(a_i - b_j) / D = -dD/db_j
    }),
  );
  const loss = sum(terms.flat()) / n ** 2;
  return { loss, distances, terms, gradA: flow.map(sum), gradB: transpose(flow).map((column) => -sum(column)) };
}

/** The loss that the model's state asks for, with arrows: downhill, in units that stay on the page. */
function evaluate(model) {
  const angles = model.get("angles");
  const n = angles.length / 2;
  const [a, b] = [angles.slice(0, n), angles.slice(n)];
  const nce = model.get("loss") === "info_nce";
  const temperature = model.get("temperature");
  const squared = model.get("squared");
  const result = nce ? infoNce(a, b, temperature) : marginLoss(a, b, model.get("margin"), squared);
  const unit = nce ? (temperature * n) / 2 : n ** 2 / (squared ? 4 : 2);
  const arrows = [...result.gradA, ...result.gradB].map((g) => -g * unit);
  return { ...result, arrows };
}

const degrees = (angle) => ((Math.round((angle * 180) / Math.PI) % 360) + 360) % 360;
const at = (angle, radius) => [radius * Math.cos(angle), -radius * Math.sin(angle)];

/** One point: its mark on the ring, its picture or word, its arrow; moved by arrow keys. */
function makePoint({ name, modality, picture, onMove }) {
  const mark =
    modality === "image"
      ? svg("circle", { r: 6.5 })
      : svg("rect", { x: -5.5, y: -5.5, width: 11, height: 11, transform: "rotate(45)" });
  mark.setAttribute("fill", modalityColour(modality));
  const label = picture
    ? svg("image", { href: picture, x: -15, y: -15, width: 30, height: 30 })
    : svg("text", { "dominant-baseline": "central" }, name);
  const arrow = svg("path", { class: "mmt-arrow" });
  const handle = svg("circle", { r: 17, class: "mmt-handle" });
  const head = svg("g", {}, handle, mark);
  const kind = modality === "image" ? "picture" : "word";
  const node = svg("g", { class: "mmt-point", role: "slider", tabindex: 0, "aria-label": `${kind} ${name}` }, label, head);
  node.setAttribute("aria-valuemin", 0);
  node.setAttribute("aria-valuemax", 360);
  keepKeys(node);

  let angle = 0;
  const moves = { ArrowLeft: 2, ArrowUp: 2, ArrowRight: -2, ArrowDown: -2, PageUp: 15, PageDown: -15 };
  node.addEventListener("keydown", (event) => {
    if (!(event.key in moves)) return;
    event.preventDefault();
    onMove(angle + (moves[event.key] * Math.PI) / 180);
  });

  const place = (newAngle, strength) => {
    angle = newAngle;
    const [x, y] = at(angle, 100);
    head.setAttribute("transform", `translate(${x} ${y})`);
    const [labelX, labelY] = at(angle, picture ? 76 : 114);
    label.setAttribute("transform", `translate(${labelX} ${labelY})`);
    if (!picture) label.setAttribute("text-anchor", labelX > 25 ? "start" : labelX < -25 ? "end" : "middle");
    const length = 60 * Math.max(-1, Math.min(1, strength)); // along the tangent, anticlockwise if positive
    const [tx, ty] = [-Math.sin(angle), -Math.cos(angle)];
    const [endX, endY] = [x + tx * length, y + ty * length];
    const tip = Math.sign(length) * Math.min(7, Math.abs(length));
    const wing = (side) => `${endX - tx * tip + side * ty * tip * 0.55} ${endY - ty * tip - side * tx * tip * 0.55}`;
    const drawn = Math.abs(length) < 0.8 ? "" : `M${x} ${y}L${endX} ${endY}M${wing(1)}L${endX} ${endY}L${wing(-1)}`;
    arrow.setAttribute("d", drawn);
    node.setAttribute("aria-valuenow", degrees(angle));
    node.setAttribute("aria-valuetext", `${degrees(angle)} degrees`);
  };
  return { node, arrow, place };
}

/** Drag points with mouse or finger: the mark nearest to the pointer is taken, or the picture or word under it. */
function makeDraggable(circle, points, getAngles, onMove) {
  let dragged = -1;
  const fromPointer = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(circle.getScreenCTM().inverse());
  circle.addEventListener("pointerdown", (event) => {
    const { x, y } = fromPointer(event);
    const gaps = getAngles().map((angle) => Math.hypot(at(angle, 100)[0] - x, at(angle, 100)[1] - y));
    const nearest = gaps.indexOf(Math.min(...gaps));
    dragged = gaps[nearest] < 20 ? nearest : points.findIndex((point) => point.node.contains(event.target));
    if (dragged < 0) return;
    circle.setPointerCapture(event.pointerId);
    points[dragged].node.focus({ preventScroll: true });
    event.preventDefault();
  });
  circle.addEventListener("pointermove", (event) => {
    const { x, y } = fromPointer(event);
    if (dragged >= 0) onMove(dragged, Math.atan2(-y, x));
  });
  for (const end of ["pointerup", "pointercancel"]) circle.addEventListener(end, () => (dragged = -1));
}

async function render({ model, el }) {
  el.classList.add("mmt", "mmt-playground");
  const names = model.get("names");
  const n = names.length;
  const nce = model.get("loss") === "info_nce";
  const sprite = await loadSprite(model.get("sprite"), model.get("sprite_size"), model.get("sprite_columns"));

  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  const move = (k, angle) => set({ angles: model.get("angles").map((old, i) => (i === k ? angle : old)) });
  const circle = svg("svg", { viewBox: "-148 -128 296 256", role: "group", "aria-label": "The unit circle, the shared space" });
  circle.append(svg("circle", { r: 100, class: "mmt-ring" }));
  const pairLines = names.map(() => circle.appendChild(svg("line", { class: "mmt-pair" })));
  const points = Array.from({ length: 2 * n }, (_, k) => {
    const picture = k < n ? thumbnail(sprite, k, 32).toDataURL() : null;
    return makePoint({ name: names[k % n], modality: k < n ? "image" : "text", picture, onMove: (angle) => move(k, angle) });
  });
  makeDraggable(circle, points, () => model.get("angles"), move);
  circle.append(...points.map((point) => point.node), ...points.map((point) => point.arrow));

  const value = element("span", { class: "mmt-loss" });
  const scale = element("span", { class: "mmt-muted" });
  const tables = element("div", { class: "mmt-tables" });
  const status = liveText("mmt-status mmt-hidden");

  const knob = nce
    ? slider({
        label: "temperature τ", min: -1.7, max: 0.3, step: 0.02, value: Math.log10(model.get("temperature")),
        show: (v) => (10 ** v).toFixed(2), onInput: (v) => set({ temperature: 10 ** v }),
      })
    : slider({
        label: "margin γ", min: 0.1, max: 2, step: 0.05, value: model.get("margin"),
        show: (v) => v.toFixed(2), onInput: (v) => set({ margin: v }),
      });
  const takeStep = () => set({ angles: model.get("angles").map((angle, k) => angle + STEP * evaluate(model).arrows[k]) });
  let running = null;
  const stop = () => {
    if (running) running.stop();
    running = null;
    run.textContent = "Run 80 steps";
  };
  const start = () => {
    if (reducedMotion()) {
      for (let i = 0; i < 80; i++) takeStep();
      return;
    }
    let done = 0;
    run.textContent = "Stop";
    running = animate((time) => {
      for (; done < Math.min(80, time / 40); done++) takeStep();
      if (done < 80) return true;
      stop();
      return false;
    });
  };
  const run = button("Run 80 steps", () => (running ? stop() : start()));
  const opening = model.get("angles");
  const controls = [button("One step downhill", takeStep), run, button("Start again", () => { stop(); set({ angles: opening }); })];
  if (!nce) controls.push(checkbox("squared", model.get("squared"), (on) => set({ squared: on })).node);

  const draw = () => {
    const result = evaluate(model);
    const angles = model.get("angles");
    points.forEach((point, k) => point.place(angles[k], result.arrows[k]));
    pairLines.forEach((line, i) => {
      const [[x1, y1], [x2, y2]] = [at(angles[i], 100), at(angles[n + i], 100)];
      fill(line, { x1, y1, x2, y2 }, []);
    });
    value.textContent = result.loss.toFixed(3);
    scale.textContent = nce ? `0 when certain · log ${n} = ${Math.log(n).toFixed(2)} when nothing is known` : "0 when every pair is where it should be";
    tables.replaceChildren(...(nce ? probabilityTables(names, result) : distanceTables(names, result, model.get("margin"))));
    knob.set(nce ? Math.log10(model.get("temperature")) : model.get("margin"));
    status.say(`Loss ${result.loss.toFixed(3)}. ${strongest(names, result.arrows)}`);
  };
  const traits = ["angles", "temperature", "margin", "squared"];
  traits.forEach((trait) => model.on(`change:${trait}`, draw));

  const invite = nce
    ? invitation("drag the points, or slide τ up to 1.", "The apple and the car sit beside their words. Why do they begin to move when τ grows?")
    : invitation("drag the points, or slide the margin.", "A wrong pair farther apart than γ exerts no push at all. Which arrows are left when γ is small?");
  const legend = element("p", { class: "mmt-legend" },
    swatch("image"), " picture ", swatch("text"), " word ", element("span", { class: "mmt-muted" },
      nce ? "arrows: downhill, −τ ∂L/∂θ" : "arrows: downhill, −∂L/∂θ, dashes: true pairs"));
  const side = element("div", { class: "mmt-side" },
    element("p", { class: "mmt-value" }, "loss ", value, element("br"), scale), tables);
  el.append(
    invite,
    element("div", { class: "mmt-columns" }, element("div", { class: "mmt-stage" }, circle, legend), side),
    element("div", { class: "mmt-controls" }, knob.node, ...controls),
    status.node,
  );
  draw();
  return () => {
    stop();
    traits.forEach((trait) => model.off(`change:${trait}`, draw));
  };
}

function strongest(names, arrows) {
  const k = arrows.reduce((best, x, i) => (Math.abs(x) > Math.abs(arrows[best]) ? i : best), 0);
  return `The largest gradient is at the ${k < names.length ? "picture" : "word"} ${names[k % names.length]}.`;
}

const heads = (modality, names) => names.map((name) => [swatch(modality), ` ${name}`]);

function probabilityTables(names, { rows, columns }) {
  const table = (caption, p) =>
    matrix({
      caption, rows: heads("image", names), columns: heads("text", names),
      text: (i, j) => p[i][j].toFixed(2), shade: (i, j) => p[i][j], mark: (i, j) => i === j,
    });
  return [
    table("P(word | picture): each row sums to 1", rows),
    table("P(picture | word): each column sums to 1", columns),
  ];
}

function distanceTables(names, { distances, terms }, margin) {
  const largest = Math.max(...terms.flat(), 1e-9);
  return [
    matrix({
      caption: "Distance; shaded: its share of the loss",
      rows: heads("image", names), columns: heads("text", names),
      text: (i, j) => distances[i][j].toFixed(2), shade: (i, j) => terms[i][j] / largest, mark: (i, j) => i === j,
    }),
    element("p", { class: "mmt-muted" }, `Wrong pairs farther apart than ${margin.toFixed(2)} cost nothing.`),
  ];
}

export default { render };
