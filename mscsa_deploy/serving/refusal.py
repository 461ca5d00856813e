"""A request that is answered with an error: the protocol's error object and an HTTP status.

400  the request does not fit the protocol or the model
401  the bearer token is missing or wrong
404  no such model, version or path
405  the path has no such method
408  the body came too slowly
413  the body or the picture is too large
415  a media type or picture format that is not taken
431  the request's head is too long
500  the runtime failed: not the client's mistake
501  nothing on this machine can do it
503  too many requests are waiting or connections open, or the server is stopping; `Retry-After` says when to come again
504  the deadline passed before the answer was there
"""

from __future__ import annotations

import json

from mscsa_deploy.errors import DeployError, StageError, UnsupportedError

REASONS = {
    400: "invalid",
    401: "token",
    404: "unknown",
    405: "method",
    408: "slow",
    413: "large",
    415: "type",
    431: "head",
    500: "failed",
    501: "unsupported",
    503: "overload",
    504: "deadline",
}
"""One word per status, for whatever has no closer one; those of 400 and 500 stand for statuses that are not here."""


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of this program
    """An error answer.

    Args:
        status: HTTP status.
        message: What was wrong, where, what was expected, and what to do.
        retry_after: Seconds, for 503.
        reason: One word for the metrics and the access log; the status's own, see `REASONS`, unless given.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.reason = reason or REASONS.get(status) or REASONS[status // 100 * 100]

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that belong to the status."""
        headers = {"content-type": "application/json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    @property
    def body(self) -> bytes:
        """The protocol's error object."""
        return json.dumps({"error": self.message}, ensure_ascii=False).encode("utf-8", "replace")


def refusal_of(error: DeployError) -> Refusal:
    """How an error of this package is answered: the client's to fix, or ours."""
    if isinstance(error, StageError):
        return Refusal(500, str(error))
    if isinstance(error, UnsupportedError):
        return Refusal(501, str(error))
    return Refusal(400, str(error))
