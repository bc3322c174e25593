// Attention weights: choose a query, and see where they lie on words, on the patches of a picture or on frames.

const ascending = (n) => Array.from({ length: n }, (_, i) => i);
const total = (list) => list.reduce((sum, x) => sum + x, 0);

/** The weights of a layer and a head (null: their mean) as rows, one per query, from the stored whole numbers. */
export function rectangle({ start, layers, heads }, bytes, lq, lk, layer, head) {
  const l = Math.min(layer, layers - 1);
  const row = (h, i) => {
    const from = start + ((l * heads + h) * lq + i) * lk;
    const parts = Array.from(bytes.subarray(from, from + lk));
    const all = total(parts);
    return all ? parts.map((q) => q / all) : null; // null: padding
  };
  return ascending(lq).map((i) => {
    if (head !== null) return row(Math.min(head, heads - 1), i) ?? Array(lk).fill(0);
    const real = ascending(heads).map((h) => row(h, i)).filter(Boolean);
    return ascending(lk).map((j) => (real.length ? total(real.map((p) => p[j])) / real.length : 0));
  });
}

/** The largest weights, the entropy in nats, and how many equal keys would have it; null where there is no weight. */
export function figures(weights, top) {
  const level = (p) => Math.round(1e9 * p); // so that rounding orders nothing
  const order = ascending(weights.length).sort((a, b) => level(weights[b]) - level(weights[a]));
  const some = weights.some((p) => p > 0);
  const entropy = some ? Math.max(0, -total(weights.map((p) => (p ? p * Math.log(p) : 0)))) : null;
  return {
    weights, entropy,
    top: order.slice(0, top).filter((j) => weights[j] > 0),
    effective: some ? Math.exp(entropy) : null,
  };
}

const rounded = (x, digits) => (Math.floor(10 ** digits * x + 0.5) / 10 ** digits).toFixed(digits);
const digitsFor = (largest) => (largest < 0.1 ? 1 : 0);

function percent(x, digits) {
  const unit = 10 ** digits;
  const whole = Math.floor(100 * unit * x + 0.5);
  if (x > 0 && whole === 0) return `<${1 / unit}%`;
  if (x < 1 && whole === 100 * unit) return `>${100 - 1 / unit}%`;
  return `${(whole / unit).toFixed(digits)}%`;
}

const count = (n, one, several) => `${n} ${n === 1 ? one : several}`;

/** Which layer and head of a model is seen; nothing if it has one of each. */
function place({ layers, heads }, layer, head) {
  if (layers === 1 && heads === 1) return "";
  const which = head === null ? `mean of ${count(heads, "head", "heads")}` : `head ${Math.min(head + 1, heads)} of ${heads}`;
  return `layer ${Math.min(layer + 1, layers)} of ${layers}, ${which}`;
}

/** Where a model looks, in words, as Python says it. */
function inWords(about, keyNames, layer, head, { weights, top, entropy, effective }) {
  const where = [about.name, place(about, layer, head)].filter(Boolean).join(", ");
  if (entropy === null) return `${where}: padding, it has no weights.`;
  const digits = digitsFor(Math.max(...weights));
  const most = top.slice(0, 3).map((j) => `${percent(weights[j], digits)} on “${keyNames[j]}”`);
  return `${where}: ${most.join(", ")}. Entropy ${rounded(entropy, 2)} nats, as wide as ${rounded(effective, 1)} equal keys.`;
}

/** Lay out tokens part by part: words in lines, patches on their picture, frames in a row; `cell(i, kind, content)`. */
function layOut(parts, addresses, cell) {
  const picture = (k) => element("img", { alt: "", src: addresses[k], draggable: "false" });
  let i = 0;
  return parts.map(({ kind, words, image, images, rows, columns, ratio }) => {
    if (kind === "patches") {
      const cells = ascending(rows * columns).map(() => cell(i++, kind));
      const style = `aspect-ratio:${ratio};--mmt-rows:${rows};--mmt-columns:${columns}`;
      const size = columns > 10 || rows > 10 ? " mmt-fine" : "";
      return element("div", { class: `mmt-patches${size}`, style }, picture(image), element("div", { class: "mmt-grid" }, ...cells));
    }
    const contents = kind === "words" ? words : images.map(picture);
    const style = kind === "frames" ? `--mmt-ratio:${ratio}` : "";
    return element("div", { class: `mmt-${kind}`, style }, ...contents.map((content) => cell(i++, kind, content)));
  });
}

