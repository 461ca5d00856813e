"""FP16 for what an INT8 file leaves float: TensorRT networks are strongly typed, so the file must say it."""

from __future__ import annotations

import onnx

from mscsa_deploy.calibration.source import HALF_SCALE_OPSET, opset_of
from mscsa_deploy.errors import StageError


def to_half_rest(model: onnx.ModelProto) -> onnx.ModelProto:
    """The Q/DQ model with float16 in place of float32; its inputs and outputs stay float32.

    Args:
        model: Opset 19 or later, since Q/DQ scales are float16 only from there.

    Raises:
        StageError: The opset is older, or the conversion failed.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if opset_of(model) < HALF_SCALE_OPSET:
        raise StageError("fp16", "the quantized graph", f"opset {opset_of(model)} has no float16 scales, 19 has")
    try:
        converted = convert_float_to_float16(model, keep_io_types=True, op_block_list=[])
    except (ValueError, RuntimeError) as error:
        raise StageError("fp16", "the quantized graph", str(error)) from error
    # The helper appends its input casts at the end of the node list.
    ordered = ONNXModel(converted)
    ordered.topological_sort()
    assert isinstance(ordered.model, onnx.ModelProto)
    return ordered.model
