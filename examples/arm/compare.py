"""Holds a bundle's ONNX files on ARM (emulated) against this machine: `python compare.py BUNDLE`.

Numbers only: an emulator says nothing about speed. Needs `setup` and mscsa-deploy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mscsa_deploy.bundle.manifest import ArtifactEntry
from mscsa_deploy.bundle.store import read_bundle
from mscsa_deploy.core.files import cache_root
from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.classmap import class_map
from mscsa_deploy.imaging.decode import decode
from mscsa_deploy.imaging.preprocess import preprocess

HERE = Path(__file__).resolve().parent
CPU = "cortex-a76"
LEAST_AGREEMENT = 99.9
"""Percent of pixels of the same class, for every precision."""
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
        raise UserError(f"{runtime} failed on '{model}': {done.stderr.strip()[-2000:]}")
    return np.load(outputs)


def compare(entry: ArtifactEntry, ours: np.ndarray, theirs: np.ndarray, size: tuple[int, int]) -> tuple[float, float]:
    """Largest difference over the range of `ours`, and percent of equal decisions."""
    over_range = float(np.abs(theirs - ours).max() / np.ptp(ours))
    if entry.postprocess.decide == "argmax":
        maps = [np.stack([class_map(one, size) for one in batch]) for batch in (ours, theirs)]
    else:
        maps = [batch.argmax(axis=1) for batch in (ours, theirs)]
    return over_range, 100.0 * float((maps[0] == maps[1]).mean())


def main() -> int:
    """Compare every portable ONNX file on both runtimes; status 5 if one is too far off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runtime", choices=["onnxruntime", "openvino"], action="append")
    parser.add_argument("--pictures", type=int, default=2, help="of examples/images, beside the golden one")
    parser.add_argument("--root", type=Path, default=cache_root() / "arm64", help="what setup made")
    options = parser.parse_args()
    if not (options.root / "ready").exists():
        print(f"error: '{options.root}' is not ready; run {HERE / 'setup'}", file=sys.stderr)
        return 2
    bundle = read_bundle(options.bundle)
    spec = bundle.manifest.preprocess
    pictures = sorted(HERE.parent.glob("images/*.jpg"))[: options.pictures]
    inputs = [preprocess(decode(picture), spec) for picture in pictures]
    if bundle.manifest.golden is not None:
        inputs.append(np.load(bundle.file(bundle.manifest.golden.input)))
    failed = False
    with tempfile.TemporaryDirectory() as work:
        place = Path(work)
        np.save(place / "inputs.npy", np.concatenate(inputs))
        for entry in bundle.manifest.artifacts:
            for runtime in options.runtime or ("onnxruntime", "openvino"):
                if entry.kind != "onnx" or (entry.precision != "fp32" and runtime not in entry.runtimes):
                    continue
                if entry.requires:
                    print(f"left out: {entry.path} requires {', '.join(entry.requires)}")
                    continue
                model = bundle.file(entry.path).resolve()
                ours, theirs = (
                    answers(runtime, model, place / "inputs.npy", place / "outputs.npy", root)
                    for root in (None, options.root.resolve())
                )
                over_range, agreement = compare(entry, ours, theirs, (spec.height, spec.width))
                close = entry.precision != "fp32" or over_range <= MOST_OVER_RANGE
                passed = close and agreement >= LEAST_AGREEMENT
                failed |= not passed
                print(
                    f"{'passed' if passed else 'failed'}: {entry.path} on {runtime}, {len(inputs)} pictures: "
                    f"{agreement:.4f} % of the decisions equal, largest difference {over_range:.2e} of the range"
                )
    return 5 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
