from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

Make = Callable[..., ir.Model]
Run = Callable[[ir.Model], np.ndarray]


def make_model(text: str, opset: int = 18, **arrays: object) -> ir.Model:
    """ONNX text with `arrays` as initializers: an array, or a shape to draw normal numbers of."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
    for number, (name, value) in enumerate(arrays.items()):
        array = np.asarray(value) if not isinstance(value, tuple) else _drawn(name, value, number)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(proto)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def _drawn(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    numbers = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return np.abs(numbers) + np.float32(0.5) if name.startswith("var") else numbers


def _fixed(generator: np.random.Generator, shape: list[int | str]) -> np.ndarray:
    sizes = [size if isinstance(size, int) else 2 for size in shape]
    return generator.standard_normal(sizes).astype(np.float32)


def run_model(model: ir.Model) -> np.ndarray:
    """The first output on fixed random inputs, computed by ONNX Runtime without its own graph rewriting."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(7)
    feed = {each.name: _fixed(generator, each.shape) for each in session.get_inputs()}
    return session.run(None, feed)[0]


@pytest.fixture(name="make")
def make_fixture() -> Make:
    return make_model


@pytest.fixture(name="run")
def run_fixture() -> Run:
    return run_model
