"""The plot of where the time goes: one bar per artefact, divided into the parts of a call."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from mscsa_deploy.reporting import svg
from mscsa_deploy.reporting.axes import ticks
from mscsa_deploy.reporting.breakdown import PARTS
from mscsa_deploy.reporting.cells import number

if TYPE_CHECKING:
    from mscsa_deploy.reporting.breakdown import Breakdown

_WIDTH, _LEFT, _RIGHT = 560, 6, 58
_LANE, _BAR = 50, 22
_WRITTEN_FROM = 30.0
"""Pixels that a part must be wide to have its milliseconds written on it."""


def bars(breakdown: Breakdown) -> str:
    """The artefacts of one runtime below each other, on one axis from zero, so that lengths compare."""
    longest = max(bar.total for bar in breakdown.bars) or 1.0
    per_ms = (_WIDTH - _LEFT - _RIGHT) / longest
    floor = _LANE * len(breakdown.bars) + 4
    parts = [svg.start(_WIDTH, floor + 40, f"{breakdown.title}: where the time goes", "wide")]
    for value in ticks(0.0, longest):
        x = _LEFT + value * per_ms
        parts += [svg.line(x, 0, x, floor, "grid"), svg.text(x, floor + 15, f"{value:g}", "tick", anchor="middle")]
    parts.append(svg.text(_LEFT + longest * per_ms / 2, floor + 33, "ms per call", "axis", anchor="middle"))
    for lane, bar in enumerate(breakdown.bars):
        top, x = _LANE * lane + 22, float(_LEFT)
        label = f"{bar.label} ◯ recommended" if bar.chosen else bar.label
        parts.append(svg.text(_LEFT, top - 6, label, "label"))
        for name, ms in bar.parts.items():
            parts.append(_part(name, ms, x, top, ms * per_ms))
            x += ms * per_ms
        parts.append(svg.text(x + 6, top + 15, f"{number(bar.total)} ms", "label"))
    return "".join([*parts, "</svg>"])


def part_class(name: str) -> str:
    """CSS class of a part's color."""
    return f"k{PARTS.index(name)}"


def _part(name: str, ms: float, x: float, top: float, width: float) -> str:
    words = f"{name}: {number(ms)} ms"
    inside = svg.text(x + width / 2, top + 15, number(ms), "inside", anchor="middle") if width >= _WRITTEN_FROM else ""
    return (
        f'<g class="part {part_class(name)}"><title>{escape(words)}</title>'
        f'<rect x="{x:.1f}" y="{top}" width="{max(width, 0.5):.1f}" height="{_BAR}"/>{inside}</g>'
    )
