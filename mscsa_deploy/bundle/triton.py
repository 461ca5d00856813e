"""A Triton model repository of a bundle, as one zip.

    NAME/                python backend: pictures or tensors in, class maps, labels and overlays out
    NAME_onnxruntime/    onnxruntime backend: the bare network
    NAME_openvino/       openvino backend: the bare network

The bare networks take the preprocessed tensor and answer with what their graph ends in. Each is warmed up on
the golden input where the bundle has one. The format is Triton's own model configuration,
https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mscsa_deploy.bundle.archive import write_zip
from mscsa_deploy.bundle.selection import candidates
from mscsa_deploy.bundle.store import contents, read_bundle
from mscsa_deploy.core.files import MANIFEST
from mscsa_deploy.core.install import SOURCE, commands
from mscsa_deploy.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mscsa_deploy.bundle.manifest import ArtifactEntry, Manifest, Tensor
    from mscsa_deploy.bundle.selection import Candidate
    from mscsa_deploy.bundle.store import Bundle

BACKENDS = ("onnxruntime", "openvino")
MAX_BATCH = 8
BATCH_DELAY_US = 2000
INSTANCES = 2
"""Sessions per model; Triton's own setting, to be matched to the cores of the machine that serves."""

_MODEL = '''"""Serves the bundle beside this file; needs mscsa-deploy in the Python of Triton's python backend."""

import os
import sys

# An embedded interpreter does not read PYTHONPATH by itself.
sys.path[:0] = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]

from mscsa_deploy.serving.triton_backend import TritonPythonModel  # noqa: E402, F401
'''


class Word(str):
    """A bare word of the text format: an enumeration's member."""

    __slots__ = ()


def pack(directory: Path, out: Path, *, force: bool = False) -> Path:
    """Write the bundle at `directory` as a zip that holds a Triton model repository.

    Raises:
        UserError: It is no bundle, or `out` exists and `force` is false.
        UnsupportedError: No artefact is for a runtime that Triton has a backend of.
        StageError: The disk is full.
    """
    bundle = read_bundle(directory)
    members = repository(bundle)
    members["README.md"] = _readme(model_name(bundle.manifest), members, sources(bundle)).encode()
    return write_zip(members, out, force=force)


def model_name(manifest: Manifest) -> str:
    """The model's name as a directory and URL part."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", manifest.model.name).lstrip("._-") or "model"


def repository(bundle: Bundle) -> dict[str, Path | bytes]:
    """Files of the model repository by path.

    Raises:
        UnsupportedError: No artefact is for a runtime that Triton has a backend of.
    """
    name = model_name(bundle.manifest)
    found = by_backend(bundle)
    members = _python_model(bundle, name)
    for backend, candidate in found.items():
        members |= _bare_model(bundle, f"{name}_{backend}", backend, candidate)
    return members


def by_backend(bundle: Bundle) -> dict[str, Candidate]:
    """The preferred way to run the bundle on each backend of Triton that it can run on; never empty.

    Raises:
        UnsupportedError: There is none.
    """
    found = {backend: _best(bundle.manifest, backend) for backend in BACKENDS}
    able = {backend: candidate for backend, candidate in found.items() if candidate is not None}
    if not able:
        raise UnsupportedError(
            "no artefact of the bundle is for a runtime that Triton has a backend of",
            hint=f"it needs one for {' or '.join(BACKENDS)}; it holds: {contents(bundle.manifest)}",
        )
    return able


def best_for(bundle: Bundle, runtime: str) -> Candidate:
    """The preferred way to run the bundle on `runtime`, wherever that is.

    Raises:
        UnsupportedError: There is none.
    """
    found = _best(bundle.manifest, runtime)
    if found is None:
        raise UnsupportedError(
            f"the bundle holds no artefact for runtime '{runtime}'", hint=f"it holds: {contents(bundle.manifest)}"
        )
    return found


def sources(bundle: Bundle) -> str:
    """Which file each bare network is, and what it needs of the processor that will serve it; a Markdown list."""
    name = model_name(bundle.manifest)
    return "\n".join(
        f"- `{name}_{backend}`: {source(found)}{_unpinned(backend, found)}"
        for backend, found in by_backend(bundle).items()
    )


def source(candidate: Candidate) -> str:
    """Which file `candidate` is, and what it needs of the processor that will serve it."""
    entry = candidate.entry
    needs = ", ".join(entry.requires)
    warning = f"; it requires {needs}, and is slower or less exact on a processor without" if needs else ""
    rest = f" with the rest in {candidate.rest}" if candidate.precision == "int8" else ""
    return f"`{entry.path}` of the bundle, in {candidate.precision}{rest}{warning}"


def _unpinned(backend: str, candidate: Candidate) -> str:
    """What Triton's OpenVINO backend may compute in instead, because it has a setting for BF16 alone."""
    if backend != "openvino" or _in_bf16(candidate):
        return ""
    return (
        "; Triton's OpenVINO backend cannot be held to that: on a processor with BF16 (AMX, AVX512_BF16) it computes "
        "in BF16 what is floating point, which was not measured and may cost accuracy"
    )


