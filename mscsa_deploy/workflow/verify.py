"""`verify`: outputs and task accuracy of several files on several runtimes, held against one reference."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Row
from mscsa_deploy.errors import GateError, StageError, UnsupportedError
from mscsa_deploy.workflow.contest import run_part
from mscsa_deploy.workflow.spread import run_on_ray
from mscsa_deploy.workflow.verify_entrants import find_candidates, find_reference, make_contest, told_apart
from mscsa_deploy.workflow.verify_judged import Judged
from mscsa_deploy.workflow.verify_records import VerifyOutcome, VerifyRequest


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
        reference, *others = told_apart((find_reference(request, work), *find_candidates(request, work)))
        runnable = tuple(other for other in others if other.status == "ok")
        contest = make_contest(request, reference, others, runnable)
        scores = (
            run_on_ray(contest, progress=progress) if request.engine == "ray" else run_part(contest, progress=progress)
        )
        judged = Judged(request, contest, scores)
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
