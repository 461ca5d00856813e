"""Whether a manifest agrees with itself, and a session with its record: what readers rely on without asking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mscsa_deploy.bundle.manifest import Postprocess
from mscsa_deploy.errors import SpecError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.bundle.manifest import ArtifactEntry, Manifest, Tensor
    from mscsa_deploy.core.tensors import TensorSpec
    from mscsa_deploy.core.vocabulary import Task
    from mscsa_deploy.imaging.preprocess import Preprocess
    from mscsa_deploy.runtimes.protocol import Session

_HINT = "fetch the bundle again, or make it again"
_RANKS = {"cls": (2, "(N, classes)"), "seg": (4, "(N, classes, H, W)")}
_CLASS_MAP = (3, "(N, H, W)")


def check_consistent(manifest: Manifest, *, source: str) -> None:
    """Raise `UserError` where one field of `manifest` contradicts another."""
    if manifest.task == "seg" and not manifest.labels:
        raise UserError(f"'{source}' has no labels, a segmentation bundle names each of its classes", hint=_HINT)
    colors = manifest.palette
    if any(not 0 <= value <= 255 for color in colors for value in color):
        raise UserError(f"'{source}': a color of the palette is outside 0 to 255", hint=_HINT)
    if colors and len(colors) < len(manifest.labels):
        raise UserError(
            f"'{source}' has {len(colors)} colors in its palette for {len(manifest.labels)} labels", hint=_HINT
        )
    if reason := _input_contradiction(manifest.input, manifest.preprocess):
        raise UserError(f"'{source}' contradicts itself: its network {reason}", hint=_HINT)
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
    rank, wanted = _CLASS_MAP if post.output == "classmap" else _RANKS[manifest.task]
    return (
        _input_contradiction(entry.inputs[0], manifest.preprocess)
        or _steps_contradiction(post, manifest.task)
        or (
            f"has the output '{output.name}' of shape {list(output.shape)}, the task {manifest.task} wants {wanted}"
            if len(output.shape) != rank
            else _output_contradiction(output, post, manifest)
        )
    )


def _input_contradiction(image: Tensor, spec: Preprocess) -> str:
    """What of an input cannot be the picture that `spec` describes; dtypes that no picture becomes are not judged."""
    made = {"float32": (-1, 3, spec.height, spec.width), "uint8": (-1, spec.height, spec.width, 3)}.get(image.dtype)
    if made is None or _alike(image.shape, made):
        return ""
    shape = ", ".join(["N", *map(str, made[1:])])
    return f"takes an input of shape {list(image.shape)}, its preprocess makes ({shape}) of {image.dtype}"


def _steps_contradiction(post: Postprocess, task: Task) -> str:
    """Which step after the network is not the one that follows from the task and what the graph computes."""
    due = Postprocess.of(task, post.output, tensor=post.tensor, stride=post.stride)
    for name in ("decide", "upsample", "restore", "stride"):
        found, expected = getattr(post, name), getattr(due, name)
        if found != expected:
            said = expected if name == "stride" else f"'{expected}'"
            return f"answers with {post.output} for the task {task}, which {name} = {said} goes with, not {found!r}"
    return ""


def _output_contradiction(output: Tensor, post: Postprocess, manifest: Manifest) -> str:
    """Where the output of a network, of the right rank, has other classes or sizes than the manifest says."""
    classes = -1 if post.output == "classmap" else output.shape[1]
    if classes not in (-1, len(manifest.labels)):
        return f"tells {classes} classes apart, but there are {len(manifest.labels)} labels"
    if manifest.task == "cls":
        return ""
    spec = manifest.preprocess
    sizes = tuple(size if size < 0 else size * post.stride for size in output.shape[-2:])
    if _alike(sizes, (spec.height, spec.width)):
        return ""
    rows, columns = output.shape[-2:]
    return (
        f"answers with {rows}x{columns} cells of {post.stride} pixels, which is not its input of "
        f"{spec.height}x{spec.width}"
    )


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
    return spec.name == tensor.name and _alike(spec.shape, tensor.shape)


def _alike(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes are the same, as far as both tell sizes."""
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))
