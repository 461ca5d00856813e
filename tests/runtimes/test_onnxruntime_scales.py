"""Files whose Q/DQ scales are FP16: told apart without the package onnx, and not run with biases of noise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from mscsa_deploy.runtimes.onnxruntime_scales import has_half_scales
from mscsa_deploy.runtimes.protocol import SessionSettings

# Opset 19 is the first with FP16 scales. The product of x_scale and w_scale, 4e-8, underflows in FP16.
CONV = """
<ir_version: 9, opset_import: ["" : 19]>
g (float16[1,4,8,8] image) => (float16[1,4,8,8] logits)
<int8 zero = {0}>
{
    q = QuantizeLinear (image, x_scale, zero)
    x = DequantizeLinear (q, x_scale, zero)
    w = DequantizeLinear (w_int8, w_scale, zero)
    conv = Conv <pads = [1,1,1,1]> (x, w, bias)
    y = QuantizeLinear (conv, y_scale, zero)
    logits = DequantizeLinear (y, y_scale, zero)
}
"""


@pytest.fixture(params=["initializers", "constant nodes"])
def half(request, models, tmp_path):
    random = np.random.default_rng(0)
    weights = {
        "x_scale": np.array(0.002, np.float16),
        "w_scale": np.array(0.00002, np.float16),
        "y_scale": np.array(0.001, np.float16),
        "bias": (0.02 * random.normal(size=4)).astype(np.float16),
        "w_int8": random.integers(-90, 90, size=(4, 4, 3, 3)).astype(np.int8),
    }
    path = models.write_onnx(tmp_path / "half.onnx", CONV, **weights)
    if request.param == "constant nodes":
        model = onnx.load(path)
        values = [each for each in model.graph.initializer if each.name in weights]
        nodes = [onnx.helper.make_node("Constant", [], [value.name], value=value) for value in values]
        nodes += model.graph.node
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.int8), "zero"))
        onnx.save(model, path)
    return path


def test_scales_in_fp16_are_seen(half):
    assert has_half_scales(half)


@pytest.mark.parametrize("relu", [False, True])
def test_scales_in_fp32_are_not(models, tmp_path, relu):
    assert not has_half_scales(models.quantized(tmp_path / "m.onnx", symmetric=True, relu=relu))


def test_fp16_elsewhere_than_in_a_scale_is_not(models, tmp_path):
    path = models.quantized(tmp_path / "m.onnx", symmetric=True)
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float16), "other"))
    onnx.save(model, path)
    assert not has_half_scales(path)
    assert not has_half_scales(models.conv_attention(tmp_path / "half.onnx", "float16"))


@pytest.mark.parametrize("data", [b"", b"DequantizeLinear", b"\x3a\x80", b"\x3a\x12\x0a\x10DequantizeLinear", b"\x0f"])
def test_what_is_no_onnx_has_none(tmp_path, data):
    path = tmp_path / "m.onnx"
    path.write_bytes(data + b"DequantizeLinear" if data else data)
    assert not has_half_scales(path)


def test_a_file_cut_off_is_read_to_its_end_only(half):
    whole = half.read_bytes()
    for end in range(0, len(whole), 7):
        half.write_bytes(whole[:end])
        has_half_scales(half)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_biases_keep_their_values_whoever_loads_the_file(needs, models, half, precision):
    feed = {"image": np.full((1, 4, 8, 8), 0.1, np.float16)}
    with needs("onnxruntime").load(half, SessionSettings(precision=precision)) as session:
        found = session.run(feed)["logits"]
    wanted = models.reference(half, feed)["logits"]
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
