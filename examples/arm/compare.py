"""Holds a bundle's ONNX files on ARM (emulated) against this machine: `python compare.py BUNDLE`.

Numbers only: an emulator says nothing about speed. Needs `setup` and mscsa-deploy.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mscsa_deploy.bundle.manifest import ArtifactEntry
from mscsa_deploy.bundle.store import Bundle, contents, read_bundle
from mscsa_deploy.core.files import cache_root
from mscsa_deploy.errors import DeployError, StageError, UserError
from mscsa_deploy.imaging.classmap import class_map
from mscsa_deploy.imaging.decode import decode
from mscsa_deploy.imaging.preprocess import preprocess

HERE = Path(__file__).resolve().parent
CPU = "cortex-a76"
RUNTIMES = ("onnxruntime", "openvino")
LEAST_AGREEMENT = 99.9
"""Percent of pixels of the same class: FP32, and INT8 on ONNX Runtime, whose portable files use the integer kernels
that round alike everywhere."""
MOST_FURTHER = 0.5
"""Points by which INT8 on OpenVINO may be further from FP32 on ARM than here. Its integer kernels round differently on
every instruction set, which costs as many equal decisions as quantizing does; it must not cost accuracy."""
MOST_OVER_RANGE = 1e-4
"""Largest FP32 difference over the range of the outputs: the same sums in another order."""


def answers(runtime: str, model: Path, inputs: Path, outputs: Path, root: Path | None) -> np.ndarray:
    """The outputs on this machine, or on ARM in the folder `root` that `setup` made."""
    words = ["answers.py", runtime, str(model), str(inputs), str(outputs)]
    command = [sys.executable, *words]
    variables = dict(os.environ)
    if root is not None:
        system = root / "system"
        command = ["qemu-aarch64-static", "-cpu", CPU, "-L", str(system), str(system / "usr/bin/python3.11"), *words]
        # Not PYTHONHOME's and not this machine's packages.
        variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root / "packages"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(  # noqa: S603 - our own script
        command, cwd=HERE, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StageError(runtime, f"'{model}'{' on ARM' if root else ''}", done.stderr.strip()[-2000:])
    return np.load(outputs)


def runs_on(entry: ArtifactEntry, runtime: str) -> bool:
    """Whether `runtime` can load it: FP32 ONNX files run on both, every other file where it was made for."""
    loads = entry.kind == "onnx" or (entry.kind, runtime) == ("openvino", "openvino")
    return loads and (entry.precision == "fp32" or runtime in entry.runtimes)


def decisions(entry: ArtifactEntry, outputs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The class of each pixel at the input's size, or of each picture."""
    if entry.postprocess.output == "classmap":
        return outputs
    if entry.postprocess.decide == "argmax":
        return np.stack([class_map(one, size) for one in outputs])
    return outputs.argmax(axis=1)


def percent_equal(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of the decisions."""
    return 100.0 * float((ours == theirs).mean())


@dataclass
class Comparison:
    """What is held against what: the inputs on disk, the ARM system, and the FP32 decisions of each runtime."""

    bundle: Bundle
    inputs: Path
    root: Path
    fp32: dict[str, np.ndarray] = field(default_factory=dict)

    def judge(self, entry: ArtifactEntry, runtime: str) -> bool:
        """Run one file here and on ARM, print a line, and say whether it passed."""
        spec = self.bundle.manifest.preprocess
        model = self.bundle.file(entry.path).resolve()
        outputs = self.inputs.with_name("outputs.npy")
        ours, theirs = (answers(runtime, model, self.inputs, outputs, root) for root in (None, self.root))
        valued = entry.postprocess.output != "classmap"
        over_range = float(np.abs(theirs - ours).max() / np.ptp(ours)) if valued else 0.0
        here, there = (decisions(entry, values, (spec.height, spec.width)) for values in (ours, theirs))
        agreement = percent_equal(here, there)
        told = f"{agreement:.4f} % of the decisions equal"
        told += f", largest difference {over_range:.2e} of the range" if valued else ""
        if entry.precision == "fp32":
            self.fp32[runtime] = here
            passed = over_range <= MOST_OVER_RANGE and agreement >= LEAST_AGREEMENT
        elif runtime == "openvino":
            near_here, near_there = (percent_equal(self.fp32[runtime], found) for found in (here, there))
            told += f"; equal to FP32: {near_there:.4f} % there, {near_here:.4f} % here"
            passed = near_there >= near_here - MOST_FURTHER
        else:
            passed = agreement >= LEAST_AGREEMENT
        print(
            f"{'passed' if passed else 'failed'}: {entry.path} on {runtime}, {len(ours)} pictures: {told}", flush=True
        )
        return passed


def main() -> int:
    """Compare every portable file on the runtimes that load it; status 5 if one is too far off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runtime", choices=["onnxruntime", "openvino"], action="append")
    parser.add_argument("--pictures", type=int, default=2, help="of examples/images, beside the golden one")
    parser.add_argument("--root", type=Path, default=cache_root() / "arm64", help="what setup made")
    options = parser.parse_args()
    if not (options.root / "ready").exists():
        print(f"error: '{options.root}' is not ready; run {HERE / 'setup'}", file=sys.stderr)
        return 2
    try:
        bundle = read_bundle(options.bundle)
        with tempfile.TemporaryDirectory() as work:
            inputs = Path(work) / "inputs.npy"
            np.save(inputs, example_inputs(bundle, options.pictures))
            return compare(Comparison(bundle, inputs, options.root.resolve()), options.runtime or RUNTIMES)
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def compare(comparison: Comparison, runtimes: Sequence[str]) -> int:
    """Exit status after every file that each of `runtimes` loads, FP32 first."""
    passed = []
    entries = sorted(comparison.bundle.manifest.artifacts, key=lambda entry: entry.precision != "fp32")
    for entry, runtime in itertools.product(entries, runtimes):
        if not runs_on(entry, runtime):
            continue
        if entry.requires:
            print(f"left out: {entry.path} requires {', '.join(entry.requires)}")
            continue
        passed.append(comparison.judge(entry, runtime))
    if not passed:
        held = contents(comparison.bundle.manifest)
        raise UserError("the bundle holds nothing for these runtimes", hint=f"it holds: {held}")
    return 0 if all(passed) else 5


def example_inputs(bundle: Bundle, pictures: int) -> np.ndarray:
    """(N, 3, H, W) float32: some example pictures, and the golden input."""
    spec = bundle.manifest.preprocess
    paths = sorted(HERE.parent.glob("images/*.jpg"))[:pictures]
    inputs = [preprocess(decode(path), spec) for path in paths]
    if bundle.manifest.golden is not None:
        inputs.append(np.load(bundle.file(bundle.manifest.golden.input)))
    return np.concatenate(inputs)


if __name__ == "__main__":
    raise SystemExit(main())
