"""Peak memory of calibrating on many pictures of 512x512, each observer in a process of its own.

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

OBSERVERS = ("minmax", "percentile")


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


def calibrate(model: str, observer: str, count: int) -> dict[str, object]:
    """Calibrate once in this process."""
    from mscsa_deploy.calibration.onnxruntime import prepare
    from mscsa_deploy.calibration.ranges import collect_ranges
    from mscsa_deploy.calibration.recipe import read_recipe
    from mscsa_deploy.calibration.samples import from_dataset
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.core.progress import silent
    from mscsa_deploy.imaging.dataset import open_dataset
    from mscsa_deploy.runtimes.profile import pick_profile
    from mscsa_deploy.workflow.opening import open_subject
    from mscsa_deploy.workflow.subject import SubjectRequest

    profile, _ = pick_profile(read_environment())
    subject = open_subject(model, SubjectRequest(), profile, silent, runtimes=("onnxruntime",))
    file = subject.float_for("onnxruntime").artifact
    recipe = read_recipe("int8_onnxruntime_x86").changed("memory", observer=observer, samples=count)
    with tempfile.TemporaryDirectory(prefix="mscsa-memory-") as folder:
        dataset = open_dataset(scenes(Path(folder), count), "seg")
        samples = from_dataset(dataset, subject.preprocess, input_name=subject.declared.name)
        source = prepare(file.path, samples, recipe)
        before = peak_mib()
        ranges = collect_ranges(source, samples, recipe)
    return {
        "observer": observer,
        "pictures": len(samples),
        "tensors": len(ranges),
        "peak_mib_before": round(before),
        "peak_mib": round(peak_mib()),
    }


def main() -> None:
    """Start a process per observer, or be one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="topformer_t_mscsa.seg")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--observer", choices=OBSERVERS, help="only this one, in this process")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.observer:
        print(json.dumps(calibrate(arguments.model, arguments.observer, arguments.pictures)))
        return
    rows = []
    for observer in OBSERVERS:
        command = [sys.executable, __file__, "--model", arguments.model, "--pictures", str(arguments.pictures)]
        done = subprocess.run([*command, "--observer", observer], check=True, capture_output=True, text=True)  # noqa: S603 - this file
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], file=sys.stderr, flush=True)
    text = json.dumps({"command": [Path(sys.argv[0]).name, *sys.argv[1:]], "rows": rows}, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
