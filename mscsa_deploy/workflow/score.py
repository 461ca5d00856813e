"""Accuracy and agreement of every variant over the evaluation images, each against one FP32 reference."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Status
from mscsa_deploy.errors import StageError, UnsupportedError
from mscsa_deploy.workflow.evaluate import Evaluation, ImageSet, evaluate

if TYPE_CHECKING:
    from mscsa_deploy.runtimes.protocol import SessionSettings
    from mscsa_deploy.workflow.variants import Variant

logger = logging.getLogger(__name__)

# Accuracy does not depend on the number of threads, so scoring uses more than the rows do.
SCORING_THREADS = 2


def score_variants(
    variants: Sequence[Variant], images: ImageSet, *, progress: Progress = silent
) -> list[tuple[Variant, Evaluation | None]]:
    """Each variant with its evaluation, None where it cannot be run here.

    The reference is the first variant in FP32 that runs: PyTorch where it is among them. Variants that
    compute the same thing (one file, one precision, one set of options) are run once. A variant that its
    runtime cannot load or run comes back marked so, and the others go on.

    Args:
        variants: What to score.
        images: The evaluation images.
        progress: Told about every image.
    """
    done: dict[tuple[object, ...], Evaluation] = {}
    scored: list[tuple[Variant, Evaluation | None]] = []
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
        # The reference's outputs, while the others are compared with them.
        kept = Path(folder) / "reference.npy"
        for variant in variants:
            run = _runnable(variant)
            if run is None:
                scored.append((variant, None))
                continue
            key = (run[0], run[1], run[2].precision, tuple(sorted(run[2].options.items(), key=str)))
            try:
                if key not in done:
                    done[key] = _score(variant, run, images, kept, progress)
            except (StageError, UnsupportedError) as error:
                logger.warning("%s: %s", variant.label, error)
                status: Status = "not run" if variant.optional else "failed"
                scored.append((replace(variant, status=status, reason=str(error)), None))
                continue
            scored.append((variant, done[key]))
    return scored


def _runnable(variant: Variant) -> tuple[str, Path, SessionSettings] | None:
    """Runtime, file and settings to score `variant` with: its own, or those of its stand-in."""
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.runtimes.protocol import SessionSettings

    if variant.status == "ok":
        return variant.runtime, variant.artifact.path, replace(variant.settings, threads=SCORING_THREADS)
    if variant.source is None or not RUNTIMES.load("onnxruntime")().probe().available:
        return None
    precision = "int8" if variant.precision == "int8" else "fp32"
    return "onnxruntime", variant.source.path, SessionSettings(threads=SCORING_THREADS, precision=precision)


def _score(
    variant: Variant, run: tuple[str, Path, SessionSettings], images: ImageSet, kept: Path, progress: Progress
) -> Evaluation:
    from mscsa_deploy.runtimes import RUNTIMES

    runtime, path, settings = run
    first = not kept.exists()
    with RUNTIMES.load(runtime)().load(path, settings) as session:
        return evaluate(
            session,
            images,
            reference=None if first else kept,
            keep=kept if first else None,
            progress=progress,
            label=f"accuracy of {variant.label}",
        )
