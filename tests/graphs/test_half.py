from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from mscsa_deploy.graphs.check import fingerprint, op_histogram, signature
from mscsa_deploy.graphs.half import FLOAT, HALF, ToHalf
from mscsa_deploy.graphs.rewrite import rewrite

X = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
CONV = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[1,3,4,4] x) => (float[1,2,8,8] y, float[1,2,4,4] z)
<float[2,3,1,1] w = {0.5, 1.0, -1.0, 2.0, 0.25, 0.125}, float[4] scales = {1.0, 1.0, 2.0, 2.0}> {
    [conv] a = Conv (x, w)
    [relu] z = Relu (a)
    [up] y = Resize <mode = "linear"> (z, , scales)
}
"""
BRANCH = """
<ir_version: 8, opset_import: ["" : 18]>
g (bool c, float[1,3,4,4] x) => (float[1,3,4,4] y) {
    a = Abs (x)
    b = If (c) <
        then_branch = t () => (float[1,3,4,4] p) { p = Neg (a) },
        else_branch = e () => (float[1,3,4,4] q) { q = Relu (a) }
    >
    y = Sqrt (b)
}
"""
QDQ = """
<ir_version: 9, opset_import: ["" : OPSET]>
g (float[1,3,4,4] x) => (float[1,3,4,4] y)
<float s = {0.05}, int8 zero = {0}> {
    q = QuantizeLinear (x, s, zero)
    d = DequantizeLinear (q, s, zero)
    y = Relu (d)
}
"""


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def run(model: ir.Model, **feed) -> list[np.ndarray]:
    return ReferenceEvaluator(ir.to_proto(model)).run(None, feed)


def types(model: ir.Model) -> dict[str, ir.DataType | None]:
    return {value.name: value.dtype for node in model.graph for value in node.outputs}


def test_to_half_keeps_signature_and_numbers() -> None:
    model = parse(CONV)
    before, expected = signature(model), run(model, x=X)

    rewrite(model, [ToHalf()])

    assert signature(model) == before
    assert {model.graph.initializers[name].dtype for name in ("w",)} == {HALF}
    assert model.graph.initializers["scales"].dtype == FLOAT
    assert op_histogram(model)["Cast"] == 3
    for wanted, found in zip(expected, run(model, x=X), strict=True):
        # float16 has 11 bits: one part in 2048, a few roundings in a row.
        np.testing.assert_allclose(found, wanted, atol=4e-3)


def test_to_half_second_run_changes_nothing() -> None:
    model = parse(CONV)
    rewrite(model, [ToHalf()])
    before = fingerprint(model)

    rewrite(model, [ToHalf()])

    assert fingerprint(model) == before


def test_kept_node_stays_float_and_its_weight_too() -> None:
    model = parse(CONV)
    rewrite(model, [ToHalf({"conv"})])
    found = types(model)
    assert found["a"] == FLOAT
    assert model.graph.initializers["w"].dtype == FLOAT
    assert HALF in found.values()


def test_weight_read_by_both_kinds_has_two_copies() -> None:
    text = CONV.replace("[relu] z = Relu (a)", "[other] b = Conv (x, w)  [relu] z = Add (a, b)")
    model = parse(text)
    expected = run(model, x=X)
    rewrite(model, [ToHalf({"conv"})])
    assert model.graph.initializers["w"].dtype == FLOAT
    assert model.graph.initializers["w_half"].dtype == HALF
    # Rounding of float16, as above.
    np.testing.assert_allclose(run(model, x=X)[1], expected[1], atol=8e-3)


def test_everything_kept_changes_nothing() -> None:
    model = parse(CONV)
    before = op_histogram(model)
    rewrite(model, [ToHalf({"conv", "relu", "up"})])
    assert op_histogram(model) == before


def test_branches_stay_float() -> None:
    model = parse(BRANCH)
    expected = run(model, c=np.array(False), x=X)[0]
    rewrite(model, [ToHalf()])
    branches = next(node for node in model.graph if node.op_type == "If")
    assert branches.outputs[0].dtype == FLOAT
    assert types(model)["a"] == HALF
    # Rounding of float16.
    np.testing.assert_allclose(run(model, c=np.array(False), x=X)[0], expected, atol=2e-3)


def test_constants_and_casts_follow() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 18]> g (int64[3] n) => (float[3] y) '
        "{ f = Cast <to = 1> (n)  c = Constant <value = float {0.5}> ()  k = Constant <value_float = 2.0> ()"
        "  a = Mul (f, c)  y = Add (a, k) }"
    )
    model = parse(text)
    rewrite(model, [ToHalf()])
    assert {types(model)[name] for name in ("f", "c", "k", "a")} == {HALF}
    np.testing.assert_array_equal(run(model, n=np.array([1, 2, 3]))[0], np.array([2.5, 3.0, 3.5], np.float32))


@pytest.mark.parametrize(("opset", "kind"), [(18, FLOAT), (19, HALF)])
def test_quantized_scales_are_half_from_opset_19(opset: int, kind: ir.DataType) -> None:
    model = parse(QDQ.replace("OPSET", str(opset)))
    rewrite(model, [ToHalf()])
    assert model.graph.initializers["s"].dtype == kind
    assert types(model)["d"] == kind


def test_integer_graph_is_left_alone() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (int64[3] n) => (int64[3] y) { y = Neg (n) }'
    model = parse(text)
    rewrite(model, [ToHalf()])
    assert op_histogram(model) == {"Neg": 1}
