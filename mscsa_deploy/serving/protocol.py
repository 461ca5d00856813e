"""The server's HTTP protocol: uvicorn's, with limits on what a client may hold open, and bodies received whole.

A request that needs no task (see `direct`) has none here; all others go to the application as uvicorn has it.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mscsa_deploy.serving.direct import Direct, Way
from mscsa_deploy.serving.gate import answer
from mscsa_deploy.serving.inference import WRITE_WHOLE
from mscsa_deploy.serving.intake import WHOLE_BODY
from mscsa_deploy.serving.refusal import Refusal
from mscsa_deploy.serving.settings import Limits

_REFERENCES_OF_ONE_ATTRIBUTE = 2
"""What `sys.getrefcount` counts for an object that one attribute holds: that, and its own argument."""


class GuardedProtocol(HttpToolsProtocol):
    """The server's HTTP protocol, with limits on how long and how large a request's head may be."""

    limits: ClassVar[Limits] = Limits()
    way: ClassVar[Way | None] = None
    """Where requests pass that need no task."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._send_timer: asyncio.TimerHandle | None = None
        self._whole: bytearray | None = None
        self._spare = bytearray()
        self._size = 0
        self._at_head = self._parsed = False
        self._file = -1
        self.direct: Direct | None = None
        """The request that has no task, or had none and is answered; None where the last one was none of these."""
        self.missing: memoryview | None = None
        """The part of the body that has not come yet, where it is received whole."""

    def connection_made(self, transport: Any) -> None:
        """Give a new connection its time for a first request."""
        super().connection_made(transport)
        self._file = transport.get_extra_info("socket").fileno()
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers; the socket closes after this."""
        self._stop_timer()
        self._stop_send_timer()
        if self.direct is not None:
            self.direct.close()
            self.direct = None
        super().connection_lost(exc)

    @property
    def before_head(self) -> bool:
        """Whether the next byte is the first of a head."""
        return self._in_head and not self._head_bytes

    def body_received(self, size: int) -> None:
        """The first `size` bytes of `missing` have come."""
        assert self.missing is not None
        self.missing = self.missing[size:]
        if not self.missing:
            if self._parsed:
                # The parser has not seen the body; the next request has one of its own.
                self.parser = httptools.HttpRequestParser(self)
            self.on_message_complete()
        elif self.direct is not None:
            self.direct.wait()

    def finish(self) -> bool:
        """End the connection after the request that is being answered, whose body is whole; False if there is none."""
        cycle = self.cycle
        # TLS has no half-closed connections.
        if self.scheme == "https" or cycle is None or cycle.response_complete or cycle.more_body:
            return False
        cycle.keep_alive = False
        return True

    def _unset_keepalive_if_required(self) -> None:
        """Only a further request stops the time that an answered connection may stay open, not the last one's rest."""
        if self._in_head or self.transport.is_closing():
            super()._unset_keepalive_if_required()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: offers to upgrade are passed over or refused before."""

    def data_received(self, data: bytes) -> None:
        """Count what comes before the end of the head; take nothing more where the connection is to end."""
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or not self._head_bytes or self.transport.is_closing():
            return
        if self._head_bytes > self.limits.header_bytes:
            self._refuse(Refusal(431, "the request's head is too large"))
        elif self._head_timer is None:
            # A further request on an open connection has its own time.
            self._start_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(Refusal(400, msg))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer without a whole request, and close the connection."""
        self._withdraw()
        self.transport.write(_raw(refusal))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Over the limit of connections, answer as the protocol has it; health checks are always answered."""
        if app is service_unavailable:
            app = self.app if cycle.scope["path"].startswith("/v2/health/") else _too_many
        elif self._at_head and self._begin(cycle):
            return
        if cycle.scope["method"] == "POST":
            cycle.scope["state"][WRITE_WHOLE] = functools.partial(self.write_whole, cycle)
        super()._start_asgi_task(cycle, app)

    def _begin(self, cycle: RequestResponseCycle) -> bool:
        """Whether a request needs no task."""
        plain = self._size and cycle.keep_alive and not cycle.waiting_for_100_continue and self.scheme == "http"
        if self.way is None or not plain:
            return False
        self.direct = self.way.begin(cycle, file=self._file, take_over=self._take_over)
        return self.direct is not None

    def _take_over(self, cycle: RequestResponseCycle) -> None:
        """Give a task to a request that had none."""
        self.direct = None
        self._start_asgi_task(cycle, self.app)

    def _withdraw(self) -> None:
        """No worker answers on this connection from here on."""
        if self.direct is not None:
            self.direct.withdraw()

    def shutdown(self) -> None:
        """The server stops: it waits for tasks, and ends them when its time is over."""
        self._withdraw()
        super().shutdown()

    def repeat(self, received: int) -> bool:
        """Begin another request with the head of the last one, and with `received` bytes of its body or less.

        Returns:
            False where the head has to be read once more.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            # It may be on its way.
            self._withdraw()
        direct, most = self.direct, self.limit_concurrency or 0
        if direct is None or direct.cycle is not self.cycle or not self.cycle.response_complete:
            return False
        full = len(self.connections) >= most or len(self.tasks) >= most
        if full or received > self._size or self.transport.is_closing():
            return False
        super()._unset_keepalive_if_required()
        direct.again(self.app_state.copy(), self.server_state.default_headers)
        self._in_head = self._parsed = False
        self._receive_whole()
        return True

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._stop_timer()
        self._in_head = False
        if self.parser.should_upgrade():
            # The parser takes nothing that follows for a body.
            why = "this server goes on in no other protocol: send no CONNECT, and no header 'Upgrade'"
            self._refuse(Refusal(400, why))
            return
        # Who sends requests without waiting for answers gets them from tasks, one after the other.
        self._withdraw()
        self.direct = None
        # It may have come with the rest of the last request.
        super()._unset_keepalive_if_required()
        declared = dict(self.headers).get(b"content-length", b"")
        size = int(declared) if declared.isdigit() else 0
        self._size = size if size <= whole_bytes(self.limits) else 0
        self._at_head = self._parsed = True
        super().on_headers_complete()
        self._at_head = False
        if self._size:
            self._receive_whole()

    def _receive_whole(self) -> None:
        self._whole = self._spare = self._buffer(self._size)
        self.missing = memoryview(self._whole)

    def _buffer(self, size: int) -> bytearray:
        """Memory for a body: that of the last one, where it has the size and nobody looks at it any more."""
        alone = sys.getrefcount(self._spare) == _REFERENCES_OF_ONE_ATTRIBUTE
        return self._spare if alone and len(self._spare) == size else bytearray(size)

    def on_body(self, body: bytes) -> None:
        """The parser has read a piece of the body; of one that is received whole, what came with the head."""
        if self.missing is None:
            super().on_body(body)
            return
        self.missing[: len(body)] = body
        self.missing = self.missing[len(body) :]

    def on_message_complete(self) -> None:
        """The next bytes belong to another head."""
        if self.transport.is_closing():
            return
        body, self._whole, self.missing = self._whole, None, None
        if body is not None and self.direct is None:
            self.cycle.scope["state"][WHOLE_BODY] = body
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0
        if body is not None and self.direct is not None:
            self.direct.take(body)

    def write_whole(self, cycle: RequestResponseCycle, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write a whole answer with status 200 at once, so that the client is woken once.

        Returns:
            False where it has to go the usual way: the client is gone, or has not taken its last answer.
        """
        if cycle.disconnected or not cycle.keep_alive or self.flow.write_paused:
            return False
        lines = [name + b": " + value for name, value in (*cycle.default_headers, *headers)]
        self.transport.writelines([b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(lines) + b"\r\n\r\n", body])
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        self.on_response_complete()
        return True

    def pause_writing(self) -> None:
        """The client has more to take than it takes: from now on it has its time."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken nearly all of it."""
        self._stop_send_timer()
        super().resume_writing()

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_seconds, self._give_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        self.transport.close()


def _raw(refusal: Refusal) -> bytes:
    """A refusal as the bytes of an answer after which the connection closes."""
    fields = {**refusal.headers, "content-length": len(refusal.body), "connection": "close"}
    lines = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + refusal.body


async def _too_many(scope: Any, receive: Any, send: Any) -> None:
    """The application of connections over the limit."""
    del scope, receive
    await answer(Refusal(503, "the server has too many connections; try again later", retry_after=1), send)


def whole_bytes(limits: Limits) -> int:
    """Up to which declared length a body is received whole; longer ones pass the parser in pieces.

    All connections together never hold more than the limit of bodies in memory, which counts the pieces.
    """
    return limits.in_flight_bytes // limits.connections
