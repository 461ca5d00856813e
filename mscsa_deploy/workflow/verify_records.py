"""The records of `verify`: what was asked, each check, and everything that was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mscsa_deploy.core.config import Record
from mscsa_deploy.core.report import Row
from mscsa_deploy.errors import DeployError, GateError, StageError, UnsupportedError
from mscsa_deploy.workflow.divergence import DivergenceRecord
from mscsa_deploy.workflow.prepare import ModelRequest

MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """What to hold against what.

    Args:
        reference: An ONNX, OpenVINO or PyTorch file, a bundle, a zoo name or an export recipe.
        candidates: The same kinds of things.
        images: What they are run on: a folder, a CSV list, or a shipped set.
        source: Task, checkpoint and size for zoo names and recipes.
        runtimes: Only these for the candidates; every one that loads a file if None.
        preprocess: TOML of the preprocessing, where no file says it.
        tolerances: ``OUTPUT.METRIC=VALUE`` texts.
        max_drop: Largest accepted drop of INT8 in the task metric, in points.
        max_images: At most so many images.
        threads: Compute threads of each session.
        bisect: Search the first diverging node of each candidate that fails.
        engine: ``"local"`` runs everything here, ``"ray"`` spreads the images over workers.
    """

    reference: str
    candidates: tuple[str, ...]
    images: str
    source: ModelRequest = field(default_factory=lambda: ModelRequest(model=""))
    runtimes: tuple[str, ...] | None = None
    preprocess: Path | None = None
    tolerances: tuple[str, ...] = ()
    max_drop: float | None = None
    max_images: int | None = None
    threads: int = 1
    bisect: bool = False
    engine: Literal["local", "ray"] = "local"


class GateRecord(Record, frozen=True, kw_only=True):
    """One check of one candidate: what was asked, what came out."""

    subject: str
    asked: str
    found: str
    passed: bool


class VerifyOutcome(Record, frozen=True, kw_only=True):
    """Everything that was found.

    Args:
        task: ``"cls"`` or ``"seg"``.
        images: How many were run.
        image_set: Their name.
        labeled: How many of them have a label or mask.
        reference: The reference as a row.
        rows: One per candidate and runtime; ``details.outputs`` has the parity of each output.
        gates: Every check.
        divergences: Where the candidates that failed part ways, if that was asked.
        passed: Whether every check passed.
        exit_code: 0, or that of the gravest thing that went wrong (5 before 4 before 3).
    """

    task: str
    images: int
    image_set: str
    labeled: int
    reference: Row
    rows: tuple[Row, ...]
    gates: tuple[GateRecord, ...]
    divergences: tuple[DivergenceRecord, ...] = ()
    passed: bool
    exit_code: int

    def error(self) -> DeployError | None:
        """The gravest thing that went wrong; None when nothing did."""
        if self.exit_code == GateError.exit_code:
            lost = [f"{gate.subject}: {gate.found}, asked for {gate.asked}" for gate in self.gates if not gate.passed]
            more = f"; and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
            hint = (
                ""
                if self.divergences
                else "--bisect finds where it starts; --tolerance OUTPUT.METRIC=VALUE allows more"
            )
            return GateError(f"{'; '.join(lost[:MOST_NAMED])}{more}", hint=hint)
        for status, make in (("failed", _failure), ("not run", _missing)):
            rows = [row for row in self.rows if row.status == status]
            if rows and self.exit_code:
                return make(rows[0])
        return None


def _failure(row: Row) -> DeployError:
    return StageError("run", f"{row.artifact} on {row.runtime}", row.reason)


def _missing(row: Row) -> DeployError:
    return UnsupportedError(f"{row.artifact} cannot run on {row.runtime} here", hint=row.reason)
