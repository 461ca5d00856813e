"""Which nodes of a file a kernel of ONNX Runtime's optimized graph stands for."""

from __future__ import annotations

import pytest

from mscsa_deploy.runtimes.onnxruntime_sources import align, kernel_sources

onnx = pytest.importorskip("onnx")

GIVEN = """<ir_version: 9, opset_import: ["" : 18]>
net (float[1,4,8,8] image) => (float[1,4,8,8] logits) <float[4,4,1,1] w, float[4,4,1,1] v> {
  [scaling] w2 = Neg(w)
  [stem] a = Conv(image, w2)
  [relu] b = Relu(a)
  [swish] c = HardSwish(b)
  [deep] d = Conv(c, v)
  [residual] e = Add(d, b)
  [out] logits = Tanh(e)
}"""
# As ONNX Runtime writes it: names of tensors for kernels, a function taken apart, changes of the layout.
OPTIMIZED = """<ir_version: 9, opset_import: ["" : 18, "com.microsoft.nchwc" : 1]>
net (float[1,4,8,8] image) => (float[1,4,8,8] logits) <float[4,4,1,1] w3, float[4,4,1,1] v2> {
  [ReorderInput] blocked = com.microsoft.nchwc.ReorderInput(image)
  [b_nchwc] reorder_token_1 = com.microsoft.nchwc.Conv(blocked, w3)
  [ReorderOutput] b = com.microsoft.nchwc.ReorderOutput(reorder_token_1)
  _inl_x = HardSigmoid(b)
  c = Mul(b, _inl_x)
  [deep] e_nchwc = com.microsoft.nchwc.Conv(c, v2, reorder_token_1)
  [logits] logits = Tanh(e_nchwc)
}"""
TRACED = [
    ("ReorderInput", "ReorderInput"), ("b_nchwc", "Conv"), ("ReorderOutput", "ReorderOutput"),
    ("HardSigmoid_7", "HardSigmoid"), ("Mul_8", "Mul"), ("deep", "Conv"), ("logits", "Tanh"),
]  # fmt: skip


def test_kernels_stand_for_the_nodes_between_what_they_read_and_give():
    assert kernel_sources(onnx.parser.parse_model(GIVEN), onnx.parser.parse_model(OPTIMIZED)) == (
        ("stem", "relu"),  # the layout is changed for the convolution's sake
        ("stem", "relu"),
        ("stem", "relu"),
        ("swish",),
        ("swish",),
        ("deep", "residual"),
        ("out",),
    )


def test_kernels_are_told_apart_by_order_where_the_file_names_none():
    optimized = onnx.parser.parse_model(OPTIMIZED)
    assert align(TRACED, optimized)
    assert not align([*TRACED[1:], TRACED[0]], optimized)
    assert not align(TRACED[1:], optimized)
