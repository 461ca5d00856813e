"""How a checkpoint differs from a model, and what would make it fit."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.models.spec import MODEL_NAMES, ModelOptions, ModelSpec, build_model, model_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from mscsa_deploy.models.checkpoint_names import Named

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
ROWS_SHOWN = 12
COUNTER = "num_batches_tracked"
HEADS = ("decode_head.conv_seg.weight", "head.l.weight", "head.weight")
BLOCK = "backbone.mscsa.blocks.0."
FIRST_KERNEL, SECOND_KERNEL = f"{BLOCK}csa1.down.convs.0.conv.weight", f"{BLOCK}csa1.down.convs.1.conv.weight"


@dataclass(frozen=True)
class Difference:
    """What keeps a checkpoint from fitting; names are the model's, origins the file's.

    Args:
        missing: Parameters of the model that the file lacks.
        unexpected: Tensors of the file that the model lacks.
        misshapen: (name, shape in the file, shape in the model).
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[tuple[str, Shape, Shape], ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    @property
    def size(self) -> int:
        """How many names are in it."""
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)


def model_shapes(name: str, task: Task, options: ModelOptions) -> Shapes:
    """Names and shapes of a model's state dict; nothing is allocated."""
    return shapes_in(empty_model(name, task, options))


def empty_model(name: str, task: Task, options: ModelOptions) -> nn.Module:
    """A model whose tensors have shapes but no storage."""
    with torch.device("meta"):
        return build_model(name, task, options)


def shapes_in(model: nn.Module) -> Shapes:
    """Names and shapes of a model's state dict."""
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def shapes_of(named: Named) -> Shapes:
    """Names and shapes of a checkpoint's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in named.tensors.items()}


def compare(have: Mapping[str, Shape], want: Mapping[str, Shape]) -> Difference:
    """The difference between a checkpoint's shapes and a model's.

    BatchNorm's batch counters are optional: nothing but training with a cumulative average reads them.
    """
    missing = tuple(name for name in want if name not in have and not name.endswith(COUNTER))
    unexpected = tuple(name for name in have if name not in want and not name.endswith(COUNTER))
    misshapen = tuple((name, shape, want[name]) for name, shape in have.items() if name in want and shape != want[name])
    return Difference(missing, unexpected, misshapen)


def head_classes(shapes: Mapping[str, Shape]) -> int | None:
    """The class count of the checkpoint's head; None if it has none."""
    for name in HEADS:
        if name in shapes:
            return shapes[name][0]
    return None


