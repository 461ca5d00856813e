"""`run`: a finished deployment done again, from the ``resolved.toml`` that it left."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mscsa_deploy import __version__
from mscsa_deploy.core.config import Config, read_toml
from mscsa_deploy.core.files import sha256_file
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from mscsa_deploy.workflow.deployment import DeployRequest, Finished

TOOL = "mscsa_deploy"
CHECKPOINT = "checkpoint_sha256"


class DeployTable(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[deploy]`` table: the fields of `DeployRequest`, as TOML spells them; what is left out was not given."""

    model: str
    task: Literal["cls", "seg"] | None = None
    checkpoint: str | None = None
    key_map: str | None = None
    allow_partial: bool = False
    random_weights: int | None = None
    num_classes: int | None = None
    size: tuple[int, int] | None = None
    calibration: str = "calibration"
    validation: str = "validation"
    evaluation: str = "evaluation"
    runtimes: tuple[str, ...] | None = None
    device: str | None = None
    threads: int | None = None
    preset: str = "quick"
    max_drop: float | None = None
    require_int8: bool = False
    evaluation_images: int | None = None
    calibration_images: int | None = None


class Resolved(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole ``resolved.toml``.

    Args:
        command: What is replayed.
        deploy: What it was told.
        made_with: Versions of the tools, and the hash of the checkpoint.
    """

    command: Literal["deploy"]
    deploy: DeployTable
    made_with: dict[str, str] = msgspec.field(default_factory=dict)

    def request(self) -> DeployRequest:
        """The deployment to do again."""
        from mscsa_deploy.workflow.deployment import DeployRequest

        plain: dict[str, Any] = msgspec.structs.asdict(self.deploy)
        for name in ("checkpoint", "key_map"):
            plain[name] = Path(plain[name]) if plain[name] is not None else None
        return DeployRequest(**plain)


def read_resolved(path: Path) -> Resolved:
    """The ``resolved.toml`` at `path`, or in the directory `path`.

    Raises:
        UserError: It cannot be read, is for another command, or holds an unknown key.
    """
    return read_toml(path / "resolved.toml" if path.is_dir() else path, Resolved)


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


def run_resolved(
    resolved: Resolved, out: Path, *, command: str = "", force: bool = False, progress: Progress = silent
) -> Finished:
    """Deploy again as `resolved` says and leave the bundle in the directory `out`.

    Raises:
        UserError: The checkpoint is not the one that was deployed, or what the file names is gone.
        DeployError: What `workflow.deploy.run_deploy` raises.
    """
    from dataclasses import replace

    from mscsa_deploy.workflow.deploy import run_deploy

    request = replace(resolved.request(), command=command)
    _check_checkpoint(request, resolved.made_with.get(CHECKPOINT, ""))
    return run_deploy(request, out, force=force, progress=progress)


def _check_checkpoint(request: DeployRequest, expected: str) -> None:
    from mscsa_deploy.export.source import resolve_model_argument

    if request.random_weights is not None or not expected:
        return
    path = request.checkpoint or resolve_model_argument(request.model, task=request.task).weights
    if path is not None and path.is_file() and sha256_file(path) != expected:
        raise UserError(
            f"the checkpoint '{path}' is not the one that was deployed (sha256 differs from {expected[:12]}...)",
            hint="bring that file back, or start anew with 'mscsa-deploy deploy'",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
