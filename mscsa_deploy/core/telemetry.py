"""Imports of vendor libraries that would report usage over the network if they could."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# OpenVINO and NNCF send an event through this package when they are imported.
REPORTER = "openvino_telemetry"


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """While this holds, vendor libraries that are imported do not find the package they report usage with.

    Deploying a model sends nothing; both libraries work the same without the package.
    """
    had = REPORTER in sys.modules
    kept = sys.modules.get(REPORTER)
    sys.modules[REPORTER] = None  # type: ignore[assignment]  # None makes an import fail, as Python documents
    try:
        yield
    finally:
        if had and kept is not None:
            sys.modules[REPORTER] = kept
        else:
            del sys.modules[REPORTER]
