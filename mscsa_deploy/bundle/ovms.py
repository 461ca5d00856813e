"""The layout that OpenVINO Model Server loads, as one zip: the network by version, and a configuration file.

Format: https://docs.openvino.ai (OpenVINO Model Server, "Model Repository" and "Configuration File").
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.bundle.archive import write_zip
from mscsa_deploy.bundle.store import read_bundle
from mscsa_deploy.bundle.triton import best_for, model_name, source
from mscsa_deploy.core.config import to_json
from mscsa_deploy.errors import UserError
from mscsa_deploy.runtimes.openvino import HINTS

if TYPE_CHECKING:
    from mscsa_deploy.bundle.manifest import Manifest
    from mscsa_deploy.bundle.selection import Candidate

MOUNT = "/models"
"""Where the server's container has the unpacked zip."""
REQUESTS = 2
"""Inference requests that the server keeps open; to be matched to the cores of the machine that serves."""


def pack(directory: Path, out: Path, *, force: bool = False) -> Path:
    """Write the bundle at `directory` as a zip that OpenVINO Model Server loads.

    Raises:
        UserError: It is no bundle, it names an unknown precision, or `out` exists and `force` is false.
        UnsupportedError: No artefact is for OpenVINO.
        StageError: The disk is full.
    """
    bundle = read_bundle(directory)
    name, candidate = model_name(bundle.manifest), best_for(bundle, "openvino")
    entry = candidate.entry
    members: dict[str, Path | bytes] = {
        "config.json": to_json(configuration(name, candidate)),
        "README.md": _readme(name, bundle.manifest, candidate).encode(),
    }
    for path in (entry.path, *entry.files):
        members[f"{name}/1/model{Path(path).suffix}"] = bundle.file(path)
    return write_zip(members, out, force=force)


def configuration(name: str, candidate: Candidate) -> dict[str, Any]:
    """The server's configuration file."""
    plugin = {
        "INFERENCE_NUM_THREADS": candidate.threads * REQUESTS,
        "NUM_STREAMS": REQUESTS,
        "INFERENCE_PRECISION_HINT": HINTS[_computes_in(candidate)],
    }
    config = {
        "name": name,
        "base_path": f"{MOUNT}/{name}",
        "target_device": "CPU",
        "nireq": REQUESTS,
        "plugin_config": plugin,
    }
    return {"model_config_list": [{"config": config}]}


def _computes_in(candidate: Candidate) -> str:
    """The precision of floating point: all of it, or what an INT8 network leaves in floating point."""
    precision = candidate.rest if candidate.precision == "int8" else candidate.precision
    if precision not in HINTS:
        raise UserError(
            f"'{candidate.entry.path}' is said to compute in '{precision}', which OpenVINO does not know",
            hint=f"expected one of {', '.join(HINTS)}",
        )
    return precision


def _readme(name: str, manifest: Manifest, candidate: Candidate) -> str:
    image, spec = candidate.entry.inputs[0], manifest.preprocess
    measured = ", as it was measured" if candidate.measured else ""
    return f"""# {name} for OpenVINO Model Server

Unpack to the directory `models`, then:

    docker run --rm -p 8000:8000 -v "$PWD/models:{MOUNT}" openvino/model_server \\
      --config_path {MOUNT}/config.json --rest_port 8000

It speaks the Open Inference Protocol v2 and holds the bare network, {source(candidate)}.
Input `{image.name}` is {image.dtype} {list(image.shape)}, RGB, resized ({spec.resize}, {spec.interpolation}) to
{spec.height}x{spec.width}, scaled to 0..1, minus mean {list(spec.mean)}, over std {list(spec.std)}.
Output `{candidate.entry.postprocess.tensor}` is the graph's.
`INFERENCE_PRECISION_HINT` in config.json holds floating point to {_computes_in(candidate)}{measured}.
`nireq` and `NUM_STREAMS` in config.json are {REQUESTS}: set them to the machine's cores.
"""
