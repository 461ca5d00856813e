"""What a row has yielded so far, on disk line by line, so that a killed run goes on where it stopped."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mscsa_deploy.core.artifact import model_digest, weights_beside
from mscsa_deploy.core.files import content_key, output_file
from mscsa_deploy.errors import UserError
from mscsa_deploy.timing.messages import Block, Failure, Loaded, Profiled
from mscsa_deploy.timing.statistics import Samples, Stability, judge

if TYPE_CHECKING:
    from mscsa_deploy.timing.plan import RowSpec


class BlockTaken(msgspec.Struct, frozen=True, kw_only=True, tag="taken"):
    """A block and the round it was taken in; rounds count on through re-measurements."""

    round: int
    attempt: int
    block: Block


Event = Loaded | Failure | Profiled | BlockTaken
_decode = msgspec.json.Decoder(Event).decode


@dataclass
class RowRun:
    """A row on its way.

    Args:
        spec: What to measure.
        path: Its journal.
        loaded: The worker's answer to loading; None before.
        blocks: By round.
        attempts: Rounds of each attempt that was made for this row's own sake.
        failure: Why it cannot go on; None while it can.
        profile: The runtime's own profile, if it was asked for.
    """

    spec: RowSpec
    path: Path
    loaded: Loaded | None = None
    blocks: dict[int, Block] = field(default_factory=dict)
    attempts: dict[int, list[int]] = field(default_factory=dict)
    failure: Failure | None = None
    profile: dict[str, Any] | None = None

    def note(self, event: Event) -> None:
        """Take `event` in and append it to the journal."""
        self._apply(event)
        with self.path.open("ab") as stream:
            stream.write(msgspec.json.encode(event) + b"\n")

    def read(self) -> None:
        """Take in what an earlier run left; a failure is forgotten, so that the row gets another chance."""
        if not self.path.exists():
            return
        lines = self.path.read_bytes().split(b"\n")
        kept = []
        for number, line in enumerate(lines):
            if not line:
                continue
            try:
                event = _decode(line)
            except msgspec.DecodeError as error:
                if number == len(lines) - 1:  # the run was killed while it wrote this line
                    break
                raise UserError(
                    f"line {number + 1} of the benchmark's journal '{self.path.name}' is damaged: {error}",
                    hint="start again with --no-resume",
                ) from error
            if not isinstance(event, Failure):
                self._apply(event)
                kept.append(line)
        with output_file(self.path, force=True) as work:
            work.write_bytes(b"".join(line + b"\n" for line in kept))

    def _apply(self, event: Event) -> None:
        if isinstance(event, Loaded):
            self.loaded = event
        elif isinstance(event, Failure):
            self.failure = event
        elif isinstance(event, Profiled):
            self.profile = event.profile
        else:
            self.blocks[event.round] = event.block
            if event.attempt >= 0:
                rounds = self.attempts.setdefault(event.attempt, [])
                if event.round not in rounds:
                    rounds.append(event.round)

    def rounds(self, attempt: int | None = None) -> list[int]:
        """Rounds of one attempt, in order; of the last one by default."""
        if not self.attempts:
            return []
        return sorted(self.attempts[max(self.attempts) if attempt is None else attempt])

    def samples(self, attempt: int | None = None) -> Samples:
        """(n,) nanoseconds of one attempt, in the order they were taken."""
        taken = [self.blocks[number].samples_ns for number in self.rounds(attempt)]
        return np.array([value for block in taken for value in block], dtype=np.int64)

    @property
    def stability(self) -> Stability:
        """The verdict on the last attempt."""
        return judge(self.samples())


@functools.lru_cache(maxsize=256)
def _digest(path: Path, state: tuple[tuple[int, int], ...]) -> str:  # noqa: ARG001 - the state is the cache's key
    return model_digest(path)


def file_hash(path: str) -> str:
    """`model_digest` of a file, computed once while nothing in it changes; empty if there is no such file."""
    place = Path(path)
    try:
        facts = [file.stat() for file in (place, *weights_beside(place))]
    except OSError:
        return ""
    return _digest(place, tuple((each.st_size, each.st_mtime_ns) for each in facts))


def row_key(spec: RowSpec) -> str:
    """A key of what is measured: contents of files instead of their places."""
    facts = msgspec.to_builtins(spec)
    facts["path"] = file_hash(spec.path)
    if spec.core is not None:
        facts["core"] = file_hash(spec.core.path)
    if spec.encoded is not None:
        facts["encoded"]["files"] = [file_hash(name) for name in spec.encoded.files]
    return content_key(facts)
