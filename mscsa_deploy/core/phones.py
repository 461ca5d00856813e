"""The report's records of files for phones."""

from __future__ import annotations

from typing import Literal

from mscsa_deploy.core.config import Record


class MobileVerdict(Record, frozen=True, kw_only=True):
    """What ONNX Runtime's usability checker says about one execution provider of phones.

    Args:
        provider: As the checker calls it, e.g. ``NNAPI``.
        suited: Whether it thinks that the provider helps; ``unknown`` where it says nothing.
        nodes: Nodes of the model.
        supported: Those which the provider takes.
        partitions: Nodes in each piece that the provider takes; between them the CPU works.
        unsupported: Operators it lacks, with their domain.
        dynamic_nodes: Nodes it refuses because a shape depends on data.
        blocker: The first node in execution order with an operator it lacks, as ``name (operator)``.
        advice: The checker's own sentence, if it gives one.
    """

    provider: str
    suited: Literal["yes", "maybe", "no", "unknown"]
    nodes: int | None = None
    supported: int | None = None
    partitions: tuple[int, ...] = ()
    unsupported: tuple[str, ...] = ()
    dynamic_nodes: int = 0
    blocker: str = ""
    advice: str = ""


MadeFor = Literal["processor", "accelerators"]


class MobileModel(Record, frozen=True, kw_only=True):
    """One artefact in ONNX Runtime's own format, and who on a phone could run it.

    Args:
        artifact: The ONNX file of the bundle that it was made from.
        precision: Of that file.
        made_for: ``accelerators`` where it was rewritten with operators that they have, and its verdicts tell of that
            graph; ``processor`` where it was optimized for ARM, and its verdicts tell of the ONNX file.
        status: ``failed`` if it could not be made, or does not answer as the ONNX file does.
        reason: Why it failed.
        path: The .ort file inside the bundle.
        operators: The file beside it that lists operators and types, for a reduced build of ONNX Runtime.
        size_bytes: Of the .ort file.
        max_abs_over_range: Largest difference to the ONNX file as this machine runs it, over the output's range;
            with the optimizations of the .ort file, the graph it was made of gives the same bits.
        verdicts: One per execution provider.
    """

    artifact: str
    precision: str
    made_for: MadeFor = "processor"
    status: Literal["ok", "failed"] = "ok"
    reason: str = ""
    path: str = ""
    operators: str = ""
    size_bytes: int | None = None
    max_abs_over_range: float | None = None
    verdicts: tuple[MobileVerdict, ...] = ()
