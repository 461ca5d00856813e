"""Task metrics against hand-computed numbers and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mscsa_deploy.errors import SpecError, UserError
from mscsa_deploy.parity.metrics import ConfusionMatrix, TopK, value

CLASSES = 4
masks = hnp.arrays(np.uint8, (3, 3, 4), elements=st.sampled_from([0, 1, 2, 3, 255]))
maps = hnp.arrays(np.uint8, (3, 3, 4), elements=st.integers(0, CLASSES - 1))


def counted(references, predictions, classes=CLASSES):
    confusion = ConfusionMatrix(classes)
    for reference, predicted in zip(references, predictions, strict=True):
        confusion.add(reference, predicted)
    return confusion


def brute_force(references, predictions):
    """Mean IoU and pixel accuracy by looping over pixels and classes."""
    pixels = [
        (int(true), int(guess))
        for reference, predicted in zip(references, predictions, strict=True)
        for true, guess in zip(reference.flat, predicted.flat, strict=True)
        if true != 255
    ]
    ious = []
    for label in range(CLASSES):
        shared = sum(true == guess == label for true, guess in pixels)
        union = sum(label in (true, guess) for true, guess in pixels)
        if union:
            ious.append(shared / union)
    right = sum(true == guess for true, guess in pixels)
    return 100 * sum(ious) / max(1, len(ious)), 100 * right / max(1, len(pixels))


def test_mean_iou_hand_computed():
    # class 0: shared 2 of union 3; class 1: 1 of 2; class 2 is only predicted: 0 of 1; class 3 never occurs
    reference = np.array([[0, 0, 1, 1, 255, 0]])
    predicted = np.array([[0, 0, 1, 2, 3, 1]])
    confusion = counted([reference], [predicted])
    expected = np.array([2 / 3, 1 / 3, 0.0])
    assert value(confusion.mean_iou()) == pytest.approx(100 * expected.mean())
    assert value(confusion.pixel_accuracy()) == pytest.approx(100 * 3 / 5)
    np.testing.assert_allclose(confusion.class_iou(), [*(100 * expected), np.nan])


@settings(max_examples=60, deadline=None)
@given(references=masks, predictions=maps)
def test_mean_iou_and_accuracy_equal_brute_force(references, predictions):
    confusion = counted(references, predictions)
    iou, accuracy = brute_force(references, predictions)
    assert value(confusion.mean_iou()) == pytest.approx(iou)
    assert value(confusion.pixel_accuracy()) == pytest.approx(accuracy)


@settings(max_examples=60, deadline=None)
@given(references=masks, predictions=maps)
def test_classes_that_nobody_counted_before_give_the_same_numbers(references, predictions):
    told, found = counted(references, predictions), counted(references, predictions, classes=None)
    parts = ConfusionMatrix(None)
    for reference, predicted in zip(references, predictions, strict=True):
        parts.extend(counted([reference], [predicted], classes=None))
    for each in (found, parts):
        assert value(each.mean_iou()) == value(told.mean_iou())
        assert value(each.pixel_accuracy()) == value(told.pixel_accuracy())
        assert each.num_classes <= CLASSES
        assert each.matrix.tolist() == told.matrix[: each.num_classes, : each.num_classes].tolist()


def test_classes_beyond_a_byte_are_counted_where_nothing_tells_their_number():
    confusion = counted([np.array([[0, 300, 300]])], [np.array([[0, 300, 1]])], classes=None)
    assert value(confusion.mean_iou()) == pytest.approx(100 * (1 + 0.5 + 0) / 3)
    with pytest.raises(SpecError, match=r"the class map holds class 70000, expected 0\.\.4095"):
        confusion.add(np.array([[0]]), np.array([[70000]]))


def test_mean_iou_sums_over_images_before_dividing():
    references = [np.zeros((1, 9), np.uint8), np.array([[0]], np.uint8)]
    predictions = [np.zeros((1, 9), np.uint8), np.array([[1]], np.uint8)]
    assert value(counted(references, predictions).mean_iou()) == pytest.approx((90.0 + 0.0) / 2)


def test_add_returns_the_image_and_keeps_the_sum():
    confusion = ConfusionMatrix(2)
    first = confusion.add(np.array([[0, 1]]), np.array([[1, 1]]))
    assert first.tolist() == [[0, 1], [0, 1]]
    confusion.add(np.array([[0, 1]]), np.array([[0, 1]]))
    assert confusion.matrix.tolist() == [[1, 1], [0, 2]]


@pytest.mark.parametrize(
    ("reference", "predicted", "message"),
    [
        pytest.param(np.zeros((2, 2), int), np.zeros((2, 3), int), "resize the class map", id="shape"),
        pytest.param(np.full((1, 1), 4), np.zeros((1, 1), int), "the mask holds class 4", id="mask range"),
        pytest.param(
            np.full((1, 1), CLASSES), np.zeros((1, 1), int), "reduce_zero_label = true", id="classes from one"
        ),
        pytest.param(np.full((1, 1), CLASSES + 1), np.zeros((1, 1), int), "class count and", id="far off"),
        pytest.param(np.zeros((1, 1), int), np.full((1, 1), 255), "the class map holds class 255", id="map range"),
        pytest.param(np.full((1, 1), -1), np.zeros((1, 1), int), "the mask holds class -1", id="negative"),
        pytest.param(np.zeros((1, 1)), np.zeros((1, 1), int), "integers", id="floats"),
    ],
)
def test_add_unfit_maps_refused(reference, predicted, message):
    with pytest.raises(SpecError, match=message):
        ConfusionMatrix(CLASSES).add(reference, predicted)


def test_add_fully_ignored_image_counts_nothing():
    confusion = counted([np.full((2, 2), 255)], [np.zeros((2, 2), int)])
    assert value(confusion.pixel_accuracy()) == 0.0
    assert confusion.images == 1


def test_top_k_hand_computed():
    top = TopK()
    top.add(np.array([[9.0, 1, 2, 3, 4, 5], [0, 9, 8, 7, 6, 5.5], [5, 4, 3, 2, 1, 0]]), np.array([0, 0, 1]))
    assert value(top.top(1)) == pytest.approx(100 / 3)
    assert value(top.top(5)) == pytest.approx(200 / 3)


def test_top_k_constant_scores_are_right_by_class_order_only():
    top = TopK()
    top.add(np.zeros((10, 10)), np.arange(10))
    assert value(top.top(1)) == 10.0
    assert value(top.top(5)) == 50.0


def test_top_k_nan_is_wrong():
    top = TopK()
    top.add(np.array([[np.nan, 0.0], [0.0, 1.0]]), np.array([1, 1]))
    assert value(top.top(1)) == 50.0


@settings(max_examples=40, deadline=None)
@given(
    scores=hnp.arrays(np.float32, (5, 7), elements=st.integers(-3, 3).map(float)),
    labels=hnp.arrays(np.int64, 5, elements=st.integers(0, 6)),
    k=st.integers(1, 7),
)
def test_top_k_equals_stable_sorting(scores, labels, k):
    top = TopK()
    top.add(scores, labels)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert value(top.top(k)) == pytest.approx(
        100 * np.mean([label in row for label, row in zip(labels, order, strict=True)])
    )


def test_metrics_without_images_refused():
    with pytest.raises(UserError, match="no image"):
        ConfusionMatrix(2).mean_iou()
    with pytest.raises(UserError, match="no image"):
        TopK().top(1)
