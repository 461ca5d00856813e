"""What difference between two runs is allowed, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from mscsa_deploy.errors import GateError, UserError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mscsa_deploy.parity.compare import Parity

UPPER_LIMITS = ("max_abs", "max_abs_over_range")
LOWER_LIMITS = ("cosine", "argmax_agreement", "sqnr_db")
METRICS = UPPER_LIMITS + LOWER_LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Limits on a `Parity`; a metric left at None is not judged.

    Args:
        why: The reason for these limits; required, and part of every message.
        max_abs: At most this absolute difference, in the output's unit.
        max_abs_over_range: At most this difference over the reference's range.
        cosine: At least this cosine.
        argmax_agreement: At least this percent of positions with the same class.
        sqnr_db: At least this signal to noise ratio.

    Raises:
        UserError: `why` is empty, no limit is given, or a limit is not a number.
    """

    why: str
    max_abs: float | None = None
    max_abs_over_range: float | None = None
    cosine: float | None = None
    argmax_agreement: float | None = None
    sqnr_db: float | None = None

    def __post_init__(self) -> None:
        limits = self.limits()
        if not self.why.strip():
            raise UserError("a tolerance without a reason", hint="say in 'why' what causes the difference")
        if not limits:
            raise UserError("a tolerance that limits nothing", hint=f"set at least one of {', '.join(METRICS)}")
        for metric, limit in limits.items():
            if math.isnan(limit):
                raise UserError(f"tolerance '{metric}' is not a number")

    def limits(self) -> dict[str, float]:
        """The limits that are set, by metric."""
        values = {metric: getattr(self, metric) for metric in METRICS}
        return {metric: limit for metric, limit in values.items() if limit is not None}


# The fp16 and bf16 limits leave room over what random weights, the worst case, gave: range 2.4e-3 and 99.4 %
# in fp16, 96.3 % in bf16 (segmentation; classification agreed fully).
DEFAULTS: Mapping[str, Tolerance] = MappingProxyType(
    {
        "fp32": Tolerance(
            max_abs_over_range=1e-4,
            argmax_agreement=99.9,
            why="the same float32 sums in another order; near-ties between two classes may flip",
        ),
        "fp16": Tolerance(
            max_abs_over_range=2e-2,
            argmax_agreement=99.0,
            why="11 significant bits per product and sum, accumulated over some fifty layers",
        ),
        "bf16": Tolerance(
            argmax_agreement=95.0,
            why="8 significant bits: single values move by percents, the winning class seldom does",
        ),
        "int8": Tolerance(
            argmax_agreement=99.0,
            why="256 levels per tensor: only the decision is comparable, not the values",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Violation:
    """One limit that was not kept.

    Args:
        output: The output's name.
        metric: One of `METRICS`, or ``"nonfinite"``.
        value: What was measured.
        limit: What was allowed.
        image: The worst image in that respect.
        why: The tolerance's own reason.
    """

    output: str
    metric: str
    value: float
    limit: float
    image: str
    why: str

    def __str__(self) -> str:
        sign = "<=" if self.metric in (*UPPER_LIMITS, "nonfinite") else ">="
        unit = " %" if self.metric == "argmax_agreement" else ""
        return (
            f"'{self.output}' has {self.metric} {self.value:.6g}{unit}, "
            f"allowed {sign} {self.limit:.6g}{unit} "
            f"(worst image: {self.image}; the limit allows for: {self.why})"
        )


def tolerance_for(precision: str) -> Tolerance:
    """The default tolerance against an FP32 reference for a candidate of `precision`.

    Raises:
        UserError: There is no such precision.
    """
    if precision not in DEFAULTS:
        raise unknown_name("precision", precision, DEFAULTS)
    return DEFAULTS[precision]


def violations(output: str, parity: Parity, tolerance: Tolerance) -> tuple[Violation, ...]:
    """Every limit of `tolerance` that `parity` breaks; NaN or infinity on one side only always breaks it."""
    furthest, least = parity.worst
    found = []
    if parity.nonfinite:
        found.append(Violation(output, "nonfinite", parity.nonfinite, 0, furthest.name, tolerance.why))
    for metric, limit in tolerance.limits().items():
        value = getattr(parity, metric)
        if value is None:
            continue
        kept = value <= limit if metric in UPPER_LIMITS else value >= limit
        if not kept:
            image = least if metric == "argmax_agreement" else furthest
            found.append(Violation(output, metric, value, limit, image.name, tolerance.why))
    return tuple(found)


def check(output: str, parity: Parity, tolerance: Tolerance, *, subject: str) -> None:
    """Raise `GateError` unless `parity` keeps `tolerance`.

    Args:
        output: The output's name.
        parity: What was measured.
        tolerance: What is allowed.
        subject: What was compared with what, e.g. ``"model.onnx on onnxruntime against PyTorch"``.
    """
    found = violations(output, parity, tolerance)
    if found:
        raise GateError(
            f"{subject}: {'; '.join(map(str, found))}",
            hint="'verify --bisect' finds where it starts; --tolerance OUTPUT.METRIC=VALUE allows more",
        )


def override(tolerance: Tolerance, output: str, overrides: Mapping[str, Mapping[str, float]]) -> Tolerance:
    """`tolerance` with what `overrides` says about `output`; see `parse_overrides`."""
    given = overrides.get(output)
    if not given:
        return tolerance
    return replace(tolerance, **given, why=f"{tolerance.why}; overridden by the caller: {sorted(given)}")


def parse_overrides(texts: Iterable[str], *, outputs: Iterable[str] | None = None) -> dict[str, dict[str, float]]:
    """``OUTPUT.METRIC=VALUE`` settings as {output: {metric: value}}; an output's name may itself hold dots.

    Raises:
        UserError: A setting has another form, an unknown metric, a value that is no limit, or an output that is not in
            `outputs`.
    """
    parsed: dict[str, dict[str, float]] = {}
    known = None if outputs is None else tuple(outputs)
    for text in texts:
        place, equals, number = text.partition("=")
        output, dot, metric = place.strip().rpartition(".")
        if not equals or not dot or not output:
            raise UserError(f"tolerance '{text}' is not OUTPUT.METRIC=VALUE", hint="e.g. logits.cosine=0.999")
        if metric not in METRICS:
            raise unknown_name("parity metric", metric, METRICS)
        if known is not None and output not in known:
            raise unknown_name("output", output, known)
        try:
            value = float(number)
        except ValueError as error:
            raise UserError(f"tolerance '{text}': '{number}' is not a number") from error
        if not math.isfinite(value) or value < 0:
            raise UserError(f"tolerance '{text}': a limit is a finite number, zero or more")
        parsed.setdefault(output, {})[metric] = value
    return parsed
