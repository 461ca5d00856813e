"""What a server is told: where it listens, how much it takes, how long it waits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

Answers = Literal["all", "class-maps"]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one request, and all of them together, may ask for.

    Args:
        body_bytes: Longest request body.
        pixels: Largest picture, width times height.
        in_flight_bytes: Bodies held in memory together.
        header_bytes: Longest request line with headers.
        connections: Open connections.
        header_seconds: From opening a connection to a whole request head.
        body_seconds: For the whole body.
        send_seconds: For a client to take the answer.
    """

    body_bytes: int = 64 << 20
    pixels: int = 40_000_000
    in_flight_bytes: int = 1 << 30
    header_bytes: int = 64 << 10
    connections: int = 1024
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    send_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Work:
    """How a model's requests are worked off.

    Args:
        workers: Sessions per model; 0 makes one per core that this process may use, divided by `threads`.
        threads: Compute threads per session; None takes what the bundle was measured with.
        runtime: Only this runtime.
        precision: Only this precision.
        queue: Requests that may wait per worker; further ones are refused.
        deadline_ms: From a request's whole arrival to its answer, unless the client asks for less.
        max_batch: Largest batch that is gathered, where the artefact has a free batch axis.
        batch_delay_ms: How long the first request of a batch waits for others, when all workers were busy.
        stalled_seconds: A session that computes for longer is taken for hung.
        answers: ``all``; or ``class-maps``: of segmentation only those and overlays, where the bundle holds a file
            that ends in them, so that each worker holds one session instead of two.
    """

    workers: int = 0
    threads: int | None = None
    runtime: str | None = None
    precision: str | None = None
    queue: int = 16
    deadline_ms: float = 10_000.0
    max_batch: int = 8
    batch_delay_ms: float = 2.0
    stalled_seconds: float = 120.0
    answers: Answers = "all"

    def __post_init__(self) -> None:
        if self.queue < 1 or self.max_batch < 1 or self.workers < 0:
            raise UserError("a server needs a queue and a batch of at least 1, and no negative number of workers")
        if self.answers not in get_args(Answers):
            raise UserError(f"a server's answers are {' or '.join(get_args(Answers))}, not '{self.answers}'")
        if self.deadline_ms <= 0 or self.batch_delay_ms < 0:
            raise UserError("the deadline must be positive and the batch delay not negative (milliseconds)")

    def sessions(self, threads: int) -> int:
        """How many sessions of `threads` compute threads each a model gets."""
        return self.workers or max(1, usable_cores() // threads)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a server listens and whom it lets in.

    Args:
        host: Address; loopback unless told otherwise.
        port: TCP port; 0 takes a free one.
        token: Bearer token that every request but the health checks must carry; empty asks for none.
        tls_certificate: PEM file; None speaks plain HTTP.
        tls_key: PEM file of its private key.
        grace_seconds: For accepted requests to finish after a signal to stop.
        watch_seconds: How often bundles are looked at for a change; 0 never.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    grace_seconds: int = 30
    watch_seconds: float = 2.0

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UserError("TLS needs both a certificate and a key", hint="give --tls-cert and --tls-key together")
        for path in (self.tls_certificate, self.tls_key):
            if path is not None and not path.is_file():
                raise UserError(f"there is no file '{path}'", hint="TLS needs PEM files")
        if self.token and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise UserError("a token holds printable ASCII without blanks")

    @property
    def is_open(self) -> bool:
        """Whether others on the network reach it without a token."""
        return self.host not in LOOPBACK and not self.token


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
