"""The fastest INT8 file within an accuracy budget, by measured latency on this device.

Latency is cheap and does not depend on the calibration pictures, so every placement is timed first, made with a few
pictures; accuracy is measured only for those that beat the best float artefact, the fastest first. The search is a
pure function of its measurements: they are in its log, and replaying a log gives the same recipe and so the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mscsa_deploy.calibration.search_log import LogEntry, Measurement, SearchLog, What
from mscsa_deploy.calibration.search_space import observers, placements, repairs
from mscsa_deploy.core.progress import silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.calibration.budget import Budget
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.search_space import Rest
    from mscsa_deploy.core.progress import Progress

# Placements whose accuracy is looked at, each with its repairs, before the search gives up.
MOST_CONTENDERS = 6
# Latencies closer than this share are the same; the earlier candidate wins.
NOISE = 0.03
# Settings that change numbers in the file, not which kernels run.
NUMBERS = frozenset(
    {"name", "summary", "observer", "percentile", "averaging", "samples", "bias_correction", "equalize"}
)


class Measures(Protocol):
    """What the search asks of its surroundings."""

    def time(self, recipes: Sequence[CalibrationRecipe]) -> Sequence[Measurement]:
        """Latency of each placement, in turns with the best float artefact; a few pictures are enough for ranges."""

    def score(self, recipe: CalibrationRecipe) -> Measurement:
        """Accuracy of the finished file on the validation pictures."""

    def confirm(self, recipe: CalibrationRecipe) -> Measurement:
        """Latency of the finished file against the best float artefact, measured longer than by `time`."""

    def rank(self, recipe: CalibrationRecipe) -> Sequence[Sequence[str]]:
        """Node names per block, the most damaging block first; called only when a repair is needed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the search found.

    Args:
        recipe: The winner; None when no INT8 candidate is both within budget and faster than float.
        verdict: One sentence for the report.
        entries: Every measurement it rests on, in order.
    """

    recipe: CalibrationRecipe | None
    verdict: str
    entries: tuple[LogEntry, ...]


@dataclass(frozen=True, slots=True)
class _Timed:
    recipe: CalibrationRecipe
    found: Measurement
    repaired: bool = False


class Search:
    """Walks placements, observers and float fallbacks.

    Args:
        base: The recipe to start from.
        measures: Makes and measures candidates; asked at most once per candidate and log.
        budget: What INT8 may cost in accuracy.
        log: Where measurements are kept.
        worth: Least speed-up over the best float artefact.
        rests: Further types in which the device can compute what is not quantized.
        progress: Told before each step.
    """

    def __init__(
        self,
        base: CalibrationRecipe,
        measures: Measures,
        *,
        budget: Budget,
        log: SearchLog,
        worth: float = 1.02,
        rests: Sequence[Rest] = (),
        progress: Progress = silent,
    ) -> None:
        self.base = base
        self.measures = measures
        self.budget = budget
        self.log = log
        self.worth = worth
        self.rests = tuple(rests)
        self.progress = progress

    def run(self) -> Outcome:
        """The fastest allowed recipe."""
        everything = self._timed("placement", placements(self.base, rests=self.rests))
        pool = [each for each in everything if each.found.speedup >= self.worth]
        if not pool:
            return self._outcome(None, self._too_slow(everything))
        scored: list[Measurement] = []
        left = MOST_CONTENDERS
        while pool and left:
            contender = self._fastest(pool)
            pool.remove(contender)
            left -= not contender.repaired
            self.progress(MOST_CONTENDERS - left, MOST_CONTENDERS, f"contender {contender.recipe.name}")
            rivals = self._rivals(contender)
            scored += [found for _, found in rivals]
            allowed = [pair for pair in rivals if pair[1].within(self.budget)]
            if not allowed:
                pool += self._repaired(contender, rivals)
                continue
            winner, worth = max(allowed, key=lambda pair: _quality(pair[1]))
            confirmed = self._confirmed(winner)
            if confirmed.speedup >= self.worth:
                return self._outcome(winner, _praise(winner, worth, confirmed))
        return self._outcome(None, self._too_damaged(scored))

    def _timed(self, stage: str, recipes: Sequence[CalibrationRecipe]) -> list[_Timed]:
        """Latencies, those that are not in the log measured in turns, so that all of them enter it at the end."""
        facts = [_placement(recipe) for recipe in recipes]
        known = [self.log.find("latency", each) for each in facts]
        missing = [position for position, found in enumerate(known) if found is None]
        measured = self.measures.time([recipes[position] for position in missing]) if missing else ()
        for position, found in zip(missing, measured, strict=True):
            self.log.add(stage, "latency", facts[position], recipes[position].plain(), found)
            known[position] = found
        return [_Timed(recipe, found) for recipe, found in zip(recipes, known, strict=True) if found is not None]

    def _rivals(self, contender: _Timed) -> list[tuple[CalibrationRecipe, Measurement]]:
        """The contender with every way to choose ranges, scored; a repaired one as it is."""
        recipe = contender.recipe
        rivals = [(recipe, self._scored("accuracy", recipe))]
        if contender.repaired or rivals[0][1].status == "failed":
            return rivals
        others = observers(recipe)[1:]
        alike = [each for each in others if _placement(each) == _placement(recipe)]
        timed = self._timed("observer", [each for each in others if each not in alike])
        alike += [each.recipe for each in timed if each.found.speedup >= self.worth]
        return rivals + [(each, self._scored("observer", each)) for each in others if each in alike]

    def _repaired(self, contender: _Timed, rivals: Sequence[tuple[CalibrationRecipe, Measurement]]) -> Sequence[_Timed]:
        """The contender's most accurate form with damaging blocks left float, as far as that still beats float."""
        running = [pair for pair in rivals if pair[1].status == "ok"]
        if contender.repaired or not running:
            return ()
        recipe = max(running, key=lambda pair: _quality(pair[1]))[0]
        timed = self._timed("repair", repairs(recipe, self.measures.rank(recipe)))
        return [_Timed(each.recipe, each.found, True) for each in timed if each.found.speedup >= self.worth]

    def _scored(self, stage: str, recipe: CalibrationRecipe) -> Measurement:
        return self._measured("accuracy", stage, recipe, lambda: self.measures.score(recipe))

    def _confirmed(self, recipe: CalibrationRecipe) -> Measurement:
        return self._measured("confirmation", "winner", recipe, lambda: self.measures.confirm(recipe))

    def _measured(self, what: What, stage: str, recipe: CalibrationRecipe, measure: Any) -> Measurement:
        facts = {**recipe.plain(), "name": "", "summary": ""}
        found = self.log.find(what, facts)
        if found is None:
            found = measure()
            assert isinstance(found, Measurement)
            self.log.add(stage, what, facts, recipe.plain(), found)
        return found

    def _fastest(self, pool: Sequence[_Timed]) -> _Timed:
        """The first, in walking order, that is as fast as any within noise."""
        limit = max(each.found.speedup for each in pool) / (1 + NOISE)
        return next(each for each in pool if each.found.speedup >= limit)

    def _too_slow(self, everything: Sequence[_Timed]) -> str:
        running = [each for each in everything if each.found.status == "ok"]
        if not running:
            return f"no INT8 candidate runs: {everything[0].found.reason}"
        best = max(running, key=lambda each: each.found.speedup)
        return (
            f"INT8 is not faster than the best float artefact here: {best.found.latency_ms:.2f} ms "
            f"({best.recipe.name}) against {best.found.float_ms:.2f} ms; no accuracy was measured"
        )

    def _too_damaged(self, scored: Sequence[Measurement]) -> str:
        drops = [found.drop for found in scored if found.status == "ok"]
        within = [found for found in scored if found.within(self.budget)]
        if within:
            return "no INT8 candidate within budget stays faster than the best float artefact when measured longer"
        reason = f"the least drop is {min(drops):.2f} points" if drops else "none of them runs"
        return f"no INT8 faster than float is within {self.budget.max_drop:g} points: {reason}"

    def _outcome(self, winner: CalibrationRecipe | None, verdict: str) -> Outcome:
        return Outcome(winner, verdict, tuple(self.log.used))


def _placement(recipe: CalibrationRecipe) -> dict[str, Any]:
    """What decides a recipe's latency."""
    plain = recipe.plain()
    rules = [{**rule, "reason": ""} for rule in plain["keep_float"]]
    return {**{key: value for key, value in plain.items() if key not in NUMBERS}, "keep_float": rules}


def _quality(found: Measurement) -> tuple[float, float]:
    """What the most accurate has most of: the least error at the outputs, then the metric; ties go to the first."""
    low = float("-inf")
    return (low if found.sqnr_db is None else found.sqnr_db, low if found.value is None else found.value)


def _praise(recipe: CalibrationRecipe, found: Measurement, confirmed: Measurement) -> str:
    return (
        f"{recipe.name}: {confirmed.latency_ms:.2f} ms, {confirmed.speedup:.2f}x the best float "
        f"({confirmed.float_ms:.2f} ms), drop {found.drop:+.2f} points"
    )
