"""The C++ programs, built and run: the golden pair, the same class maps as Python, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

IMAGES = Path(__file__).parents[3] / "examples" / "images"
PICTURE = IMAGES / "river.jpg"
# Compiling takes half a minute of processor time, which a busy machine stretches.
pytestmark = pytest.mark.timeout(900)


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


@pytest.mark.parametrize("name", ["river.jpg", "turtle_and_fox.jpg"])
def test_photo_gives_the_class_map_of_python(program, bundle, tmp_path, name):
    """A JPEG as it is, decoded by libjpeg-turbo on both sides."""
    from mscsa_deploy.runner import load

    assert "JPEG is decoded by libjpeg-turbo" in program("onnxruntime", "--help").stdout
    done = program("onnxruntime", bundle, IMAGES / name, "--artifact", "model.onnx", "--classes", tmp_path / "map.npy")
    assert (done.returncode, "decoded by" in done.stderr) == (0, False), done.stderr
    with load(bundle, runtime="onnxruntime", precision="fp32", threads=1) as runner:
        np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), runner.predict(IMAGES / name).class_map)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_bundle_of_class_maps_alone_gives_the_same_answers(program, bundle, with_manifest, tmp_path, runtime):
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
        measurements=(),
        mobile=None,
    )
    write_bundle(whole, msgspec.structs.replace(manifest, artifacts=(maps,), recommended=None))
    # Not in BF16, which may be recommended or the fastest.
    plain = with_manifest(tmp_path / "plain", (("recommended",), None), (("artifacts", 0, "measurements"), []))
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
    # No values were compared, so that nothing is said of them.
    assert "of its range" not in done.stdout
    assert "of the decisions equal" in done.stdout
