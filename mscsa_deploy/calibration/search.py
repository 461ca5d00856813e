"""The fastest INT8 file within an accuracy budget, by measured latency on this device.

The search is a pure function of its measurements: every one is written to a log as it is made, a resumed search
takes what the log holds, and replaying a whole log gives the same recipe and so the same bytes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mscsa_deploy.calibration.search_space import observers, placements, repairs
from mscsa_deploy.core.config import Config
from mscsa_deploy.core.files import content_key
from mscsa_deploy.core.progress import silent
from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.core.progress import Progress

log = logging.getLogger(__name__)


class Measurement(Config, frozen=True, kw_only=True):
    """What one candidate is worth.

    Args:
        status: ``ok``, or ``failed`` when it could not be made or run.
        latency_ms: Median on this device, one thread unless the caller says otherwise.
        value: The task metric on the validation pictures, in percent.
        reference: The float model's value on the same pictures.
        reason: Why it failed.
    """

    status: Literal["ok", "failed"] = "ok"
    latency_ms: float = 0.0
    value: float = 0.0
    reference: float = 0.0
    reason: str = ""

    @property
    def drop(self) -> float:
        """Reference minus value, in points."""
        return self.reference - self.value


@dataclass(frozen=True, slots=True)
class Budget:
    """What an INT8 file may cost in accuracy, and what it has to beat in time.

    Args:
        max_drop: Points of the metric.
        best_float_ms: Latency of the fastest float (FP32, FP16 or BF16) artefact on this device.
        min_share: Least share of the reference value, in percent.
        noise: Latencies closer than this share are the same; the earlier candidate wins.
    """

    max_drop: float
    best_float_ms: float
    min_share: float = 96.0
    noise: float = 0.03

    def allows(self, found: Measurement) -> bool:
        """Whether the candidate ran and is accurate enough."""
        enough = found.value >= found.reference * self.min_share / 100.0
        return found.status == "ok" and found.drop <= self.max_drop and enough


class LogEntry(Config, frozen=True, kw_only=True):
    """One measured candidate; `key` identifies recipe and context."""

    key: str
    stage: str
    recipe: dict[str, Any]
    measured: Measurement


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the search found.

    Args:
        recipe: The winner; None when no INT8 candidate is both within budget and faster than float.
        measured: Its measurement, or the best candidate's when there is no winner.
        verdict: One sentence for the report.
        entries: Every measurement, in order.
    """

    recipe: CalibrationRecipe | None
    measured: Measurement | None
    verdict: str
    entries: tuple[LogEntry, ...]


