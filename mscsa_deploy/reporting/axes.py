"""Scales and ticks of the report's plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LOG_FROM_RATIO = 6.0
"""A range whose ends differ by more than this factor is drawn logarithmically."""
LEAST_POINTS = 1.0
TICKS = 5


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels along one axis.

    Args:
        low: Value at `start`.
        high: Value at `end`.
        start: Pixel of `low`.
        end: Pixel of `high`; less than `start` for an axis that grows upward.
        log: Whether distances are ratios.
        ticks: Values to mark.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The pixel of `value`, clamped to the axis."""
        warp: Callable[[float], float] = math.log if self.log else float
        value = min(max(value, self.low), self.high)
        share = (warp(value) - warp(self.low)) / (warp(self.high) - warp(self.low))
        return self.start + share * (self.end - self.start)


def latency_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale for positive `values`: from zero, or logarithmic where they span a wide range."""
    low, high = min(values), max(values)
    if high / low > LOG_FROM_RATIO:
        low, high = low / 1.25, high * 1.25
        return Scale(low, high, start, end, True, log_ticks(low, high))
    high *= 1.12
    return Scale(0.0, high, start, end, False, ticks(0.0, high))


def percent_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale around `values` that spans at least one point, so that noise does not look like a cliff."""
    low, high = min(values), max(values)
    pad = max(0.08 * (high - low), (LEAST_POINTS - (high - low)) / 2)
    low, high = max(0.0, low - pad), min(100.0, high + pad)
    if high - low < LEAST_POINTS:
        low = max(0.0, high - LEAST_POINTS)
        high = low + LEAST_POINTS
    return Scale(low, high, start, end, False, ticks(low, high))


def ticks(low: float, high: float) -> tuple[float, ...]:
    """Round values between `low` and `high`, some five of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= TICKS)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(round(index * step, 10) for index in range(first, last + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 times powers of ten between `low` and `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = (factor * 10.0**power for power in powers for factor in (1, 2, 5))
    return tuple(value for value in values if low <= value <= high)
