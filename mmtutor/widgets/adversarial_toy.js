// A generator with two numbers against the best of all discriminators, on a line.

const LOSSES = ["minimax", "non-saturating", "matching"];
const [LOW, HIGH, POINTS] = [-18, 18, 3601];
const DX = (HIGH - LOW) / (POINTS - 1);
const GRID = Array.from({ length: POINTS }, (_, i) => LOW + i * DX);
const [MEAN, SD] = [[-5, 5], [0.2, 2]]; // what the sliders reach
const RATIOS = [[1, 1], [3, 1], [1, 3]]; // of w_r to w_g
const RATE = 0.05; // of learning
const LEAST = 2e-4; // a slope below this is flat
const MOST_STEPS = 1200;

const logNormal = (x, mean, sd) => -(((x - mean) / sd) ** 2) / 2 - Math.log(sd * Math.sqrt(2 * Math.PI));
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const within = ([low, high], x) => Math.max(low, Math.min(high, x));

/** Logarithms of what the hills add to the real density at x, and of their sum. */
function realAt(x, real) {
  const hills = real.map(([weight, mean, sd]) => Math.log(weight || 1e-300) + logNormal(x, mean, sd));
  const most = Math.max(...hills);
  return { hills, log: most + Math.log(hills.reduce((sum, h) => sum + Math.exp(h - most), 0)) };
}

/** What the page shows, as Python's values(). */
export function values({ real, mean, sd, weights: [w_r, w_g], loss }) {
  const share = w_r / (w_r + w_g);
  const found = { js: -share * Math.log(share) - (1 - share) * Math.log(1 - share), reading: 0, slope_mean: 0, slope_log_sd: 0 };
  for (const x of GRID) {
    const { hills, log } = realAt(x, real);
    const made = logNormal(x, mean, sd);
    const [p_r, p_g] = [Math.exp(log) * DX, Math.exp(made) * DX];
    const logit = log - made + Math.log(w_r / w_g);
    const certain = Math.exp(-softplus(-logit));
    const rise = hills.reduce((sum, h, k) => sum + (Math.exp(h - log) * (real[k][1] - x)) / real[k][2] ** 2, (x - mean) / sd ** 2);
    const pull = { matching: 1, "non-saturating": 1 - certain, minimax: certain }[loss];
    found.js -= share * p_r * softplus(-logit) + (1 - share) * p_g * softplus(logit);
    found.reading -= p_g * logit;
    found.slope_mean -= p_g * pull * rise;
    found.slope_log_sd -= p_g * pull * rise * (x - mean);
  }
  return { ...found, kl: found.reading + Math.log(w_r / w_g) };
}

/** The generator after one step down the slopes of its loss, within the sliders' bounds. */
export function learn(state) {
  const { slope_mean, slope_log_sd } = values(state);
  return { mean: within(MEAN, state.mean - RATE * slope_mean), sd: within(SD, state.sd * Math.exp(-RATE * slope_log_sd)) };
}

const fixed = (x, places = 3) => {
  const text = x.toFixed(places);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
};

/** The two densities, the best discriminator, and an arrow for the slope. */
function chart() {
  const [left, right, top, bottom] = [20, 500, 14, 214];
  const [first, last] = [-6, 6];
  const atX = (x) => left + ((x - first) / (last - first)) * (right - left);
  const shown = GRID.filter((x) => x >= first && x <= last).filter((_, i) => i % 4 === 0);
  const line = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
  const words = (x, y, text, anchor = "middle") => svg("text", { x, y, "text-anchor": anchor }, text);
  const moving = svg("g");
  const node = svg("svg", { viewBox: "0 0 560 262", class: "mmt-line-chart", role: "img" },
    ...[-6, -4, -2, 0, 2, 4, 6].map((x) => words(atX(x), bottom + 18, fixed(x, 0))),
    ...[0, 0.5, 1].map((y) => words(right + 8, bottom - y * (bottom - top) + 4, String(y), "start")),
    words(right + 20, top + 4, "= D*", "start"), words((left + right) / 2, bottom + 42, "a number, real or generated"),
    svg("path", { d: line([[left, bottom], [right, bottom]]), class: "mmt-axis" }), moving);

  const show = ({ real, mean, sd, weights }, found, label) => {
    const [w_r, w_g] = weights;
    const rows = shown.map((x) => [x, realAt(x, real).log, logNormal(x, mean, sd)]);
    const most = Math.max(...rows.flatMap(([, r, g]) => [Math.exp(r), Math.exp(g)]));
    const atY = (y) => bottom - (y / most) * (bottom - top);
    const curve = (density) => rows.map((row) => [atX(row[0]), atY(Math.exp(density(row)))]);
    const judged = rows.map(([x, r, g]) => [atX(x), bottom - Math.exp(-softplus(-(r - g + Math.log(w_r / w_g)))) * (bottom - top)]);
    const ground = (points) => `${line([[left, bottom], ...points, [right, bottom]])}Z`;
    const length = within([-90, 90], -60 * found.slope_mean); // downhill
    const [from, y] = [atX(mean), top + 6];
    const head = Math.abs(length) < 3 ? "" : `m${-6 * Math.sign(length)} -5l${6 * Math.sign(length)} 5l${-6 * Math.sign(length)} 5`;
    moving.replaceChildren(
      svg("path", { d: ground(curve(([, r]) => r)), class: "mmt-real" }),
      svg("path", { d: line(curve(([, , g]) => g)), class: "mmt-made" }),
      svg("path", { d: line(judged), class: "mmt-judge" }),
      svg("circle", { cx: from, cy: y, r: 4, class: "mmt-stand" }),
      svg("path", { d: `M${from.toFixed(1)} ${y}h${length.toFixed(1)}${head}`, class: "mmt-arrow" }));
    node.setAttribute("aria-label", label);
  };
  return { node, show };
}

