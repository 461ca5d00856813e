// Which way is up in a WebP picture: browsers turn JPEG, PNG and AVIF by their EXIF data, but not all of them turn WebP.

const ORIENTATION = 0x0112;
// By EXIF orientation, the canvas's transform for a picture of the width w and the height h as it is stored.
const TRANSFORMS = {
  2: (w) => [-1, 0, 0, 1, w, 0],
  3: (w, h) => [-1, 0, 0, -1, w, h],
  4: (_, h) => [1, 0, 0, -1, 0, h],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (_, h) => [0, 1, -1, 0, h, 0],
  7: (w, h) => [0, -1, -1, 0, h, w],
  8: (w) => [0, -1, 1, 0, 0, w],
};

/**
 * Take the orientation out of a WebP file, so that no browser turns it a second time.
 * @param {Blob} blob A file of any kind.
 * @returns {Promise<{file: Blob, orientation: number}>} EXIF's 2..8; 1 with a file that needs no turning by this page.
 */
export async function takeOrientation(blob) {
  const head = new DataView(await blob.slice(0, 12).arrayBuffer());
  if (head.byteLength === 12 && name(head, 0) === "RIFF" && name(head, 8) === "WEBP") {
    const content = await blob.arrayBuffer();
    const found = valueIn(exifOf(new DataView(content)));
    if (found && Object.hasOwn(TRANSFORMS, found.orientation)) {
      found.erase();
      return { file: new Blob([content]), orientation: found.orientation };
    }
  }
  return { file: blob, orientation: 1 };
}

/**
 * @param {ImageBitmap} bitmap Taken away where it has to be turned.
 * @returns {ImageBitmap | null} Upright, then over white where it is transparent; null if it is too large to turn.
 */
export function turn(bitmap, orientation) {
  if (orientation === 1) return bitmap;
  const { width, height } = bitmap;
  const canvas = orientation < 5 ? new OffscreenCanvas(width, height) : new OffscreenCanvas(height, width);
  const context = canvas.getContext("2d", { colorSpace: "srgb" });
  if (!context) return null;
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  context.setTransform(...TRANSFORMS[orientation](width, height));
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.transferToImageBitmap();
}

/** The EXIF chunk of a RIFF file; empty if it has none. */
function exifOf(file) {
  for (let at = 12; at + 8 <= file.byteLength; ) {
    const size = file.getUint32(at + 4, true);
    const held = Math.min(size, file.byteLength - at - 8);
    if (name(file, at) === "EXIF") return new DataView(file.buffer, at + 8, held);
    // Chunks begin at even places.
    at += 8 + size + (size % 2);
  }
  return new DataView(new ArrayBuffer(0));
}

/** The orientation in a TIFF header's first directory; undefined if it has none, or is damaged before it. */
function valueIn(exif) {
  try {
    // Some programs write JPEG's "Exif" and two zeros before it.
    const start = name(exif, 0) === "Exif" ? 6 : 0;
    const little = exif.getUint16(start) === 0x4949;
    const directory = start + exif.getUint32(start + 4, little);
    for (let left = exif.getUint16(directory, little), at = directory + 2; left > 0; left -= 1, at += 12) {
      if (exif.getUint16(at, little) === ORIENTATION) {
        const orientation = exif.getUint16(at + 8, little);
        return { orientation, erase: () => exif.setUint16(at + 8, 1, little) };
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return undefined;
}

function name(view, at) {
  return String.fromCharCode(...Array.from({ length: 4 }, (_, k) => view.getUint8(at + k)));
}
