// One thing goes through the maps, in the page: its points, the mean of those whose arrows are whole, the heads.

const TITLES = { image: "picture", video: "animation", text: "name" };
const LETTERS = { image: "I", video: "V", text: "T" };
const PACE = 125; // milliseconds a frame
const LOOPS = 3; // of an animation, then it rests

/** Rebuild the points and the heads from the model's quantised arrays. */
export function readMaps(model) {
  const dim = model.get("dim");
  const modalities = model.get("modalities");
  const valid = model.get("valid");
  const points = numbers(model.get("points"), Int8Array);
  const weights = numbers(model.get("weights"), Int8Array);
  const biases = numbers(model.get("biases"), Float32Array);
  const step = model.get("points_scale");
  let [w, b] = [0, 0];
  const heads = model.get("tasks").map((task) => ({
    ...task,
    weight: weights.subarray(w, (w += task.answers.length * dim)),
    bias: biases.subarray(b, (b += task.answers.length)),
  }));
  const has = (thing, modality) => valid[thing][modalities.indexOf(modality)];
  const point = (thing, modality) => {
    const start = (thing * modalities.length + modalities.indexOf(modality)) * dim;
    return Array.from(points.subarray(start, start + dim), (x) => x * step);
  };
  return { dim, modalities, heads, has, point, count: valid.length };
}

/** The modalities whose points reach the space. */
const arriving = (maps, thing, cut) => maps.modalities.filter((m) => maps.has(thing, m) && !cut.includes(m));

/** Fusion: the mean of the points that arrive; zero if none does. */
export function fuse(maps, thing, cut) {
  const kept = arriving(maps, thing, cut);
  const z = new Array(maps.dim).fill(0);
  for (const m of kept) maps.point(thing, m).forEach((x, d) => (z[d] += x / kept.length));
  return z;
}

/** A head's scores of a point. */
export function scores(maps, head, z) {
  return Array.from(head.bias, (bias, c) => bias + head.step * z.reduce((sum, x, d) => sum + x * head.weight[c * maps.dim + d], 0));
}

const best = (maps, head, z) => scores(maps, head, z).reduce((top, score, c, all) => (score > all[top] ? c : top), 0);
const cosine = (a, b) => a.reduce((sum, x, d) => sum + x * b[d], 0) / (Math.hypot(...a) * Math.hypot(...b) || 1);

/** Where a thing's own partner stands, by cosine, among all things that have one: { cosine, place, of }. */
export function partner(maps, thing, from, to) {
  const z = maps.point(thing, from);
  const all = Array.from({ length: maps.count }, (_, i) => i).filter((i) => maps.has(i, to));
  const own = cosine(z, maps.point(thing, to));
  return { cosine: own, place: 1 + all.filter((i) => cosine(z, maps.point(i, to)) > own).length, of: all.length };
}

const listed = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
const titles = (modalities) => listed(modalities.map((m) => TITLES[m]));
const ordinal = (n) => `${n}${(n % 100 < 11 || n % 100 > 13) && ["st", "nd", "rd"][(n % 10) - 1] || "th"}`;

/** How two points of one thing lie to each other, in words. */
function meeting(maps, thing, a, b) {
  const [there, back] = [partner(maps, thing, a, b), partner(maps, thing, b, a)];
  const worst = Math.max(there.place, back.place);
  const verb = worst === 1 ? "meet" : worst <= 3 ? "nearly meet" : "miss each other";
  return ` ${verb}: seen from the ${TITLES[a]}, the ${TITLES[b]} is ${ordinal(there.place)} of ${there.of}; from the ${TITLES[b]}, `
    + `the ${TITLES[a]} is ${ordinal(back.place)} of ${back.of} (cosine ${there.cosine.toFixed(2)}).`;
}

/** What the cuts change, in words: which answers turn, which stay, how many are right. */
function consequences(maps, thing, cut) {
  const [before, now] = [[], cut].map((some) => fuse(maps, thing, some)).map((z) => maps.heads.map((head) => best(maps, head, z)));
  const told = maps.heads.map(({ truth }, t) => ({ truth: truth[thing], said: now[t] })).filter(({ truth }) => truth.length);
  const right = `${told.filter(({ truth, said }) => truth.includes(said)).length} of ${told.length} are right.`;
  if (!cut.length) return `all arrows whole: ${right}`;
  const turned = maps.heads.flatMap(({ name, answers }, t) => (before[t] === now[t] ? [] : `${name} turns from ${answers[before[t]]} to ${answers[now[t]]}`));
  const stay = maps.heads.filter((_, t) => before[t] === now[t]).map(({ name }) => name);
  if (stay.length) turned.push(`${listed(stay)} ${stay.length > 1 ? "stay" : "stays"}`);
  const without = arriving(maps, thing, cut).length ? `without the ${titles(cut)}` : "where nothing arrives and the heads answer by habit";
  return `${without}: ${turned.join("; ")}. ${right}`;
}

