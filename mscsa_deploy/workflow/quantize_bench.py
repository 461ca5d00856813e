"""What INT8 candidates are made from and judged with: one float model, image sets, and this device."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.calibration.budget import AGREEMENT, Budget
from mscsa_deploy.core.progress import Progress
from mscsa_deploy.core.report import Row
from mscsa_deploy.workflow.build import quantize_cached
from mscsa_deploy.workflow.evaluate import Evaluation, ImageSet, evaluate
from mscsa_deploy.workflow.images import open_images
from mscsa_deploy.workflow.measure import Measurement, measure_variants
from mscsa_deploy.workflow.score import SCORING_THREADS
from mscsa_deploy.workflow.subject import Subject, SubjectRequest
from mscsa_deploy.workflow.variants import Variant

if TYPE_CHECKING:
    from mscsa_deploy.calibration.quantizer import Quantized
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.core.environment import Environment
    from mscsa_deploy.imaging.dataset import Dataset
    from mscsa_deploy.runtimes.profile import DeviceProfile


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """See above.

    Args:
        request: What was asked.
        subject: The float model.
        source: The variant that INT8 is made from: FP32, in the form this runtime runs fastest.
        samples: Calibration samples.
        images: Validation images.
        reference: The float model's evaluation on them.
        outputs: Its outputs, kept for comparison.
        profile: Class of device.
        environment: This machine.
        progress: Told about every image and block.
        unreadable: How many pictures each set left out, where it left out some.
    """

    request: QuantizeRequest
    subject: Subject
    source: Variant
    samples: Samples
    images: ImageSet
    reference: Evaluation
    outputs: Path
    profile: DeviceProfile
    environment: Environment
    progress: Progress
    unreadable: Mapping[str, int] = field(default_factory=dict)

    def make(self, recipe: CalibrationRecipe) -> Quantized:
        """The INT8 file of `recipe`, from the cache when it was made before."""
        return quantize_cached(self.source.artifact.path, self.drawn(recipe), recipe, self.progress)

    def drawn(self, recipe: CalibrationRecipe) -> Samples:
        """The calibration samples that `recipe` uses."""
        return self.samples.take(recipe.samples, draw=self.request.draw)

    def variant(self, made: Quantized, recipe: CalibrationRecipe) -> Variant:
        """An INT8 file as its runtime runs it; TensorRT's on ONNX Runtime, which shows its accuracy."""
        runtime = "onnxruntime" if recipe.runtime == "tensorrt" else recipe.runtime
        settings = self.profile.settings(runtime, "int8", threads=self.source.settings.threads)
        if recipe.rest == "bf16":
            settings = replace(settings, options={**settings.options, "float_precision": "bf16"})
        return Variant(runtime=runtime, precision="int8", artifact=made.artifact, settings=settings, recipe=recipe.name)

    def score(self, variant: Variant, name: str) -> Evaluation:
        """Accuracy of `variant` on the validation images, against the float model's answers."""
        from mscsa_deploy.runtimes import RUNTIMES

        settings = replace(variant.settings, threads=SCORING_THREADS)
        with RUNTIMES.load(variant.runtime)().load(variant.artifact.path, settings) as session:
            return evaluate(
                session, self.images, reference=self.outputs, progress=self.progress, label=f"accuracy of {name}"
            )

    def latencies(self, variants: Sequence[Variant], settings: Mapping[str, Any]) -> list[tuple[float | None, str]]:
        """Median milliseconds of each variant, or None and why it did not run.

        They are measured in turns, and the ratio of each to the first is that of their blocks, so that a machine
        whose speed drifts hurts none; milliseconds are those of the first over that ratio.

        Args:
            variants: What to run; the first is the reference.
            settings: What to change in the preset ``quick``.
        """
        from mscsa_deploy.timing.plan import preset

        threads = self.source.settings.threads
        plan = Measurement(
            group=self.subject.name,
            images=self.images,
            boundaries=("core",),
            preset=preset("quick", **settings),
            profile=self.profile.name,
            threads=threads,
            affinity=self.profile.cores(threads),
            declared=self.subject.declared,
        )
        first, *others = variants
        roles = [replace(first, role="optimised_fp32"), *(replace(variant, role="") for variant in others)]
        with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
            rows = measure_variants(
                roles,
                plan,
                samples_dir=Path(folder),
                fingerprint=self.environment.fingerprint(),
                progress=self.progress,
            )
        found = [rows.get((position, "core")) for position in range(len(variants))]
        return [_milliseconds(row, found[0]) for row in found]

    @property
    def metric(self) -> str:
        """Name of what is scored."""
        return next(iter(self.reference.scores), AGREEMENT)

    @property
    def budget(self) -> Budget:
        """What INT8 may cost in accuracy."""
        return Budget.of(self.metric, self.request.max_drop)

    def headline(self, score: Evaluation) -> tuple[float, float]:
        """A candidate's metric and float's, in percent; agreement with float where there are no labels."""
        metric = score.metric(self.reference)
        if metric is not None and metric.reference is not None:
            return metric.value, metric.reference
        agreement = score.parity.argmax_agreement if score.parity else None
        return agreement or 0.0, 100.0

    def judge(self, score: Evaluation) -> tuple[bool, str]:
        """Whether a candidate is within budget, and a sentence about it."""
        value, reference = self.headline(score)
        words = f"{self.metric} {value:.2f} % against {reference:.2f} % of float"
        return (
            self.budget.allows(value, reference),
            f"{words}: drop {reference - value:+.2f}, budget {self.budget.max_drop:g}",
        )