/** The token that an arrow key leads to; up and down go by rows on a picture. */
function neighbour(key, i, parts, count) {
  const last = count - 1;
  if (key === "Home") return 0;
  if (key === "End") return last;
  if (key === "ArrowLeft") return Math.max(0, i - 1);
  if (key === "ArrowRight") return Math.min(last, i + 1);
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  let first = 0;
  for (const { words, images, rows, columns } of parts) {
    const end = first + (words ?? images ?? Array(rows * columns)).length;
    if (i < end) {
      const to = i + (key === "ArrowDown" ? 1 : -1) * (columns ?? 1);
      if (to < first) return first > 0 ? first - 1 : i;
      if (to >= end) return end < count ? end : i;
      return to;
    }
    first = end;
  }
  return null;
}

/** The queries as radio buttons: hover to look at one, click or use the arrow keys to choose it. */
function queryChooser(parts, names, addresses, onChoose, onPreview) {
  const cells = [];
  const cell = (i, kind, content) => {
    const node = keepKeys(element("button", {
      type: "button", role: "radio", class: `mmt-query mmt-of-${kind}`, "aria-label": names[i],
      onclick: () => onChoose(i),
      onpointerenter: (event) => event.pointerType !== "touch" && onPreview(i),
      onkeydown: (event) => {
        const next = neighbour(event.key, i, parts, names.length);
        if (next === null) return;
        event.preventDefault();
        onChoose(next);
        cells[next].focus();
      },
    }, ...(content ? [content] : [])));
    cells.push(node);
    return node;
  };
  const node = element("div", { class: "mmt-queries", role: "radiogroup", "aria-label": "Query", onpointerleave: () => onPreview(null) },
    ...layOut(parts, addresses, cell));
  const show = (chosen, seen) => cells.forEach((one, i) => {
    one.setAttribute("aria-checked", i === chosen);
    one.tabIndex = i === chosen ? 0 : -1;
    one.classList.toggle("mmt-seen", i === seen);
  });
  return { node, show };
}

/** The keys, each with a square whose area is its weight; the largest are framed, with their share or their rank. */
function keyView(parts, addresses, same) {
  const cells = [];
  const cell = (i, kind, content) => {
    const square = element("span", { class: "mmt-square" });
    const note = element("span", { class: kind === "patches" ? "mmt-rank" : "mmt-share" });
    const label = kind === "words" ? [element("span", { class: "mmt-word" }, content)] : [];
    const ground = element("span", { class: "mmt-ground" }, ...(kind === "frames" ? [content] : []), square);
    const node = element("span", { class: `mmt-key mmt-of-${kind}` }, ground, ...label, note);
    cells.push({ node, square, note, kind });
    return node;
  };
  const node = element("div", { class: "mmt-keys", role: "img" }, ...layOut(parts, addresses, cell));
  const show = ({ weights, top }, largest, query, words) => {
    node.setAttribute("aria-label", `Keys. ${words}`);
    const digits = digitsFor(Math.max(...weights));
    cells.forEach(({ node: one, square, note, kind }, j) => {
      const rank = top.indexOf(j);
      square.hidden = !weights[j];
      square.style.setProperty("--mmt-side", `${100 * Math.sqrt(largest ? weights[j] / largest : 0)}%`);
      one.classList.toggle("mmt-top", rank >= 0);
      one.classList.toggle("mmt-self", same && j === query);
      note.textContent = rank < 0 ? "" : kind === "patches" ? rank + 1 : percent(weights[j], digits);
    });
  };
  return { node, show };
}

/** The largest weights as a list of bars. */
function topList(keyNames) {
  const node = element("ol", { class: "mmt-most" });
  const show = ({ weights, top }) => {
    const digits = digitsFor(Math.max(...weights));
    node.replaceChildren(...top.map((j) => element("li", {},
      element("span", { class: "mmt-name" }, keyNames[j]), element("span", { class: "mmt-number" }, percent(weights[j], digits)),
      element("span", { class: "mmt-bar", "aria-hidden": "true" }, element("span", { style: `width:${100 * weights[j]}%` })))));
  };
  return { node, show };
}

