"""What accelerators lack is written with what they have: the numbers stay, and what does not fit stays."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.graphs.accelerators import ForAccelerators
from mscsa_deploy.graphs.check import fingerprint, op_histogram
from mscsa_deploy.graphs.match import constant
from mscsa_deploy.graphs.rewrite import rewrite

GRAPH = "g (float[1,4,6,6] x) => (float[{out}] y)"
NORM = {"scale": (4,), "shift": (4,), "mean": (4,), "var": (4,)}
CONV = {"w": (4, 4, 1, 1), "c": (4,)}
TWICE, UNEVEN = np.array([1, 4, 12, 12]), np.array([1, 4, 7, 9])

MATCHES = {
    "gate_of_a_convolution": (
        "v = Conv(x, w, c)  y = HardSigmoid <alpha = 0.1666667> (v)",
        CONV,
        "1,4,6,6",
        {"Conv": 1, "Clip": 1},
    ),
    "gate_of_a_convolution_without_bias": (
        "v = Conv(x, w)  y = HardSigmoid(v)",
        {"w": (4, 4, 1, 1)},
        "1,4,6,6",
        {"Conv": 1, "Clip": 1},
    ),
    "gate_of_what_others_read": (
        "v = Conv(x, w, c)  a = HardSigmoid <beta = 0.4> (v)  y = Mul(a, v)",
        CONV,
        "1,4,6,6",
        {"Conv": 1, "Mul": 2, "Add": 1, "Clip": 1},
    ),
    "hard_swish": ("y = HardSwish(x)", {}, "1,4,6,6", {"Add": 1, "Clip": 1, "Mul": 2}),
    "norm": (
        "a = BatchNormalization(x, scale, shift, mean, var)  y = Relu(a)",
        NORM,
        "1,4,6,6",
        {"Mul": 1, "Add": 1, "Relu": 1},
    ),
    "sizes": (
        'y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (x, , , sizes)',
        {"sizes": TWICE},
        "1,4,12,12",
        {"Resize": 1},
    ),
    "sizes_that_are_no_multiples": (
        'y = Resize <mode = "linear"> (x, , , sizes)',
        {"sizes": np.array([1, 4, 9, 3])},
        "1,4,9,3",
        {"Resize": 1},
    ),
    "scales_without_region": (
        'y = Resize <mode = "linear"> (x, , scales)',
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        "1,4,12,12",
        {"Resize": 1},
    ),
}
NEAR_MISSES = {
    "training": (
        "a, m, v = BatchNormalization <training_mode = 1> (x, scale, shift, mean, var)  y = Relu(a)",
        NORM,
        "1,4,6,6",
    ),
    "norm_that_is_the_output": ("y = BatchNormalization(x, scale, shift, mean, var)", NORM, "1,4,6,6"),
    "norm_of_numbers_that_are_computed": (
        "s = Abs(scale)  a = BatchNormalization(x, s, shift, mean, var)  y = Relu(a)",
        NORM,
        "1,4,6,6",
    ),
    # 7 / 6 in float32, times 6, is a little less than 7.
    "sizes_that_scales_would_miss": ('y = Resize <mode = "linear"> (x, , , sizes)', {"sizes": UNEVEN}, "1,4,7,9"),
    "sizes_of_some_axes": (
        'y = Resize <mode = "linear", axes = [2, 3]> (x, , , sizes)',
        {"sizes": TWICE[2:]},
        "1,4,12,12",
    ),
    "sizes_that_keep_the_aspect": (
        'y = Resize <mode = "linear", keep_aspect_ratio_policy = "not_larger"> (x, , , sizes)',
        {"sizes": UNEVEN},
        "1,4,7,7",
    ),
    "sizes_that_are_computed": ("n = Abs(sizes)  y = Resize(x, , , n)", {"sizes": TWICE}, "1,4,12,12"),
    "region_that_is_read": (
        'y = Resize <mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize"> (x, region, , sizes)',
        {"sizes": TWICE, "region": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)},
        "1,4,12,12",
    ),
}


def graph(make, body, arrays, out, **settings):
    return make(f"{GRAPH.format(out=out)} {{ {body} }}", **settings, **arrays)


@pytest.mark.parametrize("name", MATCHES)
def test_operators_are_rewritten_and_the_numbers_stay(make, run, name):
    body, arrays, out, left = MATCHES[name]
    model = graph(make, body, arrays, out)
    expected = run(model)

    rewrite(model, [ForAccelerators()])

    assert op_histogram(model) == dict(sorted(left.items()))
    # A few float32 roundings of numbers around one; Resize is told the very scales it would make of the sizes.
    np.testing.assert_allclose(run(model), expected, rtol=0, atol=0 if "Resize" in left else 2e-6)
    once = fingerprint(model)
    rewrite(model, [ForAccelerators()])
    assert fingerprint(model) == once


@pytest.mark.parametrize(("body", "arrays", "out"), NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_what_does_not_fit_stays(make, body, arrays, out):
    model = graph(make, body, arrays, out)
    before = fingerprint(model)

    rewrite(model, [ForAccelerators()])

    assert fingerprint(model) == before


@pytest.mark.parametrize("name", ["sizes", "scales_without_region"])
def test_no_input_of_resize_is_left_out_or_empty(make, name):
    body, arrays, out, _ = MATCHES[name]
    model = graph(make, body, arrays, out)

    rewrite(model, [ForAccelerators()])

    (node,) = model.graph
    # The region from 0 to 1 along each of four axes, a scale for each.
    assert [constant(value).tolist() for value in node.inputs[1:]] == [[0] * 4 + [1] * 4, [1, 1, 2, 2]]


def test_before_opset_11_nothing_changes(make):
    model = graph(make, "y = HardSigmoid(x)", {}, "1,4,6,6", opset=10)
    before = fingerprint(model)

    rewrite(model, [ForAccelerators()])

    assert fingerprint(model) == before
