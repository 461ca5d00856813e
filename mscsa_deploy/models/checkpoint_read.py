"""Reading checkpoint files without running any code they may hold.

Safetensors files hold nothing but tensors. PyTorch files (.pth, .pt, .bin, zipped or not) are pickles: they
are read with torch's restricted unpickler, which builds tensors and plain containers and refuses all else.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mscsa_deploy.errors import CheckpointError

# A file that stores several sets of weights names them so; the first one found is taken.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "model_ema_state_dict", "ema_model")
MAX_HEADER_BYTES = 100 << 20
REFUSED = re.compile(r"GLOBAL (\S+)")
RESAVE = "save its tensors alone with torch.save(model.state_dict(), FILE) or as safetensors, and try again"
# What a damaged pickle, zip or safetensors file makes the readers raise.
DAMAGED = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    AssertionError, struct.error, zipfile.BadZipFile, pickle.UnpicklingError, MemoryError, OSError,
)  # fmt: skip


class _Inert:
    """Stands in for a training-log object whose class carries no weights and is not installed."""

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


def _plain_containers() -> list[Any]:
    """Classes beyond torch's own list that only hold values: common companions of the weights."""
    numpy_dtypes = {type(np.dtype(kind)) for kind in np.sctypeDict.values() if kind is not np.void}
    core = "numpy._core.multiarray"
    module = import_module(core)
    scalar, rebuild = module.scalar, module._reconstruct  # noqa: SLF001 - pickled arrays name it
    return [
        argparse.Namespace,
        np.ndarray,
        np.dtype,
        *sorted(numpy_dtypes, key=lambda kind: kind.__name__),
        (scalar, f"{core}.scalar"),
        (scalar, "numpy.core.multiarray.scalar"),
        (rebuild, f"{core}._reconstruct"),
        (rebuild, "numpy.core.multiarray._reconstruct"),
        (_Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
    ]


def read_tensors(path: Path, *, ema: bool = False) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """The tensors of a checkpoint file, its text metadata, and where in the file they were.

    Args:
        path: A safetensors or PyTorch file; the content decides, not the suffix.
        ema: Take the moving average where the file has one beside the plain weights.

    Raises:
        CheckpointError: The file is missing, truncated, of another kind, empty of tensors, or would run code.
    """
    kind = _kind(path)
    if kind == "safetensors":
        tensors, metadata = _read_safetensors(path)
        return tensors, metadata, "safetensors"
    tensors, place = _find_weights(path, _read_pickle(path), ema=ema)
    return tensors, {}, place


def _kind(path: Path) -> str:
    """``"safetensors"`` or ``"pickle"``, from the first bytes."""
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint '{path}': {error.strerror}") from error
    if not head:
        raise CheckpointError(f"checkpoint '{path}' is empty")
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return "pickle"
    if head[257:262] == b"ustar":
        raise CheckpointError(f"checkpoint '{path}' is a tar archive, as PyTorch before 0.2 wrote", hint=RESAVE)
    if len(head) > 8 and head[8:9] == b"{":
        length = int.from_bytes(head[:8], "little")
        if length + 8 > size or length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"checkpoint '{path}' is damaged: its header says {length} bytes, the file has {size}"
            )
        return "safetensors"
    raise CheckpointError(
        f"'{path}' is neither a safetensors nor a PyTorch file",
        hint="expected a .safetensors, .pth, .pt or .bin file",
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
            return tensors, dict(stream.metadata() or {})
    except (SafetensorError, *DAMAGED) as error:
        raise CheckpointError(f"checkpoint '{path}' is damaged or truncated: {_first_line(error)}") from error


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_plain_containers()), warnings.catch_warnings():
            # torch warns of old pickle protocols and storages; what matters is raised.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        text = str(error)
        if refused := REFUSED.search(text):
            raise CheckpointError(
                f"checkpoint '{path}' holds '{refused[1]}', which is neither a tensor nor a plain container: "
                "loading it could run code, so it was refused and nothing in it was run",
                hint=RESAVE,
            ) from error
        if "TorchScript" in text:
            raise CheckpointError(
                f"'{path}' is a TorchScript program, not a checkpoint",
                hint="save its state dict instead: torch.save(module.state_dict(), FILE)",
            ) from error
        raise CheckpointError(f"checkpoint '{path}' is damaged or truncated: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _find_weights(path: Path, content: Any, *, ema: bool) -> tuple[dict[str, Tensor], str]:
    """The state dict inside nested plain containers, and its place in words."""
    found: dict[str, dict[str, Tensor]] = {}
    _collect(content, "", found)
    plain = [place for place in found if not _is_ema(place)]
    averaged = [place for place in found if _is_ema(place)]
    if not found:
        keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f"checkpoint '{path}' holds no state dict; at its top: {keys}")
    if ema and not averaged:
        raise CheckpointError(f"checkpoint '{path}' holds no moving average (EMA) of the weights")
    place = averaged[0] if averaged and (ema or not plain) else plain[0]
    note = ""
    if averaged and place not in averaged:
        note = f" (its moving average '{averaged[0]}' was not used)"
    elif place in averaged:
        note = " (a moving average)"
    return found[place], (f"'{place}'" if place else "top level") + note


def _is_ema(place: str) -> bool:
    return any(part in EMA_KEYS for part in place.split("/"))


def _collect(content: Any, place: str, found: dict[str, dict[str, Tensor]]) -> None:
    """Add every state dict at or below `content` to `found`, weights before averages, outermost first."""
    if not isinstance(content, Mapping):
        return
    tensors = {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}
    nested = [key for key in (*WEIGHT_KEYS, *EMA_KEYS) if isinstance(content.get(key), Mapping)]
    for key in nested:
        _collect(content[key], f"{place}/{key}" if place else key, found)
    if tensors and not nested:
        found[place] = tensors


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes depend on nothing but the arguments.

    The format's own library writes the metadata in random order; so the file (8 bytes of header length, a
    JSON header, the data) is written here.
    """
    dtypes = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    arrays, offset = [], 0
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        end = offset + array.nbytes
        header[name] = {
            "dtype": dtypes[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        arrays.append(array)
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            stream.write(array.tobytes())
