// Dual-modality attention: switch parts off and read the answer, step through frames and see what a part looks at.

const MODALITIES = { picture: "image", animation: "video" }; // and the name of each one's colour
const PATCHES = 16;
const COLUMNS = 4;
const LEVELS = 255;
const STEP = 700; // of playing, in milliseconds
const MOST_NUMBERED = 12; // frames of a heat map that has room for numbers
const SURE = [[90, "very sure"], [70, "fairly sure"], [50, "in doubt"], [0, "guessing"]];

const ascending = (n) => Array.from({ length: n }, (_, i) => i);
const sum = (values) => values.reduce((total, x) => total + x, 0);
const largest = (values) => values.reduce((best, x, i) => (x > values[best] ? i : best), 0);
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const listed = (words) => [words.slice(0, -1).join(", "), ...words.slice(-1)].filter(Boolean).join(" and ");
const patchName = (j) => `row ${Math.floor(j / COLUMNS) + 1}, column ${(j % COLUMNS) + 1}`;
const frameName = (t) => `frame ${t + 1}`;
const digitsFor = (most) => (most < 0.1 ? 1 : 0);

function percent(x, digits = 0) {
  const unit = 10 ** digits;
  const whole = Math.floor(100 * unit * x + 0.5);
  if (x > 0 && whole === 0) return `<${1 / unit}%`;
  if (x < 1 && whole === 100 * unit) return `>${100 - 1 / unit}%`;
  return `${(whole / unit).toFixed(digits)}%`;
}

// What was recorded

/** The recorded weights and probabilities from Python's bytes: functions of the thing, and of the parts that are off. */
export function unpack(model) {
  const [weights, integers] = [numbers(model.get("weights"), Uint8Array), numbers(model.get("probabilities"), Uint16Array)];
  const [layout, parts, C] = [model.get("layout_of_weights"), model.get("parts"), model.get("classes").length];
  const size = sum(layout.map(([, rows, columns]) => rows * columns));
  const stored = (thing, wanted) => {
    let from = thing * size;
    for (const [name, rows, columns, level] of layout) {
      if (name === wanted) {
        const row = (i) => Array.from(weights.subarray(from + i * columns, from + (i + 1) * columns));
        return { rows: ascending(rows).map(row), level };
      }
      from += rows * columns;
    }
  };
  const rows = (thing, name) => {
    const found = stored(thing, name);
    return found.rows.map((row) => row.map((q) => q / (found.level ? LEVELS : sum(row) || 1)));
  };
  const probabilities = (thing, off) => {
    const variant = sum(parts.map((part, bit) => (off.includes(part) ? 0 : 1 << bit)));
    const from = ((thing << parts.length) + variant) * C;
    const row = Array.from(integers.subarray(from, from + C));
    return row.map((q) => q / sum(row));
  };
  const whole = (thing) => stored(thing, "hierarchical").rows[0];
  const words = Object.fromEntries(["names", "answers", "classes", "kinds"].map((name) => [name, model.get(name)]));
  return { rows, whole, probabilities, parts, T: model.get("frame_count"), ...words };
}

/** What is painted on patches and frames (null: nothing), and what else is shown of a part, as Python's values(). */
export function values({ rows, kinds }, { thing, frame, view }) {
  const of = (name) => rows(thing, name);
  const both = (name) => Object.keys(MODALITIES).map((m) => of(`${name}, ${m}`)[0]);
  const found = { patches: null, frames: null, mix: null, write: null, read: null };
  if (view === "exchange" || view === "composition") [found.patches, found.frames] = both(view);
  if (view === "composition") found.mix = both("mix").map((shares) => shares.map((share, k) => [kinds[k], share]));
  if (view === "inter") [found.patches, found.frames] = [of("inter, frames to patches")[frame], of("inter, patches to frames")[0]];
  if (view === "hierarchical") {
    const all = of("hierarchical")[0];
    [found.patches, found.frames] = [all.slice(0, PATCHES), all.slice(PATCHES)];
  }
  if (view === "short") found.frames = of("short")[frame];
  if (view === "long") [found.write, found.read] = [of("long, write"), of("long, read")];
  return found;
}

// In words, as Python says it

