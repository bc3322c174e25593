// What the map is drawn with: lines, marks, picture cards and labels on a canvas.

/** A brush for points at `xy` (pixels); each stroke takes the index of a point. */
function makeBrush(context, { xy, names, modality, pictureIndex, sprite, ink, colours, width, height }) {
  const halo = isLight(ink) ? "rgba(18,18,18,.85)" : "rgba(255,255,255,.85)";
  const line = (i, j, alpha, thick) => {
    context.globalAlpha = alpha;
    context.lineWidth = thick;
    context.strokeStyle = ink;
    context.beginPath();
    context.moveTo(...xy[i]);
    context.lineTo(...xy[j]);
    context.stroke();
    context.globalAlpha = 1;
  };
  const mark = (i, radius) => {
    const [x, y] = xy[i];
    context.fillStyle = colours[modality[i]];
    context.beginPath();
    if (modality[i] === "text") {
      context.moveTo(x, y - radius * 1.25);
      for (const [dx, dy] of [[1.25, 0], [0, 1.25], [-1.25, 0]]) context.lineTo(x + dx * radius, y + dy * radius);
    } else context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  };
  const card = (i, side) => {
    const [x, y] = [xy[i][0] - side / 2, xy[i][1] - side / 2];
    context.save();
    context.beginPath();
    context.roundRect(x, y, side, side, side * 0.3);
    context.fillStyle = "white";
    context.fill();
    context.save();
    context.clip();
    sprite.draw(context, pictureIndex[i], x + side * 0.06, y + side * 0.06, side * 0.88);
    context.restore();
    context.lineWidth = side > 30 ? 2 : 1;
    context.strokeStyle = colours[modality[i]];
    context.stroke();
    context.restore();
  };
  const label = (i, weight, dx) => {
    const [x, y] = xy[i];
    context.font = `${weight} 12.5px system-ui, sans-serif`;
    const left = x + dx + context.measureText(names[i]).width < width - 4;
    context.textAlign = left ? "left" : "right";
    context.textBaseline = "middle";
    context.lineWidth = 4;
    context.lineJoin = "round";
    context.strokeStyle = halo;
    context.strokeText(names[i], x + (left ? dx : -dx), y);
    context.fillStyle = ink;
    context.fillText(names[i], x + (left ? dx : -dx), y);
  };
  const axes = ([horizontal, vertical]) => {
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = ink;
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    context.fillText(`${horizontal} →`, 8, height - 6);
    context.save();
    context.translate(12, height - 24);
    context.rotate(-Math.PI / 2);
    context.fillText(`${vertical} →`, 0, 0);
    context.restore();
  };
  return { line, mark, card, label, axes };
}

/** Whether a colour such as "rgb(20, 30, 40)" is light. */
function isLight(colour) {
  const [r, g, b] = colour.match(/[\d.]+/g).map(Number);
  return 0.3 * r + 0.6 * g + 0.1 * b > 128;
}

/** The first figure over training as a small curve with a dot that follows the slider. */
function sparkline(figures) {
  const [name, values] = Object.entries(figures)[0] ?? ["", []];
  const top = Math.max(...values, 1e-9);
  const at = (part, value) => [4 + 292 * part, 34 - (28 * value) / top];
  const path = values.map((value, t) => at(t / Math.max(1, values.length - 1), value).join(" ")).join("L");
  const dot = svg("circle", { r: 4 });
  const node = svg("svg", { viewBox: "0 0 300 40", class: "mmt-curve", role: "img", "aria-label": `${name} over training` });
  if (values.length > 1) node.append(svg("path", { d: `M${path}` }), dot);
  const mark = (part, t) => values.length && fill(dot, { cx: at(part, 0)[0], cy: at(part, values[t])[1] }, []);
  return { node, mark };
}
