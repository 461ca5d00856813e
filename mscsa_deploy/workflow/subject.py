"""What the tools after export work on: a bundle, any static-shape ONNX file, or a model of the zoo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.core.config import read_toml
from mscsa_deploy.core.progress import Progress
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import UserError
from mscsa_deploy.workflow.variants import Role, Variant

if TYPE_CHECKING:
    from mscsa_deploy.bundle.manifest import ArtifactEntry
    from mscsa_deploy.bundle.store import Bundle
    from mscsa_deploy.export.source import ModelSource
    from mscsa_deploy.imaging.preprocess import Preprocess
    from mscsa_deploy.models.spec import Task
    from mscsa_deploy.runtimes.profile import DeviceProfile


# Ids that the class map of an unlabeled model can hold: a uint8's.
CLASS_MAP_VALUES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectRequest:
    """What must be known to open a model, and for which device.

    Args:
        task: For a model that does not say its own.
        preprocess: Preprocessing (TOML) for a foreign ONNX file.
        checkpoint: Weights for a zoo name.
        random_weights: Seed of random weights for a zoo name.
        device: Name or file of a device profile; this machine's if None.
        threads: Compute threads per session; the profile's if None.
    """

    task: Task | None = None
    preprocess: Path | None = None
    checkpoint: Path | None = None
    random_weights: int | None = None
    device: str | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model, opened.

    Args:
        name: For reports; rows of one subject are compared with each other.
        task: ``"cls"`` or ``"seg"``.
        classes: Of its output.
        preprocess: How a picture becomes its input.
        declared: Its picture input.
        variants: Everything that can be run.
        labels: Class names; empty if unknown.
        params: Parameters; 0 if not known.
        macs: Of one forward pass; 0 if not known.
        sha256: Of the checkpoint or the file.
        random_weights: Whether it was never trained.
    """

    name: str
    task: str
    classes: int
    preprocess: Preprocess
    declared: TensorSpec
    variants: tuple[Variant, ...]
    labels: tuple[str, ...] = ()
    params: int = 0
    macs: int = 0
    sha256: str = ""
    random_weights: bool = False

    def float_for(self, runtime: str) -> Variant:
        """The FP32 ONNX variant that an INT8 file is made from: the form that `runtime` runs fastest.

        Raises:
            UserError: There is no FP32 ONNX file.
        """
        found = [each for each in self.variants if each.precision == "fp32" and each.artifact.kind == "onnx"]
        mine = [each for each in found if each.runtime == runtime] or found
        if not mine:
            raise UserError(
                f"'{self.name}' has no FP32 ONNX file to quantize", hint="name the float model or its ONNX file"
            )
        return max(mine, key=lambda each: each.role == "optimised_fp32")


def open_subject(
    model: str,
    ask: SubjectRequest,
    profile: DeviceProfile,
    progress: Progress,
    *,
    runtimes: tuple[str, ...] | None = None,
) -> Subject:
    """What `model` means, with every way to run it on this machine.

    Args:
        model: A bundle, an ONNX file, a zoo name or an export recipe.
        ask: What else is known about it.
        profile: The class of device.
        progress: Told when something has to be exported first.
        runtimes: What it is to run on; the profile's own list if None. A bundle has its own.

    Raises:
        UserError: It does not exist, or a foreign ONNX file came without its task or preprocessing.
    """
    from mscsa_deploy.export.source import resolve_model_argument

    own = ask.checkpoint is not None or ask.random_weights is not None
    source = resolve_model_argument(model, task=ask.task, own_weights=own)
    if source.kind == "bundle":
        assert source.path is not None
        return _bundle(source.path, ask, profile)
    if source.kind == "onnx":
        return _onnx(source, ask, profile, runtimes)
    return _zoo(model, ask, profile, runtimes, progress=progress)


def _bundle(path: Path, ask: SubjectRequest, profile: DeviceProfile) -> Subject:
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
            [variant for entry in manifest.artifacts for variant in _of_entry(bundle, entry, ask, profile)]
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
        if variant.role and (variant.runtime not in references or variant.place != "model.onnx"):
            references[variant.runtime] = variant
    return tuple(
        variant if references.get(variant.runtime) is variant else replace(variant, role="") for variant in variants
    )


def _of_entry(bundle: Bundle, entry: ArtifactEntry, ask: SubjectRequest, profile: DeviceProfile) -> Iterator[Variant]:
    """Every runtime and arithmetic that an artefact of a bundle was measured in, or was made for."""
    path = bundle.file(entry.path)
    sha256 = next(file.sha256 for file in bundle.manifest.files if file.path == entry.path)
    artifact = Artifact(
        path,
        sha256,
        entry.kind,
        entry.precision,
        tuple(TensorSpec(t.name, t.dtype, t.shape) for t in entry.inputs),
        tuple(TensorSpec(t.name, t.dtype, t.shape) for t in entry.outputs),
        MadeBy(stage="bundle"),
    )
    ways = {(m.runtime, m.precision, str(m.options)): dict(m.options) for m in entry.measurements if m.status == "ok"}
    for name in entry.runtimes:
        if not any(way[0] == name for way in ways):
            ways[name, entry.precision, ""] = dict(profile.settings(name, entry.precision).options)
    for (runtime, precision, _), options in ways.items():
        # A bundle holds the optimized export; the plain one is measured by `deploy` only.
        role: Role = "optimised_fp32" if entry.precision == precision == "fp32" else ""
        made = _variant(runtime, precision, artifact, options, ask=ask, profile=profile, place=entry.path, role=role)
        recipe = f"{entry.recipe}+bf16" if entry.recipe and options.get("float_precision") == "bf16" else entry.recipe
        yield replace(made, recipe=recipe)


