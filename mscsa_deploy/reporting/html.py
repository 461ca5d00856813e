"""The report as one HTML file that needs nothing else: no script, no network, pictures inside."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import markupsafe
from PIL import Image, UnidentifiedImageError

from mscsa_deploy.errors import UserError
from mscsa_deploy.reporting.bars import bars, part_class
from mscsa_deploy.reporting.breakdown import breakdowns
from mscsa_deploy.reporting.cells import LEGEND, SYMBOLS, group_title, groups, metric_name, number, verdict_title
from mscsa_deploy.reporting.cells import drop as drop_text
from mscsa_deploy.reporting.cells import ratio as ratio_text
from mscsa_deploy.reporting.cells import size as size_text
from mscsa_deploy.reporting.markdown import columns, common_setting
from mscsa_deploy.reporting.mobile import COLUMNS, HEADING, mobile_tables
from mscsa_deploy.reporting.notes import (
    accuracy_facts,
    data_facts,
    decision_facts,
    environment_facts,
    method,
    model_facts,
)
from mscsa_deploy.reporting.plots import Point, color, distributions, pareto, row_label
from mscsa_deploy.reporting.samples import read_samples

if TYPE_CHECKING:
    from mscsa_deploy.core.report import Report, Row
    from mscsa_deploy.core.tensors import Array

_TEMPLATES = Path(__file__).parent / "templates"
_PICTURE_SIDE = 720


def to_html(report: Report, directory: Path) -> str:
    """The page of `report`.

    Args:
        report: Its pictures and sample files are paths below `directory`.
        directory: Where those lie.

    Raises:
        UserError: A picture is missing, damaged or outside `directory`, or a samples file is damaged.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"color": color, "part_class": part_class, "number": number}
    samples = read_samples(report, directory)
    return environment.get_template("report.html.j2").render(
        report=report,
        verdict_title=verdict_title(report.verdict) if report.verdict else "",
        tables=[(title, common_setting(rows), columns(report, rows), rows) for title, rows in groups(report).items()],
        tiles=_tiles(report),
        legend=[(SYMBOLS[status], status, words) for status, words in LEGEND.items()],
        paretos=_paretos(report),
        lanes=_lanes(report, samples),
        breakdowns=[(each, markupsafe.Markup(bars(each))) for each in breakdowns(report)],  # noqa: S704 - escaped where made
        explanations=[(row_label(row), row.explanation) for row in report.rows if row.explanation],
        pictures=[(_caption(name), _data_uri(name, directory)) for name in report.pictures],
        phones=(HEADING, COLUMNS, mobile_tables(report)),
        facts=model_facts(report),
        data=data_facts(report),
        accuracy=accuracy_facts(report),
        decisions=decision_facts(report),
        environment=environment_facts(report),
        method=method(report),
        left_float=_left_float(report),
    )


def recommended_row(report: Report) -> Row | None:
    """The measured row of the recommended artefact, network only where there is one."""
    verdict = report.verdict
    if verdict is None or not verdict.runtime:
        return None
    found = [row for row in report.rows if row.latency_ms is not None and verdict.picks(row)]
    return min(found, key=lambda row: (row.boundary != "core", row.mode != "back_to_back"), default=None)


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """Heading, figure and small print of the numbers that matter for the recommended artefact."""
    row = recommended_row(report)
    if row is None or row.latency_ms is None:
        return []
    latency = row.latency_ms
    tail = f"p90 {number(latency.p90)} ms, " if latency.p90 is not None else ""
    tiles = [
        (
            "Median latency",
            f"{number(latency.p50)} ms",
            f"{tail}{number(row.fps)} FPS, {row.threads} thread{'s' * (row.threads != 1)}",
        )
    ]
    if row.speedup_vs_fp32 is not None:
        bracket = ratio_text(row.speedup_vs_fp32).partition(" ")[2]
        tiles.append(("Speed-up", f"{row.speedup_vs_fp32.value:.2f}x", f"over plain FP32 {bracket}"))
    if row.metric is not None:
        words = f"drop {drop_text(row.metric)} points" if row.metric.drop is not None else f"{row.metric.images} images"
        tiles.append((row.metric.name, f"{row.metric.value:.2f} %", words))
    elif row.parity is not None and row.parity.argmax_agreement is not None:
        tiles.append(("Agreement with FP32", f"{row.parity.argmax_agreement:.2f} %", "no labels were given"))
    if row.size_bytes is not None:
        tiles.append(("Size", size_text(row.size_bytes), row.artifact))
    return tiles


def _paretos(report: Report) -> list[tuple[str, markupsafe.Markup]]:
    """A plot per kind of latency for which at least two rows have both a latency and an accuracy."""
    plots = []
    chosen = recommended_row(report)
    name = metric_name(report)
    for title in groups(report):
        rows = [row for row in report.rows if group_title(row) == title and row.mode != "paced"]
        points = [point for row in rows if (point := _point(row, labeled=bool(name), chosen=row is chosen)) is not None]
        if len(points) > 1:
            y_title = f"{name}, %" if name else "agreement with FP32, %"
            plots.append((title, markupsafe.Markup(pareto(points, y_title=y_title))))  # noqa: S704 - escaped where made
    return plots


def _point(row: Row, *, labeled: bool, chosen: bool) -> Point | None:
    agreement = row.parity.argmax_agreement if row.parity else None
    percent = row.metric.value if labeled and row.metric else None if labeled else agreement
    if row.latency_ms is None or percent is None:
        return None
    interval = None
    if labeled and row.metric and row.metric.reference is not None and row.metric.drop_ci95 is not None:
        low, high = row.metric.drop_ci95
        interval = (row.metric.reference - high, row.metric.reference - low)
    label = row_label(row) if row.threads == 1 else f"{row_label(row)}, {row.threads} threads"
    latency = row.latency_ms
    return Point(label, color(row.runtime), row.precision, latency.p50, latency.ci95, percent, interval, chosen)


def _lanes(report: Report, samples: dict[int, Array]) -> list[tuple[str, markupsafe.Markup]]:
    plots = []
    for title, rows in groups(report).items():
        shown = [(report.rows[row.place], samples.get(row.place)) for row in rows]
        shown = [(row, values) for row, values in shown if row.latency_ms is not None]
        if shown:
            plots.append((title, markupsafe.Markup(distributions(shown))))  # noqa: S704 - escaped where made
    return plots


def _left_float(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    """Label and float nodes of every quantized network, once however often and with whatever tail it was measured."""
    return list(dict.fromkeys((row_label(row), row.left_float) for row in report.rows if row.left_float))


def _caption(name: str) -> str:
    return Path(name).stem.replace("_", " ")


def _data_uri(name: str, directory: Path) -> str:
    """The picture `name` below `directory`, made small enough to travel inside a page."""
    path = (directory / name).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise UserError(f"the report's picture '{name}' lies outside its directory")
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise UserError(f"the report's picture '{name}' cannot be read: {error}") from error
    image.thumbnail((2 * _PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
