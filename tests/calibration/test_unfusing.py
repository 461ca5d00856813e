"""Additions and products stay float where a recipe asks for the same bits on every processor."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from mscsa_deploy.calibration.checks import plain_session
from mscsa_deploy.calibration.quantizer import quantize
from mscsa_deploy.calibration.recipe import FloatRule

from .conftest import pictures, recipe

# A residual sum, and a gate whose product has two quantized inputs; convolutions around both.
GATED = """<ir_version: 9, opset_import: ["" : 18]>
gated (float[1,3,32,32] image) => (float[1,4,32,32] y) {
  [one] a = Conv<kernel_shape=[1,1]>(image, w0)
  [two] b = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(a, w1)
  [residual] c = Add(a, b)
  [gate] d = Conv<kernel_shape=[1,1]>(c, w2)
  [product] e = Mul(c, d)
  [three] y = Conv<kernel_shape=[1,1]>(e, w3)
}"""
SHAPES = {"w0": (8, 3, 1, 1), "w1": (8, 8, 3, 3), "w2": (8, 8, 1, 1), "w3": (4, 8, 1, 1)}


@pytest.fixture
def gated_file(tmp_path):
    generator = np.random.default_rng(8)
    model = parser.parse_model(GATED)
    for name, shape in SHAPES.items():
        weight = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
    path = tmp_path / "gated.onnx"
    onnx.save(model, str(path))
    return path


def executed(path, folder):
    """How often ONNX Runtime executes each operator of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "executed.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(str(folder / "executed.onnx")).graph.node)


@pytest.mark.parametrize("op_types", [("Conv",), ()], ids=["convolutions", "everything"])
def test_no_addition_or_product_runs_on_integers(op_types, gated_file, tmp_path):
    apart, fused = (
        quantize(gated_file, pictures(), recipe(op_types=op_types, float_elementwise=apart), tmp_path / f"{apart}.onnx")
        for apart in (True, False)
    )
    assert executed(fused.artifact.path, tmp_path).keys() >= {"QLinearAdd", "QLinearMul"}
    kernels = executed(apart.artifact.path, tmp_path)
    assert kernels["QLinearConv"] == 4
    assert not kernels.keys() & {"QLinearAdd", "QLinearMul"}
    said = {left.node: left.reason for left in apart.left_float}
    assert "rounds differently on x86 and on ARM" in said["residual"]
    assert "rounds differently on x86 and on ARM" in said["product"]
    assert apart.quantized_ops == fused.quantized_ops - 2


def test_the_numbers_are_those_of_the_pairs(gated_file, tmp_path):
    """Fused and not fused compute the same function: where they differ, by one step of the output's 255."""
    feed = pictures(1, seed=4).feed(0)
    answers = []
    for apart in (True, False):
        settings = recipe(op_types=("Conv",), float_elementwise=apart)
        made = quantize(gated_file, pictures(), settings, tmp_path / f"{apart}.onnx")
        answers.append(plain_session(onnx.load(str(made.artifact.path))).run(None, dict(feed))[0])
    assert np.abs(answers[0] - answers[1]).max() < 1.5 * np.ptp(answers[1]) / 200


def test_a_sum_that_was_float_anyway_stays_an_addition(gated_file, tmp_path):
    """Only what would run on integers is rewritten: other tools know Add better than Sum."""
    made = quantize(gated_file, pictures(), recipe(op_types=("Conv",), float_elementwise=True), tmp_path / "q.onnx")
    assert {node.op_type for node in onnx.load(str(made.artifact.path)).graph.node if node.name == "residual"} == {
        "Sum"
    }
    rules = (FloatRule(reason="kept", nodes=("two",)),)
    settings = recipe(op_types=("Conv",), float_elementwise=True, keep_float=rules)
    kept = quantize(gated_file, pictures(), settings, tmp_path / "kept.onnx")
    assert {node.op_type for node in onnx.load(str(kept.artifact.path)).graph.node if node.name == "residual"} == {
        "Add"
    }
