"""The end of a deployment: rows from results, gates and verdict, report, pictures, bundle."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mscsa_deploy.core.files import output_directory
from mscsa_deploy.core.report import ModelRecord, Report, Row
from mscsa_deploy.workflow.deployment import Finished, Gate, Results
from mscsa_deploy.workflow.explained import with_explanations
from mscsa_deploy.workflow.gates import judge
from mscsa_deploy.workflow.measure import unmeasured
from mscsa_deploy.workflow.ship import write_bundle_files
from mscsa_deploy.workflow.variants import shipped_files

if TYPE_CHECKING:
    from mscsa_deploy.workflow.evaluate import Evaluation
    from mscsa_deploy.workflow.variants import Variant


def finish(results: Results, *, out: Path, force: bool) -> Finished:
    """Judge, and put artefacts, report and pictures together in the directory `out`."""
    rows = tuple(with_explanations(make_rows(results), results.environment, reduced_only=True))
    gates, verdict = judge(rows, results)
    report = Report(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        command=results.settings.command,
        environment=_environment(results),
        model=_model(results),
        data=_data(results),
        stages=results.stages,
        rows=rows,
        verdict=verdict,
        mobile=tuple(files.model for files in results.mobile),
        decisions=results.decisions,
    )
    with output_directory(out, force=force) as work:
        _place_files(results, work)
        report = write_bundle_files(work, report, results)
    return Finished(report, gates, out, _exit_code(report, gates, results))


def _place_files(results: Results, work: Path) -> None:
    shutil.copytree(results.samples_dir, work / "samples")
    # A temporary directory is private; its copy is as readable as the rest of the bundle.
    (work / "samples").chmod(0o755)
    places = {place: artifact.path for place, artifact in shipped_files(results.model, results.variants).items()}
    for files in results.mobile:
        places |= files.places
    for place, source in places.items():
        target = work / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        if source.suffix == ".xml":
            shutil.copyfile(source.with_suffix(".bin"), target.with_suffix(".bin"))


def make_rows(results: Results) -> tuple[Row, ...]:
    """One row per variant and boundary, with latency, accuracy and agreement in one record."""
    reference = next((score for score in results.scores if score is not None), None)
    rows = []
    for position, (variant, score) in enumerate(zip(results.variants, results.scores, strict=True)):
        measured = [(b, results.rows[position, b]) for b in ("core", "end_to_end") if (position, b) in results.rows]
        if not measured:
            size = results.prepared.size
            measured = [("core", unmeasured(variant, results.profile.name, size, variant.place))]
        for _, row in measured:
            rows.append(_with_accuracy(row, variant, score, reference))
    return tuple(rows)


def _with_accuracy(row: Row, variant: Variant, score: Evaluation | None, reference: Evaluation | None) -> Row:
    details = {**row.details, **variant.details}
    if variant.status != "ok" and score is not None:
        details["accuracy_measured_with"] = "ONNX Runtime on the ONNX file that the engine was built from"
    if variant.notes:
        details["notes"] = list(variant.notes)
    if variant.quantized_ops:
        details["quantized_ops"] = variant.quantized_ops
    changes: dict[str, Any] = {
        "left_float": tuple(f"{left.op} {left.node}: {left.reason}" for left in variant.left_float),
        "details": details,
    }
    if score is not None:
        changes["metric"] = score.metric(None if score is reference else reference)
        changes["parity"] = score.parity.numbers() if score.parity else None
    return msgspec.structs.replace(row, **changes)


def _model(results: Results) -> ModelRecord:
    prepared = results.prepared
    cost = prepared.cost()
    return ModelRecord(
        name=prepared.name,
        task=prepared.task,
        sha256=prepared.source_sha256,
        params=cost.params,
        macs=cost.macs,
        input_size=prepared.size,
        classes=prepared.classes,
        source=prepared.recipe.spec.source,
        random_weights=prepared.random_weights is not None,
    )


def _environment(results: Results) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(msgspec.json.encode(results.environment))
    return {**plain, "fingerprint": results.environment.fingerprint(), "profile": results.profile.name}


def _data(results: Results) -> dict[str, Any]:
    from mscsa_deploy.imaging.dataset import skipped

    found = {}
    for name, images in results.images.items():
        found[name] = {"name": images.dataset.name, "images": len(images), "of": len(images.dataset)}
        if unreadable := len(skipped(images.dataset)):
            found[name]["unreadable"] = unreadable
    return found


def _exit_code(report: Report, gates: tuple[Gate, ...], results: Results) -> int:
    """5 for a failed gate, 4 for a failed row, 3 for a runtime that was named and cannot run, else 0."""
    if any(not gate.passed for gate in gates if gate.required):
        return 5
    if "failed" in {*(row.status for row in report.rows), *(model.status for model in report.mobile)}:
        return 4
    named = results.settings.runtimes or ()
    return 3 if any(row.status == "not run" and row.runtime in named for row in report.rows) else 0
