// Two distributions over the same answers, to drag, and four numbers that say how well they match.

const LOG_2 = Math.log(2);
const total = (list) => list.reduce((sum, x) => sum + x, 0);

/** What each answer adds to each of the four numbers; to the divergences in nats. */
export function terms(p, q) {
  const kl = (x, y) => (x > 0 ? x * (Math.log(x) - Math.log(y)) : 0); // infinite for y = 0 < x
  const toMiddle = (x, y) => (x > 0 ? x * Math.log((2 * x) / (x + y)) : 0);
  const lengths = Math.hypot(...p) * Math.hypot(...q);
  return {
    cosine: p.map((x, c) => (x * q[c]) / lengths),
    kl_pq: p.map((x, c) => kl(x, q[c])),
    kl_qp: p.map((x, c) => kl(q[c], x)),
    js: p.map((x, c) => (toMiddle(x, q[c]) + toMiddle(q[c], x)) / 2),
  };
}

/** The four numbers. Rounding may put a sum a little beyond its bounds. */
export function measures(p, q) {
  const { cosine, kl_pq, kl_qp, js } = terms(p, q);
  return {
    cosine: total(cosine),
    kl_pq: Math.max(0, total(kl_pq)),
    kl_qp: Math.max(0, total(kl_qp)),
    js: Math.min(LOG_2, Math.max(0, total(js))),
  };
}

/** The distribution after bar i was moved: the others keep their proportions, or are even if all of them are 0. */
export function moveBar(distribution, i, to) {
  const rest = total(distribution.filter((_, j) => j !== i));
  const even = 1 / (distribution.length - 1);
  return distribution.map((x, j) => (j === i ? to : (1 - to) * (rest > 0 ? x / rest : even)));
}

const MEASURES = [
  { key: "cosine", name: "cosine", unit: "", adds: "p q / (‖p‖ ‖q‖)", degree: (x) => x },
  { key: "kl_pq", name: "KL(p‖q)", unit: "nats", adds: "p log(p / q)", degree: (x) => -x },
  { key: "kl_qp", name: "KL(q‖p)", unit: "nats", adds: "q log(q / p)", degree: (x) => -x },
  { key: "js", name: "JS", unit: "nats, ≤ log 2", adds: "½ p log(p / m) + ½ q log(q / m), m = ½ (p + q)", degree: (x) => 1 - x / LOG_2 },
];

function fixed(value, places) {
  if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
  const text = value.toFixed(places);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

function signed(value) {
  if (value === 0) return "0";
  const text = fixed(value, 2);
  return value < 0 || value === Infinity ? text : `+${text}`;
}

function percent(x) {
  if (x > 0 && x < 0.0005) return "<0.1%";
  if (x >= 0.995 && x < 1) return ">99%";
  return `${x < 0.0995 ? Math.round(1000 * x) / 10 : Math.round(100 * x)}%`;
}

/** A bar that is moved by dragging and by keys; `onMove(to, from)` is told where to, and of which distribution. */
function makeBar(which, answer, present, onMove) {
  const mark = element("div", { class: `mmt-bar mmt-${which}` });
  const node = keepKeys(element("div", {
    class: "mmt-track", role: "slider", tabindex: 0, "aria-label": `${which} of ${answer}`,
    "aria-orientation": "vertical", "aria-valuemin": 0, "aria-valuemax": 100,
  }, mark));
  let value = 0;
  const move = (to, from) => onMove(Math.round(1e6 * Math.max(0, Math.min(1, to))) / 1e6, from);

  const keys = { ArrowUp: 0.01, ArrowRight: 0.01, ArrowDown: -0.01, ArrowLeft: -0.01, PageUp: 0.1, PageDown: -0.1, Home: -1, End: 1 };
  node.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    move(value + keys[event.key], present());
  });

  let start = null; // a drag that passes 100% must not forget how the others stood to each other
  const follow = (event) => {
    const { bottom, height } = node.getBoundingClientRect();
    if (start) move((bottom - event.clientY) / height, start);
  };
  node.addEventListener("pointerdown", (event) => {
    start = present();
    node.setPointerCapture(event.pointerId);
    node.focus({ preventScroll: true });
    event.preventDefault();
    follow(event);
  });
  node.addEventListener("pointermove", follow);
  for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => (start = null));

  const place = (x) => {
    value = x;
    mark.style.height = `${100 * x}%`;
    mark.classList.toggle("mmt-nothing", x === 0);
    node.setAttribute("aria-valuenow", Math.round(100 * x));
    node.setAttribute("aria-valuetext", percent(x));
  };
  return { node, place };
}