def infer_options(shapes: Mapping[str, Shape], spec: ModelSpec, options: ModelOptions) -> ModelOptions:
    """`options` with every value that the checkpoint's names and shapes decide.

    The activation of the FFN and the place of the gate leave no trace in them.
    """
    if not spec.mscsa or f"{BLOCK}csa1.q.conv.weight" not in shapes:
        return options
    found: dict[str, Any] = {
        "parallel_conv": any(name.startswith(f"{BLOCK}csa1.pcp.") for name in shapes),
        "intra_ffn": any(name.startswith(f"{BLOCK}intra_ffn.stages.") for name in shapes),
        "multi_scale": f"{BLOCK}csa1.k.1.conv.weight" in shapes,
    }
    default = model_shapes(spec.name, spec.task, ModelOptions())
    query, ffn = f"{BLOCK}csa1.q.conv.weight", f"{BLOCK}ffn.fc1.weight"
    if shapes[query] != default[query]:
        heads = _heads(spec)
        found["key_dim"] = max(shapes[query][0] // heads, 1)
    if ffn in shapes and shapes[ffn] != default[ffn]:
        found["mlp_ratio"] = max(shapes[ffn][0] // shapes[ffn][1], 1)
    found |= _scales(shapes, found["multi_scale"], options)
    head = shapes.get("head.weight")
    if spec.family == "pvt_v2" and spec.task == "cls" and head is not None:
        found["cls_head"] = "mscsa" if head[1] == default["head.weight"][1] else "concat"
    return dataclasses.replace(options, **found)


def _heads(spec: ModelSpec) -> int:
    from mscsa_deploy.models import pvt_v2, topformer

    return topformer.CONFIGS[spec.variant].heads if spec.family == "topformer" else pvt_v2.MSCSA_HEADS


def _scales(shapes: Mapping[str, Shape], multi_scale: bool, options: ModelOptions) -> dict[str, Any]:
    """How the coarser keys and values are made, read from which convolutions there are."""
    first, second = shapes.get(FIRST_KERNEL), shapes.get(SECOND_KERNEL)
    if not multi_scale:
        return {}
    if first is None:
        return {"downsampling": "avgpool"}
    if second is None:
        return {"downsampling": "single", "dw_kernels": (first[-1], options.dw_kernels[1])}
    kept = options.downsampling if options.downsampling == "cascade" else "parallel"
    if kept == "cascade":
        return {"downsampling": "cascade", "dw_kernels": (first[-1], options.dw_kernels[1])}
    return {"downsampling": "parallel", "dw_kernels": (first[-1], second[-1])}


def advice(shapes: Shapes, spec: ModelSpec, options: ModelOptions, difference: Difference) -> str:
    """What to change so that the checkpoint fits; empty if nothing is known that helps."""
    better = infer_options(shapes, spec, options)
    if better != options and not compare(shapes, model_shapes(spec.name, spec.task, better)):
        changes = [
            f"{item.name} = {_toml(getattr(better, item.name))}"
            for item in dataclasses.fields(better)
            if getattr(better, item.name) != getattr(options, item.name)
        ]
        return f"it fits with {', '.join(changes)} (options of the recipe)"
    best: tuple[int, str, str] | None = None
    for name, task in _likely_models(shapes):
        found = compare(shapes, _shapes_for(name, task, shapes)).size
        if found == 0:
            return f"it fits {name} for {task}"
        if best is None or found < best[0]:
            best = (found, name, task)
    if best is not None and best[0] * 4 < difference.size:
        names = f"{best[0]} names differ instead of {difference.size}"
        return f"it looks more like {best[1]} for {best[2]} ({names})"
    return ""


def _likely_models(shapes: Mapping[str, Shape]) -> list[tuple[str, Task]]:
    """Models of the zoo whose family, task and mixing module the names speak for; none if they name no family."""
    families = {"topformer": "backbone.tpm.", "pvt_v2": "backbone.patch_embed1."}
    task: Task = "seg" if any(name.startswith("decode_head.") for name in shapes) else "cls"
    mscsa = any(name.startswith("backbone.mscsa.") for name in shapes)
    specs = [model_spec(name, task) for name in MODEL_NAMES]
    return [
        (spec.name, task)
        for spec in specs
        if spec.mscsa == mscsa and any(name.startswith(families[spec.family]) for name in shapes)
    ]


def _shapes_for(name: str, task: Task, shapes: Shapes) -> Shapes:
    options = ModelOptions(num_classes=head_classes(shapes))
    return model_shapes(name, task, infer_options(shapes, model_spec(name, task), options))


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def table(difference: Difference, named: Named, want: Mapping[str, Shape]) -> str:
    """The difference as aligned text lines, at most `ROWS_SHOWN` per kind, each with the nearest name."""
    have = shapes_of(named)
    rows: list[tuple[str, str, str]] = []
    for name, got, wanted in difference.misshapen[:ROWS_SHOWN]:
        rows.append(("wrong shape", name, f"{_shape(got)} in the file, {_shape(wanted)} in the model"))
    rows += _more("wrong shape", difference.misshapen)
    for name in difference.missing[:ROWS_SHOWN]:
        near = nearest(name, difference.unexpected, want[name], have)
        rows.append(("missing", name, f"nearest in the file: {named.origins[near]}" if near else ""))
    rows += _more("missing", difference.missing)
    for name in difference.unexpected[:ROWS_SHOWN]:
        near = nearest(name, difference.missing, have[name], want)
        rows.append(("unexpected", named.origins[name], f"nearest in the model: {near}" if near else ""))
    rows += _more("unexpected", difference.unexpected)
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows)


def _more(kind: str, items: Sequence[object]) -> list[tuple[str, str, str]]:
    return [(kind, f"... and {len(items) - ROWS_SHOWN} more", "")] if len(items) > ROWS_SHOWN else []


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def nearest(name: str, names: Sequence[str], shape: Shape, shapes: Mapping[str, Shape]) -> str:
    """The most similar of `names`, those with the same shape first; empty if none is close."""
    same = [each for each in names if shapes[each] == shape]
    for candidates, cutoff in ((same, 0.4), (names, 0.7)):
        if close := difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff):
            return close[0]
    return ""
