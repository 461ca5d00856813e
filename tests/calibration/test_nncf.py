from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from mscsa_deploy.calibration.quantizer import quantize
from mscsa_deploy.calibration.recipe import FloatRule, read_recipe
from mscsa_deploy.core.telemetry import REPORTER, without_telemetry
from mscsa_deploy.errors import StageError, UserError

from .conftest import loud, recipe

openvino = pytest.importorskip("openvino", reason="pip install 'mscsa-deploy[quantize]'")


def nncf_recipe(**changes):
    return recipe(**{"engine": "nncf", "runtime": "openvino", **changes})


def answer(path, feed):
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(dict(feed))[0]


@pytest.mark.parametrize("preset", ["performance", "mixed"])
def test_openvino_loads_the_result_and_answers_alike(preset, net_file, samples, tmp_path):
    made = quantize(net_file, samples, nncf_recipe(preset=preset), tmp_path / "q.xml")
    assert made.artifact.kind == "openvino"
    assert (tmp_path / "q.bin").exists()
    feed = samples.feed(0)
    wanted = onnxruntime.InferenceSession(str(net_file)).run(None, dict(feed))[0]
    # 8 bits over the range of the logits: steps of 1/255, a few of them lost on the way.
    assert np.abs(answer(made.artifact.path, feed) - wanted).max() < 0.05 * np.ptp(wanted)


def test_rules_keep_nodes_float_and_every_float_operator_is_listed(net_file, samples, tmp_path):
    rule = FloatRule(reason="the stem is cheap in float", first_convs=1)
    made = quantize(net_file, samples, nncf_recipe(keep_float=(rule,)), tmp_path / "q.xml")
    reasons = {left.node: left.reason for left in made.left_float}
    assert reasons["stem/WithoutBiases"] == "the stem is cheap in float"
    assert all(reasons.values())
    whole = quantize(net_file, samples, nncf_recipe(), tmp_path / "whole.xml")
    assert "stem/WithoutBiases" not in {left.node for left in whole.left_float}
    assert whole.quantized_ops > made.quantized_ops


TOKENS = """<ir_version: 9, opset_import: ["" : 18]>
tokens (float[1,3,32,32] image) => (float[1,64,8] y) <int64[3] flat = {1, 8, 64}, float[8] gain = {1,1,1,1,1,1,1,1}> {
  [stem] a = Conv<kernel_shape=[4,4], strides=[4,4]>(image, w)
  [flatten] b = Reshape(a, flat)
  [turn] c = Transpose<perm = [0,2,1]>(b)
  [norm] d = LayerNormalization(c, gain)
  [project] y = MatMul(d, v)
}"""


def test_operators_listed_as_float_are_in_the_file_under_that_name(samples, tmp_path):
    model = onnx.parser.parse_model(TOKENS)
    generator = np.random.default_rng(0)
    for name, shape in (("w", (8, 3, 4, 4)), ("v", (8, 8))):
        weight = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, str(tmp_path / "tokens.onnx"))
    settings = nncf_recipe(model_type="transformer")
    made = quantize(tmp_path / "tokens.onnx", samples, settings, tmp_path / "q.xml")
    operators = openvino.Core().read_model(str(made.artifact.path)).get_ops()
    held = {(each.get_friendly_name(), each.get_type_name()) for each in operators}
    assert made.left_float
    assert {(left.node, left.op) for left in made.left_float} <= held


def test_weights_have_one_scale_per_channel_unless_told_otherwise(net_file, samples, tmp_path):
    sizes = {}
    for per_channel in (True, False):
        made = quantize(net_file, samples, nncf_recipe(per_channel=per_channel), tmp_path / f"{per_channel}.xml")
        model = openvino.Core().read_model(str(made.artifact.path))
        scales = [
            operator.input(1).get_source_output().get_node()
            for operator in model.get_ops()
            if operator.get_type_name() == "Multiply"
            and operator.input(0).get_source_output().get_node().get_type_name() == "Convert"
        ]
        sizes[per_channel] = max(scale.get_data().size for scale in scales)
    assert sizes == {True: 8, False: 1}


PATCHES = """<ir_version: 9, opset_import: ["" : 18]>
net (float[1,3,32,32] image) => (float[1,32,4,4] patches) {
  [widen] a = Conv<kernel_shape=[1,1]>(image, w0)
  [relu] b = Relu(a)
  [patch] patches = Conv<kernel_shape=[8,8], strides=[8,8]>(b, w1)
}"""


@pytest.mark.parametrize("name", ["int8_openvino", "int8_openvino_transformer", "int8_openvino_qdq"])
def test_convolutions_that_openvino_gets_wrong_on_amx_stay_float(name, samples, tmp_path):
    model = onnx.parser.parse_model(PATCHES)
    for index, shape in enumerate(((32, 3, 1, 1), (32, 32, 8, 8))):
        weight = np.random.default_rng(index).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), f"w{index}"))
    onnx.save(model, str(tmp_path / "net.onnx"))
    shipped = read_recipe(name).changed(name, samples=6)
    suffix = ".onnx" if shipped.engine == "onnxruntime" else ".xml"
    made = quantize(tmp_path / "net.onnx", samples, shipped, tmp_path / f"q{suffix}")
    assert any(left.node.startswith("patch") and "AMX" in left.reason for left in made.left_float)
    feed = samples.feed(0)
    wanted = onnxruntime.InferenceSession(str(tmp_path / "net.onnx")).run(None, dict(feed))[0]
    # On AMX, the quantized patch convolution is off by as much as it is large.
    assert np.abs(answer(made.artifact.path, feed) - wanted).max() < 0.05 * np.ptp(wanted)


@pytest.mark.parametrize("index", [3, 5])
def test_overflow_on_a_later_sample_names_node_and_sample(index, net_file, samples, tmp_path):
    with pytest.raises(StageError, match=rf"node '(stem|depthwise)' \(Conv\).*sample {index + 1} of 'loud'"):
        quantize(net_file, loud(samples, index), nncf_recipe(bias_correction="fast"), tmp_path / "q.xml")
    assert not (tmp_path / "q.xml").exists()


def test_equal_inputs_give_equal_bytes(net_file, samples, tmp_path):
    for folder in ("a", "b"):
        quantize(net_file, samples, nncf_recipe(bias_correction="fast"), tmp_path / folder / "q.xml")
    for name in ("q.xml", "q.bin"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_ir_tells_recipe_and_samples(net_file, samples, tmp_path):
    made = quantize(net_file, samples, nncf_recipe(), tmp_path / "q.xml")
    model = openvino.Core().read_model(str(made.artifact.path))
    told = model.get_rt_info(["mscsa_deploy", "mscsa_deploy_int8.calibrated_on"]).astype(str)
    assert json.loads(told)["samples"] == 6


def test_the_output_has_to_be_an_xml_file(net_file, samples, tmp_path):
    with pytest.raises(UserError, match=r"\.xml"):
        quantize(net_file, samples, nncf_recipe(), tmp_path / "q.onnx")


def test_vendors_load_without_their_telemetry():
    with without_telemetry(), pytest.raises(ImportError):
        __import__(REPORTER)
    # In a process of its own: another test may have imported OpenVINO without our care.
    script = (
        "from mscsa_deploy.calibration.nncf import load_vendors; load_vendors();"
        "import sys; print('openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
