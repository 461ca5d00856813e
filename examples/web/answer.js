// From the network's output to the answer, as the manifest's `postprocess` says.

import { PageError } from "./bundle.js";

const { fround } = Math;
// A float32 interpolation may leave its corners' range by some units in the last place.
const ROUNDING = 8 * 2 ** -23;
const TOP = 5;

/**
 * The class map at the input's size.
 * @param {{data: ArrayLike<number>, dims: number[]}} output The output tensor, batch 1.
 * @param {object} post The artefact's `postprocess`.
 * @param {{width: number, height: number}} size The input's size.
 * @returns {Uint8Array | Uint16Array} height x width.
 */
export function classesOf(output, post, { width, height }) {
  const [rows, columns] = output.dims.slice(-2);
  if (post.decide === "none") {
    return (output.data instanceof Uint8Array ? Uint8Array : Uint16Array).from(output.data, Number);
  }
  const values = { data: output.data, classes: output.dims.at(-3), rows, columns };
  checkFinite(values.data);
  return classMap(values, post.upsample === "bilinear" ? { width, height } : { width: columns, height: rows });
}

/**
 * The class that wins at each pixel after bilinear upsampling with half-pixel centers, without upsampling most of it:
 * inside the cell between four neighboring values only a class whose largest corner reaches every other class's
 * smallest corner can win. Arithmetic in float32; of equal values the lower class wins.
 * @param {{data: Float32Array, classes: number, rows: number, columns: number}} values
 * @param {{width: number, height: number}} size
 */
export function classMap({ data, classes, rows, columns }, { width, height }) {
  const result = classes <= 256 ? new Uint8Array(width * height) : new Uint16Array(width * height);
  const across = places(columns, width);
  const down = places(rows, height);
  const slack = ROUNDING * data.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const able = new Int32Array(classes);
  const left = new Float64Array(classes);
  for (const band of runs(down.first)) {
    const upper = band.value * columns;
    const lower = Math.min(band.value + 1, rows - 1) * columns;
    for (const cell of runs(across.first)) {
      const near = cell.value;
      const far = Math.min(near + 1, columns - 1);
      const corners = [upper + near, upper + far, lower + near, lower + far];
      const count = candidates(data, classes, rows * columns, corners, slack, able, left);
      if (count === 1) {
        for (let y = band.start; y < band.end; y += 1) {
          result.fill(able[0], y * width + cell.start, y * width + cell.end);
        }
      } else {
        decide(data, rows * columns, corners, able.subarray(0, count), { result, width, band, cell, across, down });
      }
    }
  }
  return result;
}

/**
 * A class map at another size: each pixel takes the class under its center.
 * @returns {Uint8Array | Uint16Array} to.height x to.width.
 */
export function restore(classes, from, to) {
  const result = new classes.constructor(to.width * to.height);
  const columns = Int32Array.from({ length: to.width }, (_, x) => Math.floor(((2 * x + 1) * from.width) / (2 * to.width)));
  for (let y = 0, at = 0; y < to.height; y += 1) {
    const row = Math.floor(((2 * y + 1) * from.height) / (2 * to.height)) * from.width;
    for (let x = 0; x < to.width; x += 1, at += 1) result[at] = classes[row + columns[x]];
  }
  return result;
}

/**
 * The best classes of a classification, the most probable first.
 * @returns {{index: number, share: number}[]} Probabilities 0..1.
 */
export function bestClasses(output, post) {
  checkFinite(output.data);
  let shares = Float64Array.from(output.data);
  if (post.decide === "softmax") {
    const most = shares.reduce((a, b) => Math.max(a, b));
    shares = shares.map((value) => Math.exp(value - most));
    const total = shares.reduce((a, b) => a + b, 0);
    shares = shares.map((value) => value / total);
  }
  const order = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a] || a - b);
  return order.slice(0, TOP).map((index) => ({ index, share: shares[index] }));
}

function candidates(data, classes, plane, corners, slack, able, largest) {
  const [a, b, c, d] = corners;
  let floor = -Infinity;
  for (let k = 0, at = 0; k < classes; k += 1, at += plane) {
    const [p, q, r, s] = [data[at + a], data[at + b], data[at + c], data[at + d]];
    largest[k] = Math.max(p, q, r, s);
    floor = Math.max(floor, Math.min(p, q, r, s));
  }
  let count = 0;
  for (let k = 0; k < classes; k += 1) {
    if (largest[k] >= floor - slack) {
      able[count] = k;
      count += 1;
    }
  }
  return count;
}

function decide(data, plane, [a, b, c, d], able, { result, width, band, cell, across, down }) {
  for (let x = cell.start; x < cell.end; x += 1) {
    const t = across.share[x];
    for (let y = band.start; y < band.end; y += 1) {
      const u = down.share[y];
      let [best, winner] = [-Infinity, 0];
      for (const k of able) {
        const at = k * plane;
        const upper = fround(data[at + a] + fround(fround(data[at + b] - data[at + a]) * t));
        const lower = fround(data[at + c] + fround(fround(data[at + d] - data[at + c]) * t));
        const value = fround(upper + fround(fround(lower - upper) * u));
        if (value > best) [best, winner] = [value, k];
      }
      result[y * width + x] = winner;
    }
  }
}

/** For each target pixel its left (upper) neighbor among the source samples and the other one's weight. */
function places(source, target) {
  const first = new Int32Array(target);
  const share = new Float32Array(target);
  for (let to = 0; to < target; to += 1) {
    const place = Math.min(Math.max(((to + 0.5) * source) / target - 0.5, 0), source - 1);
    first[to] = Math.floor(place);
    share[to] = place - first[to];
  }
  return { first, share };
}

/** Stretches of equal values in a sorted array. */
function runs(values) {
  const found = [];
  for (let start = 0, end = 1; end <= values.length; end += 1) {
    if (end === values.length || values[end] !== values[start]) {
      found.push({ value: values[start], start, end });
      start = end;
    }
  }
  return found;
}

function checkFinite(data) {
  for (let at = 0; at < data.length; at += 1) {
    if (!Number.isFinite(data[at])) throw new PageError("The network answered with values that are no numbers.");
  }
}
