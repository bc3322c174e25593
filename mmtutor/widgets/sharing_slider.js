// Recorded runs of two trunks on a spring: what each strength of it did to both tasks, in the end and on the way.

/** Round numbers between low and high, two to six of them, and how many decimals they need. */
export function niceTicks(low, high) {
  const rough = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return { ticks: Array.from({ length: count }, (_, i) => (first + i) * step), places };
}

/** Powers of ten that hold all the positive ones of these numbers: the exponents of the lowest and the highest. */
export function decades(values) {
  const logs = values.filter((x) => x > 0).map(Math.log10);
  if (!logs.length) return [0, 1];
  const low = Math.floor(Math.min(...logs));
  return [low, Math.max(low + 1, Math.ceil(Math.max(...logs)))];
}

const extent = (values) => [Math.min(...values), Math.max(...values)];
const signed = (text) => text.replace("-", "−");
const unbroken = (text) => text.replaceAll(" ", "\u00a0");
const path = (points) => (points.length ? `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}` : "");
const powers = (low, high) => Array.from({ length: high - low + 1 }, (_, i) => low + i);
const power = (exponent) => (exponent < 0 ? (10 ** exponent).toFixed(-exponent) : String(10 ** exponent));

/** The first task's points are discs, the second's diamonds, so that colour is not all. */
function mark(task, x, y, size, attributes = {}) {
  if (task === 0) return svg("circle", { cx: x, cy: y, r: size, ...attributes });
  const s = 1.25 * size;
  return svg("path", { d: `M${x} ${y - s}l${s} ${s}l${-s} ${s}l${-s} ${-s}z`, ...attributes });
}

function taskName(tasks, t) {
  const sign = svg("svg", { class: "mmt-sign", viewBox: "0 0 14 14", "aria-hidden": "true" }, mark(t, 7, 7, 5, { fill: tasks[t].colour }));
  return element("span", { class: "mmt-task" }, sign, tasks[t].name);
}

/** The frame of a chart: ticks [place, text] of both axes, and functions from data to places. */
function frame({ size: [width, height], right = 14, x, y, xTicks, yTicks, xLabel, label }) {
  const [left, top, bottom] = [36, 8, height - 34];
  const scale = ([low, high], start, end) => (value) => start + ((value - low) / (high - low)) * (end - start);
  const [atX, atY] = [scale(x, left, width - right), scale(y, bottom, top)];
  const words = (x, y, text, anchor) => svg("text", { x, y, "text-anchor": anchor }, text);
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "mmt-chart", role: "img", "aria-label": label });
  for (const [value, text] of yTicks) {
    node.append(svg("line", { x1: left, x2: width - right, y1: atY(value), y2: atY(value), class: "mmt-grid" }), words(left - 6, atY(value) + 4, text, "end"));
  }
  for (const [value, text] of xTicks) node.append(words(atX(value), bottom + 16, text, "middle"));
  node.append(words((left + width - right) / 2, height - 4, xLabel, "middle"));
  const box = [left - 7, top - 7, width - left - right + 14, bottom - top + 14]; // what is drawn inside is cut off at its edges
  const inside = svg("svg", { x: box[0], y: box[1], width: box[2], height: box[3], viewBox: box.join(" "), class: "mmt-inside" });
  node.append(inside);
  return { node, inside, atX, atY, left, top, bottom, end: width - right };
}

/** A line with a band of one standard deviation about it; points without a place on the axis are left out. */
function line({ inside, atX, atY }, xs, { mean, spread }, { stroke = "currentColor", band = true, kind = "" } = {}) {
  const kept = mean.flatMap((value, i) => (Number.isFinite(value) ? [i] : []));
  const shifted = (sign) => kept.map((i) => [atX(xs[i]), atY(mean[i] + sign * spread[i])]);
  if (band) inside.append(svg("path", { d: path([...shifted(1), ...shifted(-1).reverse()]), class: "mmt-band", fill: stroke }));
  inside.append(svg("path", { d: path(shifted(0)), class: `mmt-line ${kind}`, stroke }));
}

