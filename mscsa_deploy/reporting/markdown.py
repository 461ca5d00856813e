"""The report as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mscsa_deploy.reporting.breakdown import breakdowns
from mscsa_deploy.reporting.cells import Cells, groups, metric_name, number, verdict_title
from mscsa_deploy.reporting.mobile import COLUMNS, HEADING, mobile_tables
from mscsa_deploy.reporting.notes import (
    accuracy_facts,
    data_facts,
    decision_facts,
    environment_facts,
    method,
    model_facts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.core.report import Report


def columns(report: Report, rows: Sequence[Cells]) -> list[tuple[str, str]]:
    """Field of `Cells` and heading of each column that tells something, in order.

    A column without a value is left out, and so is the setting where it is the same for all (see
    `common_setting`).
    """
    wanted = [
        ("runtime", "Runtime"),
        ("precision", "Precision"),
        ("setting", "Setting"),
        ("symbol", "Status"),
        ("metric", f"{metric_name(report)} %"),
        ("drop", "Drop"),
        ("agreement", "Agree %"),
        ("p50", "p50 ms"),
        ("p90", "p90 ms"),
        ("fps", "FPS"),
        ("size", "Size"),
        ("speedup", "Speed-up"),
        ("speedup_optimized", "vs optimized"),
    ]
    common = common_setting(rows)
    return [
        (field, title)
        for field, title in wanted
        if any(getattr(row, field) for row in rows) and not (field == "setting" and common)
    ]


def common_setting(rows: Sequence[Cells]) -> str:
    """The setting that all of `rows` that were measured share, or an empty string."""
    settings = {row.setting for row in rows if row.p50} or {row.setting for row in rows}
    return settings.pop() if len(settings) == 1 else ""


def to_markdown(report: Report) -> str:
    """The whole report as GitHub-flavored Markdown."""
    title = report.model.name if report.model else "Report"
    lines = [f"# {title}", ""]
    if report.verdict is not None:
        verdict = report.verdict
        lines += [f"**{verdict_title(verdict)}.** {verdict.summary}", ""]
        lines += [*(f"- {gate}" for gate in verdict.gates), *([""] if verdict.gates else [])]
    if report.model is not None and report.model.random_weights:
        lines += ["**Random weights: speed is real, accuracy means nothing.**", ""]
    for heading, rows in groups(report).items():
        common = common_setting(rows)
        lines += [f"## {heading}", "", *([f"All rows: {common}.", ""] if common else []), *_table(report, rows), ""]
        lines += [*_notes(rows)]
    lines += [*_time(report), *_mobile(report)]
    lines += [*_facts("Accuracy in detail, percent", accuracy_facts(report))]
    lines += [*_facts("How the numbers were obtained", method(report))]
    lines += _facts("What was decided", decision_facts(report))
    lines += [*_facts("Model", model_facts(report)), *_facts("Images", data_facts(report))]
    lines += [*_facts("Environment", environment_facts(report)), *_stages(report)]
    return "\n".join(lines).rstrip() + "\n"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; bars and line ends inside cells are escaped."""
    spelled = [[_escape(cell) for cell in row] for row in rows]
    return [_line(headings), _line(["---"] * len(headings)), *map(_line, spelled)]


def _table(report: Report, rows: Sequence[Cells]) -> list[str]:
    shown = columns(report, rows)
    return table([title for _, title in shown], [[getattr(row, field) for field, _ in shown] for row in rows])


def _notes(rows: Sequence[Cells]) -> list[str]:
    noted = [row for row in rows if row.note]
    if not noted:
        return []
    return [*(f"- {row.runtime} {row.precision}: {_escape(row.status)}: {_escape(row.note)}" for row in noted), ""]


def _time(report: Report) -> list[str]:
    """Milliseconds by part of a call, a table per runtime, and the explanations."""
    lines: list[str] = []
    for each in breakdowns(report):
        parts = [[part, *(number(bar.parts.get(part)) for bar in each.bars)] for part in each.parts]
        parts.append(["all", *(number(bar.total) for bar in each.bars)])
        lines += [f"{each.title}, ms per call:", "", *table(["Part", *(bar.label for bar in each.bars)], parts), ""]
    for rows in groups(report).values():
        for row in rows:
            words = report.rows[row.place].explanation
            if words:
                lines += [f"**{row.runtime} {row.precision}**", "", *(f"- {line}" for line in words), ""]
    return ["## Where the time goes", "", *lines] if lines else []


def _mobile(report: Report) -> list[str]:
    lines: list[str] = []
    for phone in mobile_tables(report):
        lines += [f"**{phone.title}**: {_escape(phone.lead)}.", ""]
        lines += [*table(COLUMNS, phone.rows), ""] if phone.rows else []
    return [f"## {HEADING}", "", *lines] if lines else []


def _facts(heading: str, facts: dict[str, str]) -> list[str]:
    if not facts:
        return []
    return [f"## {heading}", "", *(f"- **{name}**: {text}" for name, text in facts.items()), ""]


def _stages(report: Report) -> list[str]:
    if not report.stages:
        return []
    rows = [[stage.name, stage.status, f"{stage.seconds:.1f}", stage.detail] for stage in report.stages]
    return ["## Stages", "", *table(["Stage", "Status", "Seconds", "Detail"], rows), ""]


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
