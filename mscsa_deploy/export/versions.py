"""Versions of what makes exported files."""

from __future__ import annotations

import contextlib
from importlib.metadata import PackageNotFoundError, version

from mscsa_deploy import __version__

_TOOLS = ("torch", "onnx", "onnx-ir", "onnxsim", "onnxruntime")


def tool_versions() -> dict[str, str]:
    """Versions of this package and of the libraries that make the file, as far as they are installed."""
    found = {"mscsa_deploy": __version__}
    for tool in _TOOLS:
        with contextlib.suppress(PackageNotFoundError):
            found[tool] = version(tool)
    return found
