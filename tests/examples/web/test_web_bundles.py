"""Bundles that the web page cannot use, and downloads that break."""

from __future__ import annotations

import hashlib
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
        pytest.param({"schema_version": 0}, "it has no whole schema_version from 1 on", id="version-0"),
        pytest.param({"schema_version": 1.5}, "it has no whole schema_version from 1 on", id="version-1.5"),
        pytest.param({"artifacts": None}, "it lacks the list of artifacts", id="no-artifacts"),
        pytest.param({"artifacts": [{"path": "model.onnx"}]}, "one of them is not whole", id="part-of-an-artifact"),
        pytest.param({"files": None}, "it lacks the list of files", id="no-files"),
        pytest.param({"labels": None}, "it lacks the list of labels", id="no-labels"),
        pytest.param({"labels": ["a"]}, "classes, but there are 1 labels", id="few-labels"),
        pytest.param({"preprocess": None}, "its preprocess does not say how pictures become", id="no-preprocess"),
    ],
)
def test_bad_manifest_is_explained(page, serve, bundle, manifest, tmp_path, changes, message):  # noqa: PLR0917 - fixtures
    page.show(serve(small_copy(bundle, manifest, tmp_path / "bad", **changes)))
    assert message in page.problem()


def changed(manifest, *path, value):
    """The manifest with another value at `path`."""
    copy = json.loads(json.dumps(manifest))
    *parents, last = path
    inner = copy
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return copy


def test_manifest_that_contradicts_itself_or_its_model_is_explained(page, serve, bundle, manifest, tmp_path):
    artifact = ("artifacts", 0)
    output = changed(manifest, *artifact, "postprocess", "tensor", value="nope")
    cases = [
        (changed(manifest, "preprocess", "height", value=256), "takes an input of 1x3x512x512, its preprocess makes"),
        (changed(manifest, *artifact, "inputs", 0, "shape", value=[2, 3, 512, 512]), "takes an input of 2x3x512x512"),
        (output, "has no output 'nope'"),
        (changed(output, *artifact, "outputs", 0, "name", value="nope"), "names 'nope' in 'model.onnx', which has"),
    ]
    for number, (other, message) in enumerate(cases):
        page.show(serve(small_copy(bundle, other, tmp_path / str(number))))
        assert message in page.problem()
    free = changed(manifest, *artifact, "inputs", 0, "shape", value=[-1, 3, 512, 512])
    page.goto(serve(small_copy(bundle, changed(free, "golden", value=None), tmp_path / "free")))
    page.wait_for_function("!document.getElementById('photo').disabled")
    page.set_input_files("#file", bundle / manifest["golden"]["picture"])
    page.wait_for_function("document.getElementById('status').textContent.startsWith('Answered in')")


@pytest.mark.parametrize("loads", [False, True], ids=["hash-differs", "no-model"])
def test_page_goes_back_to_the_model_that_runs(page, serve, bundle, manifest, tmp_path, loads):  # noqa: PLR0917 - fixtures
    """After a file that cannot be read, and one that ONNX Runtime refuses, for which it gave up the first."""
    content = b"no model"
    other = {"path": "other.onnx", "measurements": []}
    listed = {"path": "other.onnx", "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    place = small_copy(
        bundle,
        manifest,
        tmp_path / "bad",
        artifacts=[manifest["artifacts"][0], manifest["artifacts"][0] | other],
        files=[*manifest["files"], listed],
        golden=None,
    )
    (place / "other.onnx").write_bytes(content if loads else content[::-1])
    page.allowed = "protobuf|Something|Error"
    page.goto(serve(place))
    page.wait_for_function("!document.getElementById('photo').disabled")
    page.click("summary")
    page.select_option("#artifact", "1")
    page.wait_for_function("!document.getElementById('problem').hidden")
    page.wait_for_function("!document.getElementById('artifact').disabled")
    assert page.input_value("#artifact") == "0"
    assert page.locator("#progress").is_hidden()
    page.set_input_files("#file", bundle / manifest["golden"]["picture"])
    page.wait_for_function("document.getElementById('status').textContent.startsWith('Answered in')")
    assert page.locator("#problem").is_hidden()


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
    address = serve(bundle)
    page.show(f"{address}?bundle=elsewhere")
    assert "There is no bundle at" in page.problem()
    for elsewhere in ("http://[", "data:text/plain,x"):
        page.show(f"{address}?bundle={elsewhere}")
        assert page.problem().startswith(f"'{elsewhere}' is not the address of a bundle")


