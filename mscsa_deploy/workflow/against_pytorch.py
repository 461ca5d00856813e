"""An exported file's answers to real images, held against PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.core.config import Record
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import ParityNumbers
from mscsa_deploy.core.tensors import Array
from mscsa_deploy.errors import UnsupportedError, UserError
from mscsa_deploy.workflow.prepare import Prepared

if TYPE_CHECKING:
    from mscsa_deploy.export.recipe import ExportRecipe
    from mscsa_deploy.imaging.dataset import Dataset
    from mscsa_deploy.imaging.preprocess import Preprocess

CHECK_IMAGES = 8
CHECK_RUNTIMES = ("onnxruntime", "openvino")


class Check(Record, frozen=True, kw_only=True):
    """The numeric check on one runtime."""

    runtime: str
    executed_precision: str
    images: int
    parity: ParityNumbers
    tolerance: str


def check_against_pytorch(
    prepared: Prepared,
    recipe: ExportRecipe,
    path: Path,
    dataset: Dataset,
    *,
    precision: str,
    progress: Progress = silent,
    runtimes: Sequence[str] = CHECK_RUNTIMES,
) -> tuple[Check, ...]:
    """Compare the file at `path` with PyTorch on real images, on every one of `runtimes` that is installed.

    Raises:
        GateError: A runtime's answers lie outside the tolerance of `precision`.
        UnsupportedError: None of the runtimes is installed.
    """
    from mscsa_deploy.export.reference import answerer
    from mscsa_deploy.imaging.preprocess import preprocess

    installed = available(runtimes)
    if not installed:
        raise UnsupportedError("no runtime is installed to check the file with", hint="pip install onnxruntime")
    count = min(CHECK_IMAGES, len(dataset))
    if count == 0:
        raise UserError(f"'{dataset.name}' holds no images to check the file with")
    images = [dataset.load(index)[0] for index in range(count)]
    answer = answerer(prepared.module, recipe.output, recipe.input_size)
    expected = [answer(preprocess(image, prepared.preprocess)) for image in images]
    batch = 1 if recipe.batch == "dynamic" else recipe.batch
    return tuple(
        _check_on(
            name, path, images, expected, spec=prepared.preprocess, precision=precision, batch=batch, progress=progress
        )
        for name in installed
    )


def _check_on(
    runtime: str,
    path: Path,
    images: Sequence[Array],
    expected: Sequence[Array],
    *,
    spec: Preprocess,
    precision: str,
    batch: int,
    progress: Progress,
) -> Check:
    from mscsa_deploy.imaging.preprocess import model_input
    from mscsa_deploy.parity.compare import Comparator
    from mscsa_deploy.parity.tolerance import check, tolerance_for
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.runtimes.protocol import SessionSettings

    comparator = Comparator()
    with RUNTIMES.load(runtime)().load(path, SessionSettings(threads=2)) as session:
        declared, executed = session.inputs[0], session.executed_precision
        for index, (image, reference) in enumerate(zip(images, expected, strict=True)):
            progress(index, len(images), f"verify on {runtime}")
            # A fixed batch is filled with the same picture; each of its answers must be right.
            tensor = np.repeat(model_input(image, spec, declared.dtype), batch, axis=0)
            outputs = session.run({declared.name: tensor})
            output = next(iter(outputs.values()))
            comparator.add(np.repeat(reference, batch, axis=0), output, names=[f"image {index}"] * batch)
    parity, tolerance = comparator.result(), tolerance_for(precision)
    check(next(iter(outputs)), parity, tolerance, subject=f"{path.name} on {runtime} against PyTorch")
    return Check(
        runtime=runtime,
        executed_precision=executed,
        images=len(images),
        parity=parity.numbers(),
        tolerance=tolerance.why,
    )


def available(runtimes: Sequence[str] = CHECK_RUNTIMES) -> list[str]:
    """Those of `runtimes` that are installed."""
    from mscsa_deploy.runtimes import RUNTIMES

    return [name for name in runtimes if RUNTIMES.load(name)().probe().available]