def _variant(
    runtime: str,
    precision: str,
    artifact: Artifact,
    options: dict[str, object],
    *,
    ask: SubjectRequest,
    profile: DeviceProfile,
    place: str = "",
    role: Role = "",
) -> Variant:
    from mscsa_deploy.runtimes import RUNTIMES

    settings = replace(profile.settings(runtime, precision, threads=ask.threads), options=options)
    made = Variant(
        runtime=runtime,
        precision=precision,
        artifact=artifact,
        settings=settings,
        place=place,
        role=role,
    )
    implementation = RUNTIMES.load(runtime)()
    can = implementation.probe()
    if artifact.kind not in implementation.accepts:
        return replace(
            made, status="not run", reason=f"{runtime} runs built engines, and the bundle holds their source"
        )
    if not can.available:
        return replace(made, status="not run", reason="; ".join(filter(None, (can.reason, can.how_to_install))))
    if precision not in can.precisions:
        return replace(made, status="not run", reason=f"this machine cannot execute {precision} through {runtime}")
    return made


def _onnx(
    source: ModelSource, ask: SubjectRequest, profile: DeviceProfile, runtimes: tuple[str, ...] | None
) -> Subject:
    """A foreign or own ONNX file on every runtime that loads ONNX."""
    from mscsa_deploy.core.config import convert
    from mscsa_deploy.core.files import sha256_file
    from mscsa_deploy.graphs.check import read_model, signature
    from mscsa_deploy.graphs.metadata import info_of
    from mscsa_deploy.imaging.preprocess import Preprocess

    assert source.path is not None
    model = read_model(source.path)
    inputs, outputs = signature(model)
    info = info_of(model, source=str(source.path))
    task = ask.task or (info.task if info else None)
    if task is None:
        raise UserError(f"'{source.path}' does not say its task", hint="add --task cls or --task seg")
    if ask.preprocess is not None:
        preprocess = read_toml(ask.preprocess, Preprocess)
    elif info is not None and info.preprocess:
        preprocess = convert(info.preprocess, Preprocess, source=str(source.path))
    else:
        raise UserError(f"'{source.path}' does not say its preprocessing", hint="add --preprocess FILE.toml")
    precision = info.precision if info else _stored_precision(model)
    made_by = MadeBy(stage="given")
    artifact = Artifact(source.path, sha256_file(source.path), "onnx", precision, inputs, outputs, made_by)
    names = runtimes or tuple(name for name in profile.default_runtimes if name in ("onnxruntime", "openvino"))
    variants = []
    for name in names:
        options = dict(profile.settings(name, precision).options)
        role: Role = "fp32" if precision == "fp32" else ""
        variants.append(
            _variant(name, precision, artifact, options, ask=ask, profile=profile, place=source.path.name, role=role)
        )
        if precision == "fp32" and "bf16" in profile.runtimes[name].precisions:
            variants.append(_variant(name, "bf16", artifact, options, ask=ask, profile=profile, place=source.path.name))
    return Subject(
        name=info.name if info else source.name,
        task=task,
        classes=len(info.labels) if info and info.labels else _classes(outputs[0]),
        preprocess=preprocess,
        declared=inputs[0],
        variants=tuple(replace(variant, place=source.path.name) for variant in variants),
        labels=info.labels if info else (),
        sha256=artifact.sha256,
        random_weights=info is not None and info.random_weights is not None,
    )


def _classes(output: TensorSpec) -> int:
    """How many classes an output distinguishes that no labels describe."""
    shape = output.shape
    return CLASS_MAP_VALUES if len(shape) == 3 else shape[1] if len(shape) > 1 else 1


def _stored_precision(model: object) -> str:
    """``int8`` for a file with Q/DQ pairs, else ``fp32``."""
    from mscsa_deploy.graphs.check import op_histogram

    ops = op_histogram(model)  # type: ignore[arg-type]  # an onnx_ir model, whose type is not imported here
    return "int8" if {"DequantizeLinear", "QLinearConv", "QLinearMatMul"} & set(ops) else "fp32"


def _zoo(
    model: str,
    ask: SubjectRequest,
    profile: DeviceProfile,
    runtimes: tuple[str, ...] | None,
    *,
    progress: Progress,
) -> Subject:
    """A model with weights, exported in every float form that the profile's runtimes run."""
    from mscsa_deploy.models.cost import model_cost
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.workflow.build import Target, build_sources, float_variants
    from mscsa_deploy.workflow.prepare import ModelRequest, prepare

    request = ModelRequest(model=model, task=ask.task, checkpoint=ask.checkpoint, random_weights=ask.random_weights)
    prepared = prepare(request)
    names = tuple(name for name in runtimes or profile.default_runtimes if name != "tensorrt")
    sources = build_sources(prepared, names, progress)
    target = Target(profile, ask.threads or profile.threads)
    variants = [v for name in names for v in float_variants(name, sources, target, RUNTIMES.load(name)().probe())]
    cost = model_cost(prepared.name, prepared.task, input_size=prepared.size, options=prepared.recipe.options)
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
