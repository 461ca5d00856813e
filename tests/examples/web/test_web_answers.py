"""The web page gives the answers that Python gives."""

from __future__ import annotations

import base64
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[3] / "examples"
# The first test that needs a bundle makes one.
pytestmark = pytest.mark.timeout(900)
# Runs in the page: the answers to pictures at their own size, by the page's own modules.
PREDICT = """async ([bundleAddress, path, pictures]) => {
  const { openBundle, readFile, usableArtifacts } = await import('/bundle.js');
  const { decodePicture } = await import('/picture.js');
  const { Segmenter } = await import('/segmenter.js');
  const bundle = await openBundle(bundleAddress);
  const entry = usableArtifacts(bundle.manifest).find((found) => found.path === path);
  const segmenter = new Segmenter();
  const { preprocess } = bundle.manifest;
  await segmenter.load({ model: await readFile(bundle, path), entry, preprocess, backend: 'wasm', threads: 1 });
  const text = (array) => {
    const raw = new Uint8Array(array.buffer);
    let all = '';
    for (let at = 0; at < raw.length; at += 32768) all += String.fromCharCode(...raw.subarray(at, at + 32768));
    return btoa(all);
  };
  const answers = [];
  for (const picture of pictures) {
    const blob = new Blob([Uint8Array.from(atob(picture), (c) => c.charCodeAt(0))]);
    const { tensor } = await segmenter.prepare(await decodePicture(blob));
    const answer = await segmenter.predict(await decodePicture(blob));
    answers.push({ classes: text(answer.classes), tensor: text(tensor) });
  }
  return answers;
}"""
# Landscape and portrait, shrunk and enlarged to the input, along both axes and along one.
PICTURES = (
    *(("river.jpg", (733, 491)), ("bear_and_key.jpg", (400, 301)), ("turtle_and_fox.jpg", (480, 733))),
    *(("butterfly.jpg", (301, 640)), ("duck_held_out.jpg", (1024, 700)), ("train_and_ox.jpg", (512, 512))),
)


def as_text(data):
    return base64.b64encode(data).decode()


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def example_pixels(name, size):
    with Image.open(EXAMPLES / "images" / name) as picture:
        return np.asarray(picture.convert("RGB").resize(size))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_page_answers_as_python_does(page, serve, bundle, manifest, precision):
    from mscsa_deploy.imaging.preprocess import preprocess
    from mscsa_deploy.runner import load

    # A browser has no VNNI, and what requires it is inexact without.
    fitting = [found for found in manifest["artifacts"] if found["precision"] == precision and not found["requires"]]
    fitting = [found for found in fitting if "onnxruntime" in found["runtimes"]]
    if not fitting:
        pytest.skip(f"the bundle's {precision} artefacts all require processor extensions that a browser lacks")
    [entry, *_] = fitting
    images = [example_pixels(name, size) for name, size in PICTURES]
    address = serve(bundle)
    page.show_nothing(address)
    answers = page.evaluate(PREDICT, [f"{address}bundle/", entry["path"], [as_text(png(image)) for image in images]])
    shares = []
    with load(bundle, runtime="onnxruntime", precision=precision, threads=1) as runner:
        for image, answer in zip(images, answers, strict=True):
            tensor = preprocess(image, runner.manifest.preprocess)
            ours = np.frombuffer(base64.b64decode(answer["tensor"]), np.float32)
            np.testing.assert_array_equal(ours, tensor.ravel())
            expected = runner.predict(image).class_map
            assert len(np.unique(expected)) > 1
            classes = np.frombuffer(base64.b64decode(answer["classes"]), np.uint8)
            shares.append((classes == expected.ravel()).mean())
    # Integers add up to the same. What stays float adds up in another order, which turns a tie, or, where INT8 rounds
    # next, one value by one step of 256: in a third of the pictures a single one of some 13,000 in the second block.
    assert np.mean(shares) >= 0.999, shares


def test_class_map_equals_python_to_the_last_pixel(page, serve, bundle):
    from mscsa_deploy.imaging.classmap import class_map, resize_nearest

    logits = np.random.default_rng(7).normal(size=(30, 9, 11)).astype(np.float32)
    logits[4] = logits[9]
    page.show_nothing(serve(bundle))
    script = """async ([values, size]) => {
      const { classMap, restore } = await import('/answer.js');
      const map = classMap({ data: Float32Array.from(values), classes: 30, rows: 9, columns: 11 }, size);
      return [Array.from(map), Array.from(restore(map, size, { width: 53, height: 201 }))];
    }"""
    found, restored = page.evaluate(script, [logits.ravel().tolist(), {"width": 88, "height": 72}])
    expected = class_map(logits, (72, 88))
    assert found == expected.ravel().tolist()
    assert restored == resize_nearest(expected, (201, 53)).ravel().tolist()


def test_pictures_are_upright_as_in_python(page, serve, bundle):
    """By the EXIF data of WebP, which Chromium does not look at, and of PNG, which it does."""
    from mscsa_deploy.imaging.decode import decode

    image = Image.fromarray(np.random.default_rng(5).integers(0, 256, (20, 31, 3), dtype=np.uint8))
    files = []
    for kind, order, orientation in [("PNG", "<", 6), *(("WEBP", order, way) for order in "<>" for way in range(10))]:
        exif = Image.Exif()
        exif.endian = order
        exif[0x010E], exif[0x0112] = "a description before it", orientation
        stream = io.BytesIO()
        image.save(stream, kind, lossless=True, exif=exif.tobytes())
        files.append(stream.getvalue())
    # As some programs write it: the chunk begins as in a JPEG file.
    before, chunk = files[7].split(b"EXIF")
    data = b"Exif\0\0" + chunk[4:]
    riff = before[8:] + b"EXIF" + struct.pack("<I", len(data)) + data
    files.append(b"RIFF" + struct.pack("<I", len(riff)) + riff)
    page.show_nothing(serve(bundle))
    script = """async (files) => {
      const { decodePicture, pixelsOf } = await import('/picture.js');
      const found = [];
      for (const file of files) {
        const blob = new Blob([Uint8Array.from(atob(file), (c) => c.charCodeAt(0))]);
        const { width, height, data } = pixelsOf(await decodePicture(blob));
        found.push([width, height, Array.from(data)]);
      }
      return found;
    }"""
    answers = page.evaluate(script, [as_text(file) for file in files])
    for number, (file, (width, height, data)) in enumerate(zip(files, answers, strict=True)):
        ours = np.array(data).reshape(height, width, 4)[..., :3]
        np.testing.assert_array_equal(ours, decode(file), err_msg=str(number))


def test_resize_equals_pillow(page, serve, bundle):
    image = np.random.default_rng(3).integers(0, 256, (57, 91, 3), dtype=np.uint8)
    page.show_nothing(serve(bundle))
    script = """async ([pixels, width, height, kind]) => {
      const { resize } = await import('/picture.js');
      const image = { data: Uint8ClampedArray.from(pixels), width: 91, height: 57 };
      return Array.from(resize(image, width, height, kind).data);
    }"""
    rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    # The last one Pillow resizes along columns first: every rounding in between may differ by one step.
    for kind, size, steps in (("bilinear", (20, 13), 0), ("bicubic", (32, 160), 0), ("bilinear", (200, 9), 1)):
        found = page.evaluate(script, [rgba.ravel().tolist(), *size, kind])
        expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling[kind.upper()]))
        difference = np.array(found).reshape(size[1], size[0], 4)[..., :3] - expected.astype(int)
        assert abs(difference).max() <= steps
