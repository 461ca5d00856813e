from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.graphs.check import fingerprint, op_histogram
from mscsa_deploy.graphs.fold_batch_norm import FoldBatchNorm
from mscsa_deploy.graphs.rewrite import rewrite

# Weights are moved by factors near 1; every fold rounds each of them once or twice in float32.
ATOL = 2e-5

BN = "BatchNormalization<epsilon=0.01>"
NORM = {"scale": (4,), "shift": (4,), "mean": (4,), "var": (4,)}
IN = "g (float[2,4,7,6] x) => "
DOWN = "Conv<pads=[1,1,1,1], strides=[2,2], group=4>(n, k)"
MATCHES = {
    "conv_before": (IN + f"(float[2,4,7,6] y) {{ a = Conv(x, w) n = {BN}(a, scale, shift, mean, var) y = Relu(n) }}",
                    {"w": (4, 4, 1, 1)}),
    "pointwise_behind": (IN + f"(float[2,5,7,6] y) {{ n = {BN}(x, scale, shift, mean, var) y = Conv(n, w, b) }}",
                         {"w": (5, 4, 1, 1), "b": (5,)}),
    "unpadded_grouped_behind": (
        IN + f"(float[2,6,5,4] y) {{ n = {BN}(x, scale, shift, mean, var) y = Conv<group=2>(n, w) }}",
        {"w": (6, 2, 3, 3)}),
    "padded_strided_depthwise_behind": (
        IN + f"(float[2,4,4,3] y) {{ n = {BN}(x, scale, shift, mean, var) a = {DOWN} y = Relu(a) }}",
        {"k": (4, 1, 3, 3)}),
    "downsampled_and_projected": (
        IN + f"(float[2,5,4,3] y, float[2,3,7,6] z) {{ n = {BN}(x, scale, shift, mean, var) a = {DOWN} "
        "c = Conv(a, w, b) y = Relu(c) z = Conv(n, v) }",
        {"k": (4, 1, 3, 3), "w": (5, 4, 1, 1), "b": (5,), "v": (3, 4, 1, 1)}),
    "cascade_of_downsamplings": (
        IN + f"(float[2,5,2,2] y) {{ n = {BN}(x, scale, shift, mean, var) a = {DOWN} "
        "c = Conv<pads=[1,1,1,1], strides=[2,2], group=4>(a, l) e = Conv(c, w) y = Relu(e) }",
        {"k": (4, 1, 3, 3), "l": (4, 1, 3, 3), "w": (5, 4, 1, 1)}),
    "split_behind": (
        IN + f"(float[2,5,7,6] y) {{ n = {BN}(x, scale, shift, mean, var) p, q, r = Split<axis=1>(n, sizes) "
        "a = Conv(p, w) c = Conv(q, v) y = Add(a, c) }",
        {"sizes": np.array([1, 2, 1]), "w": (5, 1, 1, 1), "v": (5, 2, 1, 1)}),
    "mean_and_linear_behind": (
        IN + f"(float[2,5] y) {{ n = {BN}(x, scale, shift, mean, var) m = ReduceMean<keepdims=0>(n, axes) "
        "y = Gemm<transB=1>(m, w, b) }",
        {"axes": np.array([2, 3]), "w": (5, 4), "b": (5,)}),
    "pool_that_skips_padding": (
        IN + f"(float[2,5,4,3] y) {{ n = {BN}(x, scale, shift, mean, var) "
        "m = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(n) y = Conv(m, w) }",
        {"w": (5, 4, 1, 1)}),
}  # fmt: skip
NEAR_MISSES = {
    "activation_behind": (IN + f"(float[2,4,7,6] y) {{ n = {BN}(x, scale, shift, mean, var) y = Relu(n) }}", {}),
    "padded_stride_one": (
        IN + f"(float[2,4,7,6] y) {{ n = {BN}(x, scale, shift, mean, var) "
        "y = Conv<pads=[1,1,1,1], group=4>(n, k) }", {"k": (4, 1, 3, 3)}),
    "one_reader_cannot": (
        IN + f"(float[2,4,7,6] y) {{ n = {BN}(x, scale, shift, mean, var) a = Conv(n, w) y = Add(a, n) }}",
        {"w": (4, 4, 1, 1)}),
    "is_an_output": (
        IN + f"(float[2,4,7,6] y, float[2,4,7,6] n) {{ n = {BN}(x, scale, shift, mean, var) y = Conv(n, w) }}",
        {"w": (4, 4, 1, 1)}),
    "weights_computed": (
        IN + f"(float[2,4,7,6] y) {{ n = {BN}(x, scale, shift, mean, var) u = Relu(w) y = Conv(n, u) }}",
        {"w": (4, 4, 1, 1)}),
    "pool_that_counts_padding": (
        IN + f"(float[2,5,4,3] y) {{ n = {BN}(x, scale, shift, mean, var) "
        "m = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], count_include_pad=1>(n) y = Conv(m, w) }",
        {"w": (5, 4, 1, 1)}),
    "convolution_read_twice": (
        IN + f"(float[2,4,7,6] y) {{ a = Conv(x, w) n = {BN}(a, scale, shift, mean, var) c = Relu(n) y = Add(a, c) }}",
        {"w": (4, 4, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize(("text", "arrays"), [pytest.param(*case, id=name) for name, case in MATCHES.items()])
def test_norm_is_folded_and_numbers_stay(make, run, text, arrays) -> None:
    model = make(text, **NORM, **arrays)
    expected = run(model)

    rewrite(model, [FoldBatchNorm()])

    assert "BatchNormalization" not in op_histogram(model)
    np.testing.assert_allclose(run(model), expected, atol=ATOL)


@pytest.mark.parametrize(("text", "arrays"), [pytest.param(*case, id=name) for name, case in NEAR_MISSES.items()])
def test_norm_that_cannot_be_folded_is_left_alone(make, text, arrays) -> None:
    model = make(text, **NORM, **arrays)
    before = fingerprint(model)

    rewrite(model, [FoldBatchNorm()])

    assert fingerprint(model) == before


@pytest.mark.parametrize(("text", "arrays"), [pytest.param(*case, id=name) for name, case in MATCHES.items()])
def test_second_run_changes_nothing(make, text, arrays) -> None:
    model = make(text, **NORM, **arrays)
    rewrite(model, [FoldBatchNorm()])
    once = fingerprint(model)

    rewrite(model, [FoldBatchNorm()])

    assert fingerprint(model) == once


def test_border_of_zero_padding_is_exact(make, run) -> None:
    text, arrays = MATCHES["padded_strided_depthwise_behind"]
    model = make(text, **{**NORM, "shift": np.full(4, 100, np.float32)}, **arrays)
    expected = run(model)

    rewrite(model, [FoldBatchNorm()])

    # Shifts of 100: a bias instead of the map would be off by up to hundreds in the first row and column.
    np.testing.assert_allclose(run(model), expected, rtol=1e-5, atol=1e-3)


def test_weights_shared_with_another_convolution_stay_its_own(make, run) -> None:
    text = (
        IN + f"(float[2,4,7,6] y) {{ n = {BN}(x, scale, shift, mean, var) "
        "a = Conv(n, w) c = Conv(x, w) y = Add(a, c) }"
    )
    model = make(text, **NORM, w=(4, 4, 1, 1))
    expected = run(model)

    rewrite(model, [FoldBatchNorm()])

    np.testing.assert_allclose(run(model), expected, atol=ATOL)
