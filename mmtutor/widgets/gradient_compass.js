// Recorded gradients of two tasks in the plane that they span, and where three ways of adding them point.

const dot = (u, v) => u[0] * v[0] + u[1] * v[1];
const plus = (u, v) => [u[0] + v[0], u[1] + v[1]];
const times = (factor, v) => [factor * v[0], factor * v[1]];
const degrees = (radians) => (180 * radians) / Math.PI;
const clipped = (cosine) => Math.max(-1, Math.min(1, cosine));

/** The vector with length 1, or zero if it is no longer than the least. */
function unit(v, least = 0) {
  const length = Math.hypot(...v);
  return length > least ? times(1 / length, v) : [0, 0];
}

/** PCGrad of two gradients: each gives up its part along the other if they are in conflict; then the sum. */
export function surgery([first, second]) {
  const without = (g, other) => plus(g, times(-Math.min(0, dot(g, unit(other))), unit(other)));
  return plus(without(first, second), without(second, first));
}

/** Two gradients in their plane, the longer of length 1 and the bisector upwards, the three directions, and what those do. */
export function compass(lengths, cosine) {
  const half = Math.acos(clipped(cosine)) / 2;
  const longer = Math.max(...lengths) || 1;
  const gradients = [-1, 1].map((side, t) => times(lengths[t] / longer, [side * Math.sin(half), Math.cos(half)]));
  const units = gradients.map((g) => unit(g));
  const ways = [plus(...gradients), surgery(gradients), plus(...units)].map((way) => unit(way, 1e-9)); // opposed ones cancel but for rounding
  const turn = (way) => degrees(Math.atan2(Math.abs(way[0] * ways[0][1] - way[1] * ways[0][0]), dot(way, ways[0])));
  return { angle: degrees(2 * half), gradients, ways, turns: ways.map(turn), effects: ways.map((way) => units.map((u) => dot(way, u))) };
}

/** Move labels apart along the rim, `{angle, width}` with angles in degrees from the top; their order stays. */
export function spread(labels, radius) {
  const placed = labels.map((label) => ({ ...label })).sort((a, b) => a.angle - b.angle);
  const middle = ({ angle, width }) => {
    const [x, y] = [Math.sin((angle * Math.PI) / 180), Math.cos((angle * Math.PI) / 180)];
    return [(radius + width / 2) * x, radius * y];
  };
  for (let round = 0; round < 400; round++) {
    let moved = false;
    for (let i = 1; i < placed.length; i++) {
      const [a, b] = [placed[i - 1], placed[i]];
      const [p, q] = [middle(a), middle(b)];
      if (Math.abs(p[0] - q[0]) < (a.width + b.width) / 2 + 8 && Math.abs(p[1] - q[1]) < 17) {
        a.angle -= 0.5;
        b.angle += 0.5;
        moved = true;
      }
    }
    if (!moved) break;
  }
  return placed.map((label) => ({ ...label, middle: middle(label) }));
}

const fixed = (value, places) => {
  const text = value.toFixed(places);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
};
const percent = (share) => `${fixed(100 * share, 0)}%`;
const conflicts = (cosines) => cosines.filter((cosine) => cosine < 0).length;
const none = (vector) => Math.hypot(...vector) === 0;
const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
const written = (x, y, text, attributes = {}) => svg("text", { x, y, "text-anchor": "middle", ...attributes }, text);
const [SUM, PCGRAD, EQUAL] = [0, 1, 2];