/** What the network answers, and whether it would with all parts. */
export function answerInWords({ names, classes, answers, parts, probabilities }, { thing, off }) {
  const [p, whole, right] = [probabilities(thing, off), probabilities(thing, []), answers[thing]];
  const [said, before] = [largest(p), largest(whole)];
  const sure = SURE.find(([least]) => Math.floor(100 * p[said] + 0.5) >= least)[1];
  const every = off.length === parts.length && parts.length > 1;
  let subject = parts.length ? "With all parts on it" : "It";
  if (off.length) subject = `Without ${every ? "any part" : listed(off)} it`;
  const verdict = said === right ? "right" : `wrong, it is “${classes[right]}”`;
  const words = `“${names[thing]}”. ${subject} says “${classes[said]}”, ${percent(p[said])}, ${sure}: ${verdict}.`;
  if (!off.length) return words;
  if (said === before) return `${words} With all parts on it says the same, ${percent(whole[before])}.`;
  return `${words} It changed its mind: with all parts on it says “${classes[before]}”, ${percent(whole[before])}.`;
}

/** The largest weights, equal ones in order, none that is zero. */
function most(weights, name, count) {
  const order = ascending(weights.length).sort((a, b) => weights[b] - weights[a]).slice(0, count);
  const digits = digitsFor(Math.max(...weights));
  return order.filter((j) => weights[j]).map((j) => `${name(j)} (${percent(weights[j], digits)})`).join(", then ");
}

function replaced(one, several, levels, name) {
  if (!levels.some(Boolean)) return `No ${one} is replaced.`;
  const count = levels.filter((level) => level > 0.5).length;
  return `${count} of ${levels.length} ${several} ${count === 1 ? "is" : "are"} replaced by more than half; most of all ${most(levels, name, 1)}.`;
}

/** How much the chosen frame has, if it is not the one that has most. */
function andHere(frames, t) {
  return largest(frames) === t ? "" : `, frame ${t + 1} has ${percent(frames[t], digitsFor(Math.max(...frames)))}`;
}

const SAY = {
  exchange: ({ patches, frames }, t) =>
    `${replaced("patch", "patches", patches, patchName)} ${replaced("frame", "frames", frames, frameName)} Of frame ${t + 1}, ${percent(frames[t])}.`,
  inter({ patches, frames }, t) {
    const words = patches.some(Boolean) ? `Frame ${t + 1} looks most at ${most(patches, patchName, 2)}.`
      : `Frame ${t + 1} looks at no patch: it or the picture is padding.`;
    if (!frames.some(Boolean)) return `${words} No patch looks at a frame.`;
    return `${words} The patches look most at ${most(frames, frameName, 1)}${andHere(frames, t)}.`;
  },
  composition({ patches, frames, mix }, t) {
    return Object.keys(MODALITIES).map((m, i) => {
      const weights = i ? frames : patches;
      const words = weights.some(Boolean) ? `most on ${most(weights, i ? frameName : patchName, 1)}${i ? andHere(frames, t) : ""}`
        : "no weights, it is padding";
      return `${capital(m)}: ${words}; the look is ${listed(mix[i].map(([kind, share]) => `${percent(share)} ${kind}`))}.`;
    }).join(" ");
  },
  hierarchical({ patches, frames }, t, { whole }, { thing }) {
    const all = whole(thing);
    if (!all.some(Boolean)) return "There are no weights: all is padding.";
    const [picture, animation] = [all.slice(0, PATCHES), all.slice(PATCHES)].map((part) => sum(part) / sum(all));
    return `Of all weight ${percent(picture)} is on the picture${picture ? `, most on ${most(patches, patchName, 1)}` : ""}. `
      + `On the animation it is ${percent(animation)}${animation ? `, most on ${most(frames, frameName, 1)}${andHere(frames, t)}` : ""}.`;
  },
  short({ frames }, t) {
    if (t === 0) return "Frame 1 is the first: there is no earlier one to look at.";
    if (!frames.some(Boolean)) return `Frame ${t + 1} looks at no earlier one: it is padding, or those before it are.`;
    return `Frame ${t + 1} looks back most at ${most(frames, frameName, 2)}.`;
  },
  long({ write, read }, t) {
    if (!read[t].some(Boolean)) return `Frame ${t + 1} neither writes nor reads: it is padding.`;
    const [n, slot] = [largest(write[t]), largest(read[t])];
    const wrote = `Frame ${t + 1} writes ${percent(write[t][n])} of slot ${n + 1}`;
    if (!write.slice(0, t).some((row) => row.some(Boolean))) return `${wrote}; what it reads is empty, since nothing was written before.`;
    return `${wrote} and reads mostly slot ${slot + 1} (${percent(read[t][slot])}).`;
  },
};

/** What is seen of the chosen part at the chosen frame. */
export function viewInWords(data, choice) {
  if (!choice.view) return "";
  return `${capital(choice.view)}. ${SAY[choice.view](values(data, choice), choice.frame, data, choice)}`;
}

