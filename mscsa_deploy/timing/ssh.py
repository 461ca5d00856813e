"""Commands on another machine, by the OpenSSH that is installed here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from mscsa_deploy.errors import StageError, UnsupportedError, UserError

CONNECTION_BROKE = 255
"""The status that ssh ends with when it, not the far command, failed."""
OPTIONS = (
    "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
)  # fmt: skip
_PLACE = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][\w.-]*)@)?(?P<host>[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:]+\])(?::(?P<port>\d+))?/?"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to: ``ssh://[user@]host[:port]``.

    Args:
        host: Name, IPv4 or IPv6 address, or an alias of the ssh configuration.
        user: Empty for the ssh configuration's choice.
        port: None for the ssh configuration's choice.
    """

    host: str
    user: str = ""
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place that `text` names.

        Raises:
            UserError: It is not of the form above.
        """
        found = _PLACE.fullmatch(text)
        if found is None or int(found["port"] or 1) not in range(1, 65536):
            raise UserError(f"'{text}' names no machine", hint="write ssh://user@host or ssh://user@host:port")
        port = int(found["port"]) if found["port"] else None
        return cls(found["host"].strip("[]"), found["user"] or "", port)

    def __str__(self) -> str:
        name = f"{self.user}@{self.host}" if self.user else self.host
        return f"{name}:{self.port}" if self.port else name


class Connection:
    """Runs commands on a far machine.

    Args:
        place: The machine.
        options: More arguments for ssh, e.g. ``("-F", "config")``.
    """

    def __init__(self, place: Place, options: Sequence[str] = ()) -> None:
        program = shutil.which("ssh")
        if program is None:
            raise UnsupportedError("there is no ssh program here", hint="apt-get install openssh-client")
        target = f"{place.user}@{place.host}" if place.user else place.host
        port = ("-p", str(place.port)) if place.port else ()
        self.place = place
        self._prefix = (program, *OPTIONS, *options, *port, "-T", target)

    def command(self, words: Sequence[str]) -> tuple[str, ...]:
        """The local command that runs `words` there, quoted for the far shell."""
        return (*self._prefix, shlex.join(words))

    def run(
        self, words: Sequence[str], *, send: bytes = b"", timeout: float = 600
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `words` there and wait.

        Raises:
            StageError: The connection failed, or took longer than `timeout` seconds.
        """
        try:
            done = subprocess.run(  # noqa: S603 - no shell; the far side's words are quoted
                self.command(words), input=send, capture_output=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise self.broken(f"no answer within {timeout:.0f} s") from None
        if done.returncode == CONNECTION_BROKE:
            raise self.broken(last_line(done.stderr))
        return done

    def expect(self, words: Sequence[str], *, send: bytes = b"", what: str) -> bytes:
        """Standard output of `words`, which must succeed.

        Raises:
            StageError: They failed, or the connection did.
        """
        done = self.run(words, send=send)
        if done.returncode:
            raise StageError(what, str(self.place), last_line(done.stderr) or f"status {done.returncode}")
        return done.stdout

    def broken(self, reason: str) -> StageError:
        """The error for a connection that could not be made or was lost."""
        return StageError(
            "connect", str(self.place), reason or "the connection was closed",
            hint=f"check that 'ssh {self.place.host}' works without a password, then run again",
        )  # fmt: skip


def last_line(noise: bytes) -> str:
    """The last line of what a command said, without the space around it; empty if it said nothing."""
    lines = noise.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
