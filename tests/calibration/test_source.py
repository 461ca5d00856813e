from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from mscsa_deploy.calibration.quantizer import quantize
from mscsa_deploy.calibration.source import open_source
from mscsa_deploy.errors import StageError, UnsupportedError, UserError

from .conftest import TENSORRT, loud, net, recipe


def save(model, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    return path


def test_a_quantized_model_is_refused_with_the_node(net_file, samples, tmp_path):
    made = quantize(net_file, samples, recipe(), tmp_path / "q.onnx")
    with pytest.raises(UserError, match=r"already quantized: node '.*' is a .*Linear"):
        quantize(made.artifact.path, samples, recipe(), tmp_path / "twice.onnx")


def test_a_dynamic_shape_is_refused_with_the_command_that_fixes_it(tmp_path):
    with pytest.raises(UserError, match=r"dynamic shape \?x3x32x32") as caught:
        open_source(save(net(batch="N"), tmp_path))
    assert "--input_name image --input_shape 1,3,32,32" in caught.value.hint


def test_too_old_an_opset_is_refused(tmp_path):
    model = parser.parse_model(
        '<ir_version: 4, opset_import: ["" : 10]> g (float[1,2] x) => (float[1,2] y) { y = Relu(x) }'
    )
    with pytest.raises(UserError, match="opset 10"):
        open_source(save(model, tmp_path))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x09\x12"], ids=["empty", "text", "cut"])
def test_a_broken_file_is_refused(content, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.onnx"):
        open_source(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        open_source(tmp_path / "none.onnx")


@pytest.mark.parametrize("count", [6, 1])
def test_a_model_that_ignores_its_input_is_refused(count, samples, tmp_path):
    model = net()
    stem = next(tensor for tensor in model.graph.initializer if tensor.name == "w0")
    stem.CopyFrom(numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "w0"))
    with pytest.raises(UserError, match="ignore its input"):
        quantize(save(model, tmp_path), samples.take(count), recipe(), tmp_path / "q.onnx")


def test_one_picture_is_enough_for_a_model_that_listens(net_file, samples, tmp_path):
    assert quantize(net_file, samples.take(1), recipe(), tmp_path / "q.onnx").samples == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_names_its_node(value, samples, tmp_path):
    model = net()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b1")
    array = numpy_helper.to_array(bias).copy()
    array[3] = value
    bias.CopyFrom(numpy_helper.from_array(array, "b1"))
    with pytest.raises(StageError, match=r"node 'depthwise' \(Conv\)"):
        quantize(save(model, tmp_path), samples, recipe(), tmp_path / "q.onnx")


def test_overflow_on_a_later_sample_names_node_and_sample(samples, net_file, tmp_path):
    with pytest.raises(StageError, match=r"node 'stem'.*sample 4 of 'loud'"):
        quantize(net_file, loud(samples, 3), recipe(), tmp_path / "q.onnx")


ROOT = """<ir_version: 9, opset_import: ["" : 18]>
net (float[1,3,32,32] image) => (float[1,4,32,32] y) <float two = {2}> {
  [shift] a = Add(image, two)
  [root] b = Sqrt(a)
  [mean] c = GlobalAveragePool(b)
  [most] d = ReduceMax<keepdims = 1>(c)
  [conv] e = Conv(image, w)
  [head] y = Add(e, d)
}"""


# Whether ONNX Runtime's greatest value of several is NaN when one of them is depends on where that one lies.
@pytest.mark.parametrize("place", [(0, 0, 0), (0, 0, 1), (1, 7, 9), (2, 31, 31)], ids=str)
@pytest.mark.parametrize("observer", ["minmax", "moving_average", "percentile"])
def test_one_nan_of_a_later_sample_is_seen_wherever_it_lies(place, observer, samples, tmp_path):
    model = parser.parse_model(ROOT)
    weights = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))

    def feed(index):
        image = np.clip(samples.feed(index)["image"], -1, 1)
        image[(0, *place)] = -5 if index == 3 else 0
        return {"image": image}

    bad = type(samples)("bad", feed, samples.indices, samples.content)
    with pytest.raises(StageError, match=r"node 'root' \(Sqrt\).*sample 4 of 'bad'"):
        quantize(save(model, tmp_path), bad, recipe(observer=observer), tmp_path / "q.onnx")


def test_a_sum_that_overflows_is_no_fault(samples, net_file, tmp_path):
    def feed(index):
        return {"image": samples.feed(index)["image"] * np.float32(1e36 if index else 1)}

    huge = type(samples)("huge", feed, samples.indices, samples.content)
    assert quantize(net_file, huge, recipe(), tmp_path / "q.onnx").samples == len(samples)


def of_microsoft(model, kind):
    """The same with its first Relu replaced by an operator beyond ai.onnx, whose types onnx does not infer."""
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = kind, "com.microsoft"
    return model


def test_what_follows_an_operator_that_onnx_does_not_know_is_quantized(net_file, samples, tmp_path):
    made = quantize(save(of_microsoft(net(), "Gelu"), tmp_path), samples, recipe(), tmp_path / "q.onnx")
    plain = quantize(net_file, samples, recipe(), tmp_path / "plain.onnx")
    assert made.ranges.keys() == plain.ranges.keys()
    assert {left.op for left in made.left_float} - {left.op for left in plain.left_float} == {"Gelu"}


def test_a_value_that_is_not_finite_is_seen_behind_an_operator_that_onnx_does_not_know(samples, tmp_path):
    model = of_microsoft(net(), "QuickGelu")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b1")
    bias.CopyFrom(numpy_helper.from_array(np.full(8, np.nan, np.float32), "b1"))
    with pytest.raises(StageError, match=r"node 'depthwise' \(Conv\)"):
        quantize(save(model, tmp_path), samples, recipe(), tmp_path / "q.onnx")


def test_an_operator_that_nobody_knows_is_refused_by_name(samples, tmp_path):
    with pytest.raises(UnsupportedError, match=r"com\.microsoft:NoSuchOp"):
        quantize(save(of_microsoft(net(), "NoSuchOp"), tmp_path), samples, recipe(), tmp_path / "q.onnx")


def test_unnamed_nodes_get_names(tmp_path):
    model = net()
    for node in model.graph.node:
        node.name = ""
    names = [node.name for node in open_source(save(model, tmp_path)).model.graph.node]
    assert len(set(names)) == len(names) == 11
    assert names[0] == "Conv_0"


def with_constants(model):
    """The same graph with every weight in a Constant node, as some exporters write it."""
    weights = list(model.graph.initializer)
    nodes = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(helper.make_node("Constant", [], [weight.name], value=weight) for weight in weights)
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("changes", [{}, TENSORRT, {"bias_correction": "analytic", "equalize": True}], ids=str)
def test_weights_in_constant_nodes_are_weights(changes, net_file, samples, tmp_path):
    plain = quantize(net_file, samples, recipe(**changes), tmp_path / "plain.onnx")
    made = quantize(save(with_constants(net()), tmp_path), samples, recipe(**changes), tmp_path / "q.onnx")
    assert made.quantized_ops == plain.quantized_ops
    stored = [
        {each.name: each.raw_data for each in onnx.load(str(one.artifact.path)).graph.initializer}
        for one in (plain, made)
    ]
    assert stored[0] == stored[1]