/** The activations on the way: modality -> stops, each with its shape and the numbers of a thing. */
function readStops(model, count) {
  const activations = numbers(model.get("activations"), Uint8Array);
  let start = 0;
  const stop = ({ shape, size }) => {
    const [begin, cells] = [start, size.reduce((a, b) => a * b)];
    start += count * cells;
    return { shape, size, of: (thing) => Array.from(activations.subarray(begin + thing * cells, begin + (thing + 1) * cells)) };
  };
  return Object.fromEntries(Object.entries(model.get("stops")).map(([m, list]) => [m, list.map(stop)]));
}

async function render({ model, el }) {
  el.classList.add("mmt", "mmt-walk");
  const maps = readMaps(model);
  const { modalities, dim } = maps;
  const names = model.get("names");
  const stops = readStops(model, names.length);
  const sprite = await loadSprite(model.get("sprite"), model.get("sprite_size"), model.get("sprite_columns"));
  const status = liveText();
  const set = (trait, value) => {
    model.set(trait, value);
    model.save_changes();
  };

  const group = `mmt-walk-${Math.random()}`; // radio buttons: one stop of the tab key, arrows choose
  const chosen = element("b");
  const choices = names.map((name, i) => {
    const input = keepKeys(element("input", { type: "radio", name: group, "aria-label": name, onchange: () => set("thing", i) }));
    return { input, node: element("label", { class: "mmt-choice", title: name }, input, thumbnail(sprite, i, 32)) };
  });

  const frames = model.get("frames"); // on the sheet, of each animation
  let film = null;
  const play = (inside, strip, first) => {
    film?.stop();
    const screen = thumbnail(sprite, first, 44);
    inside.replaceChildren(screen);
    film = animate((time) => {
      sprite.draw(screen.getContext("2d"), first + (Math.floor(time / PACE) % frames), 0, 0, screen.width);
      if (time < LOOPS * frames * PACE) return true;
      inside.replaceChildren(...strip);
      return false;
    });
  };

  const lanes = modalities.map((m) => {
    const colour = modalityColour(m);
    const [inside, caption, path] = ["inside", "caption", "stops"].map((name) => element("div", { class: `mmt-${name}` }));
    const card = element("div", { class: "mmt-card" }, inside, caption);
    const box = checkbox(element("span", { class: "mmt-letter" }, "f", element("sub", {}, LETTERS[m])), true,
      (on) => set("cut", modalities.filter((other) => (other === m ? !on : model.get("cut").includes(other)))));
    box.node.append(element("span", { class: "mmt-hidden" }, ` arrow of the ${TITLES[m]}`));
    const lane = { class: `mmt-lane mmt-from-${m}`, role: "group", "aria-label": TITLES[m], style: `--mmt-colour:${colour}` };
    return { m, colour, card, inside, caption, path, box, node: element("div", lane, card, path, box.node), point: element("div", { class: "mmt-point" }) };
  });
  const fused = element("div", { class: "mmt-fused" });
  const mean = element("p", { class: "mmt-mean" });
  const space = element("div", { class: "mmt-space", role: "group", "aria-label": "shared space" },
    element("p", { class: "mmt-name" }, "shared space ", element("i", {}, "Z")),
    element("div", { class: "mmt-points" }, ...lanes.map(({ point }) => point)), fused, mean);
  const heads = maps.heads.map((head) => {
    const [answer, truth, share] = ["answer", "truth", "share"].map((name) => element("p", { class: `mmt-${name}` }));
    const title = element("p", { class: "mmt-task" }, head.name, element("span", { class: "mmt-shape" }, `${head.answers.length} answers`));
    return { head, answer, truth, share, node: element("div", { class: "mmt-head", role: "group", "aria-label": head.name }, title, answer, truth, share) };
  });
  const wires = svg("svg", { class: "mmt-wires", "aria-hidden": "true" });
  const diagram = element("div", { class: "mmt-diagram" }, wires,
    element("div", { class: "mmt-lanes" }, ...lanes.map(({ node }) => node)), space,
    element("div", { class: "mmt-heads" }, ...heads.map(({ node }) => node)));
  const meetings = element("ul", { class: "mmt-meetings" });

  const showLane = ({ m, colour, card, inside, caption, path, box, point }, thing, cut, top) => {
    const there = maps.has(thing, m);
    box.input.checked = !cut.includes(m);
    card.classList.toggle("mmt-absent", !there);
    const first = maps.count + frames * names.filter((_, i) => i < thing && maps.has(i, "video")).length;
    const faces = {
      image: () => [[thumbnail(sprite, thing, 44)], "3×32×32"],
      video: () => [[0, 1, 2, 3].map((k) => thumbnail(sprite, first + Math.floor((k * frames) / 4), 24)), `${model.get("length")}×3×32×32`],
      text: () => [[element("b", {}, names[thing])], `${[...names[thing]].length} characters`],
    };
    const [face, shape] = there ? faces[m]() : [["none"], ""];
    inside.replaceChildren(...face);
    const moves = there && m === "video" && !reducedMotion();
    caption.replaceChildren(moves ? button(`▶ ${TITLES[m]}`, () => play(inside, face, first)) : TITLES[m], element("span", { class: "mmt-shape" }, shape));
    const way = (there ? stops[m] ?? [] : []).map(({ shape, size, of }) => {
      const drawing = shape.length > 1 ? heat(of(thing), size) : bars(of(thing).map((x) => x - 127), colour, 127);
      return element("div", { class: "mmt-stop" }, drawing, element("span", { class: "mmt-shape" }, ...shapeText(shape)));
    });
    path.replaceChildren(...(there ? way : [element("div", { class: "mmt-stop" }, element("span"))]));
    point.classList.toggle("mmt-cut", cut.includes(m));
    const letter = element("span", { class: "mmt-shape" }, element("i", {}, "z"), element("sub", {}, LETTERS[m]), ` ${dim}`);
    point.replaceChildren(bars(there ? maps.point(thing, m) : [], colour, top), ...(there ? [letter] : []));
  };

  const showHead = ({ head, answer, truth, share }, thing, z, measured) => {
    const said = best(maps, head, z);
    const right = head.truth[thing];
    const verdict = right.includes(said) ? "right" : "wrong";
    answer.replaceChildren(element("b", {}, head.answers[said]), "\u00a0", ...(right.length ? [verdictMark(verdict)] : []));
    truth.textContent = !right.length ? "no answer is known" : verdict === "wrong" ? `right: ${right.map((c) => head.answers[c]).join(", ")}` : "";
    const part = measured?.[head.name];
    share.textContent = part === undefined ? "not measured" : `${Math.round(100 * part)} % of all test things`;
    share.style.setProperty("--mmt-part", `${100 * (part ?? 0)}%`);
  };

  const showMeetings = (thing, kept) => {
    const pairs = modalities.flatMap((a, i) => modalities.slice(i + 1).map((b) => [a, b]));
    meetings.replaceChildren(...pairs.map(([a, b]) => {
      const missing = [a, b].filter((m) => !kept.includes(m));
      const words = missing.length ? `: nothing comes from the ${titles(missing)}.` : meeting(maps, thing, a, b);
      return element("li", {}, swatch(a), swatch(b), element("span", {}, element("b", {}, titles([a, b])), words));
    }));
  };

  const wire = () => {
    const [thing, cut] = [model.get("thing"), model.get("cut")];
    const ways = lanes.map(({ m, colour, card, path, point }) => {
      const chain = [card, ...[...path.children].map((stop) => stop.firstChild)];
      return { colour, chain, point: point.firstChild, cut: cut.includes(m), idle: !maps.has(thing, m) };
    });
    drawArrows(wires, ways, space, fused, heads.map(({ node }) => node));
  };

  const draw = () => {
    const [thing, cut] = [model.get("thing"), model.get("cut")];
    film?.stop();
    chosen.textContent = names[thing];
    choices[thing].input.checked = true;
    const [z, kept] = [fuse(maps, thing, cut), arriving(maps, thing, cut)];
    const top = Math.max(...modalities.flatMap((m) => maps.point(thing, m).map(Math.abs)));
    for (const lane of lanes) showLane(lane, thing, cut, top);
    fused.replaceChildren(bars(z, "currentColor", top), bars(z, "currentColor", top, true));
    mean.replaceChildren(element("i", {}, "z"), kept.length ? ` = φ, the mean of ${kept.length}` : " = 0, nothing arrives");
    const measured = model.get("measured")[modalities.filter((m) => !cut.includes(m)).join(",")];
    for (const head of heads) showHead(head, thing, z, measured);
    showMeetings(thing, kept);
    wire();
    status.say(`${names[thing]}, ${consequences(maps, thing, cut)}`);
  };
  const resize = new ResizeObserver(wire);
  resize.observe(diagram);
  model.on("change:thing", draw);
  model.on("change:cut", draw);
  el.append(
    invitation("choose a thing, then clear the box at the picture's arrow to cut it.", "Which answers survive, and which could only come from the picture?"),
    element("p", { class: "mmt-chosen" }, "Thing: ", chosen),
    element("div", { class: "mmt-choices", role: "radiogroup", "aria-label": "Thing" }, ...choices.map(({ node }) => node)),
    diagram,
    status.node,
    element("p", { class: "mmt-muted" }, "Percentages: the share of all test things that is answered right with exactly these arrows."),
    element("p", { class: "mmt-lead" }, "How well the arrows meet: each point looks for its own partner, by cosine, among the things above."),
    meetings,
  );
  draw();
  return () => {
    film?.stop();
    resize.disconnect();
    for (const trait of ["thing", "cut"]) model.off(`change:${trait}`, draw);
  };
}

export default { render };
