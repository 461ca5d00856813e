"""The budgeted search of `calibration.search` on this device: its measures are real files, pictures and clocks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.files import cache_root, content_key
from mscsa_deploy.errors import DeployError, UserError
from mscsa_deploy.workflow.choice import WORTH_IT

if TYPE_CHECKING:
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.search import Outcome
    from mscsa_deploy.calibration.search_log import LogEntry, Measurement, SearchLog
    from mscsa_deploy.core.artifact import Artifact
    from mscsa_deploy.workflow.quantize_bench import Bench
    from mscsa_deploy.workflow.variants import Variant

logger = logging.getLogger(__name__)

# Long enough for a ratio within a few percent, short enough for twenty candidates.
CANDIDATES = {"min_seconds": 1.5, "min_samples": 40, "blocks": 8, "row_cap_seconds": 12.0, "remeasures": 0}
# The winner against float, for the verdict.
CONFIRMATION = {"min_seconds": 4.0, "min_samples": 104, "blocks": 13, "row_cap_seconds": 30.0, "remeasures": 0}
# Pictures that blocks are ranked on when something has to stay float.
RANKING_SAMPLES = 4


def search(base: CalibrationRecipe, bench: Bench) -> tuple[Outcome, Variant]:
    """What the search finds, and the best float variant it had to beat.

    Raises:
        UserError: The base recipe does not fit the model, or the images cannot be calibrated with.
    """
    from mscsa_deploy.calibration.search import Search
    from mscsa_deploy.calibration.search_log import SearchLog

    context = _context(base, bench)
    log = SearchLog(cache_root() / "search" / f"{content_key(context)}.jsonl", context)
    if log.known:
        bench.progress(0, 0, f"going on with a search of {len(log.known)} measurements")
    floats = _floats(bench)
    best = _best_float(floats, bench, log)
    found = Search(
        base,
        _Measures(bench, best, base),
        budget=bench.budget,
        log=log,
        worth=WORTH_IT,
        rests=("bf16",) if any(variant.precision == "bf16" for variant in floats) else (),
        progress=bench.progress,
    ).run()
    return found, best


def _context(base: CalibrationRecipe, bench: Bench) -> dict[str, str]:
    from mscsa_deploy import __version__

    return {
        "base": content_key(base.plain()),
        "model": bench.source.artifact.sha256,
        "calibration": bench.samples.key,
        "validation": bench.images.key,
        "device": bench.environment.fingerprint(),
        "draw": str(bench.request.draw),
        "threads": str(bench.source.settings.threads),
        "mscsa_deploy": __version__,
    }


def _floats(bench: Bench) -> list[Variant]:
    """The float variants of the runtime that run here; an only FP32 file is nobody's plain export."""
    mine = [each for each in bench.subject.variants if each.runtime == bench.source.runtime and each.status == "ok"]
    alone = sum(each.precision == "fp32" for each in mine) == 1
    return [replace(each, role="" if alone else each.role) for each in mine if each.precision != "int8"]


def _best_float(floats: Sequence[Variant], bench: Bench, log: SearchLog) -> Variant:
    """The fastest of `floats` that is within budget: what INT8 has to beat.

    Raises:
        UserError: No float variant runs on the runtime here, so there is nothing to beat.
    """
    from mscsa_deploy.calibration.search_log import Measurement

    facts = [{"precision": each.precision, "role": each.role, "sha256": each.artifact.sha256} for each in floats]
    known = [log.find("latency", each) for each in facts]
    if not all(known):
        for variant, fact, (ms, why) in zip(floats, facts, bench.latencies(floats, CANDIDATES), strict=True):
            found = Measurement(latency_ms=ms, float_ms=ms) if ms else Measurement(status="failed", reason=why)
            log.add("float", "latency", fact, {**fact, "name": variant.label}, found)
        known = [log.find("latency", each) for each in facts]
    order = sorted(range(len(floats)), key=lambda index: _ms(known[index]))
    for index in order:
        if floats[index].precision == "fp32" and _ms(known[index]) < float("inf"):
            return floats[index]
        score = log.find("accuracy", facts[index])
        if score is None:
            score = _scored(floats[index], floats[index].label, bench)
            log.add("float", "accuracy", facts[index], {**facts[index], "name": floats[index].label}, score)
        if score.within(bench.budget):
            return floats[index]
    raise UserError(
        f"no float model runs on {bench.source.runtime} here, so INT8 has nothing to beat",
        hint="--recipe NAME makes an INT8 file without a search",
    )


def _ms(found: Measurement | None) -> float:
    return found.latency_ms if found and found.latency_ms else float("inf")


def _scored(variant: Variant, name: str, bench: Bench) -> Measurement:
    from mscsa_deploy.calibration.search_log import Measurement

    score = bench.score(variant, name)
    value, reference = bench.headline(score)
    noise = score.parity.numbers().sqnr_db if score.parity else None
    return Measurement(value=value, reference=reference, sqnr_db=noise)


