// Two linear encoders with one weight each, and the slopes of a contrast that is shared between machines.

const WAYS = { all: "all candidates", own: "own part's candidates alone", detached: "all, other parts' without a gradient" };
const PARTS = [2, 4, 8];
const [TEMPERATURE, MOST_WEIGHT, MOST_STEPS] = [0.2, 1.3, 600];
const RATE = 0.5 * TEMPERATURE;
const [LEAST_MOVE, GRID] = [2e-5, 13]; // a step that no longer counts; arrows in a row

const sum = (list) => list.reduce((total, v) => total + v, 0);
const within = (most, v) => Math.max(-most, Math.min(most, v));
const fixed = (v, places = 2) => {
  const text = v.toFixed(places);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
};

/** Angles of both embeddings of every pair, 0 for the point where all are if the weights are zero. */
function angles({ x, rest, correlation, weights: [a, b] }) {
  const y = x.map((v, i) => correlation * v + Math.sqrt(1 - correlation ** 2) * rest[i]);
  return { y, first: x.map((v) => Math.atan(a * v)), second: y.map((v) => Math.atan(b * v)) };
}

/** Softmax of those scores of a row that count, zero elsewhere, and the logarithm of their sum. */
function softmax(scores, counts) {
  const top = Math.max(...scores);
  const weights = scores.map((s, j) => (counts[j] ? Math.exp(s - top) : 0));
  const total = sum(weights);
  return { p: weights.map((w) => w / total), log: top + Math.log(total) };
}

/** What the page shows, as Python's values(). */
export function values(state) {
  const { x, weights: [a, b], way, parts } = state;
  const { y, first, second } = angles(state);
  const n = x.length;
  const part = (i) => Math.floor((i * parts) / n);
  const scores = first.map((u) => second.map((v) => Math.cos(u - v) / TEMPERATURE));
  const turned = second.map((_, j) => scores.map((row) => row[j]));
  const everybody = x.map(() => true);
  const near = x.map((_, i) => x.map((_, j) => part(i) === part(j)));
  const ask = (table) => table.map((row, i) => softmax(row, way === "own" ? near[i] : everybody).p);
  const [rows, columns] = [ask(scores), ask(turned)];
  const loss = sum(scores.map((row, i) => softmax(row, everybody).log + softmax(turned[i], everybody).log - 2 * row[i])) / (2 * n);
  // as query an embedding hears everybody; as candidate, without gradients, only the queries of its own part
  const heard = (i, j) => (way === "detached" && !near[i][j] ? 0 : 1);
  let [slope_a, slope_b] = [0, 0];
  for (let i = 0; i < n; i += 1) {
    for (let j = 0; j < n; j += 1) {
      const [row, column] = [rows[i][j] - (i === j), columns[j][i] - (i === j)];
      const slope = -Math.sin(first[i] - second[j]) / (2 * n * TEMPERATURE); // of the score, by the first angle
      slope_a += (row + heard(i, j) * column) * slope * (x[i] / (1 + (a * x[i]) ** 2));
      slope_b -= (column + heard(i, j) * row) * slope * (y[j] / (1 + (b * y[j]) ** 2));
    }
  }
  return { loss, slope_a, slope_b };
}

/** The weights after one step down. */
export function step(state) {
  const { slope_a, slope_b } = values(state);
  const [a, b] = state.weights;
  return [within(MOST_WEIGHT, a - RATE * slope_a), within(MOST_WEIGHT, b - RATE * slope_b)];
}

const line = (points) => points.map(([u, v], i) => `${i ? "L" : "M"}${u.toFixed(1)} ${v.toFixed(1)}`).join("");
const words = (u, v, text, attributes = {}, below = "") =>
  svg("text", { x: u, y: v, "text-anchor": "middle", ...attributes }, text, ...(below ? [svg("tspan", { dy: 3, class: "mmt-below" }, below)] : []));

/** The embeddings on their half circle: first ones outside, second ones inside, partners joined. */
function fan() {
  const moving = svg("g");
  const arc = (r) => svg("path", { d: `M${-r} 0A${r} ${r} 0 0 1 ${r} 0`, class: "mmt-ring" });
  const node = svg("svg", { viewBox: "-132 -136 264 152", role: "img", class: "mmt-fan" }, arc(118), arc(92), moving);
  const show = (state, label) => {
    const { first, second } = angles(state);
    const at = (r, t) => [r * Math.sin(t), -r * Math.cos(t)];
    moving.replaceChildren(
      ...first.map((t, i) => svg("path", { d: line([at(118, t), at(92, second[i])]), class: "mmt-pair" })),
      ...first.map((t) => { const [cx, cy] = at(118, t); return svg("circle", { cx, cy, r: 4.2, class: "mmt-first" }); }),
      ...second.map((t) => { const [u, v] = at(92, t); return svg("path", { d: `M${u - 5} ${v}L${u} ${v - 5}L${u + 5} ${v}L${u} ${v + 5}Z`, class: "mmt-second" }); }));
    node.setAttribute("aria-label", label);
  };
  return { node, show };
}