/** One line that says what the squares or tables mean; `full` is what a full square stands for, on patches and frames. */
function legend(view, full) {
  const [onPicture, onFrames] = full.map((x) => percent(x, digitsFor(x)));
  const scale = `A full square is ${onPicture === onFrames ? onPicture : `${onPicture} on the picture, ${onFrames} on frames`}.`;
  return {
    exchange: "A square’s area: how much of a token was replaced by the other modality. A full square is 100%, ⇄ marks more than half.",
    inter: `On the picture: where the chosen frame looks. On the frames: how much the patches look at each, on average. ${scale}`,
    composition: `Where it looks in each modality, by a mix of kinds of attention. ${scale}`,
    hierarchical: `Weights of the three levels multiplied; over picture and frames they sum to one. ${scale}`,
    short: `Which earlier frames the chosen one looks at. A full square is ${onFrames}.`,
    long: "In percent: how much of each slot a frame overwrites, and how it shares its look among the slots. The chosen frame is framed.",
  }[view] ?? "";
}

// Drawing

/** Buttons of which one is chosen, by click or arrow keys: radio buttons that share one stop of the Tab key. */
function radios(label, className, contents, names, onChoose) {
  const cells = contents.map((content, i) => keepKeys(element("button", {
    type: "button", role: "radio", "aria-label": names[i], onclick: () => onChoose(i),
    onkeydown: (event) => {
      const to = { ArrowLeft: i - 1, ArrowUp: i - 1, ArrowRight: i + 1, ArrowDown: i + 1, Home: 0, End: contents.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = Math.max(0, Math.min(contents.length - 1, to));
      onChoose(next);
      cells[next].focus();
    },
  }, ...content)));
  const node = element("div", { class: className, role: "radiogroup", "aria-label": label }, ...cells);
  const show = (chosen) => cells.forEach((cell, i) => {
    cell.setAttribute("aria-checked", i === chosen);
    cell.tabIndex = i === chosen ? 0 : -1;
  });
  return { node, show };
}

/** The classes with their probabilities; words beside the bars mark the answer and the right one. */
function classTable(classes) {
  const rows = classes.map((name) => {
    const [filled, share, note] = [element("span"), element("td", { class: "mmt-number" }), element("span", { class: "mmt-note" })];
    const bar = element("span", { class: "mmt-bar", "aria-hidden": "true" }, filled);
    return { filled, share, note, node: element("tr", {}, element("th", { scope: "row" }, name, note), element("td", { class: "mmt-track" }, bar), share) };
  });
  const node = element("table", { class: "mmt-classes" }, element("caption", {}, "What it says"), ...rows.map((row) => row.node));
  const show = (p, right) => rows.forEach(({ filled, share, note, node: line }, c) => {
    const said = c === largest(p);
    filled.style.width = `${100 * p[c]}%`;
    share.textContent = percent(p[c]);
    note.textContent = [said && "answer", c === right && "right"].filter(Boolean).map((word) => ` · ${word}`).join("");
    line.classList.toggle("mmt-said", said);
    line.classList.toggle("mmt-right", c === right);
  });
  return { node, show };
}

/** One picture of the sheet, its pixels as squares. */
function pixels(size) {
  const node = element("canvas", { class: "mmt-pixels", "aria-hidden": "true", width: size, height: size });
  return { node, show: (sprite, i) => sprite.draw(node.getContext("2d"), i, 0, 0, size) };
}

/** A square for a weight: its area is the weight, in shares of a full one. */
function square() {
  const node = element("span", { class: "mmt-square" });
  const show = (share) => {
    node.hidden = !share;
    node.style.setProperty("--mmt-side", `${100 * Math.sqrt(Math.min(1, share))}%`);
  };
  return { node, show };
}

/** The picture with its patches. */
function patchGrid(size) {
  const image = pixels(size);
  const cells = ascending(PATCHES).map(() => {
    const [weight, sign] = [square(), element("span", { class: "mmt-sign" })];
    return { weight, sign, node: element("span", { class: "mmt-patch" }, weight.node, sign) };
  });
  const node = element("div", { class: "mmt-patches", role: "img" }, image.node, element("div", { class: "mmt-grid" }, ...cells.map((cell) => cell.node)));
  const show = (weights, full, view, label) => {
    const best = weights && largest(weights);
    cells.forEach(({ weight, sign, node: cell }, j) => {
      weight.show(weights ? weights[j] / (full || 1) : 0);
      sign.textContent = view === "exchange" && weights[j] > 0.5 ? "⇄" : "";
      cell.classList.toggle("mmt-top", view !== "exchange" && j === best && weights[j] > 0);
    });
    node.setAttribute("aria-label", label);
  };
  return { node, image, show };
}

/** The frames as radio buttons, each with its square and its weight below. */
function frameRow(T, size, onChoose) {
  const cells = ascending(T).map((t) => {
    const [image, weight, ground, note] = [pixels(size), square(), element("span", { class: "mmt-ground" }), element("span", { class: "mmt-share" })];
    ground.append(weight.node);
    return { image, weight, ground, note, content: [element("span", { class: "mmt-which" }, `${t + 1}`), image.node, ground, note] };
  });
  const group = radios("Frame", "mmt-frames", cells.map((cell) => cell.content), ascending(T).map((t) => `frame ${t + 1}`), onChoose);
  const show = (chosen, weights, full, view) => {
    group.show(chosen);
    const digits = digitsFor(Math.max(0, ...(weights ?? [])));
    cells.forEach(({ weight, ground, note }, t) => {
      weight.show(weights ? weights[t] / (full || 1) : 0);
      const none = !weights || (view === "short" && t >= chosen); // no frame looks at itself or ahead
      ground.hidden = !weights;
      ground.classList.toggle("mmt-none", none);
      const share = none ? "" : percent(weights[t], digits);
      note.textContent = view === "exchange" && weights[t] > 0.5 ? `⇄ ${share}` : share;
    });
  };
  return { node: group.node, images: cells.map((cell) => cell.image), show };
}

/** Two heat maps, slots down and frames across. */
function heatMaps(onChoose) {
  const node = element("div", { class: "mmt-maps" });
  const show = ({ write, read }, frame) => {
    const [T, N] = [write.length, write[0].length];
    const one = (caption, rows, name) => {
      const full = Math.max(...rows.flat());
      const table = matrix({
        caption,
        rows: ascending(N).map((n) => [`slot ${n + 1}`]),
        columns: ascending(T).map((t) => [`${t + 1}`]),
        text: (n, t) => (T <= MOST_NUMBERED ? percent(rows[t][n]).replace("%", "") : "\u00a0"),
        shade: (n, t) => (full ? rows[t][n] / full : 0),
        mark: (n, t) => t === frame,
      });
      table.addEventListener("click", (event) => {
        const column = event.target.closest("td, th")?.cellIndex;
        if (column > 0) onChoose(column - 1);
      });
      table.classList.add(`mmt-${name}`);
      return table;
    };
    node.replaceChildren(one("Written, percent of a slot; frames across", write, "write"), one("Read, percent of the look; frames across", read, "read"));
  };
  return { node, show };
}

/** The kinds of attention that composition mixes, as bars, for each modality. */
function mixBars() {
  const node = element("div", { class: "mmt-mixes" });
  const show = (mix) => node.replaceChildren(...Object.entries(MODALITIES).map(([m, colour], i) =>
    element("table", { class: "mmt-mix" }, element("caption", {}, swatch(colour), ` Mix of kinds, ${m}`),
      ...mix[i].map(([kind, share]) => element("tr", {}, element("th", { scope: "row" }, kind),
        element("td", { class: "mmt-track" }, element("span", { class: "mmt-bar", "aria-hidden": "true" }, element("span", { style: `width:${100 * share}%` }))),
        element("td", { class: "mmt-number" }, percent(share)))))));
  return { node, show };
}

async function render({ model, el }) {
  el.classList.add("mmt", "mmt-dam");
  el.style.setProperty("--mmt-right", model.get("right_colour"));
  const data = unpack(model);
  const { T, parts, names, classes, answers } = data;
  const [views, size] = [model.get("views"), model.get("sprite_size")];
  const sprite = await loadSprite(model.get("sprite"), size, model.get("sprite_columns"));
  const pictureOf = (thing) => thing * (1 + T); // on the sheet; its frames follow
  const set = (trait, value) => {
    model.set(trait, value);
    model.save_changes();
  };

  const things = radios("Thing", "mmt-things", names.map((name, i) => {
    const image = pixels(size);
    image.show(sprite, pictureOf(i));
    return [image.node, element("span", {}, name)];
  }), names, (i) => set("thing", i));
  const classBars = classTable(classes);
  const switches = parts.map((part) => checkbox(part, true, (on) =>
    set("off", parts.filter((other) => (other === part ? !on : model.get("off").includes(other))))));
  const allOn = button("all on", () => set("off", []));
  const partGroup = element("div", { class: "mmt-parts", role: "group", "aria-label": "Parts that are on" },
    element("b", { class: "mmt-heading" }, "Parts that are on"), ...switches.map(({ node }) => node), allOn);

  const chooser = radios("Look into", "mmt-views", views.map((view) => [view]), views, (i) => set("view", views[i]));
  const [answer, seen, meaning] = [liveText(), liveText("mmt-status mmt-seen"), element("p", { class: "mmt-muted mmt-legend" })];
  const patches = patchGrid(size);
  const choose = (t) => {
    stop();
    set("frame", t);
  };
  const frames = frameRow(T, size, choose);
  const [maps, mixes] = [heatMaps(choose), mixBars()];

  let timer = null;
  const play = button("Play", () => (timer === null ? start() : stop()));
  const turn = (by) => set("frame", (model.get("frame") + by + T) % T);
  function start() {
    timer = setInterval(() => turn(1), STEP);
    play.textContent = "Pause";
    seen.node.setAttribute("aria-live", "off"); // or readers' software would speak without end
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    seen.node.setAttribute("aria-live", "polite");
  }
  const step = (label, by) => button(label, () => choose((model.get("frame") + by + T) % T));
  const player = element("div", { class: "mmt-controls", role: "group", "aria-label": "Animation" }, step("Previous", -1), play, step("Next", 1));
  const motion = matchMedia("(prefers-reduced-motion: reduce)");
  const calm = () => motion.matches && stop();
  motion.addEventListener("change", calm);

  /** What a full square stands for: the same at every frame, so that they can be compared. */
  function fullSquares(view, thing) {
    if (view === "exchange") return [1, 1];
    const all = ascending(view === "inter" || view === "short" ? T : 1).map((frame) => values(data, { thing, frame, view }));
    const [onPatches, onFrames] = ["patches", "frames"].map((place) => Math.max(0, ...all.flatMap((found) => found[place] ?? [])));
    return view === "hierarchical" ? Array(2).fill(Math.max(onPatches, onFrames)) : [onPatches, onFrames];
  }

  let drawn = null;
  function draw() {
    const choice = Object.fromEntries(["thing", "frame", "view", "off"].map((trait) => [trait, model.get(trait)]));
    const { thing, frame, view, off } = choice;
    things.show(thing);
    chooser.show(views.indexOf(view));
    switches.forEach(({ input }, i) => (input.checked = !off.includes(parts[i])));
    allOn.disabled = !off.length;
    classBars.show(data.probabilities(thing, off), answers[thing]);
    answer.say(answerInWords(data, choice));
    if (drawn !== thing) {
      drawn = thing;
      patches.image.show(sprite, pictureOf(thing));
      frames.images.forEach((image, t) => image.show(sprite, pictureOf(thing) + 1 + t));
    }
    const [found, full] = [values(data, choice), fullSquares(view, thing)];
    const words = viewInWords(data, choice);
    patches.show(found.patches, full[0], view, `Picture in 16 patches. ${words}`);
    frames.show(frame, found.frames, full[1], view);
    for (const [{ node }, is] of [[maps, "long"], [mixes, "composition"]]) node.hidden = view !== is;
    if (view === "long") maps.show(found, frame);
    if (view === "composition") mixes.show(found.mix);
    meaning.textContent = legend(view, full);
    seen.say(words);
  }
  const heard = ["thing", "frame", "view", "off"].map((trait) => `change:${trait}`);
  for (const event of heard) model.on(event, draw);
  const heading = (text, ...more) => element("p", { class: "mmt-heading" }, ...more, element("b", {}, text));
  el.append(
    invitation(parts.length ? "switch parts off one at a time, then look into the one that counts." : "step through the frames.", model.get("question")),
    ...(names.length > 1 ? [things.node] : []),
    element("div", { class: "mmt-sides" }, element("div", {}, classBars.node), element("div", {}, ...(parts.length ? [partGroup] : []), answer.node)),
    ...(views.length ? [element("div", { class: "mmt-look" }, element("b", { class: "mmt-heading" }, "Look into"), chooser.node), meaning] : []),
    element("div", { class: "mmt-shown" },
      element("div", {}, heading(" Picture", swatch("image")), patches.node),
      element("div", {}, heading(" Animation", swatch("video")), frames.node, player)),
    mixes.node, maps.node, ...(views.length ? [seen.node] : []),
  );
  draw();
  return () => {
    stop();
    motion.removeEventListener("change", calm);
    heard.forEach((event) => model.off(event, draw));
  };
}

export default { render };
