// Changes of a picture, and the cosine of centred pixels: the arithmetic of picture_changes.py.
// A picture is 32 x 32 pixels of three channels in 0..1, row by row.

const SIDE = 32;
const PATCH = 4;
const CENTRE = (SIDE - 1) / 2;
const BLANK = 1e-6;
const radians = (degrees) => (degrees * Math.PI) / 180;

/** The pixel at p becomes the old one at A (p - c) + c + t, bilinear between pixels, white outside. */
function lookUp(pixels, [a, b, c, d], shift = 0) {
  const found = new Float64Array(pixels.length).fill(1);
  for (let row = 0; row < SIDE; row++)
    for (let column = 0; column < SIDE; column++) {
      const x = a * (column - CENTRE) + b * (row - CENTRE) + CENTRE + shift;
      const y = c * (column - CENTRE) + d * (row - CENTRE) + CENTRE;
      for (const i of [Math.floor(x), Math.floor(x) + 1])
        for (const j of [Math.floor(y), Math.floor(y) + 1]) {
          if (i < 0 || i >= SIDE || j < 0 || j >= SIDE) continue;
          const weight = (1 - Math.abs(x - i)) * (1 - Math.abs(y - j));
          for (let k = 0; k < 3; k++) found[(row * SIDE + column) * 3 + k] += weight * (pixels[(j * SIDE + i) * 3 + k] - 1);
        }
    }
  return found;
}

const eachColour = (pixels, change) => {
  const found = new Float64Array(pixels.length);
  for (let p = 0; p < pixels.length; p += 3) found.set(change(pixels[p], pixels[p + 1], pixels[p + 2], p / 3), p);
  return found;
};

function meanColour(pixels) {
  const mean = [0, 0, 0];
  pixels.forEach((value, p) => (mean[p % 3] += (3 * value) / pixels.length));
  return mean;
}

function turnHue(pixels, degrees) {
  const [cos, sin] = [Math.cos(radians(degrees)), Math.sin(radians(degrees))];
  const [same, before, after] = [(1 + 2 * cos) / 3, (1 - cos) / 3 - sin / Math.sqrt(3), (1 - cos) / 3 + sin / Math.sqrt(3)];
  const clip = (x) => Math.max(0, Math.min(1, x));
  const mix = (x, y, z) => clip(same * x + before * y + after * z);
  return eachColour(pixels, (r, g, b) => [mix(r, g, b), mix(g, b, r), mix(b, r, g)]);
}

function hidePatches(pixels, share, order) {
  const hidden = new Set(order.slice(0, Math.round(share * order.length)));
  const mean = meanColour(pixels);
  const patch = (i) => Math.floor(Math.floor(i / SIDE) / PATCH) * (SIDE / PATCH) + Math.floor((i % SIDE) / PATCH);
  return eachColour(pixels, (r, g, b, i) => (hidden.has(patch(i)) ? mean : [r, g, b]));
}

const CHANGES = {
  mirror: (x, s) => (s ? lookUp(x, [-1, 0, 0, 1]) : x),
  flip: (x, s) => (s ? lookUp(x, [1, 0, 0, -1]) : x),
  turn: (x, s) => lookUp(x, [Math.cos(radians(s)), Math.sin(radians(s)), -Math.sin(radians(s)), Math.cos(radians(s))]),
  move: (x, s) => lookUp(x, [1, 0, 0, 1], -s),
  shrink: (x, s) => lookUp(x, [1 / s, 0, 0, 1 / s]),
  crop: (x, s) => lookUp(x, [s, 0, 0, s]),
  mask: hidePatches,
  hue: turnHue,
  grey: (x, s) => eachColour(x, (...rgb) => rgb.slice(0, 3).map((v) => (1 - s) * v + s * (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]))),
};

/** Change a picture as augmentation_lab.py does; `order` is the order in which patches are hidden. */
export function changePicture(pixels, change, strength, order) {
  return CHANGES[change](pixels, strength, order);
}

/** Shrink to 16 x 16 by averages, subtract the mean colour, make a unit vector; zero if all is one even colour. */
export function centred(pixels) {
  const half = SIDE / 2;
  const small = new Float64Array(half * half * 3);
  pixels.forEach((value, p) => {
    const [row, column] = [Math.floor(p / 3 / SIDE), Math.floor(p / 3) % SIDE];
    small[((row >> 1) * half + (column >> 1)) * 3 + (p % 3)] += value / 4;
  });
  const mean = meanColour(small);
  const x = small.map((value, p) => value - mean[p % 3]);
  const length = Math.hypot(...x);
  return x.map((value) => (length > BLANK ? value / length : 0));
}

/** Cosine similarity of a picture to each known unit vector, best first; equally near ones as they are numbered. */
export function rank(known, pixels) {
  const z = centred(pixels);
  const similar = known.map((x, index) => ({ index, similarity: Math.round(1e9 * x.reduce((sum, v, d) => sum + v * z[d], 0)) / 1e9 }));
  return similar.sort((a, b) => b.similarity - a.similarity || a.index - b.index);
}
