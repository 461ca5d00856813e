"""`run`: a finished deployment done again, from the ``resolved.toml`` that it left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mscsa_deploy.core.files import sha256_file
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.errors import UserError
from mscsa_deploy.workflow.deploy import run_deploy
from mscsa_deploy.workflow.deployment import DeployRequest, Finished
from mscsa_deploy.workflow.resolved import CHECKPOINT, Resolved


def run_resolved(
    resolved: Resolved, out: Path, *, command: str = "", force: bool = False, progress: Progress = silent
) -> Finished:
    """Deploy again as `resolved` says and leave the bundle in the directory `out`.

    Raises:
        UserError: The checkpoint is not the one that was deployed, or what the file names is gone.
        DeployError: What `workflow.deploy.run_deploy` raises.
    """
    request = replace(resolved.request, command=command)
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