@dataclass(frozen=True, slots=True)
class _Measures:
    """What the search asks for; see `calibration.search.Measures`."""

    bench: Bench
    best_float: Variant
    base: CalibrationRecipe

    def time(self, recipes: Sequence[CalibrationRecipe]) -> list[Measurement]:
        from mscsa_deploy.calibration.search_log import Measurement
        from mscsa_deploy.calibration.search_space import drafted

        made: dict[str, Variant] = {}
        found: dict[int, Measurement | str] = {}
        for position, recipe in enumerate(recipes):
            self.bench.progress(position, len(recipes), "drafts of candidates")
            try:
                variant = self.bench.variant(self.bench.make(drafted(recipe)), recipe)
                # Recipes that come to the same file are measured once.
                found[position] = f"{_content(variant.artifact)} {recipe.rest}"
                made.setdefault(f"{found[position]}", variant)
            except DeployError as error:
                if isinstance(error, UserError) and recipe == self.base:
                    raise
                logger.info("%s: %s", recipe.name, error)
                found[position] = Measurement(status="failed", reason=str(error))
        (base_ms, _), *times = self.bench.latencies([self.best_float, *made.values()], CANDIDATES)
        measured = {key: _timed(ms, base_ms, why) for key, (ms, why) in zip(made, times, strict=True)}
        results = (found[position] for position in range(len(recipes)))
        return [measured[each] if isinstance(each, str) else each for each in results]

    def score(self, recipe: CalibrationRecipe) -> Measurement:
        from mscsa_deploy.calibration.search_log import Measurement

        try:
            return _scored(self.bench.variant(self.bench.make(recipe), recipe), recipe.name, self.bench)
        except DeployError as error:
            logger.info("%s: %s", recipe.name, error)
            return Measurement(status="failed", reason=str(error))

    def confirm(self, recipe: CalibrationRecipe) -> Measurement:
        made = self.bench.variant(self.bench.make(recipe), recipe)
        (base_ms, _), (ms, why) = self.bench.latencies([self.best_float, made], CONFIRMATION)
        return _timed(ms, base_ms, why)

    def rank(self, recipe: CalibrationRecipe) -> tuple[tuple[str, ...], ...]:
        from mscsa_deploy.calibration.sensitivity import measure_sensitivity

        recipe, _ = with_pairs(recipe)
        model = self.bench.source.artifact.path
        few = self.bench.samples.take(RANKING_SAMPLES)
        try:
            made = self.bench.make(recipe)
            ranking = measure_sensitivity(model, made.artifact.path, few, progress=self.bench.progress)
        except DeployError as error:
            # Without a ranking there is nothing to repair, but what was measured before stands.
            logger.warning("%s is not repaired, since its blocks could not be ranked: %s", recipe.name, error)
            return ()
        return tuple(unit.nodes for unit in ranking.units)


def _content(artifact: Artifact) -> str:
    """A hash of what an INT8 file computes, whatever recipe it says it was made by."""
    if artifact.kind != "onnx":
        return artifact.sha256
    import onnx

    model = onnx.load(str(artifact.path))
    del model.metadata_props[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def with_pairs(recipe: CalibrationRecipe) -> tuple[CalibrationRecipe, str]:
    """The recipe, or one like it whose file has pairs that fit the FP32 model one by one, and why it is another.

    The same blocks are hurt: NNCF's file has no pairs to take apart, and an FP16 rest comes with scales of FP16.
    """
    from mscsa_deploy.calibration.search_space import drafted, placements

    if recipe.engine != "onnxruntime":
        other = drafted(next(each for each in placements(recipe) if each.engine == "onnxruntime"))
        why = f"'{recipe.name}' is written by {recipe.engine}, whose file has no Q/DQ pairs to take apart"
        return other, f"{why}: ranked with '{other.name}' in its place"
    if recipe.rest == "fp16":
        other = recipe.changed(recipe.name, rest="fp32")
        return other, f"'{recipe.name}' leaves the rest in FP16: ranked with the rest in FP32, one unit at a time"
    return recipe, ""


def _timed(ms: float | None, float_ms: float | None, why: str) -> Measurement:
    from mscsa_deploy.calibration.search_log import Measurement

    if ms is None or float_ms is None:
        return Measurement(status="failed", reason=why or "the float model did not run beside it")
    return Measurement(latency_ms=ms, float_ms=float_ms)


def log_lines(entries: Sequence[LogEntry]) -> tuple[dict[str, Any], ...]:
    """The log for a report: one line per candidate, what was measured of it."""
    lines: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name = str(entry.candidate["name"])
        line = lines.setdefault(name, {"stage": entry.stage, "recipe": name, "status": "ok"})
        found = entry.measured
        if found.status == "failed":
            line |= {"status": "failed", "reason": found.reason}
        if found.latency_ms is not None:
            line |= {"latency_ms": round(found.latency_ms, 4), "speedup_vs_best_float": round(found.speedup, 4)}
        if found.value is not None:
            line |= {"value": round(found.value, 4), "drop": round(found.drop, 4), "sqnr_db": found.sqnr_db}
        if entry.what == "confirmation":
            line["stage"] = "winner"
    return tuple(lines.values())
