"""What a visitor of the web page can do: camera, photo, offline, the golden pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
COMPLAINED = "!document.getElementById('problem').hidden"
# The first test that needs a bundle makes one.
pytestmark = pytest.mark.timeout(900)


def test_page_shows_the_sample_and_passes_the_golden_pair(page, serve, bundle, manifest):
    page.show(serve(bundle))
    assert page.problem() == ""
    assert page.locator("#legend li:visible").count() > 1
    _, words = page.get_attribute("#view", "aria-label").split(": ")
    assert "%" in words
    assert page.text_content("#status").endswith(f" Found in the picture: {words}.")
    # Nothing is told twice: the button opens the file's dialog.
    assert page.locator("#file").is_hidden()
    page.emulate_media(forced_colors="active")
    *_, last = page.locator("#legend li").all()
    color = manifest["palette"][manifest["labels"].index(last.locator(".name").inner_text().replace(" ", "_"))]
    shown = last.locator(".swatch").evaluate("(swatch) => getComputedStyle(swatch).backgroundColor")
    assert shown == f"rgb({color[0]}, {color[1]}, {color[2]})"
    page.click("summary")
    page.click("#check")
    page.wait_for_function("document.getElementById('verdict').dataset.passed !== undefined")
    assert page.inner_text("#verdict").startswith("Passed: input equal")
    assert page.evaluate("crossOriginIsolated")


def test_page_of_a_classifier_tells_the_best_first(page, serve, classifier):
    from mscsa_deploy.runner import load

    page.show(serve(classifier))
    assert page.problem() == ""
    with load(classifier, runtime="onnxruntime") as runner:
        best = runner.predict(classifier / runner.manifest.golden.picture).top
    assert [found.index for found in best] != sorted(found.index for found in best)
    told = [f"{found.label} {100 * found.probability:.1f} %" for found in best]
    lines = page.locator("#legend li").all()
    assert [" ".join(line.locator("span").all_inner_texts()) for line in lines] == told
    assert page.text_content("#status").endswith(f" Most probable: {', '.join(told)}.")
    assert page.get_attribute("#view", "aria-label") == f"Picture, most probable: {', '.join(told)}"
    assert page.title() == page.inner_text("h1") == "Classify on this device"
    assert page.locator("#opacity").is_hidden()
    page.click("summary")
    page.click("#check")
    page.wait_for_function("document.getElementById('verdict').dataset.passed !== undefined")
    assert page.inner_text("#verdict").startswith("Passed: input equal")


def test_camera_is_segmented_live_and_stops(page, serve, bundle):
    page.set_viewport_size({"width": 390, "height": 844})
    page.show(serve(bundle))
    page.click("#camera")
    page.wait_for_function("/FPS/.test(document.getElementById('fps').textContent)", timeout=60_000)
    assert float(page.inner_text("#fps").split()[0]) > 0
    assert page.locator("#legend li:visible").count() > 1
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("#camera")
    page.wait_for_function("document.getElementById('camera').textContent === 'Start camera'")
    assert page.problem() == ""


@pytest.mark.parametrize("query", ["", "?bundle=bundle/", "index.html?bundle=bundle/"])
def test_page_works_offline_once_loaded(page, serve, bundle, query):
    address = serve(bundle)
    page.allowed = "ERR_INTERNET_DISCONNECTED"
    page.show(address)
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    page.context.set_offline(True)
    page.show(address + query)
    assert page.problem() == ""
    assert page.inner_text("#status").startswith("Answered in")
    page.click("summary")
    page.evaluate("document.getElementById('backend').add(new Option('GPU', 'webgpu'))")
    reason = "was not loaded before, and there is no network now, or"
    other = page.locator("#artifact option").nth(1).inner_text().split("(")[1].rstrip(")")
    asked = [
        (lambda: page.click("#check"), f"'golden/input.npy' could not be fetched: it {reason} its"),
        (lambda: page.select_option("#artifact", "1"), f"'{other}' could not be fetched: it {reason} its"),
        (lambda: page.select_option("#backend", "webgpu"), f"'ort.webgpu.min.mjs' {reason} the"),
    ]
    for ask, message in asked:
        ask()
        page.wait_for_function("(text) => document.getElementById('problem').textContent.startsWith(text)", arg=message)
        assert page.inner_text("#verdict") == ""


def drop(page, path):
    """What the browser does where someone drags a file onto the page and lets it go."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 300, "data": data})


