"""Small graphs with fixed weights, and samples for them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from mscsa_deploy.calibration.recipe import CalibrationRecipe
from mscsa_deploy.calibration.samples import from_arrays

# A stem, a depthwise and a pointwise convolution with a residual, pooling, a gate, and a classifier per pixel.
NET = """<ir_version: 9, opset_import: ["" : {opset}]>
net (float[{batch},3,32,32] image) => (float[{batch},4,8,8] logits) {{
  [stem] a = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(image, w0, b0)
  [stem_relu] b = Relu(a)
  [depthwise] c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=8>(b, w1, b1)
  [swish] d = HardSwish(c)
  [pointwise] e = Conv<kernel_shape=[1,1]>(d, w2, b2)
  [residual] f = Add(e, b)
  [pool] p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(f)
  [gate] q = Conv<kernel_shape=[1,1]>(p, w3, b3)
  [gate_sigmoid] h = HardSigmoid(q)
  [gated] r = Mul(p, h)
  [classifier] logits = Conv<kernel_shape=[1,1]>(r, w4, b4)
}}"""
SHAPES = ((8, 3, 3, 3), (8, 1, 3, 3), (8, 8, 1, 1), (8, 8, 1, 1), (4, 8, 1, 1))


def net(*, opset=18, batch="1", metadata=(("mscsa_deploy.name", "net"),)) -> onnx.ModelProto:
    """The small network, weights drawn from seed 0."""
    generator = np.random.default_rng(0)
    model = parser.parse_model(NET.format(opset=opset, batch=batch))
    for index, shape in enumerate(SHAPES):
        weight = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), f"w{index}"))
        bias = 0.1 * generator.standard_normal(shape[0])
        model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), f"b{index}"))
    for key, value in metadata:
        model.metadata_props.add(key=key, value=value)
    return model


def pictures(count=6, *, seed=1, name="pictures"):
    """Smooth random pictures, like photographs in that neighbors are alike."""
    generator = np.random.default_rng(seed)
    coarse = generator.standard_normal((count, 1, 3, 8, 8)).astype(np.float32)
    arrays = [np.kron(picture, np.ones((1, 1, 4, 4), np.float32)) for picture in coarse]
    return from_arrays(name, arrays, input_name="image")


def loud(samples, index):
    """The same samples, but one of them so large that sums of it overflow float32."""

    def feed(each):
        return {"image": samples.feed(each)["image"] * np.float32(8e37 if each == index else 1)}

    return type(samples)("loud", feed, samples.indices, samples.content)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Every test calibrates into a cache of its own."""
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def net_file(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(net(), str(path))
    return path


@pytest.fixture
def samples():
    return pictures()


def recipe(**changes) -> CalibrationRecipe:
    """A plain ONNX Runtime recipe with some keys changed."""
    return CalibrationRecipe(**{"name": "test", "engine": "onnxruntime", "runtime": "onnxruntime", **changes})


TENSORRT = {
    "runtime": "tensorrt",
    "activations": "int8",
    "symmetric_activations": True,
    "quantize_bias": False,
    "pair_on_weights": True,
    "dedicated_pairs": True,
    "op_types": ("Conv", "Gemm", "MatMul"),
}
