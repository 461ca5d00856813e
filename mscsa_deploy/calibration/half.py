"""FP16 for what an INT8 file leaves float: TensorRT networks are strongly typed, so the file must say it."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from mscsa_deploy.calibration.source import HALF_SCALE_OPSET, opset_of
from mscsa_deploy.errors import StageError
from mscsa_deploy.graphs.half import ToHalf


def to_half_rest(model: onnx.ModelProto) -> onnx.ModelProto:
    """The Q/DQ model with float16 in place of float32; its inputs and outputs stay float32.

    Args:
        model: Opset 19 or later, since Q/DQ scales are float16 only from there.

    Raises:
        StageError: The opset is older, or nothing could be converted.
    """
    if opset_of(model) < HALF_SCALE_OPSET:
        raise StageError("fp16", "the quantized graph", f"opset {opset_of(model)} has no float16 scales")
    graph = ir.from_proto(model)
    if not ToHalf()(graph).modified:
        raise StageError("fp16", "the quantized graph", "it holds nothing that can be float16")
    return ir.to_proto(graph)
