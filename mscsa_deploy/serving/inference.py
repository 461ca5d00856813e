"""The two calls that compute: the protocol's inference, and a picture file in with its answer out.

They are an ASGI application of their own, and the only one that a request for them passes: at a millisecond per
request, what a web framework does for comfort counts. Plain requests go without ASGI's tasks as well, see `direct`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from mscsa_deploy.serving.calls import ANSWERS, Call, InferCall, PictureCall, Reply
from mscsa_deploy.serving.gate import REQUEST_ID, Visit
from mscsa_deploy.serving.intake import Intake, check_type, deadline_ms, header_length
from mscsa_deploy.serving.pool import too_late
from mscsa_deploy.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from mscsa_deploy.serving.metrics import Metrics
    from mscsa_deploy.serving.pool import Waiter
    from mscsa_deploy.serving.repository import Repository, Served
    from mscsa_deploy.serving.settings import Limits, Work

PREFIX = "/v2/models/"
ROUTES = ("infer", "picture")
ACCEPTED = "accepted"
"""Key in the state of a request: that it was queued before it had a task."""
WRITE_WHOLE = "write_whole"
"""Key in the state of a request: what writes a whole answer at once, where the connection can."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the head of a request asks for.

    Args:
        name: Of the model.
        version: Empty for the highest.
        route: One of `ROUTES`.
        length: Of the JSON part of the body; None when it is all JSON.
        answer: The form of a picture's answer.
        allowed: Seconds from the whole body to the answer.
    """

    name: str
    version: str
    route: str
    length: int | None
    answer: str
    allowed: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request in the queue.

    Args:
        future: Its answer, or what went wrong.
        timer: Sets the deadline's error.
        size: Bytes of its body, held until it is `done`.
    """

    future: asyncio.Future[Reply]
    timer: asyncio.TimerHandle
    size: int


class Inference:
    """ASGI application of the paths that `target` knows.

    Args:
        repository: The models.
        work: Deadlines.
        limits: Of bodies.
        metrics: Told about each answer.
    """

    def __init__(self, repository: Repository, *, work: Work, limits: Limits, metrics: Metrics) -> None:
        self._repository, self._metrics = repository, metrics
        self._most_ms = work.deadline_ms
        self._intake = Intake(limits, metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            Refusal: It is wrong, or there is no room or time for it.
        """
        state = scope["state"]
        visit: Visit = state["visit"]
        accepted: Accepted | None = state.pop(ACCEPTED, None)
        if accepted is None:
            asked = self.ask(scope, visit)
            body = await self._intake.read(visit.headers, scope, receive)
            accepted = self._accept(asked, body, visit)
        try:
            reply = await accepted.future
        finally:
            self.done(accepted)
        visit.parts_ms = reply.parts_ms
        await _send(state, visit, reply, send)
        self.observe(visit, reply)

    def ask(self, scope: Scope, visit: Visit) -> Asked:
        """What the head of a request asks for.

        Raises:
            Refusal: It is wrong, or there is no room or time for it.
        """
        wanted = target(scope["path"])
        assert wanted is not None, "only paths of this application come here"
        name, version, route = wanted
        visit.route = route
        headers = visit.headers
        check_type(headers, picture=route == "picture")
        length = header_length(headers) if route == "infer" else None
        answer = _answer_form(scope["query_string"]) if route == "picture" else ""
        served = self._repository.find(name, version)
        visit.model, visit.version = served.name, served.version
        allowed = deadline_ms(headers, self._most_ms) / 1e3
        # Refused before its body is read, a request costs next to nothing.
        served.pool.admit(time.monotonic() + allowed)
        self._intake.check_head(headers)
        return Asked(name, version, route, length, answer, allowed)

    def take(self, asked: Asked, body: bytes | bytearray, visit: Visit, waiter: Waiter) -> Accepted:
        """Queue a request that has no task; its body is there.

        Args:
            asked: What `ask` said.
            body: The whole body.
            visit: What is known about it.
            waiter: Gets the answer.

        Raises:
            Refusal: There is no room or time for it.
        """
        self._intake.hold(body)
        return self._accept(asked, body, visit, waiter)

    def _accept(self, asked: Asked, body: bytes | bytearray, visit: Visit, waiter: Waiter | None = None) -> Accepted:
        visit.route, visit.bytes_in = asked.route, len(body)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        timer = loop.call_later(asked.allowed, _expire, future)
        try:
            # The bundle may have been replaced while the body came in; from here to submit nothing waits.
            served = self._repository.find(asked.name, asked.version)
            visit.model, visit.version = served.name, served.version
            call = _call(body, asked.length, asked.answer, served)
            served.pool.submit(call, time.monotonic() + asked.allowed, future, waiter)
        except BaseException:
            timer.cancel()
            self._intake.release(len(body))
            raise
        return Accepted(future, timer, len(body))

    def done(self, accepted: Accepted) -> None:
        """The answer is there, or nobody waits for it any more."""
        accepted.timer.cancel()
        self._intake.release(accepted.size)

    def observe(self, visit: Visit, reply: Reply) -> None:
        """Record the parts of an answered request."""
        self._metrics.observe_parts(visit.model, visit.version, reply.parts_ms)


def target(path: str) -> tuple[str, str, str] | None:
    """Model, version (empty for the highest) and route of ``/v2/models/NAME[/versions/VERSION]/ROUTE``."""
    if not path.startswith(PREFIX):
        return None
    match path[len(PREFIX) :].split("/"):
        case [name, route] if name and route in ROUTES:
            return name, "", route
        case [name, "versions", version, route] if name and version and route in ROUTES:
            return name, version, route
    return None


def _answer_form(query: bytes) -> str:
    """The form of a picture's answer that the query asks for."""
    if not query:
        return ANSWERS[0]
    answer = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("answer", [ANSWERS[0]])[-1]
    if answer not in ANSWERS:
        raise Refusal(400, f"the answer '{answer[:32]}' is unknown; expected one of {', '.join(ANSWERS)}")
    return answer


def _call(body: bytes | bytearray, length: int | None, answer: str, served: Served) -> Call:
    if answer:
        return PictureCall(bytes(body), answer, name=served.name, version=served.version)
    return InferCall(body, length, name=served.name, version=served.version)


def _expire(future: asyncio.Future[Reply]) -> None:
    if not future.done():
        future.set_exception(too_late())


async def _send(state: Mapping[str, Any], visit: Visit, reply: Reply, send: Send) -> None:
    headers = reply_headers(reply)
    write_whole = state.get(WRITE_WHOLE)
    if write_whole is not None and write_whole([*headers, (REQUEST_ID, visit.id)], reply.body):
        visit.status, visit.bytes_out = 200, len(reply.body)
        return
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def reply_headers(reply: Reply) -> list[tuple[bytes, bytes]]:
    """Headers of an answer, but for those of every answer."""
    timing = ", ".join([f"{part};dur={spent:.3f}" for part, spent in reply.parts_ms.items()])
    return [
        *[(name.encode(), value.encode()) for name, value in reply.headers.items()],
        (b"content-length", b"%d" % len(reply.body)),
        (b"server-timing", timing.encode()),
    ]
