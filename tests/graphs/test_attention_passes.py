"""The passes around MSCSA's attention and feed-forward, each on the smallest graph that has its pattern."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.graphs.attention_layout import FlipMatMulTranspose
from mscsa_deploy.graphs.check import fingerprint, op_histogram
from mscsa_deploy.graphs.fold_attention_scale import FoldAttentionScale
from mscsa_deploy.graphs.fold_depthwise import FoldDepthwiseScale
from mscsa_deploy.graphs.intra_ffn import MergeStageDepthwise
from mscsa_deploy.graphs.merge_projections import MergeProjections
from mscsa_deploy.graphs.rewrite import rewrite

# Sums of some tens of products of order 1, summed in another order or with weights rounded once more.
ATOL = 2e-5

Q = "q = Conv(x, wq, bq) qh = Reshape(q, sq) qt = Transpose<perm=[0,1,3,2]>(qh) "
KV0 = "k0 = Conv(x, wk, bk) kh0 = Reshape(k0, sk0) v0 = Conv(x, wv, bv) vh0 = Reshape(v0, sv0) "
D = "d = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) "
KV1 = "k1 = Conv(d, wk1, bk) kh1 = Reshape(k1, sk1) v1 = Conv(d, wv1, bv) vh1 = Reshape(v1, sv1) "
MIX = "s = MatMul(qt, kk) p = Softmax<axis=-1>(s) "
END = "vt = Transpose<perm=[0,1,3,2]>(vv) m = MatMul(p, vt) t = Transpose<perm=[0,1,3,2]>(m) y = Reshape(t, so) "
FLIPPED = "pt = Transpose<perm=[0,1,3,2]>(p) m = MatMul(vv, pt) y = Reshape(m, so) "
HEAD = "g (float[2,5,4,4] x) => (float[2,12,4,4] y) { "
CAT = "kk = Concat<axis=3>(kh0, kh1) vv = Concat<axis=3>(vh0, vh1) "
ATTENTION = {
    "wq": (6, 5, 1, 1), "bq": (6,), "wk": (6, 5, 1, 1), "bk": (6,), "wv": (12, 5, 1, 1), "bv": (12,),
    "wk1": (6, 5, 1, 1), "wv1": (12, 5, 1, 1),
    "sq": np.array([-1, 2, 3, 16]), "sk0": np.array([-1, 2, 3, 16]), "sv0": np.array([-1, 2, 6, 16]),
    "sk1": np.array([-1, 2, 3, 4]), "sv1": np.array([-1, 2, 6, 4]), "so": np.array([-1, 12, 4, 4]),
}  # fmt: skip
ONE_SCALE = HEAD + Q + KV0 + "kk = Identity(kh0) vv = Identity(vh0) " + MIX + END + "}"
TWO_SCALES = HEAD + Q + KV0 + D + KV1 + CAT + MIX + END + "}"
MAP_ADDED = TWO_SCALES.replace("kh1 = Reshape(k1,", "k1m = Add(k1, mk) kh1 = Reshape(k1m,").replace(
    "vh1 = Reshape(v1,", "v1m = Add(v1, mv) vh1 = Reshape(v1m,"
)
VALUES_READ_AGAIN = TWO_SCALES.replace("y = Reshape(t, so)", "r = Reshape(t, so) h = HardSwish(v0) y = Add(r, h)")
MERGES = {
    "one_scale": ONE_SCALE.replace("kk = Identity(kh0) vv = Identity(vh0) ", "").replace("(qt, kk)", "(qt, kh0)")
    .replace("(vv)", "(vh0)"),
    "two_scales": TWO_SCALES,
    "constant_maps": MAP_ADDED,
    "values_read_as_map": VALUES_READ_AGAIN,
    "free_batch": TWO_SCALES.replace("float[2,", "float[N,"),
    "flipped": TWO_SCALES.replace(END, FLIPPED),
}  # fmt: skip
MERGE_MISSES = {
    "other_map": TWO_SCALES.replace("k1 = Conv(d, wk1", "e = Relu(d) k1 = Conv(e, wk1"),
    "keys_read_again": TWO_SCALES.replace("y = Reshape(t, so)", "r = Reshape(t, so) u = Concat<axis=1>(k0, k0) "
                                          "y = Add(r, u)"),
    "no_softmax": TWO_SCALES.replace("Softmax<axis=-1>", "Relu"),
}  # fmt: skip
MAPS = {"mk": (1, 6, 2, 2), "mv": (1, 12, 2, 2)}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in MERGES.items()])
def test_projections_are_one_convolution_per_scale(make, run, text) -> None:
    model = make(text, **ATTENTION, **MAPS)
    expected = run(model)

    rewrite(model, [MergeProjections()])

    assert op_histogram(model)["Conv"] == (2 if "AveragePool" in text else 1)
    np.testing.assert_allclose(run(model), expected, atol=ATOL)
    once = fingerprint(model)
    rewrite(model, [MergeProjections()])
    assert fingerprint(model) == once


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in MERGE_MISSES.items()])
def test_projections_that_do_not_belong_together_stay(make, text) -> None:
    model = make(text, **ATTENTION)
    before = fingerprint(model)

    rewrite(model, [MergeProjections()])

    assert fingerprint(model) == before


def test_output_of_attention_is_not_transposed(make, run) -> None:
    model = make(TWO_SCALES, **ATTENTION)
    expected = run(model)

    rewrite(model, [FlipMatMulTranspose()])

    assert op_histogram(model)["Transpose"] == op_histogram(make(TWO_SCALES, **ATTENTION))["Transpose"] - 1
    np.testing.assert_allclose(run(model), expected, atol=ATOL)
    once = fingerprint(model)
    rewrite(model, [FlipMatMulTranspose()])
    assert fingerprint(model) == once


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TWO_SCALES.replace("y = Reshape(t, so)", "r = Reshape(t, so) u = Reshape(m, so) y = Add(r, u)"),
                     id="product_read_twice"),
        pytest.param(TWO_SCALES.replace("t = Transpose<perm=[0,1,3,2]>(m)", "t = Transpose<perm=[0,2,1,3]>(m)"),
                     id="other_order"),
    ],
)  # fmt: skip
def test_product_that_is_needed_as_it_is_stays(make, text) -> None:
    model = make(text, **ATTENTION)
    before = fingerprint(model)

    rewrite(model, [FlipMatMulTranspose()])

    assert fingerprint(model) == before


SCALED = {
    "conv": "a = Conv(x, w, b) y = Mul(a, c)",
    "number_on_the_left": "a = Conv(x, w, b) y = Mul(c, a)",
    "division": "a = Conv(x, w, b) y = Div(a, c)",
    "behind_reshape": "a = Conv(x, w, b) r = Reshape(a, s) t = Transpose<perm=[0,2,1]>(r) m = Mul(t, c) y = Relu(m)",
    "matmul_and_add": "r = Reshape(x, s5) t = Transpose<perm=[0,2,1]>(r) l = MatMul(t, lw) a = Add(l, lb) "
    "m = Mul(a, c) y = Relu(m)",
}
SCALE_ARRAYS = {
    "w": (5, 5, 1, 1), "b": (5,), "c": np.float32(0.25), "s": np.array([2, 5, 16]), "s5": np.array([2, 5, 16]),
    "lw": (5, 3), "lb": (3,), "v": (5, 1, 1), "nil": np.float32(0),
}  # fmt: skip
SCALE_MISSES = {
    "per_channel": "a = Conv(x, w, b) m = Mul(a, v) y = Relu(m)",
    "read_again": "a = Conv(x, w, b) m = Mul(a, c) y = Add(a, m)",
    "no_layer": "a = Relu(x) m = Mul(a, c) y = Relu(m)",
    "zero": "a = Conv(x, w, b) m = Mul(a, nil) y = Relu(m)",
}


def scaled(body: str):
    return f"g (float[2,5,4,4] x) => (float y) {{ {body.replace('y =', 'o =')} y = ReduceSum<keepdims=1>(o) }}"


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in SCALED.items()])
def test_scale_goes_into_the_weights(make, run, body) -> None:
    model = make(scaled(body).replace("(float y)", "(float[1,1,1,1] y)" if "m =" not in body else "(float[1,1,1] y)"),
                 **SCALE_ARRAYS)  # fmt: skip
    expected = run(model)

    rewrite(model, [FoldAttentionScale()])

    assert not {"Mul", "Div"} & set(op_histogram(model))
    # A sum of 160 terms.
    np.testing.assert_allclose(run(model), expected, rtol=1e-5, atol=1e-4)
    once = fingerprint(model)
    rewrite(model, [FoldAttentionScale()])
    assert fingerprint(model) == once


def test_scaled_output_keeps_its_name(make) -> None:
    model = make("g (float[2,5,4,4] x) => (float[2,5,4,4] y) { a = Conv(x, w, b) y = Mul(a, c) }", **SCALE_ARRAYS)
    before = fingerprint(model)

    rewrite(model, [FoldAttentionScale()])

    assert fingerprint(model) == before


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in SCALE_MISSES.items()])
def test_scale_that_has_no_layer_of_its_own_stays(make, body) -> None:
    model = make(scaled(body).replace("(float y)", "(float[1,1,1,1] y)"), **SCALE_ARRAYS)
    before = fingerprint(model)

    rewrite(model, [FoldAttentionScale()])

    assert fingerprint(model) == before


UP = 'Resize<mode="linear", coordinate_transformation_mode="half_pixel">'
HEAD_TEXT = (
    "g (float[1,3,8,8] a, float[1,3,4,4] c) => (float[1,2,8,8] y) { "
    f"l = Conv(a, wl, bl) gate = HardSigmoid(c) up = {UP}(gate, , , s3) m = Mul(l3, up) "
    f"e = Conv(c, we, be) eu = {UP}(e, , , s3) t = Add(m, eu) d = Conv<group=3>(t, wd, bd) "
    "r = Relu(d) y = Conv(r, wo) }"
).replace("l3", "l")
HEAD_ARRAYS = {
    "wl": (3, 3, 1, 1), "bl": (3,), "we": (3, 3, 1, 1), "be": (3,), "wd": (3, 1, 1, 1), "bd": (3,),
    "wo": (2, 3, 1, 1), "s3": np.array([1, 3, 8, 8]),
}  # fmt: skip


def test_depthwise_scale_goes_into_the_summands(make, run) -> None:
    model = make(HEAD_TEXT, **HEAD_ARRAYS)
    expected = run(model)

    rewrite(model, [FoldDepthwiseScale()])

    assert op_histogram(model)["Conv"] == 3
    np.testing.assert_allclose(run(model), expected, atol=ATOL)
    once = fingerprint(model)
    rewrite(model, [FoldDepthwiseScale()])
    assert fingerprint(model) == once


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("t = Add(m, eu)", "n = Relu(eu) t = Add(m, n)", id="nonlinear_on_the_way"),
        pytest.param("r = Relu(d)", "k = Add(d, t) r = Relu(k)", id="sum_read_again"),
        pytest.param("(e, , , s3)", "(eh, , , s3)", id="summand_read_again"),
    ],
)  # fmt: skip
def test_depthwise_scale_stays_where_it_cannot_move(make, old, new) -> None:
    text = HEAD_TEXT.replace(old, new)
    if "eh" in new:
        text = text.replace("e = Conv(c, we, be)", "e = Conv(c, we, be) eh = HardSwish(e)")
    model = make(text, **HEAD_ARRAYS)
    before = fingerprint(model)

    rewrite(model, [FoldDepthwiseScale()])

    assert fingerprint(model) == before


BRANCH = (
    "a{i} = Conv(p{i}, u{i}) d{i} = Conv<pads=[1,1,1,1], group={g}>(a{i}, k{i}, b{i}) c{i} = Clip(d{i}, lo, hi{i}) "
)
STAGES = (
    "g (float[2,5,4,4] x) => (float[2,5,4,4] y) { p0, p1 = Split<axis=1>(x, sizes) "
    + BRANCH.format(i=0, g=4) + BRANCH.format(i=1, g=6)
    + "e0 = Conv(c0, o0) e1 = Conv(c1, o1) y = Concat<axis=1>(e0, e1) }"
)  # fmt: skip
STAGE_ARRAYS = {
    "sizes": np.array([2, 3]), "u0": (4, 2, 1, 1), "u1": (6, 3, 1, 1), "k0": (4, 1, 3, 3), "k1": (6, 1, 3, 3),
    "b0": (4,), "b1": (6,), "o0": (2, 4, 1, 1), "o1": (3, 6, 1, 1), "lo": np.float32(0), "hi0": np.float32(6),
    "hi1": np.float32(6),
}  # fmt: skip


def test_depthwise_convolutions_of_stages_become_one(make, run) -> None:
    model = make(STAGES, **STAGE_ARRAYS)
    expected = run(model)

    rewrite(model, [MergeStageDepthwise()])

    assert op_histogram(model)["Conv"] == 5
    assert op_histogram(model)["Clip"] == 1
    # The same operations on the same numbers.
    np.testing.assert_array_equal(run(model), expected)
    once = fingerprint(model)
    rewrite(model, [MergeStageDepthwise()])
    assert fingerprint(model) == once


SECOND = BRANCH.format(i=1, g=6)


@pytest.mark.parametrize(
    ("old", "new", "arrays"),
    [
        pytest.param("", "", {"hi1": np.float32(5)}, id="other_limit"),
        pytest.param(SECOND, SECOND.replace("pads=[1,1,1,1]", "pads=[2,2,2,2]"), {"k1": (6, 1, 5, 5)}, id="larger"),
        pytest.param(SECOND, SECOND.replace("c1 = Clip(d1, lo, hi1)", "c1 = Relu(d1)"), {}, id="other_activation"),
        pytest.param("e1 = Conv(c1, o1)", "f1 = Add(c1, d1) e1 = Conv(f1, o1)", {}, id="read_again"),
        pytest.param(SECOND, SECOND.replace("Conv(p1,", "Conv(q1,").replace("a1", "q1 = Relu(p1) a1", 1), {},
                     id="of_another_map"),
    ],
)  # fmt: skip
def test_stages_that_differ_stay_apart(make, old, new, arrays) -> None:
    assert old in STAGES
    model = make(STAGES.replace(old, new) if old else STAGES, **{**STAGE_ARRAYS, **arrays})
    before = fingerprint(model)

    rewrite(model, [MergeStageDepthwise()])

    assert fingerprint(model) == before
