// A class map laid over its picture, and the list of what is in it.

const SMALLEST_SHARE = 0.001;
const EDGE = [255, 255, 255];

/** The class that stays untinted; -1 if every class is a thing. */
export function backgroundOf(labels) {
  return labels.findIndex((label) => label.toLowerCase() === "background");
}

/**
 * The tint of a class map, borders drawn white, transparent where the background is.
 * @returns {ImageData} of `size`.
 */
export function tint(classes, size, palette, background) {
  const { width, height } = size;
  const image = new ImageData(width, height);
  for (let y = 0, at = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, at += 1) {
      const id = classes[at];
      const border = (x > 0 && classes[at - 1] !== id) || (y > 0 && classes[at - width] !== id);
      const color = border ? EDGE : palette[id];
      if (!color || (!border && id === background)) continue;
      image.data.set([color[0], color[1], color[2], 255], 4 * at);
    }
  }
  return image;
}

/**
 * The classes of a map that have more than specks of it, in the order of the classes.
 * @returns {{index: number, share: number}[]} Shares of the pixels, 0..1.
 */
export function sharesOf(classes, count) {
  const shares = new Float64Array(count);
  for (const id of classes) shares[id] += 1 / classes.length;
  return Array.from(shares, (share, index) => ({ index, share })).filter(({ share }) => share >= SMALLEST_SHARE);
}

/** The legend: one line per class that was found. */
export class Legend {
  #list;
  #lines;
  #empty;

  /** @param {number[][]} palette Per class its color; empty where classes have none. */
  constructor(list, empty, labels, palette) {
    this.#list = list;
    this.#empty = empty;
    this.#lines = labels.map((label, index) => {
      const line = document.createElement("li");
      const [swatch, name, share] = ["swatch", "name", "share"].map((kind) => {
        const part = document.createElement("span");
        part.className = kind;
        return part;
      });
      if (palette[index]) {
        swatch.style.backgroundColor = `rgb(${palette[index].join(" ")})`;
        line.append(swatch);
      }
      name.textContent = label.replaceAll("_", " ");
      line.append(name, share);
      return line;
    });
  }

  /** @param {{index: number, share: number}[]} found In the order of the lines. @returns {string} The same in words. */
  show(found) {
    const shown = found.filter(({ index }) => index < this.#lines.length).map(({ index, share }) => {
      const line = this.#lines[index];
      const percent = `${(100 * share).toFixed(1)} %`;
      if (line.lastChild.textContent !== percent) line.lastChild.textContent = percent;
      return line;
    });
    // With the camera mostly the same lines as before, which then stay untouched.
    const before = this.#list.children;
    const same = before.length === shown.length && shown.every((line, at) => line === before[at]);
    if (!same) this.#list.replaceChildren(...shown);
    this.#empty.hidden = shown.length > 0;
    return shown.map((line) => `${line.querySelector(".name").textContent} ${line.lastChild.textContent}`).join(", ");
  }
}
