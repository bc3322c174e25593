// The shared space as a map: pictures and words as points, true pairs joined, through training.

const KINDS = { image: "picture", text: "word", video: "animation" };
const REACH = 24; // pixels from a point at which mouse or finger takes hold of it
const LABELS = 40; // as many words or fewer are all written out

async function render({ model, el }) {
  el.classList.add("mmt", "mmt-explorer");
  const names = model.get("names");
  const modality = model.get("modality");
  const pair = model.get("pair");
  const group = model.get("group");
  const pictureIndex = model.get("picture_index");
  const steps = model.get("steps");
  const figures = model.get("figures");
  const figureNames = Object.keys(figures);
  const positions = numbers(model.get("positions"), Uint16Array);
  const neighbours = numbers(model.get("neighbours"), Uint16Array);
  const k = model.get("neighbour_count");
  const points = names.length;
  const modalities = [...new Set(modality)];
  const sprite = await loadSprite(model.get("sprite"), model.get("sprite_size"), model.get("sprite_columns"));

  const off = new Set(); // modalities that the reader has switched off
  let time = model.get("step"); // checkpoint shown; between two while moving
  let hover = -1;
  let width = 0;
  let height = 0;

  const shows = (i) => !off.has(modality[i]) && (model.get("shown_group") < 0 || group[i] === model.get("shown_group"));
  const held = () => (model.get("selected") >= 0 && shows(model.get("selected")) ? model.get("selected") : -1);
  const focus = () => (hover >= 0 ? hover : held());
  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };

  /** Where point i stands now, in pixels: between two checkpoints on the straight line. */
  const place = (i) => {
    const [before, after] = [Math.floor(time), Math.ceil(time)];
    const at = (t, axis) => positions[(t * points + i) * 2 + axis] / 65535;
    const mix = (axis) => at(before, axis) + (at(after, axis) - at(before, axis)) * (time - before);
    return [36 + mix(0) * (width - 56), 20 + mix(1) * (height - 56)];
  };
  const nearest = (i) => {
    const start = (Math.round(time) * points + i) * k;
    return Array.from(neighbours.subarray(start, start + k));
  };

  const canvas = keepKeys(element("canvas", { tabindex: 0, role: "application" }));
  canvas.setAttribute("aria-label", "Map of the shared space. Arrow keys go from point to point, Escape lets go.");
  const context = canvas.getContext("2d");
  const panel = element("div", { class: "mmt-panel" });
  const figureLine = element("p", { class: "mmt-figures" });
  const curve = sparkline(figures);
  const status = liveText("mmt-status mmt-hidden");

  function draw() {
    if (!width) return;
    const ink = getComputedStyle(canvas).color;
    const colours = Object.fromEntries(modalities.map((m) => [m, getComputedStyle(canvas).getPropertyValue(`--mmt-${m}`) || ink]));
    const xy = names.map((_, i) => place(i));
    const visible = names.map((_, i) => i).filter(shows);
    const size = Math.max(15, Math.min(30, 0.6 * Math.sqrt((width * height) / Math.max(1, visible.length / 2))));
    const chosen = focus();

    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.lineWidth = 1;
    const brush = makeBrush(context, { xy, names, modality, pictureIndex, sprite, ink, colours, width, height });
    const { line, mark, card, label } = brush;

    context.globalAlpha = 0.16;
    names.forEach((_, i) => !shows(i) && !off.has(modality[i]) && mark(i, 2));
    context.globalAlpha = 1;
    for (const i of visible) if (pair[i] >= 0 && shows(pair[i]) && (pair[pair[i]] !== i || i < pair[i])) line(i, pair[i], 0.2, 1);
    for (const i of visible) if (pictureIndex[i] < 0) mark(i, 3.2);
    context.globalAlpha = chosen >= 0 ? 0.8 : 1;
    for (const i of visible) if (pictureIndex[i] >= 0) card(i, size);
    context.globalAlpha = 1;
    const words = visible.filter((i) => pictureIndex[i] < 0);
    if (words.length <= LABELS) for (const i of words) label(i, 400, 8);

    if (chosen >= 0) {
      const close = nearest(chosen);
      for (const j of close) line(chosen, j, 0.4, 1);
      if (pair[chosen] >= 0) line(chosen, pair[chosen], 1, 2.4);
      for (const i of [...close, pair[chosen], chosen]) {
        if (i < 0) continue;
        const side = i === chosen ? 44 : 32;
        if (pictureIndex[i] >= 0) card(i, side);
        else mark(i, i === chosen ? 8 : 5);
      }
      for (const i of new Set([...close.slice(0, 3), pair[chosen], chosen]))
        if (i >= 0 && pictureIndex[i] < 0) label(i, i === chosen || i === pair[chosen] ? 700 : 400, 11);
    }
    brush.axes(model.get("axes"));
  }

  /** The chosen point in words: who it is, and who is nearest in the full space. */
  function describe() {
    const i = focus();
    if (i < 0) {
      panel.replaceChildren(element("p", { class: "mmt-muted" }, "Point at something, or click to hold it."));
      return;
    }
    const face = (j, side) => (pictureIndex[j] >= 0 ? thumbnail(sprite, pictureIndex[j], side) : swatch(modality[j]));
    const kind = KINDS[modality[i]] ?? modality[i];
    const title = element("p", { class: "mmt-title" }, face(i, 52), element("span", {}, element("b", {}, names[i]), element("br"),
      element("span", { class: "mmt-muted" }, `${kind} · ${model.get("group_names")[group[i]]}`)));
    const items = nearest(i).map((j) => {
      const go = button("", () => set("selected", j));
      go.append(face(j, 24), element("span", {}, names[j]));
      if (j === pair[i]) go.append(element("b", { class: "mmt-own" }, "its own"));
      return element("li", {}, go);
    });
    const place = nearest(i).indexOf(pair[i]) + 1;
    const verdict = pair[i] < 0 ? "" : place ? `Its own is number ${place}.` : `Its own is not among the nearest ${k}.`;
    panel.replaceChildren(title);
    if (k) panel.append(element("p", { class: "mmt-muted" }, "Nearest in the full space:"), element("ol", {}, ...items), element("p", { class: "mmt-muted" }, verdict));
    status.say(`${kind} ${names[i]}. Nearest: ${nearest(i).map((j) => names[j]).join(", ")}. ${verdict}`);
  }

  function update() {
    const t = Math.round(time);
    const parts = figureNames.map((name) => `${name} ${figures[name][t].toFixed(2)}`);
    figureLine.textContent = parts.join(" · ");
    curve.mark(time / Math.max(1, steps.length - 1), t);
    draw();
    describe();
  }

  let motion = null;
  const rest = () => {
    if (motion) motion.stop();
    motion = null;
    play.textContent = "Play";
  };
  /** Move from the checkpoint shown to another one, `pace` milliseconds a checkpoint. */
  const travel = (goal, pace) => {
    rest();
    if (reducedMotion() || goal === time) {
      time = goal;
      update();
      return;
    }
    const [from, length] = [time, Math.abs(goal - time) * pace];
    motion = animate((elapsed) => {
      const part = Math.min(1, elapsed / length);
      time = from + (goal - from) * part;
      knob.set(Math.round(time));
      if (part < 1) {
        update();
        return true;
      }
      rest();
      update();
      if (model.get("step") !== goal) set("step", goal);
      return false;
    });
  };
  const last = steps.length - 1;
  const play = button("Play", () => {
    if (motion) {
      const here = Math.round(time);
      rest();
      time = here;
      set("step", here);
      update();
      return;
    }
    if (time >= last) time = 0;
    travel(last, 900);
    if (motion) play.textContent = "Pause";
    else set("step", last);
  });
  const knob = slider({
    label: "training", min: 0, max: last, step: 1, value: time,
    show: (t) => `step ${steps[t]}`, onInput: (t) => set("step", t),
  });
  const onStep = () => {
    knob.set(model.get("step"));
    if (Math.abs(time - model.get("step")) > 1e-6) travel(model.get("step"), 350);
  };

  const groupChoice = select("show", ["everything", ...model.get("group_names")], model.get("shown_group") + 1, (i) => set("shown_group", i - 1));
  const switches = modalities.map((m) => {
    const box = checkbox(`${KINDS[m] ?? m}s`, true, (on) => {
      if (on) off.delete(m);
      else off.add(m);
      update();
    });
    box.node.append(swatch(m));
    return box.node;
  });
  const onGroup = () => {
    groupChoice.input.value = model.get("shown_group") + 1;
    update();
  };

  /** The visible point nearest to (x, y) that `accept` takes, or -1. */
  const closest = (x, y, accept) => {
    let [best, distance] = [-1, Infinity];
    names.forEach((_, i) => {
      if (!shows(i)) return;
      const [px, py] = place(i);
      const d = accept(px - x, py - y);
      if (d < distance) [best, distance] = [i, d];
    });
    return best;
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const within = (dx, dy) => (Math.hypot(dx, dy) < REACH ? Math.hypot(dx, dy) : Infinity);
    return closest(event.clientX - box.left, event.clientY - box.top, within);
  };
  const look = (i) => {
    if (i === hover) return;
    hover = i;
    update();
  };
  canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && look(under(event)));
  canvas.addEventListener("pointerleave", () => look(-1));
  canvas.addEventListener("click", (event) => {
    const i = under(event);
    set("selected", i === model.get("selected") ? -1 : i);
  });
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") set("selected", -1);
    if (!(event.key in directions)) return;
    event.preventDefault();
    const [dx, dy] = directions[event.key];
    const i = model.get("selected");
    const [x, y] = i < 0 ? [width / 2, height / 2] : place(i);
    const ahead = (px, py) => {
      const along = px * dx + py * dy;
      return along > 0.5 ? along + 2 * Math.abs(px * dy - py * dx) : Infinity;
    };
    const next = closest(x, y, ahead);
    if (next >= 0) set("selected", next);
  });

  model.on("change:step", onStep);
  model.on("change:selected", update);
  model.on("change:shown_group", onGroup);
  const stage = element("div", { class: "mmt-stage" }, canvas);
  const controls = element("div", { class: "mmt-controls" }, groupChoice.node, ...switches);
  const training = element("div", { class: "mmt-controls mmt-training" }, play, knob.node);
  const course = element("div", { class: "mmt-controls" }, ...(figureNames.length ? [curve.node] : []), figureLine);
  const question = "Which picture ends far from its own word, and what stands beside it instead?";
  el.append(
    invitation(last ? "press Play, then point at pictures." : "point at pictures.", question),
    controls,
    element("div", { class: "mmt-columns" }, element("div", {}, stage, ...(last ? [training, course] : [figureLine])), panel),
    status.node,
  );
  const resize = new ResizeObserver(() => {
    if (!stage.clientWidth) return;
    width = stage.clientWidth;
    height = Math.max(320, Math.min(460, Math.round(width * 0.8)));
    canvas.width = width * devicePixelRatio;
    canvas.height = height * devicePixelRatio;
    canvas.style.height = `${height}px`;
    update();
  });
  resize.observe(stage);
  const forgetTheme = onThemeChange(draw);
  update();
  return () => {
    rest();
    resize.disconnect();
    forgetTheme();
    model.off("change:step", onStep);
    model.off("change:selected", update);
    model.off("change:shown_group", onGroup);
  };
}

export default { render };
