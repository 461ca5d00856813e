"""The interval of a drop: exact cases, agreement with the textbook formula, and reproducibility."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.parity.bootstrap import paired_drop
from mscsa_deploy.parity.metrics import ConfusionMatrix, Fraction


def hits(right):
    right = np.asarray(right, dtype=np.int64)
    return Fraction(right, np.ones_like(right))


def test_paired_drop_equal_sides_is_exactly_zero():
    same = hits([0, 1, 1, 0, 1])
    drop = paired_drop(same, same)
    assert (drop.points, drop.low, drop.high) == (0.0, 0.0, 0.0)
    assert drop.reference == drop.value == 60.0


def test_paired_drop_interval_agrees_with_the_normal_approximation():
    random = np.random.default_rng(1)
    before = random.random(2000) < 0.8
    after = np.where(random.random(2000) < 0.05, ~before, before)
    drop = paired_drop(hits(before), hits(after))
    difference = before.astype(float) - after.astype(float)
    half = 1.96 * 100 * difference.std() / np.sqrt(2000)
    assert drop.points == pytest.approx(100 * difference.mean())
    # 2000 draws place the ends of the interval to about 5 % of its half-width
    assert drop.low == pytest.approx(drop.points - half, abs=0.15 * half)
    assert drop.high == pytest.approx(drop.points + half, abs=0.15 * half)


def test_paired_drop_pairing_narrows_the_interval():
    random = np.random.default_rng(2)
    before = random.random(500) < 0.5
    after = before.copy()
    after[:5] = False
    paired = paired_drop(hits(before), hits(after))
    unpaired = paired_drop(hits(before), hits(random.permutation(after)))
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 3


def test_paired_drop_same_seed_same_interval_whatever_the_chunks(monkeypatch):
    before, after = hits([1, 1, 0, 1] * 50), hits([1, 0, 0, 1] * 50)
    whole = paired_drop(before, after, seed=7)
    monkeypatch.setattr("mscsa_deploy.parity.bootstrap._CELLS_PER_CHUNK", 1000)
    assert paired_drop(before, after, seed=7) == whole
    assert paired_drop(before, after, seed=8) != whole


def test_paired_drop_of_mean_iou_resamples_images():
    random = np.random.default_rng(3)
    sides = ConfusionMatrix(5), ConfusionMatrix(5)
    for _ in range(40):
        mask = random.integers(0, 5, (16, 16))
        for side, noise in zip(sides, (0.1, 0.2), strict=True):
            side.add(mask, np.where(random.random(mask.shape) < noise, (mask + 1) % 5, mask))
    drop = paired_drop(sides[0].mean_iou(), sides[1].mean_iou())
    # a pixel error rate e moves IoU to (1-e)/(1+e): 81.8 % and 66.7 %
    assert drop.points == pytest.approx(100 * (0.9 / 1.1 - 0.8 / 1.2), abs=1.0)
    assert drop.low < drop.points < drop.high
    assert drop.high - drop.low < 4.0


def test_paired_drop_unequal_images_refused():
    with pytest.raises(UserError, match="same images"):
        paired_drop(hits([1, 0]), hits([1]))
