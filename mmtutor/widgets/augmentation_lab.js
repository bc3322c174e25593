// Change a picture, see which known drawing it now resembles, and what the change declares to preserve.

const SHOWN = 5; // nearest drawings; a thing's own one is added if it is not among them

/** What became of the pair of picture and name: is the name still safe, is the thing's own drawing still the nearest? */
function verdictOn({ name, needed, given, best, recognised, identity }) {
  if (identity) return ["Nothing is changed yet.", " Move the slider."];
  if (!best) return ["Nothing is left to compare.", " The picture is one even colour."];
  const broken = needed.filter((aspect) => given.includes(aspect)).join(" and ");
  const nearest = recognised ? "its own drawing is still the nearest." : `the nearest drawing is “${best}”.`;
  if (broken) {
    const reason = ` “${name}” speaks of ${broken}, which the change gives up; `;
    return [recognised ? "Not safe, though the pixels do not show it." : "A false pair.", reason + nearest];
  }
  if (recognised) return ["Safe, and recognised.", ` The change gives up nothing that “${name}” speaks of, and ${nearest}`];
  const lesson = "A model can learn this from such changes; pixels alone do not know it.";
  return ["Safe, but not recognised.", ` “${name}” still holds, and yet ${nearest} ${lesson}`];
}

/** The share of things still recognised, against the strength, with the present strength marked. */
function shareCurve() {
  const [left, right, top, bottom] = [38, 326, 10, 116];
  const node = svg("svg", { viewBox: "0 0 328 152", role: "img", class: "mmt-curve" });
  const y = (share) => bottom - share * (bottom - top);
  const words = (x, y, text, anchor = "middle") => svg("text", { x, y, "text-anchor": anchor }, text);
  const draw = (change, k) => {
    const last = change.strengths.length - 1;
    const x = (i) => left + (i / last) * (right - left);
    const points = change.shares.map((share, i) => `${x(i).toFixed(1)} ${y(share).toFixed(1)}`);
    const ticks = [[0, "start"], [last / 2, "middle"], [last, "end"]].filter(([i]) => Number.isInteger(i));
    const said = [...new Set([0, Math.round(last / 4), Math.round(last / 2), last])].map((i) => `${change.labels[i]} ${percent(change.shares[i])}`);
    node.setAttribute("aria-label", `Share of things whose nearest drawing is their own, against ${change.knob}: ${said.join(", ")}`);
    node.replaceChildren(
      ...[0, 0.5, 1].map((share) => svg("line", { x1: left, x2: right, y1: y(share), y2: y(share), class: "mmt-grid" })),
      ...[0, 0.5, 1].map((share) => words(left - 6, y(share) + 4, percent(share), "end")),
      ...ticks.map(([i, anchor]) => words(x(i), bottom + 17, change.labels[i], anchor)),
      words((left + right) / 2, bottom + 33, change.knob),
      svg("path", { d: `M${points.join("L")}`, class: last > 1 ? "" : "mmt-dashed" }),
      svg("line", { x1: x(k), x2: x(k), y1: bottom, y2: y(change.shares[k]), class: "mmt-here" }),
      svg("circle", { cx: x(k), cy: y(change.shares[k]), r: 5 }),
    );
  };
  return { node, draw };
}

const percent = (share) => `${Math.round(100 * share)}%`;

/** A canvas of one picture's pixels; `paint` takes values in 0..1. */
function pixelCanvas(label) {
  const node = element("canvas", { role: "img", "aria-label": label, width: SIDE, height: SIDE });
  const context = node.getContext("2d");
  const paint = (pixels) => {
    const image = context.createImageData(SIDE, SIDE);
    image.data.fill(255); // opaque
    pixels.forEach((value, p) => (image.data[Math.floor(p / 3) * 4 + (p % 3)] = Math.round(255 * value)));
    context.putImageData(image, 0, 0);
  };
  return { node, paint };
}

/** The things to choose from as radio buttons, row by row; arrow keys go from one to the next. */
function chooser(groups, names, sprite, onChoose) {
  const group = `mmt-thing-${Math.random()}`; // two labs may share a page
  const inputs = new Map();
  const option = (i) => {
    const input = keepKeys(element("input", { type: "radio", name: group, "aria-label": names[i], onchange: () => onChoose(i) }));
    inputs.set(i, input);
    return element("label", { title: names[i] }, input, thumbnail(sprite, i, 30));
  };
  const row = ({ title, things }) => element("div", { class: "mmt-row" }, element("span", {}, title), element("div", {}, ...things.map(option)));
  const node = element("div", { class: "mmt-things", role: "radiogroup", "aria-label": "Thing" }, ...groups.map(row));
  const mark = (i) => inputs.forEach((input, j) => (input.checked = i === j));
  return { node, mark };
}