/** The generator's losses as radio buttons. */
function chooser(loss, onChoose) {
  const group = `mmt-loss-${Math.random().toString(36).slice(2)}`;
  const inputs = LOSSES.map((name) => {
    const input = keepKeys(element("input", { type: "radio", name: group, value: name, onchange: () => onChoose(name) }));
    input.checked = name === loss;
    return input;
  });
  const node = element("fieldset", { class: "mmt-losses" }, element("legend", {}, "The generator minimises"),
    ...LOSSES.map((name, i) => element("label", {}, inputs[i], name)));
  const set = (name) => inputs.forEach((input) => (input.checked = input.value === name));
  return { node, set };
}

function inWords(state, found) {
  const slope = Math.abs(found.slope_mean);
  const felt = slope < 0.01 ? "almost no slope: it does not know where to go" : `a slope of ${fixed(-found.slope_mean, 2)} along the line`;
  return `The ${state.loss} loss gives the generator ${felt}. JS is ${fixed(found.js, 2)}, KL(p_g‖p_r) is ${fixed(found.kl, 2)}.`;
}

function render({ model, el }) {
  el.classList.add("mmt", "mmt-adversary");
  const names = ["real", "mean", "sd", "weights", "loss"];
  const state = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  const opening = state();
  let running = null;
  const stop = () => {
    running?.stop();
    running = null;
    learning.textContent = "Let it learn";
  };
  const byHand = (changes) => {
    stop();
    set(changes);
  };
  const start = () => {
    let steps = 0;
    const step = () => {
      const now = state();
      const next = learn(now);
      const moved = Math.abs(next.mean - now.mean) + Math.abs(next.sd - now.sd);
      set(next);
      steps += 1;
      return moved > RATE * LEAST && steps < MOST_STEPS;
    };
    if (reducedMotion()) {
      while (step());
      return;
    }
    learning.textContent = "Stop";
    running = animate(() => {
      if (!step() || !step()) stop();
      return running !== null;
    });
  };
  const learning = button("Let it learn", () => (running ? stop() : start()));
  const where = slider({ label: "place m", min: MEAN[0], max: MEAN[1], step: 0.05, value: opening.mean, show: (x) => fixed(x, 2), onInput: (mean) => byHand({ mean }) });
  const wide = slider({ label: "width s", min: SD[0], max: SD[1], step: 0.02, value: opening.sd, show: (x) => fixed(x, 2), onInput: (sd) => byHand({ sd }) });
  const losses = chooser(opening.loss, (loss) => byHand({ loss }));
  const ratios = select("w_r : w_g", RATIOS.map((pair) => pair.join(" : ")), RATIOS.findIndex((pair) => pair.join() === opening.weights.join()), (i) => byHand({ weights: RATIOS[i] }));
  const plot = chart();
  const [cells, status] = [{}, liveText()];
  const row = (key, name, about) => {
    cells[key] = element("td");
    return element("tr", {}, element("th", { scope: "row" }, name), cells[key], element("td", { class: "mmt-muted" }, about));
  };
  const table = element("table", { class: "mmt-numbers" }, element("tbody", {},
    row("js", "JS", "what minimax makes small; never more than log 2 = 0.693 at 1 : 1"),
    row("kl", "KL(p_g‖p_r)", "what matching makes small"),
    row("reading", "mean of −ℓ*", "KL as it is read without the weights' term"),
    row("slope_mean", "slope by m", "of the chosen loss"),
    row("slope_log_sd", "slope by log s", "of the chosen loss")));
  const key = (kind, words) => element("li", {}, element("span", { class: `mmt-sample mmt-key-${kind}`, "aria-hidden": "true" }), words);

  const draw = () => {
    const now = state();
    const found = values(now);
    where.set(now.mean);
    wide.set(now.sd);
    losses.set(now.loss);
    for (const [name, cell] of Object.entries(cells)) cell.textContent = fixed(found[name]);
    const said = inWords(now, found);
    plot.show(now, found, `Real numbers in ${now.real.length} hills, the generator's bell at ${fixed(now.mean, 2)} of width ${fixed(now.sd, 2)}. ${said}`);
    status.say(said);
  };
  for (const name of names) model.on(`change:${name}`, draw);
  el.append(
    invitation("let it learn, then choose another loss and start again.", "From far away, which loss still knows the way, and which hill does it end on?"),
    element("div", { class: "mmt-controls" }, losses.node, learning, button("Start again", () => byHand({ ...opening, loss: state().loss, weights: state().weights })), ratios.node),
    element("div", { class: "mmt-controls" }, where.node, wide.node),
    element("ul", { class: "mmt-key" }, key("real", "real numbers, p_r"), key("made", "generated, p_g"), key("judge", "the best discriminator, D*"), key("arrow", "where the loss pulls")),
    plot.node, table, status.node);
  draw();
  return () => {
    stop();
    for (const name of names) model.off(`change:${name}`, draw);
  };
}

export default { render };
