"""The page at ``/`` in a real browser: a photo in, its classes and the timing out, nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser(missing):
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        missing("browser", "it takes Chromium on this machine and the package playwright")
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page()
    page.complaints = []
    page.requested = []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requested.append(request.url))
    yield page
    page.close()


def give(page, data, name="scene.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def table(page, name):
    return {
        row[0]: row[1]
        for row in page.eval_on_selector_all(
            f"#{name} tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )
    }


def test_photo_gives_overlay_classes_and_timing(client, page, tiny, tmp_path):
    page.goto(client.url)
    page.wait_for_selector("#model option", state="attached")
    page.select_option("#model", label="colors (version 1)")
    give(page, tiny.picture(tiny.scene()))
    page.wait_for_selector("#result:not([hidden])")
    assert set(table(page, "classes")) == {"red", "green", "blue"}
    assert set(table(page, "timing")) == {"queue", "prepare", "network", "answer", "round trip"}
    assert page.text_content("#status") == "scene.png: 160 x 96 pixels"
    page.wait_for_function("document.getElementById('overlay').naturalWidth === 160")
    assert page.is_visible("#overlay")
    page.uncheck("#show")
    assert not page.is_visible("#overlay")
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert page.complaints == []
    assert all(url.startswith((client.url, "blob:")) for url in page.requested)


def test_photo_dropped_on_the_page_is_classified(client, page, tiny):
    page.goto(client.url)
    page.wait_for_selector("#model option", state="attached")
    page.select_option("#model", label="color (version 1)")
    data = list(tiny.picture(tiny.scene(30, 40)))
    page.evaluate(
        """data => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(data)], "dropped.png", { type: "image/png" }));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
        }""",
        data,
    )
    page.wait_for_selector("#result:not([hidden])")
    assert page.text_content("#status") == "dropped.png: 40 x 30 pixels"
    assert set(table(page, "classes")) == {"red", "green", "blue"}
    assert not page.is_visible("#overlay")
    assert page.complaints == []


def test_mistake_is_told_on_the_page(client, page):
    page.goto(client.url)
    page.wait_for_selector("#model option", state="attached")
    give(page, b"no picture at all", name="letter.txt")
    page.wait_for_selector("#status.error")
    assert "no picture" in page.text_content("#status")


def test_token_is_asked_for(bundles, page, serve, tiny):
    with serve(bundles["seg"], listening={"token": "abc"}) as client:
        page.goto(client.url)
        page.wait_for_selector("#token-box:not([hidden])")
        page.fill("#token", "abc")
        page.press("#token", "Tab")
        page.wait_for_selector("#model option", state="attached")
        give(page, tiny.picture(tiny.scene()))
        page.wait_for_selector("#result:not([hidden])")


def test_page_is_served_with_a_strict_policy(client):
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in ("/page.js", "/page.css"):
        assert client.get(path).status == 200
