"""What goes into the bundle beside the artefacts: report, pictures, golden pair, replay file, manifest."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mscsa_deploy.core.config import to_plain
from mscsa_deploy.core.environment import package_versions
from mscsa_deploy.core.report import Report, Row
from mscsa_deploy.workflow.gates import passes
from mscsa_deploy.workflow.golden import ANY_RUNTIME, write_golden_pair
from mscsa_deploy.workflow.resolved import CHECKPOINT, resolved_toml
from mscsa_deploy.workflow.variants import shipped_files

if TYPE_CHECKING:
    from mscsa_deploy.bundle.manifest import ArtifactEntry, Measurement, OrtFiles
    from mscsa_deploy.imaging.palette import Color
    from mscsa_deploy.workflow.deployment import Results
    from mscsa_deploy.workflow.variants import Variant

PICTURES = 4
FOLDER = "pictures"
CARD = "MODEL_CARD.md"
TOOLS = ("torch", "onnx", "onnx-ir", "onnxsim", "onnxruntime", "openvino", "nncf", "tensorrt-rtx")


def write_bundle_files(work: Path, report: Report, results: Results) -> Report:
    """Complete the directory `work`, which holds the artefacts, to a bundle; returns the report as written."""
    from mscsa_deploy.bundle.manifest import BundleModel, Manifest, Tensor
    from mscsa_deploy.bundle.store import write_bundle
    from mscsa_deploy.reporting.files import write_report

    prepared = results.prepared
    if prepared.card is not None:
        shutil.copyfile(prepared.card, work / CARD)
    made_with = {CHECKPOINT: prepared.source_sha256, **package_versions(TOOLS)}
    resolved = resolved_toml(results.settings, results.profile.name, made_with)
    (work / "resolved.toml").write_text(resolved, encoding="utf-8")
    pictures = write_pictures(work, results) if prepared.task == "seg" else ()
    report = msgspec.structs.replace(report, pictures=pictures)
    write_report(report, work)
    artifacts = artifact_entries(report, results)
    manifest = Manifest(
        model=BundleModel(
            name=prepared.name,
            sha256=prepared.source_sha256,
            random_weights=prepared.random_weights is not None,
            params=report.model.params if report.model else None,
            macs=report.model.macs if report.model else None,
            options=dataclasses.asdict(prepared.recipe.options),
            source=prepared.recipe.spec.source,
        ),
        task=prepared.recipe.task,
        labels=prepared.labels or tuple(f"class {index}" for index in range(prepared.classes)),
        palette=_palette(results) if prepared.task == "seg" else (),
        input=Tensor.of(results.model.inputs[0]),
        preprocess=prepared.preprocess,
        artifacts=artifacts,
        recommended=_choice(report, results),
        golden=write_golden_pair(work, results),
        license=prepared.license,
        model_card=CARD if prepared.card else "",
        recipe=to_plain(prepared.recipe),
        tools=package_versions(TOOLS),
        environment=report.environment,
        data=report.data,
    )
    write_bundle(work, manifest)
    return report


def _palette(results: Results) -> tuple[Color, ...]:
    from mscsa_deploy.imaging.palette import default_palette

    return results.prepared.recipe.palette or default_palette(results.prepared.classes)


def artifact_entries(report: Report, results: Results) -> tuple[ArtifactEntry, ...]:
    """One entry per shipped file, with what every row that ran it measured."""
    by_place: dict[str, list[Variant]] = {place: [] for place in shipped_files(results.model, results.variants)}
    for variant in results.variants:
        if variant.status != "failed":
            for place in variant.places:
                by_place[place].append(variant)
    entries = [_entry(place, variants, report, results) for place, variants in by_place.items()]
    # Class maps last: an app that takes the first file that suits it expects logits.
    return tuple(sorted(entries, key=lambda entry: entry.postprocess.output == "classmap"))


def _entry(place: str, variants: Sequence[Variant], report: Report, results: Results) -> ArtifactEntry:
    from mscsa_deploy.bundle.manifest import ArtifactEntry, LeftFloat, Postprocess, Tensor

    recipe, made = results.prepared.recipe, variants[0] if variants else None
    artifact = made.places[place] if made else results.model
    output = "classmap" if made and place == made.answer_place else recipe.output
    runtimes = tuple(dict.fromkeys(variant.runtime for variant in variants)) or ANY_RUNTIME
    return ArtifactEntry(
        path=place,
        files=(Path(place).with_suffix(".bin").as_posix(),) if place.endswith(".xml") else (),
        kind=artifact.kind,  # type: ignore[arg-type]  # the kinds that are shipped
        precision=artifact.precision,  # type: ignore[arg-type]
        runtimes=runtimes,
        profile=results.profile.name if "/" in place else "",
        requires=made.requires if made else (),
        inputs=tuple(Tensor.of(spec) for spec in artifact.inputs),
        outputs=tuple(Tensor.of(spec) for spec in artifact.outputs),
        postprocess=Postprocess.of(
            recipe.task, output, tensor=artifact.outputs[0].name, stride=recipe.spec.output_stride or 1
        ),
        recipe=made.recipe if made else "",
        left_float=tuple(
            LeftFloat(node=left.node, op=left.op, reason=left.reason) for left in (made.left_float if made else ())
        ),
        measurements=tuple(_measurement(row, results) for row in _rows_to_tell(place, report, results)),
        mobile=_for_phones(place, report),
    )


def _for_phones(place: str, report: Report) -> OrtFiles | None:
    from mscsa_deploy.bundle.manifest import OrtFiles

    made = (model for model in report.mobile if model.artifact == place and model.status == "ok")
    return next((OrtFiles(path=model.path, operators=model.operators) for model in made), None)


def _rows_to_tell(place: str, report: Report, results: Results) -> list[Row]:
    """The rows of a file, without a float rest that failed where another passed: an app takes the faster of them."""
    rows = [(row, passes(row, results)) for row in report.rows if row.artifact == place]
    right = {(row.runtime, row.precision) for row, passed in rows if passed and row.status == "ok"}
    return [row for row, passed in rows if passed or (row.runtime, row.precision) not in right]


def _measurement(row: Row, results: Results) -> Measurement:
    from mscsa_deploy.bundle.manifest import Measurement

    return Measurement(
        runtime=row.runtime,
        runtime_version=row.runtime_version,
        precision=row.precision,  # type: ignore[arg-type]  # rows of shipped artefacts have one of these
        executed_precision=row.executed_precision,
        profile=row.profile,
        device=row.device,
        threads=row.threads,
        boundary=row.boundary,
        status=row.status,
        reason=row.reason,
        latency_ms=row.latency_ms,
        metric=row.metric,
        argmax_agreement=row.parity.argmax_agreement if row.parity else None,
        # What was built for another device has not seen this machine.
        isa=results.environment.isa if row.status == "ok" else (),
        options=row.details.get("options", {}),
    )


def _choice(report: Report, results: Results) -> Any:
    from mscsa_deploy.bundle.manifest import Choice

    verdict = report.verdict
    if verdict is None or not verdict.recommended:
        return None
    return Choice(
        artifact=verdict.recommended,
        runtime=verdict.runtime,
        precision=verdict.precision,  # type: ignore[arg-type]
        threads=results.settings.threads or results.profile.threads,
        reason=verdict.summary,
    )


def write_pictures(work: Path, results: Results) -> tuple[str, ...]:
    """Overlays of a few evaluation images: the picture, its mask and the recommended artefact's answer."""
    from PIL import Image

    from mscsa_deploy.imaging.classmap import class_map, resize_nearest
    from mscsa_deploy.imaging.overlay import overlay, with_legend
    from mscsa_deploy.imaging.preprocess import preprocess
    from mscsa_deploy.runtimes import RUNTIMES

    variant = _shown(results)
    if variant is None:
        return ()
    images, palette = results.images["evaluation"], _palette(results)
    labels = results.prepared.labels or tuple(f"class {index}" for index in range(results.prepared.classes))
    (work / FOLDER).mkdir()
    names = []
    with RUNTIMES.load(variant.runtime)().load(variant.artifact.path, variant.settings) as session:
        for index in range(min(PICTURES, len(images))):
            image, target = images.dataset.load(index)
            output = next(iter(session.run({session.inputs[0].name: preprocess(image, images.preprocess)}).values()))
            answer = class_map(output[0], results.prepared.size) if output.ndim == 4 else output[0]
            answer = resize_nearest(answer, image.shape[:2])
            panels = [image, overlay(image, answer, palette)]
            if isinstance(target, np.ndarray):
                panels.insert(1, overlay(image, target, palette))
            strip = with_legend(np.concatenate(panels, axis=1), np.tile(answer, (1, len(panels))), labels, palette)
            name = f"{FOLDER}/evaluation-{index}.png"
            Image.fromarray(strip).save(work / name)
            names.append(name)
    return tuple(names)


def _shown(results: Results) -> Variant | None:
    """The INT8 variant that runs here, else any shipped one: what people want to look at."""
    ran = [variant for variant in results.variants if variant.status == "ok" and variant.place]
    return next((variant for variant in ran if variant.precision == "int8"), ran[0] if ran else None)
