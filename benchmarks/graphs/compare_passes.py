"""Measures graph passes: plain export, common passes, per-runtime passes, and single passes in and out.

    python benchmarks/graphs/compare_passes.py --out benchmarks/results/graphs__cpu.json

A network with MSCSA and its baseline without it are measured together, plain and with the passes of the runtime: what
the passes bring to each, and what MSCSA costs, plain and optimized, beside its share of multiply-accumulates. The
results are printed as a table at the end.

Every form of one pair on one runtime is measured by `--processes` fresh processes. Each opens its sessions in
another random order (the first one opened is often a few percent faster), then runs rounds in which every form
is called once untimed and once timed, in random order. The clock is the process's CPU time, so that other
people's load on the machine is not counted; with one thread and nothing blocking it is the latency on an idle
core. A form's ratio is the median over rounds of plain over form (of the network with MSCSA over its baseline, for the
cost), within one process; reported are the median and the extremes of that over processes. `plain_again` is the same
file as `plain`: how far its ratio is from 1 is how far the others can be trusted.

Weights are random with the statistics of a trained network (`randomize`): speed does not depend on them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
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

BASELINES = ("topformer_t", "pvt_v2_b0")
TASKS = ("cls", "seg")
RUNTIMES = ("onnxruntime", "openvino")
ROUNDS = {"cls": 40, "seg": 20}
SLOW_ROUNDS = 4  # Semantic FPN takes 0.4 s a run.
BASELINE = "baseline_"  # Before the forms of the network without MSCSA.


def export_plain(model: str, task: str, out: Path) -> int:
    """The plain export (trace and onnxsim) of a randomly weighted model; its multiply-accumulates."""
    from mscsa_deploy.export.exporter import export_onnx
    from mscsa_deploy.graphs.metadata import ModelInfo
    from mscsa_deploy.models.cost import count
    from mscsa_deploy.models.randomize import randomize
    from mscsa_deploy.models.spec import DEFAULT_SIZES, ModelOptions, build_model

    network = randomize(build_model(model, task, ModelOptions()).eval(), seed=0)
    info = ModelInfo(name=model, task=task, random_weights=0)
    size = DEFAULT_SIZES[task]
    export_onnx(network, name=model, task=task, input_size=size, metadata=info, out=out, optimize=False)
    return count(network, size).macs


def forms(runtime: str, *, detail: bool) -> dict[str, list[Any]]:
    """Form name to passes; `detail` adds forms with single passes left out or added."""
    from onnx_ir.passes.common import ShapeInferencePass

    from mscsa_deploy.graphs import passes

    common = list(passes.OPTIMIZATIONS)
    found = {"plain": [], "plain_again": [], "best": common + list(passes.PER_RUNTIME[runtime])}
    if detail:
        found["common"] = common
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
    times: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            calls[name](x)
            start = time.process_time()
            calls[name](x)
            times[name].append((time.process_time() - start) * 1e3)
    answers = {name: calls[name](x) for name in files}
    for name in files:
        reference = answers[plain_of(name)]
        times[f"error {name}"] = [float(np.abs(answers[name] - reference).max() / np.ptp(reference))]
    return times


def plain_of(form: str) -> str:
    """The plain export of the network that `form` is a form of."""
    return BASELINE + "plain" if form.startswith(BASELINE) else "plain"


def measure(runtime: str, files: dict[str, str], rounds: int, processes: int) -> list[dict[str, list[float]]]:
    """What each process found."""
    runs = []
    for seed in range(processes):
        job = json.dumps({"runtime": runtime, "files": files, "rounds": rounds, "seed": seed})
        done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=True)  # noqa: S603 - our own file
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return runs


def ratio(runs: list[dict[str, list[float]]], above: str, below: str) -> tuple[float, float, float]:
    """Median, lowest and highest over processes of the median over rounds of one form's time over another's."""
    found = [statistics.median(a / b for a, b in zip(run[above], run[below], strict=True)) for run in runs]
    return round(statistics.median(found), 3), round(min(found), 3), round(max(found), 3)


def form_row(form: str, runs: list[dict[str, list[float]]]) -> dict[str, Any]:
    """What one form takes and gains over its plain export."""
    middle, low, high = ratio(runs, plain_of(form), form)
    return {
        "form": form,
        "cpu_ms": round(statistics.median(statistics.median(run[form]) for run in runs), 3),
        "ratio": middle, "ratio_low": low, "ratio_high": high,
        "max_error_over_range": max(run[f"error {form}"][0] for run in runs),
    }  # fmt: skip


def pair_row(baseline: str, task: str, runtime: str, args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """A network with MSCSA and its baseline on one runtime; their exports lie in `scratch`."""
    files: dict[str, str] = {}
    for model, prefix in ((f"{baseline}_mscsa", ""), (baseline, BASELINE)):
        folder = scratch / f"{model}_{task}_{runtime}"
        folder.mkdir()
        found = write_forms(scratch / f"{model}_{task}.onnx", runtime, folder, detail=args.detail and not prefix)
        files |= {prefix + name: path for name, path in found.items() if not prefix or name in ("plain", "best")}
    rounds = args.rounds or (SLOW_ROUNDS if (baseline, task) == ("pvt_v2_b0", "seg") else ROUNDS[task])
    runs = measure(runtime, files, rounds, args.processes)
    row = {"model": f"{baseline}_mscsa", "task": task, "runtime": runtime, "rounds": rounds}
    row["forms"] = [form_row(form, runs) for form in files]
    for form in ("plain", "best"):
        middle, low, high = ratio(runs, form, BASELINE + form)
        row[f"over_baseline_{form}"] = {"mscsa_over_baseline": middle, "low": low, "high": high}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: ratios with their lowest and highest process."""
    columns = ("model", "runtime", "passes", "the same file twice", "passes on the baseline", "MAC ratio")
    columns += ("MSCSA over its baseline, plain", "optimized")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        forms = {form["form"]: form for form in row["forms"]}
        gains = [forms[name] for name in ("best", "plain_again", BASELINE + "best")]
        cells = [f"{gain['ratio']:.2f} ({gain['ratio_low']:.2f} to {gain['ratio_high']:.2f})" for gain in gains]
        costs = (row["over_baseline_plain"], row["over_baseline_best"])
        cells += [f"{row['mac_ratio']:.3f}"]
        cells += [f"{cost['mscsa_over_baseline']:.2f} ({cost['low']:.2f} to {cost['high']:.2f})" for cost in costs]
        lines.append(f"| {row['model']} {row['task']} | {row['runtime']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", default="", help="only pairs whose baseline/task holds this")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--detail", action="store_true", help="also single passes in and out")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job)
        print(json.dumps(work(job["runtime"], job["files"], job["rounds"], job["seed"])))
        return
    from mscsa_deploy.core.environment import read_environment

    document: dict[str, Any] = {"command": " ".join(sys.argv), "environment": dataclasses.asdict(read_environment())}
    document |= {"processes": args.processes, "rows": []}
    with tempfile.TemporaryDirectory() as scratch:
        for baseline, task in itertools.product(BASELINES, TASKS):
            if args.models not in f"{baseline}/{task}":
                continue
            with_it, without = (
                export_plain(model, task, Path(scratch, f"{model}_{task}.onnx"))
                for model in (f"{baseline}_mscsa", baseline)
            )
            for runtime in args.runtimes.split(","):
                row = pair_row(baseline, task, runtime, args, Path(scratch))
                document["rows"].append(row | {"mac_ratio": round(with_it / without, 4)})
                print(json.dumps(document["rows"][-1]), flush=True)
                if args.out:
                    args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document["rows"]))


if __name__ == "__main__":
    main()
