"""The C++ programs, built and run: the golden pair, the same class maps as Python, bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
CPP = EXAMPLES / "cpp"
PICTURE = EXAMPLES / "images" / "river.jpg"
# Compiling takes half a minute of processor time, which a busy machine stretches.
pytestmark = pytest.mark.timeout(900)


def package_folder(name):
    return Path(importlib.util.find_spec(name).origin).parent


def ran(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture(scope="module")
def needs(missing):
    packages = {"cmake": "cmake", "g++": "g++", "npm": "npm"}
    for program, package in packages.items():
        if shutil.which(program) is None:
            missing("cpp", f"{program} is not installed (apt-get install {package})")
    for header, package in (("stb/stb_image.h", "libstb-dev"), ("nlohmann/json.hpp", "nlohmann-json3-dev")):
        if not Path("/usr/include", header).exists():
            missing("cpp", f"{header} is not installed (apt-get install {package})")
    for package in ("openvino", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            missing("cpp", f"{package} is not installed (pip install {package})")
    done = subprocess.run([CPP / "setup"], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        missing("cpp", f"the headers could not be fetched: {done.stderr.strip()[-300:]}")


@pytest.fixture(scope="module")
def built(needs, tmp_path_factory):
    """The folder with both programs."""
    folder = tmp_path_factory.mktemp("cpp-build")
    ran("cmake", "-S", CPP, "-B", folder, f"-DOpenVINO_DIR={package_folder('openvino') / 'cmake'}")
    ran("cmake", "--build", folder)
    return folder


@pytest.fixture
def program(built):
    """Runs one of the programs."""

    def run(runtime, *arguments):
        [library] = (package_folder("onnxruntime") / "capi").glob("libonnxruntime.so.*")
        where = ("--library", library) if runtime == "onnxruntime" else ()
        command = [built / f"segment-{runtime}", *arguments, *where]
        plain = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=plain)

    return run


def artifacts(bundle):
    return json.loads((bundle / "manifest.json").read_text())["artifacts"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_golden_pair_passes_for_every_artifact(program, bundle, runtime):
    kinds = ("onnx", runtime)
    loadable = [entry for entry in artifacts(bundle) if entry["kind"] in kinds]
    # An FP32 file runs everywhere; INT8 was made for the runtimes it names.
    paths = [entry["path"] for entry in loadable if entry["precision"] == "fp32" or runtime in entry["runtimes"]]
    for path in paths:
        done = program(runtime, bundle, "--check", "--artifact", path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "input differs by 0 of 255" in done.stdout
    assert paths


def test_answers_are_those_of_python_to_the_last_pixel(program, bundle, tmp_path):
    """The same library, the same file, float32 postprocessing with the same roundings."""
    from mscsa_deploy.runner import load

    picture = tmp_path / "picture.png"
    with Image.open(PICTURE) as image:
        image.convert("RGB").resize((733, 491)).save(picture)
    done = program(
        *("onnxruntime", bundle, picture, "--artifact", "model.onnx"),
        *("--classes", tmp_path / "map.npy", "--overlay", tmp_path / "overlay.png"),
    )
    assert done.returncode == 0, done.stderr
    with load(bundle, runtime="onnxruntime", precision="fp32", threads=1) as runner:
        expected = runner.predict(picture).class_map
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), expected)
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.size == (733, 491)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_bundle_of_class_maps_alone_gives_the_same_answers(program, bundle, tmp_path, runtime):
    from mscsa_deploy.bundle.manifest import Postprocess, Tensor
    from mscsa_deploy.bundle.store import read_bundle, write_bundle
    from mscsa_deploy.graphs.tail.files import write_with_tail

    whole = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = read_bundle(whole).manifest
    write_with_tail(whole / "model.onnx", "cells", whole / "maps.onnx")
    logits = next(entry for entry in manifest.artifacts if entry.path == "model.onnx")
    maps = msgspec.structs.replace(
        logits,
        path="maps.onnx",
        outputs=(Tensor(name="classmap", dtype="uint8", shape=(1, 512, 512)),),
        postprocess=Postprocess.of("seg", "classmap", tensor="classmap"),
        mobile=None,
    )
    write_bundle(whole, msgspec.structs.replace(manifest, artifacts=(maps,), recommended=None))
    # Not in the precision that the bundle may recommend.
    plain = with_manifest(bundle, tmp_path / "plain", (("recommended",), None))
    found = []
    for place, name in ((plain, "model.onnx"), (whole, "maps.onnx")):
        artifact = ("--artifact", name) if place == plain else ()
        done = program(runtime, place, PICTURE, "--classes", tmp_path / "map.npy", *artifact)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith(name)
        found.append(np.load(tmp_path / "map.npy"))
    # The same logits upsampled in another order: one pixel in ten thousand may be a tie.
    assert (found[0] == found[1]).mean() >= 0.9999
    done = program(runtime, whole, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_rotated_photo_is_seen_upright(program, bundle, tmp_path):
    from mscsa_deploy.imaging.decode import decode

    with Image.open(PICTURE) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.resize((300, 200)).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    done = program("onnxruntime", bundle, tmp_path / "turned.jpg", "--classes", tmp_path / "map.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "map.npy").shape == decode(tmp_path / "turned.jpg").shape[:2] == (300, 200)


def with_manifest(bundle, place, *changes):
    """A bundle in `place` whose manifest differs at each path of `changes`; the model and golden pair are the same."""
    place.mkdir()
    manifest = json.loads((bundle / "manifest.json").read_text())
    for path, value in changes:
        *parents, last = path
        inner = manifest
        for key in parents:
            inner = inner[key]
        inner[last] = value
    for name in ("model.onnx", "golden"):
        (place / name).symlink_to(bundle / name)
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(("schema_version",), 2, "schema version 2, this program reads up to 1", id="newer"),
        pytest.param(("schema_version",), 2**32 + 1, "schema version 4294967297, this program reads", id="wraps"),
        pytest.param(("schema_version",), 1.9, "schema_version is 1.9, no whole number from 1 on", id="cut"),
        pytest.param(("schema_version",), 0, "schema_version is 0, no whole number from 1 on", id="zero"),
        pytest.param(("artifacts",), [], "the bundle holds nothing for onnxruntime", id="nothing-to-run"),
        pytest.param(("files",), [], "does not list", id="unlisted"),
        pytest.param(("preprocess", "interpolation"), "lanczos", 'interpolation is "lanczos"', id="filter"),
        pytest.param(("preprocess", "mean"), [0, 0, 0, 0], "three numbers each", id="four-means"),
        pytest.param(("preprocess", "std"), [0, 1, 1], "std above 0", id="std-zero"),
    ],
)
def test_bad_manifest_is_explained(program, bundle, tmp_path, path, value, message):  # noqa: PLR0917 - fixtures
    done = program("onnxruntime", with_manifest(bundle, tmp_path / "bundle", (path, value)), PICTURE)
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
    program, bundle, tmp_path, runtime, path, value, message
):
    """Before anything is read past its end."""
    other = with_manifest(bundle, tmp_path / "bundle", (path, value))
    for what in ("--check", PICTURE):
        done = program(runtime, other, what, "--artifact", "model.onnx")
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_free_axes_and_a_short_golden_input(program, bundle, tmp_path, runtime):
    free = with_manifest(bundle, tmp_path / "free", (("artifacts", 0, "inputs", 0, "shape"), [-1, 3, 512, 512]))
    done = program(runtime, free, "--check", "--artifact", "model.onnx")
    assert done.returncode == 0, done.stderr
    output = json.loads((bundle / "manifest.json").read_text())["golden"]["output"]
    short = with_manifest(bundle, tmp_path / "short", (("golden", "input"), output))
    done = program(runtime, short, "--check", "--artifact", "model.onnx")
    assert (done.returncode, "the network takes 3x512x512" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(("whole_ms", "half_ms", "asked"), [(2.0, 1.0, True), (1.0, 2.0, False)])
def test_bf16_is_asked_for_where_it_was_the_fastest(  # noqa: PLR0917 - fixtures
    program, bundle, tmp_path, whole_ms, half_ms, asked
):
    import openvino

    rows = [
        {"runtime": "openvino", "precision": "fp32", "status": "ok", "boundary": "core", "options": options}
        | {"latency_ms": {"p50": latency}}
        for latency, options in ((whole_ms, {}), (half_ms, {"float_precision": "bf16"}))
    ]
    changes = (("artifacts", 0, "measurements"), rows), (("recommended",), None)
    done = program(
        "openvino", with_manifest(bundle, tmp_path / "bundle", *changes), PICTURE, "--artifact", "model.onnx"
    )
    assert done.returncode == 0, done.stderr
    here = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert ("on openvino in bf16," in done.stdout) == (asked and here)


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
