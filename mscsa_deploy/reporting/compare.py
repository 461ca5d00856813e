"""Two reports against each other: which rows got slower, larger or less accurate, beyond noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import msgspec

from mscsa_deploy.core.config import to_plain
from mscsa_deploy.core.environment import Environment
from mscsa_deploy.errors import GateError, UserError, unknown_name
from mscsa_deploy.reporting.cells import number, precision, runtime_title, setting

if TYPE_CHECKING:
    from mscsa_deploy.core.report import Latency, Report, Row

Interval = tuple[float, float]
Sample = tuple[float, Interval | None]
Verdict = Literal["better", "same", "worse", "within noise", "regression"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that two rows are compared in.

    Args:
        read: Its value and 95 % interval, None where it was not measured.
        unit: ``%``: changes are relative, in percent of the old value; ``points``: absolute.
        higher_is_better: True for rates and accuracies.
    """

    read: Callable[[Row], Sample | None]
    unit: Literal["%", "points"]
    higher_is_better: bool = False


def _latency(field: str, interval: str | None) -> Callable[[Row], Sample | None]:
    def read(row: Row) -> Sample | None:
        latency: Latency | None = row.latency_ms
        value = getattr(latency, field) if latency is not None else None
        if value is None:
            return None
        return value, getattr(latency, interval) if interval else None

    return read


def _field(name: str) -> Callable[[Row], Sample | None]:
    def read(row: Row) -> Sample | None:
        value = getattr(row, name)
        return None if value is None else (float(value), None)

    return read


QUANTITIES: Mapping[str, Quantity] = MappingProxyType(
    {
        "min": Quantity(_latency("min", None), "%"),
        "mean": Quantity(_latency("mean", None), "%"),
        "p50": Quantity(_latency("p50", "ci95"), "%"),
        "p90": Quantity(_latency("p90", "p90_ci95"), "%"),
        "p99": Quantity(_latency("p99", None), "%"),
        "fps": Quantity(_field("fps"), "%", higher_is_better=True),
        "load": Quantity(_field("load_ms"), "%"),
        "memory": Quantity(_field("peak_rss_bytes"), "%"),
        "size": Quantity(_field("size_bytes"), "%"),
        "metric": Quantity(
            lambda row: (row.metric.value, None) if row.metric else None, "points", higher_is_better=True
        ),
        "agreement": Quantity(
            lambda row: (
                (row.parity.argmax_agreement, None) if row.parity and row.parity.argmax_agreement is not None else None
            ),
            "points",
            higher_is_better=True,
        ),
    }
)
DEFAULT_LIMITS: Mapping[str, float] = MappingProxyType({"p50": 5.0, "p90": 5.0, "size": 1.0, "metric": 0.1})


