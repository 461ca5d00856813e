"""What all adapters share: state and input checks around the vendor's call, and file and option checks."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

from mscsa_deploy.core.tensors import check_feed
from mscsa_deploy.errors import StageError, UnsupportedError, UserError, unknown_name
from mscsa_deploy.runtimes.protocol import KINDS, PRECISIONS, Capabilities, SessionSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from mscsa_deploy.core.tensors import Array, Feed, TensorSpec
    from mscsa_deploy.errors import DeployError
    from mscsa_deploy.runtimes.protocol import OpProfile

VendorErrors = AbstractContextManager[None]


class CheckedSession(ABC):
    """A `Session` that refuses wrong inputs and use after close before the vendor's library sees them.

    An adapter writes `_run`, `_close` and `_read_precision`, and hands in its seam for vendor errors.

    Args:
        inputs: Declared inputs, in order.
        outputs: Declared outputs, in order; a callable when finding them out costs time.
        threads: Compute threads, read back from the runtime.
        seam: ``seam(doing)`` maps vendor errors raised inside it to ours.
    """

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...] | Callable[[], tuple[TensorSpec, ...]],
        *,
        threads: int,
        seam: Callable[[str], VendorErrors],
    ) -> None:
        self._inputs = inputs
        self._find_outputs = outputs
        self._threads = threads
        self._seam = seam
        self._closed = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Declared inputs, in order."""
        return self._inputs

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Declared outputs, in order."""
        if not callable(self._find_outputs):
            return self._find_outputs
        with self._seam("finding the output shapes"):
            return self._find_outputs()

    @property
    def threads(self) -> int:
        """Compute threads, read back from the runtime."""
        return self._threads

    @cached_property
    def executed_precision(self) -> str:
        """Arithmetic precisions really executed, as the runtime tells them; see the protocol."""
        self._refuse_closed()
        with self._seam("reading the executed precision"):
            return join_precisions(self._read_precision())

    def run(self, feed: Feed) -> dict[str, Array]:
        """Every output by name in fresh host memory; see the protocol for the errors."""
        self._refuse_closed()
        check_feed(self._inputs, feed)
        with self._seam("inference"):
            return self._run(feed)

    def close(self) -> None:
        """Release the vendor's objects; closing twice is allowed."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise UserError("the session is closed", hint="run it inside its with-block, or load the file again")

    @abstractmethod
    def _run(self, feed: Feed) -> dict[str, Array]:
        """Outputs by name in memory that no later run overwrites."""

    @abstractmethod
    def _close(self) -> None:
        """Drop the vendor's objects."""

    @abstractmethod
    def _read_precision(self) -> Iterable[str]:
        """Precisions of the kernels that do arithmetic, in any order, repeats allowed."""


class CheckedRuntime(ABC):
    """A `Runtime` that judges file and settings, and refuses what `probe` says cannot run here."""

    name: ClassVar[str]
    accepts: ClassVar[tuple[str, ...]]
    options: ClassVar[tuple[str, ...]]
    """Names that `SessionSettings.options` may hold."""

    @abstractmethod
    def probe(self) -> Capabilities:
        """What it can do here; never raises."""

    @abstractmethod
    def load(self, path: Path, settings: SessionSettings) -> CheckedSession:
        """A session for the file at `path`; see the protocol for the errors."""

    @abstractmethod
    def profile(self, path: Path, settings: SessionSettings, feed: Feed, *, runs: int = 20) -> OpProfile:
        """Time by kernel, from the runtime's own profiler; see the protocol for the errors."""

    def check(self, path: Path, settings: SessionSettings) -> Capabilities:
        """The runtime's capabilities, after judging `path` and `settings` against them.

        Raises:
            UserError: Unknown precision, option or file kind, fewer than one thread, or no such file.
            UnsupportedError: The runtime is not installed, or device or precision are not to be had here.
        """
        self._check_settings(settings)
        self._check_file(path)
        can = self.probe()
        if not can.available:
            raise UnsupportedError(f"runtime '{self.name}' cannot run here: {can.reason}", hint=can.how_to_install)
        if settings.device not in can.devices:
            raise UnsupportedError(
                f"runtime '{self.name}' has no device '{settings.device}' on this machine",
                hint=f"it has: {', '.join(can.devices)}",
            )
        if settings.precision not in can.precisions:
            raise UnsupportedError(
                f"runtime '{self.name}' cannot execute {settings.precision} on this machine",
                hint=f"it can execute: {', '.join(can.precisions)}",
            )
        return can

    def _check_settings(self, settings: SessionSettings) -> None:
        if settings.precision not in PRECISIONS:
            raise unknown_name("precision", settings.precision, PRECISIONS)
        if settings.threads < 1:
            raise UserError(f"a session needs at least one thread, got {settings.threads}")
        for option in settings.options:
            if option not in self.options:
                raise unknown_name(f"{self.name} option", option, self.options)

    def _check_file(self, path: Path) -> None:
        kind = KINDS.get(path.suffix.lower(), "")
        if kind not in self.accepts:
            suffixes = [suffix for suffix, known in KINDS.items() if known in self.accepts]
            raise UserError(
                f"runtime '{self.name}' cannot load '{path.name}'",
                hint=f"it loads files named {', '.join(suffixes)}",
            )
        if not path.is_file():
            raise UserError(f"there is no model file '{path}'")


def join_precisions(found: Iterable[str]) -> str:
    """The distinct precisions of `found` that are of `PRECISIONS`, lowest first, joined by ``+``."""
    present = set(found)
    return "+".join(name for name in PRECISIONS if name in present)


@contextlib.contextmanager
def vendor_errors(
    table: Mapping[type[BaseException], type[DeployError]], *, runtime: str, subject: str, doing: str
) -> Iterator[None]:
    """Raise our error for each vendor exception of `table`, with the vendor's own in ``__cause__``.

    Args:
        table: Our class for each of the vendor's; the entry nearest in the exception's ancestry counts.
        runtime: Name of the runtime, for the message.
        subject: What it works on, usually the file's name.
        doing: What it was doing, e.g. ``"inference"``.
    """
    try:
        yield
    except tuple(table) as error:
        kind = next(table[ancestor] for ancestor in type(error).__mro__ if ancestor in table)
        reason = brief(str(error)) or type(error).__name__
        if issubclass(kind, StageError):
            raise StageError(f"{runtime} {doing}", subject, reason) from error
        raise kind(f"{runtime} {doing} refused '{subject}': {reason}") from error


def brief(text: str, limit: int = 400) -> str:
    """A vendor's message on one line without source locations, at most `limit` characters."""
    lines = (line.strip() for line in text.splitlines())
    kept = [line for line in lines if line and not line.startswith("Exception from ")]
    joined = " ".join(kept)
    return joined if len(joined) <= limit else f"{joined[: limit - 3]}..."
