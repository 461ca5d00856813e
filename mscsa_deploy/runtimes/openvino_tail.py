"""A segmentation tail behind a network in OpenVINO's own format, which the graph passes cannot read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.telemetry import without_telemetry
from mscsa_deploy.errors import UserError
from mscsa_deploy.runtimes.openvino import seam

if TYPE_CHECKING:
    from typing import Any


def write_ir_with_tail(logits: Path, form: str, size: tuple[int, int], out: Path) -> None:
    """Write `logits` (.xml) to `out` (.xml, its weights beside it) with the class map as its output.

    Args:
        logits: From a picture to one output, logits (N, C, h, w).
        form: A name of `graphs.tail.forms.TAIL_FORMS`.
        size: Height and width of the class map.
        out: Where to write; both files are replaced if they exist.

    Raises:
        UserError: The model has another output, or the form does not fit it.
        StageError: OpenVINO could not read or write it.
    """
    from mscsa_deploy.graphs.tail.files import tail_bytes

    with without_telemetry():
        import openvino as library
    with seam(logits.name, "reading"):
        model = library.Core().read_model(logits)
    shape = tuple(int(side) for side in model.outputs[0].shape) if len(model.outputs) == 1 else ()
    if len(shape) != 4:
        raise UserError(f"'{logits}' has no single output of logits (N, C, h, w)")
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
        Path(folder, "tail.onnx").write_bytes(tail_bytes(shape, form, size))
        with seam(logits.name, f"adding tail '{form}'"):
            tail = library.Core().read_model(Path(folder, "tail.onnx"))
            _join(library, model, tail, out)


def _join(library: Any, model: Any, tail: Any, out: Path) -> None:
    """Write `model` followed by `tail`, which takes its only output."""
    source = model.get_results()[0].input_value(0)
    for reader in tail.get_parameters()[0].output(0).get_target_inputs():
        reader.replace_source_output(source)
    joined = library.Model(tail.get_results(), model.get_parameters(), model.get_friendly_name())
    for key, value in model.rt_info.items():
        joined.set_rt_info(value, key)
    library.save_model(joined, out, compress_to_fp16=False)
