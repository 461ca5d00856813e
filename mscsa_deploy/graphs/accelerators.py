"""Operators that phones' accelerators lack, written with operators they have.

ONNX Runtime hands NNAPI and Core ML what they know. Every other node is the processor's, and cuts the network into
pieces between which data is copied, which costs more than an accelerator saves. In real arithmetic all of these are
exact; only the last is so in float32 too, bit by bit:

- ``HardSigmoid(x) = clip(alpha x + beta, 0, 1)``. Behind a convolution ``W v + c`` that nothing else reads, the
  convolution becomes ``(alpha W) v + (alpha c + beta)`` and only Clip is left; elsewhere Mul, Add, Clip.
- ``HardSwish(x) = x clip(x + 3, 0, 6) / 6``: Add, Clip, Mul, Mul. The bounds are those of ReLU6, which accelerators
  know best.
- ``BatchNormalization(x) = s x + t`` per channel: Mul, Add. The ML programs of Core ML lack it.
- Resize to constant sizes of an input whose size is known: by scales instead, where these make the same sizes, and with
  the whole input as the region of interest, which is not read. ONNX Runtime's usability checker takes every input that
  is left out, or is empty, for one of dynamic shape. Resize divides the sizes to get these scales, so nothing changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mscsa_deploy.graphs.build import scalar
from mscsa_deploy.graphs.fold_batch_norm import batch_norm
from mscsa_deploy.graphs.match import (
    LocalPass,
    constant,
    dims,
    only_feeds,
    output,
    producer,
    replace,
    set_weights,
    source,
    weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mscsa_deploy.core.tensors import Array
    from mscsa_deploy.graphs.build import Builder

OLDEST_OPSET = 11
"""Since when Clip takes its bounds, and Resize its region of interest, as inputs."""


class ForAccelerators(LocalPass):
    """Rewrites the operators of `_RULES` with others."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite where the opset has what is put in."""
        if model.opset_imports.get("", 0) < OLDEST_OPSET:
            return ir.passes.PassResult(model, modified=False)
        return super().call(model)

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Rewrite `node` if there is a rule for it, and it can."""
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        return rule is not None and rule(node, b)


def _hard_sigmoid(node: ir.Node, b: Builder) -> bool:
    x, kind = source(node), _kind(source(node))
    if kind is None:
        return False
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    before = producer(x, "Conv")
    held = weights(before) if before is not None and only_feeds(x, node) else None
    if before is not None and held is not None:
        weight, bias = (array.astype(np.float64) for array in held)
        set_weights(before, weight * alpha, bias * alpha + beta, b.at(before))
        b.at(node)
    else:
        x = b.op("Add", b.op("Mul", x, scalar(alpha, kind)), scalar(beta, kind))
    replace(output(node), b.op("Clip", x, scalar(0, kind), scalar(1, kind)))
    return True


def _hard_swish(node: ir.Node, b: Builder) -> bool:
    x, kind = source(node), _kind(source(node))
    if kind is None:
        return False
    gate = b.op("Clip", b.op("Add", x, scalar(3, kind)), scalar(0, kind), scalar(6, kind))
    replace(output(node), b.op("Mul", b.op("Mul", x, gate), scalar(1 / 6, kind)))
    return True


def _batch_norm(node: ir.Node, b: Builder) -> bool:
    x, affine = source(node), batch_norm(node)
    kind, shape = _kind(x), dims(x)
    if affine is None or kind is None or shape is None:
        return False
    per_channel = (-1, *[1] * (len(shape) - 2))
    scale, shift = (array.reshape(per_channel).astype(kind) for array in (affine.scale, affine.shift))
    replace(output(node), b.op("Add", b.op("Mul", x, scale), shift))
    return True


def _resize(node: ir.Node, b: Builder) -> bool:
    crops = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    shape = dims(source(node))
    if len(node.inputs) < 3 or crops or shape is None:
        return False
    no_region, by_scales = _size(node.inputs[1]) == 0, _size(node.inputs[2]) != 0
    scales = None if by_scales else _scales(node, shape)
    if not no_region if by_scales else scales is None:
        return False
    if scales is not None:
        node.replace_input_with(2, b.constant(scales))
        node.resize_inputs(3)
    if no_region:
        node.replace_input_with(1, b.constant(np.repeat(np.array([0, 1], np.float32), len(shape))))
    return True


def _scales(node: ir.Node, shape: tuple[int, ...]) -> Array | None:
    """The scales of a Resize that is told sizes, if they make these sizes in float32 and in float64."""
    sizes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    # Axes may be a part of the input's, and a policy may choose other sizes than those asked for.
    as_asked = node.attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
    if sizes is None or min(shape) < 1 or "axes" in node.attributes or not as_asked:
        return None
    scales: Array = sizes.astype(np.float32) / np.array(shape, np.float32)
    made = (np.floor(scales.astype(kind) * np.array(shape, kind)) for kind in (np.float32, np.float64))
    return scales if all(np.array_equal(each, sizes) for each in made) else None


def _size(value: ir.Value | None) -> int | None:
    """How many numbers a constant has, 0 for an input that is left out; None if it is not constant."""
    array = constant(value)
    return 0 if value is None else None if array is None else array.size


def _kind(value: ir.Value) -> type[np.generic] | None:
    """The NumPy type of a floating-point value."""
    return value.dtype.numpy().type if value.dtype is not None and value.dtype.is_floating_point() else None


_RULES: Mapping[str, Callable[[ir.Node, Builder], bool]] = {
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "BatchNormalization": _batch_norm,
    "Resize": _resize,
}
