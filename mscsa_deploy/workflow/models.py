"""`models`: the zoo, with the size and cost of every entry."""

from __future__ import annotations

from collections.abc import Sequence

from mscsa_deploy.core.config import Record
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.shipped import shipped_names
from mscsa_deploy.core.vocabulary import TASKS
from mscsa_deploy.models.spec import MODEL_NAMES, ModelSpec, model_spec


class ZooRow(Record, frozen=True, kw_only=True):
    """One model for one task; counts are plain numbers, not millions.

    Args:
        name: The model's name.
        task: ``"cls"`` or ``"seg"``.
        params: Trainable parameters.
        macs: Multiply-accumulates of convolutions, linears and attention products at `input_size`.
        paper_flops: FLOPs by the paper's own way of counting, at `input_size`.
        input_size: (height, width) in pixels.
        classes: Of the reference head.
        recipe: Export recipe that ships for it; empty when none does.
        weights: Whether trained weights ship with that recipe.
    """

    name: str
    task: str
    params: int
    macs: int
    paper_flops: int
    input_size: tuple[int, int]
    classes: int
    recipe: str
    weights: bool


class Zoo(Record, frozen=True, kw_only=True):
    """All entries, one per model and task."""

    models: tuple[ZooRow, ...]


def list_models(progress: Progress = silent) -> Zoo:
    """Every model and task with parameters, MACs and paper-convention FLOPs, counted on the built model."""
    specs = [model_spec(name, task) for name in MODEL_NAMES for task in TASKS]
    rows = []
    for done, spec in enumerate(specs):
        progress(done, len(specs), "counting")
        rows.append(_row(spec, shipped_names("export")))
    return Zoo(models=tuple(rows))


def _row(spec: ModelSpec, recipes: Sequence[str]) -> ZooRow:
    from mscsa_deploy.export.recipe import read_recipe
    from mscsa_deploy.models.cost import model_cost

    cost = model_cost(spec.name, spec.task)
    recipe = f"{spec.name}.{spec.task}"
    return ZooRow(
        name=spec.name,
        task=spec.task,
        params=cost.params,
        macs=cost.macs,
        paper_flops=cost.paper_flops,
        input_size=spec.input_size,
        classes=spec.num_classes,
        recipe=recipe if recipe in recipes else "",
        weights=recipe in recipes and bool(read_recipe(recipe).weights),
    )
