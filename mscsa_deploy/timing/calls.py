"""The calls that are timed: the network alone, or everything from picture bytes to the answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.classmap import best_classes, class_map
from mscsa_deploy.imaging.decode import decode
from mscsa_deploy.imaging.preprocess import model_input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mscsa_deploy.core.tensors import Array, Feed
    from mscsa_deploy.runtimes.protocol import Session
    from mscsa_deploy.timing.patterns import Call
    from mscsa_deploy.timing.plan import CoreInputs, EncodedInputs, RowSpec

_NO_PARTS: Mapping[str, int] = {}


def read_feeds(inputs: CoreInputs) -> tuple[Feed, ...]:
    """The rotation of feeds, each C-contiguous.

    Raises:
        UserError: The file is missing, no .npz, empty, or its arrays have different lengths.
    """
    try:
        with np.load(inputs.path, allow_pickle=False) as arrays:
            stacks = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the inputs '{Path(inputs.path).name}': {error}") from error
    lengths = {len(stack) for stack in stacks.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise UserError(f"the inputs '{Path(inputs.path).name}' hold arrays of lengths {sorted(lengths)}")
    return tuple({name: np.ascontiguousarray(stack[i]) for name, stack in stacks.items()} for i in range(lengths.pop()))


def core_call(session: Session, feeds: tuple[Feed, ...]) -> Call:
    """A call that runs the network on input ``number % len(feeds)``."""
    run, count = session.run, len(feeds)

    def call(number: int) -> Mapping[str, int]:
        run(feeds[number % count])
        return _NO_PARTS

    return call


def end_to_end_call(session: Session, inputs: EncodedInputs) -> Call:
    """A call from encoded bytes to the answer, with the nanoseconds of its four parts.

    Raises:
        UserError: A picture cannot be read, or there is none.
    """
    try:
        pictures = tuple(Path(name).read_bytes() for name in inputs.files)
    except OSError as error:
        raise UserError(f"cannot read the picture '{error.filename}': {error.strerror}") from error
    if not pictures:
        raise UserError("end-to-end latency needs at least one picture")
    declared, spec, clock = session.inputs[0], inputs.preprocess, time.perf_counter_ns
    name, dtype = declared.name, declared.dtype

    def call(number: int) -> Mapping[str, int]:
        begin = clock()
        image = decode(pictures[number % len(pictures)])
        decoded = clock()
        tensor = model_input(image, spec, dtype)
        prepared = clock()
        output = next(iter(session.run({name: tensor}).values()))
        inferred = clock()
        answer(output, inputs)
        return {
            "decode": decoded - begin,
            "preprocess": prepared - decoded,
            "network": inferred - prepared,
            "postprocess": clock() - inferred,
        }

    return call


def answer(output: Array, inputs: EncodedInputs) -> Any:
    """What the user gets for the first image of the network's output.

    Args:
        output: cls: (N, classes) logits or probabilities; seg: (N, classes, h, w) logits or probabilities, or
            an (N, H, W) class map, which is already the answer.
        inputs: Task and input size.
    """
    if inputs.task == "cls":
        return best_classes(output[0].astype(np.float32, copy=False))
    if output.ndim == 3:
        return output[0]
    size = (inputs.preprocess.height, inputs.preprocess.width)
    return class_map(output[0].astype(np.float32, copy=False), size)


def prepare(spec: RowSpec, sessions: tuple[Session, ...]) -> tuple[tuple[Call, ...], int]:
    """One call per session, and the number of inputs they rotate over."""
    if spec.core is not None:
        feeds = read_feeds(spec.core)
        return tuple(core_call(session, feeds) for session in sessions), len(feeds)
    assert spec.encoded is not None
    calls = tuple(end_to_end_call(session, spec.encoded) for session in sessions)
    return calls, len(spec.encoded.files)