/** One task's test scores against the strength, with each seed's at the present one. */
function scoreChart(pair, t, strengths, k, runs) {
  const { name, measure, colour, scores, alone, hard } = pair.tasks[t];
  const others = [["alone", alone], ["hard", hard]].filter(([, figure]) => figure);
  const drawn = scores.flatMap(({ mean, spread, seeds }) => [mean - spread, mean + spread, ...seeds]);
  const [lowest, highest] = extent([...drawn, ...others.map(([, { mean }]) => mean)]);
  const pad = 0.06 * (highest - lowest) || 0.01;
  const y = [lowest - pad, highest + pad];
  const { ticks, places } = niceTicks(...y);
  const said = [...strengths.map((s, i) => `${s} ${scores[i].text}`), ...others.map(([kind, { text }]) => `${kind} ${text}`)];
  const chart = frame({
    size: [364, 204], right: 44, x: [-0.4, strengths.length - 0.6], y, xLabel: "λ",
    xTicks: strengths.map((s, i) => [i, s]), yTicks: ticks.map((v) => [v, signed(v.toFixed(places))]),
    label: `${name}, ${measure} with test items, by λ: ${said.join(", ")}`,
  });
  const { node, inside, atX, atY, left, end, bottom } = chart;
  const gap = others.length > 1 && Math.abs(atY(alone.mean) - atY(hard.mean)) < 13 ? 6.5 : 0; // so that the two words stand apart
  others.forEach(([kind, { mean }], i) => {
    const shift = gap * (mean >= others[1 - i]?.mean ? -1 : 1);
    node.append(svg("line", { x1: left, x2: end, y1: atY(mean), y2: atY(mean), class: `mmt-reference mmt-${kind}` }),
      svg("text", { x: end + 6, y: atY(mean) + 4 + shift }, kind));
  });
  inside.append(svg("line", { x1: atX(k), x2: atX(k), y1: bottom, y2: 0, class: "mmt-here" }));
  const course = { mean: scores.map(({ mean }) => mean), spread: scores.map(({ spread }) => spread) };
  line(chart, strengths.map((_, i) => i), course, { stroke: colour });
  scores.forEach(({ mean, seeds }, i) => {
    const whole = seeds.length === runs;
    inside.append(mark(t, atX(i), atY(mean), i === k ? 6 : 3.5, { fill: whole ? colour : "none", stroke: colour, class: "mmt-mean" }));
  });
  for (const value of scores[k].seeds) inside.append(svg("path", { d: `M${atX(k) - 11} ${atY(value)}h22`, class: "mmt-seed" }));
  const heading = element("p", { class: "mmt-heading" }, taskName(pair.tasks, t), `: ${measure} with test items, in the end`);
  return element("div", {}, heading, node);
}

/** What happens along the training at one strength: scores, distance, cosine. */
function courseCharts(pair, strengths, k) {
  const { tasks, steps, distance, cosine } = pair;
  const last = steps.at(-1);
  const common = { size: [244, 168], x: [0, last], xLabel: "step", xTicks: [0, last / 2, last].map((step) => [step, String(step)]) };
  const panel = (heading, { node }) => element("div", {}, element("p", { class: "mmt-heading" }, ...heading), node);
  const ends = ({ mean }, show) => `${show(mean[0])} at step ${steps[0]}, ${show(mean.at(-1))} at step ${steps[mean.length - 1]}`;
  const fixed = (places) => (x) => signed(x.toFixed(places));

  const late = tasks.flatMap(({ course }) => course.flatMap(({ mean }) => mean.slice(1))); // the first look is at untrained weights
  const y = extent(late);
  if (y[0] === y[1]) y[1] += 0.01;
  const { ticks, places } = niceTicks(...y);
  const scores = frame({
    ...common, y, yTicks: ticks.map((v) => [v, fixed(places)(v)]),
    label: `Scores with validation items at λ = ${strengths[k]}: ${tasks.map(({ name, course }) => `${name} ${ends(course[k], fixed(2))}`).join("; ")}`,
  });
  tasks.forEach(({ course, colour }, t) => {
    line(scores, steps, course[k], { stroke: colour });
    course[k].mean.forEach((value, i) => scores.inside.append(mark(t, scores.atX(steps[i]), scores.atY(value), 3, { fill: colour })));
  });

  const [low, high] = decades(distance.course.flatMap(({ mean }) => mean));
  const every = Math.ceil((high - low) / 4);
  const apart = frame({
    ...common, y: [low, high], yTicks: powers(low, high).filter((e) => (high - e) % every === 0).map((e) => [e, power(e)]),
    label: `Distance of the weights at λ = ${strengths[k]}: ${ends(distance.course[k], (x) => String(Number(x.toPrecision(2))))}`,
  });
  const faint = (chart, courses) => courses.forEach((course, i) => i !== k && line(chart, steps, course, { kind: "mmt-faint", band: false }));
  const logs = distance.course.map(({ mean }) => ({ mean: mean.map(Math.log10), spread: mean.map(() => 0) }));
  faint(apart, logs);
  line(apart, steps, logs[k], { band: false });
  if (!distance.course[k].mean.some((x) => x > 0)) {
    apart.node.append(svg("text", { x: (apart.left + apart.end) / 2, y: apart.bottom - 8, "text-anchor": "middle" }, "0 at every look"));
  }

  const turned = frame({
    ...common, y: [-1, 1], yTicks: [-1, 0, 1].map((v) => [v, fixed(0)(v)]),
    label: `Cosine of the two gradients at λ = ${strengths[k]}: ${ends(cosine.course[k], fixed(2))}; mean ${cosine.end[k].text}`,
  });
  turned.inside.append(svg("line", { x1: turned.left, x2: turned.end, y1: turned.atY(0), y2: turned.atY(0), class: "mmt-zero" }));
  faint(turned, cosine.course);
  line(turned, steps, cosine.course[k]);
  return [
    panel(["scores: ", taskName(tasks, 0), " ", taskName(tasks, 1)], scores),
    panel(["distance of the weights, log scale"], apart),
    panel(["cosine of the two tasks’ gradients"], turned),
  ];
}

