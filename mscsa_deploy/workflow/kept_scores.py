"""Evaluations kept between runs, under everything that decides them: artefact, runtime, images, measure, reference."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from mscsa_deploy.core.environment import isa_flags, package_versions
from mscsa_deploy.core.files import content_key, sha256_file
from mscsa_deploy.parity.compare import Parity
from mscsa_deploy.parity.metrics import Fraction, ImageScores, MeanIou
from mscsa_deploy.workflow.cache import cached, find
from mscsa_deploy.workflow.evaluate import Evaluation, ImageSet

STAGE = "accuracy"
COUNTS = "counts.npz"
KINDS: Mapping[str, type[MeanIou | Fraction]] = {"MeanIou": MeanIou, "Fraction": Fraction}


@dataclass(frozen=True, slots=True)
class _Record:
    """An evaluation without its counts: `kinds` names the class of each metric's, `parity` is JSON or empty."""

    images: int
    kinds: dict[str, str]
    parts: dict[str, float]
    parity: str


class KeptScores:
    """The evaluations over one image set, held against one reference.

    Args:
        images: What was run.
        reference: Key of what the others are compared with.
    """

    def __init__(self, images: ImageSet, reference: str) -> None:
        tools = package_versions(("numpy", "pillow"))
        # Integer and bf16 kernels differ between instruction sets, and so may their answers.
        machine = {"isa": isa_flags(), "tools": tools}
        self._facts = {"images": images.key, "reference": reference, "code": _code_key(), **machine}

    def read(self, runs: Iterable[str]) -> dict[str, Evaluation]:
        """The evaluations of those of `runs` (keys of what was executed) that were kept."""
        found = {run: find(STAGE, {**self._facts, "run": run}, _Record) for run in runs}
        return {run: _load(*known) for run, known in found.items() if known is not None}

    def write(self, run: str, evaluation: Evaluation) -> None:
        """Keep an evaluation of `run`."""
        cached(STAGE, {**self._facts, "run": run}, _Record, lambda folder: _save(folder, evaluation))


def _save(folder: Path, evaluation: Evaluation) -> _Record:
    arrays = {
        f"{name}.{field}": getattr(scores, field)
        for name, scores in evaluation.scores.items()
        for field in _fields(type(scores).__name__)
    }
    np.savez_compressed(folder / COUNTS, **arrays)
    # Python's JSON knows infinity, which a distance may be.
    parity = json.dumps(msgspec.to_builtins(evaluation.parity)) if evaluation.parity else ""
    kinds = {name: type(scores).__name__ for name, scores in evaluation.scores.items()}
    return _Record(evaluation.images, kinds, dict(evaluation.parts), parity)


def _load(folder: Path, record: _Record) -> Evaluation:
    with np.load(folder / COUNTS) as arrays:
        scores: dict[str, ImageScores] = {
            name: KINDS[kind](**{field: arrays[f"{name}.{field}"] for field in _fields(kind)})
            for name, kind in record.kinds.items()
        }
    parity = msgspec.convert(json.loads(record.parity), Parity) if record.parity else None
    return Evaluation(images=record.images, scores=scores, parity=parity, parts=record.parts, kept=True)


def _fields(kind: str) -> tuple[str, ...]:
    return tuple(KINDS[kind].__dataclass_fields__)


@cache
def _code_key() -> str:
    """Changes with any line of this package: how things are measured is part of what was measured."""
    import mscsa_deploy

    (package,) = map(Path, mscsa_deploy.__path__)
    return content_key({path.relative_to(package).as_posix(): sha256_file(path) for path in package.rglob("*.py")})
