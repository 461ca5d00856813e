"""How much accuracy INT8 may lose: the one rule of search, `quantize`, `verify` and the gates of `deploy`."""

from __future__ import annotations

from dataclasses import dataclass

AGREEMENT = "argmax agreement"
"""Stands in for the task's metric where there are no labels: how often INT8 decides as float does, in percent."""

# Points, by metric.
USUAL_DROP = {"mIoU": 0.5, "top-1": 0.3, AGREEMENT: 1.0}
OTHER_DROP = 0.5
# MLPerf Mobile's floor for INT8 segmentation: this share of the FP32 metric, in percent.
LEAST_SHARE = 96.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What an INT8 file may cost in accuracy.

    Args:
        max_drop: Points of the metric.
        min_share: Least share of the reference value, in percent.
    """

    max_drop: float
    min_share: float = LEAST_SHARE

    @classmethod
    def of(cls, metric: str, asked: float | None = None) -> Budget:
        """The budget in points of `metric`: what was `asked` for, or else the usual one.

        Points that were asked for are the task metric's; agreement with float keeps its own.
        """
        usual = USUAL_DROP.get(metric, OTHER_DROP)
        return cls(usual if asked is None or metric == AGREEMENT else asked)

    def allows(self, value: float, reference: float) -> bool:
        """Whether `value` is close enough to float's `reference`, both in percent.

        Float that is never right leaves nothing to compare with, and no INT8 is allowed on that ground.
        """
        return reference > 0 and reference - value <= self.max_drop and value >= reference * self.min_share / 100.0
