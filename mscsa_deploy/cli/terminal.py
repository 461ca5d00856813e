"""What a command says and where: results on stdout, progress and remarks on stderr.

With ``--json`` exactly one JSON document goes to stdout and everything meant for people goes to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mscsa_deploy.core.progress import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console

    from mscsa_deploy.errors import DeployError

PLAIN_LINE_SECONDS = 2.0
Command = Callable[..., Any]


def common_options(function: Command) -> Command:
    """Add ``--json``, ``-q`` and ``-v`` to a command and hand them over as one `terminal` argument.

    Stands nearest to the function, so that these options come last in ``--help``.
    """

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; the rest on stderr.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks.")
    @click.option("-v", "--verbose", count=True, help="More remarks; twice for every node.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, quiet: bool, verbose: int, **kwargs: Any) -> Any:
        _configure_logging(quiet=quiet, verbose=verbose)
        return function(*args, terminal=Terminal(as_json, quiet), **kwargs)

    return wrapper


def command_line() -> str:
    """The command as typed, without the path of the program."""
    return shlex.join(["mscsa-deploy", *sys.argv[1:]])


def _configure_logging(*, quiet: bool, verbose: int) -> None:
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("mscsa_deploy")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where the output of one command goes."""

    as_json: bool
    quiet: bool

    def show(self, *renderables: Any) -> None:
        """Print for people: on stdout, or on stderr when stdout belongs to the JSON document."""
        if self.as_json and self.quiet:
            return
        console = self.console()
        for renderable in renderables:
            # A path in a sentence stays in one piece for whoever reads it with a program.
            console.print(renderable, soft_wrap=isinstance(renderable, str) and not console.is_terminal)

    def say(self, *texts: str) -> None:
        """Print for people what is not markup: brackets in it, as in a file's name, are brackets."""
        from rich.markup import escape

        self.show(*map(escape, texts))

    def note(self, text: str) -> None:
        """A remark on stderr, unless quiet."""
        if not self.quiet:
            sys.stderr.write(text + "\n")

    def complain(self, error: DeployError) -> int:
        """Say on stderr what went wrong with a part of the work, the rest being done; returns the exit code."""
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code

    def document(self, value: Any, error: DeployError | None = None) -> None:
        """The JSON document of this command, if one was asked for, with the `error` that work ended in all the same."""
        if self.as_json:
            from mscsa_deploy.core.config import to_json, to_plain

            if error is not None:
                told = {"kind": error.kind, "message": error.message, "hint": error.hint}
                value = {**to_plain(value), "error": told}
            sys.stdout.write(to_json(value).decode())

    def console(self) -> Console:
        """A rich console for people's output; wide enough for a table when it is not a terminal."""
        from rich.console import Console

        console = Console(stderr=self.as_json, highlight=False, soft_wrap=False)
        return console if console.is_terminal else Console(stderr=self.as_json, highlight=False, width=140)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """A bar on a terminal, a line every two seconds elsewhere, nothing when quiet."""
        if self.quiet:
            yield silent
        elif sys.stderr.isatty():
            with _bar() as progress:
                yield progress
        else:
            yield _Lines()


class _Lines:
    """Plain progress lines: each new label at once, then at most one line every two seconds."""

    def __init__(self) -> None:
        self.label = ""
        self.last = 0.0

    def __call__(self, done: int, total: int, label: str) -> None:
        now = time.monotonic()
        if label == self.label and now - self.last < PLAIN_LINE_SECONDS:
            return
        self.label, self.last = label, now
        sys.stderr.write(f"  {label} {done}/{total}\n" if total > 1 else f"  {label}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(done: int, total: int, label: str) -> None:
            if label not in tasks:
                for finished in tasks.values():
                    bar.update(finished, visible=False)
                tasks[label] = bar.add_task(label, total=total)
            bar.update(tasks[label], completed=done, total=total)

        yield report
