from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from mscsa_deploy.calibration.placement import tensorrt_faults
from mscsa_deploy.calibration.quantizer import quantize
from mscsa_deploy.calibration.recipe import HISTOGRAM_OBSERVERS, FloatRule, read_recipe
from mscsa_deploy.calibration.samples import noise
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import StageError, UserError

from .conftest import TENSORRT, net, pictures, recipe


def sqnr_db(float_file, int8_file, samples):
    """Signal to quantization noise of the logits over `samples`, in decibels."""
    signal = error = 0.0
    sessions = [onnxruntime.InferenceSession(str(path)) for path in (float_file, int8_file)]
    for feed in samples:
        one, two = (session.run(None, dict(feed))[0] for session in sessions)
        signal += float((one**2).sum())
        error += float(((one - two) ** 2).sum())
    return 10 * np.log10(signal / error)


def placed(path):
    """How often each operator occurs, and which nodes compute between Q/DQ pairs."""
    graph = onnx.load(str(path)).graph
    return Counter(node.op_type for node in graph.node)


# 8 bits over these small ranges leave about 30 dB; a wrong scale or zero point costs more than 10.
GOOD_DB = 25.0


@pytest.mark.parametrize("observer", ["minmax", "moving_average", *HISTOGRAM_OBSERVERS])
def test_every_observer_gives_a_close_model(observer, net_file, samples, tmp_path):
    made = quantize(net_file, samples, recipe(observer=observer, percentile=99.99), tmp_path / "int8.onnx")
    # Clipping observers give up the tails of Gaussian data on purpose, so they may lose a little more.
    floor = GOOD_DB if observer in {"minmax", "mse"} else GOOD_DB - 10
    assert sqnr_db(net_file, made.artifact.path, samples) > floor
    low, high = made.ranges["image"]
    seen = np.concatenate([feed["image"].ravel() for feed in samples])
    assert seen.min() <= low < 0 < high <= seen.max()


def test_minmax_ranges_are_the_extremes_over_all_samples(net_file, samples, tmp_path):
    made = quantize(net_file, samples, recipe(), tmp_path / "int8.onnx")
    seen = np.concatenate([feed["image"].ravel() for feed in samples])
    assert made.ranges["image"] == (float(seen.min()), float(seen.max()))


def test_the_placement_is_as_written_down(net_file, samples, tmp_path):
    made = quantize(net_file, samples, recipe(op_types=("Conv", "Add", "AveragePool", "Relu")), tmp_path / "q.onnx")
    # Activations: image, a (Relu removed), c, d, e, f, p, q, r, logits; weights and biases come as bare DQ.
    assert placed(made.artifact.path) == {
        "QuantizeLinear": 10, "DequantizeLinear": 20, "Conv": 5, "Add": 1, "AveragePool": 1, "Mul": 1,
        "HardSwish": 1, "HardSigmoid": 1,
    }  # fmt: skip
    assert made.quantized_ops == 7


def test_every_float_operator_is_listed_with_its_reason(net_file, samples, tmp_path):
    rule = FloatRule(reason="the stem is cheap in float", first_convs=1)
    made = quantize(
        net_file, samples, recipe(op_types=("Conv", "Add", "Relu"), keep_float=(rule,)), tmp_path / "q.onnx"
    )
    reasons = {left.node: left.reason for left in made.left_float}
    assert reasons == {
        "stem": "the stem is cheap in float",
        "stem_relu": "the stem is cheap in float",
        # `pool` is not among the op_types either, but lies between two quantized tensors: integers all the same.
        "swish": "ONNX Runtime has no integer kernel for HardSwish",
        "gate_sigmoid": "ONNX Runtime has no integer kernel for HardSigmoid",
        "gated": "Mul is not among the recipe's op_types",
    }
    computing = sum(
        n for op, n in placed(made.artifact.path).items() if op not in {"QuantizeLinear", "DequantizeLinear"}
    )
    assert made.quantized_ops + len(made.left_float) == computing


def test_a_rule_that_matches_nothing_is_refused(net_file, samples, tmp_path):
    rule = FloatRule(reason="no such node", nodes=("nothing",))
    with pytest.raises(UserError, match="matches no node"):
        quantize(net_file, samples, recipe(keep_float=(rule,)), tmp_path / "q.onnx")


