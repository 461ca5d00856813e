"""The golden pair of a bundle: one picture, the input it becomes, and what the FP32 model answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mscsa_deploy.bundle.fields import BundlePath, OptionalPath
from mscsa_deploy.core.config import Config
from mscsa_deploy.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mscsa_deploy.core.tensors import Array

FOLDER = "golden"


class GoldenTolerance(Config, frozen=True, kw_only=True):
    """How far an artefact of one precision may be from the golden output, and why.

    Args:
        max_abs_over_range: Largest difference over the range of the golden output; None when not judged.
        argmax_agreement: Least percent of equal decisions.
        why: What causes the difference.
    """

    max_abs_over_range: float | None = None
    argmax_agreement: float
    why: str


class Golden(Config, frozen=True, kw_only=True):
    """One picture with its input tensor and the FP32 output, to check an implementation against.

    Arrays are .npy files, C order, little-endian.

    Args:
        picture: The picture.
        input: float32 NCHW, what preprocessing makes of the picture.
        output: What the FP32 model answers, as its `Postprocess.output` says.
        answer: For segmentation, the class map at the input's size, (H, W) unsigned.
        tolerance: By precision.
    """

    picture: BundlePath
    input: BundlePath
    output: BundlePath
    answer: OptionalPath = ""
    tolerance: dict[str, GoldenTolerance] = msgspec.field(default_factory=dict)


def write_golden(
    directory: Path,
    *,
    picture: bytes,
    suffix: str,
    tensor: Array,
    output: Array,
    answer: Array | None = None,
    tolerance: Mapping[str, GoldenTolerance],
) -> Golden:
    """Write the pair below `directory` and return what the manifest says about it.

    Args:
        directory: The bundle being made.
        picture: The picture file's bytes.
        suffix: Its file suffix, e.g. ``".jpg"``.
        tensor: (1, 3, H, W) float32, the preprocessed picture.
        output: What the FP32 model answers to `tensor`.
        answer: (H, W) unsigned class map at the input's size, for segmentation.
        tolerance: What is allowed, by precision.
    """
    if tensor.dtype != np.float32 or tensor.ndim != 4:
        raise SpecError(f"the golden input is {tensor.dtype} {list(tensor.shape)}, expected float32 (1, 3, H, W)")
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / f"picture{suffix}").write_bytes(picture)
    arrays = {"input": tensor, "output": output} | ({} if answer is None else {"answer": answer})
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        np.save(folder / f"{name}.npy", little, allow_pickle=False)
    return Golden(
        picture=f"{FOLDER}/picture{suffix}",
        input=f"{FOLDER}/input.npy",
        output=f"{FOLDER}/output.npy",
        answer="" if answer is None else f"{FOLDER}/answer.npy",
        tolerance=dict(tolerance),
    )
