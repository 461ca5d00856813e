from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.errors import DeployError, StageError, UnsupportedError, UserError
from mscsa_deploy.runtimes import onnxruntime as adapter
from mscsa_deploy.runtimes.protocol import SessionSettings

INT8 = SessionSettings(precision="int8")


@pytest.fixture
def runtime(needs):
    return needs("onnxruntime")


@pytest.fixture
def vendor_classes(runtime):
    from onnxruntime.capi import onnxruntime_pybind11_state as vendor

    return {name: kind for name, kind in vars(vendor).items() if isinstance(kind, type) and issubclass(kind, Exception)}


def test_every_vendor_error_is_mapped(vendor_classes):
    assert set(vendor_classes) == set(adapter.ERRORS)


def test_the_seam_maps_each_and_keeps_the_cause(vendor_classes):
    for name, kind in vendor_classes.items():
        with pytest.raises(DeployError) as caught, adapter.seam("m.onnx", "inference"):
            raise kind("what the vendor said")
        assert type(caught.value) is adapter.ERRORS[name]
        assert "what the vendor said" in str(caught.value)
        assert isinstance(caught.value.__cause__, kind)


def test_the_seam_lets_our_own_bugs_through():
    with pytest.raises(KeyError), adapter.seam("m.onnx", "inference"):
        raise KeyError


def test_fused_qdq_executes_int8(runtime, models, tmp_path):
    path = models.quantized(tmp_path / "m.onnx", symmetric=False)
    assert runtime.load(path, INT8).executed_precision == "int8"


def test_qdq_that_does_not_fuse_is_told_apart(runtime, models, tmp_path):
    path = models.quantized(tmp_path / "m.onnx", symmetric=False, relu=True)
    assert runtime.load(path, INT8).executed_precision == "fp32"
    profile = runtime.profile(path, INT8, {"image": models.image()}, runs=2)
    assert {"QuantizeLinear", "DequantizeLinear", "FusedConv"} <= {row.op for row in profile.rows}


def test_optimization_can_be_switched_off(runtime, models, tmp_path):
    path = models.quantized(tmp_path / "m.onnx", symmetric=False)
    plain = SessionSettings(precision="int8", options={"graph_optimization_level": "disabled"})
    profile = runtime.profile(path, plain, {"image": models.image()}, runs=1)
    assert "Conv" in {row.op for row in profile.rows}
    assert profile.precision == "fp32"


def test_an_unknown_optimization_level_is_the_users(runtime, models, tmp_path):
    path = models.conv_attention(tmp_path / "m.onnx")
    with pytest.raises(UserError, match="did you mean 'basic'"):
        runtime.load(path, SessionSettings(options={"graph_optimization_level": "basics"}))


def test_execution_mode_arena_and_memory_pattern_reach_the_session_and_change_no_answer(runtime, models, tmp_path):
    path = models.conv_attention(tmp_path / "m.onnx")
    feed = {"image": models.image()}
    options = {"execution_mode": "parallel", "cpu_mem_arena": False, "mem_pattern": False}
    changed = SessionSettings(threads=2, options=options)
    with runtime.load(path, SessionSettings()) as plain, runtime.load(path, changed) as set_:
        found = set_._vendor.get_session_options()
        assert (found.execution_mode.name, found.enable_cpu_mem_arena) == ("ORT_PARALLEL", False)
        assert found.enable_mem_pattern is False
        for name, answer in plain.run(feed).items():
            assert np.array_equal(answer, set_.run(feed)[name])


def test_an_unknown_execution_mode_is_the_users(runtime, models, tmp_path):
    path = models.conv_attention(tmp_path / "m.onnx")
    with pytest.raises(UserError, match="did you mean 'parallel'"):
        runtime.load(path, SessionSettings(options={"execution_mode": "paralel"}))


def test_a_custom_operator_is_a_stage_error(runtime, models, tmp_path):
    path = models.custom(tmp_path / "custom.onnx")
    with pytest.raises(StageError, match=r"onnxruntime loading failed on custom\.onnx.*Bar"):
        runtime.load(path, SessionSettings())


def test_fp16_is_not_pretended_on_a_cpu_without_it(runtime, models, tmp_path):
    if "fp16" in runtime.probe().precisions:
        pytest.skip("this machine has fp16 kernels")
    path = models.conv_attention(tmp_path / "half.onnx", "float16")
    with pytest.raises(UnsupportedError, match="cannot execute fp16"):
        runtime.load(path, SessionSettings(precision="fp16"))
    # Asked for fp32 the file runs, and the profile shows where its float16 convolutions really compute.
    profile = runtime.profile(path, SessionSettings(), {"image": models.image()}, runs=1)
    assert {row.precision for row in profile.rows if row.op in ("Conv", "FusedMatMul")} == {"fp32"}


def test_the_profile_says_which_nodes_each_kernel_stands_for(runtime, models, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = models.conv_attention(tmp_path / "m.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = f"the_{node.output[0]}"
    onnx.save(model, path)
    profile = runtime.profile(path, SessionSettings(), {"image": models.image()}, runs=2)
    assert all(row.sources for row in profile.rows)
    told = {node for row in profile.rows for node in row.sources}
    assert told == {node.name for node in model.graph.node}


def test_a_profile_without_the_optimized_graphs_order_has_no_sources(runtime, models, tmp_path, monkeypatch):
    monkeypatch.setattr("mscsa_deploy.runtimes.onnxruntime_sources.align", lambda *_: False)
    path = models.conv_attention(tmp_path / "m.onnx")
    profile = runtime.profile(path, SessionSettings(), {"image": models.image()}, runs=1)
    assert {row.sources for row in profile.rows} == {()}
