"""What a deployment leaves to be done again: the ``resolved.toml`` of its bundle, written and read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomli_w

from mscsa_deploy import __version__
from mscsa_deploy.core.config import Config, convert, read_toml
from mscsa_deploy.errors import unknown_name
from mscsa_deploy.workflow.deployment import DeployRequest

TOOL = "mscsa_deploy"
HEAD = "# What was asked for. What was decided on the way is in report.json, under 'decisions'.\n"
CHECKPOINT = "checkpoint_sha256"


class _File(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    command: Literal["deploy"]
    deploy: dict[str, Any]
    made_with: dict[str, str] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a ``resolved.toml`` says.

    Args:
        request: The deployment to do again.
        made_with: Versions of the tools, and the hash of the checkpoint.
    """

    request: DeployRequest
    made_with: dict[str, str]


def resolved_toml(request: DeployRequest, profile: str, made_with: Mapping[str, str]) -> str:
    """The text of a ``resolved.toml``: what was asked for, on which class of device, and with what it was made.

    Only what the user named is written, so that a runtime nobody asked for may be missing where it is replayed; the
    device profile, which decides the rest, always is.
    """
    asked = {name: value for name, value in msgspec.to_builtins(request, enc_hook=str).items() if value is not None}
    asked["device"] = request.device or profile
    del asked["command"]
    return HEAD + tomli_w.dumps({"command": "deploy", "deploy": asked, "made_with": {TOOL: __version__, **made_with}})


def read_resolved(path: Path) -> Resolved:
    """The ``resolved.toml`` at `path`, or in the directory `path`.

    Raises:
        UserError: It cannot be read, is for another command, or holds an unknown key.
    """
    path = path / "resolved.toml" if path.is_dir() else path
    file = read_toml(path, _File)
    settings = {field.name for field in fields(DeployRequest)} - {"command"}
    for name in file.deploy:
        if name not in settings:
            raise unknown_name(f"setting of '{path}'", name, settings)
    return Resolved(convert(file.deploy, DeployRequest, source=f"{path} [deploy]"), file.made_with)


def version_warning(resolved: Resolved) -> str:
    """What to say when a newer version of this tool did the original; empty when none did."""
    theirs = resolved.made_with.get(TOOL, "")
    if _numbers(theirs) > _numbers(__version__):
        return (
            f"this was made with mscsa-deploy {theirs}, this is {__version__}: the outcome may differ; "
            "'pip install --upgrade mscsa-deploy' brings them together"
        )
    return ""


def other_versions(resolved: Resolved) -> tuple[str, ...]:
    """The libraries whose version here differs from that of the original, one text each."""
    from mscsa_deploy.core.environment import package_version

    found = []
    for name, theirs in resolved.made_with.items():
        ours = package_version(name) if name not in (TOOL, CHECKPOINT) else theirs
        if ours != theirs:
            found.append(f"{name} {ours or 'not installed'} (was {theirs})")
    return tuple(found)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
