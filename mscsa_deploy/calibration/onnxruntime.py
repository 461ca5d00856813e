"""INT8 as a Q/DQ ONNX file, written by onnxruntime.quantization: for ONNX Runtime, OpenVINO and TensorRT."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from mscsa_deploy.calibration.bias import corrected
from mscsa_deploy.calibration.cache import cache_path, key_of, read_ranges, write_ranges
from mscsa_deploy.calibration.checks import check_listens
from mscsa_deploy.calibration.equalization import equalized
from mscsa_deploy.calibration.feeding import quiet
from mscsa_deploy.calibration.half import to_half_rest
from mscsa_deploy.calibration.placement import excluded, left_float, tensorrt_faults
from mscsa_deploy.calibration.pooling import pools_as_convs
from mscsa_deploy.calibration.provenance import describe, made_by, write_metadata
from mscsa_deploy.calibration.quantizer import Quantized
from mscsa_deploy.calibration.ranges import collect_ranges
from mscsa_deploy.calibration.samples import check_samples
from mscsa_deploy.calibration.source import HALF_SCALE_OPSET, PER_CHANNEL_OPSET, open_source
from mscsa_deploy.calibration.unfusing import unfuse
from mscsa_deploy.core.artifact import Artifact
from mscsa_deploy.core.files import cache_root, output_file
from mscsa_deploy.core.progress import silent
from mscsa_deploy.errors import StageError

if TYPE_CHECKING:
    from mscsa_deploy.calibration.quantizer import Ranges
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.calibration.source import Source
    from mscsa_deploy.core.progress import Progress

log = logging.getLogger(__name__)

# Marks a model as prepared for the writer, which logs a warning for every other.
PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")


class OnnxRuntimeQuantizer:
    """Ranges from ONNX Runtime's calibrators, Q/DQ pairs from its writer.

    Args:
        cache: Where calibrated ranges are kept between runs; the shared cache directory by default.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache_root() / "calibration" if cache is None else cache

    def quantize(
        self, model: Path, samples: Samples, recipe: CalibrationRecipe, out: Path, progress: Progress = silent
    ) -> Quantized:
        """Write the Q/DQ file at `out`; see `Quantizer.quantize`."""
        used = samples.take(recipe.samples)
        source = prepare(model, used, recipe)
        ranges = self.ranges(source, used, recipe, progress)
        return write(source, ranges, recipe, out, calibrated_on=used)

    def ranges(
        self, source: Source, samples: Samples, recipe: CalibrationRecipe, progress: Progress = silent
    ) -> Ranges:
        """The ranges of `source` on `samples`, from the cache when the same were collected before."""
        key = key_of(source, samples, recipe)
        kept = cache_path(self.cache, key)
        if kept.exists():
            log.info("ranges of %s taken from the cache", source.path.name)
            return read_ranges(kept, key)
        ranges = collect_ranges(source, samples, recipe, progress)
        write_ranges(kept, key, ranges)
        return ranges


def prepare(model: Path, samples: Samples, recipe: CalibrationRecipe) -> Source:
    """The float model as the writer will see it: checked, at the right opset, transformed as `recipe` says.

    Args:
        model: A float ONNX file.
        samples: Already cut to the recipe's count; bias correction takes its means from them.
        recipe: Says which transforms are wanted.

    Raises:
        UserError: Model or samples cannot be calibrated with.
    """
    source = open_source(model, opset=HALF_SCALE_OPSET if recipe.rest == "fp16" else PER_CHANNEL_OPSET)
    check_samples(samples, source.inputs)
    check_listens(source, samples.feed(samples.indices[0]), samples.feed(samples.indices[-1]))
    rules = excluded(source.model, recipe)
    if recipe.pools_as_convs:
        source, _ = pools_as_convs(source, rules)
    if recipe.equalize:
        source, _ = equalized(source)
    if recipe.bias_correction == "analytic":
        source, _ = corrected(source, samples, recipe, set(rules))
    return source


