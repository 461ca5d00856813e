"""The golden pair of a bundle: one picture, the input it becomes, and what the FP32 model answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.bundle.manifest import Golden, GoldenTolerance
from mscsa_deploy.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mscsa_deploy.core.tensors import Array

FOLDER = "golden"


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