/** Two trunks on a ruler, with the spring between them; `show(pair, k)` moves them. */
function springDrawing(strengths) {
  const [home, near, far, line] = [30, 108, 340, 46]; // where the first trunk is, and the ends of the ruler's decades
  const ruler = svg("g");
  const spring = svg("path", { class: "mmt-spring" });
  const [first, second] = [svg("circle", { r: 20 }), svg("path")];
  const names = [0, 1].map((t) => svg("text", { x: t ? 20 : -20, y: -30, "text-anchor": t ? "end" : "start" }));
  const moving = svg("g", { class: "mmt-moving" }, second, names[1]);
  const node = svg("svg", { viewBox: "0 0 366 122", class: "mmt-trunks", role: "img" }, ruler, spring,
    svg("g", { style: `transform: translate(${home}px, ${line}px)` }, first, names[0]), moving);
  const show = ({ tasks, distance }, k) => {
    const [low, high] = decades(distance.end.map(({ mean }) => mean));
    const at = (x) => (x > 0 ? near + ((Math.log10(x) - low) / (high - low)) * (far - near) : home);
    const ticks = [[home, "0"], ...powers(low, high).map((e) => [at(10 ** e), power(e)])];
    ruler.replaceChildren(
      svg("path", { d: `M${near} 84H${far}`, class: "mmt-ruler" }),
      svg("path", { d: `M${home} 84H${near}`, class: "mmt-ruler mmt-alone" }),
      ...ticks.flatMap(([x, text]) => [svg("path", { d: `M${x} 81v6`, class: "mmt-ruler" }), svg("text", { x, y: 101, "text-anchor": "middle" }, text)]),
      svg("text", { x: (home + far) / 2, y: 118, "text-anchor": "middle" }, "distance of the trunks’ weights after training, log scale"));
    const { mean, text } = distance.end[k];
    const x = at(mean);
    moving.style.transform = `translate(${x}px, ${line}px)`;
    spring.style.transform = `translate(${home + 20}px, ${line}px) scale(${Math.max(0, x - home - 40)}, 1)`;
    const coils = Array.from({ length: 16 }, (_, i) => `L${(i + 1.5) / 18} ${i % 2 ? 9 : -9}`).join("");
    spring.setAttribute("d", k ? `M0 0L${1 / 36} 0${coils}L${35 / 36} 0L1 0` : "M0 0L1 0");
    spring.setAttribute("stroke-width", 1 + 0.5 * k);
    spring.classList.toggle("mmt-none", k === 0);
    const tied = mean === 0;
    first.setAttribute("fill", tasks[0].colour);
    second.setAttribute("fill", tasks[1].colour);
    second.setAttribute("d", tied ? "M0 -20a20 20 0 0 1 0 40z" : "M0 -20a20 20 0 0 1 0 40a20 20 0 0 1 0 -40z"); // tied: half a disc
    names[0].textContent = tied ? `${tasks[0].name} and ${tasks[1].name}: one trunk` : tasks[0].name;
    names[1].textContent = tied ? "" : tasks[1].name;
    const both = `${tasks[0].name} and ${tasks[1].name}`;
    node.setAttribute("aria-label", tied ? `One trunk for ${both}` : `The trunks of ${both}, ${k ? "on" : "without"} a spring, ${text} apart`);
  };
  return { node, show };
}

