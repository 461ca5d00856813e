from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mscsa_deploy.calibration.checks import plain_session
from mscsa_deploy.calibration.quantizer import quantize
from mscsa_deploy.calibration.recipe import FloatRule
from mscsa_deploy.calibration.sensitivity import (
    block_units,
    measure_sensitivity,
    quantized_nodes,
    to_svg,
    with_pairs,
)
from mscsa_deploy.calibration.source import open_source
from mscsa_deploy.core.config import to_plain
from mscsa_deploy.errors import UserError

from .conftest import net, recipe


@pytest.fixture
def int8_file(net_file, samples, tmp_path):
    return quantize(net_file, samples, recipe(), tmp_path / "int8.onnx").artifact.path


def test_the_planted_bad_node_comes_first(net_file, int8_file, samples):
    model = onnx.load(str(int8_file))
    # A tenfold scale on the gate's weights: its 8 bits now span ten times the range they need.
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "w3_scale")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w3_quantized")
    old = numpy_helper.to_array(weight).astype(np.int32)
    weight.CopyFrom(numpy_helper.from_array(np.round(old / 25).astype(np.int8), weight.name))
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 25, scale.name))
    onnx.save(model, str(int8_file))
    ranked = measure_sensitivity(net_file, int8_file, samples, by="node")
    assert ranked.units[0].unit == "gate"
    assert ranked.whole.sqnr_db <= ranked.units[0].sqnr_db + 1
    assert {unit.unit for unit in ranked.units} == set(quantized_nodes(model))


def test_pairs_on_every_node_equal_the_whole_file(net_file, int8_file, samples):
    source = open_source(net_file)
    whole = onnx.load(str(int8_file))
    rebuilt = with_pairs(source.model, whole, frozenset(quantized_nodes(whole)))
    scale, zero = (
        numpy_helper.to_array(next(tensor for tensor in whole.graph.initializer if tensor.name == f"image_{kind}"))
        for kind in ("scale", "zero_point")
    )
    image = samples.feed(0)["image"]
    # The model's input belongs to no node, so the rebuilt model gets it rounded by hand.
    rounded = (np.clip(np.round(image / scale) + zero, 0, 255) - zero).astype(np.float32) * scale
    one = plain_session(rebuilt).run(None, {"image": rounded})[0]
    two = plain_session(whole).run(None, {"image": image})[0]
    assert np.array_equal(one, two)


def test_no_pairs_at_all_is_the_float_model(net_file, int8_file, samples):
    source = open_source(net_file)
    bare = with_pairs(source.model, onnx.load(str(int8_file)), frozenset())
    feed = dict(samples.feed(0))
    one, two = (plain_session(model).run(None, feed)[0] for model in (bare, source.model))
    assert np.array_equal(one, two)


def test_blocks_group_by_the_start_of_names():
    names = ["/a/b/c/Conv", "/a/b/c/Relu", "/a/b/d/Conv", "Conv_7"]
    assert block_units(names) == {
        "a/b/c": ("/a/b/c/Conv", "/a/b/c/Relu"),
        "a/b/d": ("/a/b/d/Conv",),
        "Conv_7": ("Conv_7",),
    }


def test_the_caller_measures_time_and_the_result_is_plain_and_drawn(net_file, int8_file, samples):
    ranked = measure_sensitivity(net_file, int8_file, samples.take(2), saved_ms=lambda nodes: float(len(nodes)))
    assert all(unit.saved_ms == len(unit.nodes) for unit in ranked.units)
    assert to_plain(ranked)["samples"] == 2
    root = ET.fromstring(to_svg(ranked))
    assert len(root.findall("{http://www.w3.org/2000/svg}rect")) == len(ranked.units)


def test_a_file_of_another_model_is_refused(net_file, samples, tmp_path):
    other = net()
    for node in other.graph.node:
        node.name = f"other_{node.name}"
    path = tmp_path / "other.onnx"
    onnx.save(other, str(path))
    foreign = quantize(path, samples, recipe(), tmp_path / "q.onnx").artifact.path
    with pytest.raises(UserError, match="not a quantized form"):
        measure_sensitivity(net_file, foreign, samples)


def test_leaving_the_worst_unit_float_helps_the_whole(net_file, int8_file, samples, tmp_path):
    ranked = measure_sensitivity(net_file, int8_file, samples, by="node")
    rule = FloatRule(reason="worst", nodes=tuple(unit.unit for unit in ranked.units[:3]))
    better = quantize(net_file, samples, recipe(keep_float=(rule,)), tmp_path / "better.onnx").artifact.path
    assert measure_sensitivity(net_file, better, samples).whole.sqnr_db > ranked.whole.sqnr_db
