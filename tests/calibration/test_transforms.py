"""Equalization and bias correction: the float transforms before ranges are taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from mscsa_deploy.calibration.bias import corrected, rounded
from mscsa_deploy.calibration.checks import plain_session
from mscsa_deploy.calibration.equalization import equalized, find_pairs
from mscsa_deploy.calibration.placement import match
from mscsa_deploy.calibration.pooling import pools_as_convs
from mscsa_deploy.calibration.quantizer import quantize
from mscsa_deploy.calibration.recipe import FloatRule
from mscsa_deploy.calibration.samples import from_arrays
from mscsa_deploy.calibration.sensitivity import measure_sensitivity
from mscsa_deploy.calibration.source import initializers, open_source

from .conftest import net, pictures, recipe

CHAIN = """<ir_version: 9, opset_import: ["" : 18]>
chain (float[1,3,32,32] image) => (float[1,4,32,32] y) {
  [one] a = Conv<kernel_shape=[1,1]>(image, w0, b0)
  [relu] b = Relu(a)
  [two] c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=6>(b, w1, b1)
  [three] y = Conv<kernel_shape=[1,1]>(c, w2)
}"""


@pytest.fixture
def chain_file(tmp_path):
    generator = np.random.default_rng(3)
    model = parser.parse_model(CHAIN)
    loud = np.array([40, 1, 1, 0.02, 1, 1], np.float32)
    weights = {
        "w0": generator.standard_normal((6, 3, 1, 1)) * loud[:, None, None, None],
        "b0": 0.1 * loud * generator.standard_normal(6),
        "w1": generator.standard_normal((6, 1, 3, 3)) / loud[:, None, None, None],
        "b1": generator.standard_normal(6),
        "w2": generator.standard_normal((4, 6, 1, 1)),
    }
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    path = tmp_path / "chain.onnx"
    onnx.save(model, str(path))
    return path


def logits(model, feed):
    return plain_session(model).run(None, dict(feed))[0]


def test_equalizing_changes_no_bit_of_the_float_model(chain_file):
    source = open_source(chain_file)
    made, pairs = equalized(source)
    assert pairs == 2
    feed = pictures(1).feed(0)
    assert np.array_equal(logits(made.model, feed), logits(source.model, feed))
    assert made.notes[-1] == "2 convolution pairs equalized"


def test_equalizing_brings_channel_ranges_together(chain_file):
    source = open_source(chain_file)
    made, _ = equalized(source)

    def spread(model):
        ranges = np.abs(numpy_helper.to_array(initializers(model)["w0"])).max(axis=(1, 2, 3))
        return ranges.max() / ranges.min()

    assert spread(made.model) < spread(source.model) / 20


def test_equalizing_pays_where_channels_differ(chain_file, tmp_path):
    errors = []
    for equalize in (False, True):
        out = tmp_path / f"{equalize}.onnx"
        made = quantize(chain_file, pictures(), recipe(equalize=equalize), out)
        feed = pictures(1, seed=9).feed(0)
        exact = logits(onnx.load(str(chain_file)), feed)
        errors.append(float(((logits(onnx.load(str(made.artifact.path)), feed) - exact) ** 2).mean()))
    assert errors[1] < errors[0] / 4


@pytest.mark.parametrize("between", ["HardSwish", "Sigmoid"])
def test_what_is_not_homogeneous_is_left_alone(between, chain_file):
    model = onnx.load(str(chain_file))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = between
    assert [pair[0].name for pair in find_pairs(model)] == ["two"]


def test_a_second_reader_forbids_equalizing(chain_file):
    model = onnx.load(str(chain_file))
    model.graph.output.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [1, 6, 32, 32]))
    assert [pair[0].name for pair in find_pairs(model)] == ["two"]


def test_a_corrected_bias_takes_back_the_mean_error_of_rounding(chain_file):
    source, samples = open_source(chain_file), pictures()
    coarse = recipe(per_channel=False, reduce_range=True)
    made, count = corrected(source, samples, coarse, set())
    assert count == 3
    exact = rough = better = 0.0
    for feed in samples:
        one = _first(source.model, feed, source.model)
        exact = exact + one
        rough = rough + _first(_with_rounded(source.model, coarse), feed, source.model)
        better = better + _first(_with_rounded(made.model, coarse), feed, source.model)
    # A 1x1 convolution has no padding, so its mean error goes entirely.
    assert np.abs(better - exact).max() < 1e-3 * np.abs(rough - exact).max()


def _with_rounded(model, settings):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weight = initializers(copy)["w0"]
    weight.CopyFrom(numpy_helper.from_array(rounded(numpy_helper.to_array(weight), settings), "w0"))
    return copy


def _first(model, feed, like):
    """Mean per channel of the first convolution's output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(next(value for value in like.graph.value_info if value.name == "a"))
    return plain_session(copy).run(["a"], dict(feed))[0].astype(np.float64).mean(axis=(0, 2, 3))


