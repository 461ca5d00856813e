"""The golden pair that a deployment puts into its bundle."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.core.tensors import Array
from mscsa_deploy.workflow.deployment import Results
from mscsa_deploy.workflow.variants import shipped_files

if TYPE_CHECKING:
    from mscsa_deploy.bundle.golden import Golden, GoldenTolerance
    from mscsa_deploy.runtimes.protocol import SessionSettings

ANY_RUNTIME = ("onnxruntime", "openvino")
INT8_SLACK = 1.0
"""Points of equal decisions that rounding on another instruction set may cost (measured: up to 0.8)."""


def write_golden_pair(work: Path, results: Results) -> Golden:
    """One validation picture with its input and the FP32 answer."""
    from PIL import Image

    from mscsa_deploy.bundle.golden import write_golden
    from mscsa_deploy.imaging.preprocess import preprocess
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.runtimes.protocol import SessionSettings

    images = results.images["validation"]
    spec = images.preprocess
    # PNG, so that decoding gives every implementation the same bytes.
    image = of_another_size(images.dataset.load(0)[0], (spec.height, spec.width))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="png")
    tensor = preprocess(image, spec)
    name = next(name for name in ANY_RUNTIME if RUNTIMES.load(name)().probe().available)
    output = _output(name, results.model.path, SessionSettings(), tensor)
    answer = _decisions(output, results) if results.prepared.task == "seg" and output.ndim == 4 else None
    # A bundle of class maps alone holds no file that would give the logits.
    valued = answer is None or any(
        file.outputs[0].name != "classmap" for file in shipped_files(results.model, results.variants).values()
    )
    return write_golden(
        work,
        picture=stream.getvalue(),
        suffix=".png",
        tensor=tensor,
        output=output if valued or answer is None else answer[None],
        answer=answer,
        tolerance=_tolerances(results, tensor, _decisions(output, results), valued=valued),
    )


def _tolerances(results: Results, tensor: Array, expected: Array, *, valued: bool) -> dict[str, GoldenTolerance]:
    """The usual limits; for INT8, none that the bundle's own files miss here or would miss on a like device.

    Without values in the output only decisions are judged.
    """
    from mscsa_deploy.bundle.golden import GoldenTolerance
    from mscsa_deploy.parity.tolerance import DEFAULTS

    found = {}
    for name, limits in DEFAULTS.items():
        least, why = limits.argmax_agreement or 0.0, limits.why
        ran = [v for v in results.variants if (v.precision, v.status) == (name, "ok") and v.place]
        if name == "int8" and ran:
            outputs = (_output(v.runtime, v.artifact.path, v.settings, tensor) for v in ran)
            worst = min(100.0 * float((_decisions(output, results) == expected).mean()) for output in outputs)
            least = max(0.0, min(least, round(worst - INT8_SLACK, 1)))
            why = f"{why}; {worst:.2f} % at worst where the bundle was made"
        most = limits.max_abs_over_range if valued else None
        found[name] = GoldenTolerance(max_abs_over_range=most, argmax_agreement=least, why=why)
    return found


def _decisions(output: Array, results: Results) -> Array:
    """The class map at the input's size, or the class of the picture."""
    from mscsa_deploy.imaging.classmap import class_map

    if results.prepared.task == "seg":
        return class_map(output[0], results.prepared.size) if output.ndim == 4 else output[0]
    return np.asarray(output.argmax(axis=-1))


def _output(runtime: str, path: Path, settings: SessionSettings, tensor: Array) -> Array:
    from mscsa_deploy.runtimes import RUNTIMES

    with RUNTIMES.load(runtime)().load(path, settings) as session:
        return next(iter(session.run({session.inputs[0].name: tensor}).values()))


def of_another_size(image: Array, size: tuple[int, int]) -> Array:
    """`image` (H, W, 3), cut and enlarged if it has the input's `size`, so that the pair tests the resizing too.

    To get back to `size`, such a picture shrinks along one axis and grows along the other.
    """
    from PIL import Image

    height, width = size
    if image.shape[:2] != size:
        return image
    kept = max(1, round(height * 0.75))
    top = (height - kept) // 2
    cut = Image.fromarray(image).crop((0, top, width, top + kept))
    return np.asarray(cut.resize((round(width * 1.25), round(kept * 1.25)), Image.Resampling.BICUBIC))
