"""Bundles that the web page cannot use, and downloads that break."""

from __future__ import annotations

import json

import pytest

# The first test that needs a bundle makes one.
pytestmark = pytest.mark.timeout(900)


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
    page.show(serve(small_copy(bundle, manifest, tmp_path / "bad", **changes)))
    assert message in page.problem()


def test_changed_model_is_refused(page, serve, bundle, manifest, tmp_path):
    place = small_copy(bundle, manifest, tmp_path / "bad")
    model = place / manifest["artifacts"][0]["path"]
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    page.show(serve(place))
    assert "is not the file its manifest describes (sha256 differs)" in page.problem()


def test_missing_bundle_is_explained(page, serve, bundle):
    page.allowed = "404"
    page.show(f"{serve(bundle)}?bundle=elsewhere")
    assert "There is no bundle at" in page.problem()


def test_broken_download_goes_on_where_it_stopped(page, serve, bundle, manifest):
    path = manifest["artifacts"][0]["path"]
    page.show_nothing(serve(bundle))
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
