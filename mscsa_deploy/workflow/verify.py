"""`verify`: outputs and task accuracy of several files on several runtimes, held against one reference."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mscsa_deploy.core.config import read_toml
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import ParityNumbers, Record, Row, Status
from mscsa_deploy.errors import DeployError, GateError, StageError, UnsupportedError, UserError, unknown_name
from mscsa_deploy.workflow.contest import Contest, Score, run_part
from mscsa_deploy.workflow.contestants import Contestant, contestants
from mscsa_deploy.workflow.divergence import DivergenceRecord, Failed, find_divergence
from mscsa_deploy.workflow.evaluate import Evaluation, part_values
from mscsa_deploy.workflow.gates import LEAST_SHARE, MAX_DROP
from mscsa_deploy.workflow.prepare import ModelRequest
from mscsa_deploy.workflow.spread import run_on_ray

if TYPE_CHECKING:
    from mscsa_deploy.imaging.preprocess import Preprocess
    from mscsa_deploy.parity.compare import Parity
    from mscsa_deploy.parity.tolerance import Tolerance

logger = logging.getLogger(__name__)

DEFAULT_DROP = 0.5
MOST_NAMED = 3

Overrides = Mapping[str, Mapping[str, float]]


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


def run_verify(request: VerifyRequest, progress: Progress = silent) -> VerifyOutcome:
    """Run everything on the images and judge each candidate against the reference.

    A candidate that fails does not keep the others from finishing.

    Raises:
        UserError: A file is missing or damaged, nothing says the task or the preprocessing, or models of
            different input sizes or outputs are compared.
        UnsupportedError: The reference cannot run here.
        StageError: The reference failed.
    """
    from mscsa_deploy.parity.tolerance import parse_overrides

    # A mistyped limit is told before anything takes time; the outputs' names are judged when they are known.
    parse_overrides(request.tolerances)
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
        work = Path(folder)
        progress(0, 1, "opening the models")
        reference = _reference(request, work)
        others = _candidates(request, work)
        runnable = tuple(other for other in others if other.status == "ok")
        contest = _contest(request, reference, others, runnable)
        scores = (
            run_on_ray(contest, progress=progress) if request.engine == "ray" else run_part(contest, progress=progress)
        )
        judged = _Judged(request, contest, scores)
        rows, first = judged.rows(others), judged.reference_row()
        gates = judged.gates()
        divergences = judged.divergences(gates, work, progress) if request.bisect else ()
    passed = all(gate.passed for gate in gates)
    return VerifyOutcome(
        task=contest.task,
        images=judged.evaluations[0].images,
        image_set=judged.images.dataset.name,
        labeled=judged.labeled,
        reference=first,
        rows=rows,
        gates=gates,
        divergences=divergences,
        passed=passed,
        exit_code=_exit_code(rows, passed=passed, named=request.runtimes),
    )


def _exit_code(rows: Sequence[Row], *, passed: bool, named: Sequence[str] | None) -> int:
    if not passed:
        return GateError.exit_code
    if any(row.status == "failed" for row in rows):
        return StageError.exit_code
    # What nobody asked for by name may be missing.
    missing = any(row.status == "not run" and row.runtime in (named or ()) for row in rows)
    return UnsupportedError.exit_code if missing or not any(row.status == "ok" for row in rows) else 0


def _reference(request: VerifyRequest, work: Path) -> Contestant:
    """The reference in the first way that runs here; of a bundle, a float file."""
    ways = contestants(request.reference, request.source, None, work)
    ways = tuple(way for way in ways if way.precision == "fp32" and way.arithmetic == "fp32") or ways
    if not ways:
        raise UserError(f"no runtime loads the reference '{request.reference}'")
    chosen = next((way for way in ways if way.status == "ok"), None)
    if chosen is None:
        raise UnsupportedError(f"the reference cannot run here: {ways[0].name}", hint=ways[0].reason)
    return chosen


def _candidates(request: VerifyRequest, work: Path) -> tuple[Contestant, ...]:
    found = tuple(
        way for argument in request.candidates for way in contestants(argument, request.source, request.runtimes, work)
    )
    for name in request.runtimes or ():
        if not any(way.runtime == name for way in found):
            raise UserError(
                f"runtime '{name}' loads none of the candidates ({', '.join(request.candidates)})",
                hint="drop it from --runtime, or name a file that it loads",
            )
    if not found:
        raise UserError(f"no runtime loads any of the candidates ({', '.join(request.candidates)})")
    return _told_apart(found)


def _told_apart(found: tuple[Contestant, ...]) -> tuple[Contestant, ...]:
    """The same, files of one name called by their whole path."""
    paths: dict[str, set[Path]] = {}
    for way in found:
        paths.setdefault(way.label, set()).add(way.path)
    return tuple(replace(way, label=str(way.path)) if len(paths[way.label]) > 1 else way for way in found)


def _contest(
    request: VerifyRequest, reference: Contestant, others: Sequence[Contestant], runnable: tuple[Contestant, ...]
) -> Contest:
    """What is run, with the task and preprocessing that the user, the reference or a candidate says."""
    everyone = (reference, *others)
    said = (each.says.task for each in everyone if each.says.task)
    task: str | None = request.source.task or next(said, None)
    if task is None:
        raise UserError(f"'{request.reference}' does not say its task", hint="add --task cls or --task seg")
    return Contest(
        reference=reference,
        candidates=runnable,
        place=request.images,
        task=task,
        preprocess=_preprocess(request, everyone),
        labels=next((each.says.labels for each in everyone if each.says.labels), ()),
        limit=request.max_images,
        threads=request.threads,
    )


def _preprocess(request: VerifyRequest, everyone: Sequence[Contestant]) -> Preprocess:
    from mscsa_deploy.imaging.preprocess import Preprocess

    if request.preprocess is not None:
        return read_toml(request.preprocess, Preprocess)
    said = [each for each in everyone if each.says.preprocess is not None]
    if not said or said[0].says.preprocess is None:
        raise UserError(
            f"'{request.reference}' does not say its preprocessing",
            hint="add --preprocess FILE, a TOML file with height, width, resize, mean and std",
        )
    for other in said[1:]:
        if other.says.preprocess != said[0].says.preprocess:
            raise UserError(
                f"'{other.label}' wants another preprocessing than '{said[0].label}': "
                f"{_unlike(said[0].says.preprocess, other.says.preprocess)}",
                hint="compare models that see the same input, or say with --preprocess FILE what both get",
            )
    return said[0].says.preprocess


def _unlike(one: Any, other: Any) -> str:
    names = [name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)]
    return ", ".join(f"{name} {getattr(other, name)} instead of {getattr(one, name)}" for name in names)


class _Judged:
    """The scores of a contest as rows and gates."""

    def __init__(self, request: VerifyRequest, contest: Contest, scores: Sequence[Score]) -> None:
        self.request, self.contest, self.scores = request, contest, scores
        self.images = contest.images(1)
        self.evaluations = [self._evaluation(score) for score in scores]
        self.overrides = _overrides(request, scores)

    def _evaluation(self, score: Score) -> Evaluation:
        counts = score.judge.scores()
        first = next(iter(score.outputs.values()), None)
        return Evaluation(
            images=len(self.images),
            scores=counts,
            parity=first.result() if first and not score.failure else None,
            parts=part_values(self.images, counts) if not score.failure else {},
        )

    @property
    def labeled(self) -> int:
        """How many images have a label or mask."""
        return next((counts.images for counts in self.evaluations[0].scores.values()), 0)

    def reference_row(self) -> Row:
        """The reference, whose metric is the others' reference."""
        return _row(self.contest.reference, self.contest, self.scores[0], self.evaluations[0], None)

    def rows(self, others: Sequence[Contestant]) -> tuple[Row, ...]:
        """One row per candidate, in the order given, those that cannot run here included."""
        made = []
        for other in others:
            if other.status != "ok":
                made.append(_row(other, self.contest, None, None, None))
                continue
            position = 1 + self.contest.candidates.index(other)
            made.append(
                _row(other, self.contest, self.scores[position], self.evaluations[position], self.evaluations[0])
            )
        return tuple(made)

    def gates(self) -> tuple[GateRecord, ...]:
        """The checks of every candidate that ran."""
        return tuple(gate for position in self._ran() for gate in self._gates_of(position))

    def _ran(self) -> list[int]:
        return [position for position in range(1, len(self.scores)) if not self.scores[position].failure]

    def _gates_of(self, position: int) -> list[GateRecord]:
        from mscsa_deploy.parity.tolerance import override, tolerance_for

        candidate, score = self.contest.candidates[position - 1], self.scores[position]
        metric = self.evaluations[position].metric(self.evaluations[0])
        by_metric = candidate.arithmetic == "int8" and metric is not None and metric.drop is not None
        gates = [_accuracy_gate(candidate, metric, self.request.max_drop)] if by_metric else []
        for name, comparator in score.outputs.items():
            tolerance = None if by_metric else tolerance_for(candidate.arithmetic)
            if self.overrides.get(name):
                tolerance = override(tolerance, name, self.overrides) if tolerance else _asked(self.overrides[name])
            if tolerance is not None:
                unlabeled = candidate.arithmetic == "int8" and not self.labeled
                gates.append(_parity_gate(candidate, name, comparator.result(), tolerance, unlabeled=unlabeled))
        return gates

    def divergences(self, gates: Sequence[GateRecord], work: Path, progress: Progress) -> tuple[DivergenceRecord, ...]:
        """Where each candidate that failed a gate parts ways with the reference."""
        lost = {gate.subject for gate in gates if not gate.passed}
        ran = [self.contest.candidates[position - 1] for position in self._ran()]
        passed = [candidate for candidate in ran if candidate.name not in lost]
        found = []
        for position in self._ran():
            candidate, parity = self.contest.candidates[position - 1], self.evaluations[position].parity
            if candidate.name in lost and parity is not None:
                failed = Failed(candidate, parity)
                found.append(find_divergence(failed, self.contest, passed, work=work, progress=progress))
        return tuple(found)


