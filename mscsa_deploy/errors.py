"""Every error this package raises on purpose, with the exit code the command line gives it.

    DeployError
    ├── UserError          2  the caller can fix it: unknown name, bad file, bad recipe, wrong shape
    │   ├── SpecError         a tensor or image has another rank, shape, dtype or layout than declared
    │   └── CheckpointError   a checkpoint is unreadable, unsafe or does not fit the model
    ├── UnsupportedError   3  a fair request that this machine cannot serve
    ├── StageError         4  a stage (trace, simplify, calibrate, build, ...) failed
    └── GateError          5  a check did not pass (parity, accuracy, regression)

Anything else that reaches the command line is a bug of ours: exit code 1, traceback kept.
A message says what was wrong, where, and what was expected; the hint says what to do.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class DeployError(Exception):
    """Base of the tree above.

    Args:
        message: What was wrong, where, and what was expected instead.
        hint: What to do about it; empty when the message already says so.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UserError(DeployError):
    """The caller can fix this: an unknown name, a bad file, a bad recipe, a wrong shape."""

    exit_code: ClassVar[int] = 2
    kind: ClassVar[str] = "user"


class SpecError(UserError):
    """A tensor or image has another name, rank, shape, dtype or layout than its spec declares."""

    kind: ClassVar[str] = "spec"


class CheckpointError(UserError):
    """A checkpoint cannot be read, would run code when read, or does not fit the model."""

    kind: ClassVar[str] = "checkpoint"


class UnsupportedError(DeployError):
    """A fair request that this machine cannot serve; the hint holds the line that would make it possible."""

    exit_code: ClassVar[int] = 3
    kind: ClassVar[str] = "unsupported"


class StageError(DeployError):
    """A stage failed on a subject.

    Args:
        stage: Name of the stage, e.g. ``"simplify"``.
        subject: What it worked on: a model, file, pass or node.
        reason: Why it failed, in the tool's own words where they help.
        hint: What to do about it.
    """

    exit_code: ClassVar[int] = 4
    kind: ClassVar[str] = "stage"

    def __init__(self, stage: str, subject: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{stage} failed on {subject}: {reason}", hint=hint)
        self.stage = stage
        self.subject = subject
        self.reason = reason


class GateError(DeployError):
    """A check did not pass: numeric parity, task accuracy, or a regression limit."""

    exit_code: ClassVar[int] = 5
    kind: ClassVar[str] = "gate"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """A `UserError` for `name` that is none of `known`, offering the nearest one."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
    return UserError(f"unknown {kind} '{name}'", hint=hint)