@dataclass(frozen=True, slots=True)
class Change:
    """One quantity of one row, old against new.

    Args:
        row: The row in words.
        quantity: Name of `QUANTITIES`.
        old: The old value.
        new: The new value.
        loss: How much worse it got, in percent of the old value or in points; a gain is negative.
        limit: How much worse was allowed, in the same.
        verdict: ``regression``: beyond the limit and, where both have intervals, not explained by them;
            ``within noise``: beyond the limit, but the intervals overlap.
    """

    row: str
    quantity: str
    old: float
    new: float
    loss: float
    limit: float
    verdict: Verdict

    def __str__(self) -> str:
        unit = QUANTITIES[self.quantity].unit
        return (
            f"{self.row}: {self.quantity} {number(self.old)} -> {number(self.new)} "
            f"({self.loss:+.1f} {unit}, allowed {self.limit:g} {unit})"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that two reports have in common, and what only one of them has.

    Args:
        changes: Every limited quantity of every row that both hold.
        broken: Rows that were ``ok`` and no longer are, in words with the reason.
        missing: Rows that were ``ok`` in the old report and are not in the new one.
        added: Rows of the new report only.
        differences: Comparable facts of the environments that differ (empty unless forced).
    """

    changes: tuple[Change, ...]
    broken: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes that break a limit."""
        return tuple(change for change in self.changes if change.verdict == "regression")

    def check(self) -> None:
        """Raise `GateError` if a limit is broken, or a row failed or went missing."""
        lines = [str(change) for change in self.regressions]
        lines += [f"{row}, no longer measured" for row in self.broken]
        lines += [f"{row}: not in the new report" for row in self.missing]
        if lines:
            raise GateError(f"{len(lines)} regression{'s' * (len(lines) != 1)}: {'; '.join(lines)}")


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """``p90=5%`` and ``metric=0.5`` settings as {quantity: how much worse is allowed}.

    Raises:
        UserError: A setting has another form, an unknown quantity, a wrong unit or a negative number.
    """
    limits: dict[str, float] = {}
    for text in texts:
        name, equals, amount = (part.strip() for part in text.partition("="))
        if not equals:
            raise UserError(f"limit '{text}' is not QUANTITY=AMOUNT", hint="e.g. p90=5% or metric=0.5")
        if name not in QUANTITIES:
            raise unknown_name("quantity", name, QUANTITIES)
        unit = QUANTITIES[name].unit
        if amount.endswith("%") and unit == "points" and name != "agreement":
            raise UserError(f"limit '{text}': '{name}' is limited in points", hint=f"write {name}={amount[:-1]}")
        try:
            value = float(amount.removesuffix("%"))
        except ValueError as error:
            raise UserError(f"limit '{text}': '{amount}' is not a number") from error
        if not 0.0 <= value < float("inf"):
            raise UserError(f"limit '{text}' must be zero or more")
        limits[name] = value
    return limits


def compare_reports(
    old: Report, new: Report, limits: Mapping[str, float] = DEFAULT_LIMITS, *, force: bool = False
) -> Comparison:
    """What changed from `old` to `new`; call `Comparison.check` to make it a gate.

    Args:
        old: The report to hold against.
        new: The report to judge.
        limits: How much worse each quantity may get: percent, or points for accuracy.
        force: Compare although the environments or models differ.

    Raises:
        UserError: The environments or models are unlike and `force` is false, a report holds a row twice,
            or the reports have no row in common.
    """
    differences = _differences(old, new)
    if differences and not force:
        raise UserError(
            f"the reports cannot be compared: {'; '.join(differences)}",
            hint="measure both in the same environment, or compare them anyway with --force",
        )
    before, after = _rows(old, "old"), _rows(new, "new")
    common = [key for key in before if key in after]
    if not common:
        raise UserError("the two reports have no row in common", hint="compare reports of the same model and runtimes")
    ok = [key for key in common if before[key].status == "ok"]
    return Comparison(
        changes=tuple(
            change
            for key in ok
            if after[key].status == "ok"
            for name, limit in limits.items()
            if (change := _change(before[key], after[key], name, limit)) is not None
        ),
        broken=tuple(_broken(after[key]) for key in ok if after[key].status != "ok"),
        missing=tuple(row_name(row) for key, row in before.items() if key not in after and row.status == "ok"),
        added=tuple(row_name(row) for key, row in after.items() if key not in before),
        differences=differences,
    )


def row_name(row: Row) -> str:
    """The row in a few words."""
    boundary = row.boundary.replace("_", " ")
    return f"{runtime_title(row.runtime)} {precision(row)}, {boundary}, {setting(row)}"


def _broken(row: Row) -> str:
    return f"{row_name(row)}: {row.status}" + (f" ({row.reason})" if row.reason else "")


def _rows(report: Report, which: str) -> dict[tuple[object, ...], Row]:
    rows: dict[tuple[object, ...], Row] = {}
    for row in report.rows:
        if row.key in rows:
            raise UserError(f"the {which} report holds two rows for {row_name(row)}")
        rows[row.key] = row
    return rows


def _change(old: Row, new: Row, name: str, limit: float) -> Change | None:
    quantity = QUANTITIES[name]
    before, after = quantity.read(old), quantity.read(new)
    if before is None or after is None:
        return None
    (was, was_interval), (now, now_interval) = before, after
    loss = was - now if quantity.higher_is_better else now - was
    if quantity.unit == "%":
        if was == 0.0:
            return None
        loss = 100.0 * loss / was
    overlap = (
        was_interval is not None
        and now_interval is not None
        and was_interval[0] <= now_interval[1]
        and now_interval[0] <= was_interval[1]
    )
    verdict: Verdict = "same"
    if loss > limit:
        verdict = "within noise" if overlap else "regression"
    elif loss != 0.0 and not overlap:
        verdict = "worse" if loss > 0.0 else "better"
    return Change(row_name(new), name, was, now, loss, limit, verdict)


def _differences(old: Report, new: Report) -> tuple[str, ...]:
    """What makes the two reports unlike, in words."""
    found = []
    if old.model is not None and new.model is not None:
        for field in ("name", "task", "input_size"):
            one, other = getattr(old.model, field), getattr(new.model, field)
            if one != other:
                found.append(f"model {field.replace('_', ' ')}: {one} and {other}")
    try:
        before = msgspec.convert(_known(old.environment), Environment)
        after = msgspec.convert(_known(new.environment), Environment)
    except msgspec.ValidationError:
        # Not written by `core.environment` (another tool, or by hand): every fact counts.
        facts = sorted({*old.environment, *new.environment})
        pairs = {fact: (old.environment.get(fact), new.environment.get(fact)) for fact in facts}
        return (*found, *(f"{fact}: {a} and {b}" for fact, (a, b) in pairs.items() if to_plain(a) != to_plain(b)))
    return (*found, *(f"{fact}: {a} and {b}" for fact, (a, b) in before.differences(after).items()))


def _known(environment: Mapping[str, object]) -> dict[str, object]:
    """The entries that `Environment` has; a report may add a fingerprint and the like."""
    return {name: value for name, value in environment.items() if name in Environment.__dataclass_fields__}
