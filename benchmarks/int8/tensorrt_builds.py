"""Builds TensorRT engines of every model and task, INT8 with an FP16 rest, for several compute capabilities.

    python benchmarks/int8/tensorrt_builds.py [--model NAME...] --out FILE.json

Needs TensorRT-RTX, which builds without a GPU, and minutes of CPU per model. Weights are random with the statistics
of a trained network and ranges come from a few noise feeds, which say nothing about accuracy and decide nothing about
whether a file builds. Results are written after each model; models that the file already holds are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CAPABILITIES = ("75", "80", "86", "89", "120")


def export(model: str, task: str, out: Path) -> Path:
    """The optimized export of a randomly weighted model."""
    from mscsa_deploy.export.exporter import export_onnx
    from mscsa_deploy.graphs.metadata import ModelInfo
    from mscsa_deploy.models.randomize import randomize
    from mscsa_deploy.models.spec import DEFAULT_SIZES, ModelOptions, build_model

    network = randomize(build_model(model, task, ModelOptions()).eval(), seed=0)
    info = ModelInfo(name=model, task=task, random_weights=0)
    export_onnx(network, name=model, task=task, input_size=DEFAULT_SIZES[task], metadata=info, out=out)
    return out


def build(model: str, task: str, folder: Path) -> dict[str, Any]:
    """Export, quantize, build; what came of it."""
    from mscsa_deploy.calibration.quantizer import quantize
    from mscsa_deploy.calibration.recipe import read_recipe
    from mscsa_deploy.calibration.samples import noise
    from mscsa_deploy.calibration.source import open_source
    from mscsa_deploy.errors import DeployError
    from mscsa_deploy.runtimes.tensorrt_build import build_engine

    row: dict[str, Any] = {"model": model, "task": task}
    try:
        source = export(model, task, folder / "model.onnx")
        feeds = noise(open_source(source).inputs, 2)
        made = quantize(source, feeds, read_recipe("int8_tensorrt"), folder / "int8.onnx")
        started = time.perf_counter()
        engine = build_engine(made.artifact.path, folder / "model.engine", compute_capabilities=CAPABILITIES)
    except DeployError as error:
        return {**row, "status": "failed", "reason": str(error)}
    return {
        **row,
        "status": "built",
        "quantized_ops": made.quantized_ops,
        "left_float": len(made.left_float),
        "onnx_bytes": made.artifact.path.stat().st_size,
        "engine_bytes": engine.path.stat().st_size,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Build what is not in the output file yet."""
    from mscsa_deploy.core.vocabulary import TASKS
    from mscsa_deploy.models.spec import MODEL_NAMES
    from mscsa_deploy.runtimes.tensorrt_build import library

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=MODEL_NAMES, help="only these; repeatable")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    module = library()
    rows = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"] if arguments.out.exists() else []
    done = {(row["model"], row["task"]) for row in rows}
    for model in arguments.model or MODEL_NAMES:
        for task in TASKS:
            if (model, task) in done:
                continue
            with tempfile.TemporaryDirectory(prefix="mscsa-engines-") as folder:
                rows.append(build(model, task, Path(folder)))
            print(rows[-1], file=sys.stderr, flush=True)
            document = {
                "recipe": "int8_tensorrt",
                "compute_capabilities": CAPABILITIES,
                "library": f"{module.__name__} {module.__version__}",
                "weights": "random",
                "rows": rows,
            }
            arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(row["status"] == "failed" for row in rows))


if __name__ == "__main__":
    main()
