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

/** The share of the pixels, 0..1, of each class. */
export function sharesOf(classes, count) {
  const shares = new Float64Array(count);
  for (const id of classes) shares[id] += 1 / classes.length;
  return shares;
}

/** The legend: one line per class of the model, of which those in the picture are shown. */
export class Legend {
  #lines;
  #empty;

  constructor(list, empty, labels, palette) {
    this.#empty = empty;
    this.#lines = labels.map((label, index) => {
      const line = document.createElement("li");
      const [swatch, name, share] = ["swatch", "name", "share"].map((kind) => {
        const part = document.createElement("span");
        part.className = kind;
        return part;
      });
      if (palette[index]) swatch.style.backgroundColor = `rgb(${palette[index].join(" ")})`;
      name.textContent = label.replaceAll("_", " ");
      line.append(swatch, name, share);
      line.hidden = true;
      return line;
    });
    list.replaceChildren(...this.#lines);
  }

  /** @param {ArrayLike<number>} shares Per class, 0..1. @returns {string} The same in words. */
  show(shares) {
    const words = [];
    this.#lines.forEach((line, index) => {
      line.hidden = !(shares[index] >= SMALLEST_SHARE);
      const percent = `${(100 * (shares[index] ?? 0)).toFixed(1)} %`;
      if (line.lastChild.textContent !== percent) line.lastChild.textContent = percent;
      if (!line.hidden) words.push(`${line.children[1].textContent} ${percent}`);
    });
    this.#empty.hidden = words.length > 0;
    return words.join(", ");
  }
}
