"""Measures from a picture's values to its class map: the plain export against ours, 150 classes and 13.

    python benchmarks/graphs/image_to_map.py --out benchmarks/results/image_to_map__cpu.json

TopFormer-T+MSCSA at 512 x 512 with the shipped weights, on evaluation scenes. The model of 150 classes is the
shipped one with its last 1x1 convolution widened: the trained rows stand at seeded places, every other row is a
seeded mixture of two or three trained ones with a bias that is `LOWER` lower, so that as many classes win as in
real pictures. Forms:

- ``plain``: traced and simplified, no graph pass, Resize and ArgMax in the graph; ``plain_again`` the same file
  once more, whose ratio says how far the others can be trusted;
- ``network``, ``network_int8``: ours without a tail, for what is left beside it;
- ``fp32``: ours with the tail ``cells``; ``fp32_static``: with the best tail of static shapes;
- ``int8``: the runtime's own INT8 recipe, tail ``cells``; float32 where it is not INT8;
- ``tail_plain``, ``tail_static``, ``tail``: Resize and ArgMax, the best static tail and ``cells`` alone, on the logits
  that the plain network gives for the picture; their ratios are over ``tail_plain``.

Clock, rounds and processes are those of ``compare_passes.py``: CPU time of one thread, forms in random order, the
median over rounds of plain over form, then the median and the extremes over processes. Every form's map is
compared with the plain one's on all pictures. What is built is kept in the cache (`--build` does no more than that);
what is measured is kept in `--out` row by row, and a run that finds rows of the same files there goes on behind them.
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
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

if TYPE_CHECKING:
    from mscsa_deploy.core.artifact import Artifact
    from mscsa_deploy.workflow.prepare import Prepared

MODEL = "topformer_t_mscsa.seg"
CLASSES = (150, 13)
WIDEN_SEED, LOWER = 0, 0.5
RECIPES = {"onnxruntime": "int8_onnxruntime_x86", "openvino": "int8_openvino"}
PLAIN, TAIL = "plain", "tail"
SIZE = (512, 512)


def widened(prepared: Prepared, classes: int) -> Prepared:
    """The model with `classes` rows in its last convolution; itself if it has as many."""
    import torch
    from torch import nn

    from mscsa_deploy.export.recipe import changed

    trained = prepared.classes
    if classes == trained:
        return prepared
    name, last = [(n, m) for n, m in prepared.module.named_modules() if isinstance(m, nn.Conv2d)][-1]
    assert last.out_channels == trained, f"'{name}' is not the classifier"
    assert last.bias is not None
    source = np.random.default_rng(WIDEN_SEED)
    mix = np.zeros((classes, trained))
    places = source.permutation(classes)[:trained]
    mix[places, np.arange(trained)] = 1
    others = np.setdiff1d(np.arange(classes), places)
    for row in others:
        parents = source.choice(trained, source.integers(2, 4), replace=False)
        mix[row, parents] = source.dirichlet(np.ones(len(parents)))
    wide = nn.Conv2d(last.in_channels, classes, 1)
    lower = np.zeros(classes)
    lower[others] = LOWER
    with torch.no_grad():
        matrix = torch.from_numpy(mix).to(last.weight.dtype)
        wide.weight.copy_((matrix @ last.weight.flatten(1)).reshape(wide.weight.shape))
        wide.bias.copy_(matrix @ last.bias - torch.from_numpy(lower).to(last.bias.dtype))  # type: ignore[union-attr]
    parent, _, child = name.rpartition(".")
    setattr(prepared.module.get_submodule(parent), child, wide)
    key = f"{prepared.key}-{classes}-{WIDEN_SEED}-{LOWER}"
    recipe = changed(prepared.recipe, labels=(), palette=(), num_classes=classes)
    return dataclasses.replace(prepared, recipe=recipe, labels=(), key=key)


def build(classes: int, runtime: str, pictures: int, scratch: Path) -> dict[str, Path]:
    """Every form's file, and ``logits`` of the plain one; INT8 is calibrated on `pictures`.

    Tails alone go to `scratch`, everything else is kept in the cache.
    """
    from mscsa_deploy.calibration.recipe import read_recipe
    from mscsa_deploy.calibration.samples import from_dataset
    from mscsa_deploy.graphs.tail.files import tail_bytes
    from mscsa_deploy.graphs.tail.forms import DEFAULT_FORMS, REFERENCE_FORM, STATIC_FORM
    from mscsa_deploy.workflow.build import build_sources, quantize_cached
    from mscsa_deploy.workflow.cache import cached
    from mscsa_deploy.workflow.images import open_images
    from mscsa_deploy.workflow.prepare import ModelRequest, prepare
    from mscsa_deploy.workflow.tailed import tail_cached

    prepared = widened(prepare(ModelRequest(model=MODEL)), classes)
    sources = build_sources(prepared, tuple(RECIPES))
    best = sources.float_for(runtime)

    def plain_map(folder: Path) -> str:
        from mscsa_deploy.export.recipe import changed
        from mscsa_deploy.workflow.export import export_prepared

        recipe = changed(prepared.recipe, output="classmap", optimize=False)
        export_prepared(prepared, recipe, "fp32", folder / "plain.classmap.onnx")
        return "plain.classmap.onnx"

    folder, name = cached("plain_map", {"model": prepared.key, "tools": sources.plain.made_by.tools}, str, plain_map)
    recipe = read_recipe(RECIPES[runtime])
    samples = from_dataset(open_images("calibration", "seg"), prepared.preprocess, input_name=best.inputs[0].name)
    quantized = quantize_cached(best.path, samples, recipe.changed(recipe.name, samples=pictures))

    def tailed(artifact: Artifact, form: str) -> Path:
        return tail_cached(artifact, form, SIZE).path

    def alone(form: str) -> Path:
        path = scratch / f"tail.{classes}.{form}.onnx"
        path.write_bytes(tail_bytes(sources.plain.outputs[0].shape, form, SIZE))
        return path

    return {
        PLAIN: folder / name,
        "plain_again": folder / name,
        "network": best.path,
        "fp32": tailed(best, DEFAULT_FORMS[runtime]),
        "fp32_static": tailed(best, STATIC_FORM),
        "int8": tailed(quantized.artifact, DEFAULT_FORMS[runtime]),
        "network_int8": quantized.artifact.path,
        TAIL: alone(DEFAULT_FORMS[runtime]),
        "tail_static": alone(STATIC_FORM),
        "tail_plain": alone(REFERENCE_FORM),
        "logits": sources.plain.path,
    }


def write_pictures(path: Path, count: int) -> None:
    """The first `count` evaluation scenes as the network takes them."""
    from mscsa_deploy.imaging.preprocess import default_preprocess, preprocess
    from mscsa_deploy.workflow.images import open_images

    dataset, spec = open_images("evaluation", "seg"), default_preprocess("seg", SIZE)
    step = max(len(dataset) // count, 1)
    np.save(path, np.stack([preprocess(dataset.load(step * index)[0], spec)[0] for index in range(count)]))


def work(runtime: str, files: dict[str, str], pictures: str, rounds: int, seed: int) -> dict[str, Any]:
    """CPU milliseconds per form and round; in the first process also how the maps compare."""
    from compare_passes import opened

    from mscsa_deploy.graphs.tail.choose import check_pixels
    from mscsa_deploy.workflow.tails import NEAR_TIE

    images = np.load(pictures)
    order = [name for name in files if name != "logits"]
    shuffle = random.Random(seed)  # noqa: S311 - an order, no secret
    shuffle.shuffle(order)
    calls = {name: opened(runtime, files[name]) for name in order}
    logits = opened(runtime, files["logits"])
    values = [logits(image[None]) for image in images]
    times: dict[str, list[float]] = {name: [] for name in order}
    for number in range(rounds):
        place = (seed + number) % len(images)
        shuffle.shuffle(order)
        for name in order:
            given = values[place] if name.startswith(TAIL) else images[place][None]
            if number == 0:
                calls[name](given)
            start = time.process_time()
            calls[name](given)
            times[name].append((time.process_time() - start) * 1e3)
    found: dict[str, Any] = {"times": times}
    if seed == 0:
        maps = [name for name in order if not name.startswith("network") and name != "plain_again"]
        checks = {name: [0, 0, 0] for name in maps}
        present = []
        for image, value in zip(images, values, strict=True):
            reference = {plain: calls[plain](value if plain != PLAIN else image[None]) for plain in map(plain_of, maps)}
            present.append(int(np.unique(reference[PLAIN]).size))
            for name in maps:
                answer = calls[name](value if name.startswith(TAIL) else image[None])
                check = check_pixels(value, reference[plain_of(name)], answer, tie=NEAR_TIE)
                counts = (check.pixels, check.different, check.ties)
                checks[name] = [a + b for a, b in zip(checks[name], counts, strict=True)]
        found |= {"checks": checks, "classes_present": present}
    return found


def plain_of(form: str) -> str:
    """The form that `form` is compared with."""
    return "tail_plain" if form.startswith(TAIL) else PLAIN


def rows_of(classes: int, runtime: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per form."""
    rows = []
    for name in runs[0]["times"]:
        ratios = [
            statistics.median(p / f for p, f in zip(run["times"][plain_of(name)], run["times"][name], strict=True))
            for run in runs
        ]
        row = {
            "classes": classes, "runtime": runtime, "form": name,
            "cpu_ms": round(statistics.median(statistics.median(run["times"][name]) for run in runs), 2),
            "ratio": round(statistics.median(ratios), 2), "ratio_low": round(min(ratios), 2),
            "ratio_high": round(max(ratios), 2),
        }  # fmt: skip
        if name in runs[0]["checks"]:
            pixels, different, ties = runs[0]["checks"][name]
            row |= {"pixels": pixels, "different": different, "near_ties": ties}
            row["agreement_percent"] = round(100 - 100 * different / pixels, 4)
        row["classes_present"] = statistics.median(runs[0]["classes_present"])
        rows.append(row)
    return rows


