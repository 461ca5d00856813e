"""Colors that tell classes apart."""

from __future__ import annotations

import colorsys

Color = tuple[int, int, int]
_GOLDEN_RATIO = 0.618033988749895
# Saturation and value take turns. Steps of 8 and 13 classes come back to nearly the same hue, and three tones make
# those differ in brightness (four would not: 8 is a multiple of 4).
_TONES = ((0.85, 1.0), (0.5, 0.95), (0.95, 0.6))


def default_palette(classes: int) -> tuple[Color, ...]:
    """RGB colors (0..255) of `classes` classes: class 0 is black, the others bright and apart from one another.

    The hue moves by the golden ratio from class to class, which keeps any run of consecutive classes spread
    over the circle.
    """
    return ((0, 0, 0), *(_color(class_id) for class_id in range(1, classes)))[:classes]


def _color(class_id: int) -> Color:
    saturation, value = _TONES[class_id % len(_TONES)]
    red, green, blue = colorsys.hsv_to_rgb(class_id * _GOLDEN_RATIO % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
