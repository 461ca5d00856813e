"""The log of a search: every measurement as it is made, so that a killed search goes on and a finished one replays.

One JSON object a line; the first line says what the measurements depend on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mscsa_deploy.core.config import Config
from mscsa_deploy.core.files import content_key
from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mscsa_deploy.calibration.budget import Budget

What = Literal["latency", "accuracy", "confirmation"]


class Measurement(Config, frozen=True, kw_only=True):
    """What was found out about one candidate; fields that were not measured are None.

    Args:
        status: ``ok``, or ``failed`` when it could not be made or run.
        latency_ms: Median on this device.
        float_ms: Median of the best float artefact, measured in turns with it.
        value: The task metric on the validation pictures, in percent.
        reference: The float model's value on the same pictures.
        sqnr_db: Signal to quantization noise of the outputs there, in decibels.
        reason: Why it failed.
    """

    status: Literal["ok", "failed"] = "ok"
    latency_ms: float | None = None
    float_ms: float | None = None
    value: float | None = None
    reference: float | None = None
    sqnr_db: float | None = None
    reason: str = ""

    @property
    def speedup(self) -> float:
        """Over the best float artefact; 0 for a candidate that did not run."""
        if self.status == "failed" or not self.latency_ms or self.float_ms is None:
            return 0.0
        return self.float_ms / self.latency_ms

    @property
    def drop(self) -> float:
        """Reference minus value, in points; infinite where it was not scored."""
        if self.status == "failed" or self.value is None or self.reference is None:
            return float("inf")
        return self.reference - self.value

    def within(self, budget: Budget) -> bool:
        """Whether the candidate ran, was scored, and is accurate enough."""
        if self.status == "failed" or self.value is None or self.reference is None:
            return False
        return budget.allows(self.value, self.reference)


class LogEntry(Config, frozen=True, kw_only=True):
    """One measurement: in which stage of the search, of what (a recipe's settings, or a float artefact's name)."""

    key: str
    stage: str
    what: What
    candidate: dict[str, Any]
    measured: Measurement


class SearchLog:
    """Measurements on disk.

    Args:
        path: The log; an existing one of the same context is taken up.
        context: What a measurement depends on besides the candidate (model, data, device, tools), as text.

    Raises:
        UserError: The log at `path` is damaged or was written in another context; the differing field is named.
    """

    def __init__(self, path: Path, context: Mapping[str, str]) -> None:
        self.path = path
        self.context = dict(context)
        self.known = {entry.key: entry for entry in read_log(path, context)}
        self.used: list[LogEntry] = []

    def find(self, what: What, facts: Mapping[str, Any]) -> Measurement | None:
        """What an earlier run or step measured for a candidate with these `facts`."""
        entry = self.known.get(self._key(what, facts))
        if entry is not None and entry not in self.used:
            self.used.append(entry)
        return entry.measured if entry else None

    def add(
        self, stage: str, what: What, facts: Mapping[str, Any], candidate: Mapping[str, Any], measured: Measurement
    ) -> None:
        """Keep a new measurement, on disk before anything else happens."""
        entry = LogEntry(
            key=self._key(what, facts), stage=stage, what=what, candidate=dict(candidate), measured=measured
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self.path.exists()
        with self.path.open("ab") as stream:
            if fresh:
                stream.write(msgspec.json.encode(dict(sorted(self.context.items()))) + b"\n")
            stream.write(msgspec.json.encode(entry) + b"\n")
        self.known[entry.key] = entry
        self.used.append(entry)

    def _key(self, what: What, facts: Mapping[str, Any]) -> str:
        return content_key({"what": what, "facts": facts, "context": self.context})


def read_log(path: Path, context: Mapping[str, str]) -> tuple[LogEntry, ...]:
    """The measurements in the log at `path`; none when there is no file.

    A last line that was cut off by a kill is left out.

    Raises:
        UserError: It is damaged or belongs to another context.
    """
    if not path.exists():
        return ()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        path.write_bytes(whole)
    lines = whole.splitlines()
    try:
        found = msgspec.json.decode(lines[0], type=dict[str, str]) if lines else dict(context)
        for name in sorted({*found, *context}):
            if found.get(name) != context.get(name):
                raise UserError(
                    f"search log '{path}' does not fit: its {name} is {found.get(name)}, expected {context.get(name)}",
                    hint="delete the log to search again",
                )
        return tuple(msgspec.json.decode(line, type=LogEntry) for line in lines[1:])
    except msgspec.DecodeError as error:
        raise UserError(f"search log '{path}' is damaged: {error}", hint="delete it to search again") from error
