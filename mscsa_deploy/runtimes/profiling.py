"""What the profiles of different runtimes have in common: which operators do arithmetic, and type names."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.core.tensors import Feed, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mscsa_deploy.runtimes.protocol import OpRow

_MOVES_DATA = frozenset(
    (  # noqa: SIM905 - sixty quoted names read worse
        "broadcast cast castlike concat const constant constantofshape convert dequantizelinear expand "
        "fakequantize flatten gather gathernd identity if input memcpyfromhost memcpytohost nonzero output pad "
        "parameter quantizelinear reorder reorderinput reorderoutput reshape result scatternd shape shapeof "
        "slice split splitv squeeze stridedslice tile transpose unsqueeze variadicsplit "
        "_reshape_alias _to_copy _unsafe_view alias arange as_strided cat clone constant_pad_nd copy copy_ "
        "contiguous detach empty lift_fresh permute resolve_conj resolve_neg select split_with_sizes stack t "
        "to unbind view zeros"
    ).split()
)
"""Lower-case names of operators that only move or convert values: ONNX's and the runtimes', then ATen's."""

ARITHMETIC_OPS = frozenset(
    {
        "Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "Convolution", "GroupConvolution", "ConvTranspose",
        "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat",
        "ConvInteger", "DynamicQuantizeMatMul", "FullyConnected", "Attention", "MultiHeadAttention", "QGemm",
        "conv2d", "convolution", "mkldnn_convolution", "addmm", "bmm", "mm", "linear",
    }
)  # fmt: skip
"""Ops whose arithmetic INT8 makes cheaper; the rest only moves and adjusts numbers."""

QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "FakeQuantize", "Quantize", "Dequantize"})
LAYOUT_OPS = frozenset({"Reorder", "ReorderInput", "ReorderOutput", "Transpose", "Convert", "Cast", "Permute"})

KINDS_OF_OP = (
    "convolution", "matrix product", "elementwise", "normalization, softmax", "pooling", "resize",
    "moving data", "quantize, dequantize", "other",
)  # fmt: skip
"""What `kind_of` tells apart, in the order in which reports show it."""

_KIND_BY_PART = (
    ("normalization, softmax", ("softmax", "norm", "mvn", "reducemean")),
    ("convolution", ("conv",)),
    ("matrix product", ("matmul", "gemm", "fullyconnected", "attention", "addmm", "bmm")),
    ("pooling", ("pool",)),
    ("resize", ("resize", "upsample", "interpolate")),
    (
        "elementwise",
        (
            "add", "sub", "mul", "div", "relu", "sigmoid", "swish", "gelu", "erf", "clip", "clamp", "hardtanh", "tanh",
            "subgraph", "eltwise", "math", "pow", "sqrt", "exp", "activation",
        ),
    ),
)  # fmt: skip
"""Kind of operator by a part of its lower-case name, the first that fits; spellings differ between runtimes."""

PRECISION_OF = MappingProxyType(
    {
        "float": "fp32",
        "float32": "fp32",
        "f32": "fp32",
        "float16": "fp16",
        "half": "fp16",
        "f16": "fp16",
        "bfloat16": "bf16",
        "bf16": "bf16",
        "int8": "int8",
        "i8": "int8",
        "uint8": "int8",
        "u8": "int8",
    }
)
"""Our name for an element type as a runtime spells it."""


def does_arithmetic(op: str) -> bool:
    """Whether an operator computes, rather than moving, reshaping or converting values."""
    return op.lower() not in _MOVES_DATA


def kind_of(op: str) -> str:
    """What sort of work an operator does, of `KINDS_OF_OP`, whichever runtime named it."""
    if op in QDQ_OPS:
        return "quantize, dequantize"
    name = op.lower().removeprefix("qlinear").removeprefix("aten::")
    if op in LAYOUT_OPS or name in _MOVES_DATA or name == "concatenation":
        return "moving data"
    if op in ("linear", "mm"):
        return "matrix product"
    return next((kind for kind, parts in _KIND_BY_PART if any(part in name for part in parts)), "other")


def executed_precisions(rows: Iterable[OpRow]) -> tuple[str, ...]:
    """Precision of every kernel of `rows` that does arithmetic; integers count where they are multiplied and summed.

    A class map's ids and a picture's pixels are uint8, too, and comparing or counting them makes no network INT8.
    """
    return tuple(
        row.precision
        for row in rows
        if does_arithmetic(row.op) and (row.precision != "int8" or row.op in ARITHMETIC_OPS)
    )


def zero_feed(specs: tuple[TensorSpec, ...]) -> Feed:
    """An all-zero feed for `specs`; a free axis gets size 1."""
    return {spec.name: np.zeros([max(size, 1) for size in spec.shape], spec.dtype) for spec in specs}