/** A column for each answer: its two bars, their values, its name. */
function barChart(answers, present, onMove) {
  const columns = answers.map((answer, i) => {
    const [p, q] = ["p", "q"].map((which) => ({
      ...makeBar(which, answer, () => present(which), (to, from) => onMove(which, i, to, from)),
      value: element("span"),
    }));
    const node = element("div", {},
      element("div", { class: "mmt-pair" }, p.node, q.node),
      element("div", { class: "mmt-share" }, element("b", {}, "p "), p.value),
      element("div", { class: "mmt-share" }, element("b", {}, "q "), q.value),
      element("div", { class: "mmt-answer" }, answer));
    return { node, p, q };
  });
  const node = element("div", { class: "mmt-columns", role: "group", "aria-label": "Two distributions over the same answers" },
    ...columns.map((column) => column.node));
  const show = (distributions) => {
    for (const [which, shares] of Object.entries(distributions)) {
      shares.forEach((x, i) => {
        columns[i][which].place(x);
        columns[i][which].value.textContent = percent(x);
      });
    }
  };
  return { node, show };
}

/** One of the four numbers, and under each answer's bars what this answer adds to it. */
function measureRow({ key, name, unit, adds, degree }, answers) {
  const [number, matching] = ["mmt-number", "mmt-degree"].map((kind) => element("span", { class: kind }));
  const cells = answers.map(() => {
    const [text, bar] = [element("span"), element("span", { class: `mmt-term mmt-${key}` })];
    return { text, bar, node: element("div", { class: "mmt-cell" }, text, element("span", { class: "mmt-ground" }, bar)) };
  });
  const strip = element("div", { class: "mmt-columns", role: "img" }, ...cells.map((cell) => cell.node));
  const head = element("div", { class: "mmt-head" },
    element("p", {}, element("b", {}, name), number, element("span", { class: "mmt-small" }, unit)),
    element("p", { class: "mmt-small" }, "matching degree ", matching));
  const about = element("p", { class: "mmt-small mmt-adds" }, `each answer adds ${adds}`);
  const node = element("div", { class: "mmt-row mmt-measure", "data-measure": key }, head, element("div", {}, about, strip));
  const show = (value, added) => {
    number.textContent = fixed(value, 3);
    matching.textContent = fixed(degree(value), 3);
    strip.setAttribute("aria-label", `What each answer adds to ${name}: ${added.map((x, c) => `${answers[c]} ${signed(x)}`).join(", ")}`);
    added.forEach((x, c) => {
      cells[c].text.textContent = signed(x);
      cells[c].node.classList.toggle("mmt-infinite", x === Infinity);
      cells[c].bar.classList.toggle("mmt-below", x < 0);
      cells[c].bar.style.setProperty("--mmt-size", Math.min(0.8, Math.abs(x))); // what is more is cut off
    });
  };
  return { node, show };
}

const EVEN = Array.from({ length: 201 }, (_, k) => k / 200);
const TINY = Array.from({ length: 12 }, (_, k) => 10 ** (k - 14)); // near 0 and 1, where a KL may grow without bound
const PLACES = [...EVEN, ...TINY, ...TINY.map((x) => 1 - x)].sort((a, b) => a - b);
const CEILING = 2; // what is more runs along the chart's upper edge

/** Move texts at these heights apart, by the least gap, downwards from the highest and back up from the floor. */
function apart(heights, gap, floor) {
  const order = heights.map((_, i) => i).sort((a, b) => heights[a] - heights[b]);
  const placed = [...heights];
  order.forEach((i, k) => {
    if (k) placed[i] = Math.max(placed[i], placed[order[k - 1]] + gap);
  });
  order.reverse().forEach((i, k) => {
    placed[i] = Math.min(placed[i], k ? placed[order[k - 1]] - gap : floor);
  });
  return placed;
}

