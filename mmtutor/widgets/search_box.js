// The trained text encoder, run in the page: features, hash, mean of table rows, linear layers, cosine.

const SHOWN = 12;

/** Words with their letter trigrams; Chinese characters with their pairs (mmtutor.encoders.text_features). */
export function textFeatures(text) {
  text = text.normalize("NFKC").toLowerCase();
  const features = [];
  for (const [word] of text.matchAll(/[a-z0-9]+/g)) {
    const marked = `<${word}>`;
    features.push(word);
    for (let i = 0; i + 3 <= marked.length; i++) features.push(marked.slice(i, i + 3));
  }
  for (const [run] of text.matchAll(/[\u4e00-\u9fff]+/g)) {
    features.push(...run);
    for (let i = 0; i + 2 <= run.length; i++) features.push(run.slice(i, i + 2));
  }
  return features;
}

/** Fowler, Noll and Vo's hash 1a, 32 bits, over the UTF-8 bytes. */
export function fnv1a(text) {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/** Rebuild the encoder and the pictures from the model's quantised arrays. */
export function readModel(model) {
  const table = numbers(model.get("table"), Int8Array);
  const buckets = model.get("buckets");
  const weights = numbers(model.get("weights"), Int8Array);
  const biases = numbers(model.get("biases"), Float32Array);
  let [w, b] = [0, 0];
  const layers = model.get("layers").map(({ rows, columns, scale }) => ({
    rows, columns, scale,
    weight: weights.subarray(w, (w += rows * columns)),
    bias: biases.subarray(b, (b += rows)),
  }));
  const pictures = numbers(model.get("pictures"), Int8Array);
  const dim = layers[layers.length - 1].rows;
  return {
    table, buckets, layers, pictures, dim,
    width: table.length / buckets,
    tableScale: model.get("table_scale"),
    picturesScale: model.get("pictures_scale"),
  };
}

/** Embed a text: a vector of the shared space, or null if the text has no feature at all. */
export function embed(encoder, text) {
  const features = textFeatures(text);
  if (!features.length) return null;
  let z = new Float64Array(encoder.width);
  for (const feature of features) {
    const start = (fnv1a(feature) % encoder.buckets) * encoder.width;
    for (let e = 0; e < encoder.width; e++) z[e] += (encoder.table[start + e] * encoder.tableScale) / features.length;
  }
  encoder.layers.forEach((layer, depth) => {
    const x = depth ? z.map((value) => Math.max(0, value)) : z;
    z = Float64Array.from(layer.bias);
    for (let r = 0; r < layer.rows; r++) {
      let dot = 0;
      for (let c = 0; c < layer.columns; c++) dot += layer.weight[r * layer.columns + c] * x[c];
      z[r] += dot * layer.scale;
    }
  });
  return z;
}

const rowOf = (encoder, i) => encoder.pictures.subarray(i * encoder.dim, (i + 1) * encoder.dim);

/** Cosine similarity of a vector to every picture, best first: [{ index, similarity }]. */
export function rank(encoder, z) {
  const length = Math.hypot(...z) || 1;
  const count = encoder.pictures.length / encoder.dim;
  const found = Array.from({ length: count }, (_, index) => {
    const dot = rowOf(encoder, index).reduce((sum, x, d) => sum + x * z[d], 0);
    return { index, similarity: (dot * encoder.picturesScale) / length };
  });
  return found.sort((a, b) => b.similarity - a.similarity || a.index - b.index);
}

async function render({ model, el }) {
  el.classList.add("mmt", "mmt-search");
  const encoder = readModel(model);
  const names = model.get("names");
  const sprite = await loadSprite(model.get("sprite"), model.get("sprite_size"), model.get("sprite_columns"));

  const box = keepKeys(element("input", { type: "search", placeholder: "type anything", autocomplete: "off", spellcheck: "false" }));
  const ask = (query) => {
    if (query === model.get("query")) draw(); // no change to hear of, but a picture may have been the last query
    model.set("query", query);
    model.save_changes();
  };
  box.addEventListener("input", () => ask(box.value));
  const chips = model.get("examples").map((example) => button(example, () => ask(example)));
  const list = element("ol", { class: "mmt-results" });
  const seen = element("p", { class: "mmt-muted" });
  const status = liveText();

  const showFound = (found, what) => {
    const best = found.slice(0, SHOWN);
    list.replaceChildren(...best.map(({ index, similarity }) => {
      const open = button("", () => askByPicture(index));
      open.setAttribute("aria-label", `${names[index]}, similarity ${similarity.toFixed(2)}: find pictures like it`);
      open.append(
        thumbnail(sprite, index, 40),
        element("span", { class: "mmt-name" }, names[index]),
        element("span", { class: "mmt-bar", style: `--mmt-part:${(100 * Math.max(0, similarity)).toFixed(1)}%` }),
        element("span", { class: "mmt-number" }, similarity.toFixed(2)),
      );
      return element("li", {}, open);
    }));
    status.say(best.length ? `${what}: nearest is ${names[best[0].index]}, similarity ${best[0].similarity.toFixed(2)}.` : what);
    model.set("results", best.map(({ index }) => index));
    model.save_changes();
  };

  const askByPicture = (index) => {
    box.value = "";
    chips.forEach((chip) => chip.setAttribute("aria-pressed", "false"));
    seen.textContent = "The query is now a picture: the same space, the same cosine, no words at all.";
    showFound(rank(encoder, rowOf(encoder, index)), `Pictures like ${names[index]}`);
    list.querySelector("button").focus();
  };

  const draw = () => {
    const query = model.get("query");
    if (box.value !== query) box.value = query;
    chips.forEach((chip) => chip.setAttribute("aria-pressed", String(chip.textContent === query)));
    const z = embed(encoder, query);
    if (!z) {
      seen.textContent = "";
      showFound([], "Nothing to go on: the encoder knows the letters a–z, digits and Chinese characters.");
      return;
    }
    const features = textFeatures(query);
    const more = features.length > 24 ? " …" : "";
    seen.textContent = `What the encoder sees: ${features.slice(0, 24).join(" · ")}${more}`;
    showFound(rank(encoder, z), `Pictures for “${query}”`);
  };
  model.on("change:query", draw);

  el.append(
    invitation("describe a picture, or misspell one.", "Why does a word that no name contains still find something?"),
    element("label", { class: "mmt-query" }, element("span", {}, "Words, English or 中文"), box),
    element("div", { class: "mmt-controls", role: "group", "aria-label": "Examples" }, ...chips),
    seen, status.node, list,
  );
  draw();
  return () => model.off("change:query", draw);
}

export default { render };
