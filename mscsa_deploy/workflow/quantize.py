"""`quantize`: a float model becomes INT8 for one runtime and device, and is kept only if it is right and pays.

Without a recipe the budgeted search of `calibration.search` walks placements, observers and float fallbacks; this
module gives it its two measures: accuracy on validation images, latency on this device.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mscsa_deploy.core.config import to_json
from mscsa_deploy.core.files import cache_root, content_key
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Metric, ParityNumbers, Record
from mscsa_deploy.errors import DeployError, UserError
from mscsa_deploy.workflow.build import quantize_cached
from mscsa_deploy.workflow.evaluate import Evaluation, ImageSet, evaluate
from mscsa_deploy.workflow.gates import LEAST_AGREEMENT, LEAST_SHARE, MAX_DROP
from mscsa_deploy.workflow.images import open_images
from mscsa_deploy.workflow.measure import Measurement, measure_variants
from mscsa_deploy.workflow.opening import open_subject
from mscsa_deploy.workflow.output import write_output
from mscsa_deploy.workflow.subject import Subject, SubjectRequest
from mscsa_deploy.workflow.variants import Variant

if TYPE_CHECKING:
    from mscsa_deploy.calibration.quantizer import Quantized
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.calibration.search import Measurement as Worth
    from mscsa_deploy.core.environment import Environment
    from mscsa_deploy.runtimes.profile import DeviceProfile

logger = logging.getLogger(__name__)

# Long enough for a ratio within a few percent, short enough for twenty candidates.
CANDIDATE_PRESET = {"min_seconds": 1.5, "min_samples": 40, "blocks": 8, "row_cap_seconds": 12.0, "remeasures": 0}
SCORING_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeRequest(SubjectRequest):
    """What to quantize and what it may cost.

    Args:
        model: A zoo name, recipe, ONNX file or bundle.
        runtime: For which runtime.
        recipe: A calibration recipe to use as it is; None searches.
        calibration: Images that ranges are taken from.
        validation: Images that candidates are scored on.
        validation_images: At most so many of them.
        max_drop: Points of the metric; the task's usual budget if None.
        draw: Which draw of calibration images; 0 covers the set evenly.
    """

    model: str
    runtime: str
    recipe: str | None = None
    calibration: str = "calibration"
    validation: str = "validation"
    validation_images: int | None = None
    max_drop: float | None = None
    draw: int = 0


class QuantizeOutcome(Record, frozen=True, kw_only=True):
    """What came out; `artifact` is empty when nothing within budget was faster than float."""

    model: str
    runtime: str
    profile: str
    passed: bool
    verdict: str
    artifact: str = ""
    sha256: str = ""
    recipe: dict[str, Any] = msgspec.field(default_factory=dict)
    size_bytes: int | None = None
    samples: int = 0
    metric: Metric | None = None
    parity: ParityNumbers | None = None
    quantized_ops: int = 0
    left_float: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    search: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Bench:
    """What candidates are made from and judged with.

    Args:
        subject: The float model.
        best_float: The variant that INT8 has to beat: the fastest float one of this runtime.
        samples: Calibration samples.
        images: Validation images.
        reference: The float model's evaluation on them.
        outputs: Its outputs, kept for comparison.
        profile: Class of device.
        environment: This machine.
    """

    subject: Subject
    best_float: Variant
    samples: Samples
    images: ImageSet
    reference: Evaluation
    outputs: Path
    profile: DeviceProfile
    environment: Environment


def recipe_for(runtime: str, profile: DeviceProfile, model: str, *, named: str | None = None) -> CalibrationRecipe:
    """The calibration recipe to use: the one named, or the best for this model on this class of device.

    Raises:
        UserError: No recipe fits, or the named one is for another runtime.
    """
    from mscsa_deploy.calibration.recipe import default_recipe, read_recipe
    from mscsa_deploy.core.environment import isa_flags, read_environment
    from mscsa_deploy.runtimes.profile import pick_profile

    if named is not None:
        recipe = read_recipe(named)
        if recipe.runtime != runtime:
            raise UserError(f"recipe '{named}' is for {recipe.runtime}, not for {runtime}")
        return recipe
    here = pick_profile(read_environment())[0].name == profile.name
    isa = {*profile.match.isa_all, *(isa_flags() if here else ())}
    return default_recipe(runtime, model=model, architecture=profile.match.arch or "x86_64", isa=isa)


def run_quantize(
    request: QuantizeRequest, out: Path, *, force: bool = False, progress: Progress = silent
) -> tuple[QuantizeOutcome, int]:
    """Quantize, judge, and leave the artefact and its report in the directory `out`; returns the exit code too.

    Raises:
        UserError: The model, images or recipe do not exist or do not fit.
        StageError: The quantizer failed.
    """
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.runtimes.profile import pick_profile, read_profile

    environment = read_environment()
    profile = read_profile(request.device) if request.device else pick_profile(environment)[0]
    subject = open_subject(request.model, request, profile, progress, runtimes=(request.runtime,), rewrite=True)
    base = recipe_for(request.runtime, profile, subject.name, named=request.recipe)
    with write_output(out, force=force) as work, tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
        bench = _open_bench(request, subject, profile, environment, Path(folder), progress=progress)
        if request.recipe is not None or request.runtime == "tensorrt":
            outcome, made = _by_recipe(base, bench, request, progress)
        else:
            outcome, made = _by_search(base, bench, request, progress)
        if made is not None:
            for file in (made.artifact.path, made.artifact.path.with_suffix(".bin")):
                if file.is_file():
                    shutil.copyfile(file, work / file.name)
        (work / "quantize.json").write_bytes(to_json(outcome))
    return outcome, 0 if outcome.passed else 5


def _open_bench(
    request: QuantizeRequest,
    subject: Subject,
    profile: DeviceProfile,
    environment: Environment,
    folder: Path,
    *,
    progress: Progress,
) -> Bench:
    from mscsa_deploy.calibration.samples import from_dataset
    from mscsa_deploy.imaging.dataset import refuse_overlap
    from mscsa_deploy.runtimes import RUNTIMES

    calibration = open_images(request.calibration, subject.task, subject.classes)
    validation = open_images(request.validation, subject.task, subject.classes)
    refuse_overlap(calibration, validation)
    samples = from_dataset(calibration, subject.preprocess, input_name=subject.declared.name)
    images = ImageSet(validation, subject.preprocess, subject.task, subject.classes, request.validation_images)
    best_float = subject.float_for(request.runtime)
    outputs = folder / "reference.npy"
    runner = best_float if best_float.status == "ok" else replace(best_float, runtime="onnxruntime")
    settings = replace(runner.settings, threads=SCORING_THREADS, device="cpu")
    with RUNTIMES.load(runner.runtime)().load(runner.artifact.path, settings) as session:
        reference = evaluate(session, images, keep=outputs, progress=progress, label="accuracy of float")
    return Bench(subject, best_float, samples, images, reference, outputs, profile, environment)


def _by_recipe(
    recipe: CalibrationRecipe, bench: Bench, request: QuantizeRequest, progress: Progress
) -> tuple[QuantizeOutcome, Quantized | None]:
    made = quantize_cached(bench.best_float.artifact.path, _drawn(bench, recipe, request), recipe, progress)
    score = _score(made, recipe, bench, progress)
    passed, verdict = _within_budget(score, bench, request)
    outcome = _outcome(bench, request, passed=passed, verdict=verdict, made=made, recipe=recipe, score=score)
    return outcome, made if passed else None


def _by_search(
    base: CalibrationRecipe, bench: Bench, request: QuantizeRequest, progress: Progress
) -> tuple[QuantizeOutcome, Quantized | None]:
    from mscsa_deploy.calibration.search import Budget, Search

    float_ms = _latency([bench.best_float], bench, progress)[0]
    budget = Budget(max_drop=_max_drop(bench, request), best_float_ms=float_ms, min_share=LEAST_SHARE)
    context = {
        "model": bench.best_float.artifact.sha256,
        "calibration": bench.samples.key,
        "validation": content_key({"images": bench.images.hashes}),
        "device": bench.environment.fingerprint(),
        "draw": str(request.draw),
        "threads": str(bench.best_float.settings.threads),
    }
    search = Search(
        base,
        lambda recipe: _worth(recipe, bench, request, float_ms, progress=progress),
        budget=budget,
        context=context,
        log_path=cache_root() / "search" / f"{content_key(context)}.jsonl",
        rank=lambda recipe: _rank(recipe, bench, request, progress),
        progress=progress,
    )
    found = search.run()
    log = tuple(_log_line(entry) for entry in found.entries)
    if found.recipe is None:
        outcome = _outcome(bench, request, passed=False, verdict=f"{found.verdict}; ship the float file", search=log)
        return outcome, None
    made = quantize_cached(bench.best_float.artifact.path, _drawn(bench, found.recipe, request), found.recipe, progress)
    score = _score(made, found.recipe, bench, progress)
    outcome = _outcome(
        bench, request, passed=True, verdict=found.verdict, made=made, recipe=found.recipe, score=score, search=log
    )
    return outcome, made


def _drawn(bench: Bench, recipe: CalibrationRecipe, request: QuantizeRequest) -> Samples:
    return bench.samples.take(recipe.samples, draw=request.draw)


def _variant(made: Quantized, recipe: CalibrationRecipe, bench: Bench) -> Variant:
    runtime = "onnxruntime" if recipe.runtime == "tensorrt" else recipe.runtime
    settings = bench.profile.settings(runtime, "int8", threads=bench.best_float.settings.threads)
    if recipe.rest == "bf16":
        settings = replace(settings, options={**settings.options, "float_precision": "bf16"})
    return Variant(runtime=runtime, precision="int8", artifact=made.artifact, settings=settings, recipe=recipe.name)


def _score(made: Quantized, recipe: CalibrationRecipe, bench: Bench, progress: Progress) -> Evaluation:
    from mscsa_deploy.runtimes import RUNTIMES

    variant = _variant(made, recipe, bench)
    settings = replace(variant.settings, threads=SCORING_THREADS)
    with RUNTIMES.load(variant.runtime)().load(variant.artifact.path, settings) as session:
        return evaluate(
            session, bench.images, reference=bench.outputs, progress=progress, label=f"accuracy of {recipe.name}"
        )


def _latency(variants: Sequence[Variant], bench: Bench, progress: Progress) -> list[float]:
    """Median milliseconds of each variant, interleaved; infinite for one that did not run."""
    from mscsa_deploy.timing.plan import preset

    threads = bench.best_float.settings.threads
    plan = Measurement(
        group=bench.subject.name,
        images=bench.images,
        boundaries=("core",),
        preset=preset("quick", **CANDIDATE_PRESET),
        profile=bench.profile.name,
        threads=threads,
        affinity=bench.profile.cores(threads),
        declared=bench.subject.declared,
    )
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
        rows = measure_variants(
            variants, plan, samples_dir=Path(folder), fingerprint=bench.environment.fingerprint(), progress=progress
        )
    found = [rows.get((position, "core")) for position in range(len(variants))]
    return [row.latency_ms.p50 if row and row.latency_ms else float("inf") for row in found]


def _worth(
    recipe: CalibrationRecipe, bench: Bench, request: QuantizeRequest, float_ms: float, *, progress: Progress
) -> Worth:
    """Accuracy and latency of one candidate; its latency is scaled by that of float in the same run."""
    from mscsa_deploy.calibration.search import Measurement as Worth

    try:
        made = quantize_cached(bench.best_float.artifact.path, _drawn(bench, recipe, request), recipe, progress)
        score = _score(made, recipe, bench, progress)
        now, candidate = _latency([bench.best_float, _variant(made, recipe, bench)], bench, progress)
    except UserError:
        raise
    except DeployError as error:
        logger.info("%s: %s", recipe.name, error)
        return Worth(status="failed", reason=str(error))
    value, reference = _headline(score, bench)
    if candidate == float("inf"):
        return Worth(status="failed", reason="it did not run")
    return Worth(latency_ms=candidate * float_ms / now, value=value, reference=reference)


def _headline(score: Evaluation, bench: Bench) -> tuple[float, float]:
    """The candidate's metric and float's, in percent; agreement with float where there are no labels."""
    metric = score.metric(bench.reference)
    if metric is not None and metric.reference is not None:
        return metric.value, metric.reference
    agreement = score.parity.argmax_agreement if score.parity else None
    return agreement or 0.0, 100.0


def _max_drop(bench: Bench, request: QuantizeRequest) -> float:
    if request.max_drop is not None:
        return request.max_drop
    name = next(iter(bench.reference.scores), "")
    return MAX_DROP.get(name, 100.0 - LEAST_AGREEMENT)


def _within_budget(score: Evaluation, bench: Bench, request: QuantizeRequest) -> tuple[bool, str]:
    value, reference = _headline(score, bench)
    budget = _max_drop(bench, request)
    passed = reference - value <= budget and value >= reference * LEAST_SHARE / 100.0
    name = next(iter(bench.reference.scores), "argmax agreement")
    verdict = (
        f"{name} {value:.2f} % against {reference:.2f} % of float: drop {reference - value:+.2f}, budget {budget:g}"
    )
    return passed, verdict


def _rank(
    recipe: CalibrationRecipe, bench: Bench, request: QuantizeRequest, progress: Progress
) -> tuple[tuple[str, ...], ...]:
    """Node names per block of `recipe`'s file, the most damaging first."""
    from mscsa_deploy.calibration.sensitivity import measure_sensitivity

    model = bench.best_float.artifact.path
    made = quantize_cached(model, _drawn(bench, recipe, request), recipe, progress)
    ranking = measure_sensitivity(model, made.artifact.path, bench.samples.take(4), progress=progress)
    return tuple(unit.nodes for unit in ranking.units)