/** The four numbers along the bar that moved last, with a mark where it stands. */
function courseChart() {
  const [left, right, top, bottom] = [48, 458, 40, 242];
  const atX = (t) => left + t * (right - left);
  const atY = (value) => bottom - (Math.min(CEILING, value) / CEILING) * (bottom - top);
  const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(2)} ${y.toFixed(2)}`).join("L")}`;
  const text = (x, y, words, anchor = "middle") => svg("text", { x, y, "text-anchor": anchor }, words);
  const moving = svg("g");
  const node = svg("svg", { viewBox: "0 0 560 272", class: "mmt-course", role: "img" },
    svg("path", { d: path([[left, top], [left, bottom], [right, bottom]]), class: "mmt-axis" }),
    ...[0, 0.5, 1, 1.5].map((tick) => text(left - 7, atY(tick) + 4, String(tick), "end")),
    text(left - 7, atY(LOG_2) + 4, "log 2", "end"),
    text(left - 7, atY(CEILING) + 4, `≥ ${CEILING}`, "end"),
    ...[0, 0.25, 0.5, 0.75, 1].map((t) => text(atX(t), bottom + 24, `${100 * t}%`)),
    text(0, 12, "nats (cosine: no unit)", "start"),
    svg("path", { d: path([[left, atY(LOG_2)], [right, atY(LOG_2)]]), class: "mmt-bound" }),
    moving);

  /** `here` is where the bar stands, `now` the four numbers, `along(t)` what they would be if it stood at t. */
  const show = (here, now, along, label) => {
    const course = PLACES.map(along);
    const lines = MEASURES.map(({ key, name }) => {
      const values = course.map((found) => found[key]);
      // What is infinite all along may be finite at an end: that is a jump, and no line leads to it.
      if (values.slice(1, -1).every((value) => value === Infinity)) values[0] = values[values.length - 1] = Infinity;
      const points = values.map((value, k) => [atX(PLACES[k]), atY(value)]);
      return { key, points, start: values[0], name: values.at(-1) < Infinity ? name : `${name} ∞` };
    });
    const heights = apart(lines.map(({ points }) => points.at(-1)[1]), 20, bottom);
    moving.replaceChildren(
      svg("path", { d: path([[atX(here), top], [atX(here), bottom]]), class: "mmt-here" }),
      ...lines.map(({ key, points }) => svg("path", { d: path(points), class: `mmt-line mmt-${key}` })),
      ...lines.flatMap(({ name, points }, i) => [
        svg("path", { d: path([points.at(-1), [right + 10, heights[i]]]), class: "mmt-leader" }),
        text(right + 13, heights[i] + 4, name, "start"),
      ]),
      text(left, top - 8, lines.some(({ start }) => start === Infinity) ? "∞" : ""),
      ...lines.map(({ key }) => svg("circle", { cx: atX(here), cy: atY(now[key]), r: 4.5, class: `mmt-mark mmt-${key}` })),
    );
    node.setAttribute("aria-label", label);
  };
  return { node, show };
}

/** A KL in words; where it is infinite, because of which answers. */
function klInWords(first, second, [p, q], answers, value) {
  const name = `KL(${first}‖${second})`;
  if (value < Infinity) return `${name} is ${fixed(value, 2)}.`;
  const excluded = answers.map((_, c) => c).filter((c) => p[c] > 0 && q[c] === 0);
  const lost = percent(total(excluded.map((c) => p[c])));
  return `${name} is infinite: ${second} gives ${excluded.map((c) => answers[c]).join(" and ")} nothing, ${first} ${lost}.`;
}

/** The four numbers in words, as Python says them. */
function inWords(p, q, answers, { cosine, kl_pq, kl_qp, js }) {
  if (p.every((x, c) => x === q[c])) return "p and q are equal: the cosine is 1, and each divergence is 0.";
  if (p.every((x, c) => Math.min(x, q[c]) === 0)) {
    return "p and q have no answer in common: both KLs are infinite, JS is at its most, log 2 = 0.69, and the cosine is 0.";
  }
  const both = [klInWords("p", "q", [p, q], answers, kl_pq), klInWords("q", "p", [q, p], answers, kl_qp)];
  return `${both.join(" ")} JS is ${fixed(js, 2)} of at most 0.69, the cosine ${fixed(cosine, 2)}.`;
}

