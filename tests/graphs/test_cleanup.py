from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from mscsa_deploy.graphs.check import fingerprint, op_histogram
from mscsa_deploy.graphs.cleanup import DropNoOp
from mscsa_deploy.graphs.passes import optimizations
from mscsa_deploy.graphs.rewrite import rewrite

X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)

MATCHES = {
    "add_zero": "zero = Constant <value = float {0.0}> ()  a = Add(x, zero)",
    "zero_add": "zero = Constant <value = float {0.0}> ()  a = Add(zero, x)",
    "sub_zero": "zero = Constant <value = float {0.0}> ()  a = Sub(x, zero)",
    "mul_one": "one = Constant <value = float[3] {1.0, 1.0, 1.0}> ()  a = Mul(x, one)",
    "div_one": "one = Constant <value = float {1.0}> ()  a = Div(x, one)",
    "cast_same": "a = Cast <to = 1> (x)",
    "transpose_same": "a = Transpose <perm = [0, 1]> (x)",
    "reshape_same": "s = Constant <value = int64[2] {2, 3}> ()  a = Reshape(x, s)",
    "expand_same": "s = Constant <value = int64[2] {1, 3}> ()  a = Expand(x, s)",
    "concat_one": "a = Concat <axis = 0> (x)",
    "dropout": "a = Dropout(x)",
}
NEAR_MISSES = {
    "sub_from_zero": "zero = Constant <value = float {0.0}> ()  a = Sub(zero, x)",
    "one_over": "one = Constant <value = float {1.0}> ()  a = Div(one, x)",
    "not_quite_one": "one = Constant <value = float[3] {1.0, 1.0, 0.5}> ()  a = Mul(x, one)",
    "widening_zero": "zero = Constant <value = float[1,1,1] {0.0}> ()  b = Add(x, zero)  a = Relu(b)",
    "cast_other": "b = Cast <to = 10> (x)  a = Cast <to = 1> (b)",
    "transpose": "b = Transpose <perm = [1, 0]> (x)  a = Transpose <perm = [1, 0]> (b)",
    "reshape": "s = Constant <value = int64[1] {6}> ()  a = Reshape(x, s)",
}


def parse(body: str) -> ir.Model:
    text = (
        '<ir_version: 8, opset_import: ["" : 18]> '
        f"g (float[2,3] x) => (float y) {{ {body}  c = Relu(a)  y = ReduceSum <keepdims = 0> (c) }}"
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def run(model: ir.Model) -> np.ndarray:
    return ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": X})[0]


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in MATCHES.items()])
def test_drop_no_op_removes_it_and_keeps_the_numbers(body: str) -> None:
    model = parse(body)
    expected = run(model)

    rewrite(model, [DropNoOp()])

    assert set(op_histogram(model)) <= {"Constant", "Relu", "ReduceSum"}
    # Exact: nothing that computes was touched.
    np.testing.assert_array_equal(run(model), expected)
    once = fingerprint(model)
    rewrite(model, [DropNoOp()])
    assert fingerprint(model) == once


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in NEAR_MISSES.items()])
def test_drop_no_op_leaves_what_does_something(body: str) -> None:
    model = parse(body)
    before = op_histogram(model)

    rewrite(model, [DropNoOp()])

    assert op_histogram(model) == before


def test_drop_no_op_keeps_the_node_of_a_graph_output() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) { y = Cast <to = 1> (x) }'
    model = ir.from_proto(onnx.parser.parse_model(text))

    rewrite(model, [DropNoOp()])

    assert op_histogram(model) == {"Cast": 1}


def test_drop_no_op_keeps_an_unknown_shape() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 18]> g (float[n,3] x, int64[2] s) => (float[n,3] y) '
        "{ a = Reshape(x, s)  y = Relu(a) }"
    )
    model = ir.from_proto(onnx.parser.parse_model(text))

    rewrite(model, [DropNoOp()])

    assert op_histogram(model) == {"Relu": 1, "Reshape": 1}


def test_optimizations_second_run_changes_nothing() -> None:
    model = parse("b = Concat <axis = 0> (x)  d = Identity(b)  unused = Neg(d)  a = Cast <to = 1> (d)")
    rewrite(model, optimizations())
    before = fingerprint(model)

    rewrite(model, optimizations())

    assert fingerprint(model) == before
    assert op_histogram(model) == {"ReduceSum": 1, "Relu": 1}
