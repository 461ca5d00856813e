"""Small models in every kind of file, and the rule that a runtime CI counts on may not be skipped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mscsa_deploy.core.tensors import Array
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.runtimes.protocol import SessionSettings

REQUIRED = "MSCSA_DEPLOY_REQUIRE"

CONV_ATTENTION = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[1,3,32,32] image) => (float[1,8,16,16] logits)
<int64[3] tokens = {1, 8, 256}, int64[4] grid = {1, 8, 16, 16}>
{
    conv = Conv <pads = [1,1,1,1], strides = [2,2]> (image, w_stem, b_stem)
    stem = Relu (conv)
    deep = Conv <pads = [1,1,1,1], group = 8> (stem, w_deep)
    act = HardSwish (deep)
    q = Conv (act, w_q)
    k = Conv (act, w_k)
    v = Conv (act, w_v)
    q3 = Reshape (q, tokens)
    k3 = Reshape (k, tokens)
    v3 = Reshape (v, tokens)
    qt = Transpose <perm = [0,2,1]> (q3)
    scores = MatMul (qt, k3)
    scaled = Mul (scores, scale)
    weights = Softmax <axis = -1> (scaled)
    wt = Transpose <perm = [0,2,1]> (weights)
    mixed = MatMul (v3, wt)
    back = Reshape (mixed, grid)
    logits = Add (back, stem)
}
"""

# Opset 19 is the oldest in which onnx's reference evaluator knows DequantizeLinear.
QUANTIZED = """
<ir_version: 9, opset_import: ["" : 19]>
g (float[1,3,32,32] image) => (float[1,16,32,32] logits)
<float in_scale = {0.04}, %(kind)s in_zero = {%(zero)s}, float out_scale = {0.05}, %(kind)s out_zero = {%(zero)s},
 int8 w_zero = {0}, float w_scale = {0.01}>
{
    q = QuantizeLinear (image, in_scale, in_zero)
    x = DequantizeLinear (q, in_scale, in_zero)
    w = DequantizeLinear (w_int8, w_scale, w_zero)
    conv = Conv <pads = [1,1,1,1]> (x, w)
    %(act)s
    qr = QuantizeLinear (act, out_scale, out_zero)
    logits = DequantizeLinear (qr, out_scale, out_zero)
}
"""


@dataclass(frozen=True)
class Case:
    """A model file, a feed for it, and what must come out in exact arithmetic."""

    path: Path
    feed: dict[str, Array]
    expected: dict[str, Array]


def image(size: int = 32, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(1, 3, size, size)).astype(np.float32)


