"""Where a candidate is looked into."""

from __future__ import annotations

from pathlib import Path

import pytest

from mscsa_deploy.core.shipped import shipped_folder
from mscsa_deploy.parity.compare import Parity
from mscsa_deploy.workflow.contestants import Contestant
from mscsa_deploy.workflow.divergence import QDQ_RECIPE, Failed, _obstacle, search_limit
from mscsa_deploy.workflow.header import Says


def parity(**changes):
    fields = {"max_abs": 1.0, "max_abs_over_range": 0.1, "cosine": 0.9, "argmax_agreement": 90.0, "sqnr_db": 5.0}
    return Parity(**{**fields, **changes}, images=1, nonfinite=0, worst=())


def test_the_search_looks_for_less_than_the_outputs_error():
    assert search_limit(parity(), "int8").limits() == {"sqnr_db": 8.0}
    assert search_limit(parity(), "fp32").limits() == {"max_abs_over_range": 1e-3}
    assert search_limit(parity(max_abs_over_range=4e-4), "fp32").limits() == {"max_abs_over_range": 2e-4}
    assert search_limit(parity(), "bf16").limits() == {"max_abs_over_range": 0.05}
    infinite = parity(max_abs_over_range=float("inf"), sqnr_db=float("-inf"))
    assert search_limit(infinite, "fp32").limits() == {"max_abs_over_range": 1e-3}
    assert search_limit(infinite, "int8").limits() == {"sqnr_db": 10.0}


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
