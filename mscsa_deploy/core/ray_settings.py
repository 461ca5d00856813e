"""How Ray is told to start, for `serve` and `verify` alike."""

from __future__ import annotations

import os
import secrets
from typing import Any


def ray_variables() -> dict[str, str]:
    """What has to be in the environment before Ray is imported, and is not there yet.

    A cluster named by ``RAY_ADDRESS`` has its own rules about who is let in. A cluster that Ray starts on this machine
    listens on all its addresses, and whoever reaches one can run code there: so it asks for a token that only this
    process and its children know, and that stays in memory.
    """
    # Ray reports usage to its makers unless told otherwise.
    wanted = {"RAY_USAGE_STATS_ENABLED": "0"}
    if not os.environ.get("RAY_ADDRESS"):
        wanted["RAY_AUTH_MODE"] = "token"
        if os.environ.get("RAY_AUTH_MODE", "token") == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return {name: value for name, value in wanted.items() if name not in os.environ}


def ray_settings() -> dict[str, Any]:
    """Keyword arguments of `ray.init`."""
    # Without an address Ray would join a cluster that someone else has started on this machine.
    here = {} if os.environ.get("RAY_ADDRESS") else {"address": "local"}
    return {"include_dashboard": False, "log_to_driver": False, **here}
