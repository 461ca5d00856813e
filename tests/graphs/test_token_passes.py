"""The passes for PVTv2's tokens, each on the smallest graph that has its pattern."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.graphs.check import fingerprint, op_histogram
from mscsa_deploy.graphs.gelu import FuseGelu
from mscsa_deploy.graphs.linear import GemmToMatMul
from mscsa_deploy.graphs.passes import OPTIMIZATIONS, PER_RUNTIME, optimizations_for
from mscsa_deploy.graphs.rewrite import rewrite
from mscsa_deploy.graphs.token_attention import AttentionToConvs
from mscsa_deploy.graphs.token_layout import MlpToConvs

# The same sums in another order.
ATOL = 2e-5

ERF = "e = Div(x, root) f = Erf(e) h = Add(f, one) i = Mul(x, h) y = Mul(i, half)"
GELU_ARRAYS = {
    "root": np.float32(2**0.5),
    "inverse": np.float32(0.5**0.5),
    "one": np.float32(1),
    "half": np.float32(0.5),
}
GELUS = {
    "traced": ERF,
    "half_first": "e = Mul(x, inverse) f = Erf(e) h = Add(one, f) i = Mul(half, h) y = Mul(i, x)",
}
NO_GELUS = {
    "other_factor": ERF.replace("Div(x, root)", "Div(x, one)"),
    "other_sum": ERF.replace("Add(f, one)", "Add(f, half)"),
    "other_input": ERF.replace("i = Mul(x, h)", "z = Neg(x) i = Mul(z, h)"),
    "no_half": ERF.replace("Mul(i, half)", "Mul(i, one)"),
}


def gelu(body: str) -> str:
    return f"g (float[2,3] x) => (float[2,3] y) {{ {body} }}"


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in GELUS.items()])
def test_erf_form_becomes_gelu(make, run, body) -> None:
    model = make(gelu(body), **GELU_ARRAYS)
    expected = run(model)

    rewrite(model, [FuseGelu()])

    assert op_histogram(model) == {"Gelu": 1}
    assert model.opset_imports[""] == 20
    # Erf is approximated to a few float32 steps, in one way or another.
    np.testing.assert_allclose(run(model), expected, atol=1e-6)
    once = fingerprint(model)
    rewrite(model, [FuseGelu()])
    assert fingerprint(model) == once


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in NO_GELUS.items()])
def test_other_uses_of_erf_stay(make, body) -> None:
    model = make(gelu(body), **GELU_ARRAYS)
    before = fingerprint(model)

    rewrite(model, [FuseGelu()])

    assert fingerprint(model) == before


def test_opsets_before_18_are_not_raised(make) -> None:
    model = make(gelu(ERF), opset=17, **GELU_ARRAYS)
    before = fingerprint(model)

    rewrite(model, [FuseGelu()])

    assert fingerprint(model) == before


def linear(name: str, x: str, out: str, *, gemm: bool) -> str:
    if gemm:
        return (
            f"{name}_f = Reshape({x}, s_{name}i) {name}_g = Gemm({name}_f, w_{name}, b_{name}) "
            f"{out} = Reshape({name}_g, s_{name}o) "
        )
    return f"{name}_m = MatMul({x}, w_{name}) {out} = Add({name}_m, b_{name}) "


def mlp(*, gemm: bool) -> str:
    return (
        "g (float[2,12,4] x) => (float[2,12,4] y) { n = Relu(x) "
        + linear("a", "n", "hidden", gemm=gemm)
        + "t = Transpose<perm=[0,2,1]>(hidden) m = Reshape(t, s_map) d = Conv<pads=[1,1,1,1], group=6>(m, k, kb) "
        "f = Reshape(d, s_flat) u = Transpose<perm=[0,2,1]>(f) c = Relu(u) "
        + linear("b", "c", "z", gemm=gemm)
        + "y = Add(n, z) }"
    )


MLP_ARRAYS = {
    "w_a": (4, 6), "b_a": (6,), "w_b": (6, 4), "b_b": (4,), "k": (6, 1, 3, 3), "kb": (6,),
    "s_ai": np.array([-1, 4]), "s_ao": np.array([2, 12, 6]), "s_bi": np.array([-1, 6]), "s_bo": np.array([2, 12, 4]),
    "s_map": np.array([-1, 6, 3, 4]), "s_flat": np.array([2, 6, -1]),
}  # fmt: skip


@pytest.mark.parametrize("gemm", [True, False], ids=["gemm", "matmul"])
def test_mlp_becomes_three_convolutions(make, run, gemm) -> None:
    model = make(mlp(gemm=gemm), **MLP_ARRAYS)
    expected = run(model)

    rewrite(model, [MlpToConvs()])

    assert op_histogram(model)["Conv"] == 3
    assert not {"Gemm", "MatMul"} & set(op_histogram(model))
    np.testing.assert_allclose(run(model), expected, atol=ATOL)
    once = fingerprint(model)
    rewrite(model, [MlpToConvs()])
    assert fingerprint(model) == once


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("group=6", "group=1", id="dense"),
        pytest.param("c = Relu(u)", "c = Softmax(u)", id="activation_across_channels"),
        pytest.param("y = Add(n, z)", "q = ReduceMean<keepdims=1>(d) v = Reshape(q, s_one) w = Add(n, v) y = Add(w, z)",
                     id="map_read_again"),
    ],
)  # fmt: skip
def test_mlp_of_another_kind_stays(make, old, new) -> None:
    arrays = {**MLP_ARRAYS, "k": (6, 6, 3, 3)} if "group=1" in new else MLP_ARRAYS
    model = make(mlp(gemm=True).replace(old, new), **arrays, s_one=np.array([1, 1, 1]))
    before = fingerprint(model)

    rewrite(model, [MlpToConvs()])

    assert fingerprint(model) == before


def test_gemm_between_reshapes_becomes_matmul(make, run) -> None:
    model = make(mlp(gemm=True), **MLP_ARRAYS)
    expected = run(model)

    rewrite(model, [GemmToMatMul()])

    assert op_histogram(model)["MatMul"] == 2
    assert "Gemm" not in op_histogram(model)
    np.testing.assert_allclose(run(model), expected, atol=ATOL)
    once = fingerprint(model)
    rewrite(model, [GemmToMatMul()])
    assert fingerprint(model) == once


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("g (float[2,12,4] x) => (float[2,4,18] y) { f = Reshape(x, s_f) g = Gemm(f, w, b) "
                     "y = Reshape(g, s_y) }", id="other_tokens_behind"),
        pytest.param("g (float[2,12,4] x) => (float[2,12,6] y) { f = Reshape(x, s_f) g = Gemm(f, w, b) "
                     "h = Relu(g) r = Reshape(g, s_r) q = Reshape(h, s_r) y = Add(r, q) }", id="rows_read_again"),
        pytest.param("g (float[2,12,4] x) => (float[24,6] y) { f = Reshape(x, s_f) y = Gemm(f, w, b) }",
                     id="no_tokens"),
    ],
)  # fmt: skip
def test_gemm_that_is_no_layer_on_tokens_stays(make, text) -> None:
    arrays = {"s_f": np.array([24, 4]), "s_y": np.array([2, 4, 18]), "s_r": np.array([2, 12, 6])}
    model = make(text, w=(4, 6), b=(6,), **arrays)
    before = fingerprint(model)

    rewrite(model, [GemmToMatMul()])

    assert fingerprint(model) == before


STREAM = (
    "g (float[2,3,6,4] image) => (float[2,5,3,2] y) { i = Conv<strides=[2,2], kernel_shape=[1,1]>(image, wi) "
    "fl = Reshape(i, s_flat) t0 = Transpose<perm=[0,2,1]>(fl) x = LayerNormalization<axis=-1>(t0, one4, zero4) "
    + linear("q", "x", "qf", gemm=True) + "qh = Reshape(qf, s_h) qt = Transpose<perm=[0,2,1,3]>(qh) "
    + linear("v", "x", "kv", gemm=True)
    + "k = Slice(kv, c0, c4, c2) kh = Reshape(k, s_h) kt = Transpose<perm=[0,2,3,1]>(kh) "
    "v = Slice(kv, c4, c8, c2) vh = Reshape(v, s_h) vt = Transpose<perm=[0,2,1,3]>(vh) "
    "s = MatMul(qt, kt) p = Softmax<axis=-1>(s) m = MatMul(p, vt) mt = Transpose<perm=[0,2,1,3]>(m) "
    "pf = Reshape(mt, s_qi) pg = Gemm(pf, w_p, b_p) po = Reshape(pg, s_qo) z = Add(x, po) "
    "n = LayerNormalization<axis=-1>(z, one4, zero4) t1 = Transpose<perm=[0,2,1]>(n) "
    "r = Reshape(t1, s_map) y = Conv(r, wo) }"
)  # fmt: skip
STREAM_ARRAYS = {
    "wi": (4, 3, 1, 1), "wo": (5, 4, 1, 1), "one4": np.ones(4, np.float32), "zero4": np.zeros(4, np.float32),
    "w_q": (4, 4), "b_q": (4,), "w_v": (4, 8), "b_v": (8,), "w_p": (4, 4), "b_p": (4,),
    "s_qi": np.array([-1, 4]), "s_qo": np.array([-1, 6, 4]), "s_vi": np.array([-1, 4]), "s_vo": np.array([-1, 6, 8]),
    "s_h": np.array([-1, 6, 2, 2]), "s_flat": np.array([-1, 4, 6]), "s_map": np.array([-1, 4, 3, 2]),
    "c0": np.array([0]), "c4": np.array([4]), "c8": np.array([8]), "c2": np.array([2]),
}  # fmt: skip


@pytest.mark.parametrize("batch", ["2", "N"])
def test_attention_becomes_convolutions_without_transposed_heads(make, run, batch) -> None:
    model = make(STREAM.replace("float[2,", f"float[{batch},"), **STREAM_ARRAYS)
    expected = run(model)

    rewrite(model, [AttentionToConvs()])

    assert op_histogram(model)["Conv"] == 5
    assert "Gemm" not in op_histogram(model)
    np.testing.assert_allclose(run(model), expected, atol=ATOL)
    once = fingerprint(model)
    rewrite(model, [AttentionToConvs()])
    assert fingerprint(model) == once


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("k = Slice(kv, c0, c4, c2)", "k = Slice(kv, c4, c8, c2)", id="keys_from_the_second_half"),
        pytest.param("Softmax<axis=-1>(s)", "Relu(s)", id="no_softmax"),
        pytest.param("t0 = Transpose<perm=[0,2,1]>(fl)", "tr = Transpose<perm=[0,2,1]>(fl) t0 = Slice(tr, c0, c6, c1)",
                     id="tokens_of_no_map"),
    ],
)  # fmt: skip
def test_attention_of_another_kind_stays(make, old, new) -> None:
    text = STREAM.replace(old, new)
    model = make(text, **STREAM_ARRAYS, c6=np.array([6]), c1=np.array([1]))
    before = fingerprint(model)

    rewrite(model, [AttentionToConvs()])

    if "c6" in new:
        # The slice keeps all tokens, so their map is still known; the rewrite is then right as well.
        assert fingerprint(model) != before
    else:
        assert fingerprint(model) == before


@pytest.mark.parametrize("batch", ["2", "N"])
def test_stream_stays_channels_last_between_convolutions(make, run, batch) -> None:
    model = make(STREAM.replace("float[2,", f"float[{batch},"), **STREAM_ARRAYS)
    expected = run(model)

    rewrite(model, optimizations_for("onnxruntime"))

    turns = [node for node in model.graph if node.op_type == "Transpose"]
    orders = [list(node.attributes.get_ints("perm", [])) for node in turns]
    assert [0, 2, 1] not in orders
    assert op_histogram(model)["Reshape"] == 4
    np.testing.assert_allclose(run(model), expected, atol=ATOL)
    once = fingerprint(model)
    rewrite(model, optimizations_for("onnxruntime"))
    assert fingerprint(model) == once


def test_every_pass_has_a_name_of_verb_and_object() -> None:
    kinds = {kind for kinds in (OPTIMIZATIONS, *PER_RUNTIME.values()) for kind in kinds}

    ours = [kind.__name__ for kind in kinds if kind.__module__.startswith("mscsa_deploy")]
    assert len(ours) == len(set(ours)) >= 9