function render({ model, el }) {
  el.classList.add("mmt", "mmt-lab");
  const names = model.get("names");
  const [aspects, needs] = [model.get("aspects"), model.get("needs")];
  const [changes, order] = [model.get("changes"), model.get("order")];
  const bytes = numbers(model.get("pictures"), Uint8Array);
  const picture = (i) => Float64Array.from(bytes.subarray(i * SIDE * SIDE * 3, (i + 1) * SIDE * SIDE * 3), (value) => value / 255);
  const known = names.map((_, i) => centred(picture(i)));
  const tile = pixelCanvas("");
  const sprite = {
    draw(context, i, x, y, width) {
      tile.paint(picture(i));
      context.drawImage(tile.node, x, y, width, width);
    },
  };

  const chosen = () => changes.find(({ key }) => key === model.get("change"));
  const stop = () => {
    const gaps = chosen().strengths.map((strength) => Math.abs(strength - model.get("strength")));
    return gaps.indexOf(Math.min(...gaps));
  };
  const set = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
  };
  const things = chooser(model.get("groups"), names, sprite, (i) => set({ thing: i }));
  const choice = select("change", changes.map(({ name }) => name), 0, (i) => set({ change: changes[i].key, strength: changes[i].opening }));
  const knob = slider({
    label: "strength", min: 0, max: 1, step: 1, value: 0,
    show: (k) => chosen().labels[k], onInput: (k) => set({ strength: chosen().strengths[k] }),
  });
  const [before, after] = [pixelCanvas("before"), pixelCanvas("after")];
  const [nameBefore, nameAfter] = [element("p", { class: "mmt-caption" }), element("p", { class: "mmt-caption" })];
  const verdict = element("p", { class: "mmt-verdict" });
  const table = element("table", { class: "mmt-aspects" });
  const list = element("ol", { class: "mmt-results" });
  const curve = shareCurve();
  const share = element("p", { class: "mmt-share" });
  const status = liveText("mmt-status mmt-hidden");

  const result = ({ index, similarity }, place, own) => {
    const mark = index === own ? [element("b", { class: "mmt-own" }, place < SHOWN ? "its own" : `its own, number ${place + 1}`)] : [];
    return element("li", {}, thumbnail(sprite, index, 36), element("span", { class: "mmt-name" }, names[index], ...mark),
      element("span", { class: "mmt-number" }, similarity.toFixed(2)),
      element("span", { class: "mmt-bar", style: `--mmt-part:${(100 * Math.max(0, similarity)).toFixed(1)}%` }));
  };
  const head = element("tr", {}, element("td"), element("th", { scope: "col" }, "change"), element("th", { scope: "col" }, "name"));
  const aspectRow = (aspect, kept, needed) => {
    const sign = element("span", { class: "mmt-sign", "aria-hidden": "true" }, kept ? "✓" : "✗");
    return element("tr", { class: needed && !kept ? "mmt-broken" : "" }, element("th", { scope: "row" }, aspect),
      element("td", {}, sign, kept ? "kept" : "given up"), element("td", {}, needed ? "speaks of it" : ""));
  };

  const update = () => {
    const [own, change, k] = [model.get("thing"), chosen(), stop()];
    const original = picture(own);
    const pixels = changePicture(original, change.key, change.strengths[k], order);
    const found = rank(known, pixels).filter((_, __, all) => all[0].similarity); // none if all is one even colour
    const [name, best] = [names[own], found.length ? names[found[0].index] : ""];
    const given = change.gives_up[k].map((i) => aspects[i]);
    const needed = needs[own].map((i) => aspects[i]);

    things.mark(own);
    choice.input.value = changes.indexOf(change);
    knob.node.firstChild.textContent = change.knob;
    knob.input.max = change.strengths.length - 1;
    knob.set(k);
    before.paint(original);
    after.paint(pixels);
    nameBefore.textContent = name;
    nameAfter.textContent = k ? change.words[k] : "as it is";
    const place = found.findIndex(({ index }) => index === own);
    const [judged, why] = verdictOn({ name, needed, given, best, recognised: place === 0, identity: k === 0 });
    verdict.replaceChildren(element("b", {}, judged), why);
    table.replaceChildren(head, ...aspects.map((aspect) => aspectRow(aspect, !given.includes(aspect), needed.includes(aspect))));
    const rows = found.slice(0, SHOWN).concat(place < SHOWN ? [] : [found[place]]);
    list.replaceChildren(...rows.map((row, i) => result(row, i < SHOWN ? i : place, own)));
    const rest = `of all ${names.length} things, changed so, still have their own drawing nearest`;
    share.replaceChildren(element("b", {}, percent(change.shares[k])), " ", element("span", {}, rest));
    curve.draw(change, k);
    const nearestText = best ? ` Nearest: ${best}, similarity ${found[0].similarity.toFixed(2)}.` : "";
    status.say(`${name}, ${nameAfter.textContent}.${nearestText} ${judged} ${share.textContent}.`);
    const nearest = rows.slice(0, SHOWN).map(({ index }) => index);
    if (String(nearest) !== String(model.get("nearest"))) set({ nearest });
  };

  const heard = ["change:thing", "change:change", "change:strength"];
  for (const event of heard) model.on(event, update);
  const arrow = element("span", { class: "mmt-arrow", "aria-hidden": "true" }, "→");
  const heading = (text) => element("p", { class: "mmt-heading" }, text);
  const pair = element("div", { class: "mmt-pair" }, element("div", {}, before.node, nameBefore), arrow, element("div", {}, after.node, nameAfter));
  el.append(
    invitation(model.get("tip"), "What does this change preserve?"),
    things.node,
    element("div", { class: "mmt-controls" }, choice.node, knob.node),
    element("div", { class: "mmt-columns" },
      element("div", {}, pair, verdict),
      element("div", {}, heading(`Nearest of ${names.length} known drawings, by cosine`), list),
      element("div", {}, heading("What the change keeps, and what the name speaks of"), table),
      element("div", {}, share, curve.node)),
    status.node,
  );
  update();
  return () => heard.forEach((event) => model.off(event, update));
}

export default { render };
