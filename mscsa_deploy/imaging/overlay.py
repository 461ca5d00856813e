"""A class map laid over its picture, with a legend of the classes in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mscsa_deploy.errors import SpecError
from mscsa_deploy.imaging.palette import Color
from mscsa_deploy.imaging.preprocess import check_image

OPACITY = 0.55
STRIP_PIXELS = 1 << 19
"""How many pixels are tinted at a time: few enough to stay in a processor's cache."""
_EDGE = (255, 255, 255)
_SMALLEST_SHARE = 0.001
_DARK, _LIGHT = (24, 24, 27), (244, 244, 245)


def overlay(
    image: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.integer],
    palette: Sequence[Color],
    *,
    background: int | None = 0,
) -> npt.NDArray[np.uint8]:
    """`image` tinted with the colors of its classes, their borders drawn.

    Args:
        image: (H, W, 3) uint8 RGB.
        classes: (H, W) class ids; ids past the palette (255 of masks among them) stay untinted.
        palette: RGB color per class.
        background: Class that stays untinted; None to tint every class.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        SpecError: The class map has another height or width than the image.
    """
    check_image(image)
    if classes.shape != image.shape[:2]:
        raise SpecError(f"the class map has shape {list(classes.shape)}, expected {list(image.shape[:2])}")
    mixed = _mixtures(palette, background)
    rows = max(STRIP_PIXELS // image.shape[1], 1)
    tinted = np.empty_like(image)
    for top in range(0, len(image), rows):
        strip = slice(top, top + rows)
        # One row more, above: a border lies between two rows.
        above = min(top, 1)
        known = np.minimum(classes[top - above : top + rows].astype(np.intp), len(palette))
        first = known[above:] * 256
        for channel in range(3):
            np.take(mixed[channel], first + image[strip, :, channel], out=tinted[strip, :, channel], mode="clip")
        border = np.zeros(known.shape, bool)
        border[:, 1:] = known[:, 1:] != known[:, :-1]
        border[1:] |= known[1:] != known[:-1]
        tinted[strip][border[above:]] = _EDGE
    return tinted


def _mixtures(palette: Sequence[Color], background: int | None) -> npt.NDArray[np.uint8]:
    """(3, (classes + 1) * 256) by channel: what becomes of each value under each class, and under any other class."""
    colors = np.array([*palette, (0, 0, 0)], np.float32)
    opacity = np.full(len(colors), OPACITY, np.float32)
    opacity[len(palette)] = 0.0
    if background is not None and background < len(palette):
        opacity[background] = 0.0
    share = opacity[None, :, None]
    values = np.arange(256, dtype=np.float32)[None, None]
    mixed = values * (1 - share) + colors.T[..., None] * share
    return np.rint(mixed).astype(np.uint8).reshape(3, -1)


def shares(classes: npt.NDArray[np.integer], count: int) -> list[tuple[int, float]]:
    """(class id, share of the pixels 0..1) of the classes below `count` that cover at least 0.1 %, largest first."""
    # Pillow counts bytes many times faster than NumPy, which makes 64-bit integers of them first.
    bytewise = classes.dtype == np.uint8
    found = np.array(Image.fromarray(classes).histogram()) if bytewise else np.bincount(classes.ravel())
    total = np.pad(found, (0, max(count - len(found), 0)))[:count] / classes.size
    order = np.argsort(-total, kind="stable")
    return [(int(index), float(total[index])) for index in order if total[index] >= _SMALLEST_SHARE]


def with_legend(
    picture: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.integer],
    labels: Sequence[str],
    palette: Sequence[Color],
) -> npt.NDArray[np.uint8]:
    """`picture` with a strip below it that names the classes in `classes` and their shares of the pixels.

    Args:
        picture: (H, W, 3) uint8 RGB, usually what `overlay` returned.
        classes: (H, W) class ids.
        labels: Class names.
        palette: RGB color per class.

    Returns:
        (H + strip, W, 3) uint8 RGB.
    """
    check_image(picture)
    height, width = picture.shape[:2]
    size = max(10, round(min(height, width) / 32))
    font = ImageFont.load_default(size)
    known = min(len(labels), len(palette))
    entries = [(palette[index], f"{labels[index]} {share:.1%}") for index, share in shares(classes, known)]
    places, rows = _flow([font.getlength(text) + 2.6 * size for _, text in entries], width, size)
    canvas = Image.new("RGB", (width, round((rows * 1.6 + 0.6) * size)), _DARK)
    draw = ImageDraw.Draw(canvas)
    for (color, text), (left, row) in zip(entries, places, strict=True):
        top = round((row * 1.6 + 0.5) * size)
        draw.rectangle((left, top, left + size, top + size), fill=color, outline=_LIGHT)
        draw.text((left + 1.4 * size, top + size / 2), text, fill=_LIGHT, font=font, anchor="lm")
    return np.concatenate([picture, np.asarray(canvas)])


def _flow(widths: Sequence[float], line: int, margin: int) -> tuple[list[tuple[float, int]], int]:
    """Left edge and row of boxes of `widths` set one after another in lines of `line` pixels; number of rows."""
    places: list[tuple[float, int]] = []
    left, row = float(margin) / 2, 0
    for width in widths:
        if places and left + width > line and left > margin:
            left, row = float(margin) / 2, row + 1
        places.append((left, row))
        left += width
    return places, row + 1 if widths else 0
