"""From what the user named to a model with weights: the zoo, recipes, checkpoints, random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.config import to_json
from mscsa_deploy.core.files import content_key, sha256_file
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import UserError
from mscsa_deploy.models.spec import MODEL_NAMES
from mscsa_deploy.workflow.header import header, read_header, resized, with_header

if TYPE_CHECKING:
    from torch import nn

    from mscsa_deploy.export.recipe import ExportRecipe
    from mscsa_deploy.graphs.metadata import ModelInfo
    from mscsa_deploy.imaging.preprocess import Preprocess
    from mscsa_deploy.models.checkpoint import FitReport
    from mscsa_deploy.models.cost import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """Which model with which weights, as the command line says it.

    Args:
        model: A zoo name, or an export recipe's file or bare name.
        task: ``"cls"`` or ``"seg"``; needed for a zoo name, which exists for both.
        checkpoint: Trained weights; the recipe's own where None.
        key_map: TOML of regex renames for the checkpoint's tensor names.
        allow_partial: Load what fits and report what does not.
        random_weights: Seed of random weights instead of a checkpoint.
        num_classes: Of the head; the checkpoint's where None.
        size: Input (height, width); the recipe's or the reference size where None.
    """

    model: str
    task: Task | None = None
    checkpoint: Path | None = None
    key_map: Path | None = None
    allow_partial: bool = False
    random_weights: int | None = None
    num_classes: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model in eval mode with its weights, and what travels with it.

    Args:
        module: The PyTorch model.
        recipe: The export recipe with the request's changes.
        preprocess: How a picture becomes its input.
        labels: Class names in channel order; empty if unknown.
        source_sha256: Of the checkpoint; empty for random weights.
        random_weights: The seed; None for trained weights.
        key: Changes whenever weights or options do.
        fit: How the checkpoint was fitted; None for random weights.
        card: Model card beside the checkpoint (its name with ``.md``); None if there is none.
        license: Terms of the weights, where they came with the recipe; empty if not known.
    """

    module: nn.Module
    recipe: ExportRecipe
    preprocess: Preprocess
    labels: tuple[str, ...]
    source_sha256: str
    random_weights: int | None
    key: str
    fit: FitReport | None
    card: Path | None = None
    license: str = ""

    @property
    def name(self) -> str:
        """The model's name in the zoo."""
        return self.recipe.model

    @property
    def task(self) -> Task:
        """``"cls"`` or ``"seg"``."""
        return self.recipe.task

    @property
    def classes(self) -> int:
        """Classes of the head."""
        assert self.recipe.num_classes is not None
        return self.recipe.num_classes

    @property
    def size(self) -> tuple[int, int]:
        """Input (height, width) in pixels."""
        return self.recipe.input_size

    def cost(self) -> Cost:
        """Parameters and operations at the input size."""
        from mscsa_deploy.models.cost import model_cost

        return model_cost(self.name, self.task, input_size=self.size, options=self.recipe.options)

    def info(self) -> ModelInfo:
        """What an exported file is to say about itself."""
        from mscsa_deploy.core.config import to_plain
        from mscsa_deploy.graphs.metadata import ModelInfo

        return ModelInfo(
            name=self.name,
            task=self.recipe.task,
            source_sha256=self.source_sha256,
            random_weights=self.random_weights,
            preprocess=to_plain(self.preprocess),
            labels=self.labels,
            palette=self.recipe.palette,
        )

    def save(self, path: Path) -> None:
        """Write the model as a file that the PyTorch runtime loads."""
        from mscsa_deploy.models.checkpoint import model_metadata, save_checkpoint

        height, width = self.size
        metadata = {
            **model_metadata(self.name, self.task, self.recipe.options),
            "mscsa_deploy.input_size": f"{height}x{width}",
            **header(self.preprocess, self.labels),
        }
        save_checkpoint(path, self.module, metadata)