def write_onnx(path: Path, text: str, **weights: Array) -> Path:
    import onnx

    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def conv_attention(path: Path, dtype: str = "float32") -> Path:
    """Convolution, depthwise convolution, hard swish and attention; `dtype` float16 keeps float32 inputs."""
    random = np.random.default_rng(7)
    shapes = {"w_stem": (8, 3, 3, 3), "w_deep": (8, 1, 3, 3), **dict.fromkeys(("w_q", "w_k", "w_v"), (8, 8, 1, 1))}
    weights = {name: (0.4 * random.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    weights["b_stem"] = random.normal(size=8).astype(np.float32)
    weights["scale"] = np.array(0.35, np.float32)
    text = CONV_ATTENTION
    if dtype == "float16":
        weights = {name: value.astype(np.float16) for name, value in weights.items()}
        text = text.replace("(image, w_stem", "(half, w_stem")
        text = text.replace("    conv = Conv", "    half = Cast <to = 10> (image)\n    conv = Conv", 1)
        text = text.replace("logits = Add (back, stem)", "low = Add (back, stem)\n    logits = Cast <to = 1> (low)")
    return write_onnx(path, text, **weights)


def quantized(path: Path, *, symmetric: bool, relu: bool = False) -> Path:
    """One quantized convolution: unsigned activations as CPUs like them, or symmetric as TensorRT wants.

    With `relu`, ONNX Runtime cannot fuse it: the zero point lies above the smallest 8-bit value.
    """
    kinds = {"kind": "int8", "zero": 0} if symmetric else {"kind": "uint8", "zero": 100}
    kinds["act"] = "act = Relu (conv)" if relu else "act = Identity (conv)"
    weights = np.random.default_rng(3).integers(-90, 90, size=(16, 3, 3, 3)).astype(np.int8)
    return write_onnx(path, QUANTIZED % kinds, w_int8=weights)


def reference(path: Path, feed: dict[str, Array]) -> dict[str, Array]:
    """The answer of onnx's own reference evaluator, which shares no code with any runtime."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return dict(zip(evaluator.output_names, evaluator.run(None, feed), strict=True))


def torch_case(folder: Path) -> Case:
    """A zoo model with random weights, judged by itself in float64."""
    import torch

    from mscsa_deploy.models.checkpoint import model_metadata, save_checkpoint
    from mscsa_deploy.models.spec import ModelOptions, build_model

    torch.manual_seed(0)
    options = ModelOptions(num_classes=8)
    model = build_model("topformer_t_mscsa", "cls", options).eval()
    path = folder / "model.safetensors"
    facts = {**model_metadata("topformer_t_mscsa", "cls", options), "mscsa_deploy.input_size": "64x64"}
    save_checkpoint(path, model, facts)
    feed = {"image": image(64)}
    with torch.inference_mode():
        exact = model.double()(torch.from_numpy(feed["image"]).double()).numpy()
    return Case(path, feed, {"logits": exact})


def case_for(name: str, folder: Path) -> Case:
    """The conformance model in the kind of file that the runtime called `name` loads."""
    if name == "pytorch":
        return torch_case(folder)
    path = conv_attention(folder / "model.onnx")
    feed = {"image": image()}
    expected = reference(path, feed)
    if name == "fake":
        expected = {"logits": np.resize(feed["image"], (1, 8, 16, 16))}
    if name == "tensorrt":
        from mscsa_deploy.runtimes.tensorrt_build import build_engine

        path = build_engine(path, folder / "model.engine").path
    return Case(path, feed, expected)


def custom(path):
    """A model with an operator that no runtime has."""
    import onnx

    text = '<ir_version: 8, opset_import: ["" : 18, "foo" : 1]> g (float[2] x) => (float[2] y) { y = foo.Bar(x) }'
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def skip_unless(name: str, *, available: bool, reason: str) -> None:
    """Skip the test with `reason`, or fail it if MSCSA_DEPLOY_REQUIRE counts on `name`."""
    if available:
        return
    if name in os.environ.get(REQUIRED, "").split(","):
        pytest.fail(f"{REQUIRED} counts on {name}, which cannot run: {reason}")
    pytest.skip(f"{name}: {reason}")


@pytest.fixture(params=list(RUNTIMES))
def runtime(request):
    made = RUNTIMES.load(request.param)()
    can = made.probe()
    skip_unless(made.name, available=can.available, reason=can.reason)
    return made


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    made = {}

    def get(name: str) -> Case:
        if name not in made:
            made[name] = case_for(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture
def case(runtime, cases):
    return cases(runtime.name)


@pytest.fixture
def settings(runtime):
    return SessionSettings(device=runtime.probe().devices[0])


@pytest.fixture(scope="session")
def quantized_case(tmp_path_factory):
    path = quantized(tmp_path_factory.mktemp("int8") / "int8.onnx", symmetric=False)
    feed = {"image": image()}
    return Case(path, feed, reference(path, feed))


@pytest.fixture(scope="session")
def models():
    """The builders above, for test files."""
    return SimpleNamespace(
        conv_attention=conv_attention,
        custom=custom,
        quantized=quantized,
        write_onnx=write_onnx,
        reference=reference,
        image=image,
        skip_unless=skip_unless,
    )


@pytest.fixture
def needs(models):
    """``needs("openvino")`` is that runtime, or skips the test (fails it where CI counts on the runtime)."""

    def get(name: str):
        made = RUNTIMES.load(name)()
        can = made.probe()
        skip_unless(name, available=can.available, reason=can.reason)
        return made

    return get
