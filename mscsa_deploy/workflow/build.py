"""Every artefact of a deployment: plain and optimized FP32, FP16, INT8 per runtime, TensorRT engines."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import DeployError, UnsupportedError
from mscsa_deploy.workflow.variants import Variant

if TYPE_CHECKING:
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.runtimes.profile import DeviceProfile
    from mscsa_deploy.runtimes.protocol import Capabilities, SessionSettings
    from mscsa_deploy.workflow.prepare import Prepared

logger = logging.getLogger(__name__)

ON_CPU = ("onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Sources:
    """The float files that everything else is made from.

    Args:
        plain: Traced and simplified, no graph pass: the honest baseline.
        optimized: After the graph passes; ``model.onnx`` of the bundle.
        torch: The model as PyTorch runs it; None for a foreign ONNX file.
        half: The FP16 file; None if it was not wanted or could not be made.
    """

    plain: Artifact
    optimized: Artifact
    torch: Artifact | None
    half: Artifact | None


@dataclass(frozen=True, slots=True)
class Target:
    """For which device and how things are built.

    Args:
        profile: The class of device.
        threads: Compute threads of every session.
        folder: Where artefacts are written; its layout is the bundle's.
    """

    profile: DeviceProfile
    threads: int
    folder: Path

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

    def variant(precision: str, artifact: Artifact, **more: object) -> Variant:
        settings = target.settings(runtime, precision)
        return Variant(runtime=runtime, precision=precision, artifact=artifact, settings=settings, **more)  # type: ignore[arg-type]  # the dataclass's own fields

    if runtime == "pytorch":
        if sources.torch is not None:
            for precision in wanted:
                role = "fp32" if precision == "fp32" else ""
                yield _if_possible(variant(precision, sources.torch, role=role), can)
        return
    if sources.plain.sha256 != sources.optimized.sha256:
        yield variant("fp32", sources.plain, role="fp32")
        yield variant("fp32", sources.optimized, place="model.onnx", role="optimised_fp32")
    else:
        yield variant("fp32", sources.optimized, place="model.onnx", role="fp32")
    if "bf16" in wanted:
        yield _if_possible(variant("bf16", sources.optimized, place="model.onnx"), can)
    if "fp16" in wanted and sources.half is not None:
        yield _if_possible(variant("fp16", sources.half, place="model.fp16.onnx"), can)


def _if_possible(variant: Variant, can: Capabilities) -> Variant:
    """The variant, marked as not run where this machine cannot execute its precision."""
    if variant.precision in can.precisions:
        return variant
    reason = f"this machine cannot execute {variant.precision} through {variant.runtime}"
    return replace(variant, status="not run", reason=reason)


def int8_variants(
    runtime: str,
    sources: Sources,
    recipe: CalibrationRecipe,
    samples: Samples,
    target: Target,
    *,
    progress: Progress = silent,
) -> Iterator[Variant]:
    """The INT8 artefact of `recipe`, in each arithmetic that the rest of its graph may run in."""
    from mscsa_deploy.calibration.quantizer import quantize

    suffix = "xml" if recipe.engine == "nncf" else "onnx"
    place = target.place(runtime, f"model.int8.{suffix}")
    path = target.folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    made = quantize(
        sources.optimized.path, samples, recipe, path, lambda d, t, _: progress(d, t, f"INT8 for {runtime}")
    )
    base = Variant(
        runtime=runtime,
        precision="int8",
        artifact=made.artifact,
        settings=target.settings(runtime, "int8"),
        place=place,
        recipe=recipe.name,
        left_float=made.left_float,
        quantized_ops=made.quantized_ops,
        requires=recipe.requires,
        notes=made.notes,
    )
    if runtime == "tensorrt":
        yield engine_variant(base, target, progress)
        return
    yield base
    if runtime == "openvino" and "bf16" in target.precisions(runtime):
        settings = replace(base.settings, options={**base.settings.options, "float_precision": "bf16"})
        yield replace(base, settings=settings, recipe=f"{recipe.name}+bf16")


def half_variant_for_tensorrt(sources: Sources, target: Target, progress: Progress = silent) -> Variant | None:
    """The FP16 variant for TensorRT, the baseline its INT8 is compared with."""
    if sources.half is None:
        return None
    place = target.place("tensorrt", "model.fp16.onnx")
    path = target.folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sources.half.path, path)
    base = Variant(
        runtime="tensorrt",
        precision="fp16",
        artifact=replace(sources.half, path=path),
        settings=target.settings("tensorrt", "fp16"),
        place=place,
    )
    return engine_variant(base, target, progress)


def engine_variant(base: Variant, target: Target, progress: Progress = silent) -> Variant:
    """`base` (an ONNX file for TensorRT) built into an engine, to be run where there is a GPU.

    Without one the row is "built, not run", and its accuracy is that of the ONNX file on ONNX Runtime.
    """
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.runtimes.tensorrt_build import build_engine

    entry = target.profile.runtimes["tensorrt"]
    source = base.artifact
    engine = source.path.with_suffix(".engine")
    capabilities = entry.compute_capabilities
    progress(0, 1, f"building TensorRT {base.precision} for SM {', '.join(capabilities)}")
    try:
        built = build_engine(source.path, engine, compute_capabilities=capabilities)
    except UnsupportedError as error:
        return replace(base, status="not run", reason=str(error), judged_by=source)
    except DeployError as error:
        return replace(base, status="failed", reason=str(error), judged_by=source)
    made = replace(
        base,
        artifact=built,
        place=Path(base.place).with_suffix(".engine").as_posix(),
        judged_by=source,
        details={"compute_capabilities": list(capabilities), "onnx": base.place},
    )
    can = RUNTIMES.load("tensorrt")().probe()
    if can.available and "cuda" in can.devices:
        return made
    return replace(made, status="built, not run", reason=can.reason or "no NVIDIA GPU on this machine")