def write(source: Source, ranges: Ranges, recipe: CalibrationRecipe, out: Path, *, calibrated_on: Samples) -> Quantized:
    """Write the Q/DQ file for ranges that are known already: one calibration serves many placements.

    Args:
        source: The float model the ranges were taken on; see `prepare`.
        ranges: From `ranges.collect_ranges`.
        recipe: What to quantize and how.
        out: Where; must not exist.
        calibrated_on: The samples behind `ranges`, told in the file.

    Raises:
        StageError: The writer failed, or wrote what the recipe's runtime refuses.
    """
    rules = excluded(source.asked or source.model, recipe)
    written = _write_pairs(source, ranges, recipe, sorted(rules))
    if recipe.float_elementwise:
        rules |= unfuse(written, recipe)
    if recipe.runtime == "tensorrt" and (faults := tensorrt_faults(written)):
        raise StageError("quantize", source.title, f"TensorRT would refuse the file: {'; '.join(faults[:3])}")
    left, integer = left_float(written, recipe, rules)
    if integer == 0:
        raise StageError("quantize", source.title, f"recipe '{recipe.name}' leaves every operator float")
    if recipe.rest == "fp16":
        written = to_half_rest(written)
    write_metadata(written, source.metadata, describe(recipe, calibrated_on, source.sha256))
    onnx.checker.check_model(written)
    with output_file(out) as place:
        place.write_bytes(written.SerializeToString(deterministic=True))
    artifact = Artifact.of(
        out,
        kind="onnx",
        precision="int8",
        inputs=source.inputs,
        outputs=source.outputs,
        made_by=made_by(recipe, source.sha256, "onnx", "onnxruntime"),
    )
    log.info("quantized %s: %d operators on integers, %d float", out.name, integer, len(left))
    return Quantized(artifact, left, integer, ranges, len(calibrated_on), source.notes)


def _write_pairs(
    source: Source, ranges: Ranges, recipe: CalibrationRecipe, excluded_nodes: list[str]
) -> onnx.ModelProto:
    """The model with Q/DQ pairs, from the library's writer.

    The writer reads finished ranges from a calibration cache file, so placement needs no second calibration.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    kinds = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    with tempfile.TemporaryDirectory(prefix="mscsa-quantize-") as folder, quiet():
        place = Path(folder)
        prepared = onnx.ModelProto()
        prepared.CopyFrom(source.model)
        prepared.metadata_props.add(key=PREPARED[0], value=PREPARED[1])
        onnx.save(prepared, str(place / "float.onnx"))
        _save_ranges(ranges, place / "ranges.json")
        try:
            quantize_static(
                str(place / "float.onnx"),
                str(place / "int8.onnx"),
                None,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(recipe.op_types) or None,
                nodes_to_exclude=excluded_nodes,
                per_channel=recipe.per_channel,
                reduce_range=recipe.reduce_range,
                activation_type=kinds[recipe.activations],
                weight_type=kinds[recipe.weights],
                calibrate_method=CalibrationMethod.MinMax,
                calibration_cache_path=place / "ranges.json",
                extra_options={
                    "ActivationSymmetric": recipe.symmetric_activations,
                    "WeightSymmetric": recipe.weights == "int8",
                    "QuantizeBias": recipe.quantize_bias,
                    "AddQDQPairToWeight": recipe.pair_on_weights,
                    "DedicatedQDQPair": recipe.dedicated_pairs,
                    "ForceQuantizeNoInputCheck": recipe.force_unquantized_inputs,
                },
            )
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise StageError("quantize", source.title, f"{type(error).__name__}: {error}") from error
        return onnx.load(str(place / "int8.onnx"))


def _save_ranges(ranges: Ranges, path: Path) -> None:
    from onnxruntime.quantization.calibrate import (
        CalibrationMethod,
        TensorData,
        TensorsData,
        save_tensors_data,
    )

    data: dict[str, Any] = {
        name: TensorData(lowest=np.array([low], np.float32), highest=np.array([high], np.float32))
        for name, (low, high) in ranges.items()
    }
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), path)
