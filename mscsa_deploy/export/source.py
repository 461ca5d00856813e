"""What a *model* argument means: a zoo name, an export recipe, an ONNX file or a bundle directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mscsa_deploy.core.files import MANIFEST
from mscsa_deploy.core.shipped import shipped_names
from mscsa_deploy.core.vocabulary import TASKS, Task
from mscsa_deploy.errors import UserError, unknown_name
from mscsa_deploy.export.recipe import FOLDER, ExportRecipe, read_recipe, recipe_for, recipe_path, weights_path
from mscsa_deploy.models.spec import MODEL_NAMES, model_spec

_CHECKPOINTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What the user means.

    Args:
        kind: ``"recipe"`` (also for zoo names: the shipped recipe of that model and task, or defaults),
            ``"onnx"`` or ``"bundle"``.
        name: Short name for reports: ``topformer_t_mscsa.seg``, or the file's or directory's name.
        path: The recipe's, ONNX file's or bundle's place; None for a zoo name without a recipe.
        recipe: The recipe, for that kind.
        weights: The checkpoint that comes with the recipe, if any.
    """

    kind: Literal["recipe", "onnx", "bundle"]
    name: str
    path: Path | None = None
    recipe: ExportRecipe | None = None
    weights: Path | None = None


def resolve_model_argument(argument: str, *, task: Task | None = None, own_weights: bool = False) -> ModelSource:
    """What `argument` means.

    Args:
        argument: A zoo name (``topformer_t_mscsa``), a recipe (``topformer_t_mscsa.seg`` or a TOML file), an
            ONNX file, or a bundle directory.
        task: The task asked for, if any; decides between a zoo name's two. Where it is not said and trained
            weights ship for one of them, that one is meant.
        own_weights: The user brings a checkpoint or asks for random weights. A zoo name then means the
            architecture, not the shipped recipe, whose classes and labels belong to the shipped weights.

    Raises:
        UserError: It is none of these, does not exist, or `task` does not fit; the nearest name is offered.
    """
    path = Path(argument)
    if path.is_dir():
        return _bundle(path)
    if path.suffix == ".onnx":
        return _onnx(path)
    if path.suffix in _CHECKPOINTS:
        raise UserError(
            f"'{argument}' is a checkpoint, expected a model",
            hint=f"name the model and give the file with --checkpoint {argument}",
        )
    if path.suffix == ".toml" or argument in shipped_names(FOLDER):
        return _of_recipe(argument, task)
    if argument in MODEL_NAMES:
        return _zoo(argument, task, own_weights=own_weights)
    if path.exists():
        hint = f"expected {' or '.join(_KINDS)}"
        raise UserError(f"'{argument}' is no model that this tool reads", hint=hint)
    raise unknown_name("model", argument, [*MODEL_NAMES, *shipped_names(FOLDER)])


_KINDS = ("a zoo name", "a recipe (.toml)", "an ONNX file (.onnx)", "a bundle directory")


def _bundle(path: Path) -> ModelSource:
    if not (path / MANIFEST).is_file():
        raise UserError(
            f"'{path}' is a directory without {MANIFEST}, so no bundle", hint=f"expected {' or '.join(_KINDS)}"
        )
    return ModelSource("bundle", path.resolve().name, path)


def _onnx(path: Path) -> ModelSource:
    if not path.is_file():
        raise UserError(f"there is no file '{path}'", hint="check the path")
    return ModelSource("onnx", path.stem, path)


def _of_recipe(argument: str, task: Task | None) -> ModelSource:
    path = recipe_path(argument)
    recipe = read_recipe(path)
    if task not in (None, recipe.task):
        raise UserError(f"recipe '{argument}' is for task {recipe.task}, but --task is {task}")
    return ModelSource("recipe", path.stem, path, recipe, weights_path(path))


def _zoo(name: str, task: Task | None, *, own_weights: bool) -> ModelSource:
    shipped = [each for each in TASKS if f"{name}.{each}" in shipped_names(FOLDER)]
    trained = [each for each in shipped if read_recipe(f"{name}.{each}").weights]
    if task is None and len(trained) == 1:
        task = trained[0]
    if task is None:
        raise UserError(
            f"model '{name}' is there for {' and '.join(TASKS)}, and which one is meant is not said",
            hint="add --task cls or --task seg",
        )
    if task in trained and own_weights:
        return ModelSource("recipe", f"{name}.{task}", None, ExportRecipe(model=name, task=task))
    if task in shipped:
        return _of_recipe(f"{name}.{task}", task)
    return ModelSource("recipe", f"{model_spec(name, task).name}.{task}", None, recipe_for(name, task))
