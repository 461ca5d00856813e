"""Accuracy of INT8 recipes on one model: drop, agreement and SQNR, with mean and spread over calibration draws.

    python benchmarks/int8/accuracy.py MODEL --recipe NAME... [--change KEY=VALUE...] [--draws 3] --out FILE.json

Draw 0 covers the calibration set evenly, the others are random draws of `--samples` of its pictures. Each recipe is
run as it is, with each `--change` on its own and, if `--noise` asks for it, calibrated on noise. The float model is the
one that the recipe's runtime runs fastest; TensorRT's Q/DQ file is run on ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.workflow.quantize_bench import Bench


def variants(name: str, changes: list[str], samples: int) -> list[CalibrationRecipe]:
    """The recipe as it is, and with each change alone; all on `samples` pictures."""
    from mscsa_deploy.calibration.recipe import read_recipe

    base = read_recipe(name).changed(name, samples=samples)
    settings = [tomllib.loads(change.replace("=", " = ", 1)) for change in changes]
    return [base, *(base.changed(f"{name} {text}", **one) for text, one in zip(changes, settings, strict=True))]


def measure(recipe: CalibrationRecipe, bench: Bench, draws: int) -> dict[str, Any]:
    """Each draw's figures, and their mean and spread."""
    rows = []
    for draw in range(draws):
        drawn = replace(bench, request=replace(bench.request, draw=draw))
        made = drawn.make(recipe)
        score = drawn.score(drawn.variant(made, recipe), recipe.name)
        value, reference = drawn.headline(score)
        metric = score.metric(drawn.reference)
        interval = metric and metric.drop_ci95
        assert score.parity is not None
        rows.append(
            {
                "draw": draw,
                "value": round(value, 4),
                "drop": round(reference - value, 4),
                "drop_ci95": interval and [round(end, 4) for end in interval],
                "agreement": round(score.parity.argmax_agreement or 0.0, 4),
                "sqnr_db": round(score.parity.sqnr_db or 0.0, 3),
                "pictures": made.samples,
            }
        )
        print(recipe.name, rows[-1], file=sys.stderr, flush=True)
    spread = {
        key: {"mean": statistics.fmean(values), "spread": statistics.stdev(values) if draws > 1 else None}
        for key in ("drop", "agreement", "sqnr_db")
        if (values := [row[key] for row in rows])
    }
    return {"recipe": recipe.name, "metric": bench.metric, "images": len(bench.images), "draws": rows, **spread}


def on_noise(recipe: CalibrationRecipe, bench: Bench) -> dict[str, Any]:
    """The figures of `recipe` calibrated on noise, as where nobody has pictures at hand."""
    from mscsa_deploy.calibration.samples import noise

    samples = noise((bench.subject.declared,), recipe.samples)
    return measure(recipe.changed(f"{recipe.name} noise"), replace(bench, samples=samples), 1)


def open_benches(arguments: argparse.Namespace, runtimes: set[str], folder: Path) -> dict[str, Bench]:
    """A bench per runtime, scored on the set that `--on` names."""
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.core.progress import silent
    from mscsa_deploy.runtimes.profile import pick_profile
    from mscsa_deploy.workflow.opening import open_subject
    from mscsa_deploy.workflow.quantize_bench import QuantizeRequest, open_bench

    environment = read_environment()
    profile, _ = pick_profile(environment)
    benches = {}
    for runtime in sorted(runtimes):
        request = QuantizeRequest(
            model=arguments.model,
            runtime=runtime,
            task=arguments.task,
            random_weights=arguments.random_weights,
            calibration=arguments.calibration,
            validation=arguments.on,
            validation_images=arguments.images,
        )
        place = "onnxruntime" if runtime == "tensorrt" else runtime
        subject = open_subject(arguments.model, request, profile, silent, runtimes=(place,))
        (folder / runtime).mkdir()
        benches[runtime] = open_bench(request, subject, profile, environment, folder / runtime, progress=silent)
    return benches


def main() -> None:
    """Parse, measure, write."""
    from mscsa_deploy.core.config import to_plain

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--task", choices=("cls", "seg"), help="for a model that is there for both")
    parser.add_argument("--recipe", action="append", required=True, help="calibration recipe; repeatable")
    parser.add_argument("--change", action="append", default=[], metavar="KEY=VALUE", help="a TOML setting; repeatable")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--samples", type=int, default=100, help="calibration pictures of a draw")
    parser.add_argument("--calibration", default="calibration", help="pictures that ranges are taken from")
    parser.add_argument("--noise", action="store_true", help="also calibrate each recipe on noise")
    parser.add_argument("--on", default="evaluation", help="images to score on")
    parser.add_argument("--images", type=int, help="at most so many of them")
    parser.add_argument("--random-weights", type=int, metavar="SEED")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    recipes = [each for name in arguments.recipe for each in variants(name, arguments.change, arguments.samples)]
    with tempfile.TemporaryDirectory(prefix="mscsa-int8-") as folder:
        benches = open_benches(arguments, {recipe.runtime for recipe in recipes}, Path(folder))
        first = next(iter(benches.values()))
        rows = []
        for recipe in recipes:
            rows.append(measure(recipe, benches[recipe.runtime], arguments.draws))
            if arguments.noise and recipe.name in arguments.recipe:
                rows.append(on_noise(recipe, benches[recipe.runtime]))
        document = {
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "model": first.subject.name,
            "sha256": first.subject.sha256,
            "weights": "random" if first.subject.random_weights else "trained",
            "environment": first.environment.comparable(),
            "float": {name: bench.reference.metric(None) for name, bench in benches.items()},
            "rows": rows,
        }
    text = json.dumps(to_plain(document), indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
