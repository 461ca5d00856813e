"""Pieces of SVG text that the plots are made of; their looks are in ``report.css``."""

from __future__ import annotations

from html import escape


def start(width: int, height: int, title: str, kind: str) -> str:
    """The opening tag of a picture of so many units, with the title that is read aloud."""
    return (
        f'<svg class="{kind}" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line of the class `kind`."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, words: str, kind: str, *, anchor: str = "start") -> str:
    """`words` on the base line `y`, escaped."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
