"""Optimized models against plain ones: random sizes, class counts, batches and ablations of every family."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mscsa_deploy.export.exporter import export_onnx
from mscsa_deploy.graphs.check import fingerprint, op_histogram, read_model, signature, to_bytes
from mscsa_deploy.graphs.metadata import ModelInfo
from mscsa_deploy.graphs.passes import PER_RUNTIME, optimizations, optimizations_for
from mscsa_deploy.graphs.rewrite import rewrite
from mscsa_deploy.models.randomize import randomize
from mscsa_deploy.models.spec import ModelOptions, build_model

# Folding rounds weights once more and sums in another order, through some hundred layers.
SHARE_OF_RANGE = 1e-4
WITH_MSCSA = ("topformer_t_mscsa", "pvt_v2_b0_mscsa")
MODELS = (*WITH_MSCSA, "topformer_t", "pvt_v2_b0")


def outputs(data: bytes) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    shape = [size if isinstance(size, int) else 2 for size in session.get_inputs()[0].shape]
    picture = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    return session.run(None, {"image": picture})[0]


def plain(path, name, task, size, options, *, batch=1):
    model = randomize(build_model(name, task, options).eval(), seed=1, input_size=size)
    export_onnx(
        model, name=name, task=task, input_size=size, batch=batch, optimize=False, out=path,
        metadata=ModelInfo(name=name, task=task, random_weights=1),
    )  # fmt: skip
    return read_model(path)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() <= SHARE_OF_RANGE * np.ptp(expected)


@st.composite
def model_cases(draw):
    name, task = draw(st.sampled_from(MODELS)), draw(st.sampled_from(("cls", "seg")))
    values = {"num_classes": draw(st.integers(2, 20))}
    if name in WITH_MSCSA:
        values |= {
            "ffn_act": draw(st.sampled_from(("relu6", "gelu", "hardswish"))),
            "downsampling": draw(st.sampled_from(("parallel", "avgpool", "cascade", "single"))),
            "multi_scale": draw(st.booleans()),
            "intra_ffn": draw(st.booleans()),
            "parallel_conv": draw(st.booleans()),
        }
        if task == "seg":
            values["gate_at"] = draw(st.sampled_from(("low", "high")))
    size = (32 * draw(st.integers(2, 4)), 32 * draw(st.integers(2, 4)))
    return name, task, size, ModelOptions(**values), draw(st.integers(1, 2))


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=model_cases())
def test_optimized_equals_plain(tmp_path_factory, case) -> None:
    name, task, size, options, batch = case
    path = tmp_path_factory.mktemp("models") / "plain.onnx"
    graph = plain(path, name, task, size, options, batch=batch)
    expected, outside = outputs(to_bytes(graph)), signature(graph)

    rewrite(graph, optimizations())

    assert_close(outputs(to_bytes(graph)), expected)
    common = to_bytes(graph)
    path.write_bytes(common)
    for runtime in PER_RUNTIME:
        graph = read_model(path)
        rewrite(graph, optimizations_for(runtime))
        assert_close(outputs(to_bytes(graph)), expected)
        assert signature(graph) == outside


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    names = {("topformer_t_mscsa", "cls"): "cls", ("pvt_v2_b0_mscsa", "cls"): "pvt"}
    for (name, task), stem in names.items():
        plain(folder / f"{stem}.onnx", name, task, (64, 96), ModelOptions(num_classes=5))
    return folder


@pytest.mark.parametrize("stem", ["cls", "pvt"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_second_run_changes_nothing(exported, stem, runtime) -> None:
    graph = read_model(exported / f"{stem}.onnx")
    passes = (*optimizations(), *optimizations_for(runtime))
    rewrite(graph, passes)
    once = fingerprint(graph)

    rewrite(graph, (*optimizations(), *optimizations_for(runtime)))

    assert fingerprint(graph) == once


def test_mscsa_keeps_only_the_norms_behind_its_attention(exported) -> None:
    graph = read_model(exported / "cls.onnx")
    assert op_histogram(graph)["BatchNormalization"] > 4

    rewrite(graph, optimizations())

    # Four cross-scale attentions, each with a norm between a sum and an activation.
    assert op_histogram(graph)["BatchNormalization"] == 4
    # Per attention: one projection at full size and one per coarser scale.
    names = [node.name for node in graph.graph if node.op_type == "Conv" and "mergeprojections" in (node.name or "")]
    assert len(names) == 12


def test_pvt_stream_holds_no_token_transposition_for_onnxruntime(exported) -> None:
    graph = read_model(exported / "pvt.onnx")
    rewrite(graph, (*optimizations(), *optimizations_for("onnxruntime")))

    orders = [list(node.attributes.get_ints("perm", [])) for node in graph.graph if node.op_type == "Transpose"]

    assert [0, 2, 1] not in orders
    assert "Erf" not in op_histogram(graph)
    # The only linear layer left is the classifier.
    assert op_histogram(graph)["Gemm"] == 1
