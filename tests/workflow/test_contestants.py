"""What may be held against what: each way to run a bundle's artefact once, precision by what is stored."""

from __future__ import annotations

import pytest

from mscsa_deploy.bundle.manifest import ArtifactEntry, Measurement, Postprocess
from mscsa_deploy.runtimes.protocol import Capabilities
from mscsa_deploy.workflow.contestants import Contestant, _entry_ways, _on
from mscsa_deploy.workflow.header import Says


def entry(*measurements, runtimes=("onnxruntime", "openvino")):
    return ArtifactEntry(
        path="model.onnx",
        kind="onnx",
        precision="fp32",
        runtimes=runtimes,
        inputs=(),
        outputs=(),
        postprocess=Postprocess.of("seg", "logits", tensor="logits"),
        measurements=measurements,
    )


def measured(runtime, precision="fp32", *, status="ok", **more):
    return Measurement(runtime=runtime, precision=precision, status=status, **more)


def test_each_way_that_was_measured_is_there_once_and_every_runtime_has_one():
    ways = _entry_ways(
        entry(
            measured("openvino"),
            measured("openvino", boundary="end_to_end"),
            measured("openvino", "bf16"),
            measured("openvino", options={"channels_last": True}),
            measured("openvino", "int8", status="failed"),
        )
    )
    assert list(ways) == [
        ("openvino", "fp32", {}),
        ("openvino", "bf16", {}),
        ("openvino", "fp32", {"channels_last": True}),
        ("onnxruntime", "fp32", {}),
    ]


def can(*precisions, available=True, reason=""):
    return Capabilities(available, reason, "pip install it", "1.0", ("cpu",), precisions)


FILE = {"label": "m.onnx", "path": None, "kind": "onnx", "sha256": "", "says": Says()}


@pytest.mark.parametrize(
    ("stored", "capabilities", "arithmetic", "status"),
    [
        pytest.param("fp32", can("fp32"), "fp32", "ok", id="plain"),
        pytest.param("fp16", can("fp16", "fp32"), "fp16", "ok", id="half where there is half"),
        pytest.param("fp16", can("fp32"), "fp32", "ok", id="half without"),
        pytest.param("int8", can("fp32"), "int8", "not run", id="no integers"),
        pytest.param("fp16", can(available=False, reason="no GPU"), "fp16", "not run", id="not there"),
    ],
)
def test_a_file_runs_in_the_arithmetic_it_stores_where_there_is_any(stored, capabilities, arithmetic, status):
    made = _on(Contestant(**FILE, precision=stored), "some", capabilities, stored)
    assert (made.arithmetic, made.status) == (arithmetic, status)
    assert bool(made.reason) == (status != "ok")


def test_the_reason_comes_with_what_to_do():
    made = _on(Contestant(**FILE, precision="fp32"), "some", can(available=False, reason="not installed"), "fp32")
    assert made.reason == "not installed; pip install it"
