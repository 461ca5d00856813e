"""Where a candidate that failed its gate parts ways with the reference: the node, and how far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mscsa_deploy.core.config import Record
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import ParityNumbers

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Feed
    from mscsa_deploy.parity.compare import Parity
    from mscsa_deploy.parity.opened import Side
    from mscsa_deploy.parity.tolerance import Tolerance
    from mscsa_deploy.workflow.contest import Contest
    from mscsa_deploy.workflow.contestants import Contestant

FLOAT_LIMIT = 1e-3
"""Where FP32 tensors differ by more than this share of their range, that is no rounding any more."""
HIDDEN_DB = 6.0
"""An output that is so much better while all tensors are given out has lost its fault by that."""
QDQ_RECIPE = "int8_openvino_qdq"
"""OpenVINO's INT8 as an ONNX file."""


class DivergenceRecord(Record, frozen=True, kw_only=True):
    """The node at which a candidate parts ways with the reference: the first, or in INT8 the one that costs most.

    Args:
        subject: The candidate.
        against: What it was held against; the reference, or a candidate that passed where that is no ONNX file.
        found: Whether a node was found.
        first: Whether it is the first that diverges; else it is the one that costs most.
        node: Its name in the reference.
        op: Its type.
        tensor: What it computes.
        parity: How far that differs; in INT8 from what the reference computes of the same values.
        limit: What counted as differing; in INT8 what the node's noise alone does to the output, and the next node's.
        agreeing: The compared tensors right before it, which agree; in INT8 those that add less noise.
        steps: How many runs it took, pairs of them in float.
        reason: Why none was found.
    """

    subject: str
    against: str = ""
    found: bool = False
    first: bool = True
    node: str = ""
    op: str = ""
    tensor: str = ""
    parity: ParityNumbers | None = None
    limit: str = ""
    agreeing: tuple[str, ...] = ()
    steps: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """A candidate that did not pass, and how far its first output lies off."""

    contestant: Contestant
    parity: Parity


def find_divergence(
    failed: Failed,
    contest: Contest,
    passed: Sequence[Contestant],
    *,
    work: Path,
    progress: Progress = silent,
) -> DivergenceRecord:
    """The first node of `failed` that computes something else than the reference does; in INT8 the costliest.

    Args:
        failed: What is searched.
        contest: Gives the reference and the images; the worst ones are searched on.
        passed: Candidates that passed; one of them stands in for a reference that is no ONNX file.
        work: Directory for files with extra outputs.
        progress: Told each step.
    """
    from mscsa_deploy.parity.opened import Side
    from mscsa_deploy.workflow.contest import runner

    candidate = failed.contestant
    against = _stand_in(contest.reference, candidate, passed)
    reason = _obstacle(failed, against)
    if reason or against is None:
        return DivergenceRecord(subject=candidate.name, reason=reason)
    images = contest.images()
    worst = dict.fromkeys(int(image.name) for image in failed.parity.worst)
    pictures = [{"picture": images.dataset.load(index)[0]} for index in worst]
    sides = Side(against.path, runner(against, contest)), Side(candidate.path, runner(candidate, contest))
    find = _noisiest if candidate.arithmetic == "int8" else _first
    found = find(failed, sides, pictures, work, progress)
    return msgspec.structs.replace(found, against=against.name)


def _first(
    failed: Failed, sides: tuple[Side, Side], pictures: Sequence[Feed], work: Path, progress: Progress
) -> DivergenceRecord:
    """The first node whose output differs by more than rounding."""
    from mscsa_deploy.parity.bisect import first_divergence

    subject = failed.contestant.name
    tolerance = search_limit(failed.parity, failed.contestant.arithmetic)
    limit = ", ".join(f"{metric} {value:.3g}" for metric, value in tolerance.limits().items())
    found = first_divergence(*sides, pictures, tolerance, work=work, progress=progress)
    if found is None:
        reason = "on the worst images the outputs agree within the limit"
        return DivergenceRecord(subject=subject, limit=limit, reason=reason)
    return DivergenceRecord(
        subject=subject,
        found=True,
        node=found.node,
        op=found.op,
        tensor=found.tensor,
        parity=found.parity.numbers(),
        limit=limit,
        agreeing=found.agreeing,
        steps=found.steps,
    )


def _noisiest(
    failed: Failed, sides: tuple[Side, Side], pictures: Sequence[Feed], work: Path, progress: Progress
) -> DivergenceRecord:
    """The node whose own rounding costs the output most: every tensor of INT8 differs, so the first says nothing."""
    from mscsa_deploy.parity.noise import noisiest_node

    subject = failed.contestant.name
    found = noisiest_node(*sides, pictures, work=work, progress=progress)
    if found is None:
        return DivergenceRecord(subject=subject, reason="on the worst images no node adds noise that the output shows")
    measured, opened = failed.parity.sqnr_db, found.opened.sqnr_db
    if measured is not None and opened is not None and opened > measured + HIDDEN_DB:
        reason = (
            f"with its tensors given out the output is better ({opened:.1f} dB, {measured:.1f} dB without), so the "
            f"fault lies in what {failed.contestant.runtime} fuses"
        )
        return DivergenceRecord(subject=subject, reason=reason)
    after = f", that of '{found.next_node}' at {found.next_db:.1f} dB" if found.next_node else ""
    return DivergenceRecord(
        subject=subject,
        found=True,
        first=False,
        node=found.node,
        op=found.op,
        tensor=found.tensor,
        parity=found.own.numbers(),
        limit=f"its noise alone leaves the output at {found.output_db:.1f} dB{after}",
        agreeing=found.quieter,
        steps=found.steps,
    )


def _stand_in(reference: Contestant, candidate: Contestant, passed: Sequence[Contestant]) -> Contestant | None:
    """An ONNX file with the right answers: the reference itself, or a float candidate that passed."""
    if reference.kind == "onnx":
        return reference
    good = [each for each in passed if each.kind == "onnx" and each.arithmetic == "fp32" and each is not candidate]
    return good[0] if good else None


def _obstacle(failed: Failed, against: Contestant | None) -> str:
    """Why the search cannot be done; empty if it can."""
    if failed.contestant.kind != "onnx":
        return f"only ONNX files can be opened up, and this one is of kind {failed.contestant.kind}{_way_out(failed)}"
    if against is None:
        return "the reference is no ONNX file and no FP32 ONNX candidate passed; export it and name the file"
    if failed.parity.max_abs is None:
        return "class maps hide how far values are off; export both with --output logits"
    return ""


def _way_out(failed: Failed) -> str:
    """What to bisect in place of a file that cannot be opened up; empty where nothing is like it."""
    if failed.contestant.kind != "openvino":
        return ""
    if failed.contestant.arithmetic == "int8":
        return f"; 'quantize --for openvino --recipe {QDQ_RECIPE}' makes one that can, with the same kind of integers"
    return "; name the ONNX file that it was made from, with --runtime openvino"


def search_limit(parity: Parity, arithmetic: str) -> Tolerance:
    """What counts as differing inside a float network, given how far its output is off.

    The limit is half of the output's error, at most `FLOAT_LIMIT` in FP32.
    """
    from mscsa_deploy.parity.tolerance import Tolerance

    off = parity.max_abs_over_range or 0.0
    half = off / 2 if 0.0 < off < 1e6 else FLOAT_LIMIT
    limit = min(half, FLOAT_LIMIT) if arithmetic == "fp32" else half
    return Tolerance(max_abs_over_range=limit, why="rounding that adds up stays below half of the output's error")