/** All figures as a table, the present strength marked. */
function figureTable({ tasks, distance, cosine }, strengths, k) {
  const columns = [...tasks.map(({ scores }) => scores), distance.end, cosine.end];
  const heads = ["λ", ...tasks.map(({ name, measure }) => `${name}, ${measure}`), "distance", "cosine"];
  const row = (name, cells, here) => element("tr", here ? { class: "mmt-row-here", "aria-current": "true" } : {},
    element("th", { scope: "row" }, name), ...cells.map((figure) => element("td", {}, figure?.text ?? "–")));
  const compared = ["alone", "hard"].filter((kind) => tasks.some((task) => task[kind]));
  return element("table", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text))),
    ...strengths.map((s, i) => row(s, columns.map((column) => column[i]), i === k)),
    ...compared.map((kind) => row(kind, [...tasks.map((task) => task[kind]), null, null])));
}

/** The present figures in words. */
function sentence({ tasks, distance, cosine }, strength, k, runs) {
  const said = tasks.map(({ name, scores }) => {
    const best = scores.every(({ mean }) => mean <= scores[k].mean);
    return `${name} ${unbroken(scores[k].text)}${best ? ", its highest mean" : ""}`;
  });
  const found = tasks[0].scores[k].seeds.length;
  const lacking = found < runs ? ` Recorded here: ${found} of ${runs} runs.` : "";
  return `λ = ${strength}: ${said.join("; ")}. Weights ${distance.end[k].text} apart; mean cosine of the gradients ${unbroken(cosine.end[k].text)}.${lacking}`;
}

function render({ model, el }) {
  el.classList.add("mmt", "mmt-sharing");
  const [pairs, strengths] = [model.get("pairs"), model.get("strengths")];
  const set = (trait, value) => {
    model.set(trait, value);
    model.save_changes();
  };
  const group = `mmt-pair-${Math.random()}`; // two sliders may share a page
  const choices = pairs.map(({ name }) => {
    const input = keepKeys(element("input", { type: "radio", name: group, onchange: () => set("pair", name) }));
    return { name, input, node: element("label", {}, input, name) };
  });
  const chooser = element("div", { class: "mmt-controls", role: "radiogroup", "aria-label": "Pair of tasks" }, ...choices.map(({ node }) => node));
  const about = element("p", { class: "mmt-muted" });
  const knob = slider({
    label: "λ", min: 0, max: strengths.length - 1, step: 1, value: 0,
    show: (k) => strengths[k], onInput: (k) => set("strength", strengths[k]),
  });
  const scale = element("span", { class: "mmt-scale" });
  knob.input.replaceWith(scale);
  scale.append(knob.input, element("span", { class: "mmt-stops", "aria-hidden": "true" }, ...strengths.map((s) => element("span", {}, s))));
  const trunks = springDrawing(strengths);
  const status = liveText();
  const [scores, courses, table] = ["mmt-scores", "mmt-courses", "mmt-figures"].map((name) => element("div", { class: name }));
  const along = element("p", { class: "mmt-lead" });
  const note = element("p", { class: "mmt-muted" });

  const draw = () => {
    const pair = pairs.find(({ name }) => name === model.get("pair"));
    const k = strengths.indexOf(model.get("strength"));
    const runs = Math.max(...pair.tasks.flatMap((task) => task.scores.map(({ seeds }) => seeds.length)));
    for (const { name, input } of choices) input.checked = name === pair.name;
    about.textContent = pair.about;
    knob.set(k);
    trunks.show(pair, k);
    scores.replaceChildren(...pair.tasks.map((_, t) => scoreChart(pair, t, strengths, k, runs)));
    along.textContent = `Along the training at λ = ${strengths[k]} (scores with validation items)`;
    courses.replaceChildren(...courseCharts(pair, strengths, k));
    table.replaceChildren(figureTable(pair, strengths, k));
    const made = `Means of ${runs} recorded ${runs === 1 ? "run" : "runs"} (scale: ${model.get("scale")})`;
    note.textContent = `${made}; bands: ± one standard deviation; dashes: single runs; thin lines: the other strengths.`;
    status.say(sentence(pair, strengths[k], k, runs));
  };
  const heard = ["change:pair", "change:strength"];
  for (const event of heard) model.on(event, draw);
  el.append(
    invitation(`move λ from 0 to ∞${pairs.length > 1 ? ", for each pair of tasks" : ""}.`,
      "Where is the best spring for each task, and does the cosine of the gradients tell?"),
    ...(pairs.length > 1 ? [chooser] : []),
    about,
    element("div", { class: "mmt-controls" }, knob.node),
    trunks.node, status.node, scores, along, courses, note,
    element("details", {}, element("summary", {}, "All figures"), table),
  );
  draw();
  return () => heard.forEach((event) => model.off(event, draw));
}

export default { render };