/** The half disc: gradients as arrows, the three directions as lines to its rim. */
function drawing(tasks, directions) {
  const [cx, cy, rim] = [210, 184, 150];
  const [longest, shortest] = [118, 24]; // of an arrow; the longest ends short of the rim, so that lines behind it show
  const at = ([x, y], radius) => [cx + radius * x, cy - radius * y];
  const polar = (angle) => [Math.sin((angle * Math.PI) / 180), Math.cos((angle * Math.PI) / 180)];
  const sector = (from, to) => `${path([[cx, cy], at(polar(from), rim)])}A${rim} ${rim} 0 0 1 ${at(polar(to), rim).join(" ")}Z`;
  const node = svg("svg", { viewBox: "0 0 420 216", class: "mmt-plane", role: "img" });
  const moving = svg("g");
  node.append(
    ...[[-90, -45], [45, 90]].map(([from, to]) => svg("path", { d: sector(from, to), class: "mmt-conflict" })),
    svg("path", { d: sector(-90, 90), class: "mmt-rim" }),
    ...[-84, 84].map((angle) => written(...at(polar(angle), 0.84 * rim), "conflict", { class: "mmt-faint" })),
    moving,
  );

  const arrow = (g, colour) => {
    const u = unit(g);
    const hollow = longest * Math.hypot(...g) < shortest;
    const length = hollow ? shortest : longest * Math.hypot(...g);
    const [tip, neck, side] = [at(u, length), at(u, length - 15), times(7, [u[1], u[0]])]; // the page's y goes down
    return [
      svg("path", { d: path([[cx, cy], at(u, rim)]), class: "mmt-onward", stroke: colour }),
      svg("path", { d: path([[cx, cy], neck]), class: "mmt-gradient", stroke: colour, "stroke-width": hollow ? 1.8 : 6 }),
      svg("path", {
        d: `${path([tip, plus(neck, side), plus(neck, times(-1, side))])}Z`, class: "mmt-head",
        fill: hollow ? "none" : colour, stroke: hollow ? colour : "none", "stroke-width": 1.8,
      }),
    ];
  };

  const show = ({ gradients, ways, angle }, label) => {
    const same = Math.hypot(...plus(ways[SUM], times(-1, ways[PCGRAD]))) < 1e-6;
    const named = [
      { name: tasks[0].name, vector: gradients[0], bold: true },
      { name: same ? `${directions[SUM].name} = ${directions[PCGRAD].name}` : directions[SUM].name, vector: ways[SUM] },
      { name: directions[PCGRAD].name, vector: same ? [0, 0] : ways[PCGRAD] },
      { name: directions[EQUAL].name, vector: ways[EQUAL] },
      { name: tasks[1].name, vector: gradients[1], bold: true },
    ].filter(({ vector }) => !none(vector));
    const labels = spread(named.map((given) => ({
      ...given, angle: degrees(Math.atan2(...given.vector)), width: (given.bold ? 7.2 : 6.6) * given.name.length,
    })), rim + 17);
    moving.replaceChildren(
      ...gradients.flatMap((g, t) => (none(g) ? [] : arrow(g, tasks[t].colour))),
      ...ways.flatMap((way, i) => (none(way) ? [] : [
        svg("path", { d: path([[cx, cy], at(way, rim)]), class: `mmt-way mmt-way-${i}`, stroke: directions[i].colour }),
      ])),
      ...labels.flatMap(({ name, bold, vector, angle, middle }) => [
        svg("path", { d: path([at(unit(vector), rim), at(polar(angle), rim + 8)]), class: "mmt-leader" }),
        written(cx + middle[0], cy - middle[1] + 4, name, { class: bold ? "mmt-name" : "" }),
      ]),
      written(cx, cy + 24, gradients.some(none) ? "no gradient" : `${fixed(angle, 1)}°`, { class: "mmt-name" }),
    );
    node.setAttribute("aria-label", label);
  };
  return { node, show };
}

/** The three directions, what marks them, how far each turns from the sum, and what a step along it does. */
function effectTable(tasks, directions, { gradients, ways, turns, effects }) {
  const sample = (i) => svg("svg", { class: "mmt-sample", viewBox: "0 0 34 10", "aria-hidden": "true" },
    svg("path", { d: "M0 5H34", class: `mmt-way mmt-way-${i}`, stroke: directions[i].colour }));
  const row = ({ name }, i) => {
    const shares = effects[i].map((share, t) => (none(ways[i]) || none(gradients[t]) ? "–" : percent(share)));
    const turn = i === SUM || none(ways[i]) || none(ways[SUM]) ? "–" : `${fixed(turns[i], 1)}°`;
    return element("tr", {}, element("th", { scope: "row" }, sample(i), name), ...[turn, ...shares].map((text) => element("td", {}, text)));
  };
  const heads = ["direction", "turned from the sum", ...tasks.map(({ name }) => name)];
  return element("table", {},
    element("caption", {}, "How fast a short step down along a direction lowers each task’s loss: "
      + "100% as fast as along its own gradient; below 0% it rises"),
    element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text))), ...directions.map(row));
}

