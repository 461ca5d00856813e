"""The graph passes of an optimized export, in the order in which they run.

Each entry is a pass class whose instances need no settings. Every one is exact up to float32 rounding, and
the exporter checks its numbers when it runs. `OPTIMIZATIONS` helps or hurts no runtime measurably more than
another; what helps one runtime and hurts another, or needs opset 20, is in `PER_RUNTIME`. Which is which was measured:
``benchmarks/results/graphs__*.json``. The segmentation tail is chosen by measuring on the device, see ``tail``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    ShapeInferencePass,
)

from mscsa_deploy.errors import unknown_name
from mscsa_deploy.graphs.accelerators import ForAccelerators
from mscsa_deploy.graphs.attention_layout import FlipMatMulTranspose
from mscsa_deploy.graphs.cleanup import DropNoOp
from mscsa_deploy.graphs.fold_attention_scale import FoldAttentionScale
from mscsa_deploy.graphs.fold_batch_norm import FoldBatchNorm
from mscsa_deploy.graphs.fold_depthwise import FoldDepthwiseScale
from mscsa_deploy.graphs.gelu import FuseGelu
from mscsa_deploy.graphs.intra_ffn import MergeStageDepthwise
from mscsa_deploy.graphs.linear import GemmToMatMul
from mscsa_deploy.graphs.merge_projections import MergeProjections
from mscsa_deploy.graphs.token_attention import AttentionToConvs
from mscsa_deploy.graphs.token_layout import MlpToConvs, PermuteMaps, SinkTokenReshape

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

OPTIMIZATIONS: tuple[type[ir.passes.InPlacePass], ...] = (
    ShapeInferencePass,
    IdentityEliminationPass,
    DropNoOp,
    CommonSubexpressionEliminationPass,
    FoldBatchNorm,
    FoldAttentionScale,
    FlipMatMulTranspose,
    MergeProjections,
    FoldDepthwiseScale,
    RemoveUnusedNodesPass,
    ShapeInferencePass,
)

PER_RUNTIME: Mapping[str, tuple[type[ir.passes.InPlacePass], ...]] = {
    "onnxruntime": (
        FuseGelu,
        MlpToConvs,
        AttentionToConvs,
        PermuteMaps,
        SinkTokenReshape,
        CommonSubexpressionEliminationPass,
        RemoveUnusedNodesPass,
        ShapeInferencePass,
    ),
    "openvino": (FuseGelu, MlpToConvs, GemmToMatMul, RemoveUnusedNodesPass, ShapeInferencePass),
    "tensorrt": (),
    "pytorch": (),
    "fake": (),
}

# Exact as well, but no faster on any runtime measured so far; benchmarks/graphs keeps measuring them.
CANDIDATES: tuple[type[ir.passes.InPlacePass], ...] = (MergeStageDepthwise,)

# What a file for phones' accelerators gets on top, whatever was chosen before.
FOR_ACCELERATORS: tuple[type[ir.passes.InPlacePass], ...] = (
    ShapeInferencePass,
    ForAccelerators,
    RemoveUnusedNodesPass,
)


def optimizations() -> tuple[ir.passes.InPlacePass, ...]:
    """Fresh instances of `OPTIMIZATIONS`, in order."""
    return tuple(kind() for kind in OPTIMIZATIONS)


def optimizations_for(runtime: str) -> tuple[ir.passes.InPlacePass, ...]:
    """Fresh instances of what `runtime` gets on top, in order; they run on a graph that had `optimizations`.

    Raises:
        UserError: No such runtime.
    """
    if runtime not in PER_RUNTIME:
        raise unknown_name("runtime", runtime, PER_RUNTIME)
    return tuple(kind() for kind in PER_RUNTIME[runtime])


def for_accelerators() -> tuple[ir.passes.InPlacePass, ...]:
    """Fresh instances of `FOR_ACCELERATORS`, in order."""
    return tuple(kind() for kind in FOR_ACCELERATORS)
