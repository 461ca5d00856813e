from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.runtimes.profiling import does_arithmetic
from mscsa_deploy.runtimes.protocol import OpProfile, OpRow
from mscsa_deploy.runtimes.session import brief, join_precisions

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "nncf", "tensorrt", "tensorrt_rtx", "transformers")


def loaded_after(code):
    """Heavy libraries that a fresh process holds after `code`."""
    script = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    return sorted(set(json.loads(out.stdout)) & set(HEAVY))


def test_importing_the_package_loads_no_heavy_library():
    assert loaded_after("import mscsa_deploy.runtimes, mscsa_deploy.runtimes.profile") == []


def test_importing_every_adapter_loads_no_heavy_library():
    code = "from mscsa_deploy.runtimes import RUNTIMES\nfor name in RUNTIMES: RUNTIMES.load(name)()"
    assert loaded_after(code) == []


def test_each_runtime_is_called_as_its_entry():
    assert list(RUNTIMES) == ["pytorch", "onnxruntime", "openvino", "tensorrt", "fake"]
    for name in RUNTIMES:
        assert RUNTIMES.load(name).name == name


def test_an_unknown_runtime_offers_the_nearest():
    with pytest.raises(UserError, match="did you mean 'onnxruntime'"):
        RUNTIMES.load("onnxruntimes")


@pytest.mark.parametrize("name", ["pytorch", "onnxruntime", "openvino"])
def test_a_runtime_that_is_not_installed_says_how_to_get_it(name, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    can = RUNTIMES.load(name)().probe()
    assert not can.available
    assert "not installed" in can.reason
    assert can.how_to_install.startswith("pip install")


def test_precisions_are_spelled_lowest_first():
    assert join_precisions(["fp32", "int64", "int8", "fp32"]) == "int8+fp32"


@pytest.mark.parametrize("op", ["Reorder", "QuantizeLinear", "Cast", "Reshape", "permute"])
def test_moving_values_is_no_arithmetic(op):
    assert not does_arithmetic(op)


@pytest.mark.parametrize("op", ["Conv", "QLinearConv", "Convolution", "Softmax", "FullyConnected", "addmm"])
def test_computing_is_arithmetic(op):
    assert does_arithmetic(op)


def test_profile_sums_by_field():
    rows = (
        OpRow("a", "Conv", "int8", "", "", 2.0, 1),
        OpRow("b", "Add", "fp32", "", "", 5.0, 1),
        OpRow("c", "Conv", "fp32", "", "", 1.0, 1),
    )
    profile = OpProfile("fake", "1", "int8+fp32", 1, rows)
    assert profile.total_ms == 8.0
    assert profile.ms_by("op") == {("Add",): 5.0, ("Conv",): 3.0}
    assert next(iter(profile.ms_by("op", "precision"))) == ("Add", "fp32")


def test_vendor_messages_lose_their_source_lines():
    assert brief("Exception from src/core.cpp:1:\nCheck failed\n\n  bad shape\n") == "Check failed bad shape"
    assert len(brief("x" * 1000, 100)) == 100


def test_a_runtime_that_ci_counts_on_is_never_skipped(models, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_REQUIRE", "openvino,fake")
    with pytest.raises(pytest.fail.Exception, match="counts on openvino"):
        models.skip_unless("openvino", available=False, reason="gone")
    with pytest.raises(pytest.skip.Exception, match="pytorch: gone"):
        models.skip_unless("pytorch", available=False, reason="gone")
    models.skip_unless("openvino", available=True, reason="")
