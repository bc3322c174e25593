// A digit's views, each clean, noisy or absent: what a fuser answers, what it weighs, what carried the answer.

const sum = (values) => values.reduce((total, x) => total + x, 0);
const dot = (u, v) => u.reduce((total, x, i) => total + x * v[i], 0);

function softmax(scores) {
  const highest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - highest));
  const total = sum(powers);
  return powers.map((x) => x / total);
}

function logSoftmax(scores) {
  const highest = Math.max(...scores);
  const total = highest + Math.log(sum(scores.map((score) => Math.exp(score - highest))));
  return scores.map((score) => score - total);
}

/** The models from the bytes that Python sent, one after the other: tokens and votes, then the parameters. */
export function unpack(model) {
  const [integers, parameters] = [numbers(model.get("integers"), Int16Array), numbers(model.get("parameters"), Float32Array)];
  const [M, items, states] = [model.get("views").length, model.get("digits").length, model.get("state_names").length - 1]; // less "absent"
  let [i, j] = [0, 0];
  const vectors = (width, scale) => {
    const from = i;
    i += items * M * states * width;
    return (item, m, state) => {
      const start = from + ((item * M + m) * states + state) * width;
      return Array.from(integers.subarray(start, start + width), (x) => x * scale);
    };
  };
  const exactly = (count) => Array.from(parameters.subarray(j, (j += count)));
  return model.get("models").map(({ name, kind, dim: D, scales }) => {
    const tokens = vectors(D, scales[0]);
    const votes = kind === "gated" ? vectors(M * D, scales[1]) : null;
    const fuser = exactly(kind === "gated" ? M * D : D);
    const weight = Array.from({ length: 10 }, () => exactly(D));
    return { name, kind, D, tokens, votes, fuser, weight, bias: exactly(10) };
  });
}

/** Attention: a softmax of the present tokens' products with the query weighs them. */
function attend({ D, fuser: query }, h, present) {
  const weights = h.map(() => 0);
  softmax(present.map((m) => dot(query, h[m]) / Math.sqrt(D))).forEach((weight, i) => (weights[present[i]] = weight));
  return { weights, point: query.map((_, k) => sum(present.map((m) => weights[m] * h[m][k]))) };
}

/** Gates: each view's part, the sum of the present ones through a sigmoid, then the gated tokens' sum. */
function gate({ D, fuser: bias }, h, votes, present) {
  const gates = bias.map((c, k) => 1 / (1 + Math.exp(-c - sum(present.map((m) => votes[m][k])))));
  const weights = h.map((_, m) => (present.includes(m) ? sum(gates.slice(m * D, (m + 1) * D)) / D : 0));
  const point = Array.from({ length: D }, (_, k) => sum(present.map((m) => gates[m * D + k] * Math.tanh(h[m][k]))));
  return { weights, point };
}

/** Each player's mean gain over all orders of joining. `value(set)` is asked once about each set, the bits of a number. */
export function shapley(value, players) {
  const v = Array.from({ length: 1 << players }, (_, set) => value(set));
  const factorial = (n) => (n > 1 ? n * factorial(n - 1) : 1);
  const size = (set) => (set ? (set & 1) + size(set >> 1) : 0);
  const share = (set) => (factorial(size(set)) * factorial(players - size(set) - 1)) / factorial(players);
  return Array.from({ length: players }, (_, m) =>
    sum(v.map((_, set) => (set & (1 << m) ? 0 : share(set) * (v[set | (1 << m)] - v[set])))));
}

/** What a model makes of an item whose views have these states (0: absent, else 1 + the amount of noise). */
export function evaluate(one, item, states, right) {
  const present = states.flatMap((state, m) => (state ? [m] : []));
  const of = (vectors) => states.map((state, m) => (state ? vectors(item, m, state - 1) : null));
  const [h, votes] = [of(one.tokens), one.votes && of(one.votes)];
  const answer = (shown) => {
    const { weights, point } = one.kind === "gated" ? gate(one, h, votes, shown) : attend(one, h, shown);
    return { weights, logP: logSoftmax(one.weight.map((row, c) => dot(row, point) + one.bias[c])) };
  };
  const { weights, logP } = answer(present);
  const subset = (set) => present.filter((_, i) => set & (1 << i));
  const shares = shapley((set) => answer(subset(set)).logP[right], present.length);
  const values = states.map(() => 0);
  present.forEach((m, i) => (values[m] = shares[i]));
  return { present, p: logP.map(Math.exp), weights, shapley: values, all: logP[right], none: answer([]).logP[right] };
}

const fixed = (x, places) => {
  const text = Math.abs(x).toFixed(places);
  return (x < 0 && Number(text) ? "−" : "") + text;
};
const signed = (x) => (Number(x.toFixed(2)) > 0 ? "+" : "") + fixed(x, 2);
const percent = (share) => `${Math.round(100 * share)}%`;
const certainty = (p) => (p >= 0.995 ? "over 99%" : percent(p));
const largest = (values, among) => among.reduce((best, m) => (values[m] > values[best] ? m : best), among[0]);
const between = (least, x, most) => Math.max(least, Math.min(most, x));