class Search:
    """Walks placements, observers and float fallbacks.

    Args:
        base: The recipe to start from.
        measure: Makes and measures a candidate; called at most once per candidate and log.
        budget: What is allowed.
        context: What a measurement depends on besides the recipe (model, data, device, tools), as text.
        log_path: Where measurements are kept; an existing file of the same context is taken up.
        rank: Node names per block, the most damaging first, for a recipe; called only when a repair is needed.
        extra: More base recipes to consider, e.g. of another engine.
        progress: Told after each measurement.
    """

    def __init__(
        self,
        base: CalibrationRecipe,
        measure: Callable[[CalibrationRecipe], Measurement],
        *,
        budget: Budget,
        context: Mapping[str, str],
        log_path: Path,
        rank: Callable[[CalibrationRecipe], Sequence[Sequence[str]]],
        extra: Sequence[CalibrationRecipe] = (),
        progress: Progress = silent,
    ) -> None:
        self.base = base
        self.measure = measure
        self.budget = budget
        self.context = dict(context)
        self.log_path = log_path
        self.rank = rank
        self.extra = tuple(extra)
        self.progress = progress
        self.known = {entry.key: entry for entry in read_log(log_path, self.context)}
        self.entries: list[LogEntry] = []

    def run(self) -> Outcome:
        """The fastest allowed recipe.

        Raises:
            UserError: The log at `log_path` was written in another context; the differing field is named.
        """
        tried = [self._try("placement", recipe) for recipe in (*placements(self.base), *self.extra)]
        fastest = self._fastest(tried)
        if fastest is None:
            return self._outcome(None)
        tried += [self._try("observer", recipe) for recipe in observers(fastest[0])[1:]]
        best = self._most_accurate([pair for pair in tried if _same_placement(pair[0], fastest[0])])
        allowed = [pair for pair in tried if self.budget.allows(pair[1])]
        if not self.budget.allows(best[1]):
            for recipe in repairs(best[0], self.rank(best[0])):
                pair = self._try("repair", recipe)
                if self.budget.allows(pair[1]):
                    allowed.append(pair)
                    break
        quick = self._fastest(allowed)
        # Equal placements run equally fast, so among those the most accurate one is taken.
        rivals = [pair for pair in allowed if quick and _same_placement(pair[0], quick[0])]
        return self._outcome(self._most_accurate(rivals) if rivals else None)

    def _try(self, stage: str, recipe: CalibrationRecipe) -> tuple[CalibrationRecipe, Measurement]:
        key = content_key({"recipe": {**recipe.plain(), "name": "", "summary": ""}, "context": self.context})
        entry = self.known.get(key)
        if entry is None:
            entry = LogEntry(key=key, stage=stage, recipe=recipe.plain(), measured=self.measure(recipe))
            append_log(self.log_path, self.context, entry)
            self.known[key] = entry
        self.entries.append(entry)
        self.progress(len(self.entries), 0, f"{stage} {recipe.name}")
        return recipe, entry.measured

    def _fastest(
        self, pairs: Sequence[tuple[CalibrationRecipe, Measurement]]
    ) -> tuple[CalibrationRecipe, Measurement] | None:
        """The first pair, in walking order, that is as fast as any within noise."""
        running = [pair for pair in pairs if pair[1].status == "ok"]
        if not running:
            return None
        limit = min(pair[1].latency_ms for pair in running) * (1 + self.budget.noise)
        return next(pair for pair in running if pair[1].latency_ms <= limit)

    def _most_accurate(
        self, pairs: Sequence[tuple[CalibrationRecipe, Measurement]]
    ) -> tuple[CalibrationRecipe, Measurement]:
        """The pair of the highest value; the first of equals."""
        return max((pair for pair in pairs if pair[1].status == "ok"), key=lambda pair: pair[1].value)

    def _outcome(self, winner: tuple[CalibrationRecipe, Measurement] | None) -> Outcome:
        entries = tuple(self.entries)
        running = [entry.measured for entry in entries if entry.measured.status == "ok"]
        if winner is None:
            closest = min(running, key=lambda found: found.drop, default=None)
            reason = "no INT8 candidate runs" if closest is None else f"the least drop is {closest.drop:.2f} points"
            return Outcome(None, closest, f"no INT8 within {self.budget.max_drop} points: {reason}", entries)
        recipe, found = winner
        if found.latency_ms >= self.budget.best_float_ms:
            verdict = f"INT8 is not faster here: {found.latency_ms:.2f} ms, float {self.budget.best_float_ms:.2f} ms"
            return Outcome(None, found, verdict, entries)
        gain = self.budget.best_float_ms / found.latency_ms
        verdict = f"{recipe.name}: {found.latency_ms:.2f} ms, {gain:.2f}x the best float, drop {found.drop:.2f} points"
        return Outcome(recipe, found, verdict, entries)


def _same_placement(one: CalibrationRecipe, two: CalibrationRecipe) -> bool:
    """Whether two recipes quantize the same nodes the same way and differ in numbers only."""
    numbers = {
        "name", "summary", "observer", "percentile", "averaging", "samples", "bias_correction", "equalize",
        "smooth_quant",
    }  # fmt: skip
    left, right = one.plain(), two.plain()
    return all(left[key] == right[key] for key in left if key not in numbers)


def read_log(path: Path, context: Mapping[str, str]) -> tuple[LogEntry, ...]:
    """The measurements in the log at `path`; none when there is no file.

    Raises:
        UserError: It is damaged or belongs to another context.
    """
    if not path.exists():
        return ()
    lines = path.read_bytes().splitlines()
    try:
        found = msgspec.json.decode(lines[0], type=dict[str, str]) if lines else {}
        for name in sorted({*found, *context}):
            if found.get(name) != context.get(name):
                raise UserError(
                    f"search log '{path}' does not fit: its {name} is {found.get(name)}, expected {context.get(name)}",
                    hint="delete the log to search again",
                )
        return tuple(msgspec.json.decode(line, type=LogEntry) for line in lines[1:])
    except msgspec.DecodeError as error:
        raise UserError(f"search log '{path}' is damaged: {error}", hint="delete it to search again") from error


def append_log(path: Path, context: Mapping[str, str], entry: LogEntry) -> None:
    """Add one measurement to the log at `path`, writing its header first when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("ab") as stream:
        if fresh:
            stream.write(msgspec.json.encode(dict(sorted(context.items()))) + b"\n")
        stream.write(msgspec.json.encode(entry) + b"\n")
