"""Measures rows: one worker per row, one worker busy at a time, blocks of a group taking turns.

Two rows are only ever compared through blocks of the same round, which ran within seconds of each other.
Every other round runs in the opposite order, so that neither side always goes first.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mscsa_deploy.core.files import cache_root, content_key
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Row
from mscsa_deploy.errors import UserError
from mscsa_deploy.timing import messages
from mscsa_deploy.timing.journal import BlockTaken, RowRun, row_key
from mscsa_deploy.timing.plan import Preset, RowSpec
from mscsa_deploy.timing.process import RowError, Worker
from mscsa_deploy.timing.rows import emulated_by, make_row, ratio_to, references, write_samples

EXPLAIN_BELOW = 1.1
"""A reduced precision that is not at least this much faster than FP32 is explained without being asked."""

PROFILE_RUNS = 20
COMPANION = -1  # a block taken only so that another row has something to be compared with


@dataclass
class _Session:
    """One call of `measure`."""

    preset: Preset
    progress: Progress
    command: tuple[str, ...]
    total: int
    done: int = 0
    workers: dict[str, Worker] = field(default_factory=dict)


def measure(
    rows: Sequence[RowSpec],
    preset: Preset,
    *,
    samples_dir: Path,
    fingerprint: str = "",
    resume: bool = False,
    progress: Progress = silent,
    worker: tuple[str, ...] = (),
) -> tuple[Row, ...]:
    """The rows with their latencies, in the order given; a row that fails says why and the others go on.

    Args:
        rows: What to measure.
        preset: For how long.
        samples_dir: Directory for the raw samples, one .npz per row.
        fingerprint: Of the environment; a run is only resumed in the same one.
        resume: Go on with an earlier, interrupted call for the same rows, files, preset and environment.
        progress: Told each block.
        worker: The command that starts a worker; empty for this package's under this interpreter.

    Raises:
        UserError: There are no rows, or two rows of one group claim the same role and condition.
    """
    if not rows:
        raise UserError("there is nothing to measure: the list of rows is empty")
    _refuse_double_roles(rows)
    place = state_directory(rows, preset, fingerprint)
    if not resume:
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    runs = [RowRun(spec, place / f"{number:03d}-{row_key(spec)}.jsonl") for number, spec in enumerate(rows)]
    for run in runs:
        run.read()
    taken = sum(len(run.attempts.get(0, ())) for run in runs)
    session = _Session(preset, progress, worker, total=len(rows) * preset.blocks, done=taken)
    for part in _parts(runs, preset.live_workers):
        _measure_part(part, session)
    samples_dir.mkdir(parents=True, exist_ok=True)
    made = []
    for number, run in enumerate(runs):
        name = write_samples(run, samples_dir, number)
        made.append(make_row(run, runs, preset, samples_file=name))
    shutil.rmtree(place, ignore_errors=True)
    return tuple(made)


def state_directory(rows: Sequence[RowSpec], preset: Preset, fingerprint: str) -> Path:
    """Where the journals of this very measurement lie."""
    parts = {
        "rows": [row_key(spec) for spec in rows],
        "preset": msgspec.to_builtins(preset),
        "environment": fingerprint,
    }
    return cache_root() / "benchmark" / content_key(parts)


def _refuse_double_roles(rows: Sequence[RowSpec]) -> None:
    seen: set[tuple[object, ...]] = set()
    for spec in rows:
        key = (spec.role, *spec.condition)
        if spec.role and key in seen:
            raise UserError(f"two rows of '{spec.group}' claim to be the {spec.role} of {spec.runtime}")
        seen.add(key)


def _parts(runs: Sequence[RowRun], limit: int) -> list[list[RowRun]]:
    """Groups of rows that are loaded together; a condition never spans two parts unless it is too large."""
    parts: list[list[RowRun]] = []
    for _, group in itertools.groupby(sorted(runs, key=lambda run: run.spec.group), key=lambda run: run.spec.group):
        by_condition: dict[tuple[object, ...], list[RowRun]] = {}
        for run in group:
            by_condition.setdefault(run.spec.condition, []).append(run)
        part: list[RowRun] = []
        for alike in by_condition.values():
            if part and len(part) + len(alike) > limit:
                parts.append(part)
                part = []
            part += alike
        parts.append(part)
    return parts


def _measure_part(runs: list[RowRun], session: _Session) -> None:
    with contextlib.ExitStack() as stack:
        session.workers = {}
        for run in runs:
            _start(run, session, stack)
        for attempt in range(session.preset.remeasures + 1):
            wanted = [run for run in runs if run.failure is None and _wants(run, attempt, session.preset)]
            if not wanted:
                continue
            if attempt:
                session.total += sum(session.preset.blocks - len(run.attempts.get(attempt, ())) for run in wanted)
            _rounds(wanted, runs, attempt, session)
        for run in runs:
            if run.failure is None and run.profile is None and _needs_explaining(run, runs):
                _profile(run, session)


def _wants(run: RowRun, attempt: int, preset: Preset) -> bool:
    """Whether `attempt` is to be made or finished for this row's own sake."""
    if attempt in run.attempts or attempt == 0:
        return len(run.attempts.get(attempt, ())) < preset.blocks
    complete = len(run.attempts.get(attempt - 1, ())) == preset.blocks
    return complete and not emulated_by(run) and not run.stability.stable


