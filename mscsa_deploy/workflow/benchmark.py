"""`benchmark`: honest latency of bundles, ONNX files and models of the zoo on every runtime asked for."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mscsa_deploy.core.files import refuse_existing
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Boundary, ModelRecord, Report, Row, StageRecord, Verdict
from mscsa_deploy.errors import UserError, unknown_name
from mscsa_deploy.workflow.choice import choose, from_picture, p50
from mscsa_deploy.workflow.evaluate import ImageSet
from mscsa_deploy.workflow.explained import with_explanations
from mscsa_deploy.workflow.images import open_images
from mscsa_deploy.workflow.measure import Measurement, measure_variants, measure_variants_on, unmeasured
from mscsa_deploy.workflow.opening import open_subject
from mscsa_deploy.workflow.output import write_output
from mscsa_deploy.workflow.subject import Subject, SubjectRequest
from mscsa_deploy.workflow.variants import Variant

if TYPE_CHECKING:
    from mscsa_deploy.core.environment import Environment
    from mscsa_deploy.runtimes.profile import DeviceProfile

ALL_BOUNDARIES: tuple[Boundary, ...] = ("core", "end_to_end")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRequest(SubjectRequest):
    """What to measure and how.

    Args:
        models: Zoo names, recipes, ONNX files or bundles.
        runtimes: The device profile's if None.
        precisions: Everything that is there if None.
        preset: ``smoke``, ``quick`` or ``full``.
        rate: Pictures a second, for paced rows; 0 for back-to-back ones.
        streams: Parallel streams; more than one makes throughput rows.
        boundaries: ``core``, ``end_to_end`` or both.
        images: What the inputs are made from.
        explain: Ask the runtimes where the time goes, for every row.
        on: Another machine, ``ssh://[user@]host[:port]``; this one if empty.
        peak: Measure the machine's own peak and give each row's share of it.
        resume: Go on with an interrupted run.
        command: The command line, for the report.
    """

    models: tuple[str, ...]
    runtimes: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    preset: str = "quick"
    rate: float = 0.0
    streams: int = 1
    boundaries: tuple[Boundary, ...] = ALL_BOUNDARIES
    images: str = "validation"
    explain: bool = False
    on: str = ""
    peak: bool = True
    resume: bool = True
    command: str = ""


def run_benchmark(
    request: BenchmarkRequest, out: Path | None = None, *, force: bool = False, progress: Progress = silent
) -> tuple[Report, int]:
    """The report of the measured rows, and the exit code; written to the directory `out` if one is given.

    Raises:
        UserError: A model, runtime, precision or image set does not exist or does not fit.
        UnsupportedError: No profile fits this machine.
    """
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.reporting.files import write_report
    from mscsa_deploy.runtimes.profile import pick_profile, read_profile

    if out is not None:
        refuse_existing(out, force=force)
    environment = read_environment()
    profile = read_profile(request.device) if request.device else pick_profile(environment)[0]
    subjects = [open_subject(model, request, profile, progress, runtimes=request.runtimes) for model in request.models]
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
        samples = Path(folder) / "samples"
        rows: list[Row] = []
        facts = {**json.loads(msgspec.json.encode(environment)), "fingerprint": environment.fingerprint()}
        for subject in subjects:
            found, there = _measure(subject, request, profile, environment, samples=samples, progress=progress)
            rows += found
            facts = there or facts
        if not request.on:
            rows = _with_shares(rows, request, profile, environment, progress)
        rows = with_explanations(rows, environment)
        report = _report(rows, subjects, request, {**facts, "profile": profile.name})
        if out is not None:
            with write_output(out, force=force) as work:
                if samples.is_dir():
                    # A temporary directory may lie on another disk, where nothing can be renamed to.
                    shutil.move(samples, work / "samples")
                write_report(report, work)
    return report, _exit_code(report, request)


def _measure(
    subject: Subject,
    request: BenchmarkRequest,
    profile: DeviceProfile,
    environment: Environment,
    *,
    samples: Path,
    progress: Progress,
) -> tuple[list[Row], dict[str, Any]]:
    """The rows of one model, and the environment of the other machine that they come from, if any."""
    from mscsa_deploy.timing.plan import preset

    variants = tuple(_wanted(subject.variants, request))
    if not variants:
        raise UserError(
            f"nothing of '{subject.name}' is left to measure",
            hint=f"it has: {', '.join(sorted({variant.label for variant in subject.variants}))}",
        )
    threads = request.threads or profile.threads
    images = ImageSet(open_images(request.images, "seg"), subject.preprocess, subject.task, subject.classes)
    plan = Measurement(
        group=subject.name,
        images=images,
        boundaries=request.boundaries,
        preset=preset(request.preset),
        profile=profile.name,
        threads=threads,
        macs=subject.macs,
        affinity=() if request.on else profile.cores(threads),
        explain=request.boundaries if request.explain else (),
        declared=subject.declared,
        rate=request.rate,
        streams=request.streams,
    )
    there: dict[str, Any] = {}
    if request.on:
        measured, there = measure_variants_on(request.on, variants, plan, samples_dir=samples, progress=progress)
    else:
        measured = measure_variants(
            variants,
            plan,
            samples_dir=samples,
            fingerprint=environment.fingerprint(),
            resume=request.resume,
            progress=progress,
        )
    rows = []
    for position, variant in enumerate(variants):
        rows += [measured[position, each] for each in request.boundaries if (position, each) in measured]
        if variant.status != "ok":
            size = (images.preprocess.height, images.preprocess.width)
            rows.append(unmeasured(variant, profile.name, size, variant.place or variant.artifact.path.name))
    return rows, there


def _wanted(variants: Sequence[Variant], request: BenchmarkRequest) -> Iterator[Variant]:
    from mscsa_deploy.runtimes import OFFERED, RUNTIMES
    from mscsa_deploy.runtimes.protocol import PRECISIONS

    for name in request.runtimes or ():
        if name not in RUNTIMES:
            raise unknown_name("runtime", name, OFFERED)
    for precision in request.precisions or ():
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
    for variant in variants:
        if request.runtimes and variant.runtime not in request.runtimes:
            continue
        if request.precisions and variant.precision not in request.precisions:
            continue
        threads = request.threads or variant.settings.threads
        wanted = replace(variant, settings=replace(variant.settings, threads=threads))
        # What another machine can run is found out there.
        yield replace(wanted, status="ok", reason="") if request.on and variant.runtime != "tensorrt" else wanted


def _with_shares(
    rows: list[Row], request: BenchmarkRequest, profile: DeviceProfile, environment: Environment, progress: Progress
) -> list[Row]:
    """The rows with their share of the machine's measured peak, where one was asked for."""
    from mscsa_deploy.timing.peak import peaks, with_share

    if not request.peak or not any(row.macs_per_s for row in rows):
        return rows
    threads = request.threads or profile.threads
    roofs = peaks(
        {row.runtime for row in rows},
        threads=threads,
        fingerprint=environment.fingerprint(),
        affinity=profile.cores(threads),
        progress=lambda done, total, label: progress(done, total, f"peak of this machine: {label}"),
    )
    return [with_share(row, roofs) for row in rows]


