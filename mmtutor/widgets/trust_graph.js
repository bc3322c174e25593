// A conditional random field as a graph: whom it trusts, what each would be worth alone, what mean field says.

const total = (list) => list.reduce((sum, x) => sum + x, 0);
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const level = (p) => Math.round(1e9 * p); // so that rounding orders nothing

/** ϑ, −∞ for what is absent, and W = w s, zero on its diagonal. */
function potentials({ unary, similarity, coupling, present }) {
  return {
    theta: unary.map((x, m) => (present[m] ? x : -Infinity)),
    W: similarity.map((row, m) => row.map((s, n) => (m === n ? 0 : coupling * s))),
  };
}

/** All states of m modalities, from 1…1 down to 0…0. */
function allStates(m) {
  return Array.from({ length: 2 ** m }, (_, k) => Array.from({ length: m }, (_, i) => 1 - ((k >> (m - 1 - i)) & 1)));
}

/** Σ ϑ_m u_m + Σ_{m<n} W_mn u_m u_n */
function exponent(u, theta, W) {
  const on = u.flatMap((trusted, m) => (trusted ? [m] : [])); // by choosing: 0 times −∞ is not a number
  return total(on.map((m) => theta[m])) + total(on.flatMap((m, k) => on.slice(k + 1).map((n) => W[m][n])));
}

/** q_m ← σ(ϑ_m + Σ_n W_mn q_n), one modality after the other, until nothing changes. */
function meanField(theta, W) {
  const q = theta.map(sigmoid);
  for (let sweep = 0; sweep < 100; sweep++) {
    const before = [...q];
    for (let m = 0; m < q.length; m++) q[m] = sigmoid(theta[m] + total(W[m].map((x, n) => x * q[n])));
    if (q.every((x, m) => Math.abs(x - before[m]) <= 1e-6)) break;
  }
  return q;
}

/** ω_k = (p_(k) − p_(k+1)) / p_(1) */
function confidenceWeights(marginals) {
  const sorted = [...marginals].sort((a, b) => b - a);
  const strictest = sorted.map((p) => (sorted[0] > 0 ? p / sorted[0] : 1));
  return strictest.map((x, k) => x - (strictest[k + 1] ?? 0));
}

/** All that the page shows of a field. */
export function solve(field) {
  const { theta, W } = potentials(field);
  const states = allStates(theta.length).map((u) => ({ u, exponent: exponent(u, theta, W) }));
  const highest = Math.max(...states.map((state) => state.exponent));
  const log_partition = highest + Math.log(total(states.map((state) => Math.exp(state.exponent - highest))));
  for (const state of states) state.p = Math.exp(state.exponent - log_partition);
  const marginals = theta.map((_, m) => Math.min(1, total(states.map(({ u, p }) => u[m] * p))));
  states.sort((a, b) => level(b.p) - level(a.p));
  return {
    marginals, states, log_partition,
    alone: theta.map(sigmoid),
    mean_field: meanField(theta, W),
    weights: confidenceWeights(marginals),
  };
}

const ALL = ["nobody", "one", "both", "all three", "all four", "all five", "all six"];
const number = (x) => String(Number(x.toFixed(2))).replace("-", "−");

function percent(x) {
  if (x > 0 && x < 0.005) return "<1%";
  if (x >= 0.995 && x < 1) return ">99%";
  return `${Math.round(100 * x)}%`;
}

function listed(names) {
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names[0];
}

/** Who is trusted in a state, in words. */
function company(u, { modalities, present }) {
  const trusted = modalities.filter((_, m) => u[m] && present[m]);
  if (trusted.length === 0) return "nobody";
  if (trusted.length === total(present.map(Number))) return ALL[trusted.length];
  return trusted.length > 1 ? listed(trusted) : `only ${trusted[0]}`;
}

function mostProbable(field, states) {
  const best = states.filter(({ p }) => level(p) === level(states[0].p));
  const share = percent(states[0].p);
  if (best.length > 2) return `Most probable: ${best.length} states alike (${share} each).`;
  return `Most probable: ${best.map(({ u }) => company(u, field)).join(" or ")} (${share}${best.length > 1 ? " each" : ""}).`;
}

