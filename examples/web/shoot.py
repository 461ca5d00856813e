"""Takes the pictures of this page that the documentation shows: `python shoot.py BUNDLE [--to FOLDER]`.

Needs `setup`, Chromium, and `pip install playwright pillow`. One picture is a photo on a desk's screen, the other one
the camera on a dark phone; the camera is a film of an example picture.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright
from serve import make_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "images"
DONE = "document.getElementById('status').textContent.startsWith('Answered in')"
LIVE = "/FPS/.test(document.getElementById('fps').textContent)"
FRAMES_MS = 4000
"""How long the camera runs before its picture is taken, so that the rate is one over several frames."""


def write_film(picture: Path, path: Path) -> None:
    """`picture` as uncompressed video, which Chromium takes for a camera."""
    with Image.open(picture) as image:
        luma, *chroma = image.convert("YCbCr").resize((640, 480)).split()
    frame = b"FRAME\n" + luma.tobytes() + b"".join(plane.resize((320, 240)).tobytes() for plane in chroma)
    path.write_bytes(b"YUV4MPEG2 W640 H480 F10:1 Ip A1:1 C420jpeg\n" + 3 * frame)


def shoot_photo(browser: Browser, address: str, photo: Path, to: Path) -> None:
    """The page on a wide screen with the answer to `photo`."""
    page = browser.new_page(viewport={"width": 1100, "height": 700})
    page.goto(address)
    page.wait_for_function(DONE, timeout=120_000)
    before = page.get_attribute("#view", "aria-label")
    page.set_input_files("#file", photo)
    changed = "(before) => document.getElementById('view').getAttribute('aria-label') !== before"
    page.wait_for_function(changed, arg=before, timeout=120_000)
    page.wait_for_function(DONE, timeout=120_000)
    page.screenshot(path=to)


def shoot_camera(browser: Browser, address: str, to: Path) -> None:
    """The page on a phone with the camera running."""
    context = browser.new_context(
        permissions=["camera"], viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_function(DONE, timeout=120_000)
    page.click("#camera")
    page.wait_for_function(LIVE, timeout=120_000)
    page.wait_for_timeout(FRAMES_MS)
    page.screenshot(path=to)


def main() -> int:
    """Serve the bundle, take both pictures, end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--to", type=Path, default=HERE.parents[1] / "docs" / "pictures")
    parser.add_argument("--photo", type=Path, default=IMAGES / "river.jpg")
    parser.add_argument("--film", type=Path, default=IMAGES / "bear_and_key.jpg")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    server = make_server(options.bundle, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://localhost:{server.server_port}/"
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        film = Path(work) / "camera.y4m"
        write_film(options.film, film)
        switches = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream"]
        switches += [f"--use-file-for-fake-video-capture={film}"]
        browser = playwright.chromium.launch(executable_path=chromium, args=switches)
        shoot_photo(browser, address, options.photo, options.to / "web-page.png")
        shoot_camera(browser, address, options.to / "web-phone-camera.png")
        browser.close()
    server.shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
