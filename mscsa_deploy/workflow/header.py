"""What a model's file says about itself, and the checkpoints that say it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mscsa_deploy.core.config import convert, to_json, to_plain
from mscsa_deploy.core.header_keys import LABELS, PREPROCESS, TASK
from mscsa_deploy.core.vocabulary import Task, task_named
from mscsa_deploy.errors import CheckpointError
from mscsa_deploy.imaging.preprocess import Preprocess, default_preprocess

if TYPE_CHECKING:
    from mscsa_deploy.export.recipe import ExportRecipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """What a model says about itself; None or empty where it does not."""

    task: Task | None = None
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()


def read_header(metadata: Mapping[str, str], source: str) -> Says:
    """What the metadata of a checkpoint says; `source` names the file.

    Raises:
        UserError: It names an unknown task, or its preprocessing is none.
        CheckpointError: An entry that should be JSON is not.
    """
    try:
        preprocess = json.loads(metadata.get(PREPROCESS, "null"))
        labels = json.loads(metadata.get(LABELS, "[]"))
    except ValueError as error:
        raise CheckpointError(f"the metadata of '{source}' is damaged: {error}") from error
    return Says(
        task=task_named(metadata[TASK]) if TASK in metadata else None,
        preprocess=None if preprocess is None else convert(preprocess, Preprocess, source=source),
        labels=convert(labels, tuple[str, ...], source=source),
    )


def header(preprocess: Preprocess, labels: tuple[str, ...]) -> dict[str, str]:
    """The metadata of a checkpoint that `read_header` reads, but for the task, which stands with the model's name."""
    return {PREPROCESS: to_json(preprocess).decode(), LABELS: to_json(labels).decode()}


def with_header(
    recipe: ExportRecipe, says: Says, *, own: bool, size: tuple[int, int] | None, classes: int | None
) -> ExportRecipe:
    """The recipe with what the weights say where it does not; where both do and differ, that is logged.

    Args:
        recipe: With the changes that were asked for.
        says: The header of the weights; labels of another number than `classes` are passed over.
        own: Whether the weights, not the recipe, were named by the user: then they come first.
        size: (height, width) that was asked for.
        classes: Of the head that the weights have.

    Raises:
        UserError: The result does not fit the model.
    """
    from mscsa_deploy.export.recipe import changed

    mine = recipe.labels if recipe.num_classes in (None, classes) else ()
    theirs = says.labels if len(says.labels) == classes else ()
    if mine and theirs and mine != theirs and not own:
        logger.warning("the labels of the recipe are used, those in the weights differ")
    labels = (theirs or mine) if own else (mine or theirs)
    kept = recipe.num_classes in (None, classes) and recipe.labels in ((), labels)
    recipe = changed(recipe, num_classes=classes, labels=labels, palette=None if kept else ())
    if says.preprocess is None:
        return recipe
    if size is None and (own or recipe.size is None):
        size = (says.preprocess.height, says.preprocess.width)
    return _with_preprocess(changed(recipe, size=size, preprocess={} if own else None), says.preprocess)


def _with_preprocess(recipe: ExportRecipe, stored: Preprocess) -> ExportRecipe:
    from mscsa_deploy.export.recipe import changed

    fitted = resized(stored, recipe.input_size)
    usual = to_plain(default_preprocess(recipe.task, recipe.input_size))
    told = {name: value for name, value in to_plain(fitted).items() if value != usual[name]}
    made = changed(recipe, preprocess={**told, **recipe.preprocess})
    spec = made.full_preprocess()
    for name in recipe.preprocess:
        ours, theirs = getattr(spec, name), getattr(fitted, name)
        if ours != theirs:
            logger.warning("%s is %s by the recipe, which is used; the weights say %s", name, ours, theirs)
    return made


def resized(stored: Preprocess, size: tuple[int, int]) -> Preprocess:
    """The same preprocessing for another input size (height, width); a crop keeps its share of the short side."""
    changes: dict[str, Any] = {"height": size[0], "width": size[1]}
    if stored.short_side is not None:
        changes["short_side"] = round(max(size) * stored.short_side / max(stored.height, stored.width))
    made: Preprocess = msgspec.structs.replace(stored, **changes)
    return made