def test_photo_from_disk_is_segmented_and_bad_input_explained(page, serve, bundle):
    page.show(serve(bundle))
    give = {"chosen": lambda path: page.set_input_files("#file", path), "dropped": lambda path: drop(page, path)}
    for way, photo in (("chosen", "train_and_ox.jpg"), ("dropped", "river.jpg")):
        before = page.get_attribute("#view", "aria-label")
        give[way](EXAMPLES / "images" / photo)
        page.wait_for_function(f"document.getElementById('view').getAttribute('aria-label') !== {json.dumps(before)}")
        assert page.problem() == ""
    page.set_input_files("#file", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    page.wait_for_function(COMPLAINED)
    assert "not a picture" in page.problem()
    refusal = "async () => { throw new DOMException('no', 'NotAllowedError'); }"
    page.evaluate(f"navigator.mediaDevices.getUserMedia = {refusal}; null")
    page.click("#camera")
    page.wait_for_function("document.getElementById('problem').textContent.includes('camera')")
    assert "The camera was refused. Allow it" in page.problem()


def test_camera_that_nobody_allows_is_not_waited_for(page, serve, classifier):
    page.show(serve(classifier))
    question = """() => {
      const media = navigator.mediaDevices;
      globalThis.answers = [];
      media.getUserMedia = () => new Promise((resolve) => { globalThis.answers.push(resolve); });
    }"""
    page.evaluate(question)
    waits = "document.getElementById('status').textContent === 'Waiting for the camera …'"
    ends = {"sample": "startsWith('Answered in')", "camera": "startsWith('Camera stopped')"}
    for button, end in ends.items():
        page.click("#camera")
        page.wait_for_function(waits)
        page.click(f"#{button}")
        page.wait_for_function(f"document.getElementById('status').textContent.{end}", timeout=10_000)
        assert page.get_attribute("#camera", "aria-pressed") == "false"
    # Asked for at once, so that the wait is over before it begins.
    page.evaluate("for (const id of ['camera', 'sample']) document.getElementById(id).click()")
    page.wait_for_function("document.getElementById('status').textContent.startsWith('Answered in')", timeout=10_000)
    late = """async () => {
      const streams = globalThis.answers.map(() => document.createElement('canvas').captureStream());
      globalThis.answers.forEach((answer, at) => answer(streams[at]));
      await new Promise((resolve) => { setTimeout(resolve); });
      return streams.map((stream) => stream.getTracks()[0].readyState);
    }"""
    states = page.evaluate(late)
    assert len(states) >= 2
    assert set(states) == {"ended"}
    assert page.problem() == ""


def test_page_says_when_its_worker_does_not_start(page, serve, bundle):
    page.allowed = "ERR_FAILED"
    page.route("**/answer.js", lambda route: route.abort())
    page.show(serve(bundle))
    assert page.problem() == "A part of this page did not start (worker.js). Load the page again."
    assert page.locator("#progress").is_hidden()


@pytest.mark.slow
def test_webgpu_passes_the_golden_pair(gpu_page, serve, bundle):
    """On Chromium's software adapter: no graphics card needed, and no speed to be seen."""
    gpu_page.show(serve(bundle))
    if gpu_page.locator("#backend option").count() == 1:
        pytest.skip("this Chromium has no software WebGPU adapter")
    gpu_page.click("summary")
    gpu_page.select_option("#backend", "webgpu")
    gpu_page.wait_for_function("document.getElementById('facts').textContent.includes('on the GPU')", timeout=120_000)
    gpu_page.click("#check")
    gpu_page.wait_for_function("document.getElementById('verdict').dataset.passed !== undefined", timeout=240_000)
    assert gpu_page.inner_text("#verdict").startswith("Passed: input equal")
