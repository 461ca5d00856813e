"""The report's plots as SVG text; colors are CSS variables of the page, so light and dark both work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.reporting import svg
from mscsa_deploy.reporting.axes import Scale, latency_scale, percent_scale
from mscsa_deploy.reporting.cells import number, runtime_title

if TYPE_CHECKING:
    from mscsa_deploy.core.report import Row
    from mscsa_deploy.core.tensors import Array

COLORS = {"onnxruntime": 0, "openvino": 1, "tensorrt": 2, "pytorch": 3}
_CHARACTER_WIDTH = 6.8
_KEY_LINE = 20
_SAME_PLACE = 10.0
"""Markers so few pixels apart hide one another."""
_TURNS = ((1, 0), (0, -1), (0, 1), (-1, 0), (0.8, -0.8), (0.8, 0.8), (-0.8, -0.8), (-0.8, 0.8))
_LANE = 48
_BINS = 72

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True, slots=True)
class Point:
    """One artefact in the plot of accuracy over latency.

    Args:
        label: What to write beside it.
        color: Number of its CSS color.
        precision: Decides the marker.
        latency: Median latency in ms.
        latency_ci95: Its interval.
        percent: Accuracy or agreement.
        percent_ci95: Its interval against the reference; None where there is none.
        chosen: Whether it is the recommended one.
    """

    label: str
    color: int
    precision: str
    latency: float
    latency_ci95: tuple[float, float]
    percent: float
    percent_ci95: tuple[float, float] | None
    chosen: bool


def color(runtime: str) -> int:
    """Number of the runtime's CSS color."""
    return COLORS.get(runtime, 4)


def row_label(row: Row) -> str:
    """Short name of a row in a plot."""
    rest = ", rest BF16" if row.recipe.endswith("+bf16") else ""
    plain = ", plain export" if row.plain_export else ""
    return f"{runtime_title(row.runtime)} {row.precision.upper()}{rest}{plain}"


def pareto(points: Sequence[Point], *, y_title: str) -> str:
    """Accuracy over median latency: up and to the left is better, the line joins what nothing else beats.

    The points are numbered, the fastest first, and named below: names beside them would hide one another.
    """
    width, plot, left, right, top, bottom = 560, 340, 52, 20, 24, 50
    points = sorted(points, key=lambda point: point.latency)
    height = plot + _KEY_LINE * len(points) + 8
    x = latency_scale([point.latency for point in points], left, width - right)
    y = percent_scale(_percents(points), plot - bottom, top)
    parts = [
        svg.start(width, height, f"{y_title} over median latency", "wide"),
        *_grid(x, y, (left, right, top, bottom), width, plot),
    ]
    parts += [svg.text((left + width - right) / 2, plot - 10, "median latency, ms", "axis", anchor="middle")]
    parts += [svg.text(left, 13, y_title, "axis")]
    front = _front(points)
    if len(front) > 1:
        path = " ".join(f"{x(point.latency):.1f},{y(point.percent):.1f}" for point in front)
        parts.append(f'<polyline class="front" points="{path}"/>')
    places = [(x(point.latency), y(point.percent)) for point in points]
    for point, place in zip(points, places, strict=True):
        parts += [*_whiskers(point, x, y), _marker(point, *place)]
    parts += _numbers(places, (left, top, width - 4, plot - bottom))
    for number_, point in enumerate(points, start=1):
        parts += _key(number_, point, left, plot + _KEY_LINE * number_)
    return "".join([*parts, "</svg>"])


def _key(number_: int, point: Point, left: float, floor: float) -> list[str]:
    """One line of the list below the plot."""
    words = f"{point.label}: {number(point.latency)} ms, {point.percent:.2f} %"
    return [
        svg.text(left + 6, floor, f"{number_}", "label", anchor="end"),
        _marker(point, left + 26, floor - 4),
        svg.text(left + 44, floor, words, "label"),
    ]


def _percents(points: Sequence[Point]) -> list[float]:
    """What the vertical axis must hold: the points and their intervals."""
    intervals = (point.percent_ci95 or () for point in points)
    return [*(point.percent for point in points), *(end for interval in intervals for end in interval)]


def _front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in latency and accuracy, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.latency, -point.percent)):
        if not front or point.percent > front[-1].percent:
            front.append(point)
    return front


def _grid(x: Scale, y: Scale, margins: tuple[int, int, int, int], width: int, height: int) -> list[str]:
    left, right, top, bottom = margins
    parts = []
    for value in y.ticks:
        parts.append(svg.line(left, y(value), width - right, y(value), "grid"))
        parts.append(svg.text(left - 8, y(value) + 4, f"{value:g}", "tick", anchor="end"))
    for value in x.ticks:
        parts.append(svg.line(x(value), top, x(value), height - bottom, "grid"))
        parts.append(svg.text(x(value), height - bottom + 17, f"{value:g}", "tick", anchor="middle"))
    return parts


def _whiskers(point: Point, x: Scale, y: Scale) -> list[str]:
    low, high = point.latency_ci95
    cx, cy = x(point.latency), y(point.percent)
    parts = [svg.line(x(low), cy, x(high), cy, f"whisker c{point.color}")]
    if point.percent_ci95 is not None:
        parts.append(svg.line(cx, y(point.percent_ci95[0]), cx, y(point.percent_ci95[1]), f"whisker c{point.color}"))
    return parts


