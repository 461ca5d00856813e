"""The graph passes of an optimized export, in the order in which they run.

Each entry is a pass class whose instances need no settings. Every one is exact up to float32 rounding, and
the exporter checks its numbers when it runs; what depends on the runtime or must be measured (the layout of
the segmentation tail, say) is no entry here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
)

from mscsa_deploy.graphs.cleanup import DropNoOp

if TYPE_CHECKING:
    import onnx_ir as ir

OPTIMIZATIONS: tuple[type[ir.passes.InPlacePass], ...] = (
    IdentityEliminationPass,
    DropNoOp,
    CommonSubexpressionEliminationPass,
    RemoveUnusedNodesPass,
)


def optimizations() -> tuple[ir.passes.InPlacePass, ...]:
    """Fresh instances of `OPTIMIZATIONS`, in order."""
    return tuple(kind() for kind in OPTIMIZATIONS)
