// From a picture to the network's input, as the manifest's `preprocess` says.

import { PageError } from "./bundle.js";
import { takeOrientation, turn } from "./orientation.js";

const MAX_PIXELS = 80_000_000;
const TOO_LARGE = "The picture is too large for this browser.";
const FIXED_BITS = 22;
const FILTERS = {
  bilinear: { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { reach: 2, weight: cubic },
};

/**
 * A picture file as pixels: upright, over white where it is transparent, without color management.
 * @param {Blob} blob
 * @returns {Promise<ImageBitmap>}
 */
export async function decodePicture(blob) {
  let [bitmap, orientation] = [null, 1];
  try {
    const taken = await takeOrientation(blob);
    orientation = taken.orientation;
    bitmap = await createImageBitmap(taken.file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new PageError("This file is not a picture that the browser can read. Choose a JPEG, PNG or WebP file.");
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    throw new PageError(`The picture has ${bitmap.width}x${bitmap.height} pixels; at most 80 million are read.`);
  }
  const upright = turn(bitmap, orientation);
  if (!upright) throw new PageError(TOO_LARGE);
  return upright;
}

/**
 * @param {CanvasImageSource & {width: number, height: number}} source
 * @returns {{data: Uint8ClampedArray, width: number, height: number}} RGBA rows, opaque.
 */
export function pixelsOf(source) {
  const canvas = new OffscreenCanvas(source.width, source.height);
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  if (!context) throw new PageError(TOO_LARGE);
  context.fillStyle = "white";
  context.fillRect(0, 0, source.width, source.height);
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, source.width, source.height);
}

/**
 * The network's input for a picture.
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image RGBA.
 * @param {object} spec The manifest's `preprocess`.
 * @returns {Float32Array} 3 x height x width, one channel after the other.
 */
export function toInput(image, spec) {
  const { width, height } = spec;
  let size = [width, height];
  if (spec.resize === "short_side_crop") {
    const scale = spec.short_side / Math.min(image.width, image.height);
    size = [
      Math.max(roundHalfEven(image.width * scale), width),
      Math.max(roundHalfEven(image.height * scale), height),
    ];
  }
  const fitted = resize(image, size[0], size[1], spec.interpolation);
  const left = Math.floor((size[0] - width) / 2);
  const top = Math.floor((size[1] - height) / 2);
  const input = new Float32Array(3 * height * width);
  for (let channel = 0; channel < 3; channel += 1) {
    const table = Float32Array.from({ length: 256 }, (_, v) => (v / 255 - spec.mean[channel]) / spec.std[channel]);
    let to = channel * height * width;
    for (let y = 0; y < height; y += 1) {
      let from = ((y + top) * size[0] + left) * 4 + channel;
      for (let x = 0; x < width; x += 1, from += 4, to += 1) input[to] = table[fitted.data[from]];
    }
  }
  return input;
}

/**
 * An antialiased resize on 8-bit values: along rows, rounded, then along columns, rounded. The filter is widened by
 * the reduction, its weights are 22-bit fixed-point numbers. Pillow computes the same to the last bit, except that
 * from version 13 on it may take columns first; the Python package asks it for rows first.
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image RGBA; alpha is not kept.
 * @returns {{data: Uint8ClampedArray, width: number, height: number}}
 */
export function resize(image, width, height, interpolation) {
  const filter = FILTERS[interpolation];
  if (!filter) throw new PageError(`The manifest asks for ${interpolation} interpolation, which this page lacks.`);
  if (Math.max(image.height, height) * width > MAX_PIXELS) {
    throw new PageError(`The picture has ${image.width}x${image.height} pixels: too long and narrow. Crop it first.`);
  }
  let result = image;
  if (width !== image.width) result = alongRows(result, taps(image.width, width, filter));
  if (height !== image.height) result = alongColumns(result, taps(image.height, height, filter));
  return result;
}

/** For each target position the first source position and the weights of it and its successors. */
function taps(source, target, filter) {
  const scale = source / target;
  const stretch = Math.max(scale, 1);
  const reach = filter.reach * stretch;
  const first = new Int32Array(target);
  const weights = [];
  for (let to = 0; to < target; to += 1) {
    const center = (to + 0.5) * scale;
    const from = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(source, Math.trunc(center + reach + 0.5));
    const raw = [];
    for (let x = from; x < end; x += 1) raw.push(filter.weight((x - center + 0.5) / stretch));
    const total = raw.reduce((sum, value) => sum + value, 0);
    first[to] = from;
    weights.push(Int32Array.from(raw, (value) => roundAwayFromZero((value / total) * (1 << FIXED_BITS))));
  }
  return { first, weights, length: target };
}

function alongRows(image, { first, weights, length }) {
  const data = new Uint8ClampedArray(length * image.height * 4);
  for (let x = 0; x < length; x += 1) {
    const tap = weights[x];
    for (let y = 0; y < image.height; y += 1) {
      let from = (y * image.width + first[x]) * 4;
      let [red, green, blue] = [HALF, HALF, HALF];
      for (let k = 0; k < tap.length; k += 1, from += 4) {
        red += image.data[from] * tap[k];
        green += image.data[from + 1] * tap[k];
        blue += image.data[from + 2] * tap[k];
      }
      store(data, (y * length + x) * 4, red, green, blue);
    }
  }
  return { data, width: length, height: image.height };
}

function alongColumns(image, { first, weights, length }) {
  const row = image.width * 4;
  const data = new Uint8ClampedArray(length * row);
  for (let y = 0; y < length; y += 1) {
    const tap = weights[y];
    for (let x = 0; x < row; x += 4) {
      let from = first[y] * row + x;
      let [red, green, blue] = [HALF, HALF, HALF];
      for (let k = 0; k < tap.length; k += 1, from += row) {
        red += image.data[from] * tap[k];
        green += image.data[from + 1] * tap[k];
        blue += image.data[from + 2] * tap[k];
      }
      store(data, y * row + x, red, green, blue);
    }
  }
  return { data, width: image.width, height: length };
}

const HALF = 1 << (FIXED_BITS - 1);

/** Writes one pixel from fixed-point sums; the clamped array cuts at 0 and 255. */
function store(data, to, red, green, blue) {
  data[to] = red >> FIXED_BITS;
  data[to + 1] = green >> FIXED_BITS;
  data[to + 2] = blue >> FIXED_BITS;
  data[to + 3] = 255;
}

/** The cubic of Keys with a = -0.5. */
function cubic(position) {
  const x = Math.abs(position);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

function roundAwayFromZero(value) {
  return Math.trunc(value < 0 ? value - 0.5 : value + 0.5);
}

/** Python's round(). */
function roundHalfEven(value) {
  const down = Math.floor(value);
  if (value - down !== 0.5) return Math.round(value);
  return down % 2 === 0 ? down : down + 1;
}
