"""The file that the C++ programs take is the one that `mscsa_deploy.runner.load` takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mscsa_deploy.bundle.integrity import read_manifest
from mscsa_deploy.bundle.selection import select
from mscsa_deploy.bundle.store import Bundle

PICTURE = Path(__file__).parents[3] / "examples" / "images" / "river.jpg"
pytestmark = pytest.mark.timeout(900)


def measured(runtime, precision, p50_ms, *, loss=0.0, rest=""):
    """What an artefact did where the bundle was made; `loss` in points of the metric."""
    metric = {"name": "mIoU", "value": 60.0 - loss, "images": 9, "reference": 60.0, "drop": loss}
    latency = {"min": p50_ms, "mean": p50_ms, "p50": p50_ms, "samples": 9, "cv": 0.0, "ci95": [p50_ms] * 2}
    row = {"runtime": runtime, "precision": precision, "status": "ok", "boundary": "core", "device": "cpu"}
    return row | {"options": {"float_precision": rest} if rest else {}, "latency_ms": latency, "metric": metric}


def line(done):
    """The last line, which names the file and the runtime."""
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def pythons(bundle, runtime):
    """The beginning of that line, by what Python takes."""
    chosen = select(Bundle(bundle, read_manifest(bundle / "manifest.json")), runtime=runtime, values=True)
    half = "bf16" in {chosen.precision, chosen.rest}
    return f"{chosen.entry.path} on {runtime}{' in bf16' if half else ''},", chosen


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_whole_bundle_is_read_as_in_python(program, bundle, runtime):
    assert line(program(runtime, bundle, PICTURE)).startswith(pythons(bundle, runtime)[0])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("int8_ms", "loss", "changes", "expected"),
    [
        pytest.param(1.0, 0.4, {}, "int8", id="fastest"),
        pytest.param(3.0, 0.0, {}, "fp32", id="slower"),
        pytest.param(1.0, 0.6, {}, "fp32", id="lossy"),
        pytest.param(1.0, 0.0, {"requires": ["avx10_9"]}, "fp32", id="lacking"),
        pytest.param(1.0, 0.0, {"arch": "vax"}, "fp32", id="elsewhere"),
        pytest.param(3.0, 0.6, {"recommended": "int8"}, "int8", id="recommended"),
        pytest.param(None, 0.0, {}, "fp32", id="unmeasured"),
    ],
)
def test_file_is_chosen_as_in_python(  # noqa: PLR0917 - fixtures
    program, bundle, with_manifest, tmp_path, runtime, int8_ms, loss, changes, expected
):
    entries = json.loads((bundle / "manifest.json").read_text())["artifacts"]
    whole = next(entry for entry in entries if entry["path"] == "model.onnx")
    [small] = [
        entry
        for entry in entries
        if entry["precision"] == "int8" and runtime in entry["runtimes"] and entry["postprocess"]["output"] == "logits"
    ]
    whole["measurements"] = [measured(runtime, "fp32", 2.0)]
    small["measurements"] = [] if int8_ms is None else [measured(runtime, "int8", int8_ms, loss=loss)]
    small["requires"] = changes.get("requires", [])
    choice = {"artifact": small["path"], "runtime": runtime, "precision": "int8"} if "recommended" in changes else None
    fitting = [(("artifacts",), [whole, small]), (("recommended",), choice)]
    fitting += [(("environment", "arch"), changes["arch"])] if "arch" in changes else []
    other = with_manifest(tmp_path / "bundle", *fitting)
    begins, chosen = pythons(other, runtime)
    assert chosen.precision == expected
    done = program(runtime, other, PICTURE)
    assert line(done).startswith(begins)
    assert ("measured and verified on vax" in done.stderr) == ("arch" in changes)


@pytest.mark.parametrize(("whole_ms", "half_ms", "asked"), [(2.0, 1.0, True), (1.0, 2.0, False)])
def test_bf16_is_asked_for_where_it_was_the_fastest(  # noqa: PLR0917 - fixtures
    program, with_manifest, tmp_path, whole_ms, half_ms, asked
):
    import openvino

    rows = [measured("openvino", "fp32", whole_ms), measured("openvino", "bf16", half_ms)]
    changes = (("artifacts", 0, "measurements"), rows), (("recommended",), None)
    other = with_manifest(tmp_path / "bundle", *changes)
    said = line(program("openvino", other, PICTURE, "--artifact", "model.onnx"))
    here = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert ("on openvino in bf16," in said) == (asked and here)


@pytest.mark.parametrize("wanted", ["vnni", "avx10_9"])
def test_what_the_processor_lacks_is_told_where_it_lacks_it(program, with_manifest, tmp_path, wanted):
    from mscsa_deploy.core.environment import isa_doubts

    other = with_manifest(tmp_path / "bundle", (("artifacts", 0, "requires"), [wanted]))
    done = program("onnxruntime", other, PICTURE, "--artifact", "model.onnx")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "".join(f"note: {doubt}\n" for doubt in isa_doubts("'model.onnx'", [wanted]))