/** Whom the field trusts, in words, as Python says it. */
function inWords(field, { marginals, alone, mean_field, states }) {
  const there = field.modalities.map((_, m) => m).filter((m) => field.present[m]);
  const share = (m) => percent(marginals[m]);
  if (there.length === 0) return "Nobody is there, and nobody is trusted.";
  if (there.length === 1) return `Only ${field.modalities[there[0]]} is there: ${share(there[0])}, as alone.`;
  const alike = (end) => {
    const group = there.filter((m) => share(m) === share(end));
    const who = group.length === there.length ? ALL[there.length] : listed(group.map((m) => field.modalities[m]));
    const [low, high] = [Math.min, Math.max].map((of) => percent(of(...group.map((m) => alone[m]))));
    return `${who}, ${share(end)} (alone ${low === high ? low : `${low} to ${high}`})`;
  };
  const order = [...there].sort((a, b) => marginals[b] - marginals[a]);
  const [most, least] = [alike(order[0]), alike(order.at(-1))];
  const trust = most === least ? `Trusted alike: ${most}.` : `Most trusted: ${most}; least: ${least}.`;
  const points = Math.round(100 * Math.max(...mean_field.map((q, m) => Math.abs(q - marginals[m]))));
  const off = points ? `is up to ${points} point${points === 1 ? "" : "s"} off` : "agrees";
  return `${trust} ${mostProbable(field, states)} Mean field ${off}.`;
}

/** Where the modalities stand on the unit circle; y goes down. */
function places(m) {
  const first = { 2: Math.PI, 4: -0.75 * Math.PI }[m] ?? -0.5 * Math.PI;
  const angles = Array.from({ length: m }, (_, i) => first + (2 * Math.PI * i) / m);
  return angles.map((angle) => [Math.cos(angle), Math.sin(angle)]);
}

function pairsOf(m) {
  return Array.from({ length: m }, (_, a) => Array.from({ length: m - a - 1 }, (_, k) => [a, a + 1 + k])).flat();
}

/** The graph: discs whose area is the marginal, lines as thick as a cosine is large, dashed where it is negative. */
function graph(modalities, onSelect) {
  const [middle, radius, ring, longest] = [170, 102, 27, 14];
  const spots = places(modalities.length).map(([x, y]) => [middle + radius * x, radius * y]);
  const heights = spots.map(([, y]) => y);
  const [top, bottom] = [Math.min(...heights) - ring - 22, Math.max(...heights) + ring + 24];
  const moving = svg("g");
  const node = svg("svg", { viewBox: `0 ${top} ${2 * middle} ${bottom - top}`, class: "mmt-graph", role: "img" }, moving);
  const short = (name) => (name.length > longest ? `${name.slice(0, longest - 1)}…` : name);

  const edge = (pair, { similarity, coupling, present, selected }) => {
    const [[ax, ay], [bx, by]] = pair.map((m) => spots[m]);
    const [dx, dy] = [bx - ax, by - ay].map((d) => (ring * d) / Math.hypot(bx - ax, by - ay));
    const ends = { x1: ax + dx, y1: ay + dy, x2: bx - dx, y2: by - dy }; // from ring to ring
    const s = similarity[pair[0]][pair[1]];
    const kind = s > 0 ? "mmt-agree" : s < 0 ? "mmt-disagree" : "mmt-neither";
    const counts = coupling > 0 && pair.every((m) => present[m]);
    return [
      ...(String(pair) === String(selected) ? [svg("line", { ...ends, class: "mmt-selected" })] : []),
      svg("line", { ...ends, class: `mmt-edge ${kind}${counts ? "" : " mmt-idle"}`, "stroke-width": 1 + 6 * Math.abs(s) }),
      svg("line", { ...ends, class: "mmt-hit", onclick: () => onSelect(pair) }),
    ];
  };

  const disc = (name, m, { present }, p) => {
    const [x, y] = spots[m];
    const text = (dy, words, kind) => svg("text", { x, y: y + dy, "text-anchor": "middle", class: kind }, words);
    return [
      svg("circle", { cx: x, cy: y, r: ring, class: `mmt-ring${present[m] ? "" : " mmt-absent"}` }),
      svg("circle", { cx: x, cy: y, r: ring * Math.sqrt(p), class: "mmt-disc" }),
      text(4.5, present[m] ? percent(p) : "absent", present[m] ? "mmt-trust-value" : ""),
      text(y < -1 ? -ring - 8 : ring + 17, short(name), "mmt-name"),
    ];
  };

  const show = (field, { marginals }) => {
    moving.replaceChildren(
      ...pairsOf(modalities.length).flatMap((pair) => edge(pair, field)),
      ...modalities.flatMap((name, m) => disc(name, m, field, marginals[m])),
    );
    node.setAttribute("aria-label", `Graph. Trusted: ${modalities.map((name, m) => `${name} ${field.present[m] ? percent(marginals[m]) : "absent"}`).join(", ")}. `
      + `Cosines: ${pairsOf(modalities.length).map(([a, b]) => `${modalities[a]} and ${modalities[b]} ${number(field.similarity[a][b])}`).join(", ")}.`);
  };
  return { node, show };
}