def test_bundle_of_a_host_that_does_not_let_other_sites_read_is_explained(page, serve, bundle):
    page.allowed = "Access-Control-Allow-Origin|ERR_FAILED"
    page.show(f"{serve(bundle)}?bundle={serve(bundle)}bundle/")
    assert "or it does not let other sites read it (it has to send Access-Control-Allow-Origin)." in page.problem()


def test_steps_after_the_network_that_contradict_each_other_are_explained(page, serve, bundle, manifest, classifier):
    """Else a stride of 0 or an unknown step would give an answer of another kind, or a wrong one, in silence."""
    step = ("artifacts", 0, "postprocess")
    logits = "answers with logits for the task seg, which"
    other = json.loads((classifier / "manifest.json").read_text())
    cases = [
        (changed(manifest, *step, "stride", value=0), "has a stride of 0, which is no whole number from 1 on"),
        (changed(manifest, *step, "stride", value="8"), "has a stride of 8, which is no whole number from 1 on"),
        (changed(manifest, *step, "stride", value=4), "answers with 64x64 cells of 4 pixels, which is not its input"),
        (changed(manifest, *step, "upsample", value="cubic"), f"{logits} upsample = 'bilinear' goes with, not 'cubic'"),
        (changed(manifest, *step, "upsample", value="none"), f"{logits} upsample = 'bilinear' goes with, not 'none'"),
        (changed(manifest, *step, "restore", value="none"), f"{logits} restore = 'nearest' goes with, not 'none'"),
        (changed(manifest, *step, "restore", value="x"), f"{logits} restore = 'nearest' goes with, not 'x'"),
        (changed(manifest, *step, "decide", value="softmax"), f"{logits} decide = 'argmax' goes with, not 'softmax'"),
        (changed(manifest, *step, "output", value="probs"), "answers with 'probs', which the task seg has not"),
        (changed(manifest, *step, "output", value="toString"), "answers with 'toString', which the task seg has not"),
        (changed(other, *step, "restore", value="nearest"), "restore = 'none' goes with, not 'nearest'"),
        (changed(other, *step, "output", value="classmap"), "answers with 'classmap', which the task cls has not"),
        (manifest, ""),
        (other, ""),
    ]
    page.show_nothing(serve(bundle))
    script = """async (manifests) => {
      const { openBundle } = await import('/bundle.js');
      const found = [];
      for (const manifest of manifests) {
        globalThis.fetch = async () => new Response(JSON.stringify(manifest));
        found.push(await openBundle('/bundle/').then(() => '', (error) => error.message));
      }
      return found;
    }"""
    for said, (_, message) in zip(page.evaluate(script, [bad for bad, _ in cases]), cases, strict=True):
        assert bool(said) == bool(message), said
        assert message in said


def test_broken_download_goes_on_where_it_stopped(page, serve, bundle, manifest):
    path = manifest["artifacts"][0]["path"]
    page.show_nothing(serve(bundle))
    # The first answer ends after 1000 bytes, as when the connection breaks; the rest must be asked for as a range. That
    # is the only header for which another host need not be asked for leave. Of another version nothing is taken.
    script = """async ([address, path, changes]) => {
      const { openBundle, readFile } = await import('/bundle.js');
      const bundle = await openBundle(address);
      const network = globalThis.fetch;
      const asked = [];
      await caches.delete('bundles');
      globalThis.fetch = async (url, options = {}) => {
        const response = await network(url, options);
        asked.push(options.headers);
        if (changes && asked.length === 2) {
          return new Response(response.body, { status: 206, headers: { ETag: '"other"' } });
        }
        if (asked.length > 1) return response;
        const start = (await response.arrayBuffer()).slice(0, 1000);
        return new Response(start, { status: 200, headers: response.headers });
      };
      const bytes = await readFile(bundle, path);
      globalThis.fetch = network;
      return [bytes.byteLength, asked];
    }"""
    for changes in (False, True):
        length, asked = page.evaluate(script, ["/bundle/", path, changes])
        assert length == (bundle / path).stat().st_size
        assert asked == [{}, {"Range": "bytes=1000-"}, *([{}] if changes else [])]
