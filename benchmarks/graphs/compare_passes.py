"""Measures graph passes: plain export, common passes, per-runtime passes, and single passes in and out.

    python benchmarks/graphs/compare_passes.py --out benchmarks/results/graphs__cpu.json

Every form of one model on one runtime is measured by `--processes` fresh processes. Each opens its sessions in
another random order (the first one opened is often a few percent faster), then runs rounds in which every form
is called once untimed and twice timed, in random order. The clock is the process's CPU time, so that other
people's load on the machine is not counted; with one thread and nothing blocking it is the latency on an idle
core. A form's ratio is the median over rounds of plain over form, within one process; reported are the median
and the extremes of that over processes. `plain_again` is the same file as `plain`: how far its ratio is from 1
is how far the others can be trusted.

Weights are random with the statistics of a trained network (`randomize`): speed does not depend on them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

MODELS = (
    ("topformer_t", "cls"), ("topformer_t_mscsa", "cls"), ("topformer_t", "seg"), ("topformer_t_mscsa", "seg"),
    ("pvt_v2_b0", "cls"), ("pvt_v2_b0_mscsa", "cls"), ("pvt_v2_b0", "seg"), ("pvt_v2_b0_mscsa", "seg"),
)  # fmt: skip
RUNTIMES = ("onnxruntime", "openvino")
ROUNDS = {"cls": 30, "seg": 15}
SLOW_ROUNDS = 4  # Semantic FPN takes 0.4 s a run.


def export_plain(model: str, task: str, out: Path) -> None:
    """The plain export (trace and onnxsim) of a randomly weighted model."""
    from mscsa_deploy.export.exporter import export_onnx
    from mscsa_deploy.graphs.metadata import ModelInfo
    from mscsa_deploy.models.randomize import randomize
    from mscsa_deploy.models.spec import DEFAULT_SIZES, ModelOptions, build_model

    network = randomize(build_model(model, task, ModelOptions()).eval(), seed=0)
    info = ModelInfo(name=model, task=task, random_weights=0)
    size = DEFAULT_SIZES[task]
    export_onnx(network, name=model, task=task, input_size=size, metadata=info, out=out, optimize=False)


def forms(runtime: str, *, detail: bool) -> dict[str, list[Any]]:
    """Form name to passes; `detail` adds forms with single passes left out or added."""
    from onnx_ir.passes.common import ShapeInferencePass

    from mscsa_deploy.graphs import passes

    common = list(passes.OPTIMIZATIONS)
    found = {"plain": [], "plain_again": [], "common": common, "best": common + list(passes.PER_RUNTIME[runtime])}
    if detail:
        other = next(name for name in RUNTIMES if name != runtime)
        found["of_other_runtime"] = common + list(passes.PER_RUNTIME[other])
        for extra in passes.CANDIDATES:
            found[f"with_{extra.__name__}"] = [*found["best"], ShapeInferencePass, extra]
        for name in (
            "FoldBatchNorm",
            "FoldDepthwiseScale",
            "FlipMatMulTranspose",
            "MergeProjections",
            "MlpToConvs",
            "FuseGelu",
        ):
            kept = [each for each in found["best"] if each.__name__ != name]
            if len(kept) < len(found["best"]):
                found[f"without_{name}"] = kept
    return found


def write_forms(plain: Path, runtime: str, folder: Path, *, detail: bool) -> dict[str, str]:
    """Each form as a file; forms in which nothing differs from an earlier one are left out."""
    import onnx_ir as ir

    from mscsa_deploy.graphs.check import read_model, to_bytes
    from mscsa_deploy.graphs.rewrite import rewrite

    files: dict[str, str] = {}
    seen: set[bytes] = set()
    for name, kinds in forms(runtime, detail=detail).items():
        graph: ir.Model = read_model(plain)
        rewrite(graph, [kind() for kind in kinds])
        data = to_bytes(graph)
        if data in seen and name not in ("plain_again", "best"):
            continue
        seen.add(data)
        files[name] = str(folder / f"{name}.onnx")
        Path(files[name]).write_bytes(data)
    return files


def opened(runtime: str, path: str) -> Callable[[Any], Any]:
    """A call that runs the model on one thread in float32."""
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})[0]
    import openvino

    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": "1"}
    request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()
    port = request.model_outputs[0]
    return lambda x: request.infer([x], share_inputs=True)[port].copy()


def work(runtime: str, files: dict[str, str], rounds: int, seed: int) -> dict[str, list[float]]:
    """CPU milliseconds per call and round, and under ``error`` the largest difference over the range."""
    import numpy as np
    import onnx

    shape = [d.dim_value for d in onnx.load(files["plain"]).graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    order = list(files)
    shuffle = random.Random(seed)  # noqa: S311 - an order, no secret
    shuffle.shuffle(order)
    calls = {name: opened(runtime, files[name]) for name in order}
    reference = calls["plain"](x)
    times: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            calls[name](x)
            start = time.process_time()
            calls[name](x)
            calls[name](x)
            times[name].append((time.process_time() - start) * 500)
    error = {f"error {name}": [float(np.abs(calls[name](x) - reference).max() / np.ptp(reference))] for name in files}
    return times | error


def measure(runtime: str, files: dict[str, str], rounds: int, processes: int) -> list[dict[str, Any]]:
    """One row per form."""
    runs = []
    for seed in range(processes):
        job = json.dumps({"runtime": runtime, "files": files, "rounds": rounds, "seed": seed})
        done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=True)  # noqa: S603 - our own file
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for name in files:
        ratios = [statistics.median(p / f for p, f in zip(run["plain"], run[name], strict=True)) for run in runs]
        rows.append({
            "form": name,
            "cpu_ms": round(statistics.median(statistics.median(run[name]) for run in runs), 3),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_low": round(min(ratios), 3),
            "ratio_high": round(max(ratios), 3),
            "max_error_over_range": max(run[f"error {name}"][0] for run in runs),
        })  # fmt: skip
    return rows


def across(runtime: str, base: Path, ours: Path, rounds: int, processes: int) -> dict[str, Any]:
    """The cost of MSCSA: its best form over the baseline's best form, paired."""
    rows = measure(runtime, {"plain": str(base), "mscsa": str(ours)}, rounds, processes)
    row = rows[1]
    return {"mscsa_over_baseline": round(1 / row["ratio"], 3), "low": round(1 / row["ratio_high"], 3),
            "high": round(1 / row["ratio_low"], 3)}  # fmt: skip


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", default="", help="only models whose name/task holds this")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--detail", action="store_true", help="also single passes in and out")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job)
        print(json.dumps(work(job["runtime"], job["files"], job["rounds"], job["seed"])))
        return
    from mscsa_deploy.core.environment import read_environment

    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for model, task in MODELS:
            if args.models and args.models not in f"{model}/{task}":
                continue
            rounds = args.rounds or (SLOW_ROUNDS if (model[:3], task) == ("pvt", "seg") else ROUNDS[task])
            plain = Path(scratch, f"{model}_{task}.onnx")
            export_plain(model, task, plain)
            for runtime in args.runtimes.split(","):
                folder = Path(scratch, f"{model}_{task}_{runtime}")
                folder.mkdir()
                files = write_forms(plain, runtime, folder, detail=args.detail)
                rows = measure(runtime, files, rounds, args.processes)
                row = {"model": model, "task": task, "runtime": runtime, "rounds": rounds, "forms": rows}
                if model.endswith("_mscsa"):
                    base = Path(scratch, f"{model.removesuffix('_mscsa')}_{task}_{runtime}")
                    for form in ("plain", "best") if base.is_dir() else ():
                        row[f"over_baseline_{form}"] = across(
                            runtime, base / f"{form}.onnx", folder / f"{form}.onnx", rounds, args.processes
                        )
                results.append(row)
                print(json.dumps(row), flush=True)
                if args.out:
                    environment = dataclasses.asdict(read_environment())
                    document = {"command": " ".join(sys.argv), "environment": environment, "rows": results}
                    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