/** The cosine along the training: the chosen run thick, the others thin, the present look marked. */
function cosineChart(steps, runs, chosen, look, most) {
  const [left, right, top, bottom] = [44, 546, 8, 124];
  const [first, last] = [steps[0], steps.at(-1)];
  const limit = [0.1, 0.2, 0.5].find((bound) => bound >= most) ?? 1;
  const atX = (step) => left + ((step - first) / (last - first)) * (right - left);
  const atY = (cosine) => (top + bottom) / 2 - (cosine / limit) * ((bottom - top) / 2);
  const points = ({ cosines }) => cosines.map((cosine, i) => [atX(steps[i]), atY(cosine)]);
  const own = runs[chosen];
  const node = svg("svg", {
    viewBox: "0 0 560 162", class: "mmt-course", role: "img",
    "aria-label": `Cosine of the two gradients from step ${first} to step ${last}: between ${fixed(Math.min(...own.cosines), 3)} and `
      + `${fixed(Math.max(...own.cosines), 3)}, below zero at ${conflicts(own.cosines)} of ${steps.length} looks`,
  });
  const middle = steps[Math.floor(steps.length / 2)];
  node.append(
    svg("rect", { x: left, y: atY(0), width: right - left, height: bottom - atY(0), class: "mmt-conflict" }),
    written(right - 6, bottom - 6, "conflict", { class: "mmt-faint", "text-anchor": "end" }),
    svg("path", { d: path([[left, top], [left, bottom], [right, bottom]]), class: "mmt-axis" }),
    svg("path", { d: path([[left, atY(0)], [right, atY(0)]]), class: "mmt-zero" }),
    ...[-limit, 0, limit].map((tick) => written(left - 6, atY(tick) + 4, fixed(tick, limit === 1 ? 0 : 1), { "text-anchor": "end" })),
    ...[first, middle, last].map((step) => written(atX(step), bottom + 17, String(step))),
    written((left + right) / 2, 158, "step"),
    svg("path", { d: path([[atX(steps[look]), top], [atX(steps[look]), bottom]]), class: "mmt-here" }),
    ...runs.filter((run) => run !== own).map((run) => svg("path", { d: path(points(run)), class: "mmt-run" })),
    svg("path", { d: path(points(own)), class: "mmt-run mmt-own" }),
    ...points(own).map(([x, y], i) => svg("circle", { cx: x, cy: y, r: i === look ? 5.5 : 2.8, class: "mmt-look" })),
  );
  return node;
}

/** What a step down along a direction does to both tasks, in words. */
function effect(tasks, way, shares) {
  if (none(way)) return "goes nowhere";
  const [first, second] = shares.map((share) => `${percent(share).startsWith("−") ? "raises" : "lowers"} `);
  const rates = shares.map((share, t) => `${tasks[t].name} at ${percent(Math.abs(share))}`);
  return `${first}${rates[0]} and ${first === second ? "" : second}${rates[1]}`;
}

/** The angle of the two gradients in words, and the ratio of their lengths. */
function meeting(tasks, lengths, cosine, { angle }) {
  const names = tasks.map(({ name }) => name);
  const silent = names.filter((_, t) => lengths[t] === 0);
  if (silent.length) return `no gradient of ${silent.join(" and ")}`;
  const longer = lengths[1] > lengths[0] ? 1 : 0;
  const ratio = Number((lengths[longer] / lengths[1 - longer]).toPrecision(2));
  return `the gradients of ${names.join(" and ")} are ${fixed(angle, 1)}° apart (cosine ${fixed(cosine, 3)}), `
    + `${cosine < 0 ? "in conflict" : "not in conflict"}; that of ${names[longer]} is ${ratio} times as long as the other`;
}

/** What surgery and equal lengths change, in words. */
function changes(tasks, cosine, { ways, turns, effects }) {
  const [sum, surgical, equal] = ways.map((way, i) => effect(tasks, way, effects[i]));
  const from = (i, before, after) => (none(ways[i]) ? "" : `${before}${fixed(turns[i], 1)}°${after}`);
  const cut = cosine < 0 ? `Surgery${from(PCGRAD, " turns the sum by ", ": it")} ${surgical}.` : "Surgery changes nothing.";
  return `Compared with the steepest rate, a step down along the sum ${sum}. ${cut} With equal lengths${from(EQUAL, ", ", " from the sum,")} it ${equal}.`;
}

