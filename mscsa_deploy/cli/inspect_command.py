"""`mscsa-deploy inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mscsa_deploy.cli.options import INPUT_FILE
from mscsa_deploy.cli.terminal import Terminal, common_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mscsa_deploy.workflow.inspect import BundleFacts, OnnxFacts, TensorFacts

MOST_LABELS = 12
MOST_OPS = 16


@click.command("inspect", epilog="Example: mscsa-deploy inspect demo-out")
@click.argument("path", type=INPUT_FILE)
@common_options
def command(terminal: Terminal, path: Path) -> None:
    """Say what a bundle or ONNX file is.

    PATH is a bundle directory, a packed bundle, an ONNX file, or a directory that 'export' left. Of a bundle
    every hash is checked.
    """
    from mscsa_deploy.workflow.inspect import OnnxFacts, inspect

    found = inspect(path)
    terminal.document(found)
    terminal.show(*(_onnx(found) if isinstance(found, OnnxFacts) else _bundle(found)))


def _onnx(found: OnnxFacts) -> list[RenderableType]:
    from mscsa_deploy.cli.tables import facts

    says = found.says
    rows = {
        "task": str(says.get("task", "not said")),
        "precision": str(says.get("precision", "int8" if found.quantized else "")),
        "inputs": ", ".join(map(_tensor, found.inputs)),
        "outputs": ", ".join(map(_tensor, found.outputs)),
        "output is": str(says.get("output", "")),
        "preprocessing": _preprocess(says.get("preprocess", {}))
        or "not said; give --preprocess FILE where it is asked",
        "labels": _labels(says.get("labels", ())),
        "weights": _weights(says),
        "size": f"{found.size_bytes / 1e6:.2f} MB, {found.parameters:,} values in weights",
        "opset": ", ".join(f"{domain} {version}" for domain, version in found.opsets.items()),
        "operators": _operators(found.ops, found.nodes),
        "made by": found.producer,
        "tools": ", ".join(f"{name} {version}" for name, version in says.get("tools", {}).items()),
        "sha256": found.sha256,
    }
    return [facts(f"{found.name} (ONNX file)", rows)]


def _weights(says: dict[str, Any]) -> str:
    if says.get("random_weights") is not None:
        return f"random, seed {says['random_weights']}: its answers mean nothing"
    return f"checkpoint {says['source_sha256'][:12]}" if says.get("source_sha256") else ""


def _operators(ops: dict[str, int], nodes: int) -> str:
    shown = ", ".join(f"{count} {op}" for op, count in list(ops.items())[:MOST_OPS])
    return f"{nodes}: {shown}" + (", ..." if len(ops) > MOST_OPS else "")


def _tensor(tensor: TensorFacts) -> str:
    shape = "x".join("N" if size < 0 else str(size) for size in tensor.shape)
    return f"{tensor.name} {tensor.dtype} {shape}"


def _preprocess(spec: dict[str, Any]) -> str:
    if not spec:
        return ""
    crop = f", short side {spec['short_side']} then center crop" if spec.get("short_side") else ", ratio ignored"
    return f"{spec.get('interpolation', 'bilinear')} to {spec['height']}x{spec['width']}{crop}; RGB, mean and std"


def _labels(labels: Any) -> str:
    shown = ", ".join(labels[:MOST_LABELS])
    return f"{len(labels)}: {shown}" + (", ..." if len(labels) > MOST_LABELS else "") if labels else ""


def _bundle(found: BundleFacts) -> list[RenderableType]:
    from mscsa_deploy.cli.tables import facts

    manifest = found.manifest
    model, tensor, choice = manifest["model"], manifest["input"], manifest["recommended"]
    shape = "x".join("N" if size < 0 else str(size) for size in tensor["shape"])
    rows = {
        "task": found.task,
        "input": f"{tensor['name']} {tensor['dtype']} {shape}",
        "preprocessing": _preprocess(manifest["preprocess"]),
        "labels": _labels(manifest["labels"]),
        "parameters": f"{model['params']:,}" if model["params"] else "",
        "MACs": f"{model['macs'] / 1e6:,.0f} million" if model["macs"] else "",
        "weights": "random: its answers mean nothing" if model["random_weights"] else model["sha256"][:12],
        "recommended": f"{choice['artifact']} on {choice['runtime']}" if choice else "nothing passed its gates",
        "requirements": ", ".join(_requirements(found.artifacts)),
        "for phones": ", ".join(entry["mobile"]["path"] for entry in found.artifacts if entry["mobile"]),
        "files": f"{manifest['files']}, {found.size_bytes / 1e6:.1f} MB, every hash as the manifest says",
        "license": manifest["license"] or "not stated",
    }
    title = f"{found.name} (bundle, version {manifest['schema_version']})"
    return [facts(title, rows), _artifacts(found.artifacts)]


def _requirements(artifacts: list[dict[str, Any]]) -> list[str]:
    return [f"{entry['path']} is for {', '.join(entry['requires'])}" for entry in artifacts if entry["requires"]]


def _artifacts(artifacts: list[dict[str, Any]]) -> RenderableType:
    from rich.markup import escape

    from mscsa_deploy.cli.tables import results

    table = results("Artefacts", fold=("file",), text=("runtime", "computes"), numbers=("size", "p50", "accuracy"))
    for entry in artifacts:
        size = f"{entry['size_bytes'] / 1e6:.2f} MB"
        core = [each for each in entry["measurements"] if each["boundary"] == "core"]
        if not core:
            table.add_row(escape(entry["path"]), ", ".join(entry["runtimes"]), entry["precision"], size, "", "")
        for each in core:
            latency = f"{each['latency_ms']['p50']:.2f} ms" if each["latency_ms"] else each["status"]
            metric = each["metric"]
            accuracy = f"{metric['name']} {metric['value']:.2f} %" if metric else ""
            table.add_row(escape(entry["path"]), each["runtime"], each["precision"], size, latency, accuracy)
    return table
