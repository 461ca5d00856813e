from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from mscsa_deploy.core.config import convert, to_plain
from mscsa_deploy.errors import SpecError, UserError
from mscsa_deploy.imaging.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocess,
    default_preprocess,
    fit,
    model_input,
    preprocess,
)

# Pillow resizes 8-bit values in two fixed-point passes, each rounding to whole levels: up to about one level off
# the real-valued result, in units of the input that is 1 / 255 / min(std).
ONE_LEVEL = 1.0 / 255 / min(IMAGENET_STD)


@pytest.fixture
def photo():
    generator = np.random.default_rng(3)
    coarse = generator.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((130, 90), Image.Resampling.BICUBIC))


def normalized(pixels):
    return (pixels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)


def torch_resized(image, size, mode):
    """The real-valued antialiased resize of an implementation that is not Pillow's."""
    tensor = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(tensor, size=size, mode=mode, antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).clamp(0, 255).numpy()


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (160, 224)], ids=str)
def test_segmentation_stretches_like_an_antialiased_bilinear_resize(photo, size):
    ours = preprocess(photo, default_preprocess("seg", size))
    theirs = normalized(torch_resized(photo, size, "bilinear")).transpose(2, 0, 1)[None]
    assert ours.shape == (1, 3, *size)
    assert np.abs(ours - theirs).max() <= ONE_LEVEL


def test_classification_resizes_the_short_side_and_crops_the_center(photo):
    ours = preprocess(photo, default_preprocess("cls", (56, 56)))
    full = torch_resized(photo, (64, round(130 * 64 / 90)), "bicubic")
    left = (full.shape[1] - 56) // 2
    theirs = normalized(full[4:60, left : left + 56]).transpose(2, 0, 1)[None]
    # Bicubic overshoots are clipped after each of Pillow's passes and only once in the reference.
    assert np.abs(ours - theirs).max() <= 2 * ONE_LEVEL


def test_usual_classification_is_224_out_of_256_bicubic():
    spec = default_preprocess("cls", (224, 224))
    assert (spec.short_side, spec.resize, spec.interpolation) == (256, "short_side_crop", "bicubic")


def test_same_size_is_only_normalized(photo):
    ours = preprocess(photo, default_preprocess("seg", photo.shape[:2]))
    # Exact but for the last rounding to float32.
    np.testing.assert_allclose(ours[0].transpose(1, 2, 0), normalized(photo), rtol=1e-6, atol=1e-7)


def test_result_is_contiguous_float32(photo):
    ours = preprocess(photo, default_preprocess("seg", (32, 64)))
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous


def test_channels_stay_rgb():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    spec = Preprocess(height=8, width=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert preprocess(red, spec)[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_one_pixel_wide_picture_is_accepted():
    spec = default_preprocess("cls", (32, 32))
    assert preprocess(np.zeros((50, 1, 3), np.uint8), spec).shape == (1, 3, 32, 32)


def test_rows_are_resized_before_columns():
    """By itself Pillow 13 does this portrait the other way round."""
    portrait = np.random.default_rng(5).integers(0, 256, (80, 40, 3), dtype=np.uint8)
    rows = Image.fromarray(portrait).resize((64, 80), Image.Resampling.BILINEAR)
    expected = np.asarray(rows.resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fit(portrait, default_preprocess("seg", (64, 64))), expected)


@pytest.mark.parametrize("task", ["seg", "cls"])
def test_picture_that_would_grow_beyond_bounds_is_refused(task):
    with pytest.raises(UserError, match="1x500000 pixels: too long and narrow"):
        fit(np.zeros((500_000, 1, 3), np.uint8), default_preprocess(task, (224, 224)))


def test_survives_the_round_trip_through_plain_containers():
    spec = default_preprocess("cls", (224, 192))
    assert convert(to_plain(spec), Preprocess, source="test") == spec


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.zeros((4, 4, 3), np.float32), id="float"),
        pytest.param(np.zeros((4, 4), np.uint8), id="gray"),
        pytest.param(np.zeros((4, 4, 4), np.uint8), id="four-channels"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), id="empty"),
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(SpecError, match="expected"):
        preprocess(image, default_preprocess("seg", (32, 32)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"height": 0}, "at least 1x1"),
        ({"std": (0.2, 0.0, 0.2)}, "positive"),
        ({"std": (0.2, math.nan, 0.2)}, "positive"),
        ({"std": (math.inf, 0.2, 0.2)}, "positive"),
        ({"mean": (0.5, 0.5, math.nan)}, "three finite numbers"),
        ({"mean": (-math.inf, 0.5, 0.5)}, "three finite numbers"),
        ({"resize": "short_side_crop", "short_side": 16}, "at least 32"),
        ({"resize": "short_side_crop"}, "at least 32"),
        ({"short_side": 40}, "'stretch'"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Preprocess(**{"height": 32, "width": 32, **settings})


def test_pixels_and_normalized_input_see_the_same_picture():
    spec = Preprocess(height=8, width=8, resize="short_side_crop", short_side=10)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    pixels, values = model_input(image, spec, "uint8"), model_input(image, spec)

    assert (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) == ((1, 8, 8, 3), np.uint8, True)
    again = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(again.transpose(0, 3, 1, 2), values, atol=1e-6)
    with pytest.raises(SpecError, match="int8"):
        model_input(image, spec, "int8")