function render({ model, el }) {
  el.classList.add("mmt", "mmt-compass");
  const [conditions, seeds, steps, tasks, directions] = ["conditions", "seeds", "steps", "tasks", "directions"].map((name) => model.get(name));
  const set = (trait, value) => {
    model.set(trait, value);
    model.save_changes();
  };
  const group = `mmt-condition-${Math.random()}`; // two compasses may share a page
  const choices = conditions.map(({ name }) => {
    const input = keepKeys(element("input", { type: "radio", name: group, onchange: () => set("condition", name) }));
    return { name, input, node: element("label", {}, input, name) };
  });
  const chooser = element("div", { class: "mmt-controls", role: "radiogroup", "aria-label": "Condition" }, ...choices.map(({ node }) => node));
  const about = element("p", { class: "mmt-muted" });
  const run = select("run (seed)", seeds.map(String), 0, (i) => set("seed", seeds[i]));
  const knob = slider({
    label: "along the training", min: 0, max: steps.length - 1, step: 1, value: 0,
    show: (k) => `step ${steps[k]}`, onInput: (k) => set("look", k),
  });
  const plane = drawing(tasks, directions);
  const status = liveText();
  const [table, course] = ["mmt-effects", "mmt-along"].map((name) => element("div", { class: name }));
  const heading = element("p", { class: "mmt-heading" });
  const most = Math.max(...conditions.flatMap(({ runs }) => runs.flatMap(({ cosines }) => cosines.map(Math.abs)))); // one axis for all conditions

  const draw = () => {
    const { name, about: what, runs } = conditions.find((condition) => condition.name === model.get("condition"));
    const [chosen, look] = [seeds.indexOf(model.get("seed")), model.get("look")];
    const { lengths, cosines } = runs[chosen];
    for (const choice of choices) choice.input.checked = choice.name === name;
    about.textContent = what;
    run.input.value = chosen;
    knob.set(look);
    const found = compass(lengths[look], cosines[look]);
    const met = meeting(tasks, lengths[look], cosines[look], found);
    plane.show(found, `Compass: ${met}`);
    table.replaceChildren(effectTable(tasks, directions, found));
    course.replaceChildren(cosineChart(steps, runs, chosen, look, most));
    const all = runs.flatMap((recorded) => recorded.cosines);
    const inAll = runs.length > 1 ? `, at ${conflicts(all)} of ${all.length} in all ${runs.length} runs` : "";
    heading.textContent = `Cosine of the two gradients: below zero at ${conflicts(cosines)} of ${steps.length} looks in this run${inAll}`;
    const changed = found.gradients.some(none) ? "" : ` ${changes(tasks, cosines[look], found)}`;
    status.say(`${name}, step ${steps[look]}: ${met}.${changed}`);
  };
  const heard = ["change:condition", "change:seed", "change:look"];
  for (const event of heard) model.on(event, draw);
  el.append(
    invitation(`go along the training${conditions.length > 1 ? ", in each condition" : ""}.`,
      "How often do the two tasks contradict each other, and what does surgery change?"),
    ...(conditions.length > 1 ? [chooser] : []),
    about,
    element("div", { class: "mmt-controls" }, ...(seeds.length > 1 ? [run.node] : []), knob.node),
    plane.node,
    element("p", { class: "mmt-muted mmt-key" }, "Arrows: the two gradients on the trunk, their lengths relative to the longer one "
      + "(hollow: too short to be seen, so drawn longer); dots carry each on to the rim. Lines to the rim: three directions, drawn equally long. "
      + "Both gradients in the shaded parts: conflict."),
    status.node, table, heading, course,
    element("p", { class: "mmt-muted" }, `${seeds.length} recorded ${seeds.length === 1 ? "run" : "runs"} (scale: ${model.get("scale")}); thick: this run`
      + `${seeds.length > 1 ? "; thin: the others" : ""}.`),
  );
  draw();
  return () => heard.forEach((event) => model.off(event, draw));
}

export default { render };
