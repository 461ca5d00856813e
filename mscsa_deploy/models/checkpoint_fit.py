"""Fitting a checkpoint to a model of the zoo, strictly unless a part is declared enough."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mscsa_deploy.core.header_keys import MODEL, OPTIONS, TASK
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import CheckpointError
from mscsa_deploy.models.checkpoint_diff import (
    COUNTER,
    Difference,
    advice,
    compare,
    empty_model,
    head_classes,
    shapes_in,
    shapes_of,
    table,
)
from mscsa_deploy.models.checkpoint_names import Named, Rename, to_own_names
from mscsa_deploy.models.spec import ModelOptions, build_model, model_spec, options_from

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FRESH_SEED = 0


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        path: Where it was read from, for messages.
        tensors: By the names in the file.
        metadata: Text entries of a safetensors file; empty for others.
        layout: Where in the file the weights were, in words.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    layout: str


@dataclass(frozen=True)
class FitReport:
    """How a checkpoint was fitted.

    Args:
        layout: Where in the file the weights were and whose names they had.
        loaded: How many tensors the model took.
        difference: What did not fit; empty unless partial loading was allowed.
        table: The same as aligned lines for people; empty if everything fitted.
        ignored: Names in the file that belong to training only.
        unused_rules: Patterns of the key map that matched nothing.
    """

    layout: str
    loaded: int
    difference: Difference
    table: str
    ignored: tuple[str, ...]
    unused_rules: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """A model with a checkpoint's weights, in eval mode; `options.num_classes` is always a number."""

    model: nn.Module
    options: ModelOptions
    report: FitReport


def fit(
    model_name: str,
    task: Task,
    checkpoint: Checkpoint,
    options: ModelOptions | None = None,
    *,
    key_map: tuple[Rename, ...] = (),
    allow_partial: bool = False,
) -> Loaded:
    """A model of the zoo with the checkpoint's weights.

    Args:
        model_name: One of `MODEL_NAMES`.
        task: ``"cls"`` or ``"seg"``.
        checkpoint: From `load_checkpoint`.
        options: Its `num_classes`, if None, is read from the checkpoint's head.
        key_map: Renames applied to the names in the file.
        allow_partial: Take what fits; the rest of the model starts from fixed random weights and is reported.

    Raises:
        UserError: Unknown model, task or option.
        CheckpointError: The checkpoint does not fit, has another class count, or holds NaN or infinity.
    """
    spec = model_spec(model_name, task)
    options = _with_stored_options(checkpoint, model_name, task, options or ModelOptions(), allow_partial)
    named = to_own_names(checkpoint.tensors, key_map)
    shapes = shapes_of(named)
    options = _with_classes(checkpoint, options, head_classes(shapes), spec.num_classes, allow_partial)
    empty = empty_model(model_name, task, options)
    want = shapes_in(empty)
    difference = compare(shapes, want)
    if difference and not allow_partial:
        hint = advice(shapes, spec, options, difference)
        model_text = f"{model_name} for {task}"
        _refuse(checkpoint, named, difference, want=want, model=model_text, hint=hint)
    wrong = {name for name, *_ in difference.misshapen}
    state = {
        name: _checked(named, name, want_float=not name.endswith(COUNTER))
        for name in shapes
        if name in want and name not in wrong
    }
    if not state:
        raise CheckpointError(f"no tensor of checkpoint '{checkpoint.path}' fits {model_name} for {task}")
    model = _filled(empty, lambda: build_model(model_name, task, options), state)
    layout = f"{checkpoint.layout}, names of {named.layout}"
    left = table(difference, named, want) if difference else ""
    report = FitReport(layout, len(state), difference, left, named.ignored, named.unused_rules)
    return Loaded(model, options, report)


