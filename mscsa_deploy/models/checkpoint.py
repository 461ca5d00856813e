"""Checkpoints: read what people have, fit it to a model of the zoo or say why not, write our own.

Reading never runs code from the file. Fitting is strict: a model takes every tensor of the checkpoint and gets
every tensor it needs, or the caller has said that a part is enough and is told what that part is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mscsa_deploy.core.files import output_file
from mscsa_deploy.core.header_keys import MODEL, OPTIONS, TASK
from mscsa_deploy.core.vocabulary import Task, task_named
from mscsa_deploy.errors import CheckpointError
from mscsa_deploy.models.checkpoint_fit import Checkpoint, FitReport, Loaded, fit
from mscsa_deploy.models.checkpoint_names import Rename, read_key_map
from mscsa_deploy.models.checkpoint_read import read_tensors, write_safetensors
from mscsa_deploy.models.randomize import randomize
from mscsa_deploy.models.spec import options_to_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from mscsa_deploy.models.spec import ModelOptions

__all__ = [
    "Checkpoint",
    "FitReport",
    "Loaded",
    "Rename",
    "fit",
    "load_checkpoint",
    "load_model_file",
    "model_metadata",
    "randomize",
    "read_key_map",
    "save_checkpoint",
]


def load_checkpoint(path: Path, *, ema: bool = False) -> Checkpoint:
    """Read a safetensors or PyTorch file.

    Args:
        path: The file; its content decides how it is read.
        ema: Take the moving average where the file has one beside the plain weights.

    Raises:
        CheckpointError: The file is missing, damaged, of another kind, or would run code.
    """
    tensors, metadata, layout = read_tensors(path, ema=ema)
    if not tensors:
        raise CheckpointError(f"checkpoint '{path}' holds no tensors")
    return Checkpoint(path, tensors, metadata, layout)


def model_metadata(name: str, task: Task, options: ModelOptions) -> dict[str, str]:
    """The metadata entries that `load_model_file` needs; callers add preprocessing, labels and size."""
    return {MODEL: name, TASK: task, OPTIONS: options_to_json(options)}


def save_checkpoint(
    path: Path, model: nn.Module, metadata: Mapping[str, str], *, half: bool = False, force: bool = False
) -> None:
    """Write the model's state dict as safetensors, the same bytes for the same model and metadata.

    Args:
        path: The file to write; nothing is left there if writing fails.
        model: Any model of the zoo.
        metadata: Text entries, at least those of `model_metadata`.
        half: Store weights of two or more axes as float16; norms, biases and statistics stay float32.
        force: Replace an existing file.

    Raises:
        UserError: The file exists and `force` is false.
        CheckpointError: A tensor holds NaN or infinite values, also after rounding to float16.
        StageError: The disk is full.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu()
        if value.is_floating_point():
            value = value.to(torch.float16 if half and value.ndim > 1 else torch.float32)
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(f"tensor '{name}' holds NaN or infinite values, so '{path}' was not written")
        tensors[name] = value
    with output_file(path, force=force) as work:
        write_safetensors(work, tensors, metadata)


def load_model_file(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """The model of a file written by `save_checkpoint`, in eval mode, and the file's metadata.

    Raises:
        CheckpointError: The file is unreadable, not one of ours, or does not fit the model it names.
    """
    checkpoint = load_checkpoint(path)
    if MODEL not in checkpoint.metadata:
        raise CheckpointError(
            f"'{path}' does not say which model it holds (no '{MODEL}' entry)",
            hint="give the model's name together with the checkpoint",
        )
    task = task_named(checkpoint.metadata.get(TASK, ""))
    loaded = fit(checkpoint.metadata[MODEL], task, checkpoint)
    return loaded.model, checkpoint.metadata
