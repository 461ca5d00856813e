"""A segmentation model file with a tail of a given form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import onnx
import onnx_ir as ir

from mscsa_deploy.core.files import output_file
from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.graphs.check import read_model, signature, to_bytes
from mscsa_deploy.graphs.metadata import info_of, set_info
from mscsa_deploy.graphs.tail.forms import append_tail

if TYPE_CHECKING:
    from pathlib import Path


def tail_bytes(logits: tuple[int, ...], form: str, size: tuple[int, int]) -> bytes:
    """The tail alone as an ONNX file: from ``logits`` of shape (N, C, h, w) to ``classmap`` (N, H, W).

    Args:
        logits: Shape of the logits.
        form: A name of `forms.TAIL_FORMS`.
        size: H and W.

    Raises:
        UserError: The form is unknown or does not fit the shape.
    """
    dims = ",".join("N" if side == -1 else str(side) for side in logits)
    text = f'<ir_version: 10, opset_import: ["" : 18]> tail (float[{dims}] x) => (float[{dims}] logits) '
    model = ir.from_proto(onnx.parser.parse_model(text + "{ logits = Identity(x) }"))
    append_tail(model, form, size)
    return to_bytes(model)


def write_with_tail(logits_model: Path, form: str, out: Path) -> None:
    """Write `logits_model` to `out` with ``classmap`` (N, H, W) at the input's size as its output.

    Args:
        logits_model: ONNX file from (N, 3, H, W) or pixels (N, H, W, 3) to logits (N, C, h, w).
        form: A name of `forms.TAIL_FORMS`.
        out: Replaced if it exists.

    Raises:
        UserError: The model is no segmenter, or the form is unknown or does not fit it.
        UnsupportedError: The batch is dynamic and the form needs a fixed one.
        StageError: The graph is not valid.
    """
    model = read_model(logits_model)
    image = signature(model)[0][0]
    if len(image.shape) != 4:
        raise UserError(f"'{logits_model}' takes {list(image.shape)}, expected pictures of four axes")
    pixels = image.dtype == "uint8"
    append_tail(model, form, (image.shape[1], image.shape[2]) if pixels else (image.shape[2], image.shape[3]))
    info = info_of(model, source=str(logits_model))
    if info is not None:
        set_info(model, msgspec.structs.replace(info, output="classmap", stride=1, tail=form))
    data = to_bytes(model)
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError("tail", form, f"the graph is not valid: {error}") from error
    with output_file(out, force=True) as work:
        work.write_bytes(data)
