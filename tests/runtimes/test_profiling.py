"""Operators of every runtime fall into one set of kinds."""

from __future__ import annotations

import pytest

from mscsa_deploy.runtimes.profiling import KINDS_OF_OP, kind_of


@pytest.mark.parametrize(
    ("kind", "ops"),
    [
        ("convolution", ("Conv", "FusedConv", "QLinearConv", "Convolution", "GroupConvolution", "mkldnn_convolution")),
        ("matrix product", ("FusedMatMul", "Gemm", "FullyConnected", "MatMulIntegerToFloat", "linear", "addmm", "mm")),
        ("elementwise", ("Add", "QLinearAdd", "Subgraph", "HardSigmoid", "Gelu", "add_")),
        ("normalization, softmax", ("Softmax", "LayerNormalization", "_softmax", "native_layer_norm")),
        ("pooling", ("AveragePool", "Pooling")),
        ("resize", ("Upsample", "Resize", "Interpolate", "upsample_bilinear2d")),
        ("moving data", ("Reorder", "Transpose", "Concatenation", "QLinearConcat", "Split", "Reshape", "Cast")),
        ("quantize, dequantize", ("QuantizeLinear", "FakeQuantize")),
        ("other", ("ArgMax", "unknown")),
    ],
)
def test_kind_of_an_operator_whoever_spells_it(kind, ops):
    assert kind in KINDS_OF_OP
    assert {op: kind_of(op) for op in ops} == dict.fromkeys(ops, kind)
