"""Who takes part in a `verify`: the reference, its candidates, and the task and preprocessing they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.config import read_toml
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import UnsupportedError, UserError
from mscsa_deploy.workflow.contest import Contest
from mscsa_deploy.workflow.contestants import Contestant, contestants, warn_of_missing_isa
from mscsa_deploy.workflow.verify_records import VerifyRequest

if TYPE_CHECKING:
    from mscsa_deploy.imaging.preprocess import Preprocess


def find_reference(request: VerifyRequest, work: Path) -> Contestant:
    """The reference in the first way that runs here; of a bundle, a float file."""
    ways = contestants(request.reference, request.source, None, work)
    ways = tuple(way for way in ways if way.precision == "fp32" and way.arithmetic == "fp32") or ways
    if not ways:
        raise UserError(f"no runtime loads the reference '{request.reference}'")
    chosen = next((way for way in ways if way.status == "ok"), None)
    if chosen is None:
        raise UnsupportedError(f"the reference cannot run here: {ways[0].name}", hint=ways[0].reason)
    return chosen


def find_candidates(request: VerifyRequest, work: Path) -> tuple[Contestant, ...]:
    """Every candidate on every runtime that loads it, those that cannot run here included."""
    found = tuple(
        way for argument in request.candidates for way in contestants(argument, request.source, request.runtimes, work)
    )
    for name in request.runtimes or ():
        if not any(way.runtime == name for way in found):
            raise UserError(
                f"runtime '{name}' loads none of the candidates ({', '.join(request.candidates)})",
                hint="drop it from --runtime, or name a file that it loads",
            )
    if not found:
        raise UserError(f"no runtime loads any of the candidates ({', '.join(request.candidates)})")
    return found


def told_apart(found: tuple[Contestant, ...]) -> tuple[Contestant, ...]:
    """The same, files of one name called by their whole path."""
    paths: dict[str, set[Path]] = {}
    for way in found:
        paths.setdefault(way.label, set()).add(way.path)
    return tuple(replace(way, label=str(way.path)) if len(paths[way.label]) > 1 else way for way in found)


def make_contest(
    request: VerifyRequest, reference: Contestant, others: Sequence[Contestant], runnable: tuple[Contestant, ...]
) -> Contest:
    """What is run, with the task and preprocessing that the user, the reference or a candidate says."""
    everyone = (reference, *others)
    warn_of_missing_isa(everyone)
    said = (each.says.task for each in everyone if each.says.task)
    task: Task | None = request.source.task or next(said, None)
    if task is None:
        raise UserError(f"'{request.reference}' does not say its task", hint="add --task cls or --task seg")
    return Contest(
        reference=reference,
        candidates=runnable,
        place=request.images,
        task=task,
        preprocess=_preprocess(request, everyone),
        labels=next((each.says.labels for each in everyone if each.says.labels), ()),
        limit=request.max_images,
        threads=request.threads,
    )


def _preprocess(request: VerifyRequest, everyone: Sequence[Contestant]) -> Preprocess:
    from mscsa_deploy.imaging.preprocess import Preprocess

    if request.preprocess is not None:
        return read_toml(request.preprocess, Preprocess)
    said = [each for each in everyone if each.says.preprocess is not None]
    if not said or said[0].says.preprocess is None:
        raise UserError(
            f"'{request.reference}' does not say its preprocessing",
            hint="add --preprocess FILE, a TOML file with height, width, resize, mean and std",
        )
    for other in said[1:]:
        if other.says.preprocess != said[0].says.preprocess:
            raise UserError(
                f"'{other.label}' wants another preprocessing than '{said[0].label}': "
                f"{_unlike(said[0].says.preprocess, other.says.preprocess)}",
                hint="compare models that see the same input, or say with --preprocess FILE what both get",
            )
    return said[0].says.preprocess


def _unlike(one: Any, other: Any) -> str:
    names = [name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)]
    return ", ".join(f"{name} {getattr(other, name)} instead of {getattr(one, name)}" for name in names)
