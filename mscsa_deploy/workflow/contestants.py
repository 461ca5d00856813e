"""What `verify` holds against each other: ONNX files, bundles, OpenVINO and PyTorch files, models of the zoo."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.artifact import model_bytes, model_digest
from mscsa_deploy.core.environment import isa_doubts
from mscsa_deploy.core.header_keys import TASK
from mscsa_deploy.errors import UserError, unknown_name
from mscsa_deploy.workflow.header import Says, read_header

if TYPE_CHECKING:
    from mscsa_deploy.bundle.manifest import ArtifactEntry
    from mscsa_deploy.runtimes.protocol import Capabilities, SessionSettings
    from mscsa_deploy.workflow.prepare import ModelRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One file as one runtime runs it.

    Args:
        label: The file, as the user knows it.
        path: Where it lies.
        kind: As in `runtimes.protocol.KINDS`.
        precision: What it stores.
        sha256: Of the file.
        says: What it says about itself.
        requires: Instruction sets without which it is slow or inexact.
        runtime: Name in `RUNTIMES`.
        arithmetic: What the runtime is asked to compute in.
        options: The runtime's own settings.
        status: ``"ok"`` or ``"not run"``.
        reason: Why it cannot run here, with the line that would change that.
        version: Of the runtime's library.
    """

    label: str
    path: Path
    kind: str
    precision: str
    sha256: str
    says: Says
    requires: tuple[str, ...] = ()
    runtime: str = ""
    arithmetic: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    status: str = "ok"
    reason: str = ""
    version: str = ""

    @property
    def name(self) -> str:
        """File, runtime and arithmetic in a few words."""
        extra = "".join(f", {key} {value}" for key, value in self.options.items())
        return f"{self.label} on {self.runtime} in {self.arithmetic}{extra}"

    @property
    def size_bytes(self) -> int:
        """Of the file, with the weights beside it."""
        return model_bytes(self.path)

    def settings(self, threads: int) -> SessionSettings:
        """How its session is made."""
        from mscsa_deploy.runtimes.protocol import SessionSettings

        return SessionSettings(threads=threads, precision=self.arithmetic, options=self.options)


def contestants(
    argument: str, request: ModelRequest, runtimes: Sequence[str] | None, work: Path
) -> tuple[Contestant, ...]:
    """Everything that `argument` names, in each way it is to be run.

    Args:
        argument: An ONNX, OpenVINO (.xml) or PyTorch (.safetensors with a model header) file, a bundle
            directory or zip, a zoo name or an export recipe.
        request: Checkpoint, task and size for a zoo name or recipe.
        runtimes: Only these; every one that loads the file if None.
        work: Directory for the file that a zoo model is written to.

    Raises:
        UserError: It is none of these, is damaged, or a runtime is unknown.
    """
    for name in runtimes or ():
        if name not in tuple(_runtimes(runtimes)):
            raise unknown_name("runtime", name, _runtimes(None))
    path = Path(argument)
    if path.is_dir() or path.suffix == ".zip":
        return tuple(_of_bundle(path, runtimes))
    if path.suffix in (".onnx", ".xml", ".safetensors", ".fake"):
        if not path.is_file():
            raise UserError(f"there is no file '{path}'", hint="check the path")
        return tuple(_ways(_of_file(path), runtimes))
    return tuple(_ways(_of_zoo(argument, request, work), runtimes))


def warn_of_missing_isa(found: Sequence[Contestant]) -> None:
    """Warn, once per file, where one is going to run without the instruction sets that it requires."""
    for path in dict.fromkeys(each.path for each in found if each.status == "ok"):
        file = next(each for each in found if each.path == path)
        for doubt in isa_doubts(f"'{file.label}'", file.requires):
            logger.warning("%s", doubt)


def _runtimes(named: Sequence[str] | None) -> Iterator[str]:
    from mscsa_deploy.runtimes import OFFERED, RUNTIMES

    return (name for name in RUNTIMES if name in OFFERED or name in (named or ()))


def _of_file(path: Path) -> Contestant:
    from mscsa_deploy.runtimes.protocol import KINDS

    readers = {".onnx": _read_onnx, ".xml": _read_openvino, ".safetensors": _read_torch}
    told: dict[str, Any] = {"precision": "fp32", "says": Says()}
    if path.suffix in readers:
        told |= readers[path.suffix](path)
    return Contestant(label=path.name, path=path, kind=KINDS[path.suffix], sha256=model_digest(path), **told)


