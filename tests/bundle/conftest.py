"""A tiny segmentation bundle, real enough to run: class = the strongest color channel."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.bundle.golden import GoldenTolerance, write_golden
from mscsa_deploy.bundle.manifest import (
    ArtifactEntry,
    BundleModel,
    Choice,
    Manifest,
    Measurement,
    Postprocess,
    Tensor,
)
from mscsa_deploy.bundle.store import write_bundle
from mscsa_deploy.core.report import Latency
from mscsa_deploy.imaging.preprocess import Preprocess, preprocess

SIZE, STRIDE = 64, 8


def color_network(path, *, task="seg"):
    """Logits are the mean of each color channel over 8x8 pixels (seg) or over the picture (cls)."""
    import onnx
    from onnx import TensorProto, helper

    cell = STRIDE if task == "seg" else SIZE
    shape = [1, 3, SIZE // STRIDE, SIZE // STRIDE] if task == "seg" else [1, 3]
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[cell] * 2, strides=[cell] * 2),
        helper.make_node("Identity" if task == "seg" else "Flatten", ["pooled"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def picture_bytes(image, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def scene(height=96, width=160):
    """Left third red, middle green, right blue."""
    image = np.zeros((height, width, 3), np.uint8)
    for channel, part in enumerate(np.array_split(np.arange(width), 3)):
        image[:, part, channel] = 255
    return image


def latency(p50):
    return Latency(min=p50, mean=p50, p50=p50, samples=100, cv=0.01, ci95=(p50, p50))


def entry(path, *, runtimes, precision="fp32", measurements=(), requires=(), kind="onnx", task="seg"):
    shape = (1, 3, SIZE // STRIDE, SIZE // STRIDE) if task == "seg" else (1, 3)
    return ArtifactEntry(
        path=path,
        kind=kind,
        precision=precision,
        runtimes=runtimes,
        requires=requires,
        inputs=(Tensor(name="image", dtype="float32", shape=(1, 3, SIZE, SIZE)),),
        outputs=(Tensor(name="logits", dtype="float32", shape=shape),),
        postprocess=Postprocess.of(task, "logits", tensor="logits", stride=STRIDE if task == "seg" else 1),
        measurements=measurements,
    )


def measurement(runtime, p50, *, precision="fp32", **more):
    return Measurement(runtime=runtime, precision=precision, status="ok", latency_ms=latency(p50), **more)


def manifest_of(artifacts, *, task="seg", **more):
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Manifest(
        model=BundleModel(name="colors"),
        task=task,
        labels=("red", "green", "blue"),
        palette=((255, 0, 0), (0, 255, 0), (0, 0, 255)),
        input=Tensor(name="image", dtype="float32", shape=(1, 3, SIZE, SIZE)),
        preprocess=Preprocess(height=SIZE, width=SIZE, mean=mean, std=std),
        artifacts=tuple(artifacts),
        license="CC0-1.0",
        **more,
    )


def make_bundle(directory, *, task="seg"):
    directory.mkdir()
    color_network(directory / "model.onnx", task=task)
    image = scene()
    spec = manifest_of([], task=task).preprocess
    tensor = preprocess(image, spec)
    size = SIZE // STRIDE
    pooled = tensor.reshape(1, 3, size, STRIDE, size, STRIDE).mean((3, 5)) if task == "seg" else tensor.mean((2, 3))
    golden = write_golden(
        directory,
        picture=picture_bytes(image),
        suffix=".png",
        tensor=tensor,
        output=pooled.astype(np.float32),
        tolerance={
            "fp32": GoldenTolerance(max_abs_over_range=1e-4, argmax_agreement=99.9, why="sums in another order")
        },
    )
    artifact = entry(
        "model.onnx",
        runtimes=("onnxruntime", "openvino"),
        task=task,
        measurements=(measurement("onnxruntime", 2.0), measurement("openvino", 1.0)),
    )
    choice = Choice(artifact="model.onnx", runtime="onnxruntime", precision="fp32", threads=1)
    return write_bundle(directory, manifest_of([artifact], task=task, golden=golden, recommended=choice))


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def tiny():
    """What bundles are made of, for tests that need another one."""
    makers = (make_bundle, entry, measurement, manifest_of, color_network, scene, picture_bytes)
    return SimpleNamespace(**{maker.__name__: maker for maker in makers})


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request):
    pytest.importorskip(request.param)
    return request.param
