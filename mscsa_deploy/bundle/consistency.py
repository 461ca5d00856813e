"""Whether a manifest agrees with itself, and a session with its record: what readers rely on without asking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mscsa_deploy.bundle.manifest import Postprocess
from mscsa_deploy.errors import SpecError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.bundle.manifest import ArtifactEntry, Manifest, Tensor
    from mscsa_deploy.core.tensors import TensorSpec
    from mscsa_deploy.runtimes.protocol import Session

_HINT = "fetch the bundle again, or make it again"
_RANKS = {"cls": (2, "(N, classes)"), "seg": (4, "(N, classes, H, W)")}
_CLASS_MAP = (3, "(N, H, W)")


def check_consistent(manifest: Manifest, *, source: str) -> None:
    """Raise `UserError` where one field of `manifest` contradicts another."""
    colors = manifest.palette
    if any(not 0 <= value <= 255 for color in colors for value in color):
        raise UserError(f"'{source}': a color of the palette is outside 0 to 255", hint=_HINT)
    if colors and len(colors) < len(manifest.labels):
        raise UserError(
            f"'{source}' has {len(colors)} colors in its palette for {len(manifest.labels)} labels", hint=_HINT
        )
    for entry in manifest.artifacts:
        if reason := _contradiction(entry, manifest):
            raise UserError(f"'{source}' contradicts itself: '{entry.path}' {reason}", hint=_HINT)
    choice = manifest.recommended
    if choice is not None and choice.artifact not in {entry.path for entry in manifest.artifacts}:
        raise UserError(f"'{source}' recommends '{choice.artifact}', which is none of its artefacts", hint=_HINT)


def _contradiction(entry: ArtifactEntry, manifest: Manifest) -> str:
    if not entry.inputs:
        return "has no input"
    post = entry.postprocess
    output = next((tensor for tensor in entry.outputs if tensor.name == post.tensor), None)
    if output is None:
        names = ", ".join(f"'{tensor.name}'" for tensor in entry.outputs) or "none"
        return f"answers with the output '{post.tensor}', but its outputs are {names}"
    if post.output == "classmap" and manifest.task == "cls":
        return "answers with a class map, but the task is cls"
    decides = Postprocess.of(manifest.task, post.output, tensor=post.tensor).decide
    if post.decide != decides:
        return f"answers with {post.output} for the task {manifest.task}, which decide = '{decides}' goes with"
    rank, wanted = _CLASS_MAP if post.output == "classmap" else _RANKS[manifest.task]
    if len(output.shape) != rank:
        return f"has the output '{output.name}' of shape {list(output.shape)}, the task {manifest.task} wants {wanted}"
    return ""


def check_session(session: Session, entry: ArtifactEntry) -> None:
    """Raise `SpecError` unless `session`, of the file of `entry`, takes and gives what `entry` says of it."""
    _hold(session.inputs, entry.inputs, "input", entry.path)
    answer = [tensor for tensor in entry.outputs if tensor.name == entry.postprocess.tensor]
    given = [spec for spec in session.outputs if spec.name == entry.postprocess.tensor]
    _hold(given, answer, "output", entry.path)


def _hold(found: Sequence[TensorSpec], said: Sequence[Tensor], kind: str, path: str) -> None:
    # What a picture becomes follows the record's dtype; what an answer means does not.
    fits = len(found) == len(said) and all(
        any(_fits(spec, tensor) and (kind == "output" or spec.dtype == tensor.dtype) for spec in found)
        for tensor in said
    )
    if not fits:
        here = "; ".join(f"'{spec.name}' {spec.dtype} {list(spec.shape)}" for spec in found) or "none of that name"
        there = "; ".join(f"'{tensor.name}' {tensor.dtype} {list(tensor.shape)}" for tensor in said)
        raise SpecError(f"'{path}' has the {kind} {here}, its bundle says {there}", hint=_HINT)


def _fits(spec: TensorSpec, tensor: Tensor) -> bool:
    """Whether `tensor` describes `spec`, as far as both tell sizes."""
    sizes = zip(spec.shape, tensor.shape, strict=False)
    alike = spec.name == tensor.name and len(spec.shape) == len(tensor.shape)
    return alike and all(one == other or -1 in (one, other) for one, other in sizes)
