"""What every quantizer takes and gives, and the table of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mscsa_deploy.core.artifact import Artifact
from mscsa_deploy.core.progress import silent
from mscsa_deploy.core.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.core.progress import Progress

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class LeftFloat:
    """One operator that the INT8 file still computes in float, and why.

    Args:
        node: Its name in the graph.
        op: Its type in the file's own vocabulary (``Softmax`` in ONNX, ``SoftMax`` in OpenVINO).
        reason: A recipe's rule, an engine's limit, or "nothing around it is quantized".
    """

    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class Quantized:
    """An INT8 file and what is worth knowing about it.

    Args:
        artifact: The file; kind ``onnx`` or ``openvino``.
        left_float: Every computing operator that is not quantized, in graph order.
        quantized_ops: How many computing operators are.
        ranges: Lowest and highest value per activation tensor; None where the engine keeps them to itself.
        samples: How many calibration samples were used.
        notes: Facts for the report: opset converted, biases corrected, channels equalized.
    """

    artifact: Artifact
    left_float: tuple[LeftFloat, ...]
    quantized_ops: int
    ranges: Ranges | None
    samples: int
    notes: tuple[str, ...] = ()


class Quantizer(Protocol):
    """Turns a float model into an INT8 file as a recipe says."""

    def quantize(
        self, model: Path, samples: Samples, recipe: CalibrationRecipe, out: Path, progress: Progress = silent
    ) -> Quantized:
        """Write the INT8 file at `out` (OpenVINO: the .xml, its .bin beside it).

        Args:
            model: A float ONNX file with static shapes, opset 11 or later.
            samples: Calibration feeds; the first `recipe.samples` of its selection are used.
            recipe: What to do.
            out: Must not exist; appears whole or not at all.
            progress: Told about every sample.

        Raises:
            UserError: The model or the samples cannot be calibrated with (see `source` and `checks`).
            UnsupportedError: The engine is not installed.
            StageError: The engine failed, or an activation is not finite (its node is named).
        """
        ...


QUANTIZERS: Registry[type[Quantizer]] = Registry(
    "quantizer",
    {
        "onnxruntime": "mscsa_deploy.calibration.onnxruntime:OnnxRuntimeQuantizer",
        "nncf": "mscsa_deploy.calibration.nncf:NncfQuantizer",
    },
)


def quantize(
    model: Path, samples: Samples, recipe: CalibrationRecipe, out: Path, progress: Progress = silent
) -> Quantized:
    """Quantize with the engine that `recipe` names; see `Quantizer.quantize`."""
    return QUANTIZERS.load(recipe.engine)().quantize(model, samples, recipe, out, progress)
