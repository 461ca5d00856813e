"""The web page in a real browser: the same answers as Python, camera, offline, broken downloads, bad input."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
WEB = EXAMPLES / "web"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHOWN = "document.getElementById('stage').dataset.state === 'picture'"
COMPLAINED = "!document.getElementById('problem').hidden"
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


@pytest.fixture(scope="module")
def site(missing):
    """The page's folder, with ONNX Runtime Web in it."""
    for name in ("npm", "node"):
        if shutil.which(name) is None:
            missing("web", f"{name} is not installed (apt-get install npm)")
    if CHROMIUM is None:
        missing("web", "there is no Chromium (apt-get install chromium)")
    done = subprocess.run([WEB / "setup"], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        missing("web", f"ONNX Runtime Web could not be fetched: {done.stderr.strip()[-300:]}")
    return WEB


@pytest.fixture
def serve(site, load_script):
    """Serves a bundle directory; gives the address."""
    servers = []

    def start(bundle):
        server = load_script(site / "serve.py").make_server(bundle, 0)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://localhost:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """What the camera sees: one of the example pictures, as uncompressed video."""
    with Image.open(EXAMPLES / "images" / "bear_and_key.jpg") as picture:
        luma, *chroma = picture.convert("YCbCr").resize((320, 240)).split()
    frame = b"FRAME\n" + luma.tobytes() + b"".join(plane.resize((160, 120)).tobytes() for plane in chroma)
    path = tmp_path_factory.mktemp("camera") / "camera.y4m"
    path.write_bytes(b"YUV4MPEG2 W320 H240 F10:1 Ip A1:1 C420jpeg\n" + 3 * frame)
    return path


@pytest.fixture(scope="module")
def browser(site, film, missing):
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("web", "playwright is not installed (pip install playwright)")
    switches = [
        *("--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream"),
        f"--use-file-for-fake-video-capture={film}",
    ]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=switches)
        yield running
        running.close()


@pytest.fixture
def page(browser):
    """A fresh page that allows the camera; an error on its console fails the test unless `allowed` expects it."""
    context = browser.new_context(permissions=["camera"], viewport={"width": 1100, "height": 800})
    page = context.new_page()
    page.errors, page.allowed = [], ""
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda line: page.errors.append(line.text) if line.type == "error" else None)
    yield page
    errors = [error for error in page.errors if not (page.allowed and re.search(page.allowed, error))]
    context.close()
    assert errors == []


def open_page(page, address, until=SHOWN):
    page.goto(address)
    page.wait_for_function(f"{until} || {COMPLAINED}", timeout=60_000)


def module_page(page, address):
    """A page of the site that loads nothing by itself, to try single modules in."""
    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    page.goto(f"{address}bundle/README.md")


def problem(page):
    return page.inner_text("#problem")


def as_text(data):
    return base64.b64encode(data).decode()


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def example_pixels(name, size):
    with Image.open(EXAMPLES / "images" / name) as picture:
        return np.asarray(picture.convert("RGB").resize(size))


@pytest.fixture(scope="module")
def manifest(bundle):
    return json.loads((bundle / "manifest.json").read_text())


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
    module_page(page, address)
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
    module_page(page, serve(bundle))
    script = """async ([values, size]) => {
      const { classMap, restore } = await import('/answer.js');
      const map = classMap({ data: Float32Array.from(values), classes: 30, rows: 9, columns: 11 }, size);
      return [Array.from(map), Array.from(restore(map, size, { width: 53, height: 201 }))];
    }"""
    found, restored = page.evaluate(script, [logits.ravel().tolist(), {"width": 88, "height": 72}])
    expected = class_map(logits, (72, 88))
    assert found == expected.ravel().tolist()
    assert restored == resize_nearest(expected, (201, 53)).ravel().tolist()


def test_resize_equals_pillow(page, serve, bundle):
    image = np.random.default_rng(3).integers(0, 256, (57, 91, 3), dtype=np.uint8)
    module_page(page, serve(bundle))
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


def test_page_shows_the_sample_and_passes_the_golden_pair(page, serve, bundle):
    open_page(page, serve(bundle))
    assert problem(page) == ""
    assert page.locator("#legend li:visible").count() > 1
    assert "%" in page.get_attribute("#view", "aria-label")
    page.click("summary")
    page.click("#check")
    page.wait_for_function("document.getElementById('verdict').dataset.passed !== undefined")
    assert page.inner_text("#verdict").startswith("Passed: input equal")
    assert page.evaluate("crossOriginIsolated")


def test_camera_is_segmented_live_and_stops(page, serve, bundle):
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, serve(bundle))
    page.click("#camera")
    page.wait_for_function("/FPS/.test(document.getElementById('fps').textContent)", timeout=60_000)
    assert float(page.inner_text("#fps").split()[0]) > 0
    assert page.locator("#legend li:visible").count() > 1
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("#camera")
    page.wait_for_function("document.getElementById('camera').textContent === 'Start camera'")
    assert problem(page) == ""


