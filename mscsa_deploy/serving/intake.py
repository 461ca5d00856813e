"""Reading request bodies: within the limits, in time, and only when there is room for them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from mscsa_deploy.serving.messages import HEADER_LENGTH
from mscsa_deploy.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from mscsa_deploy.serving.metrics import Metrics
    from mscsa_deploy.serving.settings import Limits

JSON_TYPES = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded", "")
"""Taken for inference; the third is what curl says unless told otherwise."""
PICTURE_TYPES = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")


class Intake:
    """Reads bodies and keeps count of what they hold together.

    Args:
        limits: Of one body and of all.
        metrics: Its gauge follows the count.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._held = 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, counted as held until the block ends.

        Raises:
            Refusal: It is too long (413), comes too slowly (408), is encoded (415), or there is no room (503).
        """
        self._check_head(request)
        held = 0
        chunks: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    async for chunk in request.stream():
                        held += len(chunk)
                        self._hold(len(chunk))
                        if held > self._limits.body_bytes:
                            raise self._too_long(held)
                        chunks.append(chunk)
            except TimeoutError:
                raise Refusal(
                    408, f"the body did not arrive within {self._limits.body_seconds:g} s", reason="slow"
                ) from None
            except ClientDisconnect:
                raise Refusal(400, "the connection ended inside the body", reason="disconnected") from None
            yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            self._hold(-held)

    def _check_head(self, request: Request) -> None:
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Refusal(415, f"the content encoding '{encoding[:32]}' is not taken; send the body as it is")
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._limits.body_bytes:
            raise self._too_long(int(declared))

    def _hold(self, size: int) -> None:
        self._held += size
        self._metrics.in_flight_bytes.set(self._held)
        if size > 0 and self._held > self._limits.in_flight_bytes:
            raise Refusal(503, "the server holds too many requests; try again later", retry_after=1, reason="memory")

    def _too_long(self, size: int) -> Refusal:
        return Refusal(
            413, f"the body has {size} bytes or more, expected at most {self._limits.body_bytes}", reason="large"
        )


def header_length(request: Request) -> int | None:
    """Length of the JSON part of a binary request; None when the body is all JSON.

    Raises:
        Refusal: The header is no number.
    """
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 12:
        raise Refusal(400, f"the header {HEADER_LENGTH} is '{text[:32]}', expected a number of bytes")
    return int(text)


def check_type(request: Request, *, picture: bool) -> None:
    """Raise `Refusal` (415) unless the body's declared type can be what is asked for."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if picture and kind and not kind.startswith(PICTURE_TYPES):
        raise Refusal(
            415, f"the content type '{kind[:64]}' is no picture; send the file's bytes as image/jpeg or image/png"
        )
    if not picture and kind not in JSON_TYPES:
        raise Refusal(
            415,
            f"the content type '{kind[:64]}' is not the protocol's; expected application/json or "
            "application/octet-stream, and pictures go to .../picture",
        )


def deadline_ms(request: Request, most: float) -> float:
    """The client's own deadline from the header ``x-timeout-ms``, at most `most`.

    Raises:
        Refusal: It is no positive number of milliseconds.
    """
    text = request.headers.get("x-timeout-ms")
    if text is None:
        return most
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < 1:
        raise Refusal(
            400, f"the header x-timeout-ms is '{text[:32]}', expected a positive whole number of milliseconds"
        )
    return min(most, float(text))
