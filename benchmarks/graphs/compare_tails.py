"""Measures the forms of the segmentation tail, alone, on synthetic logits of 8 to 150 winning classes.

    python benchmarks/graphs/compare_tails.py --out benchmarks/results/tails__cpu.json

Logits are 150 x 64 x 64, the class map 512 x 512. `winners` classes win somewhere, in regions a few cells
wide with noise on top; `noise` is white noise, in which every class wins, the worst case of the dynamic forms.
Every call gets another image, so that nothing is cached by shape. Clock, rounds and processes are those of
``compare_passes.py``. Every map is compared with that of the plain form, pixel by pixel.
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
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from mscsa_deploy.graphs.tail.choose import check_pixels
from mscsa_deploy.graphs.tail.files import tail_bytes
from mscsa_deploy.graphs.tail.forms import REFERENCE_FORM, TAIL_FORMS

SHAPE, SIZE, IMAGES = (1, 150, 64, 64), (512, 512), 6
SCENES = ("8", "16", "32", "64", "150", "noise")


def logits_of(scene: str, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Synthetic logits of `SHAPE`."""
    generator = np.random.default_rng(seed)
    _, classes, height, width = SHAPE
    noise = generator.standard_normal(SHAPE).astype(np.float32)
    if scene == "noise":
        return noise
    winners = int(scene)
    chosen = generator.permutation(classes)[:winners]
    # At least every winner has a region; small counts get more regions, as pictures have.
    owners = np.concatenate([chosen, generator.choice(chosen, max(0, 32 - winners))])
    seeds = generator.uniform(0, height, (len(owners), 2))
    where = np.stack(np.mgrid[:height, :width], axis=-1)
    nearest = np.linalg.norm(where[None] - seeds[:, None, None], axis=-1).argmin(axis=0)
    regions = np.zeros(SHAPE[1:], np.float32)
    for number, owner in enumerate(owners):
        regions[owner][nearest == number] = 8
    smooth = 0.6 * noise[0] + _blurred(regions)
    smooth[np.setdiff1d(np.arange(classes), chosen)] -= 3
    return smooth[None].astype(np.float32)


def _blurred(maps: Any) -> Any:
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = maps.shape[1:]
    return sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9


def work(runtime: str, files: dict[str, str], rounds: int, seed: int) -> dict[str, Any]:
    """CPU ms per scene and form, and the pixel checks."""
    from compare_passes import opened

    order = list(files)
    shuffle = random.Random(seed)  # noqa: S311 - an order, no secret
    shuffle.shuffle(order)
    calls = {name: opened(runtime, files[name]) for name in order}
    found: dict[str, Any] = {}
    for scene in SCENES:
        images = [logits_of(scene, 100 * seed + number) for number in range(IMAGES)]
        times: dict[str, list[float]] = {name: [] for name in order}
        checks = {name: [0, 0] for name in order}
        for number in range(rounds):
            image = images[number % IMAGES]
            reference = calls[REFERENCE_FORM](image)
            shuffle.shuffle(order)
            for name in order:
                start = time.process_time()
                result = calls[name](image)
                times[name].append((time.process_time() - start) * 1e3)
                if number < IMAGES:
                    check = check_pixels(image, reference, result)
                    checks[name][0] += check.different
                    checks[name][1] += check.ties
        found[scene] = {"times": times, "checks": checks, "classes": int(np.unique(reference).size)}
    return found


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--forms", default=",".join(TAIL_FORMS))
    parser.add_argument("--runtimes", default="onnxruntime,openvino")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job)
        print(json.dumps(work(job["runtime"], job["files"], job["rounds"], job["seed"])))
        return
    from mscsa_deploy.core.environment import read_environment

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: str(Path(scratch, f"{name}.onnx")) for name in args.forms.split(",")}
        for name, path in files.items():
            Path(path).write_bytes(tail_bytes(SHAPE, name, SIZE))
        for runtime in args.runtimes.split(","):
            runs = []
            for seed in range(args.processes):
                job = json.dumps({"runtime": runtime, "files": files, "rounds": args.rounds, "seed": seed})
                command = [sys.executable, __file__, "--job", job]
                done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our file
                runs.append(json.loads(done.stdout.splitlines()[-1]))
            rows += [_row(runtime, scene, name, [run[scene] for run in runs]) for scene in SCENES for name in files]
    document = {"command": " ".join(sys.argv), "environment": dataclasses.asdict(read_environment()), "rows": rows}
    if args.out:
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    for row in rows:
        print(json.dumps(row))


def _row(runtime: str, scene: str, name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    medians = [statistics.median(run["times"][name]) for run in runs]
    return {
        "runtime": runtime, "winners": scene, "classes_present": runs[0]["classes"], "form": name,
        "cpu_ms": round(statistics.median(medians), 2), "cpu_ms_low": round(min(medians), 2),
        "cpu_ms_high": round(max(medians), 2), "different_pixels": sum(run["checks"][name][0] for run in runs),
        "of_which_ties": sum(run["checks"][name][1] for run in runs),
        "pixels": len(runs) * IMAGES * SIZE[0] * SIZE[1],
    }  # fmt: skip


if __name__ == "__main__":
    main()