def test_page_works_offline_once_loaded(page, serve, bundle):
    address = serve(bundle)
    page.allowed = "ERR_INTERNET_DISCONNECTED"
    open_page(page, address)
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    page.context.set_offline(True)
    open_page(page, address)
    assert problem(page) == ""
    assert page.inner_text("#status").startswith("Answered in")


def test_photo_from_disk_is_segmented_and_bad_input_explained(page, serve, bundle):
    open_page(page, serve(bundle))
    before = page.get_attribute("#view", "aria-label")
    page.set_input_files("#file", EXAMPLES / "images" / "train_and_ox.jpg")
    page.wait_for_function(f"document.getElementById('view').getAttribute('aria-label') !== {json.dumps(before)}")
    assert problem(page) == ""
    page.set_input_files("#file", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    page.wait_for_function(COMPLAINED)
    assert "not a picture" in problem(page)
    refusal = "async () => { throw new DOMException('no', 'NotAllowedError'); }"
    page.evaluate(f"navigator.mediaDevices.getUserMedia = {refusal}; null")
    page.click("#camera")
    page.wait_for_function("document.getElementById('problem').textContent.includes('camera')")
    assert "The camera was refused. Allow it" in problem(page)


def small_copy(bundle, manifest, place, **changes):
    place.mkdir()
    (place / "manifest.json").write_text(json.dumps(manifest | changes))
    model = manifest["artifacts"][0]["path"]
    (place / model).write_bytes((bundle / model).read_bytes())
    return place


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"schema_version": 2}, "schema version 2; this page reads up to 1", id="newer"),
        pytest.param({"artifacts": []}, "Nothing in the bundle can run in a browser", id="nothing-to-run"),
    ],
)
def test_bad_manifest_is_explained(page, serve, bundle, manifest, tmp_path, changes, message):  # noqa: PLR0917 - fixtures
    open_page(page, serve(small_copy(bundle, manifest, tmp_path / "bad", **changes)))
    assert message in problem(page)


def test_changed_model_is_refused(page, serve, bundle, manifest, tmp_path):
    place = small_copy(bundle, manifest, tmp_path / "bad")
    model = place / manifest["artifacts"][0]["path"]
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    open_page(page, serve(place))
    assert "is not the file its manifest describes (sha256 differs)" in problem(page)


def test_missing_bundle_is_explained(page, serve, bundle):
    page.allowed = "404"
    open_page(page, f"{serve(bundle)}?bundle=elsewhere")
    assert "There is no bundle at" in problem(page)


def test_broken_download_goes_on_where_it_stopped(page, serve, bundle, manifest):
    path = manifest["artifacts"][0]["path"]
    module_page(page, serve(bundle))
    # The first answer ends after 1000 bytes, as when the connection breaks; the rest must be asked for as a range.
    script = """async ([address, path]) => {
      const { openBundle, readFile } = await import('/bundle.js');
      const bundle = await openBundle(address);
      const network = globalThis.fetch;
      const ranges = [];
      globalThis.fetch = async (url, options = {}) => {
        const response = await network(url, options);
        ranges.push(options.headers?.Range ?? '');
        if (ranges.length > 1) return response;
        const start = (await response.arrayBuffer()).slice(0, 1000);
        return new Response(start, { status: 200, headers: response.headers });
      };
      const bytes = await readFile(bundle, path);
      return [bytes.byteLength, ranges];
    }"""
    length, ranges = page.evaluate(script, ["/bundle/", path])
    assert length == (bundle / path).stat().st_size
    assert ranges == ["", "bytes=1000-"]


@pytest.mark.slow
def test_webgpu_passes_the_golden_pair(browser, serve, bundle):
    """On Chromium's software adapter: no graphics card needed, and no speed to be seen."""
    switches = [
        "--no-sandbox",
        "--enable-unsafe-webgpu",
        "--use-webgpu-adapter=swiftshader",
        "--enable-features=Vulkan",
    ]
    vulkan = ["--enable-features=Vulkan", "--use-vulkan=swiftshader"]
    running = browser.browser_type.launch(executable_path=CHROMIUM, args=[*switches, *vulkan])
    page = running.new_page()
    open_page(page, serve(bundle))
    if page.locator("#backend option").count() == 1:
        pytest.skip("this Chromium has no software WebGPU adapter")
    page.click("summary")
    page.select_option("#backend", "webgpu")
    page.wait_for_function("document.getElementById('facts').textContent.includes('on the GPU')", timeout=120_000)
    page.click("#check")
    page.wait_for_function("document.getElementById('verdict').dataset.passed !== undefined", timeout=240_000)
    assert page.inner_text("#verdict").startswith("Passed: input equal")
    running.close()