const ESTIMATES = [["marginals", "exact"], ["alone", "alone"], ["mean_field", "mean field"]];

/** A modality's controls, and how far it is trusted: exactly, alone, by mean field. */
function memberRow(name, m, read, onUnary, onPresent) {
  const knob = slider({
    label: "ϑ", min: -5, max: 5, step: 0.1, value: 0,
    show: (x) => (read("present")[m] ? number(x) : "−∞"), onInput: onUnary,
  });
  knob.input.setAttribute("aria-label", `ϑ of ${name}`);
  const absent = checkbox("absent", false, (checked) => onPresent(!checked));
  absent.input.setAttribute("aria-label", `${name} absent`);
  const marks = ESTIMATES.map(([key]) => element("span", { class: `mmt-at mmt-${key}` }));
  const shares = ESTIMATES.map(() => element("span"));
  const node = element("div", { class: "mmt-member", role: "group", "aria-label": name },
    element("div", { class: "mmt-who" }, element("b", {}, name), absent.node),
    knob.node,
    element("div", {},
      element("div", { class: "mmt-track", "aria-hidden": "true" }, ...marks),
      element("div", { class: "mmt-estimates" }, ...ESTIMATES.map(([key, words], i) =>
        element("span", { "data-estimate": key }, element("span", { class: `mmt-at mmt-${key}`, "aria-hidden": "true" }), `${words} `, shares[i])))));
  const show = ({ unary, present }, found) => {
    knob.set(unary[m]);
    knob.input.disabled = !present[m];
    absent.input.checked = !present[m];
    node.classList.toggle("mmt-off", !present[m]);
    ESTIMATES.forEach(([key], i) => {
      marks[i].style.setProperty("--mmt-share", found[key][m]);
      shares[i].textContent = percent(found[key][m]);
    });
  };
  return { node, show };
}

/** A state as a small copy of the graph: filled dots are trusted, a point stands for what is absent. */
function glyph(u, present) {
  const dots = places(u.length).map(([x, y], m) => svg("circle", {
    cx: 10 * x, cy: 10 * y, r: present[m] ? 3.3 : 1, class: u[m] && present[m] ? "mmt-full" : "mmt-empty",
  }));
  return svg("svg", { viewBox: "-14 -14 28 28", class: "mmt-glyph", "aria-hidden": "true" }, ...dots);
}

/** A list of states, each with its share as a bar. */
function shareList(field, shares) {
  return element("ul", { class: "mmt-shares" }, ...shares.map(({ u, p }) => element("li", { "data-state": u.join("") },
    glyph(u, field.present),
    element("span", { class: "mmt-words" }, company(u, field), element("span", { class: "mmt-bar", style: `width:${100 * p}%` })),
    element("span", { class: "mmt-percent" }, percent(p)))));
}

/** The eight most probable states of those that can be, and what is left for the others. */
function stateList(field, { states }) {
  const possible = states.filter(({ u }) => u.every((trusted, m) => !trusted || field.present[m]));
  const others = possible.slice(8);
  const rest = others.length ? [element("p", { class: "mmt-muted" }, `${others.length} other states together: ${percent(total(others.map(({ p }) => p)))}`)] : [];
  return [shareList(field, possible.slice(0, 8)), ...rest];
}

/** The sets of the k most trusted that have a weight, from one to all. */
function weightList(field, { marginals, weights }) {
  const order = marginals.map((_, m) => m).sort((a, b) => level(marginals[b]) - level(marginals[a]));
  const sets = weights.map((p, k) => ({ u: marginals.map((_, m) => (order.indexOf(m) <= k ? 1 : 0)), p }));
  return shareList(field, sets.filter(({ p }) => level(p) > 0));
}