def measured(
    classes: int, runtime: str, files: dict[str, Path], args: argparse.Namespace, pictures: Path
) -> list[dict[str, Any]]:
    """The rows of one model on one runtime."""
    runs = []
    for seed in range(args.processes):
        paths = {name: str(path) for name, path in files.items()}
        job = json.dumps([runtime, paths, str(pictures), args.rounds, seed])
        done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=True)  # noqa: S603 - our file
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return rows_of(classes, runtime, runs)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: milliseconds and ratios with their lowest and highest process."""
    names = ("fp32", "int8", "network", "network_int8", "tail_static", TAIL)
    lines = [f"| | {' | '.join(('plain, ms', *names, 'tail_plain, ms'))} |", "|---" * (len(names) + 3) + "|"]
    for place in dict.fromkeys((row["runtime"], row["classes"]) for row in rows):
        forms = {row["form"]: row for row in rows if (row["runtime"], row["classes"]) == place}
        cells = [
            f"{row['cpu_ms']:.1f} ms, {row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
            for row in map(forms.__getitem__, names)
        ]
        ends = (f"{forms[plain]['cpu_ms']:.1f}" for plain in (PLAIN, "tail_plain"))
        lines.append(f"| {place[0]}, {place[1]} classes | {' | '.join((next(ends), *cells, next(ends)))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--classes", default=",".join(map(str, CLASSES)))
    parser.add_argument("--runtimes", default=",".join(RECIPES))
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--calibration", type=int, default=32, help="pictures that INT8 ranges come from")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--build", action="store_true", help="only build what is measured")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(work(*json.loads(args.job))))
        return
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.core.files import sha256_file

    settings = {
        "pictures": args.pictures,
        "processes": args.processes,
        "rounds": args.rounds,
        "calibration": args.calibration,
        "note": args.note,
    }
    document: dict[str, Any] = {
        "command": " ".join(sys.argv), **settings, "environment": dataclasses.asdict(read_environment()), "parts": {},
    }  # fmt: skip
    if args.out and args.out.is_file():
        before = json.loads(args.out.read_text())
        if {key: before[key] for key in settings} == settings:
            document["parts"] = before["parts"]
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch, "pictures.npy")
        write_pictures(pictures, args.pictures)
        for classes in map(int, args.classes.split(",")):
            for runtime in args.runtimes.split(","):
                files = build(classes, runtime, args.calibration, Path(scratch))
                hashes = {name: sha256_file(path) for name, path in files.items()}
                part = f"{classes} {runtime}"
                if not args.build and document["parts"].get(part, {}).get("files") != hashes:
                    rows = measured(classes, runtime, files, args, pictures)
                    document["parts"][part] = {"files": hashes, "rows": rows}
                    if args.out:
                        args.out.write_text(json.dumps(document, indent=1) + "\n")
                    for row in rows:
                        print(json.dumps(row), flush=True)
    if not args.build:
        print(table([row for part in document["parts"].values() for row in part["rows"]]))


if __name__ == "__main__":
    main()
