"""What every runtime offers: probe, load a file into a session, run it, and profile it by operator.

A runtime names what it accepts by *kind of file*, judges inputs before the vendor's library sees them, maps
the vendor's errors in one place, and never times itself: clocks belong to `mscsa_deploy.timing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from pathlib import Path

    from mscsa_deploy.core.tensors import Array, Feed, TensorSpec

PRECISIONS = ("int8", "bf16", "fp16", "fp32")
"""Names of arithmetic precisions, the lowest first; the order in which a mixed one is spelled."""

KINDS = MappingProxyType(
    {".safetensors": "torch", ".onnx": "onnx", ".xml": "openvino", ".engine": "engine", ".fake": "fake"}
)
"""Kind of artefact by file suffix, as in `Artifact.kind`; ``fake`` only exists for tests."""

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a runtime can do on this machine.

    Args:
        available: Whether `Runtime.load` can work at all.
        reason: Why not (or not entirely); empty when there is nothing to say.
        how_to_install: The line that would make it available.
        version: Of the vendor's library; empty when it is not installed.
        devices: Devices it can run on here, e.g. ``("cpu",)``.
        precisions: What this machine can execute through it, of `PRECISIONS`.
    """

    available: bool
    reason: str
    how_to_install: str
    version: str
    devices: tuple[str, ...]
    precisions: tuple[str, ...]

    def obstacle(self, precision: str) -> str:
        """Why `precision` cannot be run here, with the line that would change it; empty if it can."""
        if not self.available:
            return "; ".join(filter(None, (self.reason, self.how_to_install)))
        return "" if precision in self.precisions else f"this machine cannot execute {precision} through it"


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a session is to run.

    Args:
        threads: Compute threads, at least 1.
        precision: ``"fp32"`` (pinned: no silent bf16 or TF32), ``"bf16"``, ``"fp16"``, or ``"int8"`` for a
            quantized file, whose float remainder then runs in fp32 unless the options say otherwise.
        device: ``"cpu"`` or ``"cuda"``.
        options: Settings of the one runtime, by its own names (see the module of each); a name that the
            runtime does not know is a `UserError`.
        cache: Directory where the runtime may keep what it compiled, to load sooner the next time; empty for
            none. Runtimes that compile quickly ignore it.
    """

    threads: int = 1
    precision: str = "fp32"
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=lambda: _NO_OPTIONS)
    cache: str = ""


class Session(Protocol):
    """A loaded model, ready to answer. Also a context manager that closes itself."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Declared inputs, in order; -1 stands for a free axis."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Declared outputs, in order."""

    @property
    def threads(self) -> int:
        """Compute threads, read back from the runtime."""

    @property
    def executed_precision(self) -> str:
        """Arithmetic precisions really executed, read back from the runtime on first use.

        One of `PRECISIONS`, or several joined by ``+`` with the lowest first, e.g. ``"int8+fp32"``.
        """

    def run(self, feed: Feed) -> dict[str, Array]:
        """Every output by name, for inputs by name; blocks until they are in fresh host memory.

        Raises:
            SpecError: `feed` has a wrong name, dtype or shape.
            UserError: The session is closed.
            StageError: The runtime failed.
        """

    def close(self) -> None:
        """Release what the session holds; closing twice is allowed."""

    def __enter__(self) -> Self:
        """The session itself."""

    def __exit__(self, *exc: object) -> None:
        """Close it."""


@dataclass(frozen=True, slots=True)
class OpRow:
    """One kernel of a runtime's own profile.

    Args:
        node: The kernel's name in the executed graph.
        op: Its type as the runtime names it, e.g. ``"Convolution"`` or ``"QLinearConv"``.
        precision: Element type it computes in, of `PRECISIONS`, or the runtime's name for other types.
        kernel: The implementation chosen, e.g. ``"brgconv_avx512_amx_i8"`` or the execution provider.
        layout: Memory layout of its output as the runtime names it; empty where it does not say.
        ms: Mean milliseconds per inference, all calls together.
        count: Calls per inference.
        sources: Names of the nodes of the given file that it stands for; empty where not known.
    """

    node: str
    op: str
    precision: str
    kernel: str
    layout: str
    ms: float
    count: int
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OpProfile:
    """Where one inference spends its time, according to the runtime itself.

    Args:
        runtime: Name of the runtime.
        version: Of the vendor's library.
        precision: As `Session.executed_precision`.
        runs: Inferences averaged over; profiling slows each of them, so compare shares, not totals.
        rows: One per kernel, the slowest first.
    """

    runtime: str
    version: str
    precision: str
    runs: int
    rows: tuple[OpRow, ...]

    @property
    def total_ms(self) -> float:
        """Sum over all kernels of one inference."""
        return sum(row.ms for row in self.rows)

    def ms_by(self, *fields: str) -> dict[tuple[str, ...], float]:
        """Milliseconds summed over rows that agree in `fields` (names of `OpRow`), the largest first."""
        sums: dict[tuple[str, ...], float] = {}
        for row in self.rows:
            key = tuple(str(getattr(row, name)) for name in fields)
            sums[key] = sums.get(key, 0.0) + row.ms
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


class Runtime(Protocol):
    """One inference library behind the common interface."""

    @property
    def name(self) -> str:
        """Its name in `RUNTIMES`."""

    @property
    def accepts(self) -> tuple[str, ...]:
        """Kinds of artefact it loads, of the values of `KINDS`, its own first."""

    def probe(self) -> Capabilities:
        """What it can do here; never raises."""

    def load(self, path: Path, settings: SessionSettings) -> Session:
        """A session for the file at `path`.

        Raises:
            UserError: The file is missing, damaged or of a kind that is not accepted; a setting is wrong.
            UnsupportedError: Library, device or precision are not to be had on this machine.
            StageError: The runtime could not compile the model.
        """

    def profile(self, path: Path, settings: SessionSettings, feed: Feed, *, runs: int = 20) -> OpProfile:
        """Time by kernel for `feed`, from the runtime's own profiler, averaged over `runs` inferences.

        Raises:
            UnsupportedError: This runtime has no profiler, or not on this machine.
        """
