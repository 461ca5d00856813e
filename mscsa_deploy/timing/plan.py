"""What is to be measured, and for how long."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from mscsa_deploy.core.config import Config
from mscsa_deploy.core.report import Boundary, Mode
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import UserError, unknown_name
from mscsa_deploy.imaging.preprocess import Preprocess
from mscsa_deploy.runtimes.protocol import SessionSettings

MIN_INPUTS = 16
"""Inputs a row rotates over at least: the same input again can be answered from warm caches."""

Role = Literal["", "fp32", "optimised_fp32"]


class Preset(Config, frozen=True, kw_only=True):
    """How long a row is measured.

    A block ends when both its share of `min_seconds` and its share of `min_samples` are reached, or at its
    share of `row_cap_seconds`.

    Args:
        name: Of the preset.
        min_seconds: Least measured time per row.
        min_samples: Least samples per row.
        row_cap_seconds: A row is not measured for longer, even if that leaves it short of samples.
        blocks: Rounds; in each, every row of a group runs once.
        warmup_runs: Untimed calls after load, at least.
        warmup_seconds: Untimed time after load, at least.
        rewarm_runs: Untimed calls at the start of each block, after other rows had the caches.
        remeasures: How often unstable rows are measured again before the mark stays.
        timeout_seconds: A worker that is silent for this long beyond what it was asked for is hung.
        live_workers: Processes kept loaded at once; a larger group is split, each part with its references.
    """

    name: str = "custom"
    min_seconds: float
    min_samples: int
    row_cap_seconds: float
    blocks: int
    warmup_runs: int = 10
    warmup_seconds: float = 0.2
    rewarm_runs: int = 3
    remeasures: int = 1
    timeout_seconds: float = 120.0
    live_workers: int = 24

    def __post_init__(self) -> None:
        """Refuse plans that could not give a number."""
        if self.blocks < 1 or self.min_samples < 1 or self.live_workers < 2:
            raise ValueError("'blocks' and 'min_samples' must be at least 1, 'live_workers' at least 2")
        if min(self.min_seconds, self.warmup_seconds, self.warmup_runs, self.rewarm_runs, self.remeasures) < 0:
            raise ValueError("durations and counts must not be negative")
        if self.row_cap_seconds < self.min_seconds or self.timeout_seconds <= 0:
            raise ValueError("'row_cap_seconds' must not be below 'min_seconds', 'timeout_seconds' must be over 0")

    @property
    def block_runs(self) -> int:
        """Least samples of one block."""
        return math.ceil(self.min_samples / self.blocks)

    @property
    def block_seconds(self) -> float:
        """Least duration of one block."""
        return self.min_seconds / self.blocks

    @property
    def block_cap_seconds(self) -> float:
        """Longest duration of one block; the call in flight is finished."""
        return self.row_cap_seconds / self.blocks


PRESETS = MappingProxyType(
    {
        "smoke": Preset(
            name="smoke",
            min_seconds=0.1,
            min_samples=8,
            row_cap_seconds=2.0,
            blocks=2,
            warmup_runs=1,
            warmup_seconds=0.0,
            rewarm_runs=1,
            remeasures=0,
        ),
        "quick": Preset(name="quick", min_seconds=3.0, min_samples=104, row_cap_seconds=20.0, blocks=13, remeasures=1),
        "full": Preset(name="full", min_seconds=60.0, min_samples=1024, row_cap_seconds=180.0, blocks=32, remeasures=2),
    }
)
"""smoke: shows that everything runs, says nothing about speed; quick: p90 is supported (100 samples); full: MLPerf
Mobile's 60 s and 1,024 samples, so p99 is too."""


def preset(name: str, **overrides: Any) -> Preset:
    """The preset `name` with some of its fields replaced.

    Raises:
        UserError: There is no such preset or field, or the result makes no sense.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    fields = msgspec.to_builtins(PRESETS[name])
    for key in overrides:
        if key not in fields:
            raise unknown_name("preset field", key, fields)
    if overrides:
        fields |= {"name": f"{name}, changed", **overrides}
    try:
        return msgspec.convert(fields, Preset)
    except msgspec.ValidationError as error:
        raise UserError(f"preset '{name}' with {overrides}: {error}") from error


class CoreInputs(Config, frozen=True, kw_only=True):
    """Preprocessed tensors for the core boundary.

    Args:
        path: An .npz file; per model input an array (inputs, ...): the rotation, then one call's input.
    """

    path: str


class EncodedInputs(Config, frozen=True, kw_only=True):
    """Encoded pictures for the end-to-end boundary, read into memory before anything is timed.

    Args:
        files: Pictures (JPEG, PNG).
        preprocess: How they become the model's input.
        task: ``"seg"`` (answer: class map at input size) or ``"cls"`` (answer: top-5).
    """

    files: tuple[str, ...]
    preprocess: Preprocess
    task: Task


class RowSpec(Config, frozen=True, kw_only=True):
    """One row to measure: an artefact on a runtime under a condition.

    Args:
        group: Rows of a group are interleaved, and ratios are taken inside it; usually the model's name.
        role: What the row is to the others of its group; at most one row per role and condition.
        path: The artefact's file.
        artifact: The name under which the report knows it.
        affinity: Cores to run on; empty leaves that to the operating system.
        macs: Multiply-accumulates of one call, for the rate; 0 when not known.
        memory_limit_bytes: Address space the worker may use; 0 is no limit.
        explain: Whether to ask the runtime for its own profile after the measurement.
    """

    group: str
    runtime: str
    precision: str
    path: str
    core: CoreInputs | None = None
    encoded: EncodedInputs | None = None
    role: Role = ""
    mode: Mode = "back_to_back"
    rate: float = 0.0
    device: str = "cpu"
    threads: int = 1
    streams: int = 1
    affinity: tuple[int, ...] = ()
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    input_size: tuple[int, int] = (0, 0)
    artifact: str = ""
    sha256: str = ""
    size_bytes: int = 0
    recipe: str = ""
    profile: str = ""
    macs: int = 0
    memory_limit_bytes: int = 0
    explain: bool = False

    def __post_init__(self) -> None:
        """Refuse rows that contradict themselves."""
        if (self.core is None) == (self.encoded is None):
            raise ValueError("a row needs either 'core' or 'encoded' inputs")
        if (self.mode == "paced") != (self.rate > 0):
            raise ValueError("'rate' (frames per second, over 0) belongs to mode 'paced' and only there")
        if self.streams < 1 or self.threads < 1:
            raise ValueError("'threads' and 'streams' must be at least 1")
        if self.streams > 1 and self.mode != "throughput":
            raise ValueError("more than one stream needs mode 'throughput'")

    @property
    def boundary(self) -> Boundary:
        """``core``: tensor in, the network's output out; ``end_to_end``: picture bytes in, answer out."""
        return "core" if self.encoded is None else "end_to_end"

    def settings(self) -> SessionSettings:
        """What the runtime is told."""
        return SessionSettings(threads=self.threads, precision=self.precision, device=self.device, options=self.options)

    @property
    def condition(self) -> tuple[Any, ...]:
        """What a row and its reference must have in common for a ratio to mean something."""
        return (
            self.group, self.runtime, self.boundary, self.mode, self.rate, self.device, self.threads,
            self.streams, self.input_size,
        )  # fmt: skip

    @property
    def label(self) -> str:
        """The row in a few words, for progress and errors."""
        parts = [self.artifact or self.group, self.runtime, self.precision, self.boundary]
        parts += [self.mode] if self.mode != "back_to_back" else []
        return " ".join(parts)
