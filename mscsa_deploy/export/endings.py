"""Finishing a file of logits: with a segmentation tail, and with pictures as its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.core.files import output_file
from mscsa_deploy.export.versions import tool_versions
from mscsa_deploy.graphs.check import read_model, signature, to_bytes
from mscsa_deploy.graphs.pixels import take_pixels
from mscsa_deploy.graphs.tail.files import write_with_tail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def with_tail(artifact: Artifact, form: str, out: Path) -> Artifact:
    """Write `artifact`, an ONNX file of logits, to `out` with the class map as its output.

    Args:
        artifact: From pictures to logits (N, C, h, w), in any precision; the tail itself is float32.
        form: A name of `graphs.tail.forms.TAIL_FORMS`.
        out: Replaced if it exists.

    Raises:
        UserError: The model is no segmenter, or the form is unknown or does not fit it.
        UnsupportedError: The batch is dynamic and the form needs a fixed one.
        StageError: The graph is not valid.
    """
    write_with_tail(artifact.path, form, out)
    return _record(artifact, out, "tail", {"form": form})


def with_pixels(artifact: Artifact, mean: Sequence[float], std: Sequence[float], out: Path) -> Artifact:
    """Write `artifact`, an ONNX file, to `out` with (N, H, W, 3) uint8 RGB as its input.

    Args:
        artifact: Its input is (N, 3, H, W) float32, normalized.
        mean: Per channel, on the 0..1 scale, as the model was trained.
        std: Likewise.
        out: Replaced if it exists; may be the file itself.

    Raises:
        UserError: The model has another input.
    """
    model = read_model(artifact.path)
    take_pixels(model, mean, std)
    with output_file(out, force=True) as work:
        work.write_bytes(to_bytes(model))
    return _record(artifact, out, "pixels", {"mean": list(mean), "std": list(std)})


def _record(source: Artifact, path: Path, stage: str, settings: dict[str, Any]) -> Artifact:
    inputs, outputs = signature(read_model(path))
    made_by = MadeBy(stage, settings, parent=source.sha256, tools=tool_versions())
    return Artifact.of(path, kind="onnx", precision=source.precision, inputs=inputs, outputs=outputs, made_by=made_by)