def _start(run: RowRun, session: _Session, stack: contextlib.ExitStack) -> None:
    preset = session.preset
    session.progress(session.done, session.total, f"loading {run.spec.label}")
    worker = Worker(threads=run.spec.threads, command=session.command)
    stack.callback(worker.close)
    session.workers[run.path.name] = worker
    try:
        loaded = worker.ask(messages.Load(spec=run.spec), messages.Loaded, timeout_seconds=preset.timeout_seconds)
        if run.loaded is None:
            run.note(loaded)
        warm = messages.Warm(runs=preset.warmup_runs, seconds=preset.warmup_seconds, cap_seconds=preset.row_cap_seconds)
        worker.ask(warm, messages.Warmed, timeout_seconds=preset.row_cap_seconds + preset.timeout_seconds)
    except RowError as error:
        _fail(run, error, session)


def _rounds(wanted: list[RowRun], runs: list[RowRun], attempt: int, session: _Session) -> None:
    blocks = session.preset.blocks
    for number in range(attempt * blocks, (attempt + 1) * blocks):
        missing = [run for run in wanted if run.failure is None and number not in run.attempts.get(attempt, ())]
        companions = {
            id(other): other
            for run in missing
            for other in references(run, runs).values()
            if other not in missing and other.failure is None
        }
        order = [run for run in runs if run in missing or id(run) in companions]
        for run in order if number % 2 == 0 else reversed(order):
            session.progress(session.done, session.total, run.spec.label)
            _take(run, number, COMPANION if id(run) in companions else attempt, session)
            session.done += run in missing
    session.progress(session.done, session.total, "measured")


def _take(run: RowRun, number: int, attempt: int, session: _Session) -> None:
    preset = session.preset
    command = messages.Measure(
        runs=preset.block_runs,
        seconds=preset.block_seconds,
        cap_seconds=preset.block_cap_seconds,
        rewarm_runs=preset.rewarm_runs,
    )
    patience = 2 * preset.block_cap_seconds + preset.timeout_seconds
    try:
        block = session.workers[run.path.name].ask(command, messages.Block, timeout_seconds=patience)
    except RowError as error:
        _fail(run, error, session)
        return
    run.note(BlockTaken(round=number, attempt=attempt, block=block))


def _profile(run: RowRun, session: _Session) -> None:
    session.progress(session.done, session.total, f"profiling {run.spec.label}")
    # A profile is a bonus: a runtime without a profiler does not make the row fail.
    with contextlib.suppress(RowError):
        run.note(
            session.workers[run.path.name].ask(
                messages.Profile(runs=PROFILE_RUNS),
                messages.Profiled,
                timeout_seconds=session.preset.timeout_seconds + session.preset.row_cap_seconds,
            )
        )


def _fail(run: RowRun, error: RowError, session: _Session) -> None:
    run.note(messages.Failure(kind=error.failure_kind, message=error.message, hint=error.hint))
    session.workers.pop(run.path.name).close()


def _needs_explaining(run: RowRun, runs: Sequence[RowRun]) -> bool:
    """Rows that were asked for, rows that are too slow, and what those are compared with."""
    if run.spec.explain or _too_slow(run, runs):
        return True
    return any(
        (other.spec.explain or _too_slow(other, runs)) and run in references(other, runs).values() for other in runs
    )


def _too_slow(run: RowRun, runs: Sequence[RowRun]) -> bool:
    found = references(run, runs)
    reference = found.get("fp32") or found.get("optimised_fp32")
    if run.failure is not None or run.spec.precision == "fp32" or reference is None:
        return False
    ratio = ratio_to(run, reference)
    return ratio is not None and ratio.value < EXPLAIN_BELOW