def _overrides(request: VerifyRequest, scores: Sequence[Score]) -> Overrides:
    from mscsa_deploy.parity.tolerance import parse_overrides

    outputs = {name for score in scores for name in score.outputs}
    parsed = parse_overrides(request.tolerances)
    for output in parsed:
        if outputs and output not in outputs:
            raise unknown_name("output", output, outputs)
    return parsed


def _asked(given: Mapping[str, float]) -> Tolerance:
    from mscsa_deploy.parity.tolerance import Tolerance

    return Tolerance(**given, why="asked for by the caller")


def _parity_gate(
    candidate: Contestant, output: str, parity: Parity, tolerance: Tolerance, *, unlabeled: bool
) -> GateRecord:
    from mscsa_deploy.parity.tolerance import LOWER_LIMITS, violations

    broken = violations(output, parity, tolerance)
    asked = [
        f"{output}.{metric} {'>=' if metric in LOWER_LIMITS else '<='} {limit:g}"
        for metric, limit in tolerance.limits().items()
    ]
    measured = {metric: getattr(parity, metric) for metric in tolerance.limits()}
    found = [f"{metric} {value:.4g}" for metric, value in measured.items() if value is not None]
    if parity.nonfinite:
        found.append(f"{parity.nonfinite} values are NaN or infinite on one side only")
    if broken:
        found.append(f"worst on image {broken[0].image}")
    return GateRecord(
        subject=candidate.name,
        asked=" and ".join(asked) + (" (no labels, so agreement decides)" if unlabeled else ""),
        found=", ".join(found) or "nothing to judge",
        passed=not broken,
    )


