"""The rotation of real inputs that a row is measured on, written where its worker can read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mscsa_deploy.core.files import output_file
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.preprocess import Preprocess, model_input
from mscsa_deploy.timing.plan import MIN_INPUTS, CoreInputs, EncodedInputs

Picture = npt.NDArray[np.uint8]

JPEG_QUALITY = 92


def varied(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """As many different pictures as a row needs; of fewer, mirrored and shrinking crops make up the number.

    Args:
        pictures: (H, W, 3) uint8 each; only the first `MIN_INPUTS` are taken.

    Raises:
        UserError: There is no picture.
    """
    taken: list[Picture] = []
    for picture in pictures:
        taken.append(picture)
        yield picture
        if len(taken) == MIN_INPUTS:
            return
    if not taken:
        raise UserError("measuring needs at least one picture to make inputs from, got none")
    for number in range(len(taken), MIN_INPUTS):
        turn, which = divmod(number, len(taken))
        picture = taken[which][:, ::-1] if turn % 2 else taken[which]
        margin = [size * turn // (4 * MIN_INPUTS) for size in picture.shape[:2]]
        yield picture[margin[0] :, margin[1] :]


def write_core_inputs(path: Path, declared: TensorSpec, pictures: Iterable[Picture], spec: Preprocess) -> CoreInputs:
    """Preprocess pictures into an .npz file at `path`, at least 16 inputs of one image.

    Args:
        path: Ends in ``.npz``.
        declared: The model's image input.
        pictures: (H, W, 3) uint8 each.
        spec: How a picture becomes the input.

    Raises:
        SpecError: The result does not fit `declared`.
        UserError: There is no picture.
    """
    stack = np.stack([model_input(picture, spec, declared.dtype) for picture in varied(pictures)])
    declared.check(stack[0])
    return _write(path, {declared.name: stack})


def write_random_inputs(path: Path, declared: tuple[TensorSpec, ...]) -> CoreInputs:
    """Standard normal (float) or uniform (integer) inputs for a model that takes no pictures.

    Free axes get size 1. The report must say that the inputs were random.
    """
    generator = np.random.default_rng(0)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for tensor in declared:
        shape = (MIN_INPUTS, *(max(size, 1) for size in tensor.shape))
        if np.issubdtype(np.dtype(tensor.dtype), np.floating):
            arrays[tensor.name] = generator.standard_normal(shape).astype(tensor.dtype)
        else:
            arrays[tensor.name] = generator.integers(0, 2 if tensor.dtype == "bool" else 100, shape).astype(
                tensor.dtype
            )
    return _write(path, arrays)


def write_pictures(folder: Path, pictures: Iterable[Picture], spec: Preprocess, task: Task) -> EncodedInputs:
    """Encode pictures as JPEG files in `folder`, at least 16, for the end-to-end boundary."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, picture in enumerate(varied(pictures)):
        file = folder / f"{number:03d}.jpg"
        Image.fromarray(np.ascontiguousarray(picture)).save(file, quality=JPEG_QUALITY)
        files.append(str(file))
    return EncodedInputs(files=tuple(files), preprocess=spec, task=task)


def _write(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> CoreInputs:
    # Another run that measures the same model may be reading these very inputs in the cache.
    with output_file(path, force=True) as place, place.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own flags
    return CoreInputs(path=str(path))