/** A bar on a track: `show(from, to, tick)` in shares of its width; the tick says where another bar would end. */
function bar(kind = "") {
  const [filled, tick] = [element("span", { class: "mmt-filled" }), element("span", { class: "mmt-tick" })];
  const node = element("span", { class: `mmt-bar ${kind}`, "aria-hidden": "true" }, filled, tick);
  const show = (from, to, at = null) => {
    filled.style.left = `${100 * Math.min(from, to)}%`;
    filled.style.width = `${100 * Math.abs(to - from)}%`;
    tick.hidden = at === null;
    tick.style.left = `${100 * (at ?? 0)}%`;
  };
  return { node, show };
}

/** A digit's sixteen rows of fifteen grey values, dark on white. */
function digitPicture(pictures, item) {
  const node = element("canvas", { class: "mmt-digit", "aria-hidden": "true", width: 15, height: 16 });
  const context = node.getContext("2d");
  const image = context.createImageData(15, 16);
  for (let i = 0; i < 240; i++) image.data.set([...Array(3).fill(255 - 42 * pictures[240 * item + i]), 255], 4 * i);
  context.putImageData(image, 0, 0);
  return node;
}

/** The ten probabilities as bars; words beside them mark the answer and the right class. */
function classTable() {
  const rows = Array.from({ length: 10 }, (_, c) => {
    const [drawn, share, note] = [bar(), element("td", { class: "mmt-number" }), element("td", { class: "mmt-note" })];
    return { drawn, share, note, node: element("tr", {}, element("th", { scope: "row" }, String(c)), element("td", { class: "mmt-track" }, drawn.node), share, note) };
  });
  const heads = ["digit", "probability", "", ""].map((text) => element(text ? "th" : "td", text ? { scope: "col" } : {}, text));
  const node = element("table", { class: "mmt-classes" }, element("caption", {}, "What it says"),
    element("tr", {}, ...heads), ...rows.map((row) => row.node));
  const show = (p, right) => {
    const said = largest(p, [...p.keys()]);
    rows.forEach((row, c) => {
      row.drawn.show(0, p[c]);
      row.share.textContent = percent(p[c]);
      row.note.textContent = [c === said && "answer", c === right && "right"].filter(Boolean).join(", ");
      row.node.classList.toggle("mmt-right", c === right);
      row.node.classList.toggle("mmt-said", c === said);
    });
  };
  return { node, show };
}

/** Each view with its state, its weight and its Shapley value; marks say what these are with all views clean. */
function viewTable(views, stateNames, onChange) {
  const rows = views.map((view, m) => {
    const control = select(view, stateNames, 0, (state) => onChange(m, state));
    const [weight, share] = [bar(), bar("mmt-signed")].map((drawn) => ({ drawn, text: element("span", { class: "mmt-number" }) }));
    const cells = [weight, share].map(({ drawn, text }) => element("td", {}, element("span", { class: "mmt-measure" }, drawn.node, text)));
    return { control, weight, share, node: element("tr", {}, element("th", { scope: "row" }, control.node), ...cells) };
  });
  const [weightHead, shareHead] = [0, 1].map(() => element("th", { scope: "col" }));
  const node = element("table", { class: "mmt-views" }, element("caption", {}, "What it weighs, and what carries the answer"),
    element("tr", {}, element("th", { scope: "col" }, "view"), weightHead, shareHead), ...rows.map((row) => row.node));
  const show = (kind, states, now, clean, marked) => {
    const most = Math.max(...now.shapley.map(Math.abs), ...clean.shapley.map(Math.abs));
    const limit = [0.5, 1, 2, 5, 10, 20, 50, 100].find((bound) => bound >= most) ?? most;
    weightHead.textContent = `${kind === "gated" ? "mean gate" : "attention weight"},\n0 to 100%`;
    shareHead.textContent = `Shapley value,\n−${limit} to ${limit} nats`;
    const place = (value) => between(0, 0.5 + value / (2 * limit), 1);
    rows.forEach(({ control, weight, share, node: line }, m) => {
      control.input.value = states[m];
      weight.drawn.show(0, now.weights[m], marked ? clean.weights[m] : null);
      weight.text.textContent = states[m] ? percent(now.weights[m]) : "–";
      share.drawn.show(0.5, place(now.shapley[m]), marked ? place(clean.shapley[m]) : null);
      share.text.textContent = states[m] ? signed(now.shapley[m]) : "–";
      line.classList.toggle("mmt-absent", !states[m]);
    });
  };
  return { node, show };
}