def test_bias_correction_is_told_in_the_notes(chain_file, tmp_path):
    made = quantize(chain_file, pictures(), recipe(bias_correction="analytic"), tmp_path / "q.onnx")
    assert "3 biases corrected" in made.notes


# As others write them: a 1-D pair, biases that are computed or named "", and one that can be corrected.
OTHERS = """<ir_version: 9, opset_import: ["" : 18]>
others (float[1,3,8,8] image) => (float[1,4,64] y, float[1,4,8,8] z) <int64[3] flat = {1, 3, 64}> {
  [shaped] a = Reshape(image, flat)
  [line] b = Conv<kernel_shape=[3], pads=[1,1]>(a, v0)
  [line_relu] c = Relu(b)
  [line_two] y = Conv<kernel_shape=[1]>(c, v1)
  [doubled] k = Add(bias, bias)
  [computed] z0 = Conv<kernel_shape=[1,1]>(image, w0, k)
  [stored] z1 = Conv<kernel_shape=[1,1]>(image, w1)
  [sum] z = Add(z0, z1)
}"""


@pytest.fixture
def others_file(tmp_path):
    generator = np.random.default_rng(4)
    model = parser.parse_model(OTHERS)
    shapes = {"v0": (6, 3, 3), "v1": (4, 6, 1), "w0": (4, 3, 1, 1), "w1": (4, 3, 1, 1), "bias": (4,)}
    for name, shape in shapes.items():
        weight = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    next(node for node in model.graph.node if node.name == "stored").input.append("")
    path = tmp_path / "others.onnx"
    onnx.save(model, str(path))
    return path


def test_transforms_leave_alone_what_they_are_not_made_for(others_file, tmp_path):
    generator = np.random.default_rng(5)
    arrays = list(generator.standard_normal((3, 1, 3, 8, 8)).astype(np.float32))
    transformed = recipe(bias_correction="analytic", equalize=True)
    out = tmp_path / "q.onnx"
    made = quantize(others_file, from_arrays("x", arrays, input_name="image"), transformed, out)
    assert made.notes == ("0 convolution pairs equalized", "1 biases corrected")
    feed = {"image": arrays[0]}
    answers = [plain_session(onnx.load(str(path))).run(None, feed) for path in (others_file, out)]
    for exact, got in zip(*answers, strict=True):
        # 8 bits over the range of the answers: steps of 1/255, a few of them lost on the way.
        assert np.abs(got - exact).max() < 0.05 * np.ptp(exact)


def test_pools_as_convolutions_give_the_same_numbers(net_file):
    source = open_source(net_file)
    made, count = pools_as_convs(source)
    assert count == 1
    assert "AveragePool" not in {node.op_type for node in made.model.graph.node}
    assert made.notes[-1] == "1 average pools run as convolutions"
    feed = next(iter(pictures()))
    # Sums in another order: float32 rounding.
    np.testing.assert_allclose(logits(made.model, feed), logits(source.model, feed), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [{"pads": [1, 1, 1, 1]}, {"ceil_mode": 1}, {"auto_pad": "SAME_UPPER"}])
def test_pools_with_a_border_stay_pools(change, net_file):
    model = onnx.shape_inference.infer_shapes(net())
    pool = next(node for node in model.graph.node if node.op_type == "AveragePool")
    pool.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in change.items())
    source = replace(open_source(net_file), model=model)
    assert pools_as_convs(source)[1] == 0


def test_a_pool_that_runs_as_a_convolution_is_quantized_and_ranked(net_file, samples, tmp_path):
    made = quantize(net_file, samples, recipe(pools_as_convs=True), tmp_path / "q.onnx")
    assert "pool" not in {left.node for left in made.left_float}
    ranking = measure_sensitivity(net_file, tmp_path / "q.onnx", samples.take(2), by="node")
    assert "pool" in {unit.unit for unit in ranking.units}


@pytest.mark.parametrize(
    "rule",
    [
        FloatRule(reason="kept", op_types=("AveragePool",)),
        FloatRule(reason="kept", nodes=("pool",)),
        # It would be one of the last three convolutions.
        FloatRule(reason="kept", last_convs=3),
        FloatRule(reason="kept", downstream_of=("AveragePool",)),
        FloatRule(reason="kept", op_types=("AveragePool", "Mul"), weightless=True),
    ],
    ids=["op_types", "nodes", "last_convs", "downstream_of", "weightless"],
)
def test_rules_are_about_pools_also_where_these_run_as_convolutions(rule, net_file, samples, tmp_path):
    wanted = set(match(open_source(net_file).model, rule))
    settings = recipe(pools_as_convs=True, keep_float=(rule,), op_types=("Conv", "AveragePool", "Mul"))
    made = quantize(net_file, samples, settings, tmp_path / "q.onnx")
    assert {left.node for left in made.left_float if left.reason == "kept"} == wanted
    kinds = {node.name: node.op_type for node in onnx.load(str(made.artifact.path)).graph.node}
    assert kinds["pool"] == ("AveragePool" if "pool" in wanted else "Conv")
