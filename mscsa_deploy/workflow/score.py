"""Accuracy and agreement of every variant over the evaluation images, each against one FP32 reference.

A score is kept under everything that decides it, and taken from there when the same was run before.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.files import content_key
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Status
from mscsa_deploy.errors import StageError, UnsupportedError
from mscsa_deploy.workflow.evaluate import Evaluation, ImageSet, evaluate_all
from mscsa_deploy.workflow.kept_scores import KeptScores

if TYPE_CHECKING:
    from mscsa_deploy.runtimes.protocol import Session, SessionSettings
    from mscsa_deploy.workflow.variants import Variant

logger = logging.getLogger(__name__)

# Accuracy does not depend on the number of threads, so scoring uses more than the rows do.
SCORING_THREADS = 2


@dataclass(frozen=True, slots=True)
class _Run:
    """What is executed to score a variant: its own file and settings, or those of its stand-in."""

    runtime: str
    path: Path
    sha256: str
    settings: SessionSettings

    @property
    def key(self) -> str:
        """The same for runs that compute the same thing."""
        from mscsa_deploy.runtimes import RUNTIMES

        settings = {name: getattr(self.settings, name) for name in ("precision", "device", "options")}
        version = RUNTIMES.load(self.runtime)().probe().version
        return content_key({"model": self.sha256, "runtime": self.runtime, "version": version, **settings})

    def open(self) -> Session:
        from mscsa_deploy.runtimes import RUNTIMES

        return RUNTIMES.load(self.runtime)().load(self.path, self.settings)


Outcome = Evaluation | StageError | UnsupportedError


def score_variants(
    variants: Sequence[Variant], images: ImageSet, *, progress: Progress = silent
) -> list[tuple[Variant, Evaluation | None]]:
    """Each variant with its evaluation, None where it cannot be run here.

    The reference is the first variant that runs: PyTorch in FP32 where it is among them. Variants that compute the
    same thing (one file, one precision, one set of options) are run once. A variant that its runtime cannot load or
    run comes back marked so, and the others go on.

    Args:
        variants: What to score.
        images: The evaluation images.
        progress: Told about every image.
    """
    runs = [_run_of(variant) for variant in variants]
    keys = [run.key if run else "" for run in runs]
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
        distinct = {key: run for key, run in zip(keys, runs, strict=True) if run}
        outcomes = _outcomes(distinct, images, Path(folder) / "reference.npy", progress)
    scored: list[tuple[Variant, Evaluation | None]] = []
    for variant, key in zip(variants, keys, strict=True):
        outcome = outcomes.get(key)
        if isinstance(outcome, StageError | UnsupportedError):
            logger.warning("%s: %s", variant.label, outcome)
            status: Status = "not run" if variant.optional else "failed"
            scored.append((replace(variant, status=status, reason=str(outcome)), None))
        else:
            scored.append((variant, outcome))
    return scored


def _run_of(variant: Variant) -> _Run | None:
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.runtimes.protocol import SessionSettings

    if variant.status == "ok":
        settings = replace(variant.settings, threads=SCORING_THREADS)
        return _Run(variant.runtime, variant.artifact.path, variant.artifact.sha256, settings)
    if variant.source is None or not RUNTIMES.load("onnxruntime")().probe().available:
        return None
    precision = "int8" if variant.precision == "int8" else "fp32"
    settings = SessionSettings(threads=SCORING_THREADS, precision=precision)
    return _Run("onnxruntime", variant.source.path, variant.source.sha256, settings)


def _outcomes(runs: Mapping[str, _Run], images: ImageSet, outputs: Path, progress: Progress) -> dict[str, Outcome]:
    """What each run came to; the first that runs is the reference of those after it."""
    if not runs:
        return {}
    reference, *others = runs
    shelf = KeptScores(images, reference)
    kept = shelf.read(runs)
    if len(kept) == len(runs):
        return dict(kept)
    # It is run even if its score was kept: its outputs, which the others are held against, are too large for that.
    found = _together({reference: runs[reference]}, images, progress, keep=outputs)
    if not isinstance(found[reference], Evaluation):
        return found | _outcomes({key: runs[key] for key in others}, images, outputs, progress)
    # The sessions of one runtime at a time: each image is decoded a few times only, and memory stays bounded.
    for name in dict.fromkeys(runs[key].runtime for key in others):
        mine = {key: runs[key] for key in others if runs[key].runtime == name and key not in kept}
        found |= _together(mine, images, progress, reference=outputs)
    for key, outcome in found.items():
        if isinstance(outcome, Evaluation):
            shelf.write(key, outcome)
    return {**kept, **found}


def _together(
    runs: Mapping[str, _Run],
    images: ImageSet,
    progress: Progress,
    *,
    reference: Path | None = None,
    keep: Path | None = None,
) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    sessions: dict[str, Session] = {}
    with contextlib.ExitStack() as stack:
        for key, run in runs.items():
            try:
                sessions[key] = stack.enter_context(run.open())
            except (StageError, UnsupportedError) as error:
                found[key] = error
        if sessions:
            label = f"accuracy on {next(iter(runs.values())).runtime}"
            told = list(sessions.values())
            outcomes = evaluate_all(told, images, reference=reference, keep=keep, progress=progress, label=label)
            found |= dict(zip(sessions, outcomes, strict=True))
    return found
