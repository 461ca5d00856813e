"""Opening what the tools after export work on: a bundle, any static-shape ONNX file, or a model of the zoo."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.artifact import Artifact, MadeBy, model_digest
from mscsa_deploy.core.config import read_toml
from mscsa_deploy.core.environment import isa_doubts, package_versions
from mscsa_deploy.core.progress import Progress
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.workflow.cache import cached, located, relative
from mscsa_deploy.workflow.judge import class_count
from mscsa_deploy.workflow.subject import Subject, SubjectRequest, variant_here
from mscsa_deploy.workflow.variants import MODEL, Role, Variant

if TYPE_CHECKING:
    from mscsa_deploy.bundle.manifest import ArtifactEntry
    from mscsa_deploy.bundle.store import Bundle
    from mscsa_deploy.graphs.foreign import Adopted
    from mscsa_deploy.runtimes.profile import DeviceProfile

logger = logging.getLogger(__name__)


def open_subject(
    model: str,
    ask: SubjectRequest,
    profile: DeviceProfile,
    progress: Progress,
    *,
    runtimes: tuple[str, ...] | None = None,
    rewrite: bool = False,
) -> Subject:
    """What `model` means, with every way to run it on this machine.

    Args:
        model: A bundle, an ONNX file, a zoo name or an export recipe.
        ask: What else is known about it.
        profile: The class of device.
        progress: Told when something has to be exported first.
        runtimes: What it is to run on; the profile's own list if None. A bundle has its own.
        rewrite: INT8 is going to be made from it for these runtimes, so that an ONNX file of an old opset is converted.

    Raises:
        UserError: It does not exist, or a foreign ONNX file came without its task or preprocessing; or INT8 is to be
            made from it and it has no float file, or one without a fixed input shape.
    """
    subject = _opened(model, ask, profile, progress, runtimes, rewrite=rewrite)
    if rewrite:
        from mscsa_deploy.calibration.source import refuse_dynamic

        # Told here under the name that the user gave it, and before anything is scored.
        for name in runtimes or ():
            refuse_dynamic(subject.float_for(name).artifact.inputs, Path(model))
    return subject


def _opened(
    model: str,
    ask: SubjectRequest,
    profile: DeviceProfile,
    progress: Progress,
    runtimes: tuple[str, ...] | None,
    *,
    rewrite: bool,
) -> Subject:
    from mscsa_deploy.export.source import resolve_model_argument

    own = ask.checkpoint is not None or ask.random_weights is not None
    source = resolve_model_argument(model, task=ask.task, own_weights=own)
    if source.kind == "bundle":
        assert source.path is not None
        return _bundle(source.path, ask, profile)
    if source.kind == "onnx":
        assert source.path is not None
        return _onnx(source.path, ask, profile, runtimes, rewrite=rewrite)
    return _zoo(model, ask, profile, runtimes, progress=progress)


def _bundle(path: Path, ask: SubjectRequest, profile: DeviceProfile) -> Subject:
    from mscsa_deploy.bundle.selection import twin_of
    from mscsa_deploy.bundle.store import read_bundle

    bundle = read_bundle(path)
    manifest = bundle.manifest
    tensor = manifest.input
    return Subject(
        name=manifest.model.name,
        task=manifest.task,
        classes=len(manifest.labels),
        preprocess=manifest.preprocess,
        declared=TensorSpec(tensor.name, tensor.dtype, tensor.shape),
        variants=_with_one_reference(
            [
                variant
                for entry in manifest.artifacts
                if twin_of(entry, manifest) is None
                for variant in _of_entry(bundle, entry, ask, profile)
            ]
        ),
        labels=manifest.labels,
        params=manifest.model.params or 0,
        macs=manifest.model.macs or 0,
        sha256=manifest.model.sha256,
        random_weights=manifest.model.random_weights,
    )


def _with_one_reference(variants: list[Variant]) -> tuple[Variant, ...]:
    """The variants with one FP32 reference per runtime: the form made for it, where the bundle holds one."""
    references: dict[str, Variant] = {}
    for variant in variants:
        if variant.role and (variant.runtime not in references or variant.place != MODEL):
            references[variant.runtime] = variant
    return tuple(
        variant if references.get(variant.runtime) is variant else replace(variant, role="") for variant in variants
    )


def _of_entry(bundle: Bundle, entry: ArtifactEntry, ask: SubjectRequest, profile: DeviceProfile) -> Iterator[Variant]:
    """Every runtime and arithmetic that an artefact of a bundle was measured in, or was made for."""
    path = bundle.file(entry.path)
    artifact = Artifact.of(
        path,
        kind=entry.kind,
        precision=entry.precision,
        inputs=tuple(TensorSpec(t.name, t.dtype, t.shape) for t in entry.inputs),
        outputs=tuple(TensorSpec(t.name, t.dtype, t.shape) for t in entry.outputs),
        made_by=MadeBy(stage="bundle"),
    )
    ways = {(m.runtime, m.precision, str(m.options)): dict(m.options) for m in entry.measurements if m.status == "ok"}
    for name in entry.runtimes:
        if not any(way[0] == name for way in ways):
            ways[name, entry.precision, ""] = dict(profile.settings(name, entry.precision).options)
    for (runtime, precision, _), options in ways.items():
        # A bundle holds the optimized export; the plain one is measured by `deploy` only.
        role: Role = "optimised_fp32" if entry.precision == precision == "fp32" else ""
        made = variant_here(
            runtime, precision, artifact, options, ask=ask, profile=profile, place=entry.path, role=role
        )
        recipe = f"{entry.recipe}+bf16" if entry.recipe and options.get("float_precision") == "bf16" else entry.recipe
        yield replace(made, recipe=recipe)


def _onnx(
    path: Path, ask: SubjectRequest, profile: DeviceProfile, runtimes: tuple[str, ...] | None, *, rewrite: bool
) -> Subject:
    """A foreign or own ONNX file on every runtime that loads ONNX."""
    from mscsa_deploy.core.config import convert, to_plain
    from mscsa_deploy.graphs.foreign import adopt
    from mscsa_deploy.imaging.preprocess import Preprocess

    told = to_plain(read_toml(ask.preprocess, Preprocess)) if ask.preprocess else None
    adopted = adopt(path, task=ask.task, preprocess=told, rewrite=rewrite)
    for note in adopted.notes:
        logger.warning("'%s' %s", path, note)
    for doubt in isa_doubts(f"'{path}'", _required_isa(adopted)):
        logger.warning("%s", doubt)
    info = adopted.info
    artifact = _kept(adopted, path) if rewrite and adopted.changed else _artifact(adopted, path, "given")
    variants = []
    for name in runtimes or tuple(name for name in profile.default_runtimes if name in ("onnxruntime", "openvino")):
        options = dict(profile.settings(name, info.precision).options)
        role: Role = "fp32" if info.precision == "fp32" else ""
        variants.append(
            variant_here(name, info.precision, artifact, options, ask=ask, profile=profile, place=path.name, role=role)
        )
        if info.precision == "fp32" and "bf16" in profile.runtimes[name].precisions:
            variants.append(variant_here(name, "bf16", artifact, options, ask=ask, profile=profile, place=path.name))
    return Subject(
        name=info.name,
        task=info.task,
        classes=class_count(adopted.outputs, info.labels),
        preprocess=convert(info.preprocess, Preprocess, source=str(path)),
        declared=adopted.inputs[0],
        variants=tuple(variants),
        labels=info.labels,
        sha256=artifact.sha256,
        random_weights=info.random_weights is not None,
    )


def _required_isa(adopted: Adopted) -> list[str]:
    """The instruction sets that an INT8 file of ours requires."""
    from mscsa_deploy.calibration.provenance import REQUIRES

    return adopted.model.metadata_props.get(REQUIRES, "").split(",")


def _artifact(adopted: Adopted, path: Path, stage: str) -> Artifact:
    return Artifact.of(
        path,
        kind="onnx",
        precision=adopted.info.precision,
        inputs=adopted.inputs,
        outputs=adopted.outputs,
        made_by=MadeBy(stage=stage),
    )


def _kept(adopted: Adopted, path: Path) -> Artifact:
    """The adopted model as a file of the cache."""
    from mscsa_deploy.graphs.check import to_bytes

    def make(folder: Path) -> Artifact:
        (folder / path.name).write_bytes(to_bytes(adopted.model))
        return relative(_artifact(adopted, folder / path.name, "adopt"), folder)

    parts = {"onnx": model_digest(path), "tools": package_versions(("onnx", "onnx-ir"))}
    folder, made = cached("adopt", parts, Artifact, make)
    return located(made, folder)


def _zoo(
    model: str,
    ask: SubjectRequest,
    profile: DeviceProfile,
    runtimes: tuple[str, ...] | None,
    *,
    progress: Progress,
) -> Subject:
    """A model with weights, exported in every float form that the profile's runtimes run."""
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.workflow.build import Target, build_sources, float_variants
    from mscsa_deploy.workflow.prepare import ModelRequest, prepare

    request = ModelRequest(model=model, task=ask.task, checkpoint=ask.checkpoint, random_weights=ask.random_weights)
    prepared = prepare(request)
    tuned = tuple(name for name in runtimes or profile.default_runtimes if name != "tensorrt")
    sources = build_sources(prepared, tuned, progress)
    target = Target(profile, ask.threads or profile.threads)
    # TensorRT takes the form that is tuned for no runtime, which ONNX Runtime stands in to run.
    names = tuned or ("onnxruntime",)
    variants = [v for name in names for v in float_variants(name, sources, target, RUNTIMES.load(name)().probe())]
    cost = prepared.cost()
    return Subject(
        name=prepared.name,
        task=prepared.task,
        classes=prepared.classes,
        preprocess=prepared.preprocess,
        declared=sources.optimized.inputs[0],
        variants=tuple(variants),
        labels=prepared.labels,
        params=cost.params,
        macs=cost.macs,
        sha256=prepared.source_sha256,
        random_weights=prepared.random_weights is not None,
    )
