"""One thing that can be shipped and run: an artefact, on a runtime, in a precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from mscsa_deploy.core.artifact import Artifact, model_bytes
from mscsa_deploy.core.report import Boundary, Status

if TYPE_CHECKING:
    from mscsa_deploy.calibration.quantizer import LeftFloat
    from mscsa_deploy.runtimes.protocol import SessionSettings

Role = Literal["", "fp32", "optimised_fp32"]
MODEL = "model.onnx"
"""Where a bundle has the FP32 file for any runtime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """An artefact as one runtime would run it.

    Args:
        runtime: Name in `RUNTIMES`.
        precision: Of the row: what the artefact stores, or ``"bf16"`` for a runtime's own arithmetic.
        artifact: The file.
        settings: How its session is made.
        place: Path of the shipped file inside the bundle; empty when it is measured but not shipped.
        source: The file that is shipped instead of `artifact`: the ONNX file that a TensorRT engine was built
            from. Engines are large and bound to a library version, so they are built where they run.
        answering: The same network with upsampling and argmax inside the graph: what is measured from picture to
            class map, and shipped beside `artifact`. None where the light runner's own is faster, or there is none.
        answer_place: Path of `answering` inside the bundle.
        only_answer: Whether `answering` is shipped instead of `artifact`.
        role: What it is to the other rows of its runtime: the plain FP32 export, or the optimized one.
        recipe: Name of the calibration recipe; empty for float.
        left_float: What an INT8 artefact still computes in float.
        quantized_ops: How many operators compute in integers.
        requires: Instruction sets without which results or speed differ.
        status: ``"ok"`` while it can be run here.
        reason: Why it cannot.
        optional: A further arithmetic that was tried on its own account; where the runtime cannot compile it,
            the row is "not run" rather than failed.
        notes: Facts for the report.
    """

    runtime: str
    precision: str
    artifact: Artifact
    settings: SessionSettings
    place: str = ""
    source: Artifact | None = None
    answering: Artifact | None = None
    answer_place: str = ""
    only_answer: bool = False
    role: Role = ""
    recipe: str = ""
    left_float: tuple[LeftFloat, ...] = ()
    quantized_ops: int = 0
    requires: tuple[str, ...] = ()
    status: Status = "ok"
    reason: str = ""
    optional: bool = False
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def shipped(self) -> Artifact:
        """The file that goes into the bundle."""
        return self.source or self.artifact

    @property
    def places(self) -> dict[str, Artifact]:
        """What of it is shipped, by path inside the bundle."""
        found = {} if self.only_answer or not self.place else {self.place: self.shipped}
        return found | ({self.answer_place: self.answering} if self.answering else {})

    def at(self, boundary: Boundary) -> Variant:
        """What runs at `boundary`: from picture to answer the class-map file, where there is one."""
        if self.answering is None:
            return self
        place = self.answer_place if self.only_answer or boundary == "end_to_end" else self.place
        return replace(self, artifact=self.answering if boundary == "end_to_end" else self.artifact, place=place)

    @property
    def label(self) -> str:
        """The variant in a few words, for progress and messages."""
        suffix = " (plain export)" if self.role == "fp32" else ""
        return f"{self.runtime} {self.precision}{suffix}"

    @property
    def size_bytes(self) -> int:
        """Of the shipped file, with the weights beside it."""
        return model_bytes(self.answering.path if self.answering and self.only_answer else self.shipped.path)


def shipped_files(model: Artifact, variants: Iterable[Variant]) -> dict[str, Artifact]:
    """Every model file of a bundle by its path: those of the variants, and FP32 logits for any runtime.

    Where class maps alone were asked for, and the float network ends in one, that takes the place of the logits.

    Args:
        model: The optimized FP32 file of logits.
        variants: Everything that was built.
    """
    built = [variant for variant in variants if variant.status != "failed"]
    found = {place: artifact for variant in built for place, artifact in variant.places.items()}
    maps = any(variant.only_answer and variant.precision == "fp32" for variant in built)
    return found if maps else {MODEL: model, **found}
