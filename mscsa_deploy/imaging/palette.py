"""Colors that tell classes apart."""

from __future__ import annotations

Color = tuple[int, int, int]
_BITS = 8


def default_palette(classes: int) -> tuple[Color, ...]:
    """RGB colors (0..255) of `classes` classes; class 0 is black, and the first dozens are far apart.

    Source: the bit interleaving of the PASCAL VOC development kit, which spreads the bits of the class id over the
    high bits of the three channels.
    """
    return tuple(_color(class_id) for class_id in range(classes))


def _color(class_id: int) -> Color:
    channels = [0, 0, 0]
    for place in range(_BITS):
        for channel in range(3):
            channels[channel] |= ((class_id >> channel) & 1) << (_BITS - 1 - place)
        class_id >>= 3
    red, green, blue = channels
    return red, green, blue