/** All rows at once, queries down, keys across; the pointer chooses a row. */
function heatMap(lq, lk, queryNames, colour, onChoose, onPreview) {
  const canvas = element("canvas", { width: lk, height: lq, role: "img" });
  const frame = element("span", { class: "mmt-row" });
  const rowAt = (event) => {
    const box = canvas.getBoundingClientRect();
    return Math.max(0, Math.min(lq - 1, Math.floor((lq * (event.clientY - box.top)) / box.height)));
  };
  const area = element("div", {
    class: "mmt-area", style: `width:min(100%, ${18 * lk}px);height:${Math.max(18, Math.min(240, 14 * lq))}px`,
    onclick: (event) => onChoose(rowAt(event)), onpointerleave: () => onPreview(null),
    onpointermove: (event) => event.pointerType !== "touch" && onPreview(rowAt(event)),
  }, canvas, frame);
  const span = (name, n) => (n > 1 ? `${name}s 1 to ${n}` : `1 ${name}`);
  const queries = element("span", { class: "mmt-down" }, `← ${lq > 1 ? `queries 1 to ${lq}` : "1 query"}`);
  const scale = element("p", { class: "mmt-muted" });
  const node = element("div", { class: "mmt-heat" }, element("span", { class: "mmt-across" }, `${span("key", lk)} →`), queries, area);
  let drawn = "";
  const show = (rows, query, key) => {
    const largest = Math.max(...rows.map((row) => Math.max(...row)));
    frame.style.top = `${(100 * query) / lq}%`;
    frame.style.height = `${100 / lq}%`;
    canvas.setAttribute("aria-label", `Heat map of all weights: ${count(lq, "query", "queries")} down, ${count(lk, "key", "keys")} across. The row of “${queryNames[query]}” is framed.`);
    if (key === drawn) return;
    drawn = key;
    scale.textContent = largest ? `All queries (down) and keys (across): blank is 0, full colour ${percent(largest, digitsFor(largest))}. The framed row is the query’s.` : "There are no weights here.";
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, lk, lq);
    context.fillStyle = colour;
    rows.forEach((row, i) => row.forEach((p, j) => {
      context.globalAlpha = largest ? p / largest : 0;
      context.fillRect(j, i, 1, 1);
    }));
  };
  return { nodes: [node, scale], show };
}

/** One model: its keys as the query sees them, the largest weights, the spread, and the whole rectangle. */
function panel(model, addresses, onChoose, onPreview) {
  const [queryNames, keyNames] = [model.get("query_names"), model.get("key_names")];
  const heading = element("p", { class: "mmt-heading" });
  const keys = keyView(model.get("key_parts"), addresses, model.get("same"));
  const list = topList(keyNames);
  const spread = element("p", { class: "mmt-spread" });
  const heat = heatMap(queryNames.length, keyNames.length, queryNames, model.get("colour"), onChoose, onPreview);
  const node = element("section", { class: "mmt-model" }, heading,
    element("div", { class: "mmt-sides" },
      element("div", {}, keys.node), element("div", {}, list.node, spread, ...heat.nodes)));
  const show = ({ about, rows, found, words }, { query, layer, head, largest }) => {
    node.setAttribute("aria-label", about.name);
    heading.replaceChildren(element("b", {}, about.name), ` ${place(about, layer, head)}`);
    keys.show(found, largest, query, words);
    list.show(found);
    spread.textContent = found.entropy === null ? "Padding: this query has no weights."
      : `Entropy ${rounded(found.entropy, 2)} nats: as wide as ${rounded(found.effective, 1)} of ${count(keyNames.length, "key", "keys")}, shared equally.`;
    heat.show(rows, query, [about.name, layer, head].join("\n"));
  };
  return { node, show };
}

/** A list to choose from that is there only where there is a choice. */
function choice(label, options, onChange) {
  const made = select(label, options, 0, onChange);
  return { ...made, nodes: options.length > 1 ? [made.node] : [] };
}

