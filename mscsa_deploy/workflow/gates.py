"""The gates of a deployment, and its verdict: which artefacts are right, and which of them to ship."""

from __future__ import annotations

from collections.abc import Sequence

from mscsa_deploy.calibration.budget import AGREEMENT, Budget
from mscsa_deploy.core.report import Metric, Row, Verdict
from mscsa_deploy.workflow.choice import choose, from_picture, p50
from mscsa_deploy.workflow.deployment import Gate, Results


def judge(rows: Sequence[Row], results: Results) -> tuple[tuple[Gate, ...], Verdict]:
    """Every gate with its outcome, and the verdict for this device."""
    core = [row for row in rows if row.boundary == "core"]
    gates = [gate for row in core if (gate := _gate(row, results)) is not None]
    right = [row for row in core if all(gate.passed for gate in gates if gate.subject == _name(row))]
    chosen = choose(right)
    wins = chosen is not None and chosen.precision == "int8"
    why_not = "" if wins else _why_no_int8(core, gates, chosen, choose(row for row in right if row.precision == "int8"))
    if results.settings.require_int8:
        asked = "an INT8 artefact within budget and faster than float"
        gates.append(Gate("deployment", asked, why_not or "there is one", wins, required=True))
    passed = all(gate.passed for gate in gates if gate.required)
    return tuple(gates), Verdict(
        passed=passed,
        summary=_summary(chosen, why_not, from_picture(chosen, right, rows) if chosen else ""),
        recommended=chosen.artifact if chosen else "",
        runtime=chosen.runtime if chosen else "",
        precision=chosen.precision if chosen else "",
        recipe=chosen.recipe if chosen else "",
        gates=tuple(str(gate) for gate in gates),
    )


def passes(row: Row, results: Results) -> bool:
    """Whether this row's answers are what is asked of them, or nothing is."""
    gate = _gate(row, results)
    return gate is None or gate.passed


def _gate(row: Row, results: Results) -> Gate | None:
    """What is asked of this row's answers; None where they could not be had or are the reference."""
    if row.metric is None and row.parity is None:
        return None
    subject = _name(row)
    accuracy = _accuracy_gate(row, subject, results.settings.max_drop)
    if row.precision == "int8":
        return accuracy or _agreement_gate(row, subject)
    parity = _parity_gate(row, subject, values=results.prepared.recipe.output != "classmap")
    return _both(parity, accuracy) if parity and accuracy else parity or accuracy


def _accuracy_gate(row: Row, subject: str, max_drop: float | None) -> Gate | None:
    """The budget of a lower precision; None for FP32, and without labels."""
    metric = row.metric
    if row.precision == "fp32" or metric is None or metric.drop is None or metric.reference is None:
        return None
    return Gate(subject, *accuracy_check(metric, max_drop), required=False)


def _both(parity: Gate, accuracy: Gate) -> Gate:
    """BF16 and FP16 have INT8's budget too: a drop is a drop, whatever it comes from."""
    asked, found = f"{parity.asked} and {accuracy.asked}", f"{parity.found}; {accuracy.found}"
    return Gate(parity.subject, asked, found, parity.passed and accuracy.passed, parity.required)


def accuracy_check(metric: Metric, max_drop: float | None) -> tuple[str, str, bool]:
    """What is asked of a lower precision with labels, what was found, and whether it holds; `metric` has a drop.

    Args:
        metric: Against the float reference.
        max_drop: Points; the metric's own budget if None.
    """
    assert metric.drop is not None
    assert metric.reference is not None
    budget = Budget.of(metric.name, max_drop)
    share = 100.0 * metric.value / metric.reference if metric.reference > 0 else 0.0
    low, high = metric.drop_ci95 or (metric.drop, metric.drop)
    return (
        f"{metric.name} drop at most {budget.max_drop:g} points and at least {budget.min_share:g} % of the reference",
        f"drop {metric.drop:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}), {share:.1f} % of the reference",
        budget.allows(metric.value, metric.reference),
    )


def _agreement_gate(row: Row, subject: str) -> Gate | None:
    if row.parity is None or row.parity.argmax_agreement is None:
        return None
    agreement = row.parity.argmax_agreement
    budget = Budget.of(AGREEMENT)
    asked = f"no labels, so {AGREEMENT} with FP32 of at least {100.0 - budget.max_drop:g} %"
    return Gate(subject, asked, f"{agreement:.2f} %", budget.allows(agreement, 100.0), required=False)


def _parity_gate(row: Row, subject: str, *, values: bool) -> Gate | None:
    """The tolerance of the row's precision; `values` is false for class maps, which have an agreement only."""
    from mscsa_deploy.parity.tolerance import LOWER_LIMITS, tolerance_for

    if row.parity is None:
        return None
    found, passed = [], True
    asked = []
    for metric, limit in tolerance_for(row.precision).limits().items():
        value = getattr(row.parity, metric)
        lower = metric in LOWER_LIMITS
        if value is None and not values and metric != "argmax_agreement":
            continue
        asked.append(f"{metric} {'>=' if lower else '<='} {limit:g}")
        if value is None:
            # A report holds no infinity: the outputs were not finite where the reference was.
            found.append(f"{metric} not finite")
            passed = False
            continue
        found.append(f"{metric} {value:.4g}")
        passed = passed and (value >= limit if lower else value <= limit)
    required = row.precision == "fp32"
    return Gate(subject, " and ".join(asked), ", ".join(found), passed, required)


def _name(row: Row) -> str:
    role = " (plain export)" if row.plain_export else ""
    recipe = f" {row.recipe}" if row.recipe else ""
    return f"{row.runtime} {row.precision}{recipe}{role}"


def _why_no_int8(core: Sequence[Row], gates: Sequence[Gate], best_float: Row | None, best_int8: Row | None) -> str:
    if best_int8 is not None and best_float is not None:
        return (
            f"the best INT8 within budget ({best_int8.runtime}, {p50(best_int8):.2f} ms) is not faster than "
            f"{best_float.runtime} {best_float.precision} ({p50(best_float):.2f} ms)"
        )
    int8 = [row for row in core if row.precision == "int8" and row.status == "ok"]
    if not int8:
        return "no INT8 artefact could be run on this machine"
    failed = [str(gate) for gate in gates if not gate.passed and any(gate.subject == _name(row) for row in int8)]
    return f"no INT8 artefact is within budget: {'; '.join(failed)}"


def _summary(chosen: Row | None, why_no_int8: str, end_to_end: str) -> str:
    if chosen is None:
        return f"No artefact passed its gates on this device: {why_no_int8}."
    words = [f"Ship {chosen.runtime} {chosen.precision} on this device: p50 {p50(chosen):.2f} ms"]
    if chosen.speedup_vs_fp32 is not None:
        low, high = chosen.speedup_vs_fp32.ci95
        words.append(
            f"{chosen.speedup_vs_fp32.value:.2f}x (95 % interval {low:.2f} to {high:.2f}) over "
            f"{chosen.speedup_vs_fp32.reference}"
        )
    if chosen.metric is not None:
        drop = f", drop {chosen.metric.drop:+.2f} points" if chosen.metric.drop is not None else ""
        words.append(f"{chosen.metric.name} {chosen.metric.value:.2f}{drop}")
    text = "; ".join(words) + "."
    text += f" {end_to_end}." if end_to_end else ""
    return f"{text} Not INT8: {why_no_int8}." if why_no_int8 else text
