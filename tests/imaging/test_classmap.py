"""The fast class map equals the plain one bit for bit, and PyTorch's upsampling within rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mscsa_deploy.errors import SpecError, StageError
from mscsa_deploy.imaging.classmap import best_classes, class_map, resize_nearest


def blobs(classes, height, width, *, seed=0, step=0.0):
    """Logits as a trained network gives them: a few smooth regions, everything else far below."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    logits = np.full((classes, height, width), -8.0, dtype=np.float32)
    for label in random.choice(classes, size=min(classes, 5), replace=False):
        center = random.uniform(0, [height, width])
        distance = np.hypot(rows - center[0], columns - center[1])
        logits[label] = 4.0 - 0.3 * distance + random.normal(scale=0.3, size=distance.shape)
    return np.round(logits / step).astype(np.float32) * np.float32(step) if step else logits


def plain_class_map(logits, size):
    """Every class at full size, then argmax."""
    taps = []
    for source, target in zip(logits.shape[1:], size, strict=True):
        place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
        first = np.floor(place).astype(int)
        taps.append((first, np.minimum(first + 1, source - 1), (place - first).astype(np.float32)))
    (top, bottom, down), (left, right, across) = taps
    wide = logits[:, :, left] + (logits[:, :, right] - logits[:, :, left]) * across
    return np.argmax(wide[:, top] + (wide[:, bottom] - wide[:, top]) * down[:, None], axis=0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    classes=st.integers(1, 9),
    small=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    large=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    step=st.sampled_from([0.0, 0.25]),
)
def test_class_map_equals_plain_form(seed, classes, small, large, step):
    logits = blobs(classes, *small, seed=seed, step=step)
    np.testing.assert_array_equal(class_map(logits, large), plain_class_map(logits, large))


@pytest.mark.parametrize(("classes", "size"), [(13, 512), (150, 256), (300, 128)])
def test_class_map_full_size_equals_plain_form(classes, size):
    logits = blobs(classes, size // 8, size // 8)
    fast = class_map(logits, (size, size))
    assert fast.dtype == (np.uint16 if classes > 256 else np.uint8)
    np.testing.assert_array_equal(fast, plain_class_map(logits, (size, size)))


def test_class_map_noise_equals_plain_form():
    logits = np.random.default_rng(0).normal(size=(20, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(class_map(logits, (64, 64)), plain_class_map(logits, (64, 64)))


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (8, 8), (5, 3)])
def test_class_map_equals_torch(size):
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(1).normal(size=(6, 8, 8)).astype(np.float32)
    wide = torch.nn.functional.interpolate(
        torch.from_numpy(logits).double()[None], size=size, mode="bilinear", align_corners=False
    )[0]
    first, second = wide.topk(2, dim=0).values
    # float32 sums of values near 1 differ from exact ones by about 1e-7: closer contests may go either way
    clear = (first - second).numpy() > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(class_map(logits, size)[clear], wide.argmax(0).numpy()[clear])


def test_class_map_of_equal_values_lower_class_wins():
    assert not class_map(np.zeros((5, 4, 4), np.float32), (32, 32)).any()


def test_class_map_nan_refused():
    logits = np.zeros((2, 2, 2), np.float32)
    logits[1, 0, 0] = np.nan
    with pytest.raises(StageError, match="NaN"):
        class_map(logits, (4, 4))


def test_class_map_batch_refused():
    with pytest.raises(SpecError, match="expected \\(classes, h, w\\)"):
        class_map(np.zeros((1, 2, 2, 2), np.float32), (4, 4))


def test_resize_nearest_takes_the_class_under_the_center():
    classes = np.array([[1, 2], [3, 4]], np.uint16)
    assert resize_nearest(classes, (4, 2)).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert resize_nearest(resize_nearest(classes, (9, 7)), (2, 2)).tolist() == classes.tolist()
    assert resize_nearest(classes, (3, 3)).dtype == np.uint16


def test_resize_nearest_equals_pillow():
    image = pytest.importorskip("PIL.Image")
    classes = np.random.default_rng(0).integers(0, 9, (31, 17), dtype=np.uint8)
    expected = np.asarray(image.fromarray(classes).resize((40, 23), image.Resampling.NEAREST))
    np.testing.assert_array_equal(resize_nearest(classes, (23, 40)), expected)


def test_best_classes_are_softmax_probabilities_the_best_first():
    (first, most), (second, less) = best_classes(np.log(np.array([1.0, 6.0, 3.0], np.float32)), 2)
    assert (first, second) == (1, 2)
    assert (most, less) == (pytest.approx(0.6), pytest.approx(0.3))


def test_best_classes_of_equal_logits_lower_class_first():
    assert [index for index, _ in best_classes(np.zeros(9, np.float32))] == [0, 1, 2, 3, 4]


def test_best_classes_nan_refused():
    with pytest.raises(StageError, match="NaN"):
        best_classes(np.array([0.0, np.nan], np.float32))