def _log_line(entry: Any) -> dict[str, Any]:
    measured = entry.measured
    return {
        "stage": entry.stage,
        "recipe": entry.recipe["name"],
        "status": measured.status,
        "latency_ms": round(measured.latency_ms, 4),
        "value": round(measured.value, 4),
        "drop": round(measured.drop, 4),
        "reason": measured.reason,
    }


def _outcome(
    bench: Bench,
    request: QuantizeRequest,
    *,
    passed: bool,
    verdict: str,
    made: Quantized | None = None,
    recipe: CalibrationRecipe | None = None,
    score: Evaluation | None = None,
    search: tuple[dict[str, Any], ...] = (),
) -> QuantizeOutcome:
    kept = made if passed else None
    return QuantizeOutcome(
        model=bench.subject.name,
        runtime=request.runtime,
        profile=bench.profile.name,
        passed=passed,
        verdict=verdict,
        artifact=kept.artifact.path.name if kept else "",
        sha256=kept.artifact.sha256 if kept else "",
        recipe=recipe.plain() if recipe else {},
        size_bytes=kept.artifact.path.stat().st_size if kept else None,
        samples=made.samples if made else 0,
        metric=score.metric(bench.reference) if score else None,
        parity=score.parity.numbers() if score and score.parity else None,
        quantized_ops=made.quantized_ops if made else 0,
        left_float=tuple(f"{left.op} {left.node}: {left.reason}" for left in made.left_float) if made else (),
        notes=made.notes if made else (),
        search=search,
    )
