"""Export recipes: which model, with which weights, becomes which ONNX file; shipped ones lie in `export/`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mscsa_deploy.core.config import Config, convert, read_toml, to_plain
from mscsa_deploy.core.shipped import shipped_file, shipped_names
from mscsa_deploy.core.vocabulary import Output, Task
from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.preprocess import Preprocess, default_preprocess
from mscsa_deploy.models.spec import (
    ClsHead,
    FfnAct,
    GateAt,
    ModelOptions,
    ModelSpec,
    check_options,
    check_size,
    model_spec,
    options_from,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Batch = int | Literal["dynamic"]
FOLDER = "export"
# Tracing writes up to 20, the dynamo exporter up to 23.
OLDEST_OPSET, NEWEST_OPSET = 13, 23


class ExportRecipe(Config, frozen=True, kw_only=True):
    """What to export and how; every key but the first two has a default.

    Args:
        model: Name in the zoo.
        task: ``"cls"`` or ``"seg"``.
        weights: A checkpoint, relative to the recipe's own folder; empty if none comes with it.
        license: Terms of those weights, an SPDX expression.
        size: Input (height, width) in pixels; the model's reference size where not given.
        num_classes: Classes of the head; the checkpoint's where not given.
        ffn_act: Activation of FFN and Intra-FFN.
        gate_at: Whether the fusion gate stands before or after upsampling.
        cls_head: What the classifier of an add-on backbone reads.
        dw_kernels: Kernels of the two depthwise convolutions that make coarser keys and values.
        ablation: Further fields of `models.spec.ModelOptions`, those of the paper's tables 4 and 5.
        output: The output boundary.
        batch: A fixed batch, or ``"dynamic"``.
        opset: Version of ai.onnx in the file.
        optimize: Whether the graph passes run after simplification.
        preprocess: Fields of `imaging.preprocess.Preprocess` that differ from the task's usual ones.
        labels: Class names in channel order.
        palette: RGB colors (0-255) of the classes.
    """

    model: str
    task: Task
    weights: str = ""
    license: str = ""
    size: tuple[int, int] | None = None
    num_classes: int | None = None
    ffn_act: FfnAct = "relu6"
    gate_at: GateAt = "low"
    cls_head: ClsHead = "mscsa"
    dw_kernels: tuple[int, int] = (3, 5)
    ablation: dict[str, Any] = msgspec.field(default_factory=dict)
    output: Output = "logits"
    batch: Batch = 1
    opset: int = 18
    optimize: bool = True
    preprocess: dict[str, Any] = msgspec.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()

    @property
    def spec(self) -> ModelSpec:
        """The zoo's entry for this model and task."""
        return model_spec(self.model, self.task)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the input in pixels."""
        return self.size or self.spec.input_size

    @property
    def options(self) -> ModelOptions:
        """The model's options."""
        given = {
            "num_classes": self.num_classes,
            "ffn_act": self.ffn_act,
            "gate_at": self.gate_at,
            "cls_head": self.cls_head,
            "dw_kernels": self.dw_kernels,
        }
        return options_from({**given, **self.ablation}, source=f"{self.model}.{self.task}")

    def full_preprocess(self) -> Preprocess:
        """The task's usual preprocessing for this input size, with the recipe's changes.

        Raises:
            UserError: A key or value of `preprocess` is none that a `Preprocess` takes.
        """
        usual = to_plain(default_preprocess(self.task, self.input_size))
        return convert({**usual, **self.preprocess}, Preprocess, source=f"{self.model}.{self.task} [preprocess]")


def read_recipe(place: str | Path) -> ExportRecipe:
    """The checked recipe in the TOML file at `place`, or the shipped one of that bare name.

    Raises:
        UserError: No such recipe, an unknown key, or values that do not fit the model or one another.
    """
    path = recipe_path(place)
    recipe = read_toml(path, ExportRecipe)
    check_recipe(recipe, source=str(path))
    return recipe


def recipe_path(place: str | Path) -> Path:
    """The file that `place` means: a path, or a shipped recipe's bare name, with or without ``.toml``."""
    path = Path(place)
    return path if path.is_file() else shipped_file(FOLDER, path.name)


