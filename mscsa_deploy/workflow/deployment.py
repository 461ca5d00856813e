"""The records of one deployment: what was asked, what was planned, what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mscsa_deploy.core.artifact import Artifact
from mscsa_deploy.core.report import Boundary, Decision, Report, Row, StageRecord
from mscsa_deploy.workflow.prepare import ModelRequest, Prepared

if TYPE_CHECKING:
    from mscsa_deploy.core.environment import Environment
    from mscsa_deploy.runtimes.profile import DeviceProfile
    from mscsa_deploy.workflow.evaluate import Evaluation, ImageSet
    from mscsa_deploy.workflow.mobile import MobileFiles
    from mscsa_deploy.workflow.variants import Variant


@dataclass(frozen=True, slots=True)
class Gate:
    """One check of one row.

    Args:
        subject: Which row.
        asked: What was asked of it.
        found: What came out.
        passed: Whether it holds.
        required: Whether the command fails when it does not.
    """

    subject: str
    asked: str
    found: str
    passed: bool
    required: bool

    def __str__(self) -> str:
        mark = "passed" if self.passed else "FAILED" if self.required else "not met"
        return f"{self.subject}: {self.asked}; {self.found} ({mark})"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployRequest(ModelRequest):
    """What to deploy and how to judge it.

    Args:
        calibration: Images that INT8 ranges are taken from.
        validation: Images that choices are scored on.
        evaluation: Images that the report quotes; touched once per artefact.
        runtimes: What to deploy for; the device profile's own list if None.
        device: Name or file of a device profile; this machine's if None.
        threads: Compute threads per session; the profile's if None.
        preset: How long latency is measured: ``quick`` or ``full``.
        max_drop: Largest accepted drop of the headline metric, in points.
        require_int8: Fail if no INT8 artefact passes.
        evaluation_images: At most so many evaluation images; None for all.
        calibration_images: At most so many calibration images; None for what the recipe asks for.
        recipes: Calibration recipes, by name or file, instead of the default ones of their runtimes.
        mobile: Whether to make files for phones as well.
        output: ``"classmap"`` ships files that end in the class map instead of files of logits, ``"logits"`` both
            where a class map inside the graph is faster; the recipe's if None.
        command: The command line, for the report.
    """

    calibration: str = "calibration"
    validation: str = "validation"
    evaluation: str = "evaluation"
    runtimes: tuple[str, ...] | None = None
    device: str | None = None
    threads: int | None = None
    preset: str = "quick"
    max_drop: float | None = None
    require_int8: bool = False
    evaluation_images: int | None = None
    calibration_images: int | None = None
    recipes: tuple[str, ...] | None = None
    mobile: bool = False
    output: Literal["logits", "classmap"] | None = None
    command: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment is going to do, decided before any of it is done.

    Args:
        profile: The device profile.
        why_profile: Why it is this one.
        runtimes: What to deploy for, in order.
        named: Whether the user named the runtimes.
        recipes: Calibration recipes of each runtime with INT8.
        environment: This machine.
    """

    profile: DeviceProfile
    why_profile: str
    runtimes: tuple[str, ...]
    named: bool
    recipes: dict[str, tuple[str, ...]]
    environment: Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything the stages found out.

    Args:
        prepared: The model.
        profile: The class of device it was deployed for.
        environment: The machine it was measured on.
        model: The optimized FP32 file, ``model.onnx`` of the bundle.
        variants: What was built, in the order of the report.
        scores: Evaluation of each variant; None where it could not be run.
        rows: Latency by position in `variants` and boundary.
        samples_dir: The raw samples of `rows`.
        images: Image sets by their use.
        stages: What ran before.
        settings: What was asked for.
        mobile: Files for phones, where they were asked for.
        decisions: What was decided on the way.
    """

    prepared: Prepared
    profile: DeviceProfile
    environment: Environment
    model: Artifact
    variants: tuple[Variant, ...]
    scores: tuple[Evaluation | None, ...]
    rows: Mapping[tuple[int, Boundary], Row]
    samples_dir: Path
    images: Mapping[str, ImageSet]
    stages: tuple[StageRecord, ...]
    settings: DeployRequest
    mobile: tuple[MobileFiles, ...] = ()
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A deployment that left its bundle.

    Args:
        report: What was found.
        gates: Every gate with its outcome.
        out: Where the bundle lies.
        exit_code: 0, or that of the gravest thing that went wrong (5 before 4 before 3).
    """

    report: Report
    gates: tuple[Gate, ...]
    out: Path
    exit_code: int
