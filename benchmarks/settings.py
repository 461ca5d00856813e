"""Which settings of a runtime make a model faster here than those of the device profile? One at a time, in turns.

    python benchmarks/settings.py MODEL [--runtimes onnxruntime,openvino] [--precisions fp32,int8] [-o FILE.json]

MODEL is what `mscsa-deploy benchmark` takes: a bundle, an ONNX file, a name of the zoo. Every setting is a process of
its own, and all settings of one artefact take turns in blocks, so that each is compared with the profile's by blocks
that ran next to each other. Printed is time over time with the profile's settings, below 1 is faster, with its 95 %
interval. "the same again" is the profile's settings twice: how far its interval is from 1 is how far the others can be
trusted. A setting "wins" only with its whole interval below 0.98; under load nothing here means anything.

Rows in brackets answer with other numbers (another arithmetic) or run on more threads: they show what there is to
gain, and are no settings to choose blindly. A setting that wins on a quiet machine belongs in `runtimes/*.toml`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mscsa_deploy.core.config import to_json, to_plain
from mscsa_deploy.core.environment import read_environment
from mscsa_deploy.core.files import output_file
from mscsa_deploy.core.report import Ratio, Row
from mscsa_deploy.errors import UnsupportedError
from mscsa_deploy.runtimes.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from mscsa_deploy.runtimes.openvino import OpenVino, OpenVinoSession
from mscsa_deploy.timing.orchestrator import measure
from mscsa_deploy.timing.plan import CoreInputs, Preset, RowSpec, preset
from mscsa_deploy.timing.rows import ratio_of_files

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array, Feed
    from mscsa_deploy.runtimes.protocol import SessionSettings
    from mscsa_deploy.workflow.variants import Variant

PRESENT, TWIN = "as in the profile", "the same again"
FASTER, SLOWER = 0.98, 1.02


@dataclass(frozen=True)
class Setting:
    """What differs from the profile: options, arithmetic, threads, or the class that runs the session."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""
    threads: int = 0
    runtime: str = ""


def _config(key: str, value: str) -> dict[str, Any]:
    return {"session_config": {key: value}}


SETTINGS: dict[str, tuple[Setting, ...]] = {
    "onnxruntime": (
        *(Setting(f"graph optimization {level}", {"graph_optimization_level": level})
          for level in ("extended", "basic", "disabled")),
        Setting("no arena", {"cpu_mem_arena": False}),
        Setting("no memory pattern", {"mem_pattern": False}),
        Setting("denormals as zero", _config("session.set_denormal_as_zero", "1")),
        Setting("no spinning", _config("session.intra_op.allow_spinning", "0")),
        Setting("no prepacking", _config("session.disable_prepacking", "1")),
        Setting("bound input, preallocated output", runtime="onnxruntime_bound"),
        Setting("(2 threads)", threads=2),
        Setting("(2 threads, operators too)", {"execution_mode": "parallel"}, threads=2),
        Setting("(2 threads, no spinning)", _config("session.intra_op.allow_spinning", "0"), threads=2),
    ),
    "openvino": (
        Setting("hint THROUGHPUT", {"PERFORMANCE_HINT": "THROUGHPUT"}),
        Setting("execution mode ACCURACY", {"EXECUTION_MODE_HINT": "ACCURACY"}),
        Setting("pinned", {"ENABLE_CPU_PINNING": True}),
        Setting("no hyper-threading", {"ENABLE_HYPER_THREADING": False}),
        Setting("denormals as zero", {"CPU_DENORMALS_OPTIMIZATION": True}),
        Setting("output shared, not copied", runtime="openvino_shared"),
        Setting("(arithmetic bf16)", precision="bf16"),
        Setting("(arithmetic fp16)", precision="fp16"),
        Setting("(2 threads)", threads=2),
        Setting("(2 threads, pinned)", {"ENABLE_CPU_PINNING": True}, threads=2),
    ),
}  # fmt: skip


class Bound(OnnxRuntime):
    """ONNX Runtime through an IO binding: inputs are read where they lie, outputs written to the same memory."""

    def load(self, path: Path, settings: SessionSettings) -> BoundSession:
        """A session whose outputs only live until its next run, unlike those of the package."""
        self.check(path, settings)
        return BoundSession(path, settings)


class BoundSession(OnnxRuntimeSession):
    """Made by `Bound.load`."""

    def __init__(self, path: Path, settings: SessionSettings) -> None:
        super().__init__(path, settings)
        if any(size < 0 for spec in self.outputs for size in spec.shape):
            raise UnsupportedError("outputs of unknown size cannot be allocated ahead")
        self._answers = {spec.name: np.empty(spec.shape, spec.dtype) for spec in self.outputs}
        self._binding = self._vendor.io_binding()
        for name, array in self._answers.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _run(self, feed: Feed) -> dict[str, Array]:
        for name, array in feed.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._vendor.run_with_iobinding(self._binding)
        return self._answers


class Shared(OpenVino):
    """OpenVINO whose outputs are not copied out of the request."""

    def load(self, path: Path, settings: SessionSettings) -> SharedSession:
        """A session whose outputs only live until its next run, unlike those of the package."""
        self._check_all(path, settings)
        return SharedSession(path, settings)


class SharedSession(OpenVinoSession):
    """Made by `Shared.load`."""

    def _run(self, feed: Feed) -> dict[str, Array]:
        answers = self._request.infer(dict(feed), share_inputs=True, share_outputs=True)
        return dict(zip(self._names, answers.to_tuple(), strict=True))


