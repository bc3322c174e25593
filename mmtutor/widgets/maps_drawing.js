// What the diagram of maps is drawn with: numbers as bars, activations as maps, arrows between boxes.

/** Numbers as bars on a common line; `upright` stacks them from top to bottom. */
function bars(values, colour, top, upright = false) {
  const n = values.length;
  const each = values.map((x, i) => {
    const height = ((15 * x) / (top || 1)).toFixed(2);
    return upright ? `M16 ${i + 0.5}h${height}` : `M${i + 0.5} 16v${-height}`;
  });
  return svg("svg", { class: "mmt-bars", viewBox: upright ? `0 0 32 ${n}` : `0 0 ${n} 32`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { d: upright ? `M16 0v${n}` : `M0 16h${n}`, class: "mmt-axis" }),
    svg("path", { d: each.join(""), stroke: colour, "stroke-width": 0.75 }));
}

/** A map of activations (0 to 255), the fuller in colour the larger; a map of fewer cells is drawn smaller. */
function heat(values, [rows, columns]) {
  const cell = (value, i) => svg("rect", { x: i % columns, y: Math.floor(i / columns), width: 1, height: 1, "fill-opacity": (value / 255).toFixed(2) });
  const size = 14 + 6 * Math.log2(columns);
  return svg("svg", { class: "mmt-heat", viewBox: `0 0 ${columns} ${rows}`, style: `--mmt-size:${size}`, "aria-hidden": "true" }, ...values.map(cell));
}

/** A shape such as 128×4×4; the line may break after the first number. */
function shapeText(sizes) {
  const [first, ...rest] = sizes;
  return rest.length ? [`${first}×`, element("wbr"), rest.join("×")] : [`${first}`];
}

/** A tick in a full disc, or a cross in an empty one. */
function verdictMark(verdict) {
  const d = verdict === "right" ? "M5 9.5l3 3l5.5 -6.5" : "M6 6l6 6m0 -6l-6 6";
  return svg("svg", { class: `mmt-mark mmt-${verdict}`, viewBox: "0 0 18 18", role: "img", "aria-label": verdict }, svg("circle", { cx: 9, cy: 9, r: 8 }), svg("path", { d }));
}

/**
 * Draw all arrows where the boxes stand now: from left to right, or downwards where the page is narrow.
 * A lane is { colour, chain, point, cut, idle }: the boxes on its way, where it arrives in the space, whether
 * its arrow is cut, and whether the thing has nothing to send along it.
 */
function drawArrows(wires, lanes, space, fused, heads) {
  const frame = wires.getBoundingClientRect();
  const box = (node) => {
    const { left, right, top, bottom } = node.getBoundingClientRect();
    const [l, r, t, b] = [left - frame.left, right - frame.left, top - frame.top, bottom - frame.top];
    return { left: l, right: r, top: t, bottom: b, x: (l + r) / 2, y: (t + b) / 2 };
  };
  const z = box(fused);
  const down = !getComputedStyle(space.parentNode).gridTemplateColumns.includes(" ");
  const drawn = [];
  const line = (d, stroke, kind = "") => drawn.push(svg("path", { d, stroke, fill: "none", class: kind }));
  const tip = ([x, y], fill, downwards) => drawn.push(svg("path", { d: `M${x} ${y}${downwards ? "l-4.5 -9h9z" : "l-9 -4.5v9z"}`, fill }));
  const gap = (a, b) => (down ? [[Math.min(a.x, b.x), a.bottom + 3], [Math.min(a.x, b.x), b.top - 3]] : [[a.right + 3, b.y], [b.left - 3, b.y]]);

  for (const { colour, chain, point, cut, idle } of lanes) {
    const boxes = chain.map(box);
    const arrived = box(point);
    boxes.slice(1).forEach((next, i) => line(`M${gap(boxes[i], next).join("L")}`, colour, idle ? "mmt-dashed" : ""));
    const [[x0, y0], end] = gap(boxes.at(-1), arrived);
    const at = (part) => [x0 + part * (end[0] - x0), y0 + part * (end[1] - y0)];
    if (cut) {
      const half = 9 / Math.hypot(end[0] - x0, end[1] - y0);
      const edges = [at(0.45 - half), at(0.45 + half)];
      line(`M${at(0)}L${edges[0]}`, colour, idle ? "mmt-dashed" : "mmt-strong");
      line(`M${edges[1]}L${end}`, colour, "mmt-dashed");
      for (const [x, y] of edges) line(down ? `M${x - 6} ${y + 3}l12 -6` : `M${x - 3} ${y + 6}l6 -12`, "currentColor");
    } else if (idle) line(`M${at(0)}L${end}`, colour, "mmt-dashed");
    if (cut || idle) continue;
    line(`M${at(0)}L${down ? [end[0], end[1] - 6] : [end[0] - 6, end[1]]}`, colour, "mmt-strong");
    tip(end, colour, down);
    line(`M${gap(arrived, { ...z, x: Infinity, y: arrived.y }).join("L")}`, colour);
  }
  for (const head of heads) {
    const { left, y } = box(head);
    if (down) line(`M${left - 24} ${z.bottom}V${y - 8}q0 8 8 8H${left - 9}`, "currentColor");
    else line(`M${z.right + 3} ${y}H${left - 9}`, "currentColor");
    tip([left - 3, y], "currentColor", false);
  }
  wires.replaceChildren(...drawn);
}