def _report(
    rows: Sequence[Row],
    subjects: Sequence[Subject],
    request: BenchmarkRequest,
    environment: dict[str, Any],
) -> Report:
    first = subjects[0]
    return Report(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        command=request.command,
        environment=environment,
        model=ModelRecord(
            name=", ".join(subject.name for subject in subjects),
            task=first.task,
            sha256=first.sha256,
            params=first.params or None,
            macs=first.macs or None,
            input_size=(first.preprocess.height, first.preprocess.width),
            classes=first.classes or None,
            random_weights=any(subject.random_weights for subject in subjects),
        ),
        data={"inputs": {"name": request.images}},
        stages=(StageRecord(name="benchmark", seconds=0.0, status="ok", detail=f"preset {request.preset}"),),
        rows=tuple(rows),
        verdict=_verdict(rows, request.boundaries[0]) if not subjects[1:] else None,
    )


def _verdict(rows: Sequence[Row], boundary: Boundary) -> Verdict | None:
    """What to ship by latency at `boundary` alone; None if nothing ran that can be shipped."""
    alike = [row for row in rows if row.boundary == boundary]
    chosen = choose(alike)
    if chosen is None:
        return None
    mark = "" if chosen.stable else " (unstable measurement)"
    text = f"By latency alone, ship {chosen.artifact} on {chosen.runtime}: {p50(chosen):.2f} ms median{mark}"
    if chosen.precision != "int8" and any(row.precision == "int8" and row.status == "ok" for row in alike):
        text += "; INT8 is not faster here"
    return Verdict(
        passed=True,
        summary=". ".join(filter(None, (text, from_picture(chosen, alike, rows), "Accuracy was not judged here."))),
        recommended=chosen.artifact,
        runtime=chosen.runtime,
        precision=chosen.precision,
        recipe=chosen.recipe,
    )


def _exit_code(report: Report, request: BenchmarkRequest) -> int:
    if any(row.status == "failed" for row in report.rows):
        return 4
    named = request.runtimes or ()
    return 3 if any(row.status != "ok" and row.runtime in named for row in report.rows) else 0
