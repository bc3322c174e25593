// On the built site there is no kernel. This file comes last in the page's script: it gives `render` a stand-in
// for Jupyter's model that holds the stored state, and draws each widget of its kind that is not drawn yet.

function standInModel(state) {
  const listeners = [];
  return {
    get: (name) => state[name],
    set(name, value) {
      if (state[name] === value) return;
      state[name] = value;
      for (const [event, callback] of [...listeners]) if (event === `change:${name}`) callback();
    },
    on: (event, callback) => listeners.push([event, callback]),
    off(event, callback) {
      const i = listeners.findIndex(([name, f]) => name === event && (!callback || f === callback));
      if (i >= 0) listeners.splice(i, 1);
    },
    save_changes() {},
  };
}

/** Arrays stand in the page as base64 of deflated bytes. */
async function inflate(base64) {
  const packed = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new DataView(await new Response(stream).arrayBuffer());
}

async function drawOnPage(node) {
  const state = JSON.parse(node.querySelector('script[type="application/json"]').textContent);
  for (const name of Object.keys(state.bytes)) state.values[name] = await inflate(state.bytes[name]);
  const el = element("div");
  await render({ model: standInModel(state.values), el });
  node.querySelector(".mmt-fallback").replaceWith(el);
}

for (const node of document.querySelectorAll(`[data-mmt-widget="${WIDGET}"]:not([data-mmt-drawn])`)) {
  node.setAttribute("data-mmt-drawn", "");
  drawOnPage(node);
}
