"""Peak memory of calibrating on many pictures of 512x512, each way in a process of its own.

    python benchmarks/int8/memory.py --pictures 500 --out FILE.json

The pictures are scenes composed like the shipped calibration set, as many as asked for. What is reported is the
process's highest resident set, libraries and model included, before and after the pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = ("minmax", "percentile", "nncf")
"""Two observers of ONNX Runtime's tools, and NNCF with its default ranges, which calibrates and writes in one go."""


def scenes(folder: Path, count: int) -> Path:
    """A manifest like the calibration set's with `count` scenes."""
    from mscsa_deploy.core.shipped import shipped_folder

    place = shipped_folder("calibration") / "scenes"
    lines = (place / "calibration.toml").read_text(encoding="utf-8").splitlines()
    changes = {"scenes": f"scenes = {count}", "assets": f'assets = "{place / "assets.toml"}"'}
    manifest = folder / "many.toml"
    changed = [changes.get(line.split(" = ", 1)[0], line) for line in lines]
    manifest.write_text("\n".join(changed) + "\n", encoding="utf-8")
    return manifest


def peak_mib() -> float:
    """Highest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def calibrate(model: str, way: str, count: int) -> dict[str, object]:
    """Calibrate once in this process."""
    from mscsa_deploy.calibration.onnxruntime import prepare
    from mscsa_deploy.calibration.quantizer import quantize
    from mscsa_deploy.calibration.ranges import collect_ranges
    from mscsa_deploy.calibration.recipe import read_recipe
    from mscsa_deploy.calibration.samples import from_dataset
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.core.progress import silent
    from mscsa_deploy.imaging.dataset import open_dataset
    from mscsa_deploy.runtimes.profile import pick_profile
    from mscsa_deploy.workflow.opening import open_subject
    from mscsa_deploy.workflow.subject import SubjectRequest

    runtime = "openvino" if way == "nncf" else "onnxruntime"
    profile, _ = pick_profile(read_environment())
    subject = open_subject(model, SubjectRequest(), profile, silent, runtimes=(runtime,))
    file = subject.float_for(runtime).artifact
    with tempfile.TemporaryDirectory(prefix="mscsa-memory-") as folder:
        dataset = open_dataset(scenes(Path(folder), count), "seg")
        samples = from_dataset(dataset, subject.preprocess, input_name=subject.declared.name)
        before = peak_mib()
        if way == "nncf":
            recipe = read_recipe("int8_openvino").changed("memory", samples=count)
            quantize(file.path, samples, recipe, Path(folder) / "int8.xml")
        else:
            recipe = read_recipe("int8_onnxruntime_x86").changed("memory", observer=way, samples=count)
            collect_ranges(prepare(file.path, samples, recipe), samples, recipe)
    return {
        "way": way,
        "pictures": len(samples),
        "peak_mib_before": round(before),
        "peak_mib": round(peak_mib()),
    }


def main() -> None:
    """Start a process per way, or be one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="topformer_t_mscsa.seg")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--way", choices=WAYS, help="only this one, in this process")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.way:
        print(json.dumps(calibrate(arguments.model, arguments.way, arguments.pictures)))
        return
    rows = []
    for way in WAYS:
        command = [sys.executable, __file__, "--model", arguments.model, "--pictures", str(arguments.pictures)]
        done = subprocess.run([*command, "--way", way], check=True, capture_output=True, text=True)  # noqa: S603 - this file
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], file=sys.stderr, flush=True)
    text = json.dumps({"command": [Path(sys.argv[0]).name, *sys.argv[1:]], "rows": rows}, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