def _with_stored_options(
    checkpoint: Checkpoint, model_name: str, task: Task, options: ModelOptions, allow_partial: bool
) -> ModelOptions:
    """The options that a file of ours was saved with; those given must not contradict them."""
    if MODEL not in checkpoint.metadata:
        return options
    held = f"{checkpoint.metadata[MODEL]} for {checkpoint.metadata.get(TASK, '')}"
    if held != f"{model_name} for {task}":
        if allow_partial:
            return options
        raise CheckpointError(f"checkpoint '{checkpoint.path}' is a {held}, not a {model_name} for {task}")
    stored, default = _stored_options(checkpoint), ModelOptions()
    for item in dataclasses.fields(options):
        given, kept = getattr(options, item.name), getattr(stored, item.name)
        if given not in (getattr(default, item.name), kept):
            raise CheckpointError(f"checkpoint '{checkpoint.path}' has {item.name} = {kept}, but {given} was asked for")
    return stored


def _stored_options(checkpoint: Checkpoint) -> ModelOptions:
    text = checkpoint.metadata.get(OPTIONS, "{}")
    try:
        values: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"checkpoint '{checkpoint.path}': its '{OPTIONS}' entry is not JSON") from error
    return options_from(values, source=str(checkpoint.path))


def _with_classes(
    checkpoint: Checkpoint, options: ModelOptions, found: int | None, usual: int, allow_partial: bool
) -> ModelOptions:
    if options.num_classes is None:
        return dataclasses.replace(options, num_classes=found or usual)
    if found not in (None, options.num_classes) and not allow_partial:
        raise CheckpointError(
            f"the head of checkpoint '{checkpoint.path}' has {found} classes, {options.num_classes} were asked for",
            hint="leave the class count out to take the checkpoint's",
        )
    return options


def _refuse(
    checkpoint: Checkpoint,
    named: Named,
    difference: Difference,
    *,
    want: Mapping[str, tuple[int, ...]],
    model: str,
    hint: str,
) -> None:
    counts = (len(difference.missing), len(difference.unexpected), len(difference.misshapen))
    unused = "".join(f"\n  rename '{rule}' matched no name" for rule in named.unused_rules)
    raise CheckpointError(
        f"checkpoint '{checkpoint.path}' ({checkpoint.layout}, names of {named.layout}) "
        f"does not fit {model}: {counts[0]} missing, {counts[1]} unexpected, {counts[2]} of the wrong shape\n"
        f"{table(difference, named, want)}{unused}",
        hint=hint or "rename tensors with a key map, or allow a partial load",
    )


def _checked(named: Named, name: str, *, want_float: bool) -> Tensor:
    """The tensor `name` as float32 (or as it is, for counters).

    Raises:
        CheckpointError: It is not a plain dense tensor of numbers, or holds NaN or infinity, or is a
            negative variance.
    """
    tensor, origin = named.tensors[name], named.origins[name]
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise CheckpointError(f"tensor '{origin}' is sparse, quantized or empty, expected a plain float tensor")
    if not want_float:
        return tensor.to(torch.int64).clone()
    if not tensor.is_floating_point():
        raise CheckpointError(f"tensor '{origin}' has dtype {tensor.dtype}, expected floating-point weights")
    value = tensor.to(torch.float32).clone(memory_format=torch.contiguous_format)
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        bad = value.numel() - int(finite.sum())
        raise CheckpointError(
            f"tensor '{origin}' holds {bad} NaN or infinite values out of {value.numel()}",
            hint="the training diverged or the file is damaged; take an earlier checkpoint",
        )
    if name.endswith("running_var") and bool((value < 0).any()):
        raise CheckpointError(f"tensor '{origin}' is a variance with negative values: the file is damaged")
    return value


def _filled(empty: nn.Module, build: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    """The model with `state`; what is not in it stays as a fixed seed initializes it."""
    want = empty.state_dict()
    counters = {key: torch.zeros((), dtype=torch.int64) for key in want if key.endswith(COUNTER)}
    state = counters | state
    if len(state) == len(want):
        empty.load_state_dict(state, assign=True)
        return empty.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FRESH_SEED)
        model = build()
    model.load_state_dict(state, strict=False)
    return model.eval()