def _accuracy_gate(candidate: Contestant, metric: Any, max_drop: float | None) -> GateRecord:
    budget = max_drop if max_drop is not None else MAX_DROP.get(metric.name, DEFAULT_DROP)
    share = 100.0 * metric.value / metric.reference if metric.reference else 0.0
    low, high = metric.drop_ci95 or (metric.drop, metric.drop)
    return GateRecord(
        subject=candidate.name,
        asked=f"{metric.name} drop <= {budget:g} points and >= {LEAST_SHARE:g} % of the reference",
        found=f"drop {metric.drop:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}), {share:.1f} %",
        passed=metric.drop <= budget and share >= LEAST_SHARE,
    )


def _row(
    contestant: Contestant,
    contest: Contest,
    score: Score | None,
    evaluation: Evaluation | None,
    reference: Evaluation | None,
) -> Row:
    status: Status = "ok"
    reason = contestant.reason
    if contestant.status != "ok" or score is None or evaluation is None:
        status = "not run"
    elif score.failure:
        status, reason = "failed", score.failure
    outputs: dict[str, ParityNumbers] = {}
    if status == "ok" and score is not None:
        outputs = {name: comparator.result().numbers() for name, comparator in score.outputs.items()}
    ran = status == "ok" and evaluation is not None
    return Row(
        runtime=contestant.runtime,
        runtime_version=contestant.version,
        precision=contestant.arithmetic,
        executed_precision=score.executed if score is not None else "",
        status=status,
        reason=reason,
        threads=contest.threads,
        input_size=(contest.preprocess.height, contest.preprocess.width),
        artifact=contestant.label,
        sha256=contestant.sha256,
        size_bytes=contestant.size_bytes,
        metric=evaluation.metric(reference) if ran and evaluation is not None else None,
        parity=next(iter(outputs.values()), None),
        details={
            "name": contestant.name,
            "outputs": outputs,
            "stores": contestant.precision,
            "options": dict(contestant.options),
        },
    )
