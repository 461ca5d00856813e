"""How long work tells how far it is: a callable that the command line may draw as a bar."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with how many of how many units are done, and what is being worked on."""

    def __call__(self, done: int, total: int, label: str) -> None:
        """Report `done` of `total` units of `label`."""


def silent(done: int, total: int, label: str) -> None:
    """A `Progress` that shows nothing."""