function render({ model, el }) {
  el.classList.add("mmt", "mmt-attention");
  const read = (trait) => model.get(trait);
  const set = (trait, value) => {
    model.set(trait, value);
    model.save_changes();
  };
  const [models, queryNames, keyNames] = ["models", "query_names", "key_names"].map(read);
  const [bytes, files] = [numbers(read("weights"), Uint8Array), numbers(read("pictures"), Uint8Array)];
  const addresses = read("images").map(([from, length]) =>
    URL.createObjectURL(new Blob([files.subarray(from, from + length)], { type: "image/webp" })));
  const names = models.map(({ name }) => name);
  const most = (what) => Math.max(...models.map((about) => about[what]));
  let preview = null;

  const chosen = choice("model", names, (i) => set("model", names[i]));
  const compared = choice("beside it", ["nothing", ...names].slice(0, names.length > 1 ? undefined : 1), (i) => set("beside", i ? names[i - 1] : ""));
  const layers = choice("layer", ascending(most("layers")).map((l) => `${l + 1}`), (l) => set("layer", l));
  const heads = ascending(most("heads")).map((h) => `${h + 1}`);
  const head = choice("head", heads.length > 1 ? [...heads, "mean of heads"] : heads, (h) => set("head", h < heads.length ? h : null));
  const list = choice("query", queryNames.map((name, i) => `${i + 1}: ${name}`), (i) => set("query", i));
  const look = (i) => {
    if (i === preview) return;
    preview = i;
    draw();
  };
  const choose = (i) => {
    preview = null;
    if (i === read("query")) draw();
    else set("query", i);
  };
  const chooser = queryChooser(read("query_parts"), queryNames, addresses, choose, look);
  const panels = [0, 1].slice(0, models.length).map(() => panel(model, addresses, choose, look));
  const side = element("div", { class: "mmt-panels" }, ...panels.map(({ node }) => node));
  const [status, legend] = [liveText(), element("p", { class: "mmt-muted" })];

  function draw() {
    const [layer, chosenHead, top] = [read("layer"), read("head"), Math.min(read("top"), keyNames.length)];
    const query = preview ?? read("query");
    const shown = [...new Set([read("model"), read("beside") || read("model")])].map((name) => {
      const about = models[names.indexOf(name)];
      const rows = rectangle(about, bytes, queryNames.length, keyNames.length, layer, chosenHead);
      const found = figures(rows[query], top);
      return { about, rows, found, words: inWords(about, keyNames, layer, chosenHead, found) };
    });
    const largest = Math.max(...shown.flatMap(({ found }) => found.weights));
    chosen.input.value = names.indexOf(read("model"));
    compared.input.value = names.indexOf(read("beside")) + 1;
    layers.input.value = layer;
    head.input.value = chosenHead ?? heads.length;
    list.input.value = query;
    chooser.show(read("query"), query);
    panels.forEach(({ node }, k) => (node.hidden = k >= shown.length));
    side.classList.toggle("mmt-two", shown.length > 1);
    shown.forEach((one, k) => panels[k].show(one, { query, layer, head: chosenHead, largest }));
    legend.textContent = `The area of a square is a key’s weight${largest ? `; a full one is ${percent(largest, digitsFor(largest))}` : ""}. `
      + `Framed: the ${top > 1 ? `${top} largest` : "largest"}.${read("same") ? " Dashed: the query itself." : ""}`;
    status.say([`Query ${query + 1}, “${queryNames[query]}”.`, ...shown.map(({ words }) => words)].join(" "));
  }

  const heard = ["model", "beside", "layer", "head", "query", "top"].map((trait) => `change:${trait}`);
  for (const event of heard) model.on(event, draw);
  const controls = [chosen, compared, layers, head, list].flatMap(({ nodes }) => nodes);
  el.append(
    invitation(read("tip"), read("question")),
    ...(controls.length ? [element("div", { class: "mmt-controls" }, ...controls)] : []),
    element("p", { class: "mmt-heading" }, element("b", {}, "Who asks")),
    chooser.node, status.node, legend, side,
  );
  draw();
  return () => {
    heard.forEach((event) => model.off(event, draw));
    addresses.forEach((address) => URL.revokeObjectURL(address));
  };
}

export default { render };
