"""Requests that need no task: queued as soon as their body is there, answered by the worker that computed them.

That goes for plain requests for as long as nothing unusual happens. When something does, whether a refusal, the
deadline, a client that leaves or is slow, or the end of the server, a task takes over from where the request is: only
tasks know how anything but a whole answer is told.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

from mscsa_deploy.serving.gate import REQUEST_ID, Visit
from mscsa_deploy.serving.inference import ACCEPTED, Accepted, Asked, Inference, reply_headers, target
from mscsa_deploy.serving.intake import WHOLE_BODY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from mscsa_deploy.serving.calls import Reply
    from mscsa_deploy.serving.gate import Gate

PATIENCE_SECONDS = 0.05
"""How long the rest of a body may take; a task, with a limit of its own, waits for those that take longer."""


class Way:
    """Where requests pass that need no task.

    Args:
        gate: Counts them in and out.
        inference: Queues them.
    """

    def __init__(self, gate: Gate, inference: Inference) -> None:
        self.gate, self.inference = gate, inference

    def begin(
        self, cycle: RequestResponseCycle, *, file: int, take_over: Callable[[RequestResponseCycle], None]
    ) -> Direct | None:
        """Begin the request whose head is there; None where it is none that computes, or is to be refused.

        Args:
            cycle: The server's view of it.
            file: Number of the socket.
            take_over: Gives it a task.
        """
        scope: Any = cycle.scope
        if scope["method"] != "POST" or target(scope["path"]) is None:
            return None
        headers = dict(scope["headers"])
        try:
            self.gate.check_token(scope["path"], headers)
            asked = self.inference.ask(scope, Visit(headers))
        except Exception:  # noqa: BLE001 - its task meets the same, and tells it
            return None
        return Direct(self, headers, asked, cycle, file=file, take_over=take_over)


class Direct:
    """A request without a task, and those after it with the same head. All but `deliver` is for the event loop.

    Args:
        way: Where it passes.
        headers: Of the request, by lower-case name.
        asked: What it asks for.
        cycle: The server's view of it.
        file: Number of the socket.
        take_over: Gives it a task.
    """

    def __init__(
        self,
        way: Way,
        headers: Mapping[bytes, bytes],
        asked: Asked,
        cycle: RequestResponseCycle,
        *,
        file: int,
        take_over: Callable[[RequestResponseCycle], None],
    ) -> None:
        self.cycle = cycle
        scope: Any = cycle.scope
        self._scope = scope
        self._way, self._headers, self._asked, self._file, self._take_over = way, headers, asked, file, take_over
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._accepted: Accepted | None = None
        self._reply: Reply | None = None
        self._rest: memoryview | None = None
        # Held while a worker sends, so that the socket stays open meanwhile, and one answer is all there is.
        self._lock = threading.Lock()
        self._open = True
        self._visit = way.gate.enter(self._scope, headers)

    def again(self, state: dict[str, Any], default_headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin another request with the same head, after the last one was answered without a task.

        Args:
            state: Of its scope.
            default_headers: Of its answer.
        """
        cycle = self.cycle
        self._scope["state"] = state
        cycle.default_headers = list(default_headers)
        cycle.response_started = cycle.response_complete = False
        cycle.more_body = True
        cycle.message_event.clear()
        self._open = True
        self._visit = self._way.gate.enter(self._scope, self._headers)

    def wait(self) -> None:
        """The body is not whole yet."""
        if self._timer is None:
            self._timer = self._loop.call_later(PATIENCE_SECONDS, self.withdraw)

    def take(self, body: bytearray) -> None:
        """The body is whole."""
        self._stop_timer()
        try:
            self._accepted = self._way.inference.take(self._asked, body, self._visit, self)
        except Exception:  # noqa: BLE001 - its task meets the same, and tells it
            self._scope["state"][WHOLE_BODY] = body
            self.withdraw()

    def deliver(self, reply: Reply) -> bool:
        """Send the answer from a worker; False where a task has to."""
        cycle = self.cycle
        headers = [*cycle.default_headers, *reply_headers(reply), (REQUEST_ID, self._visit.id)]
        head = b"\r\n".join([b"HTTP/1.1 200 OK", *[b"%b: %b" % header for header in headers], b"\r\n"])
        with self._lock:
            transport = cycle.transport
            if not self._open or not cycle.keep_alive or transport.is_closing() or transport.get_write_buffer_size():
                return False
            self._open = False
            try:
                sent = os.writev(self._file, [head, reply.body])
            except OSError:
                # A socket that is full, or that has failed: which of them, the transport finds out.
                sent = 0
            if sent < len(head) + len(reply.body):
                self._rest = memoryview(head + reply.body)[sent:]
            self._reply = reply
        self._loop.call_soon_threadsafe(self._finish)
        return True

    def settled(self, future: asyncio.Future[Reply]) -> None:
        """There is a result that was not delivered: an answer, an error, or that the deadline has passed."""
        if not future.cancelled():
            # Looked at, it is not logged as an error that nobody handled, where the answer was faster.
            future.exception()
        # A batch that fails half-way tells those too that have their answer, and may have asked again.
        if self._accepted is not None and self._accepted.future is future:
            self.withdraw()

    def withdraw(self) -> None:
        """Give the request a task, unless the worker was faster; from here on it does not answer any more."""
        with self._lock:
            was_open, self._open = self._open, False
        if not was_open:
            self._finish()
            return
        self._stop_timer()
        if self._accepted is not None:
            self._scope["state"][ACCEPTED] = self._accepted
            self._accepted = None
        self._take_over(self.cycle)

    def close(self) -> None:
        """The connection has ended."""
        self.withdraw()
        if self.cycle.response_complete:
            # As at the end of a task: what is left of the connection is freed at once.
            self.cycle.on_response = _nothing

    def _finish(self) -> None:
        """The worker has answered: send what the socket did not take, and count the request out."""
        cycle, visit, accepted, reply, rest = self.cycle, self._visit, self._accepted, self._reply, self._rest
        if reply is None or accepted is None:
            return
        self._accepted = self._reply = self._rest = None
        if rest is not None and not cycle.transport.is_closing():
            cycle.transport.write(rest)
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        self._way.inference.done(accepted)
        visit.status, visit.bytes_out, visit.parts_ms = 200, len(reply.body), reply.parts_ms
        self._way.inference.observe(visit, reply)
        self._way.gate.leave(self._scope, visit)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nothing() -> None:
    pass
