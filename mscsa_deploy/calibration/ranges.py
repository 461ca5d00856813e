"""Activation ranges from calibration samples, one sample in memory at a time.

ONNX Runtime's own calibrators do the collecting; they are fed one sample per call because within a call they
keep every sample's results (onnxruntime#10503). The histogram ones also keep every tensor of the graph, so
those run over the graph in groups of tensors that fit a memory budget. see `histograms`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from mscsa_deploy.calibration.feeding import Feeder, open_session, quiet
from mscsa_deploy.calibration.histograms import histogram_ranges, tensor_groups
from mscsa_deploy.calibration.recipe import HISTOGRAM_OBSERVERS
from mscsa_deploy.core.progress import silent

if TYPE_CHECKING:
    from mscsa_deploy.calibration.quantizer import Ranges
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.calibration.source import Source
    from mscsa_deploy.core.progress import Progress


def collect_ranges(source: Source, samples: Samples, recipe: CalibrationRecipe, progress: Progress = silent) -> Ranges:
    """Lowest and highest value to represent, for every float activation of the graph.

    Args:
        source: The float model.
        samples: Already cut to the recipe's count.
        recipe: Names the observer and its settings.
        progress: Told after each sample.

    Raises:
        StageError: An activation is NaN or infinite (its node is named), or ONNX Runtime failed.
    """
    histogram = recipe.observer in HISTOGRAM_OBSERVERS
    groups = tensor_groups(source) if histogram else []
    total = len(samples) * (1 + len(groups))
    with tempfile.TemporaryDirectory(prefix="mscsa-ranges-") as folder:
        path = Path(folder) / "float.onnx"
        onnx.save(source.model, str(path))
        feeder = Feeder(source, samples, progress, total)
        ranges = _extremes(path, feeder, recipe)
        for group in groups:
            ranges.update(
                histogram_ranges(path, feeder, recipe, {name: ranges[name] for name in group if name in ranges})
            )
    return ranges


def _extremes(path: Path, feeder: Feeder, recipe: CalibrationRecipe) -> Ranges:
    """Lowest and highest value of every activation, over all samples or as a moving average."""
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    calibrator = MinMaxCalibrater(
        path,
        augmented_model_path=str(path.with_name("extremes.onnx")),
        moving_average=recipe.observer == "moving_average",
        averaging_constant=recipe.averaging,
    )
    feeder.feed(calibrator, open_session(calibrator, sums=True))
    with quiet():
        found = calibrator.compute_data().items()
    return {name: (float(np.min(data.lowest)), float(np.max(data.highest))) for name, data in sorted(found)}
