"""`compare`: a new report against an old one, as a gate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mscsa_deploy.core.config import Record

NAMED = 3


class ChangeRow(Record, frozen=True, kw_only=True):
    """One quantity of one row, old against new; `loss` is how much worse it got, in `unit`."""

    row: str
    quantity: str
    unit: str
    old: float
    new: float
    loss: float
    limit: float | None
    verdict: str


class Comparison(Record, frozen=True, kw_only=True):
    """What changed.

    Args:
        passed: Whether nothing got worse than allowed, failed or went missing.
        limits: How much worse each quantity was allowed to get.
        changes: Every limited quantity of every row that both reports hold.
        broken: Rows that ran in the old report and do not in the new one.
        missing: Rows that ran in the old report and are not in the new one.
        added: Rows of the new report only.
        differences: What is unlike in the environments; empty unless forced.
        problem: What failed the gate, in words; empty when it passed.
    """

    passed: bool
    limits: dict[str, float]
    changes: tuple[ChangeRow, ...]
    broken: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    differences: tuple[str, ...]
    problem: str = ""


def run_compare(old: Path, new: Path, max_regress: Iterable[str] = (), *, force: bool = False) -> Comparison:
    """Hold the report `new` against `old`.

    Args:
        old: A report's JSON, or the directory that holds one.
        new: The same.
        max_regress: ``QUANTITY=AMOUNT`` limits; the default ones if there are none.
        force: Compare although the environments or models differ.

    Raises:
        UserError: A report is unreadable, a limit is wrong, or the reports are unlike and `force` is false.
    """
    from mscsa_deploy.reporting.compare import DEFAULT_LIMITS, QUANTITIES, compare_reports, parse_limits
    from mscsa_deploy.reporting.files import read_report

    limits = parse_limits(max_regress) or dict(DEFAULT_LIMITS)
    found = compare_reports(read_report(old), read_report(new), limits, force=force)
    problem = _problem([*map(str, found.regressions), *found.broken, *(f"{row}: gone" for row in found.missing)])
    return Comparison(
        passed=not problem,
        limits=dict(limits),
        changes=tuple(
            ChangeRow(
                row=change.row,
                quantity=change.quantity,
                unit=QUANTITIES[change.quantity].unit,
                old=change.old,
                new=change.new,
                loss=change.loss,
                limit=change.limit,
                verdict=change.verdict,
            )
            for change in found.changes
        ),
        broken=found.broken,
        missing=found.missing,
        added=found.added,
        differences=found.differences,
        problem=problem,
    )


def _problem(losses: Sequence[str]) -> str:
    """What got worse in one sentence, the first few by name; empty if nothing did."""
    if not losses:
        return ""
    more = f"; and {len(losses) - NAMED} more" if len(losses) > NAMED else ""
    return f"{len(losses)} regression{'s' * (len(losses) != 1)}: {'; '.join(losses[:NAMED])}{more}"
