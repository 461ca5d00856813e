"""Pictures as the input: uint8 pixels in, normalization inside the graph.

The exported model takes ``(pixel / 255 - mean) / std`` per channel, (N, 3, H, W) float32. Here its input
becomes the pixels themselves, (N, H, W, 3) uint8 as decoders deliver them: a quarter of the bytes and no copy
outside the graph. With ``s = 1 / (255 std)`` and ``t = -mean / std`` the model saw ``s * pixel + t``:

- a first convolution without padding takes both: ``W' = W diag(s)``, ``b' = b + W t``;
- a zero-padded one takes only the scale, ``W' = W diag(s)``. A zero of the padding stands for the mean color,
  so the mean stays a subtraction in front, ``pixel - 255 mean``, and the padding stays zero;
- where something else reads the input, the normalization is a subtraction and a multiplication.

Exact in real arithmetic; in float32 the weights are rounded once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mscsa_deploy.errors import UserError
from mscsa_deploy.graphs.build import Builder
from mscsa_deploy.graphs.match import conv_pads, dims, set_weights, weights

if TYPE_CHECKING:
    from collections.abc import Sequence


def take_pixels(model: ir.Model, mean: Sequence[float], std: Sequence[float]) -> None:
    """Replace the only input, (N, 3, H, W) float32 normalized, by (N, H, W, 3) uint8 of the same name.

    Args:
        model: Changed in place.
        mean: Per channel, on the 0..1 scale, as the model was trained.
        std: Likewise.

    Raises:
        UserError: The model has another input, or takes pixels already.
    """
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    shape = dims(inputs[0]) if len(inputs) == 1 else None
    if shape is None or len(shape) != 4 or shape[1] != len(mean) or inputs[0].dtype != ir.DataType.FLOAT:
        found = [f"{value.name} {value.dtype} {dims(value)}" for value in inputs]
        raise UserError(f"the model takes {found}, expected one float32 input (N, {len(mean)}, H, W)")
    image = inputs[0]
    assert image.shape is not None
    readers = [(use.node, use.idx) for use in image.uses()]
    pixels = ir.Value(
        name=image.name,
        type=ir.TensorType(ir.DataType.UINT8),
        shape=ir.Shape([image.shape[0], *image.shape[2:], image.shape[1]]),
    )
    model.graph.inputs[list(model.graph.inputs).index(image)] = pixels
    image.name = None
    b = Builder(model.graph, "pixels").at(next(iter(model.graph)))
    planes = b.op("Cast", b.op("Transpose", pixels, perm=[0, 3, 1, 2]), to=int(ir.DataType.FLOAT))
    normal = _normalized(b, planes, readers, np.asarray(mean, np.float64), np.asarray(std, np.float64))
    normal.type, normal.shape = image.type, image.shape
    for node, index in readers:
        node.replace_input_with(index, normal)


def _normalized(
    b: Builder,
    planes: ir.Value,
    readers: list[tuple[ir.Node, int]],
    mean: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    std: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> ir.Value:
    """What the readers read instead, after their weights took what they can."""
    scale, shift = 1 / (255 * std), -mean / std
    across = (1, -1, 1, 1)
    held = [weights(node) if index == 0 and node.op_type == "Conv" else None for node, index in readers]
    if any(each is None or each[0].shape[1] != len(mean) for each in held):
        centered = b.op("Sub", planes, (255 * mean).reshape(across).astype(np.float32))
        return b.op("Mul", centered, scale.reshape(across).astype(np.float32))
    padded = any(any(conv_pads(node) or (1,)) for node, _ in readers)
    for (node, _), each in zip(readers, held, strict=True):
        assert each is not None
        weight, bias = (array.astype(np.float64) for array in each)
        extra = 0.0 if padded else (weight.sum(axis=(2, 3)) * shift).sum(axis=1)
        set_weights(node, weight * scale.reshape(across), bias + extra, b)
    return b.op("Sub", planes, (255 * mean).reshape(across).astype(np.float32)) if padded else planes
