"""Do two graphs give the same numbers? Runs them node by node in ONNX Runtime, without its own rewriting."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from mscsa_deploy.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.core.tensors import Array, Feed, TensorSpec

# What rewriting may move outputs by, as a share of their range: it reorders float32 sums.
MAX_ERROR = 1e-5
# Integer outputs are class ids, which flip where two classes are equal up to rounding; the share that may.
MAX_FLIPPED = 1e-3
# Networks with saturated attention (untrained ones, mostly) amplify rounding beyond that. How much is measured
# on the graph itself, and this many times as much is allowed, up to a hundredfold of the limits above.
NOISE_FACTOR, MOST_NOISE = 8.0, 100.0


def make_feeds(inputs: Sequence[TensorSpec], count: int = 2, *, seed: int = 0) -> tuple[dict[str, Array], ...]:
    """Repeatable inputs: normal noise, then smooth fields as pictures have them, in turn.

    Args:
        inputs: float32, NCHW or any other layout; a free first axis becomes 1, 2, 1, ... in turn.
        count: How many.
        seed: Of the random numbers.
    """
    source = np.random.default_rng(seed)
    return tuple({spec.name: _draw(spec, number, source) for spec in inputs} for number in range(count))


def _draw(spec: TensorSpec, number: int, source: np.random.Generator) -> Array:
    shape = tuple(1 + number % 2 if size == -1 else size for size in spec.shape)
    if not np.issubdtype(np.dtype(spec.dtype), np.floating):
        return source.integers(0, 2, shape).astype(spec.dtype)
    if number % 2 == 0 or len(shape) < 2:
        return source.standard_normal(shape).astype(spec.dtype)
    # A sum of a few waves per channel: large areas of slowly changing values, within about +-2.
    rows, columns = np.meshgrid(*(np.linspace(0, 1, size) for size in shape[-2:]), indexing="ij")
    waves = source.uniform(-6, 6, (3, 3, *shape[:-2], 1, 1))
    field_ = sum(np.sin(wave[0] * rows + wave[1] * columns + wave[2]) for wave in waves)
    return (0.7 * np.asarray(field_)).astype(spec.dtype)


def run_graph(model: bytes, feeds: Sequence[Feed], *, optimized: bool = False) -> list[list[Array]]:
    """Outputs of the serialized ONNX `model` for each of `feeds`, in the graph's order.

    Args:
        model: With its weights inside.
        feeds: Inputs by name.
        optimized: Whether ONNX Runtime may fuse and reorder.

    Raises:
        StageError: ONNX Runtime cannot load or run it.
    """
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return [session.run(None, dict(feed)) for feed in feeds]
    except _vendor_errors() as error:
        raise StageError("run", "the graph in ONNX Runtime", str(error)) from error


def _vendor_errors() -> tuple[type[Exception], ...]:
    """Every exception class of ONNX Runtime; they have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*kinds, RuntimeError)


def distance(reference: Array, candidate: Array) -> float:
    """Largest absolute difference over the reference's range; for integers the share that differs.

    Infinite where shapes or types differ or a value is not finite on one side only.
    """
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        return float("inf")
    if not np.issubdtype(reference.dtype, np.floating):
        return float(np.mean(reference != candidate))
    if not np.isfinite(candidate).all():
        return float("inf")
    spread = float(reference.max() - reference.min()) or float(np.abs(reference).max()) or 1.0
    return float(np.abs(reference.astype(np.float64) - candidate.astype(np.float64)).max()) / spread


def rounding_noise(model: bytes, feeds: Sequence[Feed], reference: Sequence[Sequence[Array]]) -> float:
    """The largest distance that rounding alone makes between outputs of this graph.

    Two sources are tried: ONNX Runtime's own fusing and reordering, and inputs changed in their last bits.
    """
    source = np.random.default_rng(1)
    nudged = [{key: _nudge(value, source) for key, value in feed.items()} for feed in feeds]
    runs = (run_graph(model, feeds, optimized=True), run_graph(model, nudged))
    return max(
        distance(wanted, got)
        for results in runs
        for row, made in zip(reference, results, strict=True)
        for wanted, got in zip(row, made, strict=True)
    )


def _nudge(value: Array, source: np.random.Generator) -> Array:
    if not np.issubdtype(value.dtype, np.floating):
        return value
    last_bit = source.choice([-1, 0, 1], value.shape) * np.finfo(value.dtype).eps
    nudged: Array = (value * (1 + last_bit)).astype(value.dtype)
    return nudged


class SameNumbers:
    """Holds a graph's outputs and compares others with them; fits `graphs.rewrite.Verify`.

    Args:
        model: The serialized ONNX model that is right.
        feeds: Inputs to compare on.

    Raises:
        StageError: ONNX Runtime cannot run the model.
    """

    def __init__(self, model: bytes, feeds: Sequence[Feed]) -> None:
        self.model = model
        self.feeds = feeds
        self.reference = run_graph(model, feeds)

    @cached_property
    def noise(self) -> float:
        """The model's `rounding_noise`, measured when first needed."""
        return rounding_noise(self.model, self.feeds, self.reference)

    def worst(self, model: bytes) -> tuple[float, bool]:
        """The largest distance of `model` from the reference over all feeds, and whether each is allowed.

        Raises:
            StageError: ONNX Runtime cannot run it.
        """
        results = run_graph(model, self.feeds)
        distances = [
            (distance(wanted, got), MAX_ERROR if np.issubdtype(wanted.dtype, np.floating) else MAX_FLIPPED)
            for row, made in zip(self.reference, results, strict=True)
            for wanted, got in zip(row, made, strict=True)
        ]
        fine = all(
            gap <= limit or gap <= min(NOISE_FACTOR * self.noise, MOST_NOISE * limit) for gap, limit in distances
        )
        return max(gap for gap, _ in distances), fine

    def __call__(self, model: bytes, label: str) -> None:
        """Raise `StageError` naming `label` if `model` gives other numbers than the reference."""
        worst, fine = self.worst(model)
        if not fine:
            reason = f"it moved the outputs by {worst:.2e} of their range"
            raise StageError("rewrite", label, reason, hint="export with --no-optimize and report this")
