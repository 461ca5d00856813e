"""One model as the tools after export see it, with every way to run it; `opening.open_subject` makes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.artifact import Artifact
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import UserError
from mscsa_deploy.workflow.variants import Role, Variant

if TYPE_CHECKING:
    from mscsa_deploy.core.vocabulary import Task
    from mscsa_deploy.imaging.preprocess import Preprocess
    from mscsa_deploy.runtimes.profile import DeviceProfile


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
        classes: Of its output; 0 if not known.
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
    task: Task
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
            UserError: There is no FP32 ONNX file, or none without a tail.
        """
        found = [each for each in self.variants if each.precision == "fp32" and each.artifact.kind == "onnx"]
        found = [each for each in found if each.artifact.outputs[0].name != "classmap"]
        mine = [each for each in found if each.runtime == runtime] or found
        if not mine:
            raise UserError(
                f"'{self.name}' has no FP32 ONNX file to quantize", hint="name the float model or its ONNX file"
            )
        return max(mine, key=lambda each: each.role == "optimised_fp32")


def variant_here(
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
    """`artifact` on `runtime`, marked as not run where this machine cannot run it."""
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
    reason = implementation.probe().obstacle(precision)
    if not reason and artifact.kind not in implementation.accepts:
        reason = f"{runtime} runs built engines and this is their source; 'deploy' on this machine builds them"
    return replace(made, status="not run", reason=reason) if reason else made
