"""Reading request bodies: within the limits, in time, and only when there is room for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from mscsa_deploy.serving.messages import HEADER_LENGTH
from mscsa_deploy.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope

    from mscsa_deploy.serving.metrics import Metrics
    from mscsa_deploy.serving.settings import Limits

Headers: TypeAlias = "Mapping[bytes, bytes]"

WHOLE_BODY = "whole_body"
"""Key in the state of a request whose body the connection gathered by itself."""
JSON_TYPES = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded", "")
"""Taken for inference; the third is what curl says unless told otherwise."""
PICTURE_TYPES = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")
_HEADER_LENGTH = HEADER_LENGTH.encode()
_TIMEOUT = b"x-timeout-ms"


class Intake:
    """Reads bodies and keeps count of what they hold together.

    Args:
        limits: Of one body and of all.
        metrics: Its gauge follows the count.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._held = 0

    async def read(self, headers: Headers, scope: Scope, receive: Receive) -> bytes | bytearray:
        """The whole body, counted as held until `release`.

        Raises:
            Refusal: It is too long (413), comes too slowly (408), is encoded (415), or there is no room (503).
        """
        self.check_head(headers)
        chunks: list[bytes | bytearray] = []
        state = scope["state"]
        try:
            if WHOLE_BODY not in state:
                await self._gather(receive, chunks)
            if WHOLE_BODY in state:
                self._take(state.pop(WHOLE_BODY), chunks)
        except BaseException:
            self.release(sum(map(len, chunks)))
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def hold(self, body: bytes | bytearray) -> None:
        """Count a body that is there as held until `release`.

        Raises:
            Refusal: There is no room for it (503), or it is too long (413).
        """
        try:
            self._take(body, [])
        except Refusal:
            self.release(len(body))
            raise

    def release(self, size: int) -> None:
        """A body of `size` bytes that was read is no longer needed."""
        self._held -= size
        self._metrics.in_flight_bytes = self._held

    async def _gather(self, receive: Receive, chunks: list[bytes | bytearray]) -> None:
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Refusal(400, "the connection ended inside the body", reason="disconnected")
                    self._take(message.get("body", b""), chunks)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Refusal(
                408, f"the body did not arrive within {self._limits.body_seconds:g} s", reason="slow"
            ) from None

    def check_head(self, headers: Headers) -> None:
        """Raise `Refusal` where the head says that the body is encoded or too long."""
        encoding = _text(headers, b"content-encoding") or "identity"
        if encoding.lower() != "identity":
            raise Refusal(415, f"the content encoding '{encoding[:32]}' is not taken; send the body as it is")
        declared = _text(headers, b"content-length")
        if declared.isdecimal() and int(declared) > self._limits.body_bytes:
            raise self._too_long(int(declared))

    def _take(self, chunk: bytes | bytearray, chunks: list[bytes | bytearray]) -> None:
        if not chunk:
            return
        chunks.append(chunk)
        self._held += len(chunk)
        self._metrics.in_flight_bytes = self._held
        if self._held > self._limits.in_flight_bytes:
            raise Refusal(503, "the server holds too many requests; try again later", retry_after=1, reason="memory")
        if (held := sum(map(len, chunks))) > self._limits.body_bytes:
            raise self._too_long(held)

    def _too_long(self, size: int) -> Refusal:
        return Refusal(
            413, f"the body has {size} bytes or more, expected at most {self._limits.body_bytes}", reason="large"
        )


def header_length(headers: Headers) -> int | None:
    """Length of the JSON part of a binary request; None when the body is all JSON.

    Raises:
        Refusal: The header is no number.
    """
    if _HEADER_LENGTH not in headers:
        return None
    text = _text(headers, _HEADER_LENGTH)
    if not (text.isascii() and text.isdecimal()) or len(text) > 12:
        raise Refusal(400, f"the header {HEADER_LENGTH} is '{text[:32]}', expected a number of bytes")
    return int(text)


def check_type(headers: Headers, *, picture: bool) -> None:
    """Raise `Refusal` (415) unless the body's declared type can be what is asked for."""
    kind = _text(headers, b"content-type").partition(";")[0].strip().lower()
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


def deadline_ms(headers: Headers, most: float) -> float:
    """The client's own deadline from the header ``x-timeout-ms``, at most `most`.

    Raises:
        Refusal: It is no positive number of milliseconds.
    """
    if _TIMEOUT not in headers:
        return most
    text = _text(headers, _TIMEOUT)
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < 1:
        raise Refusal(
            400, f"the header x-timeout-ms is '{text[:32]}', expected a positive whole number of milliseconds"
        )
    return min(most, float(text))


def _text(headers: Headers, name: bytes) -> str:
    """A header's value; empty when it is not there."""
    return headers.get(name, b"").decode("latin-1")
