"""HTTP connections whose bodies are received where they stay.

The kernel writes a body of a tensor's size into the one buffer that becomes the tensor, past the parser, which would
copy it four times. The head of a request that needs no task (see `direct`) passes it too, where it is the same as the
last one's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from mscsa_deploy.serving.direct import Way
from mscsa_deploy.serving.protocol import GuardedProtocol
from mscsa_deploy.serving.settings import Limits

_SCRATCH_BYTES = 128 << 10
_END_OF_HEAD = b"\r\n\r\n"
_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)


class Connection(asyncio.BufferedProtocol):
    """What the transport talks to: it receives whole bodies itself and leaves everything else to the HTTP protocol.

    Args:
        http: The HTTP protocol of this connection.
    """

    def __init__(self, http: GuardedProtocol) -> None:
        self._http = http
        # Of the last request, where that needed no task.
        self._head = b""
        self._bytes = bytearray(_SCRATCH_BYTES)
        self._scratch = memoryview(self._bytes)

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        self._http.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._http.connection_lost(exc)

    def eof_received(self) -> bool:
        """The client sends no more; whether it is still to get its answer."""
        return self._http.finish()

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._http.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: what is missing of a body that is received whole, or a buffer for the parser."""
        del sizehint
        missing = self._http.missing
        return self._scratch if missing is None else missing

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` have come."""
        http = self._http
        if http.missing is not None:
            http.body_received(nbytes)
            return
        data = self._scratch[:nbytes]
        if http.before_head:
            known = self._head
            # The bytes beyond `nbytes` are older ones.
            if known and nbytes >= len(known) and self._bytes.startswith(known) and http.repeat(nbytes - len(known)):
                self._receive(data[len(known) :])
                return
            # The parser gets the head alone where the body is one that is received whole.
            end = self._bytes.find(_END_OF_HEAD, 0, nbytes) + len(_END_OF_HEAD)
            if end >= len(_END_OF_HEAD):
                head = bytes(data[:end])
                http.data_received(without_upgrade(head))
                # Empty lines, which may come before a head, are none.
                self._head = head if http.direct is not None and http.missing is not None else b""
                self._receive(data[end:])
                return
        self._parse(data)

    def _receive(self, data: memoryview) -> None:
        """The connection has received `data` behind a head that the protocol has."""
        http = self._http
        if http.missing is not None and len(data) <= len(http.missing):
            http.missing[: len(data)] = data
            http.body_received(len(data))
        elif data:
            self._parse(data)

    def _parse(self, data: memoryview) -> None:
        """Leave `data` to the parser; the last head may be another one after this."""
        self._head = b""
        self._http.data_received(bytes(data))
        if self._http.missing:
            # The rest of the body has its time, though it may never begin to come.
            self._http.body_received(0)


def without_upgrade(head: bytes) -> bytes:
    """`head` without an offer to go on in another protocol, which may be passed over (RFC 9110, 7.8).

    The parser would end the request where the other protocol was to begin, before its body.
    """
    return _UPGRADE.sub(b"\r\nx-upgrade:", head)


def guarded(limits: Limits, way: Way | None = None) -> Callable[..., Connection]:
    """What makes a connection with `limits`, of the arguments of uvicorn's protocols."""
    protocol = type("GuardedProtocol", (GuardedProtocol,), {"limits": limits, "way": way})
    return lambda *args, **kwargs: Connection(protocol(*args, **kwargs))