def prepare(request: ModelRequest) -> Prepared:
    """The model of `request` with its weights.

    Raises:
        UserError: An unknown name, a size or class count that does not fit, or no weights were named.
        CheckpointError: The checkpoint is unreadable, unsafe or does not fit.
    """
    from mscsa_deploy.export.recipe import changed

    recipe, shipped = recipe_of(request)
    # Labels and colors are those of the recipe's own classes.
    own = () if request.num_classes not in (None, recipe.num_classes) else None
    recipe = changed(
        recipe,
        size=request.size,
        num_classes=request.num_classes,
        labels=own,
        palette=own,
        preprocess=_preprocess_at(recipe, request.size),
    )
    if request.random_weights is not None:
        return _with_random_weights(recipe, request)
    path = request.checkpoint or shipped
    if path is None:
        raise UserError(
            f"no trained weights come with '{request.model}'",
            hint="give --checkpoint FILE, or ask for random ones with --random-weights SEED",
        )
    return _with_checkpoint(recipe, path, request)


def recipe_of(request: ModelRequest) -> tuple[ExportRecipe, Path | None]:
    """The recipe that the request names, and the weights that come with it.

    Raises:
        UserError: The request names no model, or one that cannot be exported.
    """
    from mscsa_deploy.export.source import resolve_model_argument

    own = request.checkpoint is not None or request.random_weights is not None
    source = resolve_model_argument(request.model, task=request.task, own_weights=own)
    if source.recipe is None:
        what = "a bundle" if source.kind == "bundle" else "an ONNX file"
        raise UserError(
            f"'{request.model}' is {what}, and there is nothing to export in it",
            hint="name a model of 'mscsa-deploy models' or an export recipe",
        )
    return source.recipe, source.weights


def _preprocess_at(recipe: ExportRecipe, size: tuple[int, int] | None) -> dict[str, Any] | None:
    """The recipe's own preprocessing for another size; None where it needs no change."""
    if size is None or "short_side" not in recipe.preprocess:
        return None
    return {**recipe.preprocess, "short_side": resized(recipe.full_preprocess(), size).short_side}


def _with_random_weights(recipe: ExportRecipe, request: ModelRequest) -> Prepared:
    from mscsa_deploy.export.recipe import changed
    from mscsa_deploy.models.randomize import randomize
    from mscsa_deploy.models.spec import build_model

    assert request.random_weights is not None
    recipe = changed(recipe, num_classes=recipe.num_classes or recipe.spec.num_classes)
    built = build_model(recipe.model, recipe.task, recipe.options)
    module = randomize(built, request.random_weights, recipe.input_size).eval()
    return Prepared(
        module=module,
        recipe=recipe,
        preprocess=recipe.full_preprocess(),
        labels=recipe.labels if len(recipe.labels) == recipe.num_classes else (),
        source_sha256="",
        random_weights=request.random_weights,
        key=content_key({"seed": request.random_weights, "recipe": to_json(recipe).decode()}),
        fit=None,
    )


def _with_checkpoint(recipe: ExportRecipe, path: Path, request: ModelRequest) -> Prepared:
    from mscsa_deploy.models.checkpoint import fit, load_checkpoint, read_key_map

    checkpoint = load_checkpoint(path)
    rules = read_key_map(request.key_map) if request.key_map else ()
    options = recipe.options
    # Of a model of the zoo with one's own weights, these tell what they are for, not the recipe that ships.
    own = request.checkpoint is not None and request.model in MODEL_NAMES
    if own and request.num_classes is None:
        options = replace(options, num_classes=None)
    loaded = fit(recipe.model, recipe.task, checkpoint, options, key_map=rules, allow_partial=request.allow_partial)
    says = read_header(checkpoint.metadata, str(path))
    recipe = with_header(recipe, says, own=own, size=request.size, classes=loaded.options.num_classes)
    digest = sha256_file(path)
    card = path.with_suffix(".md")
    return Prepared(
        module=loaded.model,
        recipe=recipe,
        preprocess=recipe.full_preprocess(),
        labels=recipe.labels,
        source_sha256=digest,
        random_weights=None,
        key=content_key({"checkpoint": digest, "recipe": to_json(recipe).decode(), "partial": request.allow_partial}),
        fit=loaded.report,
        card=card if card.is_file() else None,
        license=recipe.license if request.checkpoint is None else "",
    )