def weights_path(place: str | Path) -> Path | None:
    """The checkpoint that comes with the recipe at `place`; None if it names none.

    Raises:
        UserError: It names one that is not there.
    """
    path = recipe_path(place)
    recipe = read_recipe(path)
    if not recipe.weights:
        return None
    weights = path.parent / recipe.weights
    if not weights.is_file():
        raise UserError(f"'{path}' names weights that are not there: '{weights}'", hint="give --checkpoint FILE")
    return weights


def recipe_for(model: str, task: Task) -> ExportRecipe:
    """The shipped recipe of this model and task, or one with nothing but defaults.

    Raises:
        UserError: No such model.
    """
    spec = model_spec(model, task)
    name = f"{spec.name}.{spec.task}"
    return read_recipe(name) if name in shipped_names(FOLDER) else ExportRecipe(model=spec.name, task=spec.task)


def changed(recipe: ExportRecipe, **settings: Any) -> ExportRecipe:
    """A copy with those `settings` that are not None; checked.

    Raises:
        UserError: The result does not fit the model.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    made: ExportRecipe = msgspec.structs.replace(recipe, **given)
    check_recipe(made, source=f"{made.model}.{made.task}")
    return made


def check_recipe(recipe: ExportRecipe, *, source: str) -> None:
    """Raise `UserError` unless the recipe's values fit its model and one another; `source` names it."""
    options = recipe.options
    check_options(recipe.spec, options)
    if unknown := [key for key in recipe.ablation if key in _TOP_LEVEL]:
        raise UserError(f"'{source}': {unknown} stand under [ablation], expected at the top level")
    check_size(recipe.input_size)
    check_output(recipe.output, recipe.task)
    check_opset(recipe.opset)
    check_batch(recipe.batch)
    if Path(recipe.weights).is_absolute():
        raise UserError(f"'{source}': weights is an absolute path, expected one relative to the recipe")
    _check_classes(recipe, source)
    made = recipe.full_preprocess()
    if (made.height, made.width) != tuple(recipe.input_size):
        raise UserError(
            f"'{source}': preprocess makes {made.height}x{made.width}, but the input is "
            f"{recipe.input_size[0]}x{recipe.input_size[1]}",
            hint="set 'size' and leave height and width out of [preprocess]",
        )


_TOP_LEVEL = {"num_classes", "ffn_act", "gate_at", "cls_head", "dw_kernels"}
assert {field.name for field in dataclasses.fields(ModelOptions)} > _TOP_LEVEL


def _check_classes(recipe: ExportRecipe, source: str) -> None:
    classes = recipe.num_classes
    for name, entries in (("labels", recipe.labels), ("palette", recipe.palette)):
        if entries and classes is not None and len(entries) != classes:
            raise UserError(f"'{source}': {len(entries)} {name} for {classes} classes")
    if any(not 0 <= channel <= 255 for color in recipe.palette for channel in color):
        raise UserError(f"'{source}': a palette color lies outside 0-255")
    if doubled := _doubled(recipe.labels):
        raise UserError(f"'{source}': labels given twice: {', '.join(doubled)}")


def _doubled(labels: Sequence[str]) -> list[str]:
    return sorted({label for label in labels if labels.count(label) > 1})


def check_output(output: str, task: str) -> None:
    """Raise `UserError` unless `task` has the output boundary `output`."""
    if output == "classmap" and task == "cls":
        raise UserError("a classifier has no class map", hint="use --output logits or --output probs")
    if output == "logits-full" and task == "cls":
        raise UserError("a classifier's logits have no full size", hint="use --output logits")


def check_opset(opset: int) -> None:
    """Raise `UserError` unless the exporter can write `opset`."""
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UserError(f"opset {opset} cannot be written, expected {OLDEST_OPSET} to {NEWEST_OPSET}")


def check_batch(batch: Batch) -> None:
    """Raise `UserError` unless `batch` is a positive number or ``"dynamic"``."""
    if batch != "dynamic" and (isinstance(batch, str) or batch < 1):
        raise UserError(f"batch is {batch}, expected a number from 1 up or 'dynamic'")
