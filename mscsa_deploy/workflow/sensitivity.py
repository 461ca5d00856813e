"""`sensitivity`: which blocks or nodes INT8 hurts, ranked in error and in the time that integers save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.config import Record, to_json
from mscsa_deploy.core.files import refuse_existing
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.errors import UnsupportedError
from mscsa_deploy.parity.metrics import value
from mscsa_deploy.workflow.build import quantize_cached
from mscsa_deploy.workflow.images import open_images, quoted_images, warn_of_quoted
from mscsa_deploy.workflow.judge import HEADLINES, judge_for
from mscsa_deploy.workflow.opening import open_subject
from mscsa_deploy.workflow.output import write_output
from mscsa_deploy.workflow.quantize import recipe_for
from mscsa_deploy.workflow.quantize_search import with_pairs
from mscsa_deploy.workflow.subject import Subject, SubjectRequest

if TYPE_CHECKING:
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.calibration.sensitivity import Sensitivity, TaskMetric
    from mscsa_deploy.core.tensors import Array, Feed
    from mscsa_deploy.imaging.dataset import Dataset
    from mscsa_deploy.runtimes.profile import DeviceProfile
    from mscsa_deploy.runtimes.protocol import OpProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityRequest(SubjectRequest):
    """What to rank.

    Args:
        by: ``"block"`` or ``"node"``.
        images: How many images each unit is judged on.
        calibration: Images that ranges are taken from.
        validation: Images that units are judged on; those of `calibration` if None.
    """

    model: str
    runtime: str
    by: str = "block"
    images: int = 4
    recipe: str | None = None
    calibration: str = "calibration"
    validation: str | None = None


class Unit(Record, frozen=True, kw_only=True):
    """One unit: its name, operators, output SQNR in dB and agreement in percent when it alone is integer.

    `float_ms` is the time its nodes take in the float model by the runtime's own profile, an upper bound of what
    integers can save; None where the runtime does not say which of its kernels compute them. `drop` is what it costs of
    the task metric, in points; None where the images have no labels.
    """

    unit: str
    nodes: int
    ops: tuple[str, ...]
    sqnr_db: float
    agreement: float
    float_ms: float | None = None
    drop: float | None = None


class SensitivityReport(Record, frozen=True, kw_only=True):
    """Units from worst to harmless, and the whole model for comparison.

    `note` says why `recipe` is not the one that was asked for; empty where it is. `metric` names the task metric whose
    value of the float model, in percent, is `float_value`; both are empty where the images have no labels.
    """

    model: str
    runtime: str
    recipe: str
    note: str = ""
    images: int
    whole_sqnr_db: float
    whole_agreement: float
    metric: str = ""
    float_value: float | None = None
    whole_drop: float | None = None
    units: tuple[Unit, ...]


def run_sensitivity(
    request: SensitivityRequest, out: Path | None = None, *, force: bool = False, progress: Progress = silent
) -> SensitivityReport:
    """The ranking; written with its plot to the directory `out` if one is given.

    Raises:
        UserError: The model, images or recipe do not exist or do not fit.
    """
    from mscsa_deploy.calibration.sensitivity import measure_sensitivity, to_svg
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.runtimes.profile import pick_profile, read_profile

    if out is not None:
        refuse_existing(out, force=force)
    profile = read_profile(request.device) if request.device else pick_profile(read_environment())[0]
    subject = open_subject(request.model, request, profile, progress, runtimes=(request.runtime,), rewrite=True)
    recipe = recipe_for(request.runtime, profile, f"{subject.name}.{subject.task}", named=request.recipe)
    recipe, note = with_pairs(recipe)
    model = subject.float_for(request.runtime)
    calibration, validation = _open(subject, request)
    made = quantize_cached(model.artifact.path, _samples(calibration, subject), recipe, progress)
    few = _samples(validation, subject).take(request.images)
    shares = _float_ms(model.artifact.path, request, profile, next(iter(few)))
    found = measure_sensitivity(
        model.artifact.path,
        made.artifact.path,
        few,
        by=request.by,
        saved_ms=lambda nodes: sum(shares[node] for node in nodes) if shares.keys() >= set(nodes) else None,
        metric=_task_metric(validation, subject, few.indices),
        progress=progress,
    )
    report = _report(found, subject.name, request.runtime, recipe.name, note)
    if out is not None:
        with write_output(out, force=force) as work:
            (work / "sensitivity.json").write_bytes(to_json(report))
            (work / "sensitivity.svg").write_text(to_svg(found), encoding="utf-8")
    return report


def _open(subject: Subject, request: SensitivityRequest) -> tuple[Dataset, Dataset]:
    """The images that ranges are taken from, and those that units are judged on.

    Raises:
        UserError: Two sets are named and share a picture, there are none, or ranges are to be taken from pictures
            that reports quote.
    """
    from mscsa_deploy.imaging.dataset import refuse_overlap

    quoted, judged = quoted_images(subject.task), (subject.classes, subject.labels)
    if request.validation is None:
        calibration = open_images(request.calibration, subject.task, *judged)
        refuse_overlap(quoted, calibration)
        return calibration, calibration
    calibration = open_images(request.calibration, subject.task)
    validation = open_images(request.validation, subject.task, *judged)
    refuse_overlap(quoted, calibration)
    refuse_overlap(calibration, validation)
    warn_of_quoted(validation, subject.task)
    return calibration, validation


def _samples(dataset: Dataset, subject: Subject) -> Samples:
    from mscsa_deploy.calibration.samples import from_dataset

    return from_dataset(dataset, subject.preprocess, input_name=subject.declared.name, dtype=subject.declared.dtype)


def _task_metric(dataset: Dataset, subject: Subject, indices: Sequence[int]) -> TaskMetric | None:
    """What judges answers to the images `indices` by their labels; None where they have none."""
    from mscsa_deploy.calibration.sensitivity import TaskMetric

    targets = [dataset.load(index)[1] for index in indices]
    name = HEADLINES[subject.task]

    def score(answers: Sequence[Sequence[Array]]) -> float:
        judge = judge_for(subject.task, subject.classes, subject.preprocess)
        for outputs, target in zip(answers, targets, strict=True):
            judge.add(outputs[0], target)
        return value(judge.scores()[name])

    return None if any(target is None for target in targets) else TaskMetric(name, score)


def _float_ms(model: Path, request: SensitivityRequest, profile: DeviceProfile, feed: Feed) -> dict[str, float]:
    """Milliseconds per node of the float model.

    A kernel that stands for several nodes shares its time among those that multiply and sum, which integers speed up; a
    Relu that runs inside a convolution is free.
    """
    import onnx

    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.runtimes.profiling import ARITHMETIC_OPS

    runtime = "onnxruntime" if request.runtime == "tensorrt" else request.runtime
    settings = profile.settings(runtime, "fp32", threads=request.threads)
    try:
        found: OpProfile = RUNTIMES.load(runtime)().profile(model, settings, feed)
    except UnsupportedError:
        return {}
    heavy = {node.name for node in onnx.load(model).graph.node if node.op_type in ARITHMETIC_OPS}
    shares: dict[str, float] = {}
    for row in found.rows:
        nodes = row.sources or (row.node,)
        working = [node for node in nodes if node in heavy] or nodes
        for node in nodes:
            shares[node] = shares.get(node, 0.0) + (row.ms / len(working) if node in working else 0.0)
    return shares


def _report(found: Sensitivity, model: str, runtime: str, recipe: str, note: str) -> SensitivityReport:
    return SensitivityReport(
        model=model,
        runtime=runtime,
        recipe=recipe,
        note=note,
        images=found.samples,
        whole_sqnr_db=found.whole.sqnr_db,
        whole_agreement=found.whole.agreement,
        metric=found.metric,
        float_value=found.reference,
        whole_drop=found.whole.drop,
        units=tuple(
            Unit(
                unit=unit.unit,
                nodes=len(unit.nodes),
                ops=unit.ops,
                sqnr_db=unit.sqnr_db,
                agreement=unit.agreement,
                float_ms=unit.saved_ms,
                drop=unit.drop,
            )
            for unit in found.units
        ),
    )