def _in_bf16(candidate: Candidate) -> bool:
    return "bf16" in (candidate.precision, candidate.rest)


def text_format(fields: Mapping[str, Any], indent: int = 0) -> str:
    """Fields as protobuf's text format: mappings are messages, lists repeat, `Word` stays bare."""
    lines: list[str] = []
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            lines.extend(_field(name, item, indent))
    return "".join(f"{line}\n" for line in lines)


def _field(name: str, item: Any, indent: int) -> list[str]:
    space = "  " * indent
    if isinstance(item, dict):
        inner = text_format(item, indent + 1)
        return [f"{space}{name} {{", *inner.splitlines(), f"{space}}}"]
    if isinstance(item, str) and not isinstance(item, Word):
        return [f"{space}{name}: {json.dumps(item)}"]
    if isinstance(item, bool):
        return [f"{space}{name}: {'true' if item else 'false'}"]
    return [f"{space}{name}: {item}"]


def _best(manifest: Manifest, runtime: str) -> Candidate | None:
    return next((item for item in candidates(manifest) if item.runtime == runtime), None)


def _bare_model(bundle: Bundle, name: str, backend: str, candidate: Candidate) -> dict[str, Path | bytes]:
    entry = candidate.entry
    main, *beside = (Path(path) for path in (entry.path, *entry.files))
    fixed = entry.inputs[0].shape[0] > 0
    config: dict[str, Any] = {
        "name": name,
        "backend": backend,
        "max_batch_size": 0 if fixed else MAX_BATCH,
        "default_model_filename": f"model{main.suffix}",
        "input": [_tensor(item, fixed=fixed) for item in entry.inputs],
        "output": [_tensor(item, fixed=fixed) for item in entry.outputs],
        "instance_group": {"kind": Word("KIND_CPU"), "count": INSTANCES},
    }
    if not fixed:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": BATCH_DELAY_US}
    config["parameters"] = _parameters(backend, candidate)
    warmup, files = _warmup(bundle, name, entry.inputs[0], fixed=fixed)
    config |= warmup
    files |= {f"{name}/1/model{main.suffix}": bundle.file(str(main))}
    files |= {f"{name}/1/model{path.suffix}": bundle.file(str(path)) for path in beside}
    return {f"{name}/config.pbtxt": text_format(config).encode(), **files}


def _parameters(backend: str, candidate: Candidate) -> list[dict[str, Any]]:
    """The backend's own settings; that for BF16 is the only precision that the OpenVINO backend can be told."""
    if backend == "onnxruntime":
        settings = {"intra_op_thread_count": str(candidate.threads), "inter_op_thread_count": "1"}
    else:
        settings = {"INFERENCE_NUM_THREADS": str(candidate.threads)}
        if _in_bf16(candidate):
            settings["HINT_BF16"] = "YES"
    return [{"key": key, "value": {"string_value": value}} for key, value in settings.items()]