def test_a_rule_about_operators_says_nothing_about_a_model_without_them(net_file, samples, tmp_path):
    rule = FloatRule(reason="attention stays float", op_types=("MatMul",), weightless=True)
    made = quantize(net_file, samples, recipe(keep_float=(rule,)), tmp_path / "q.onnx")
    assert not any(left.reason == rule.reason for left in made.left_float)


def test_a_recipe_that_leaves_everything_float_fails(net_file, samples, tmp_path):
    rule = FloatRule(reason="all of them", nodes=(".*",))
    with pytest.raises(StageError, match="every operator float"):
        quantize(net_file, samples, recipe(keep_float=(rule,)), tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_the_file_tells_recipe_and_samples_and_keeps_metadata(net_file, samples, tmp_path):
    made = quantize(net_file, samples, recipe(requires=("vnni",)), tmp_path / "q.onnx")
    told = {entry.key: entry.value for entry in onnx.load(str(made.artifact.path)).metadata_props}
    assert told["mscsa_deploy.name"] == "net"
    assert json.loads(told["mscsa_deploy_int8.recipe"])["name"] == "test"
    assert json.loads(told["mscsa_deploy_int8.calibrated_on"]) == {
        "key": samples.key, "name": "pictures", "samples": 6,
    }  # fmt: skip
    assert told["mscsa_deploy_int8.requires"] == "vnni"
    assert told["mscsa_deploy_int8.quantized_from"] == made.artifact.made_by.parent


def test_calibration_on_noise_is_marked_and_worse(net_file, samples, tmp_path):
    fake = noise((TensorSpec("image", "float32", (1, 3, 32, 32)),), 4)
    loud = type(fake)(fake.name, lambda i: {"image": 6 * fake.feed(i)["image"]}, fake.indices, fake.content, noise=True)
    on_noise = quantize(net_file, loud, recipe(), tmp_path / "noise.onnx")
    on_pictures = quantize(net_file, samples, recipe(), tmp_path / "pictures.onnx")
    told = {entry.key: entry.value for entry in onnx.load(str(on_noise.artifact.path)).metadata_props}
    assert "not on pictures" in json.loads(told["mscsa_deploy_int8.calibrated_on"])["warning"]
    better, worse = (sqnr_db(net_file, made.artifact.path, samples) for made in (on_pictures, on_noise))
    assert worse < better - 6


def test_per_tensor_weights_are_caught_by_the_error_they_cause(samples, tmp_path):
    model = net()
    # One loud output channel: with one scale for all, the other seven keep few of their 8 bits.
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    array = numpy_helper.to_array(weights["w1"]).copy()
    array[0] *= 60
    weights["w1"].CopyFrom(numpy_helper.from_array(array, "w1"))
    pointwise = numpy_helper.to_array(weights["w2"]).copy()
    pointwise[:, 0] = 0
    weights["w2"].CopyFrom(numpy_helper.from_array(pointwise, "w2"))
    path = tmp_path / "loud.onnx"
    onnx.save(model, str(path))
    # Activations would hide the effect: they stay float by quantizing the one convolution alone.
    alone = FloatRule(reason="only the depthwise one", nodes=("(?!depthwise$).*",))
    results = []
    for per_channel in (True, False):
        made = quantize(
            path, samples, recipe(per_channel=per_channel, keep_float=(alone,)), tmp_path / f"{per_channel}.onnx"
        )
        scale = next(t for t in onnx.load(str(made.artifact.path)).graph.initializer if t.name == "w1_scale")
        results.append((sqnr_db(path, made.artifact.path, samples), numpy_helper.to_array(scale).size))
    assert results[0][1] == 8
    assert results[1][1] == 1
    assert results[0][0] > results[1][0]


def test_equal_inputs_give_equal_bytes_in_any_process(net_file, samples, tmp_path):
    made = quantize(net_file, samples, recipe(), tmp_path / "here.onnx")
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from tests.calibration.conftest import pictures, recipe;"
        "from mscsa_deploy.calibration.quantizer import quantize;"
        "quantize(Path(sys.argv[2]), pictures(), recipe(), Path(sys.argv[3]))"
    )
    for seed in ("1", "2"):
        out = tmp_path / f"there{seed}.onnx"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "MSCSA_DEPLOY_CACHE": str(tmp_path / seed)}
        root = str(__import__("pathlib").Path(__file__).parents[2])
        subprocess.run([sys.executable, "-c", script, root, str(net_file), str(out)], check=True, env=environment)
        assert out.read_bytes() == made.artifact.path.read_bytes()


