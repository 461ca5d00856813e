"""What the C++ programs refuse, in words: bad manifests, changed files, options that cannot be met."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

PICTURE = Path(__file__).parents[3] / "examples" / "images" / "river.jpg"
POST = ("artifacts", 0, "postprocess")
pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(
            ("schema_version",), 2, "schema version 2, this program reads up to 1; update this program", id="newer"
        ),
        pytest.param(("schema_version",), 2**32 + 1, "schema version 4294967297, this program reads", id="wraps"),
        pytest.param(("schema_version",), 1.9, "schema_version is 1.9, no whole number from 1 on", id="cut"),
        pytest.param(("schema_version",), 0, "schema_version is 0, no whole number from 1 on", id="zero"),
        pytest.param(("artifacts",), [], "the bundle holds nothing for onnxruntime", id="nothing-to-run"),
        pytest.param(("files",), [], "does not list", id="unlisted"),
        pytest.param(("preprocess", "interpolation"), "lanczos", 'interpolation is "lanczos"', id="filter"),
        pytest.param(("preprocess", "mean"), [0, 0, 0, 0], "three numbers each", id="four-means"),
        pytest.param(("preprocess", "std"), [0, 1, 1], "std above 0", id="std-zero"),
        pytest.param((*POST, "stride"), 0, "stride is 0, no whole number from 1 on", id="stride-zero"),
        pytest.param(
            (*POST, "upsample"), "cubic", 'upsample is "cubic"; this program knows bilinear, none', id="upsample"
        ),
        pytest.param((*POST, "restore"), "area", 'restore is "area"; this program knows nearest, none', id="restore"),
        pytest.param(
            (*POST, "decide"), "vote", 'decide is "vote"; this program knows argmax, softmax, none', id="decide"
        ),
    ],
)
def test_bad_manifest_is_explained(program, with_manifest, tmp_path, path, value, message):  # noqa: PLR0917 - fixtures
    done = program("onnxruntime", with_manifest(tmp_path / "bundle", (path, value)), PICTURE)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(("preprocess", "height"), 256, "the preprocessing makes 1x3x256x512", id="fewer-rows"),
        pytest.param(("preprocess", "height"), 32, "the preprocessing makes 1x3x32x512", id="few-rows"),
        pytest.param(("preprocess", "height"), 2**32 + 512, "at most 65536 can be", id="height-wraps"),
        pytest.param(("artifacts", 0, "inputs", 0, "shape"), [2, 3, 512, 512], "takes an input of 2x3x", id="two"),
        pytest.param(("labels",), ["a"], "classes, but there are 1 labels", id="labels"),
    ],
)
def test_manifest_that_contradicts_itself_is_refused(  # noqa: PLR0917 - fixtures
    program, with_manifest, tmp_path, runtime, path, value, message
):
    """Before anything is read past its end."""
    other = with_manifest(tmp_path / "bundle", (path, value))
    for what in ("--check", PICTURE):
        done = program(runtime, other, what, "--artifact", "model.onnx")
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_free_axes_and_a_short_golden_input(program, bundle, with_manifest, tmp_path, runtime):
    free = with_manifest(tmp_path / "free", (("artifacts", 0, "inputs", 0, "shape"), [-1, 3, 512, 512]))
    done = program(runtime, free, "--check", "--artifact", "model.onnx")
    assert done.returncode == 0, done.stderr
    output = json.loads((bundle / "manifest.json").read_text())["golden"]["output"]
    short = with_manifest(tmp_path / "short", (("golden", "input"), output))
    done = program(runtime, short, "--check", "--artifact", "model.onnx")
    assert (done.returncode, "the network takes 3x512x512" in done.stderr) == (2, True), done.stderr


def test_command_line_is_explained(program, bundle):
    done = program("openvino", "--help")
    assert (done.returncode, done.stdout.startswith("usage: ")) == (0, True)
    for threads in ("abc", "2x", "0", "-1", "1025", "99999999999", ""):
        done = program("openvino", bundle, "--check", "--threads", threads)
        assert (done.returncode, "--threads takes a whole number from 1 to 1024" in done.stderr) == (2, True), threads


def test_changed_model_and_bad_picture_are_refused(program, bundle, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(bundle / "manifest.json", copy)
    (copy / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:-1] + b"\0")
    done = program("onnxruntime", copy, PICTURE, "--artifact", "model.onnx")
    assert (done.returncode, "sha256 differs" in done.stderr) == (2, True)
    done = program("onnxruntime", bundle, bundle / "README.md")
    assert (done.returncode, "is not a readable picture" in done.stderr) == (2, True)
    done = program("onnxruntime", tmp_path, PICTURE)
    assert (done.returncode, "it has no manifest.json" in done.stderr) == (2, True)


def test_packed_bundle_names_the_command_that_unpacks_it(program, tmp_path):
    (tmp_path / "bundle.zip").write_bytes(b"PK")
    done = program("onnxruntime", tmp_path / "bundle.zip", PICTURE)
    assert (done.returncode, "mscsa-deploy unpack" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--overlay", "x.jpg"), "--overlay writes a png file; 'x.jpg' has to end in .png", id="overlay"),
        pytest.param(("--classes", "x.png"), "--classes writes a npy file; 'x.png' has to end in .npy", id="classes"),
        pytest.param(("--artifact", "foo"), "the bundle has no 'foo'; it holds: model.onnx", id="artifact"),
    ],
)
def test_option_that_cannot_be_met_is_refused(program, bundle, tmp_path, arguments, message):
    done = program("onnxruntime", bundle, PICTURE, *arguments)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [("--overlay", "x.png"), ("--classes", "x.npy")], ids=["overlay", "classes"])
def test_classifier_and_check_write_no_files(program, bundle, with_manifest, tmp_path, option):
    classifier = with_manifest(tmp_path / "bundle", (("task",), "cls"))
    done = program("onnxruntime", classifier, PICTURE, *option)
    assert (done.returncode, "the bundle classifies: there is no class map" in done.stderr) == (2, True), done.stderr
    done = program("onnxruntime", bundle, "--check", *option)
    assert (done.returncode, "--check writes no files" in done.stderr) == (2, True), done.stderr
