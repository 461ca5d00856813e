"""A module in PyTorch as a serialized ONNX graph, by tracing or by the dynamo exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx
import onnx_ir as ir
import torch

from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import StageError
from mscsa_deploy.export.boundary import CHILD
from mscsa_deploy.export.numeric import distance, run_graph
from mscsa_deploy.graphs.check import to_bytes
from mscsa_deploy.graphs.metadata import strip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from mscsa_deploy.export.recipe import Batch

Method = Literal["trace", "dynamo"]
INPUT_NAME = "image"
# What torch 2.13's tracing exporter can write.
NEWEST_TRACED_OPSET = 20
# How far a graph may be from PyTorch before the other exporter is tried: as a share of the outputs' range, or
# for class maps the share of other classes. A wrong graph is off by far more; rounding in an untrained network
# reaches a tenth of it. What may be shipped is decided later, on real images and more strictly.
MAX_TRACE_ERROR = 1e-3


@dataclass(frozen=True, slots=True)
class TracedGraph:
    """A graph that agrees with PyTorch.

    Args:
        model: The serialized ONNX graph.
        method: The exporter that made it.
        notes: What went wrong with an exporter tried before.
    """

    model: bytes
    method: Method
    notes: tuple[str, ...] = ()


def best_graph(
    module: nn.Module, *, name: str, size: tuple[int, int], batch: Batch, output_name: str, opset: int
) -> TracedGraph:
    """The graph of `module` by tracing; by the dynamo exporter if tracing fails or gives other numbers.

    Args:
        module: Takes one (N, 3, H, W) float32 tensor; its mode is left as it was.
        name: Names the model in errors.
        size: Input (height, width) in pixels.
        batch: A fixed batch or ``"dynamic"``.
        output_name: Name of the output.
        opset: Version of ai.onnx.

    Raises:
        StageError: No exporter made a graph that agrees with PyTorch; the reasons are given.
    """
    methods: tuple[Method, ...] = ("trace", "dynamo") if opset <= NEWEST_TRACED_OPSET else ("dynamo",)
    shape = (2 if batch == "dynamic" else batch, 3, *size)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    problems: list[str] = []
    with evaluation(module), torch.no_grad():
        expected = module(image).numpy()
        output = TensorSpec(output_name, expected.dtype.name, expected.shape)
        for method in methods:
            try:
                graph = to_graph(
                    module, image, method=method, dynamic_batch=batch == "dynamic", opset=opset, output=output
                )
                gap = distance(expected, run_graph(graph, [{INPUT_NAME: image.numpy()}])[0][0])
            except StageError as error:
                problems.append(f"{method}: {error.reason}")
                continue
            if gap <= MAX_TRACE_ERROR:
                return TracedGraph(graph, method, tuple(f"not by {problem}" for problem in problems))
            problems.append(f"{method}: its outputs differ from PyTorch's by {gap:.2e} of their range")
    raise StageError("export", name, "; ".join(problems))


@contextlib.contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; every submodule's own mode is restored after it."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, training in modes.items():
            each.training = training


def to_graph(
    module: nn.Module, image: Tensor, *, method: Method, output: TensorSpec, dynamic_batch: bool, opset: int
) -> bytes:
    """The serialized ONNX graph of `module`: one input ``image``, one output, nothing about this machine.

    Args:
        module: In evaluation mode; takes one (N, 3, H, W) float32 tensor.
        image: An example of it.
        method: Tracing, or the newer exporter.
        output: What the module gives for `image`, under the name it shall have.
        dynamic_batch: Whether the first axis stays free.
        opset: Version of ai.onnx.

    Raises:
        StageError: The exporter failed.
    """
    settings: dict[str, Any] = {
        "dynamo": method == "dynamo",
        "opset_version": opset,
        "input_names": [INPUT_NAME],
        "output_names": [output.name],
    }
    if method == "dynamo":
        settings["external_data"] = False
        settings["dynamic_shapes"] = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    elif dynamic_batch:
        settings["dynamic_axes"] = {INPUT_NAME: {0: "batch"}, output.name: {0: "batch"}}
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder, _quiet(), torch.no_grad():
        path = Path(folder, "model.onnx")
        try:
            torch.onnx.export(module, (image,), path, **settings)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise StageError(method, type(module).__name__, reason) from error
        model = ir.from_proto(onnx.load(path))
    strip(model)
    # Tracing with a free batch leaves the other sizes of the output open as well.
    (value,) = model.graph.outputs
    value.shape = ir.Shape(["batch" if dynamic_batch else output.shape[0], *output.shape[1:]])
    _drop_wrapper_names(model)
    _name_weights(model)
    return to_bytes(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' advice off stdout, out of the warnings and out of the log.

    They warn that tracing is the older way and that Python numbers become constants: both are meant here.
    """
    chatty = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in chatty]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined] # not in __all__
        for each in chatty:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(chatty, levels, strict=True):
                each.setLevel(level)


def _drop_wrapper_names(model: ir.Model) -> None:
    """Give nodes and weights the names they have without a boundary wrapper around the model."""
    weights = {name: value for name, value in model.graph.initializers.items() if name.startswith(f"{CHILD}.")}
    ir.convenience.rename_values(list(weights.values()), [name.removeprefix(f"{CHILD}.") for name in weights])
    for node in model.graph:
        if node.name:
            node.name = node.name.replace(f"/{CHILD}/", "/", 1)
        for value in node.outputs:
            if value.name and f"/{CHILD}/" in value.name:
                value.name = value.name.replace(f"/{CHILD}/", "/", 1)


def _name_weights(model: ir.Model) -> None:
    """Call weights that the exporter numbered (folded or transposed ones) after the first node that reads them."""
    taken = set(model.graph.initializers)
    for node in model.graph:
        for index, value in enumerate(node.inputs):
            if value is None or not value.is_initializer() or not (value.name or "").startswith("onnx::"):
                continue
            name = f"{node.name}.{_INPUTS.get(index, f'input{index}')}"
            if name not in taken:
                taken.add(name)
                ir.convenience.rename_values(value, name)


_INPUTS = {1: "weight", 2: "bias"}
