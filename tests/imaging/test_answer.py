"""Answers from logits against the plain way of computing them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mscsa_deploy.errors import SpecError
from mscsa_deploy.imaging.answer import best_classes, class_map


def _plain(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """All classes, whole picture, in double precision."""

    def matrix(source: int, target: int) -> np.ndarray:
        center = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
        low = np.floor(center).astype(int)
        weights = np.zeros((target, source))
        np.add.at(weights, (np.arange(target), low), 1 - (center - low))
        np.add.at(weights, (np.arange(target), np.minimum(low + 1, source - 1)), center - low)
        return weights

    rows, columns = matrix(logits.shape[1], size[0]), matrix(logits.shape[2], size[1])
    return np.einsum("yh,chw,xw->cyx", rows, logits.astype(np.float64), columns).argmax(axis=0)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6), st.integers(0, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_class_map_equals_upsampling_everything(classes: int, h: int, w: int, extra: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(classes, h, w)).astype(np.float32)
    size = (h + extra, w * 3)
    got = class_map(logits, size)
    assert got.dtype == np.uint8
    # Continuous random logits: float32 and float64 can disagree only where two classes tie within rounding.
    assert np.mean(got != _plain(logits, size)) <= 0.01


def test_class_map_is_uint16_past_256_classes() -> None:
    logits = np.zeros((300, 2, 2), np.float32)
    logits[299] = 1
    got = class_map(logits, (4, 4))
    assert got.dtype == np.uint16
    assert (got == 299).all()


def test_equal_classes_give_the_lowest() -> None:
    assert (class_map(np.ones((7, 3, 3), np.float32), (9, 9)) == 0).all()


@pytest.mark.parametrize("shape", [(3, 4), (3, 9, 4)], ids=["rank", "larger than the result"])
def test_class_map_refuses_what_it_cannot_upsample(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="cannot become a class map of 8x8"):
        class_map(np.zeros(shape, np.float32), (8, 8))


def test_best_classes_are_softmax_probabilities_in_order() -> None:
    got = best_classes(np.log(np.array([0.1, 0.6, 0.3], np.float32)), 2)
    assert [index for index, _ in got] == [1, 2]
    assert [p for _, p in got] == pytest.approx([0.6, 0.3], rel=1e-6)
