"""Runs graph passes and trusts none of them.

After every pass the model must be valid, have the inputs and outputs it had before, and use standard ops
only; whether it changed is seen from its content. Who can run graphs passes `verify`, which is called after
every pass that changed something and compares numbers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import onnx
import onnx_ir as ir
from onnx_ir.passes import InvariantError, PassError

from mscsa_deploy.core.progress import silent
from mscsa_deploy.errors import StageError
from mscsa_deploy.graphs.check import foreign_ops, signature, to_bytes
from mscsa_deploy.graphs.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.core.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What one pass did.

    Args:
        name: Class name of the pass.
        nodes_before: Nodes in the main graph before it ran.
        nodes_after: Nodes in the main graph after it ran.
        changed: Whether anything in the model differs.
    """

    name: str
    nodes_before: int
    nodes_after: int
    changed: bool


class Verify(Protocol):
    """Compares numbers; raises `StageError` naming `label` when they moved."""

    def __call__(self, model: bytes, label: str) -> None:
        """Check the serialized `model` that the pass `label` has just left."""


def rewrite(
    model: ir.Model,
    passes: Sequence[ir.passes.InPlacePass],
    *,
    verify: Verify | None = None,
    progress: Progress = silent,
) -> tuple[PassRecord, ...]:
    """Run `passes` in order on `model`, in place; one record each.

    Args:
        model: Changed in place; after an error its state is undefined.
        passes: In the order given; each runs once.
        verify: Called with the serialized model after every pass that changed it.
        progress: Called once per pass.

    Raises:
        StageError: A pass failed, left an invalid graph, changed the signature, brought in a foreign op,
            or moved the numbers; the message names it.
    """
    before_all = signature(model)
    digests = Digest()
    digest = digests.of(model)
    records = []
    for done, step in enumerate(passes):
        name = type(step).__name__
        progress(done, len(passes), name)
        nodes = len(model.graph)
        _run(step, model, name)
        previous, digest = digest, digests.of(model)
        record = PassRecord(name, nodes, len(model.graph), changed=digest != previous)
        records.append(record)
        logger.debug("%s", record)
        if not record.changed:
            continue
        data = to_bytes(model)
        _check(model, data, name)
        if signature(model) != before_all:
            raise StageError(
                "rewrite", name, f"it changed the inputs or outputs from {before_all} to {signature(model)}"
            )
        if verify is not None:
            verify(data, name)
    return tuple(records)


def _run(step: ir.passes.InPlacePass, model: ir.Model, name: str) -> None:
    try:
        step(model)
    except (PassError, InvariantError) as error:
        cause = error.__cause__ or error
        raise StageError("rewrite", name, str(cause)) from error


def _check(model: ir.Model, data: bytes, name: str) -> None:
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError("rewrite", name, f"it left an invalid graph: {error}") from error
    if foreign := foreign_ops(model):
        raise StageError("rewrite", name, f"it left ops outside ai.onnx: {', '.join(foreign)}")