def _marker(point: Point, cx: float, cy: float) -> str:
    shape = {
        "fp32": f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="6"/>',
        "int8": f'<rect x="{cx - 5.5:.1f}" y="{cy - 5.5:.1f}" width="11" height="11" rx="1.5"/>',
        "fp16": f'<path d="M{cx:.1f} {cy - 7.5:.1f}l7.5 7.5-7.5 7.5-7.5-7.5z"/>',
    }.get(point.precision, f'<path d="M{cx:.1f} {cy - 7:.1f}l7 12.5h-14z"/>')
    ring = f'<circle class="ring" cx="{cx:.1f}" cy="{cy:.1f}" r="12"/>' if point.chosen else ""
    words = f"{point.label}: {number(point.latency)} ms, {point.percent:.2f} %"
    return f'<g class="mark c{point.color}"><title>{escape(words)}</title>{ring}{shape}</g>'


def _numbers(places: Sequence[tuple[float, float]], area: Box) -> list[str]:
    """The points' numbers beside them, each where it covers nothing; points on top of each other share a text."""
    groups: list[list[int]] = []
    for index, (cx, cy) in enumerate(places):
        for group in groups:
            if all(math.dist((cx, cy), places[other]) < _SAME_PLACE for other in group):
                group.append(index)
                break
        else:
            groups.append([index])
    taken: list[Box] = [(cx - 9, cy - 9, cx + 9, cy + 9) for cx, cy in places]
    texts = []
    for group in groups:
        words = ", ".join(str(index + 1) for index in group)
        long = len(words) * _CHARACTER_WIDTH
        boxes = [_box(places[index], long, turn) for turn in _TURNS for index in group]
        free = [box for box in boxes if _inside(box, area) and not any(_overlap(box, other) for other in taken)]
        box = (free or boxes)[0]
        taken.append(box)
        texts.append(svg.text(box[0], box[3] - 3, words, "label"))
    return texts


def _box(place: tuple[float, float], long: float, turn: tuple[float, float]) -> Box:
    """Where a text of `long` pixels stands, seen from its marker in the direction `turn` (right and down count)."""
    cx, cy = place[0] + turn[0] * (14 + long / 2), place[1] + turn[1] * 19
    return (cx - long / 2, cy - 7, cx + long / 2, cy + 7)


def _inside(box: Box, area: Box) -> bool:
    return box[0] >= area[0] and box[1] >= area[1] and box[2] <= area[2] and box[3] <= area[3]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def distributions(rows: Sequence[tuple[Row, Array | None]]) -> str:
    """One lane per row: how its latencies are spread, with the median and, where supported, p90.

    Args:
        rows: Each row with its raw latencies in ms; without them only median, interval and p90 are drawn.
    """
    width, left, right, top = 560, 138, 88, 6
    height = top + _LANE * len(rows) + 40
    x = latency_scale(_shown_values(rows), left, width - right)
    parts = [svg.start(width, height, "Latency distributions", "fit")]
    for value in x.ticks:
        parts.append(svg.line(x(value), top, x(value), height - 34, "grid"))
        parts.append(svg.text(x(value), height - 19, f"{value:g}", "tick", anchor="middle"))
    parts.append(svg.text((left + width - right) / 2, height - 3, "ms per call", "axis", anchor="middle"))
    for lane, (row, samples) in enumerate(rows):
        parts += _lane(row, samples, x, top + _LANE * (lane + 1) - 8, width - right)
    return "".join([*parts, "</svg>"])


def _shown_values(rows: Sequence[tuple[Row, Array | None]]) -> list[float]:
    """What the axis must hold: 99 % of each row's samples, or its summary."""
    values: list[float] = []
    for row, samples in rows:
        if samples is not None and samples.size:
            values += [float(samples.min()), float(np.percentile(samples, 99))]
        elif row.latency_ms is not None:
            values += [row.latency_ms.min, row.latency_ms.p50, row.latency_ms.p90 or row.latency_ms.p50]
    return values


def _lane(row: Row, samples: Array | None, x: Scale, floor: float, end: float) -> list[str]:
    latency = row.latency_ms
    assert latency is not None
    tone = f"c{color(row.runtime)}"
    parts = [
        svg.text(126, floor - 15, runtime_title(row.runtime), "label", anchor="end"),
        svg.text(
            126,
            floor + 2,
            f"{row.precision.upper()}, {row.threads} thread{'s' * (row.threads != 1)}",
            "tick",
            anchor="end",
        ),
        svg.line(x.start, floor, end, floor, "grid"),
    ]
    if samples is not None and samples.size:
        parts.append(_ridge(samples, x, floor, tone))
    for value, name in ((latency.p50, "p50"), (latency.p90, "p90")):
        if value is not None:
            parts.append(f'<g class="{name} {tone}"><title>{name} {number(value)} ms</title>')
            parts.append(svg.line(x(value), floor - 30, x(value), floor + 3, name) + "</g>")
    tail = f"p90 {number(latency.p90)}" if latency.p90 is not None else f"{latency.samples:,} samples"
    parts.append(svg.text(end + 8, floor - 15, f"p50 {number(latency.p50)}", "label"))
    parts.append(svg.text(end + 8, floor + 2, tail, "tick"))
    return parts


def _ridge(samples: Array, x: Scale, floor: float, tone: str) -> str:
    """The histogram of `samples` along the axis as a filled shape; what lies beyond is in the last bin."""
    pixels = np.array([x(float(value)) for value in samples])
    counts, edges = np.histogram(pixels, bins=_BINS, range=(x.start, x.end))
    heights = 28.0 * counts / max(1, counts.max())
    steps = " ".join(
        f"{a:.1f},{floor - h:.1f} {b:.1f},{floor - h:.1f}" for a, b, h in zip(edges, edges[1:], heights, strict=False)
    )
    return f'<polygon class="ridge {tone}" points="{x.start:.1f},{floor:.1f} {steps} {x.end:.1f},{floor:.1f}"/>'
