"""Files for phones as text: what each is, and which accelerator would take the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mscsa_deploy.reporting.cells import size

if TYPE_CHECKING:
    from mscsa_deploy.core.phones import MobileModel, MobileVerdict
    from mscsa_deploy.core.report import Report

HEADING = "On phones"
COLUMNS = ("Execution provider", "Suited", "Nodes taken", "Partitions", "First node it lacks")
_UNKNOWN = "not known to ONNX Runtime's checker"


@dataclass(frozen=True, slots=True)
class MobileTable:
    """One artefact for phones.

    Args:
        title: The .ort file, or the ONNX file that none could be made of.
        lead: What it is, in a sentence.
        rows: One per execution provider, with the cells of `COLUMNS`.
    """

    title: str
    lead: str
    rows: tuple[tuple[str, ...], ...]


def mobile_tables(report: Report) -> list[MobileTable]:
    """One table per artefact, in the report's order."""
    return [MobileTable(model.path or model.artifact, _lead(model), _rows(model)) for model in report.mobile]


def in_a_line(model: MobileModel) -> str:
    """The artefact and its verdicts in one line, for a terminal."""
    if model.status == "failed":
        return f"{model.artifact}: {_lead(model)}"
    verdicts = ", ".join(f"{verdict.provider} {verdict.suited}" for verdict in model.verdicts)
    return f"{model.path}: {verdicts}"


def _lead(model: MobileModel) -> str:
    if model.status == "failed":
        return f"no .ort file: {model.reason}"
    if model.made_for == "accelerators":
        return (
            f"{size(model.size_bytes)}, {model.artifact} with operators that accelerators have, and not optimized for "
            f"the processor; {model.max_abs_over_range or 0:.1e} of the range from what this machine computes with "
            f"that file. Operators for a reduced build: {model.operators}"
        )
    return (
        f"{size(model.size_bytes)}, made from {model.artifact} and, with the optimizations for ARM, equal to it bit by "
        f"bit; as this machine optimizes that file, {model.max_abs_over_range or 0:.1e} of the range apart. "
        f"Operators for a reduced build: {model.operators}"
    )


def _rows(model: MobileModel) -> tuple[tuple[str, ...], ...]:
    return tuple(_row(verdict) for verdict in model.verdicts)


def _row(verdict: MobileVerdict) -> tuple[str, ...]:
    if verdict.suited == "unknown":
        return (verdict.provider, _UNKNOWN, "", "", "")
    taken = f"{verdict.supported} of {verdict.nodes}"
    blocker = verdict.blocker or (f"{verdict.dynamic_nodes} of a dynamic shape" if verdict.dynamic_nodes else "")
    return (verdict.provider, verdict.suited, taken, str(len(verdict.partitions)), blocker)
