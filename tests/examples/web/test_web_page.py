"""What a visitor of the web page can do: camera, photo, offline, the golden pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
COMPLAINED = "!document.getElementById('problem').hidden"
# The first test that needs a bundle makes one.
pytestmark = pytest.mark.timeout(900)


def test_page_shows_the_sample_and_passes_the_golden_pair(page, serve, bundle):
    page.show(serve(bundle))
    assert page.problem() == ""
    assert page.locator("#legend li:visible").count() > 1
    assert "%" in page.get_attribute("#view", "aria-label")
    page.click("summary")
    page.click("#check")
    page.wait_for_function("document.getElementById('verdict').dataset.passed !== undefined")
    assert page.inner_text("#verdict").startswith("Passed: input equal")
    assert page.evaluate("crossOriginIsolated")


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


def test_photo_from_disk_is_segmented_and_bad_input_explained(page, serve, bundle):
    page.show(serve(bundle))
    before = page.get_attribute("#view", "aria-label")
    page.set_input_files("#file", EXAMPLES / "images" / "train_and_ox.jpg")
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