def test_nothing_is_printed_on_standard_output(net_file, samples, tmp_path, capsys):
    quantize(net_file, samples, recipe(observer="percentile"), tmp_path / "q.onnx")
    assert capsys.readouterr().out == ""


def test_progress_counts_every_sample_of_every_pass(net_file, samples, tmp_path):
    seen = []
    quantize(net_file, samples, recipe(observer="mse"), tmp_path / "q.onnx", lambda *step: seen.append(step[:2]))
    assert seen == [(done, 12) for done in range(1, 13)]


def test_an_existing_output_is_not_replaced(net_file, samples, tmp_path):
    place = tmp_path / "q.onnx"
    place.write_text("mine")
    with pytest.raises(UserError, match="exists"):
        quantize(net_file, samples, recipe(), place)
    assert place.read_text() == "mine"


def test_an_old_opset_is_converted_and_told(samples, tmp_path):
    path = tmp_path / "old.onnx"
    model = net(opset=18)
    for node in list(model.graph.node):
        # HardSwish came with opset 14.
        if node.op_type == "HardSwish":
            node.op_type = "Relu"
    model.opset_import[0].version = 11
    onnx.save(model, str(path))
    made = quantize(path, samples, recipe(), tmp_path / "q.onnx")
    assert made.notes == ("opset converted from 11 to 13",)
    assert sqnr_db(path, made.artifact.path, samples) > GOOD_DB
    assert onnx.load(str(made.artifact.path)).metadata_props[0].key == "mscsa_deploy.name"


def test_tensorrt_files_follow_its_conventions(net_file, samples, tmp_path):
    made = quantize(net_file, samples, recipe(**TENSORRT), tmp_path / "q.onnx")
    assert tensorrt_faults(onnx.load(str(made.artifact.path))) == []


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        pytest.param({"quantize_bias": True}, "int32 bias", id="int32 bias"),
        pytest.param({"symmetric_activations": False}, "zero point", id="zero point"),
        pytest.param({"activations": "uint8"}, "not int8", id="unsigned"),
    ],
)
def test_what_tensorrt_refuses_is_caught_before_it_is_written(planted, message, net_file, samples, tmp_path):
    with pytest.raises(StageError, match=message):
        quantize(net_file, samples, recipe(**{**TENSORRT, **planted}), tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("capability", ["SM75", "SM86", "SM120"])
def test_tensorrt_builds_the_int8_fp16_file(capability, net_file, samples, tmp_path):
    tensorrt = pytest.importorskip("tensorrt_rtx", reason="pip install 'mscsa-deploy[tensorrt]'")
    made = quantize(net_file, samples, recipe(**TENSORRT, rest="fp16"), tmp_path / "q.onnx")
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, builder.logger)
    assert parser.parse_from_file(str(made.artifact.path)), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(tensorrt.ComputeCapability, capability), 0)
    assert builder.build_serialized_network(network, config) is not None


def test_the_fp16_rest_keeps_float32_inputs_and_outputs(net_file, samples, tmp_path):
    made = quantize(net_file, samples, recipe(**TENSORRT, rest="fp16"), tmp_path / "q.onnx")
    graph = onnx.load(str(made.artifact.path)).graph
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    scales = {tensor.data_type for tensor in graph.initializer if tensor.name.endswith("_scale")}
    assert scales == {onnx.TensorProto.FLOAT16}


def test_other_pictures_give_other_ranges(net_file, tmp_path):
    one = quantize(net_file, pictures(seed=1), recipe(), tmp_path / "1.onnx")
    two = quantize(net_file, pictures(seed=2), recipe(), tmp_path / "2.onnx")
    assert one.ranges != two.ranges


def test_portable_weights_cannot_saturate_without_vnni(net_file, samples, tmp_path):
    portable = read_recipe("int8_onnxruntime_portable")
    rules = {"keep_float": ()}  # its rule is for attention, which this net has none of
    made = quantize(net_file, samples, portable.changed("portable", **rules), tmp_path / "q.onnx")
    stored = onnx.load(str(made.artifact.path)).graph.initializer
    weights = [numpy_helper.to_array(tensor) for tensor in stored if tensor.name.endswith("_quantized")]
    largest = max(int(np.abs(array.astype(np.int32)).max()) for array in weights if array.dtype == np.int8)
    # Without VNNI, x86 adds two products of uint8 and int8 in 16 bits.
    assert 0 < 2 * 255 * largest <= np.iinfo(np.int16).max
