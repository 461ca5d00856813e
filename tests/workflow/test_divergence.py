"""Where a candidate is looked into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mscsa_deploy.core.progress import silent
from mscsa_deploy.core.shipped import shipped_folder
from mscsa_deploy.parity.compare import Parity
from mscsa_deploy.parity.opened import Side
from mscsa_deploy.workflow.contestants import Contestant
from mscsa_deploy.workflow.divergence import QDQ_RECIPE, Failed, _noisiest, _obstacle, search_limit
from mscsa_deploy.workflow.header import Says


def parity(**changes):
    fields = {"max_abs": 1.0, "max_abs_over_range": 0.1, "cosine": 0.9, "argmax_agreement": 90.0, "sqnr_db": 5.0}
    return Parity(**{**fields, **changes}, images=1, nonfinite=0, worst=())


def test_the_search_looks_for_less_than_the_outputs_error():
    assert search_limit(parity(), "fp32").limits() == {"max_abs_over_range": 1e-3}
    assert search_limit(parity(max_abs_over_range=4e-4), "fp32").limits() == {"max_abs_over_range": 2e-4}
    assert search_limit(parity(), "bf16").limits() == {"max_abs_over_range": 0.05}
    assert search_limit(parity(max_abs_over_range=float("inf")), "fp32").limits() == {"max_abs_over_range": 1e-3}


@pytest.mark.parametrize(
    ("arithmetic", "way_out"),
    [("int8", f"quantize --for openvino --recipe {QDQ_RECIPE}"), ("fp32", "name the ONNX file")],
)
def test_what_cannot_be_opened_up_has_a_way_out(arithmetic, way_out):
    candidate = Contestant(
        label="int8", path=Path("model.xml"), kind="openvino", sha256="", precision=arithmetic, says=Says(),
        runtime="openvino",
        arithmetic=arithmetic,
    )  # fmt: skip
    reason = _obstacle(Failed(candidate, parity()), None)
    assert reason.startswith("only ONNX files can be opened up")
    assert way_out in reason
    assert (shipped_folder("calibration") / f"{QDQ_RECIPE}.toml").is_file()


CHAIN = """
<ir_version: 9, opset_import: ["" : 18]>
net (float[1, 4, 8, 8] image) => (float[1, 4, 8, 8] logits) <float[1] gain = {GAIN}>
{ bent = Tanh(image)  scaled = Mul(bent, gain)  logits = Tanh(scaled) }
"""


@pytest.mark.parametrize(("measured", "found"), [(39.0, True), (5.0, False)], ids=["seen", "hidden"])
def test_a_fault_that_giving_out_tensors_removes_is_laid_to_fusion(tmp_path, measured, found):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")

    def run(path, feeds):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(None, dict(feed)), strict=True)) for feed in feeds]

    sides = []
    for name, gain in (("reference", "1.0"), ("int8", "1.01")):
        onnx.save(onnx.parser.parse_model(CHAIN.replace("GAIN", gain)), tmp_path / f"{name}.onnx")
        sides.append(Side(tmp_path / f"{name}.onnx", run))
    candidate = Contestant(
        label="int8", path=tmp_path / "int8.onnx", kind="onnx", sha256="", precision="int8", says=Says(),
        runtime="onnxruntime",
        arithmetic="int8",
    )  # fmt: skip
    image = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
    failed = Failed(candidate, parity(sqnr_db=measured))
    record = _noisiest(failed, tuple(sides), [{"image": image}], tmp_path, silent)
    assert (record.found, record.tensor) == (found, "scaled" if found else "")
    assert ("what onnxruntime fuses" in record.reason) is not found