/** The present answer in words, and what became of the views that are noise. */
function sentence({ name, kind }, views, stateNames, states, right, now, clean) {
  const said = largest(now.p, [...now.p.keys()]);
  const verdict = `${certainty(now.p[said])} sure: ${said === right ? "right" : "wrong, it is a " + right}.`;
  if (!now.present.length) return `${name}: no view is present. What is left, the bias of the head, says ${said}, ${verdict}`;
  const weight = kind === "gated" ? "mean gate" : "weight";
  const [weighed, carried] = [now.weights, now.shapley].map((values) => largest(values, now.present));
  const noisy = now.present.filter((m) => stateNames[states[m]].startsWith("noise")).map((m) =>
    ` With ${stateNames[states[m]]}, ${views[m]} has ${weight} ${percent(now.weights[m])} (all clean: ${percent(clean.weights[m])}) and Shapley value ${signed(now.shapley[m])}.`);
  return `${name}: it says ${said}, ${verdict} Largest ${weight}: ${views[weighed]}, ${percent(now.weights[weighed])}. `
    + `Largest Shapley value: ${views[carried]}, ${signed(now.shapley[carried])} nats.${noisy.join("")}`;
}

function render({ model, el }) {
  el.classList.add("mmt", "mmt-fusion");
  el.style.setProperty("--mmt-right", model.get("right_colour"));
  const [views, stateNames, digits, presets] = ["views", "state_names", "digits", "presets"].map((name) => model.get(name));
  const [models, pictures] = [unpack(model), numbers(model.get("pictures"), Uint8Array)];
  const CLEAN = stateNames.indexOf("clean");
  const set = (trait, value) => {
    model.set(trait, value);
    model.save_changes();
  };
  const group = `mmt-model-${Math.random()}`; // two widgets may share a page
  const choices = models.map(({ name }) => {
    const input = keepKeys(element("input", { type: "radio", name: group, onchange: () => set("model", name) }));
    return { name, input, node: element("label", {}, input, name) };
  });
  const chooser = element("div", { class: "mmt-controls", role: "radiogroup", "aria-label": "Model" }, ...choices.map(({ node }) => node));
  const pick = digits.map((digit, item) => {
    const node = button("", () => set("item", item));
    node.replaceChildren(digitPicture(pictures, item));
    node.setAttribute("aria-label", `digit ${item + 1} of ${digits.length}: a ${digit}`);
    return node;
  });
  const picker = element("div", { class: "mmt-controls mmt-items", role: "group", "aria-label": "Digit" }, ...pick);
  const allClean = Object.fromEntries(views.map((view) => [view, "clean"]));
  const tries = presets.map(({ name, states, item }) => button(name, () => {
    if (item !== undefined) set("item", item);
    set("states", { ...allClean, ...states });
  }));
  const status = liveText();
  const classes = classTable();
  const seen = viewTable(views, stateNames, (m, state) => set("states", { ...model.get("states"), [views[m]]: stateNames[state] }));
  const total = element("p", { class: "mmt-muted mmt-total" });

  const draw = () => {
    const one = models.find(({ name }) => name === model.get("model"));
    const [item, chosen] = [model.get("item"), model.get("states")];
    const [right, states] = [digits[item], views.map((view) => stateNames.indexOf(chosen[view]))];
    const now = evaluate(one, item, states, right);
    const clean = evaluate(one, item, views.map(() => CLEAN), right);
    for (const choice of choices) choice.input.checked = choice.name === one.name;
    pick.forEach((node, i) => node.setAttribute("aria-pressed", i === item));
    classes.show(now.p, right);
    seen.show(one.kind, states, now, clean, states.some((state) => state !== CLEAN));
    total.textContent = `The Shapley values add up to ${signed(now.all - now.none)}: the log-probability of ${right} is ${fixed(now.all, 2)} `
      + `with the present views and ${fixed(now.none, 2)} with none.`;
    status.say(sentence(one, views, stateNames, states, right, now, clean));
  };
  const heard = ["change:model", "change:item", "change:states"];
  for (const event of heard) model.on(event, draw);
  el.append(
    invitation("turn a view into noise, with a model trained as usual and with one that met noise in training.",
      "Does the model notice that a view has become useless?"),
    ...(models.length > 1 ? [chooser] : []),
    picker,
    element("div", { class: "mmt-controls mmt-presets", role: "group", "aria-label": "Try this" }, ...tries),
    status.node,
    element("div", { class: "mmt-sides" }, classes.node, element("div", {}, seen.node, total)),
    element("p", { class: "mmt-muted mmt-key" }, "Noise 1, 2, 4: one stored draw with that many times the standard deviation of a feature. "
      + "Thin marks: the same with all views clean. Shapley values: what each present view adds to the log-probability of the right class, "
      + "the mean over all orders in which views can join. The pictures have no noise."),
  );
  draw();
  return () => heard.forEach((event) => model.off(event, draw));
}

export default { render };
