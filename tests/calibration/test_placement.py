from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.calibration.histograms import least_squares_range
from mscsa_deploy.calibration.placement import match
from mscsa_deploy.calibration.recipe import FloatRule

from .conftest import net


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"nodes": ("gate.*",)}, ["gate", "gate_sigmoid", "gated"]),
        ({"op_types": ("Conv",)}, ["stem", "depthwise", "pointwise", "gate", "classifier"]),
        ({"op_types": ("Conv",), "nodes": ("gate",)}, ["gate"]),
        ({"first_convs": 1}, ["stem", "stem_relu"]),
        (
            {"first_convs": 3},
            ["stem", "stem_relu", "depthwise", "swish", "pointwise", "residual"],
        ),
        ({"last_convs": 1}, ["classifier"]),
        ({"min_kernel": 3}, ["stem", "depthwise"]),
        ({"channels": (1, 3)}, ["stem", "depthwise"]),
        ({"channels": (2, 3), "min_kernel": 3}, ["stem"]),
        ({"min_kernel": 4}, []),
        ({"downstream_of": ("AveragePool",)}, ["gate", "gate_sigmoid", "gated", "classifier"]),
        ({"downstream_of": ("AveragePool",), "op_types": ("Mul",)}, ["gated"]),
        ({"downstream_of": ("AveragePool",), "upstream_of": ("Mul",)}, ["gate", "gate_sigmoid"]),
        ({"op_types": ("Add", "Mul", "Conv"), "weightless": True}, ["residual", "gated"]),
        ({"op_types": ("Softmax",)}, []),
    ],
    ids=str,
)
def test_rules_match_the_nodes_they_describe(rule, expected):
    assert match(net(), FloatRule(reason="test", **rule)) == expected


def histogram(values, bins=2048):
    limit = np.abs(values).max()
    hist, edges = np.histogram(values, bins, range=(-limit, limit))
    return hist, edges, float(values.min()), float(values.max())


def rounding_error(values, low, high, levels=255):
    step = (high - low) / levels
    return float(((np.clip(np.round(values / step) * step, low, high) - values) ** 2).mean())


def test_least_squares_clips_outliers_and_only_those():
    generator = np.random.default_rng(0)
    plain = np.maximum(generator.standard_normal(100_000), 0)
    low, high = least_squares_range(*histogram(plain), levels=255)
    assert low == 0
    assert high > 0.7 * plain.max()
    # One value far away costs a hundredth of the others' precision: giving it up is right.
    outlier = np.append(plain, 60.0)
    low, high = least_squares_range(*histogram(outlier), levels=255)
    assert rounding_error(outlier, low, high) <= rounding_error(outlier, 0, 60)
    assert high <= 60


def test_least_squares_beats_extremes_on_heavy_tails():
    values = np.random.default_rng(1).standard_t(3, 200_000)
    low, high = least_squares_range(*histogram(values), levels=255)
    assert rounding_error(values, low, high) < 0.7 * rounding_error(values, values.min(), values.max())


def test_a_tensor_of_zeros_has_a_range():
    assert least_squares_range(np.array([0, 5]), np.array([0.0, 0.0, 0.0]), 0.0, 0.0, levels=255) == (0.0, 0.0)