/** The plane of both weights: arrows downhill, the way gone so far, and a ball to be dragged. */
function plane(onMove) {
  const scale = 100 / MOST_WEIGHT;
  const at = ([a, b]) => [a * scale, -b * scale];
  const [field, trail] = [svg("g", { class: "mmt-field" }), svg("path", { class: "mmt-trail" })];
  const ball = keepKeys(svg("circle", { r: 7, class: "mmt-ball", tabindex: 0, role: "slider", "aria-label": "both weights", "aria-valuemin": -MOST_WEIGHT, "aria-valuemax": MOST_WEIGHT }));
  const node = svg("svg", { viewBox: "-112 -120 240 228", role: "group", "aria-label": "Plane of the two weights", class: "mmt-plane" },
    svg("path", { d: "M-104 0H104M0 104V-104", class: "mmt-axis" }), field, trail, ball,
    words(110, 3, "w", { "text-anchor": "start" }, "a"), words(-3, -109, "w", {}, "b"));
  let weights = [0, 0];
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  ball.addEventListener("keydown", (event) => {
    if (!(event.key in moves)) return;
    event.preventDefault();
    onMove(weights.map((w, k) => within(MOST_WEIGHT, w + 0.05 * moves[event.key][k])));
  });
  const pointer = (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(node.getScreenCTM().inverse());
    onMove([within(MOST_WEIGHT, x / scale), within(MOST_WEIGHT, -y / scale)]);
  };
  let held = false;
  node.addEventListener("pointerdown", (event) => {
    held = true;
    node.setPointerCapture(event.pointerId);
    ball.focus({ preventScroll: true });
    event.preventDefault();
    pointer(event);
  });
  node.addEventListener("pointermove", (event) => held && pointer(event));
  for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => (held = false));

  const arrows = (state) => {
    const places = Array.from({ length: GRID }, (_, k) => (2 * k / (GRID - 1) - 1) * 1.2);
    field.replaceChildren(...places.flatMap((a) => places.map((b) => {
      const { slope_a, slope_b } = values({ ...state, weights: [a, b] });
      const size = Math.hypot(slope_a, slope_b);
      if (size < 1e-4) return "";
      const length = 11 * Math.min(1, Math.sqrt(size)); // so that weak slopes can be seen too
      const [u, v] = at([a, b]);
      const [du, dv] = [(-slope_a / size) * length, (slope_b / size) * length];
      const wing = (side) => `L${(u + du - 0.35 * du + side * 0.25 * dv).toFixed(1)} ${(v + dv - 0.35 * dv - side * 0.25 * du).toFixed(1)}`;
      const tip = `${(u + du).toFixed(1)} ${(v + dv).toFixed(1)}`;
      return svg("path", { d: `M${u.toFixed(1)} ${v.toFixed(1)}L${tip}${wing(1)}M${tip}${wing(-1)}` });
    })));
  };
  const show = (gone) => {
    weights = gone.at(-1);
    const [cx, cy] = at(weights);
    fill(ball, { cx, cy, "aria-valuenow": weights[0].toFixed(2), "aria-valuetext": `w_a ${fixed(weights[0])}, w_b ${fixed(weights[1])}` }, []);
    trail.setAttribute("d", line(gone.map(at)));
  };
  return { node, arrows, show };
}

/** The loss of the whole batch along the way, beside that of one point for all. */
function course(collapsed) {
  const [left, right, top, bottom] = [46, 470, 12, 92];
  const moving = svg("g");
  const node = svg("svg", { viewBox: "0 0 560 122", role: "img", class: "mmt-course" },
    svg("path", { d: line([[left, top], [left, bottom], [right, bottom]]), class: "mmt-axis" }),
    words((left + right) / 2, 114, "step"), moving);
  const show = (losses) => {
    const [low, high] = [Math.min(collapsed, ...losses) - 0.01, Math.max(collapsed, ...losses) + 0.01];
    const atY = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
    const last = Math.max(100, losses.length - 1);
    const points = losses.map((v, k) => [left + (k / last) * (right - left), atY(v)]);
    moving.replaceChildren(
      svg("path", { d: line([[left, atY(collapsed)], [right, atY(collapsed)]]), class: "mmt-level" }),
      words(right + 6, atY(collapsed) + 4, "one point", { "text-anchor": "start" }),
      ...[low, high].map((v) => words(left - 6, atY(v) + 4, v.toFixed(2), { "text-anchor": "end" })),
      words(right, 114, String(last), { "text-anchor": "end" }), words(left, 114, "0"),
      svg("path", { d: line(points), class: "mmt-trail" }),
      svg("circle", { cx: points.at(-1)[0], cy: points.at(-1)[1], r: 4, class: "mmt-ball" }));
    node.setAttribute("aria-label", `Loss of the whole batch along the way: ${fixed(losses[0], 3)} at first, ${fixed(losses.at(-1), 3)} now; one point for all has ${fixed(collapsed, 3)}`);
  };
  return { node, show };
}

