"""`deploy`: checkpoint to ONNX to INT8 for every runtime, accuracy and latency of each, one report, one bundle."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.files import refuse_existing
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Boundary, Decision, Row, Status
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import DeployError, UnsupportedError, UserError
from mscsa_deploy.imaging.preprocess import preprocess
from mscsa_deploy.imaging.sealed import SealedDataset
from mscsa_deploy.workflow.against_pytorch import check_against_pytorch
from mscsa_deploy.workflow.build import (
    Sources,
    Target,
    build_sources,
    float_variants,
    half_variant_for_tensorrt,
    int8_variants,
)
from mscsa_deploy.workflow.decisions import of_plan, of_tails
from mscsa_deploy.workflow.deployment import DeployRequest, Finished, Plan, Results
from mscsa_deploy.workflow.evaluate import Evaluation, ImageSet
from mscsa_deploy.workflow.finish import finish
from mscsa_deploy.workflow.images import open_images
from mscsa_deploy.workflow.measure import Measurement, measure_variants
from mscsa_deploy.workflow.mobile import MobileFiles, make_mobile, portable
from mscsa_deploy.workflow.plan import make_plan
from mscsa_deploy.workflow.prepare import Prepared, prepare
from mscsa_deploy.workflow.score import score_variants
from mscsa_deploy.workflow.stages import Stages
from mscsa_deploy.workflow.variants import Variant

if TYPE_CHECKING:
    from mscsa_deploy.calibration.recipe import CalibrationRecipe

logger = logging.getLogger(__name__)


@dataclass
class _Job:
    """The state that stages hand on."""

    request: DeployRequest
    plan: Plan
    prepared: Prepared
    target: Target
    stages: Stages
    progress: Progress
    images: dict[str, ImageSet] = field(default_factory=dict)
    variants: list[Variant] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def opened(self) -> ImageSet:
        """The evaluation images, to be read; `images` holds them sealed for every stage that chooses."""
        sealed = self.images["evaluation"].dataset
        assert isinstance(sealed, SealedDataset)
        return replace(self.images["evaluation"], dataset=sealed.open())


def run_deploy(request: DeployRequest, out: Path, *, force: bool = False, progress: Progress = silent) -> Finished:
    """Do everything and leave the bundle and its report in the directory `out`.

    Raises:
        UserError: The request names something that does not exist or does not fit.
        StageError: A stage that everything depends on failed.
        GateError: The FP32 export does not agree with PyTorch.
    """
    from mscsa_deploy.bundle.mobile import need_tools

    refuse_existing(out, force=force)
    stages = Stages(progress)
    with stages.stage("plan") as note:
        plan = make_plan(request)
        note.detail = f"{plan.profile.name}: {plan.why_profile}"
        if request.mobile:
            need_tools()
    with stages.stage("checkpoint") as note:
        prepared = prepare(request)
        request, prepared = _boundary(request, prepared)
        note.detail = prepared.fit.layout if prepared.fit else f"random weights, seed {prepared.random_weights}"
    target = Target(plan.profile, request.threads or plan.profile.threads)
    job = _Job(request, plan, prepared, target, stages, progress, decisions=of_plan(plan, request.recipes or ()))
    _open_images(job)
    sources = _export(job)
    _build(job, sources)
    scores = _score(job)
    _tails(job)
    mobile = _mobile(job, sources)
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
        rows = _measure(job, sources.optimized.inputs[0], Path(folder))
        job.progress(0, 1, "report")
        results = Results(
            prepared=prepared,
            profile=plan.profile,
            environment=plan.environment,
            model=sources.optimized,
            variants=tuple(job.variants),
            scores=tuple(scores),
            rows=rows,
            samples_dir=Path(folder),
            images={**job.images, "evaluation": job.opened()},
            stages=tuple(stages.records),
            settings=request,
            mobile=mobile,
            decisions=tuple(job.decisions),
        )
        return finish(results, out=out, force=force)


def _boundary(request: DeployRequest, prepared: Prepared) -> tuple[DeployRequest, Prepared]:
    """Class maps are made from files of logits, which is what everything is built and judged on.

    Raises:
        UserError: The task has no such output.
    """
    from mscsa_deploy.export.recipe import changed, check_output

    output = request.output or prepared.recipe.output
    check_output(output, prepared.recipe.task)
    if output not in ("logits", "classmap"):
        return request, prepared
    return replace(request, output=output), replace(prepared, recipe=changed(prepared.recipe, output="logits"))


def _open_images(job: _Job) -> None:
    from mscsa_deploy.imaging.dataset import refuse_overlap

    request, prepared = job.request, job.prepared
    with job.stages.stage("images") as note:
        places = {"calibration": request.calibration, "validation": request.validation}
        places["evaluation"] = request.evaluation
        limits = {"calibration": request.calibration_images, "evaluation": request.evaluation_images}
        for name, place in places.items():
            # Nothing is scored on calibration pictures, whatever classes they are of.
            judged = () if name == "calibration" else (prepared.classes, prepared.labels)
            dataset = open_images(place, prepared.task, *judged)
            job.images[name] = ImageSet(dataset, prepared.preprocess, prepared.task, prepared.classes, limits.get(name))
        refuse_overlap(*(images.dataset for images in job.images.values()))
        quoted = job.images["evaluation"]
        job.images["evaluation"] = replace(quoted, dataset=SealedDataset(quoted.dataset))
        note.detail = ", ".join(f"{len(images)} {name}" for name, images in job.images.items())


def _export(job: _Job) -> Sources:
    prepared = job.prepared
    with job.stages.stage("export") as note:
        sources = build_sources(prepared, job.plan.runtimes, job.progress)
        note.detail = "; ".join(sources.notes)
    with job.stages.stage("verify") as note:
        checks = check_against_pytorch(
            prepared,
            prepared.recipe,
            sources.optimized.path,
            job.images["validation"].dataset,
            precision="fp32",
            progress=job.progress,
        )
        worst = max(check.parity.max_abs_over_range or 0.0 for check in checks)
        note.detail = f"max error {worst:.1e} of range on {', '.join(check.runtime for check in checks)}"
    return sources


def _build(job: _Job, sources: Sources) -> None:
    """Every variant of every runtime; one that cannot be made is a row that says why."""
    from mscsa_deploy.runtimes import RUNTIMES

    for name in job.plan.runtimes:
        can = RUNTIMES.load(name)().probe()
        with job.stages.stage(f"build for {name}") as note:
            if name != "tensorrt" and not can.available:
                job.variants.append(_missing(job, name, sources, can.reason, can.how_to_install))
                note.detail = f"not run: {can.reason}"
                continue
            if name != "tensorrt":
                job.variants += float_variants(name, sources, job.target, can)
            elif half := half_variant_for_tensorrt(sources, job.target, job.progress):
                job.variants.append(half)
            if name in job.plan.recipes:
                job.variants += _int8(job, name, sources)


def _missing(job: _Job, name: str, sources: Sources, reason: str, how: str) -> Variant:
    return Variant(
        runtime=name,
        precision="fp32",
        artifact=sources.optimized,
        settings=job.target.settings(name, "fp32"),
        status="not run",
        reason=f"{reason}; {how}" if how else reason,
    )


def _int8(job: _Job, name: str, sources: Sources) -> Iterator[Variant]:
    """INT8 by every recipe of the plan; where none is made for a BF16 rest, the file runs with one as well."""
    from mscsa_deploy.calibration.recipe import read_recipe

    recipes = [read_recipe(each) for each in job.plan.recipes[name]]
    also_bf16 = "bf16" in job.target.precisions(name) and not any(recipe.rest == "bf16" for recipe in recipes)
    for recipe in recipes:
        yield from _by_recipe(job, name, sources, recipe, also_bf16=also_bf16)


def _by_recipe(job: _Job, name: str, sources: Sources, recipe: CalibrationRecipe, *, also_bf16: bool) -> list[Variant]:
    from mscsa_deploy.calibration.samples import from_dataset

    if job.request.calibration_images is not None:
        recipe = recipe.changed(recipe.name, samples=min(recipe.samples, job.request.calibration_images))
    images = job.images["calibration"]
    samples = from_dataset(images.dataset, images.preprocess, input_name=sources.optimized.inputs[0].name)
    try:
        made = int8_variants(name, sources, recipe, samples, job.target, also_bf16=also_bf16, progress=job.progress)
        return list(made)
    except DeployError as error:
        if isinstance(error, UserError):
            raise
        logger.warning("no INT8 for %s: %s", name, error)
        status: Status = "not run" if isinstance(error, UnsupportedError) else "failed"
        settings = job.target.settings(name, "int8")
        failed = Variant(
            runtime=name, precision="int8", artifact=sources.optimized, settings=settings, recipe=recipe.name
        )
        return [replace(failed, status=status, reason=str(error))]


def _score(job: _Job) -> list[Evaluation | None]:
    with job.stages.stage("accuracy") as note:
        scored = score_variants(job.variants, job.opened(), progress=job.progress)
        job.variants = [variant for variant, _ in scored]
        scores = [score for _, score in scored if score is not None]
        kept = sum(score.kept for score in scores)
        note.detail = f"{len(scores)} artefacts on {len(job.images['evaluation'])} images"
        note.detail += f", {kept} of them from an earlier run" if kept else ""
    return [score for _, score in scored]


def _tails(job: _Job) -> None:
    """Class-map files where a tail inside the graph is faster than the light runner's own."""
    from mscsa_deploy.workflow.tailed import with_tails

    images = job.images["validation"]
    if job.prepared.task != "seg" or job.prepared.recipe.output != "logits" or job.prepared.recipe.batch != 1:
        return
    with job.stages.stage("tails") as note:
        profile, only = job.plan.profile, job.request.output == "classmap"
        smoke = job.request.preset == "smoke"
        made = with_tails(job.variants, images, profile, only=only, smoke=smoke, progress=job.progress)
        job.variants, note.detail = list(made.variants), str(made)
        job.decisions += of_tails(made)