/** Fields to start from. */
function presets(m, opening) {
  const each = (x) => Array.from({ length: m }, (_, i) => x(i));
  const cosines = (s) => each((a) => each((b) => (a === b ? 1 : s(a, b))));
  const last = m - 1;
  const plain = { unary: each(() => 0.5), coupling: 2, present: each(() => true), selected: [0, last] };
  const odd = { ...plain, similarity: cosines((a, b) => (a === last || b === last ? -0.2 : 0.8)) };
  const agreed = { ...plain, similarity: cosines(() => 0.8) };
  const against = { [`${["Two", "Three", "Four", "Five"][m - 3]} against one`]: odd };
  return {
    ...(m > 2 ? against : {}),
    "Two who disagree": { ...plain, similarity: cosines(() => -0.8), present: each((i) => i < 2), selected: [0, 1] },
    "All agree": agreed,
    "No coupling (w = 0)": { coupling: 0 },
    "One is absent": { ...odd, present: each((i) => i > 0), selected: [last - 1, last] },
    "Everybody or nobody": { ...agreed, unary: each(() => -4), coupling: 10 / last }, // all together: Σϑ + Σw s = 0, as nobody
    "Start again": opening,
  };
}

const TRAITS = ["unary", "similarity", "coupling", "present", "selected"];

function render({ model, el }) {
  el.classList.add("mmt", "mmt-trust");
  const modalities = model.get("modalities");
  const read = (trait) => model.get(trait);
  const present = () => Object.fromEntries(TRAITS.map((trait) => [trait, read(trait)]));
  const set = (changes) => {
    for (const [trait, value] of Object.entries(changes)) model.set(trait, value);
    model.save_changes();
  };
  const replaced = (trait, m, value) => set({ [trait]: read(trait).map((x, i) => (i === m ? value : x)) });
  const setCosine = (s) => {
    const pair = read("selected");
    set({ similarity: read("similarity").map((row, a) => row.map((x, b) => (a !== b && pair.includes(a) && pair.includes(b) ? s : x))) });
  };

  const starts = Object.entries(presets(modalities.length, present())).map(([name, state]) => button(name, () => set(state)));
  const drawing = graph(modalities, (pair) => set({ selected: pair }));
  const coupling = slider({ label: "coupling w", min: 0, max: 10, step: 0.1, value: 0, show: number, onInput: (w) => set({ coupling: w }) });
  coupling.input.setAttribute("aria-label", "coupling w");
  const pairs = pairsOf(modalities.length);
  const chosen = select("pair", pairs.map(([a, b]) => `${modalities[a]} – ${modalities[b]}`), 0, (i) => set({ selected: pairs[i] }));
  const cosine = slider({ label: "cosine s", min: -1, max: 1, step: 0.05, value: 0, show: number, onInput: setCosine });
  const members = modalities.map((name, m) => memberRow(name, m, read, (x) => replaced("unary", m, x), (there) => replaced("present", m, there)));
  const status = liveText();
  const [states, weights] = [element("div"), element("div")];

  const draw = () => {
    const field = { modalities, ...present() };
    const found = solve(field);
    const [a, b] = field.selected;
    drawing.show(field, found);
    coupling.set(field.coupling);
    chosen.input.value = pairs.findIndex((pair) => String(pair) === String(field.selected));
    cosine.set(field.similarity[a][b]);
    cosine.input.setAttribute("aria-label", `cosine s of ${modalities[a]} and ${modalities[b]}`);
    for (const member of members) member.show(field, found);
    states.replaceChildren(...stateList(field, found));
    weights.replaceChildren(weightList(field, found));
    status.say(inWords(field, found));
  };
  const heard = TRAITS.map((trait) => `change:${trait}`);
  for (const event of heard) model.on(event, draw);
  const heading = (text) => element("p", { class: "mmt-heading" }, text);
  const about = (text) => element("p", { class: "mmt-muted" }, text);
  el.append(
    invitation("move the coupling w down to 0 and up again.",
      "Some agree, one does not, and nothing is wrong with any of them by itself: whom does the field trust?"),
    element("div", { class: "mmt-controls" }, ...starts),
    element("div", { class: "mmt-halves" },
      element("div", {}, drawing.node,
        about("Disc: how far a modality is trusted. Line: how well two agree; the thicker, the more the cosine differs from 0; dashed: below 0. Click a line to choose its pair.")),
      element("div", { class: "mmt-side" }, coupling.node, chosen.node, cosine.node, status.node)),
    heading("Each modality: what speaks for it by itself, and how far it is trusted"),
    ...members.map((member) => member.node),
    element("div", { class: "mmt-halves" },
      element("div", {}, heading("States of the field"), about("Who is trusted together, the most probable first."), states),
      element("div", {}, heading("Weights ω for a fuser"), about("It sees the most trusted alone, the two most trusted, … and all, with these weights."), weights)),
  );
  draw();
  return () => heard.forEach((event) => model.off(event, draw));
}

export default { render };
