"""What every request passes first: its id, the bearer token, the access log, and the edge for unforeseen errors."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

import msgspec

from mscsa_deploy.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mscsa_deploy.serving.metrics import Metrics

LOG = logging.getLogger(__name__)
ACCESS = logging.getLogger("mscsa_deploy.serving.access")
REQUEST_ID = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_START = secrets.token_hex(4).encode()
_NUMBERS = itertools.count(1)
OPEN_PATHS = frozenset({"/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no token: the page holds no secret, and probes carry none."""


class Gate:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        metrics: Told about each request.
        token: Bearer token; empty asks for none.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, token: str) -> None:
        self._app, self._metrics = app, metrics
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._http(scope, receive, send)

    def enter(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Visit:
        """Count a request in; its visit is in the state of its scope from now on."""
        visit = Visit(headers)
        scope.setdefault("state", {})["visit"] = visit
        self._metrics.in_flight += 1
        return visit

    def leave(self, scope: Scope, visit: Visit) -> None:
        """Count an answered request out."""
        self._metrics.in_flight -= 1
        self._record(scope, visit)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A request that was under way without a task has been counted in.
        visit = scope.get("state", {}).get("visit") or self.enter(scope, dict(scope["headers"]))

        async def tracked_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                message.setdefault("headers", []).append((REQUEST_ID, visit.id))
            else:
                visit.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            self.check_token(scope["path"], visit.headers)
            await self._app(scope, receive, tracked_send)
        except Refusal as refusal:
            visit.reason = refusal.reason
            await answer(refusal, tracked_send)
        except asyncio.CancelledError:
            # The time to stop in is over.
            stopping = Refusal(503, "the server stops before the answer is there", retry_after=1, reason="stopping")
            visit.reason = stopping.reason
            if visit.status == 0:
                await answer(stopping, tracked_send)
        except Exception:
            # The process edge: anything unforeseen is a bug of ours, costs one answer and leaves its traceback.
            LOG.exception("request %s failed", visit.id.decode())
            message = f"the server failed; its log has the details of request {visit.id.decode()}"
            bug = Refusal(500, message, reason="bug")
            visit.reason = bug.reason
            if visit.status == 0:
                await answer(bug, tracked_send)
        finally:
            self.leave(scope, visit)

    def check_token(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise `Refusal` (401) where the path needs a token and the request has not got it."""
        if not self._token or path in OPEN_PATHS:
            return
        scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(credentials.strip(b" "), self._token):
            raise Refusal(401, "the request needs the header 'Authorization: Bearer TOKEN'", reason="token")

    def _record(self, scope: Scope, visit: Visit) -> None:
        seconds = time.monotonic() - visit.begin
        self._metrics.requests.labels(visit.model, visit.version, visit.route, visit.status).inc()
        self._metrics.seconds.labels(visit.route).observe(seconds)
        if visit.reason:
            self._metrics.refused.labels(visit.reason).inc()
        if ACCESS.isEnabledFor(logging.INFO):
            client = scope.get("client")
            ACCESS.info(
                "%s",
                msgspec.json.encode(
                    {
                        "time": time.time(),
                        "id": visit.id.decode(),
                        "client": client[0] if client else "",
                        "method": scope["method"],
                        "path": scope["path"][:256],
                        "status": visit.status,
                        "ms": round(1e3 * seconds, 3),
                        "bytes_in": visit.bytes_in,
                        "bytes_out": visit.bytes_out,
                        "model": visit.model,
                        "version": visit.version,
                        "reason": visit.reason,
                        **{f"{part}_ms": round(spent, 3) for part, spent in visit.parts_ms.items()},
                    }
                ).decode(),
            )


class Visit:
    """What is known about one request while it is answered; handlers fill it in.

    Args:
        headers: Of the request, by lower-case name; an id among them is taken where it is one.
    """

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        given = headers.get(REQUEST_ID, b"")
        self.headers = headers
        self.id = given if given and _ID.fullmatch(given) else b"%s%08x" % (_START, next(_NUMBERS) & 0xFFFFFFFF)
        self.begin = time.monotonic()
        self.route = self.model = self.version = self.reason = ""
        self.status = self.bytes_in = self.bytes_out = 0
        self.parts_ms: dict[str, float] = {}


async def answer(refusal: Refusal, send: Any) -> None:
    """Answer a request with a refusal."""
    body = refusal.body
    headers = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