def _milliseconds(row: Row | None, first: Row | None) -> tuple[float | None, str]:
    """Latency of a row by its paired ratio to the first, or why there is none."""
    if row is None or row.latency_ms is None:
        return None, row.reason if row else "it was not run"
    ratio = row.speedup_vs_optimised_fp32
    if first is None or first.latency_ms is None or ratio is None:
        return row.latency_ms.p50, ""
    return first.latency_ms.p50 / ratio.value, ""


def open_bench(
    request: QuantizeRequest,
    subject: Subject,
    profile: DeviceProfile,
    environment: Environment,
    folder: Path,
    *,
    apart_from: Sequence[Dataset] = (),
    progress: Progress,
) -> Bench:
    """The bench for `subject`; the float model is scored, its outputs lie in `folder`.

    Calibration and validation may share no picture with each other or with the sets in `apart_from`.

    Raises:
        UserError: There is no float file, or the image sets are missing, empty or overlap.
    """
    from mscsa_deploy.calibration.samples import from_dataset
    from mscsa_deploy.imaging.dataset import refuse_overlap, skipped
    from mscsa_deploy.runtimes import RUNTIMES

    source = subject.float_for(request.runtime)
    calibration = open_images(request.calibration, subject.task)
    validation = open_images(request.validation, subject.task, subject.classes, subject.labels)
    refuse_overlap(*apart_from, calibration, validation)
    left_out = {"calibration": len(skipped(calibration)), "validation": len(skipped(validation))}
    images = ImageSet(validation, subject.preprocess, subject.task, subject.classes, request.validation_images)
    outputs = folder / "reference.npy"
    runner = source if source.status == "ok" else replace(source, runtime="onnxruntime")
    settings = replace(runner.settings, threads=SCORING_THREADS, device="cpu")
    with RUNTIMES.load(runner.runtime)().load(runner.artifact.path, settings) as session:
        reference = evaluate(session, images, keep=outputs, progress=progress, label="accuracy of float")
    return Bench(
        request=request,
        subject=subject,
        source=source,
        samples=from_dataset(
            calibration, subject.preprocess, input_name=subject.declared.name, dtype=subject.declared.dtype
        ),
        images=images,
        reference=reference,
        outputs=outputs,
        profile=profile,
        environment=environment,
        progress=progress,
        unreadable={name: count for name, count in left_out.items() if count},
    )