def _python_model(bundle: Bundle, name: str) -> dict[str, Path | bytes]:
    manifest = bundle.manifest
    entry: ArtifactEntry = candidates(manifest)[0].entry
    config: dict[str, Any] = {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,
        "input": [{**item, "optional": True} for item in _picture_inputs(entry)],
        "output": _answer_outputs(manifest, entry),
        "instance_group": {"kind": Word("KIND_CPU"), "count": INSTANCES},
    }
    warmup, files = _warmup(bundle, name, entry.inputs[0], fixed=True)
    config |= warmup
    files |= {f"{name}/1/model.py": _MODEL.encode()}
    whole = (MANIFEST, *(item.path for item in manifest.files))
    files |= {f"{name}/1/bundle/{path}": bundle.file(path) for path in whole}
    return {f"{name}/config.pbtxt": text_format(config).encode(), **files}


def _picture_inputs(entry: ArtifactEntry) -> list[dict[str, Any]]:
    return [
        _tensor(entry.inputs[0], fixed=True),
        {"name": "pixels", "data_type": Word("TYPE_UINT8"), "dims": [-1, -1, 3]},
        {"name": "picture", "data_type": Word("TYPE_STRING"), "dims": [1]},
    ]


def _answer_outputs(manifest: Manifest, entry: ArtifactEntry) -> list[dict[str, Any]]:
    raw = next(item for item in entry.outputs if item.name == entry.postprocess.tensor)
    outputs = [_tensor(raw, fixed=True)]
    scores = {"name": "probabilities", "data_type": Word("TYPE_FP32"), "dims": list(raw.shape)}
    if manifest.task == "cls":
        return [*outputs, scores, {"name": "label", "data_type": Word("TYPE_STRING"), "dims": [-1]}]
    kind = Word("TYPE_UINT8" if len(manifest.labels) <= 256 else "TYPE_UINT16")
    outputs.append({"name": "class_map", "data_type": kind, "dims": [-1, -1, -1]})
    outputs.append({"name": "overlay", "data_type": Word("TYPE_STRING"), "dims": [-1]})
    return [*outputs, scores] if entry.postprocess.output in ("logits", "logits-full") else outputs


def _tensor(item: Tensor, *, fixed: bool) -> dict[str, Any]:
    shape: Sequence[int] = item.shape if fixed else item.shape[1:]
    return {"name": item.name, "data_type": _data_type(item.dtype), "dims": list(shape)}


def _data_type(dtype: str) -> Word:
    """Triton's name of a NumPy dtype: TYPE_FP32, TYPE_INT64, TYPE_BOOL."""
    return Word(f"TYPE_{dtype.upper().replace('FLOAT', 'FP')}")


def _warmup(bundle: Bundle, name: str, image: Tensor, *, fixed: bool) -> tuple[dict[str, Any], dict[str, Path | bytes]]:
    """The warm-up on the golden input, and its raw data file; nothing without a golden input."""
    golden = bundle.manifest.golden
    if golden is None:
        return {}, {}
    tensor = np.load(bundle.file(golden.input), allow_pickle=False)
    data_type = _data_type(tensor.dtype.name)
    given = {"data_type": data_type, "dims": list(tensor.shape[0 if fixed else 1 :]), "input_data_file": image.name}
    sample = {"name": "golden", "batch_size": 1, "inputs": {"key": image.name, "value": given}}
    return {"model_warmup": sample}, {f"{name}/warmup/{image.name}": tensor.tobytes()}


def _readme(name: str, members: Mapping[str, Path | bytes], networks: str) -> str:
    checkout, wheel = commands(*BACKENDS)
    models = sorted({path.split("/")[0] for path in members})
    return f"""# Triton model repository of {name}

Unpack, then: `tritonserver --model-repository .`

Models: {", ".join(models)}. `{name}` runs in Triton's python backend and needs mscsa-deploy in its Python:

    {checkout}  # in a checkout of mscsa-deploy
    {wheel}  # or from its wheel

{SOURCE}. The model takes one of the inputs: the network's
tensor, `pixels` (UINT8 [H, W, 3] RGB) or `picture` (BYTES, a JPEG or PNG file). The others are the bare network:
the preprocessed tensor in, the graph's output out:

{networks}

`instance_group.count` in each `config.pbtxt` is {INSTANCES}: set it to the machine's cores divided by the threads
per session. A model whose batch is fixed, as `deploy` makes them, is not batched by Triton.
"""
