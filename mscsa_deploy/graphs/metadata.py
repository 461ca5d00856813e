"""What an ONNX file says about itself: the model's name, task, preprocessing, labels and makers.

Each field of `ModelInfo` is one entry of the file's ``metadata_props``, under the prefix ``mscsa_deploy.``;
text stands as it is, everything else as compact JSON with sorted keys.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from mscsa_deploy.core.config import Config, convert
from mscsa_deploy.core.files import output_file
from mscsa_deploy.core.vocabulary import Output, Stored, Task
from mscsa_deploy.graphs.check import all_nodes, read_model, to_bytes

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "mscsa_deploy."
PRODUCER = "mscsa_deploy"


class ModelInfo(Config, frozen=True, kw_only=True):
    """Facts that travel inside the ONNX file; it never holds a path or a name of the machine.

    Args:
        name: The model's name, e.g. ``"topformer_t_mscsa"``.
        task: Classification or segmentation.
        output: The output boundary: logits at the model's stride, logits at input size, class map, or
            probabilities.
        precision: What the weights are stored in; inputs and outputs are float32 (class maps integer).
        stride: Input pixels per output cell; 1 at input size, 0 for classification.
        tail: Form of the upsampling and argmax that make the class map (`graphs.tail`); empty for the traced one.
        source_sha256: Hash of the checkpoint the weights came from; empty if there was none.
        random_weights: The seed of random weights; None for trained ones.
        preprocess: How a picture becomes the input, as `imaging.Preprocess` writes it.
        labels: Class names in the order of the output's channels; empty if unknown.
        palette: RGB colors (0-255) of the classes; empty for the default ones.
        tools: Versions of what made the file.
    """

    name: str
    task: Task
    output: Output = "logits"
    precision: Stored = "fp32"
    stride: int = 0
    tail: str = ""
    source_sha256: str = ""
    random_weights: int | None = None
    preprocess: dict[str, Any] = msgspec.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    tools: dict[str, str] = msgspec.field(default_factory=dict)


def info_of(model: ir.Model, *, source: str) -> ModelInfo | None:
    """What the model says about itself; None if it says nothing in our terms.

    Raises:
        UserError: An entry under our prefix is damaged or unknown; `source` names the file.
    """
    entries = {key.removeprefix(PREFIX): text for key, text in model.metadata_props.items() if key.startswith(PREFIX)}
    if not entries:
        return None
    return convert({key: _parsed(key, text) for key, text in entries.items()}, ModelInfo, source=source)


def read_info(path: Path) -> ModelInfo | None:
    """What the ONNX file says about itself; None if it says nothing in our terms.

    Raises:
        UserError: The file is unreadable, or an entry under our prefix is damaged.
    """
    return info_of(read_model(path), source=str(path))


def set_info(model: ir.Model, info: ModelInfo) -> None:
    """Make `info` the only metadata of the model, in place; everything else that describes it goes."""
    strip(model)
    model.graph.name = info.name
    model.producer_name, model.producer_version = PRODUCER, info.tools.get(PRODUCER)
    plain = msgspec.to_builtins(info)
    for key in sorted(plain):
        value = plain[key]
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
        model.metadata_props[PREFIX + key] = text


def strip(model: ir.Model) -> None:
    """Remove doc strings, metadata and the producer's name, everywhere in the model, in place.

    Exporters leave source paths, stack traces and host names there, which must not travel.
    """
    # The pass covers nodes, graphs and their metadata, but neither values nor weights.
    ClearMetadataAndDocStringPass()(model)
    model.doc_string = model.graph.doc_string = None
    model.producer_name = model.producer_version = model.domain = model.model_version = None
    model.metadata_props.clear()
    values = {*model.graph.inputs, *model.graph.initializers.values()}
    values.update(output for node in all_nodes(model) for output in node.outputs)
    for value in values:
        value.doc_string = None
        value.metadata_props.clear()
        tensor = value.const_value
        if tensor is not None and (tensor.doc_string or tensor.metadata_props):
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)


def write_info(path: Path, info: ModelInfo) -> None:
    """Replace the metadata of the ONNX file at `path` by `info`; the file is replaced as a whole."""
    model = read_model(path)
    set_info(model, info)
    with output_file(path, force=True) as work:
        work.write_bytes(to_bytes(model))


_TEXT_FIELDS = frozenset(
    field.name for field in msgspec.structs.fields(ModelInfo) if field.type in (str, Task, Output)
) | {"precision"}


def _parsed(key: str, text: str) -> Any:
    if key in _TEXT_FIELDS:
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        # The wrong type is reported by the caller, with the field's name.
        return text
