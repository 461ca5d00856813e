"""Parity numbers against hand-computed and whole-array ones."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mscsa_deploy.core.config import to_json
from mscsa_deploy.errors import SpecError, UserError
from mscsa_deploy.parity import compare as module
from mscsa_deploy.parity.compare import Comparator

from .conftest import compare

REFERENCE = np.array([[[0.0, 4.0], [1.0, 2.0]]], dtype=np.float32)  # (1 image, 2 classes, 2 positions)


def test_compare_hand_computed_gives_each_number():
    candidate = REFERENCE + np.array([[[0.0, 0.0], [-2.0, 0.0]]], dtype=np.float32)
    parity = compare(REFERENCE, candidate)
    assert parity.max_abs == 2.0
    assert parity.max_abs_over_range == 2.0 / 4.0
    assert parity.cosine == pytest.approx((16 + 4 - 1) / math.sqrt(21 * 21))
    assert parity.argmax_agreement == 50.0  # the first position changes from class 1 to class 0
    assert parity.sqnr_db == pytest.approx(10 * math.log10(21 / 4))


def test_compare_equal_outputs_are_exact():
    parity = compare(REFERENCE, REFERENCE.copy())
    assert (parity.max_abs, parity.max_abs_over_range, parity.cosine) == (0.0, 0.0, 1.0)
    assert (parity.argmax_agreement, parity.sqnr_db) == (100.0, math.inf)


def test_compare_streamed_equals_whole(monkeypatch):
    monkeypatch.setattr(module, "_SLAB", 7)
    random = np.random.default_rng(0)
    one = random.normal(size=(6, 5, 4, 3)).astype(np.float32)
    other = one + random.normal(scale=0.3, size=one.shape).astype(np.float32)
    comparator = Comparator()
    for start in range(0, 6, 2):
        comparator.add(one[start : start + 2], other[start : start + 2])
    parity = comparator.result()
    wide, wider = one.astype(np.float64), other.astype(np.float64)
    assert parity.images == 6
    assert parity.max_abs == np.abs(wider - wide).max()
    assert parity.max_abs_over_range == pytest.approx(np.abs(wider - wide).max() / (wide.max() - wide.min()))
    assert parity.cosine == pytest.approx((wide * wider).sum() / np.sqrt((wide**2).sum() * (wider**2).sum()))
    assert parity.argmax_agreement == pytest.approx(100 * (one.argmax(1) == other.argmax(1)).mean())
    assert parity.sqnr_db == pytest.approx(10 * np.log10((wide**2).sum() / ((wider - wide) ** 2).sum()))


def test_compare_class_maps_has_agreement_only():
    reference = np.array([[[0, 1], [2, 3]]], dtype=np.uint8)
    parity = compare(reference, np.array([[[0, 1], [2, 250]]], dtype=np.uint8))
    assert parity.argmax_agreement == 75.0
    assert (parity.max_abs, parity.cosine, parity.sqnr_db) == (None, None, None)


def test_compare_class_maps_of_other_width_are_comparable():
    reference = np.zeros((1, 2, 2), dtype=np.uint8)
    assert compare(reference, reference.astype(np.int64)).argmax_agreement == 100.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "-inf"])
def test_compare_nonfinite_candidate_is_infinitely_far(value):
    candidate = REFERENCE.copy()
    candidate[0, 0, 1] = value
    parity = compare(REFERENCE, candidate)
    assert parity.nonfinite == 1
    assert parity.max_abs == math.inf
    assert parity.cosine == 0.0
    assert parity.argmax_agreement == 50.0  # +inf would win the right class; it still does not count


def test_compare_nan_on_both_sides_never_agrees():
    both = REFERENCE.copy()
    both[0, 0, 0] = np.nan
    assert compare(both, both.copy()).nonfinite == 1


def test_compare_same_infinity_on_both_sides_agrees():
    both = REFERENCE.copy()
    both[0, 0, 0] = -np.inf
    parity = compare(both, both.copy())
    assert (parity.nonfinite, parity.max_abs, parity.argmax_agreement) == (0, 0.0, 100.0)


def test_compare_names_the_worst_images():
    reference = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    candidate = np.array([[0.0, 1.0], [0.5, 0.4], [0.0, 9.0]], dtype=np.float32)
    comparator = Comparator()
    comparator.add(reference, candidate, names=("a", "b", "c"))
    furthest, least = comparator.result().worst
    assert (furthest.name, least.name) == ("c", "b")


def test_compare_single_class_has_no_agreement():
    one = np.ones((1, 1, 2, 2), dtype=np.float32)
    assert compare(one, one).argmax_agreement is None


def test_compare_constant_reference_has_no_range():
    zeros = np.zeros((1, 2, 2), dtype=np.float32)
    parity = compare(zeros, zeros + 1)
    assert (parity.max_abs_over_range, parity.cosine, parity.sqnr_db) == (math.inf, 0.0, -math.inf)


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(np.zeros((1, 2, 3), np.float32), id="shape"),
        pytest.param(np.zeros((1, 2, 2), np.uint8), id="kind"),
    ],
)
def test_compare_unlike_outputs_refused(candidate):
    with pytest.raises(SpecError, match="cannot be compared"):
        compare(np.zeros((1, 2, 2), np.float32), candidate)


def test_compare_nothing_refused():
    with pytest.raises(UserError, match="nothing was compared"):
        Comparator().result()


def test_numbers_infinity_becomes_null_in_json():
    plain = json.loads(to_json(compare(REFERENCE, REFERENCE.copy()).numbers()))
    assert plain["max_abs"] == 0.0
    assert plain["sqnr_db"] is None
