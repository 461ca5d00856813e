"""Ranges that need the distribution of values: percentile, entropy, least squared error.

ONNX Runtime's collector builds the histograms and picks percentile and entropy ranges. The choice by least
squared error is our own: the library has no such observer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from mscsa_deploy.calibration.feeding import open_session, quiet

if TYPE_CHECKING:
    from pathlib import Path

    from mscsa_deploy.calibration.feeding import Feeder
    from mscsa_deploy.calibration.quantizer import Ranges
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.source import Source
    from mscsa_deploy.core.tensors import Array

# Entropy walks its bins in Python: 512 keep a tensor under 0.2 s; 128 quantized bins stand for int8's half.
ENTROPY_BINS, ENTROPY_LEVELS = 512, 128
HISTOGRAM_BINS = 2048
GROUP_BYTES = 256 << 20
MSE_SHARES = [share / 100 for share in range(100, 29, -1)]


def tensor_groups(source: Source) -> list[list[str]]:
    """Float activations in groups whose values for one sample stay under `GROUP_BYTES`."""
    values = (*source.model.graph.value_info, *source.model.graph.output, *source.model.graph.input)
    groups: list[list[str]] = [[]]
    held = 0
    for value in {value.name: value for value in values}.values():
        tensor = value.type.tensor_type
        if tensor.elem_type != onnx.TensorProto.FLOAT:
            continue
        size = 4 * int(np.prod([max(dim.dim_value, 1) for dim in tensor.shape.dim]))
        if held + size > GROUP_BYTES and groups[-1]:
            groups.append([])
            held = 0
        groups[-1].append(value.name)
        held += size
    return groups


def histogram_ranges(path: Path, feeder: Feeder, recipe: CalibrationRecipe, extremes: Ranges) -> Ranges:
    """Ranges of the tensors in `extremes`, chosen from their histograms as `recipe.observer` says.

    Args:
        path: The float model.
        feeder: Passes the samples.
        recipe: Observer and settings.
        extremes: Lowest and highest value of each tensor to look at, over all samples.
    """
    entropy = recipe.observer == "entropy"
    calibrator = _calibrator(path, recipe, extremes, ENTROPY_BINS if entropy else HISTOGRAM_BINS)
    feeder.feed(calibrator)
    if recipe.observer == "mse":
        levels = 127 if recipe.symmetric_activations else 255
        return {
            name: least_squares_range(hist, edges, float(low), float(high), levels=levels)
            for name, (hist, edges, low, high, _) in sorted(calibrator.collector.histogram_dict.items())
        }
    with quiet():
        found = calibrator.collector.compute_collection_result().items()
    return {name: (float(entry[0]), float(entry[1])) for name, entry in sorted(found)}


def _calibrator(path: Path, recipe: CalibrationRecipe, extremes: Ranges, bins: int) -> Any:
    """The library's histogram calibrator, restricted to some tensors, its bins fixed beforehand."""
    from onnxruntime.quantization.calibrate import HistogramCalibrater, HistogramCollector

    class SomeTensors(HistogramCalibrater):  # type: ignore[misc]  # the library is untyped
        """Looks at the tensors of `extremes` instead of all of them."""

        def select_tensors_to_calibrate(self, model: Any) -> Any:
            tensors, infos = super().select_tensors_to_calibrate(model)
            return {name for name in tensors if name in extremes}, infos

        def compute_data(self) -> Any:
            return self.collector.compute_collection_result()

    settings: dict[str, Any] = {
        "method": "entropy" if recipe.observer == "entropy" else "percentile",
        "symmetric": False,
        "num_bins": bins,
        "num_quantized_bins": ENTROPY_LEVELS,
        "percentile": recipe.percentile,
    }
    calibrator = SomeTensors(path, augmented_model_path=str(path.with_name("histogram.onnx")), **settings)
    open_session(calibrator)
    calibrator.collector = HistogramCollector(**settings, scenario="same")
    # Grown from the first sample, a tensor that happened to be almost zero there gets millions of bins.
    for name, ends in sorted(extremes.items()):
        low, high = (np.float32(value) for value in ends)
        limit = np.float32(max(abs(low), abs(high)))
        edges = np.linspace(-limit, limit, bins + 1, dtype=np.float32)
        calibrator.collector.histogram_dict[name] = (np.zeros(bins, np.int64), edges, low, high, limit)
    return calibrator


def least_squares_range(hist: Array, edges: Array, low: float, high: float, *, levels: int) -> tuple[float, float]:
    """The range inside [low, high] whose quantization error, clipping included, has the least mean square.

    Args:
        hist: Counts per bin.
        edges: Bin edges, one more than counts.
        low: Lowest value seen.
        high: Highest value seen.
        levels: Steps between the ends: 255 asymmetric, 127 for each half of a symmetric range.

    Returns:
        The range; each end is a fraction (30 to 100 %) of what was seen, and zero stays inside.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    kept = hist > 0
    centers = ((edges[:-1] + edges[1:]) / 2)[kept].astype(np.float64)
    weights = hist[kept].astype(np.float64)
    symmetric = levels == 127

    def error(bottom: float, top: float) -> float:
        if symmetric:
            top = max(-bottom, top)
            bottom = 0.0
        step = (top - bottom) / levels
        if step <= 0:
            return float("inf")
        floor = -top if symmetric else bottom
        rounded = np.clip(np.round(centers / step) * step, floor, top)
        return float((weights * (centers - rounded) ** 2).sum())

    best = (low, high)
    # One end at a time, twice: the ends interact only through the step, so this settles.
    for _ in range(2):
        best = min(((low * share, best[1]) for share in MSE_SHARES), key=lambda ends: error(*ends))
        best = min(((best[0], high * share) for share in MSE_SHARES), key=lambda ends: error(*ends))
    return best
