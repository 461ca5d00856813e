"""From a picture to a model's input tensor, as the model was trained to see it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from mscsa_deploy.core.config import Config
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import SpecError, UserError
from mscsa_deploy.imaging.decode import MAX_PIXELS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# NumPy widens the pixels of a strip to look them up. Kept small, that memory stays in the cache, and is not handed back
# to the system and fetched again page by page, which made whole pictures take up to four times as long.
STRIP_PIXELS = 8192
# A classifier's short side before the crop is 8/7 of the crop: 256 for 224.
_CROP_MARGIN = 8 / 7

# For the JSON Schema of bundles; `Preprocess` judges its fields itself, in its own words.
_Side = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 1})]
_Positive = Annotated[float, msgspec.Meta(extra_json_schema={"exclusiveMinimum": 0})]


class Preprocess(Config, frozen=True, kw_only=True):
    """Everything that decides what a model sees of a picture.

    The picture is made upright as its EXIF orientation says, transparent pixels are laid over white, and every color
    mode becomes RGB before any of it.

    Args:
        height: Of the input, in pixels.
        width: Of the input, in pixels.
        resize: ``"stretch"`` to the input size ignoring the ratio, or ``"short_side_crop"``: short side to
            `short_side`, then the center.
        short_side: In pixels, for ``"short_side_crop"`` only.
        interpolation: Pillow's antialiased filter of that name, on 8-bit values: along rows, rounded and cut to
            0..255, then along columns. (Pillow 13 by itself goes along columns first where that is cheaper.)
        mean: Per RGB channel, on the 0..1 scale.
        std: Per RGB channel, on the 0..1 scale.
        color: Channel order of the input.
    """

    height: _Side
    width: _Side
    resize: Literal["stretch", "short_side_crop"] = "stretch"
    short_side: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[_Positive, _Positive, _Positive] = IMAGENET_STD
    color: Literal["RGB"] = "RGB"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UserError(f"preprocessing to {self.height}x{self.width} pixels, expected at least 1x1")
        if not all(map(math.isfinite, self.mean)):
            raise UserError(f"mean is {list(self.mean)}, expected three finite numbers on the 0..1 scale")
        if min(self.std) <= 0 or not all(map(math.isfinite, self.std)):
            raise UserError(f"std is {list(self.std)}, expected three positive numbers on the 0..1 scale")
        cropped = self.resize == "short_side_crop"
        if cropped and (self.short_side is None or self.short_side < max(self.height, self.width)):
            raise UserError(
                f"short_side is {self.short_side}, expected at least {max(self.height, self.width)} "
                f"to crop {self.height}x{self.width}"
            )
        if not cropped and self.short_side is not None:
            raise UserError("short_side is set but resize is 'stretch'", hint="use resize = 'short_side_crop'")


def default_preprocess(task: Task, size: tuple[int, int]) -> Preprocess:
    """What a model of `task` (``"cls"`` or ``"seg"``) usually sees at input `size` (height, width)."""
    height, width = size
    if task == "seg":
        return Preprocess(height=height, width=width)
    return Preprocess(
        height=height,
        width=width,
        resize="short_side_crop",
        short_side=round(max(size) * _CROP_MARGIN),
        interpolation="bicubic",
    )


def check_image(image: npt.NDArray[Any]) -> None:
    """Raise `SpecError` unless `image` is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype.name if isinstance(image, np.ndarray) else type(image).__name__
        raise SpecError(f"the image is {kind}, expected uint8 RGB, 0..255")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise SpecError(f"the image has shape {list(image.shape)}, expected (H, W, 3)")


def fit(image: npt.NDArray[np.uint8], spec: Preprocess) -> npt.NDArray[np.uint8]:
    """`image` resized and cropped to the input size, still 8 bit.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: What the model sees.

    Returns:
        (spec.height, spec.width, 3) uint8 RGB; a view of `image` where it has that size already.

    Raises:
        SpecError: `image` has another shape or dtype.
        UserError: `image` is so long and narrow that resizing it would take more than `MAX_PIXELS` pixels.
    """
    check_image(image)
    own = (image.shape[1], image.shape[0])
    target = (spec.width, spec.height)
    if spec.resize == "short_side_crop":
        assert spec.short_side is not None
        scale = spec.short_side / min(own)
        target = (max(round(own[0] * scale), spec.width), max(round(own[1] * scale), spec.height))
    # In two steps, so that the order does not depend on Pillow's version and the picture's shape.
    steps = [size for size in dict.fromkeys(((target[0], own[1]), target)) if size != own]
    if any(width * height > MAX_PIXELS for width, height in steps):
        raise UserError(
            f"the picture has {own[0]}x{own[1]} pixels: too long and narrow for an input of {spec.width}x{spec.height}",
            hint="crop it first",
        )
    pixels = _resized(image, steps, spec) if steps else image
    left, top = (target[0] - spec.width) // 2, (target[1] - spec.height) // 2
    return pixels[top : top + spec.height, left : left + spec.width]


def _resized(image: npt.NDArray[np.uint8], steps: list[tuple[int, int]], spec: Preprocess) -> npt.NDArray[np.uint8]:
    """`image` brought to each (width, height) in turn."""
    picture = Image.fromarray(image)
    for size in steps:
        picture = picture.resize(size, _FILTERS[spec.interpolation])
    pixels: npt.NDArray[np.uint8] = np.asarray(picture)
    return pixels


def preprocess(image: npt.NDArray[np.uint8], spec: Preprocess) -> npt.NDArray[np.float32]:
    """Resize, crop and normalize one picture as the model was trained.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        spec: Size and crop in pixels; mean and std per channel on the 0..1 scale.

    Returns:
        (1, 3, spec.height, spec.width) float32, C-contiguous.

    Raises:
        SpecError: `image` has another rank, channel count or dtype.
    """
    pixels = fit(image, spec)
    result = np.empty((1, 3, spec.height, spec.width), np.float32)
    rows = max(STRIP_PIXELS // spec.width, 1)
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        # A table of the 256 possible values rounds once, and every pixel lies in it, so that nothing needs checking.
        table = ((np.arange(256) / 255 - mean) / std).astype(np.float32)
        for top in range(0, spec.height, rows):
            strip = slice(top, top + rows)
            np.take(table, pixels[strip, :, channel], out=result[0, channel, strip], mode="clip")
    return result


def model_input(image: npt.NDArray[np.uint8], spec: Preprocess, dtype: str = "float32") -> npt.NDArray[Any]:
    """One picture as the input that a model declares: normalized values, or the pixels themselves.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        spec: Size and crop in pixels; mean and std per channel on the 0..1 scale.
        dtype: Of the model's input. ``"float32"``: as `preprocess` makes it. ``"uint8"``: the model normalizes
            by itself, and takes what `fit` makes of the picture.

    Returns:
        (1, 3, spec.height, spec.width) float32, or (1, spec.height, spec.width, 3) uint8 RGB; C-contiguous.

    Raises:
        SpecError: `image` has another rank, channel count or dtype, or no picture becomes a `dtype`.
    """
    if dtype == "uint8":
        return np.ascontiguousarray(fit(image, spec)[None])
    if dtype != "float32":
        raise SpecError(f"the model takes {dtype}, expected float32 (N, 3, H, W) or uint8 pixels (N, H, W, 3)")
    return preprocess(image, spec)
