"""What came out of a `verify`: the scores of its contest as rows, checks and places where two files part ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.progress import Progress
from mscsa_deploy.core.report import ParityNumbers, Row, Status
from mscsa_deploy.errors import DeployError, unknown_name
from mscsa_deploy.workflow.contest import Contest, Score
from mscsa_deploy.workflow.contestants import Contestant
from mscsa_deploy.workflow.divergence import DivergenceRecord, Failed, find_divergence
from mscsa_deploy.workflow.evaluate import Evaluation, part_values
from mscsa_deploy.workflow.gates import accuracy_check
from mscsa_deploy.workflow.verify_records import GateRecord, VerifyRequest

if TYPE_CHECKING:
    from mscsa_deploy.parity.compare import Parity
    from mscsa_deploy.parity.tolerance import Tolerance

Overrides = Mapping[str, Mapping[str, float]]


class Judged:
    """The scores of a contest as rows and gates."""

    def __init__(self, request: VerifyRequest, contest: Contest, scores: Sequence[Score]) -> None:
        self.request, self.contest, self.scores = request, contest, scores
        self.images = contest.images()
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
        gates = []
        if candidate.arithmetic != "fp32" and metric is not None and metric.drop is not None:
            asked, found, passed = accuracy_check(metric, self.request.max_drop)
            gates.append(GateRecord(subject=candidate.name, asked=asked, found=found, passed=passed))
        # With labels, INT8 has its budget and no tolerance: its values differ by design.
        by_metric = candidate.arithmetic == "int8" and bool(gates)
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
                found.append(self._divergence(failed, passed, work, progress))
        return tuple(found)

    def _divergence(
        self, failed: Failed, passed: Sequence[Contestant], work: Path, progress: Progress
    ) -> DivergenceRecord:
        """Where `failed` parts ways, or why that could not be found: the scores are worth more than the search."""
        try:
            return find_divergence(failed, self.contest, passed, work=work, progress=progress)
        except DeployError as error:
            return DivergenceRecord(subject=failed.contestant.name, reason=str(error))


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
