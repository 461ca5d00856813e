"""What the measuring process and a worker tell each other: one JSON document per line."""

from __future__ import annotations

from typing import Any

import msgspec

from mscsa_deploy.timing.plan import RowSpec


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages; the tag is the class name in lower case."""


class Load(Message, frozen=True, kw_only=True, tag="load"):
    """Load the row's artefact and answer one call. Reply: `Loaded`."""

    spec: RowSpec


class Warm(Message, frozen=True, kw_only=True, tag="warm"):
    """Run at least so many calls and seconds untimed, at most `cap_seconds`. Reply: `Warmed`."""

    runs: int
    seconds: float
    cap_seconds: float


class Measure(Message, frozen=True, kw_only=True, tag="measure"):
    """Take one block: at least `runs` and `seconds`, at most `cap_seconds`. Reply: `Block`."""

    runs: int
    seconds: float
    cap_seconds: float
    rewarm_runs: int = 0


class Profile(Message, frozen=True, kw_only=True, tag="profile"):
    """The runtime's own profile over so many inferences. Reply: `Profiled`."""

    runs: int


Command = Load | Warm | Measure | Profile


class Loaded(Message, frozen=True, kw_only=True, tag="loaded"):
    """A session stands.

    Args:
        load_ms: From the file to a session, libraries already imported.
        first_ms: The first call after that.
        import_ms: Importing the library.
        executed_precision: Read back from the runtime.
        runtime_version: Of the library.
        threads: Read back from the runtime.
        affinity: Cores the process may use; empty where the system does not tell.
        inputs: Number of different inputs in the rotation.
        emulator: Program that emulates the processor, e.g. ``"qemu-aarch64-static"``; empty on a real one.
    """

    load_ms: float
    first_ms: float
    import_ms: float
    executed_precision: str
    runtime_version: str
    threads: int
    affinity: tuple[int, ...]
    inputs: int
    emulator: str = ""


class Warmed(Message, frozen=True, kw_only=True, tag="warmed"):
    """So many untimed calls were made."""

    runs: int


class Block(Message, frozen=True, kw_only=True, tag="block"):
    """One block of samples.

    Args:
        samples_ns: Of each blocking call, in the order they ended.
        wall_ns: From the first call's begin to the last one's end.
        parts_ns: End to end only: ``decode``, ``preprocess``, ``network``, ``postprocess`` of each call.
        response_ns: Paced only: from a frame's arrival to its answer.
        arrivals: Paced only: frames that arrived.
        missed: Paced only: frames that a newer one replaced before the runtime was free.
        peak_rss_bytes: Of the process so far.
        clocks_mhz: Current clock before and after, None where the system does not tell.
        load_average: Over the last minute, after the block.
    """

    samples_ns: list[int]
    wall_ns: int
    parts_ns: dict[str, list[int]] = msgspec.field(default_factory=dict)
    response_ns: list[int] = msgspec.field(default_factory=list)
    arrivals: int = 0
    missed: int = 0
    peak_rss_bytes: int = 0
    clocks_mhz: tuple[float | None, float | None] = (None, None)
    load_average: float = 0.0


class Profiled(Message, frozen=True, kw_only=True, tag="profiled"):
    """An `OpProfile` as plain containers."""

    profile: dict[str, Any]


class Failure(Message, frozen=True, kw_only=True, tag="failure"):
    """The command could not be carried out.

    Args:
        kind: Of the error tree (``"unsupported"``, ``"user"``, ``"stage"``), or ``"memory"`` or ``"crash"``.
        message: What went wrong.
        hint: What to do about it.
    """

    kind: str
    message: str
    hint: str = ""


Reply = Loaded | Warmed | Block | Profiled | Failure

encode = msgspec.json.Encoder().encode
decode_command = msgspec.json.Decoder(Command).decode
decode_reply = msgspec.json.Decoder(Reply).decode