def _mobile(job: _Job, sources: Sources) -> tuple[MobileFiles, ...]:
    """Files for phones, if they were asked for."""
    if not job.request.mobile:
        return ()
    images = job.images["validation"]
    with job.stages.stage("files for phones") as note:
        picture = preprocess(images.dataset.load(0)[0], images.preprocess)
        made = make_mobile(
            portable(sources.optimized, job.variants),
            {sources.optimized.inputs[0].name: picture},
            progress=job.progress,
        )
        note.detail = ", ".join(files.model.path or f"{files.model.artifact}: {files.model.reason}" for files in made)
        if not any(files.model.precision == "int8" for files in made):
            note.detail += "; INT8 for phones comes with --device generic_arm64 or generic_x86"
    return made


def _measure(job: _Job, declared: TensorSpec, samples_dir: Path) -> dict[tuple[int, Boundary], Row]:
    from mscsa_deploy.timing.plan import preset

    prepared, threads = job.prepared, job.target.threads
    cost = prepared.cost()
    plan = Measurement(
        group=prepared.name,
        images=job.images["validation"],
        boundaries=("core", "end_to_end"),
        preset=preset(job.request.preset),
        profile=job.plan.profile.name,
        threads=threads,
        macs=cost.macs,
        affinity=job.plan.profile.cores(threads),
        declared=declared,
        # A smoke run says nothing about time; end to end, what is not the network is measured part by part.
        explain=() if job.request.preset == "smoke" else ("core",),
    )
    with job.stages.stage("latency") as note:
        rows = measure_variants(
            job.variants,
            plan,
            samples_dir=samples_dir,
            fingerprint=job.plan.environment.fingerprint(),
            progress=job.progress,
        )
        note.detail = f"{len(rows)} rows, preset {job.request.preset}"
    return rows
