"""The page of the web example in a browser without a screen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[3] / "examples"
WEB = EXAMPLES / "web"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHOWN = "document.getElementById('stage').dataset.state === 'picture'"
COMPLAINED = "!document.getElementById('problem').hidden"


def show(page, address):
    """Open the page there and wait until it shows an answer or a complaint."""
    page.goto(address)
    page.wait_for_function(f"{SHOWN} || {COMPLAINED}", timeout=60_000)


def show_nothing(page, address):
    """A page of the site that loads nothing by itself, to try single modules in."""
    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    page.goto(f"{address}bundle/README.md")


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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
    page.show = lambda address: show(page, address)
    page.show_nothing = lambda address: show_nothing(page, address)
    page.problem = lambda: page.inner_text("#problem")
    yield page
    errors = [error for error in page.errors if not (page.allowed and re.search(page.allowed, error))]
    context.close()
    assert errors == []


@pytest.fixture
def gpu_page(browser):
    """A page in a browser with WebGPU on a software adapter."""
    switches = [
        *("--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"),
        *("--enable-features=Vulkan", "--use-vulkan=swiftshader"),
    ]
    running = browser.browser_type.launch(executable_path=CHROMIUM, args=switches)
    page = running.new_page()
    page.show = lambda address: show(page, address)
    yield page
    running.close()


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """A bundle that classifies: a small network with random weights, a crop, and its golden pair."""
    from mscsa_deploy.bundle.golden import GoldenTolerance, write_golden
    from mscsa_deploy.bundle.manifest import ArtifactEntry, BundleModel, Manifest, Postprocess, Tensor
    from mscsa_deploy.bundle.store import write_bundle
    from mscsa_deploy.imaging.decode import decode
    from mscsa_deploy.imaging.preprocess import Preprocess, preprocess

    place = tmp_path_factory.mktemp("classifier") / "bundle"
    place.mkdir()
    network = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[1,3,48,64] image) => (float[1,7] logits) {'
        " found = Conv<strides=[8,8]>(image, weight) some = Relu(found) mean = GlobalAveragePool(some)"
        " logits = Flatten(mean) }"
    )
    weight = np.random.default_rng(11).standard_normal((7, 3, 8, 8)).astype(np.float32) / 3
    network.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    onnx.save(network, place / "model.onnx")
    picture = (EXAMPLES / "images" / "river.jpg").read_bytes()
    spec = Preprocess(height=48, width=64, resize="short_side_crop", short_side=70, interpolation="bicubic")
    tensor = preprocess(decode(picture), spec)
    [output] = onnxruntime.InferenceSession(place / "model.onnx").run(None, {"image": tensor})
    entry = ArtifactEntry(
        path="model.onnx",
        kind="onnx",
        precision="fp32",
        runtimes=("onnxruntime",),
        inputs=(Tensor(name="image", dtype="float32", shape=tensor.shape),),
        outputs=(Tensor(name="logits", dtype="float32", shape=output.shape),),
        postprocess=Postprocess.of("cls", "logits", tensor="logits"),
    )
    near = GoldenTolerance(max_abs_over_range=1e-4, argmax_agreement=100.0, why="sums in another order")
    manifest = Manifest(
        model=BundleModel(name="small", random_weights=True),
        task="cls",
        labels=tuple(f"thing {number}" for number in range(7)),
        input=entry.inputs[0],
        preprocess=spec,
        artifacts=(entry,),
        golden=write_golden(
            place, picture=picture, suffix=".jpg", tensor=tensor, output=output, tolerance={"fp32": near}
        ),
    )
    write_bundle(place, manifest)
    return place


@pytest.fixture(scope="session")
def manifest(bundle):
    return json.loads((bundle / "manifest.json").read_text())
