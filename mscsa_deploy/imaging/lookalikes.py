"""Pictures that look alike though their files differ: scaled, compressed again, retouched.

A picture's look is its difference hash: shrunk to 9x8 gray pixels, one bit for each pair of neighbors in a row that
says whether it gets brighter. Scaling and compression turn few of the 64 bits; other pictures differ in about half.

Source: N. Krawetz, "Kind of Like That", hackerfactor.com, 2013.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mscsa_deploy.core.files import cache_root, content_key
from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.decode import UNREADABLE, decode

Looks = npt.NDArray[np.uint64]
MOST_BITS = 4
"""Looks that differ in at most so many bits are alike.

Of the 12 backgrounds of the shipped scenes, copies at half the size and JPEG quality 50 differ in at most 3 bits,
and no two of the backgrounds in fewer than 20.
"""
_METHOD = "dhash-1"
_ROWS, _COLUMNS = 8, 9
_AT_ONCE = 256


def look(path: Path) -> int:
    """The difference hash of one picture, 64 bits; 0, which is like nothing, if it is flat or cannot be read."""
    try:
        gray = np.asarray(_shrunk(path))
    except (UserError, *UNREADABLE):
        return 0
    return int.from_bytes(np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes(), "big")


def _shrunk(path: Path) -> Image.Image:
    with Image.open(path) as image:
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            # It decodes at a fraction of its size in a fraction of the time; much smaller turns bits of its own.
            image.draft("L", (32 * _COLUMNS, 32 * _ROWS))
            whole = ImageOps.exif_transpose(image)
        else:
            whole = Image.fromarray(decode(path))
    return whole.convert("L").resize((_COLUMNS, _ROWS), Image.Resampling.BOX)


def looks(paths: Sequence[Path], contents: Sequence[str]) -> Looks:
    """The look of each picture, kept between runs.

    Args:
        paths: The files.
        contents: A hash of each file's content.

    Raises:
        UserError: There is no cache directory.
    """
    place = cache_root() / "looks" / f"{content_key({'method': _METHOD, 'contents': list(contents)})}.npy"
    if place.is_file():
        known: Looks = np.load(place)
        return known
    found = np.array([look(path) for path in paths], np.uint64)
    place.parent.mkdir(exist_ok=True)
    # Another process may write the same: whole files replace each other.
    with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".npy", delete=False) as stream:
        np.save(stream, found)
    Path(stream.name).replace(place)
    return found


def alike(first: Looks, second: Looks) -> list[tuple[int, int]]:
    """For each picture of `second` that looks like one of `first`: the places of both, the closest of `first`."""
    pairs: list[tuple[int, int]] = []
    if not first.size:
        return pairs
    for start in range(0, len(second), _AT_ONCE):
        part = second[start : start + _AT_ONCE]
        # Where there is no look there is nothing to be alike.
        bits = np.where((first != 0) & (part[:, None] != 0), np.bitwise_count(part[:, None] ^ first), 64)
        closest = bits.argmin(axis=1)
        pairs += [
            (int(closest[row]), start + int(row))
            for row in np.flatnonzero(bits[np.arange(len(part)), closest] <= MOST_BITS)
        ]
    return pairs
