// A training run, look by look: pairs drawn from the same noise, and what the discriminator said on the way.

const SIZE = 32; // of a picture on the sheet
const PAUSE = 450; // milliseconds a look, when the film runs
const STYLES = ["mmt-first", "mmt-second", "mmt-third"]; // of the curves

/** Each curve at a look, as Python's values(). */
export function values({ steps, curves, look }) {
  const share = steps[look] / steps.at(-1);
  return Object.fromEntries(Object.entries(curves).map(([name, curve]) => [name, curve[Math.min(curve.length - 1, Math.floor(share * curve.length))]]));
}

function inWords(state) {
  const said = Object.entries(values(state)).map(([name, value]) => `${name} ${value.toFixed(2)}`);
  return `Step ${state.steps[state.look]}. The discriminator's mean D: ${said.join(", ")}.`;
}

/** The curves over the steps; `show(look)` moves the line that marks where the film is. */
function chart({ steps, curves }) {
  const [left, right, top, bottom] = [34, 470, 10, 110];
  const last = steps.at(-1);
  const atX = (step) => left + (step / last) * (right - left);
  const atY = (y) => bottom - y * (bottom - top);
  const words = (x, y, text, anchor) => svg("text", { x, y, "text-anchor": anchor }, text);
  const here = svg("path", { class: "mmt-here" });
  const lines = Object.entries(curves).map(([, curve], i) => {
    const points = curve.map((y, k) => `${atX(((k + 0.5) / curve.length) * last).toFixed(1)} ${atY(y).toFixed(1)}`);
    return svg("path", { d: `M${points.join("L")}`, class: `mmt-curve ${STYLES[i % 3]}` });
  });
  const node = svg("svg", { viewBox: "0 0 480 146", class: "mmt-line-chart", role: "img" },
    ...[0, 0.5, 1].map((y) => words(left - 6, atY(y) + 4, String(y), "end")),
    ...[0, last / 2, last].map((step) => words(atX(step), bottom + 16, String(Math.round(step)), "middle")),
    words((left + right) / 2, bottom + 33, "step", "middle"),
    svg("path", { d: `M${left} ${atY(0.5)}H${right}`, class: "mmt-coin" }),
    svg("path", { d: `M${left} ${bottom}H${right}`, class: "mmt-axis" }), here, ...lines);
  const show = (step, label) => {
    here.setAttribute("d", `M${atX(step).toFixed(1)} ${top}V${bottom}`);
    node.setAttribute("aria-label", label);
  };
  return { node, show };
}

async function render({ model, el }) {
  el.classList.add("mmt", "mmt-film");
  const names = ["steps", "views", "pairs", "curves", "look"];
  const state = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const { steps, views, pairs, curves } = state();
  const sprite = await loadSprite(model.get("pictures"), SIZE, model.get("sheet_columns"));
  const canvases = Array.from({ length: pairs }, () => views.map(() => {
    const canvas = element("canvas", { class: "mmt-shot", "aria-hidden": "true" });
    canvas.width = canvas.height = 2 * SIZE;
    return canvas;
  }));
  const plot = chart(state());
  const status = liveText();
  const set = (look) => {
    model.set("look", look);
    model.save_changes();
  };
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  const start = () => {
    if (model.get("look") === steps.length - 1) set(0);
    play.textContent = "Stop";
    timer = setInterval(() => {
      set(model.get("look") + 1);
      if (model.get("look") === steps.length - 1) stop();
    }, PAUSE);
  };
  const play = button("Play", () => (timer ? stop() : start()));
  const time = slider({ label: "training", min: 0, max: steps.length - 1, step: 1, value: model.get("look"), show: (i) => `step ${steps[i]}`, onInput: (i) => { stop(); set(i); } });
  const draw = () => {
    const now = state();
    canvases.forEach((pair, i) => pair.forEach((canvas, v) => sprite.draw(canvas.getContext("2d"), (now.look * pairs + i) * views.length + v, 0, 0, canvas.width)));
    time.set(now.look);
    plot.show(steps[now.look], `Mean D over the steps of training. ${inWords(now)}`);
    status.say(inWords(now));
  };
  model.on("change:look", draw);
  const key = Object.keys(curves).map((name, i) => element("li", {}, element("span", { class: `mmt-sample ${STYLES[i % 3]}`, "aria-hidden": "true" }), name));
  el.append(
    invitation("move through the training.", "What does the generator find first: the shape, the colours, or that both hands should draw the same thing?"),
    element("div", { class: "mmt-controls" }, play, time.node),
    element("div", { class: "mmt-shots" }, ...canvases.map((pair) => element("div", { class: "mmt-pair" }, ...pair))),
    element("p", { class: "mmt-muted" }, `Above ${views[0]}, below ${views.slice(1).join(", ")}: ${pairs} draws of noise, the same at every step.`),
    element("ul", { class: "mmt-key" }, ...key), plot.node, status.node);
  draw();
  return () => {
    stop();
    model.off("change:look", draw);
  };
}

export default { render };