def _read_openvino(path: Path) -> dict[str, Any]:
    """What an OpenVINO file stores, by the operators its .xml names, and what INT8 of ours requires."""
    from mscsa_deploy.calibration.provenance import REQUIRES

    text = path.read_bytes()
    told = re.search(rb'<%s value="([^"]*)"' % re.escape(REQUIRES).encode(), text)
    requires = tuple(told[1].decode(errors="replace").split(",")) if told else ()
    return {"precision": "int8" if b'type="FakeQuantize"' in text else "fp32", "requires": requires}


def _read_onnx(path: Path) -> dict[str, Any]:
    from mscsa_deploy.calibration.provenance import REQUIRES
    from mscsa_deploy.core.config import convert
    from mscsa_deploy.graphs.check import read_model
    from mscsa_deploy.graphs.foreign import stored_precision
    from mscsa_deploy.graphs.metadata import info_of
    from mscsa_deploy.imaging.preprocess import Preprocess

    model = read_model(path)
    info, needs = info_of(model, source=str(path)), model.metadata_props.get(REQUIRES, "")
    found = {
        "precision": stored_precision(model),
        "requires": tuple(needs.split(",")) if needs else (),
    }
    if info is None:
        return found
    spec = convert(info.preprocess, Preprocess, source=str(path)) if info.preprocess else None
    return {**found, "says": Says(task=info.task, preprocess=spec, labels=info.labels)}


def _read_torch(path: Path) -> dict[str, Any]:
    from mscsa_deploy.models.checkpoint import load_checkpoint

    metadata = load_checkpoint(path).metadata
    if TASK not in metadata:
        raise UserError(
            f"'{path}' does not say which model it holds",
            hint="name the model or its recipe instead, and give the file with --checkpoint",
        )
    return {"says": read_header(metadata, str(path))}


def _of_zoo(argument: str, request: ModelRequest, work: Path) -> Contestant:
    from mscsa_deploy.workflow.prepare import prepare

    prepared = prepare(replace(request, model=argument))
    path = work / f"{prepared.name}-{prepared.key}.safetensors"
    if not path.exists():
        prepared.save(path)
    return Contestant(
        label=f"{prepared.name}.{prepared.task}",
        path=path,
        kind="torch",
        precision="fp32",
        sha256=prepared.source_sha256,
        says=Says(task=prepared.task, preprocess=prepared.preprocess, labels=prepared.labels),
    )


def _ways(file: Contestant, named: Sequence[str] | None) -> Iterator[Contestant]:
    """The file on every runtime that loads its kind, or on those of `named` that do."""
    from mscsa_deploy.runtimes import RUNTIMES

    for name in _runtimes(named):
        runtime = RUNTIMES.load(name)()
        if file.kind in runtime.accepts and (named is None or name in named):
            yield _on(file, name, runtime.probe(), file.precision)


def _of_bundle(path: Path, named: Sequence[str] | None) -> Iterator[Contestant]:
    """Every artefact of the bundle in each way it was measured, or may be run."""
    from mscsa_deploy.bundle.selection import twin_of
    from mscsa_deploy.bundle.store import read_bundle
    from mscsa_deploy.runtimes import RUNTIMES

    bundle = read_bundle(path)
    manifest = bundle.manifest
    for entry in (entry for entry in manifest.artifacts if twin_of(entry, manifest) is None):
        file = Contestant(
            label=entry.path,
            path=bundle.file(entry.path),
            kind=entry.kind,
            precision=entry.precision,
            sha256=model_digest(bundle.file(entry.path)),
            says=Says(task=manifest.task, preprocess=manifest.preprocess, labels=manifest.labels),
            requires=entry.requires,
        )
        for runtime, arithmetic, options in _entry_ways(entry):
            if runtime in _runtimes(named) and (named is None or runtime in named):
                found = RUNTIMES.load(runtime)()
                yield replace(_on(file, runtime, found.probe(), arithmetic), options=options)


def _entry_ways(entry: ArtifactEntry) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Runtime, arithmetic and options of each way to run an artefact, each once."""
    seen = []
    for measured in entry.measurements:
        way = (measured.runtime, str(measured.precision), dict(measured.options))
        if measured.status in ("ok", "built, not run") and way not in seen:
            seen.append(way)
    for name in entry.runtimes:
        if not any(runtime == name for runtime, _, _ in seen):
            seen.append((name, entry.precision, {}))
    yield from seen


def _on(file: Contestant, runtime: str, can: Capabilities, precision: str) -> Contestant:
    """`file` on one runtime; a float file runs in FP32 where the machine has no arithmetic of its own for it."""
    plain = precision == "fp16" and can.available and precision not in can.precisions
    arithmetic = "fp32" if plain else precision
    made = replace(file, runtime=runtime, arithmetic=arithmetic, version=can.version)
    reason = can.obstacle(arithmetic)
    return replace(made, status="not run", reason=reason) if reason else made