/** States to start from, made of the opening one with nothing ruled out, or of the present one. */
function presets(opening, present) {
  const n = opening.p.length;
  const positive = (x) => (x.every((share) => share > 0) ? x : x.map((share) => 0.9 * share + 0.1 / n));
  const [p, q] = [positive(opening.p), positive(opening.q)];
  const ratios = p.map((x, c) => x / q[c]);
  const i = ratios.indexOf(Math.max(...ratios)); // the answer that q misses most
  const without = moveBar(q, i, 0);
  const only = (x, kept) => {
    const held = x.map((share, c) => (kept(c) ? share : 0));
    return held.map((share) => share / total(held));
  };
  return {
    "Equal": () => ({ q: present("p") }),
    "q rules out what p holds possible": () => ({ p, q: without, moved: ["q", i] }),
    "p rules out what q holds possible": () => ({ p: without, q: p, moved: ["p", i] }),
    "Nothing in common": () => ({ p: only(p, (c) => c < n / 2), q: only(q, (c) => c >= n / 2), moved: ["q", 0] }),
    "Swap p and q": () => {
      const [which, bar] = present("moved");
      return { p: present("q"), q: present("p"), moved: [which === "p" ? "q" : "p", bar] };
    },
    "Start again": () => opening,
  };
}

function render({ model, el }) {
  el.classList.add("mmt", "mmt-divergence");
  const answers = model.get("answers");
  const present = (trait) => model.get(trait);
  const set = (changes) => {
    for (const [trait, value] of Object.entries(changes)) model.set(trait, value);
    model.save_changes();
  };
  const opening = { p: present("p"), q: present("q"), moved: present("moved") };
  const starts = Object.entries(presets(opening, present)).map(([name, state]) => button(name, () => set(state())));
  const chart = barChart(answers, present, (which, i, to, from) => set({ [which]: moveBar(from, i, to), moved: [which, i] }));
  const rows = MEASURES.map((measure) => ({ ...measure, ...measureRow(measure, answers) }));
  const course = courseChart();
  const status = liveText();
  const [heading, axis] = [element("p", { class: "mmt-heading" }), element("p", { class: "mmt-small mmt-axis-name" })];
  const key = (which, words) => element("li", {}, element("span", { class: `mmt-sample mmt-${which}`, "aria-hidden": "true" }), element("span", {}, element("b", {}, which), `: ${words}`));

  const draw = () => {
    const [p, q, [which, i]] = ["p", "q", "moved"].map(present);
    const here = present(which)[i];
    const found = measures(p, q);
    const added = terms(p, q);
    const along = (t) => (which === "p" ? measures(moveBar(p, i, t), q) : measures(p, moveBar(q, i, t)));
    chart.show({ p, q });
    for (const row of rows) row.show(found[row.key], added[row.key]);
    heading.textContent = `What if ${which} gave ${answers[i]} more, or less?`;
    axis.textContent = `${which} of ${answers[i]}, the others in proportion`;
    course.show(here, found, along, `The four numbers for each height of the bar ${which} of ${answers[i]}, from 0 to 100%; it stands at ${percent(here)}`);
    status.say(inWords(p, q, answers, found));
  };
  const heard = ["change:p", "change:q", "change:moved"];
  for (const event of heard) model.on(event, draw);
  el.append(
    invitation("drag one bar of q to zero.", "Which of the four numbers notices, and which explodes?"),
    element("div", { class: "mmt-controls" }, ...starts),
    element("div", { class: "mmt-row" },
      element("div", { class: "mmt-head mmt-words" },
        element("ul", {}, key("p", "what one modality says of a thing"), key("q", "what another says of it")), status.node),
      chart.node),
    ...rows.map((row) => row.node),
    element("p", { class: "mmt-small" }, "Matching degree: the cosine, −KL, or 1 − JS / log 2; larger is closer."),
    heading, course.node, axis,
  );
  draw();
  return () => heard.forEach((event) => model.off(event, draw));
}

export default { render };
