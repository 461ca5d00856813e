"""Every artefact of a deployment: plain and optimized FP32, FP16, INT8 per runtime, TensorRT engines.

Each piece is made once and kept in the cache under everything that decides it; the bundle is put together from
there at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.artifact import Artifact, MadeBy, model_digest
from mscsa_deploy.core.config import to_json
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import PLAIN_EXPORT
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import DeployError, StageError, UnsupportedError
from mscsa_deploy.workflow.cache import cached, located, relative
from mscsa_deploy.workflow.export import export_prepared
from mscsa_deploy.workflow.variants import Role, Variant

if TYPE_CHECKING:
    from mscsa_deploy.calibration.quantizer import Quantized
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.runtimes.profile import DeviceProfile
    from mscsa_deploy.runtimes.protocol import Capabilities, SessionSettings
    from mscsa_deploy.workflow.prepare import Prepared

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """The float files that everything else is made from.

    Args:
        plain: Traced and simplified, no graph pass: the honest baseline.
        optimized: After the graph passes; ``model.onnx`` of the bundle.
        torch: The model as PyTorch runs it.
        half: The FP16 file; None if it could not be made.
        tuned: By runtime, the optimized graph in the form that this runtime runs fastest, where it differs.
        notes: What the exporter has to say.
    """

    plain: Artifact
    optimized: Artifact
    torch: Artifact
    half: Artifact | None
    tuned: dict[str, Artifact]
    notes: tuple[str, ...] = ()

    def float_for(self, runtime: str) -> Artifact:
        """The float file that `runtime` runs fastest."""
        return self.tuned.get(runtime, self.optimized)

    def mapped(self, change: Any) -> Sources:
        """The same with `change` applied to every artefact."""
        return Sources(
            change(self.plain),
            change(self.optimized),
            change(self.torch),
            change(self.half) if self.half else None,
            {name: change(artifact) for name, artifact in self.tuned.items()},
            self.notes,
        )


@dataclass(frozen=True, slots=True)
class Target:
    """For which device things are built.

    Args:
        profile: The class of device.
        threads: Compute threads of every session.
    """

    profile: DeviceProfile
    threads: int

    def place(self, runtime: str, name: str) -> str:
        """Path inside the bundle of a file made for `runtime` on this class of device."""
        return f"{runtime}/{self.profile.name}/{name}"

    def settings(self, runtime: str, precision: str) -> SessionSettings:
        """Session settings of a row."""
        return self.profile.settings(runtime, precision, threads=self.threads)

    def precisions(self, runtime: str) -> tuple[str, ...]:
        """What the profile wants run on `runtime`; FP32 alone for one it does not know."""
        entry = self.profile.runtimes.get(runtime)
        return entry.precisions if entry else ("fp32",)


def build_sources(prepared: Prepared, runtimes: tuple[str, ...], progress: Progress = silent) -> Sources:
    """The float files of `prepared`, from the cache when the same were made before."""
    from mscsa_deploy.export.versions import tool_versions

    def make(folder: Path) -> Sources:
        return _export_all(prepared, runtimes, folder, progress).mapped(lambda each: relative(each, folder))

    parts = {"model": prepared.key, "runtimes": runtimes, "tools": tool_versions(), "passes": _pass_names(runtimes)}
    folder, sources = cached("export", parts, Sources, make)
    return sources.mapped(lambda each: located(each, folder))


def _pass_names(runtimes: tuple[str, ...]) -> list[str]:
    """Names of the passes that run, so that a new pass makes new files."""
    from mscsa_deploy.graphs.passes import optimizations, optimizations_for

    passes = [*optimizations(), *(step for name in runtimes for step in optimizations_for(name))]
    return [type(step).__name__ for step in passes]


def _export_all(prepared: Prepared, runtimes: tuple[str, ...], folder: Path, progress: Progress) -> Sources:
    from mscsa_deploy.export.fp16 import to_fp16
    from mscsa_deploy.export.recipe import changed
    from mscsa_deploy.export.tune import tune_for

    torch_file = torch_artifact(prepared, folder / "model.safetensors")
    plain_recipe = changed(prepared.recipe, optimize=False)
    _, plain = export_prepared(prepared, plain_recipe, "fp32", folder / PLAIN_EXPORT, progress)
    result, optimized = export_prepared(prepared, prepared.recipe, "fp32", folder / "model.onnx", progress)
    notes = list(result.notes)
    tuned = {}
    for name in runtimes:
        progress(0, 1, f"export: tune for {name}")
        made = tune_for(name, optimized, folder / f"{name}.fp32.onnx")
        if made.sha256 != optimized.sha256:
            tuned[name] = made
    half = None
    try:
        progress(0, 1, "export: fp16")
        half = to_fp16(optimized, folder / "model.fp16.onnx")
    except StageError as error:
        notes.append(f"no FP16 file: {error}")
    return Sources(plain, optimized, torch_file, half, tuned, tuple(notes))


def torch_artifact(prepared: Prepared, path: Path) -> Artifact:
    """The model written as a file that the PyTorch runtime loads."""
    prepared.save(path)
    height, width = prepared.size
    image = TensorSpec("image", "float32", (1, 3, height, width))
    made_by = MadeBy(stage="checkpoint", parent=prepared.source_sha256)
    return Artifact.of(path, kind="torch", precision="fp32", inputs=(image,), outputs=(), made_by=made_by)


def float_variants(runtime: str, sources: Sources, target: Target, can: Capabilities) -> Iterator[Variant]:
    """The float variants of one runtime that runs here: its FP32 baselines, and what else the profile wants."""
    wanted = target.precisions(runtime)

    def variant(precision: str, artifact: Artifact, place: str = "", role: Role = "") -> Variant:
        settings = target.settings(runtime, precision)
        made = Variant(
            runtime=runtime, precision=precision, artifact=artifact, settings=settings, place=place, role=role
        )
        reason = can.obstacle(precision)
        return replace(made, status="not run", reason=reason) if reason else made

    if runtime == "pytorch":
        for precision in wanted:
            yield variant(precision, sources.torch, role="fp32" if precision == "fp32" else "")
        return
    best = sources.float_for(runtime)
    place = "model.onnx" if best.sha256 == sources.optimized.sha256 else target.place(runtime, "model.fp32.onnx")
    yield variant("fp32", sources.plain, role="fp32")
    yield variant("fp32", best, place, "optimised_fp32")
    if "bf16" in wanted:
        yield variant("bf16", best, place)
    if "fp16" in wanted and sources.half is not None:
        yield variant("fp16", sources.half, "model.fp16.onnx")


def int8_variants(
    runtime: str,
    sources: Sources,
    recipe: CalibrationRecipe,
    samples: Samples,
    target: Target,
    *,
    also_bf16: bool = False,
    progress: Progress = silent,
) -> Iterator[Variant]:
    """The INT8 artefact of `recipe`, with the rest of its graph in the type that the recipe says, or also in BF16."""
    made = quantize_cached(sources.float_for(runtime).path, samples, recipe, progress)
    path = made.artifact.path
    name = f"{path.stem}-bf16{path.suffix}" if recipe.rest == "bf16" else path.name
    base = Variant(
        runtime=runtime,
        precision="int8",
        artifact=made.artifact,
        settings=target.settings(runtime, "int8"),
        place=target.place(runtime, name),
        recipe=recipe.name,
        left_float=made.left_float,
        quantized_ops=made.quantized_ops,
        requires=recipe.requires,
        notes=made.notes,
    )
    if runtime == "tensorrt":
        yield engine_variant(base, target, progress)
        return
    if recipe.rest != "bf16":
        yield base
    if recipe.rest == "bf16" or also_bf16:
        settings = replace(base.settings, options={**base.settings.options, "float_precision": "bf16"})
        yield replace(base, settings=settings, recipe=f"{recipe.name}+bf16", optional=True)


def quantize_cached(model: Path, samples: Samples, recipe: CalibrationRecipe, progress: Progress = silent) -> Quantized:
    """The INT8 file of `model` by `recipe`, from the cache when the same was made before."""
    from mscsa_deploy.calibration.provenance import tool_versions
    from mscsa_deploy.calibration.quantizer import Quantized, quantize

    name = "model.int8.xml" if recipe.engine == "nncf" else "model.int8.onnx"
    recipe = recipe.of_the_file()
    used = samples.take(recipe.samples)

    def make(folder: Path) -> Quantized:
        label = f"INT8 for {recipe.runtime}"
        made = quantize(model, used, recipe, folder / name, lambda done, total, _: progress(done, total, label))
        return replace(made, artifact=relative(made.artifact, folder), ranges=None)

    tools = tool_versions("onnx", "onnxruntime", "numpy", "pillow", "nncf", "openvino")
    parts = {"model": model_digest(model), "samples": used.key, "recipe": to_json(recipe).decode(), "tools": tools}
    folder, made = cached("quantize", parts, Quantized, make)
    return replace(made, artifact=located(made.artifact, folder))


def half_variant_for_tensorrt(sources: Sources, target: Target, progress: Progress = silent) -> Variant | None:
    """The FP16 variant for TensorRT, the baseline its INT8 is compared with."""
    if sources.half is None:
        return None
    base = Variant(
        runtime="tensorrt",
        precision="fp16",
        artifact=sources.half,
        settings=target.settings("tensorrt", "fp16"),
        place=target.place("tensorrt", "model.fp16.onnx"),
    )
    return engine_variant(base, target, progress)


def engine_variant(base: Variant, target: Target, progress: Progress = silent) -> Variant:
    """`base` (an ONNX file for TensorRT) built into an engine, to be run where there is a GPU.

    Without one the row is "built, not run", and its accuracy is that of the ONNX file on ONNX Runtime.
    """
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.runtimes.tensorrt_build import build_engine, library

    source = base.artifact
    capabilities = target.profile.runtimes["tensorrt"].compute_capabilities
    progress(0, 1, f"building TensorRT {base.precision} for SM {', '.join(capabilities)}")

    def make(folder: Path) -> Artifact:
        engine = folder / source.path.with_suffix(".engine").name
        return relative(build_engine(source.path, engine, compute_capabilities=capabilities), folder)

    try:
        module = library()
        tools = {module.__name__: str(module.__version__)}
        parts = {"onnx": source.sha256, "compute_capabilities": capabilities, "tools": tools}
        folder, built = cached("engine", parts, Artifact, make)
    except UnsupportedError as error:
        return replace(base, status="not run", reason=str(error), source=source)
    except DeployError as error:
        return replace(base, status="failed", reason=str(error), source=source)
    made = replace(
        base,
        artifact=located(built, folder),
        source=source,
        details={
            "compute_capabilities": list(capabilities),
            "engine_bytes": (folder / built.path).stat().st_size,
            "engine_library": tools,
        },
    )
    can = RUNTIMES.load("tensorrt")().probe()
    if can.available and "cuda" in can.devices:
        return made
    return replace(made, status="built, not run", reason=can.reason or "no NVIDIA GPU on this machine")
