"""The table of tail forms, and appending one to a graph of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mscsa_deploy.errors import UnsupportedError, UserError, unknown_name
from mscsa_deploy.graphs.build import Builder
from mscsa_deploy.graphs.opset import opset_of
from mscsa_deploy.graphs.tail import cells, pruned, static
from mscsa_deploy.graphs.tail.grid import TailShape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Build = Callable[[Builder, ir.Value, TailShape, int], ir.Value]

CLASSMAP = "classmap"
PREFIX = "tail"


@dataclass(frozen=True, slots=True)
class TailForm:
    """One way to turn logits into a class map.

    Args:
        build: Adds the nodes; arguments are builder, logits, shape and the output's ONNX element type.
        static_shapes: Whether no shape inside depends on the values; TensorRT takes only such forms.
        dynamic_batch: Whether the batch may be a free axis.
        oldest_opset: The first version of ai.onnx that has its operators.
    """

    build: Build
    static_shapes: bool
    dynamic_batch: bool
    oldest_opset: int = 13


REFERENCE_FORM = "plain"
TAIL_FORMS: Mapping[str, TailForm] = {
    "plain": TailForm(static.plain, static_shapes=True, dynamic_batch=True),
    "channels_last": TailForm(static.channels_last, static_shapes=True, dynamic_batch=True),
    "strips": TailForm(static.strips, static_shapes=True, dynamic_batch=True),
    "strips_first": TailForm(static.strips_first, static_shapes=True, dynamic_batch=True),
    "pruned": TailForm(pruned.pruned, static_shapes=False, dynamic_batch=True, oldest_opset=18),
    "pruned_channels_last": TailForm(
        pruned.pruned_channels_last, static_shapes=False, dynamic_batch=True, oldest_opset=18
    ),
    "cells": TailForm(cells.cells, static_shapes=False, dynamic_batch=False, oldest_opset=18),
}

# The fastest on every CPU measured (benchmarks/results/tails__*.json); a device profile may know better.
DEFAULT_FORMS: Mapping[str, str] = {
    "onnxruntime": "cells",
    "openvino": "cells",
    "tensorrt": REFERENCE_FORM,
    "pytorch": REFERENCE_FORM,
}


# Where the runtime is not known, and the best form that fits every batch and opset.
PORTABLE_FORM, STATIC_FORM = "cells", "strips_first"


def forms_for(*, static_shapes: bool, dynamic_batch: bool, opset: int = 18) -> tuple[str, ...]:
    """Names of the forms that fit a runtime that needs `static_shapes`, a `dynamic_batch` and an `opset`."""
    return tuple(
        name
        for name, form in TAIL_FORMS.items()
        if (form.static_shapes or not static_shapes)
        and (form.dynamic_batch or not dynamic_batch)
        and form.oldest_opset <= opset
    )


def default_form(runtime: str | None, *, dynamic_batch: bool, opset: int = 18) -> str:
    """The form to take without measuring.

    Args:
        runtime: What is to run it; None if that is not known.
        dynamic_batch: Whether the batch is a free axis.
        opset: Version of ai.onnx in the file.
    """
    wanted = DEFAULT_FORMS[runtime] if runtime else PORTABLE_FORM
    return wanted if wanted in forms_for(static_shapes=False, dynamic_batch=dynamic_batch, opset=opset) else STATIC_FORM


def cut_tail(model: ir.Model) -> bool:
    """Take the tail that `append_tail` added off again, in place; whether there was one."""
    tail = [node for node in model.graph if (node.name or "").startswith(f"{PREFIX}_")]
    made = {value for node in tail for value in node.outputs}
    read = {value for node in tail for value in node.inputs if value is not None and value.producer() is not None}
    logits = read - made
    if len(logits) != 1:
        return False
    model.graph.outputs[0] = logits.pop()
    # Branches of an If read values of the graph around them, which would keep those alive.
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if (node.name or "").startswith(PREFIX):
            for place in range(len(node.inputs)):
                node.replace_input_with(place, None)
    model.graph.remove(tail)
    RemoveUnusedNodesPass()(model)
    return True


def append_tail(model: ir.Model, form: str, size: tuple[int, int]) -> None:
    """Replace the output ``logits`` (N, C, h, w) by ``classmap`` (N, H, W), in place.

    Args:
        model: Its only output is float32 logits with static C, h and w.
        form: A name of `TAIL_FORMS`.
        size: H and W; one whole multiple of h and w.

    The class map is uint8, or uint16 past 256 classes.

    Raises:
        UserError: Unknown form, or the output, the size or the opset does not fit.
        UnsupportedError: The batch is dynamic and the form needs a fixed one.
    """
    if form not in TAIL_FORMS:
        raise unknown_name("tail form", form, TAIL_FORMS)
    if opset_of(model) < (oldest := TAIL_FORMS[form].oldest_opset):
        raise UserError(
            f"tail form '{form}' needs opset {oldest}, the model has {opset_of(model)}",
            hint=f"export with --opset {oldest}, or take tail form '{STATIC_FORM}'",
        )
    if len(model.graph.outputs) != 1:
        raise UserError(f"the graph has {len(model.graph.outputs)} outputs, expected one: logits")
    logits = model.graph.outputs[0]
    dims = tuple(size if isinstance(size, int) else -1 for size in logits.shape or ())
    if len(dims) != 4 or -1 in dims[1:]:
        raise UserError(f"output '{logits.name}' has shape {list(dims)}, expected (N, C, h, w), static but N")
    shape = TailShape.between(dims, size)
    if shape.batch == -1 and not TAIL_FORMS[form].dynamic_batch:
        raise UnsupportedError(f"tail form '{form}' needs a fixed batch", hint="export with --batch N")
    element = ir.DataType.UINT8 if shape.classes <= 256 else ir.DataType.UINT16
    result = TAIL_FORMS[form].build(Builder(model.graph, PREFIX), logits, shape, int(element))
    result.name = CLASSMAP
    result.type = ir.TensorType(element)
    assert logits.shape is not None
    result.shape = ir.Shape([logits.shape[0], *shape.size])
    model.graph.outputs[0] = result