def work() -> None:
    """The measuring process: the package's own, which also knows the two classes above."""
    from mscsa_deploy.core.registry import Registry
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.timing import worker

    here = Path(__file__).stem
    more = {"onnxruntime_bound": f"{here}:Bound", "openvino_shared": f"{here}:Shared"}
    worker.RUNTIMES = Registry("runtime", {**RUNTIMES.entries, **more})
    worker.main()


def variations(variant: Variant) -> Iterator[tuple[str, str, SessionSettings]]:
    """Name, runtime and session settings of everything to try for one artefact, the profile's own first."""
    present = variant.settings
    yield PRESENT, variant.runtime, present
    yield TWIN, variant.runtime, present
    for setting in SETTINGS[variant.runtime]:
        options = {**present.options, **setting.options}
        precision = setting.precision or present.precision
        if setting.precision and present.precision == "int8":
            options, precision = {**options, "float_precision": setting.precision}, "int8"
        threads = setting.threads or present.threads
        changed = replace(present, options=options, precision=precision, threads=threads)
        yield setting.name, setting.runtime or variant.runtime, changed


def compare(variant: Variant, inputs: CoreInputs, plan: Preset) -> list[dict[str, Any]]:
    """One line per setting, measured in turns."""
    tried = list(variations(variant))
    specs = [
        RowSpec(
            group="settings", runtime=runtime, precision=settings.precision, path=str(variant.artifact.path),
            core=inputs, threads=settings.threads, options=dict(settings.options), artifact=name,
        )
        for name, runtime, settings in tried
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        worker = (sys.executable, str(Path(__file__).resolve()), "--worker")
        rows = measure(specs, plan, samples_dir=place, progress=_tell, worker=worker)
        ratios = [_over_present(row, rows[0], place) for row in rows]
    lines = [_line(name, row, ratio) for (name, _, _), row, ratio in zip(tried, rows, ratios, strict=True)]
    return [
        {
            "runtime": variant.runtime, "precision": variant.precision, **line,
            # What does not settle, or is compared with what does not, wins nothing.
            "verdict": line["verdict"] if line["stable"] and lines[0]["stable"] else "",
        }
        for line in lines
    ]  # fmt: skip


def _over_present(row: Row, present: Row, place: Path) -> Ratio | None:
    """Time of `row` over time of `present`."""
    if row is present or not (row.samples_file and present.samples_file):
        return None
    # How many times faster the profile's settings are is how many times the time of the others is.
    return ratio_of_files(place / present.samples_file, place / row.samples_file, label=PRESENT)


def _line(name: str, row: Row, ratio: Ratio | None) -> dict[str, Any]:
    verdict = ""
    if ratio is not None:
        low, high = ratio.ci95
        verdict = "wins" if high < FASTER else "loses" if low > SLOWER else ""
    return {
        "setting": name, "p50_ms": row.latency_ms.p50 if row.latency_ms else None,
        "time_ratio": ratio.value if ratio else None, "ci95": ratio.ci95 if ratio else None,
        "executed": row.executed_precision, "stable": row.stable, "verdict": verdict, "reason": row.reason,
    }  # fmt: skip


def _tell(done: int, total: int, label: str) -> None:
    print(f"\r{done}/{total} {label:<70}", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _print(lines: list[dict[str, Any]]) -> None:
    print(f"\n{lines[0]['runtime']} {lines[0]['precision']}")
    for line in lines:
        if line["p50_ms"] is None:
            print(f"  {line['setting']:<34} {line['reason']}")
            continue
        low, high = line["ci95"] or (1.0, 1.0)
        ratio = f"{line['time_ratio']:.3f} [{low:.3f}, {high:.3f}]" if line["ci95"] else "1"
        mark = "" if line["stable"] else "(unstable)"
        print(f"  {line['setting']:<34} {line['p50_ms']:8.2f} ms  {ratio:<22} {line['verdict']:<6}{mark}")


def main() -> None:
    """Measure and print; write JSON where asked."""
    from mscsa_deploy.runtimes.profile import pick_profile, read_profile
    from mscsa_deploy.workflow.evaluate import ImageSet
    from mscsa_deploy.workflow.images import open_images
    from mscsa_deploy.workflow.measure import write_inputs
    from mscsa_deploy.workflow.opening import open_subject
    from mscsa_deploy.workflow.subject import SubjectRequest

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--runtimes", default=",".join(SETTINGS))
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--device", help="device profile (default: this machine's)")
    parser.add_argument("--images", default="validation")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    environment = read_environment()
    profile = read_profile(given.device) if given.device else pick_profile(environment)[0]
    subject = open_subject(given.model, SubjectRequest(device=given.device), profile, _tell)
    images = ImageSet(open_images(given.images, "seg"), subject.preprocess, subject.task, subject.classes)
    inputs, _ = write_inputs(images, subject.declared)
    lines: list[dict[str, Any]] = []
    for variant in subject.variants:
        wanted = variant.runtime in given.runtimes.split(",") and variant.precision in given.precisions.split(",")
        mixed = "float_precision" in variant.settings.options
        if wanted and variant.status == "ok" and variant.role != "fp32" and not mixed:
            found = compare(variant, inputs, preset(given.preset))
            _print(found)
            lines += found
    if given.output is not None:
        body = {"model": subject.name, "profile": profile.name, "preset": given.preset,
                "environment": to_plain(environment), "settings": lines}  # fmt: skip
        with output_file(given.output, force=True) as place:
            place.write_bytes(to_json(body))


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        work()
    else:
        main()