function render({ model, el }) {
  el.classList.add("mmt", "mmt-split");
  const names = ["way", "parts", "correlation", "weights", "x", "rest"];
  const state = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const opening = state();
  const collapsed = Math.log(opening.x.length);
  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  let [running, rolling, gone] = [null, false, []]; // the way gone so far: weights and losses
  const stop = () => {
    running?.stop();
    running = null;
    go.textContent = "Go down";
  };
  const byHand = (changes) => {
    stop();
    set(changes);
  };
  const roll = () => {
    const now = state();
    const next = step(now);
    rolling = true;
    set({ weights: next });
    rolling = false;
    return Math.hypot(next[0] - now.weights[0], next[1] - now.weights[1]) > LEAST_MOVE && gone.length <= MOST_STEPS;
  };
  const start = () => {
    gone = gone.slice(-1);
    if (reducedMotion()) {
      while (roll());
      return;
    }
    go.textContent = "Stop";
    running = animate(() => {
      if (!roll() || !roll()) stop();
      return running !== null;
    });
  };
  const go = button("Go down", () => (running ? stop() : start()));
  const group = `mmt-way-${Math.random().toString(36).slice(2)}`;
  const choices = Object.entries(WAYS).map(([way, name]) => {
    const input = keepKeys(element("input", { type: "radio", name: group, value: way, onchange: () => byHand({ way }) }));
    return { way, input, node: element("label", {}, input, name) };
  });
  const machines = select("machines", PARTS.map(String), 0, (k) => byHand({ parts: PARTS[k] }));
  const alike = slider({ label: "correlation of a pair", min: 0, max: 0.95, step: 0.05, value: opening.correlation, show: (v) => fixed(v), onInput: (correlation) => byHand({ correlation }) });
  const [embedded, slopes, along, status] = [fan(), plane((weights) => byHand({ weights })), course(collapsed), liveText()];

  const draw = () => {
    const now = state();
    const { loss } = values(now);
    if (!rolling) gone = [];
    gone.push({ weights: now.weights, loss });
    if (!rolling) slopes.arrows(now);
    for (const { way, input } of choices) input.checked = way === now.way;
    machines.input.value = PARTS.indexOf(now.parts);
    machines.input.disabled = now.way === "all";
    alike.set(now.correlation);
    slopes.show(gone.map(({ weights }) => weights));
    along.show(gone.map((place) => place.loss));
    const { first, second } = angles(now);
    const spread = (180 / Math.PI) * Math.max(...[...first, ...second].map(Math.abs));
    const where = spread < 1 ? "All embeddings are as good as one point." : `The embeddings reach ${spread.toFixed(0)}° from the middle.`;
    const since = gone[0].loss;
    const went = gone.length === 1 ? "" : `, ${loss > since ? "up" : "down"} from ${fixed(since, 3)}`;
    const said = `The loss of the whole batch is ${fixed(loss, 3)}${went}; one point for all has ${fixed(collapsed, 3)}. ${where}`;
    embedded.show(now, where);
    status.say(said);
  };
  const heard = names.slice(0, 4).map((name) => `change:${name}`);
  for (const event of heard) model.on(event, draw);
  el.append(
    invitation("go down, then choose another way, and start again with pairs that are more alike.",
      "Which way leads into one point, at which correlations, and what does the loss say on the way there?"),
    element("fieldset", { class: "mmt-ways" }, element("legend", {}, "Slopes from"), ...choices.map(({ node }) => node)),
    element("div", { class: "mmt-controls" }, machines.node, alike.node, go, button("Start again", () => byHand({ weights: opening.weights }))),
    element("div", { class: "mmt-columns" },
      element("div", {}, slopes.node,
        element("p", { class: "mmt-muted" }, "The plane of the two weights. Arrows: downhill, by the chosen way. Where the axes cross, all embeddings are one point. Drag the ball.")),
      element("div", {}, embedded.node, element("p", { class: "mmt-muted" }, swatch("image"), " first and ", swatch("text"), " second of each pair, as unit vectors."),
        along.node, element("p", { class: "mmt-muted" }, "The loss of the whole batch, step by step."))),
    status.node);
  draw();
  return () => {
    stop();
    for (const event of heard) model.off(event, draw);
  };
}

export default { render };
