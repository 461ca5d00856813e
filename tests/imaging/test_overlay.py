from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from mscsa_deploy.errors import SpecError
from mscsa_deploy.imaging import overlay as module
from mscsa_deploy.imaging.overlay import OPACITY, overlay, shares, with_legend
from mscsa_deploy.imaging.palette import default_palette

PALETTE = ((0, 0, 0), (255, 0, 0), (0, 0, 255))


@pytest.fixture
def gray():
    return np.full((8, 12, 3), 100, np.uint8)


def test_background_and_unknown_ids_stay_untinted(gray):
    classes = np.zeros((8, 12), np.uint8)
    assert np.array_equal(overlay(gray, classes, PALETTE), gray)
    assert np.array_equal(overlay(gray, classes + 255, PALETTE), gray)


def test_objects_take_their_color(gray):
    classes = np.ones((8, 12), np.uint8)
    red = round(100 * (1 - OPACITY) + 255 * OPACITY)
    dark = round(100 * (1 - OPACITY))
    assert overlay(gray, classes, PALETTE)[4, 4].tolist() == [red, dark, dark]


def test_borders_between_classes_are_drawn(gray):
    classes = np.zeros((8, 12), np.uint8)
    classes[:, 6:] = 2
    tinted = overlay(gray, classes, PALETTE)
    assert (tinted[:, 6] == 255).all()
    assert (tinted[:, 5] == 100).all()


@pytest.mark.parametrize("background", [0, 2, None])
def test_every_pixel_is_mixed_by_its_class_wherever_strips_end(monkeypatch, background):
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (37, 23, 3), dtype=np.uint8)
    classes = np.kron(random.integers(0, 5, (13, 8)), np.ones((3, 3), int))[:37, :23]
    colors = np.array([*PALETTE, (0, 0, 0), (0, 0, 0)], np.float32)
    tinted = (classes < len(PALETTE)) & (classes != background)
    share = np.where(tinted, np.float32(OPACITY), np.float32(0))[..., None]
    expected = np.rint(image * (1 - share) + colors[classes] * share).astype(np.uint8)
    known = np.minimum(classes, len(PALETTE))
    expected[1:][known[1:] != known[:-1]] = 255
    expected[:, 1:][known[:, 1:] != known[:, :-1]] = 255
    for pixels in (1, 23 * 4, 1 << 20):
        monkeypatch.setattr(module, "STRIP_PIXELS", pixels)
        assert np.array_equal(overlay(image, classes, PALETTE, background=background), expected)


def test_a_large_picture_takes_little_more_memory_than_its_answer():
    image, classes = np.zeros((2000, 2000, 3), np.uint8), np.zeros((2000, 2000), np.uint8)
    tracemalloc.start()
    try:
        overlay(image, classes, PALETTE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * image.nbytes


def test_picture_is_not_changed(gray):
    before = gray.copy()
    overlay(gray, np.ones((8, 12), np.uint8), PALETTE)
    assert np.array_equal(gray, before)


def test_class_map_of_another_size_is_refused(gray):
    with pytest.raises(SpecError, match=r"\[4, 4\]"):
        overlay(gray, np.zeros((4, 4), np.uint8), PALETTE)


def test_shares_are_sorted_and_leave_out_specks():
    classes = np.zeros((100, 100), np.uint8)
    classes[:30] = 2
    classes[99, :5] = 1
    for dtype in (np.uint8, np.uint16, np.int64):
        assert shares(classes.astype(dtype), 3) == [(0, 0.6995), (2, 0.3)]
        assert shares(classes.astype(dtype), 1) == [(0, 0.6995)]
        assert shares(classes.astype(dtype), 300) == [(0, 0.6995), (2, 0.3)]


def test_legend_names_the_classes_below_the_picture():
    picture = np.zeros((256, 256, 3), np.uint8)
    classes = np.zeros((256, 256), np.uint8)
    classes[:64] = 1
    one = with_legend(picture, classes, ("background", "bird", "fish"), PALETTE)
    assert one.shape[1] == 256
    assert one.shape[0] > 256
    assert (one[256:] == PALETTE[1]).all(axis=-1).any()
    assert not (one[256:] == PALETTE[2]).all(axis=-1).any()


def test_legend_wraps_when_many_classes_are_there():
    palette = default_palette(20)
    labels = [f"a rather long class name {number}" for number in range(20)]
    few = with_legend(np.zeros((200, 200, 3), np.uint8), np.zeros((200, 200), np.uint8), labels, palette)
    classes = np.repeat(np.arange(20, dtype=np.uint8), 2000).reshape(200, 200)
    many = with_legend(np.zeros((200, 200, 3), np.uint8), classes, labels, palette)
    assert many.shape[0] > few.shape[0] + 100


def test_palette_starts_black_and_repeats_no_color():
    palette = default_palette(256)
    assert palette[0] == (0, 0, 0)
    assert len(set(palette)) == 256
    assert default_palette(13) == palette[:13]


def test_neighboring_palette_colors_are_far_apart():
    palette = np.array(default_palette(40)[1:], int)
    # Levels summed over the channels; 80 are plain to see side by side.
    first = palette[:20]
    distances = np.abs(first[:, None] - first[None]).sum(axis=-1)[~np.eye(20, dtype=bool)]
    assert distances.min() >= 80
    assert np.abs(np.diff(palette, axis=0)).sum(axis=1).min() >= 200
