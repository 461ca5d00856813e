"""From a picture file of any usual kind to 8-bit RGB as a viewer would show it."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from mscsa_deploy.errors import UserError

MAX_PIXELS = 80_000_000
"""Larger pictures are refused: a few hundred bytes can declare gigabytes."""
MAX_SIDE = 65_535
"""Longer pictures are refused; JPEG has none. One pixel by 40 million takes seconds and a gigabyte to decode, and no
model sees anything in it."""

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for files that are no whole pictures, or whose EXIF data are damaged."""
_WHITE = (255, 255, 255)
_HINT = "use a whole JPEG, PNG, WebP, BMP, GIF or TIFF file"


def decode(source: str | Path | bytes | Image.Image) -> npt.NDArray[np.uint8]:
    """The first frame of a picture, upright, as RGB.

    EXIF orientation is applied; gray, palette, CMYK and YCbCr pictures become RGB; of 16-bit values the upper
    byte counts; transparent pixels are laid over white.

    Args:
        source: A path, the bytes of the file, or an image of Pillow, of which the frame it stands at counts.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous and writable.

    Raises:
        UserError: The file is missing, not a picture, damaged, has no 8- or 16-bit values, or more than
            `MAX_PIXELS` pixels, or than `MAX_SIDE` on a side.
    """
    if isinstance(source, Image.Image):
        return _pixels(source, "the picture")
    name = "the picture" if isinstance(source, bytes) else f"'{source}'"
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}", hint="check the path") from error
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _pixels(image, name)
    except UNREADABLE as error:
        raise _unreadable(name, error) from error


def _pixels(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    """What `decode` makes of an image of Pillow, which stays as it is."""
    try:
        check_size(image, name)
        image.load()
        return np.array(_to_rgb(ImageOps.exif_transpose(image), name))
    except UNREADABLE as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> UserError:
    # Of a file of no known format, Pillow only tells the address of its buffer.
    why = "its format is unknown" if isinstance(error, UnidentifiedImageError) else str(error)
    return UserError(f"{name} is not a readable picture: {why}", hint=_HINT)


def is_readable(path: Path) -> bool:
    """Whether the file at `path` decodes, in a fraction of the time that `decode` takes.

    A PNG is judged by its checksums; a JPEG has none, so it is decoded at an eighth of its size.
    """
    try:
        with Image.open(path) as image:
            check_size(image, str(path))
            if image.format == "PNG":
                image.verify()
                return True
            if image.format == "JPEG":
                image.draft(image.mode, (1, 1))
                image.load()
                return True
        decode(path)
    except (UserError, *UNREADABLE):
        return False
    return True


def check_size(image: Image.Image, name: str) -> None:
    """Raise `UserError` if an opened picture, called `name`, is too large to decode; only its header has been read."""
    if max(image.size) > MAX_SIDE:
        raise UserError(
            f"{name} has {image.width}x{image.height} pixels, expected at most {MAX_SIDE} on a side",
            hint="crop or shrink it first",
        )
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{name} has {image.width}x{image.height} pixels, expected at most {MAX_PIXELS // 1_000_000} million",
            hint="shrink it first",
        )


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise UserError(f"{name} holds floating-point values, whose range is unknown", hint="save it as 8 bit")
    if image.mode.startswith("I"):
        return _sixteen_bit(image, name).convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        flat = Image.new("RGB", layers.size, _WHITE)
        flat.paste(layers, mask=layers.getchannel("A"))
        return flat
    return image if image.mode == "RGB" else image.convert("RGB")


def _sixteen_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UserError(f"{name} holds 32-bit values, whose range is unknown", hint="save it as 8 or 16 bit")
    return Image.fromarray((values >> 8).astype(np.uint8))
