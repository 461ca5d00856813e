"""From what a row yielded to its record in the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mscsa_deploy.core.report import Paced, Parts, Ratio, Row, Status
from mscsa_deploy.timing.journal import RowRun
from mscsa_deploy.timing.messages import Block
from mscsa_deploy.timing.plan import Preset, Role
from mscsa_deploy.timing.statistics import NS_PER_MS, Samples, paired_ratio, summarize

ROLE_WORDS: dict[Role, str] = {
    "fp32": "pinned FP32 of the plain export",
    "optimised_fp32": "pinned FP32 of the optimized export",
}


def references(run: RowRun, runs: Sequence[RowRun]) -> dict[Role, RowRun]:
    """The rows that `run` is compared with, by role; not itself."""
    return {
        other.spec.role: other
        for other in runs
        if other.spec.role and other is not run and other.spec.condition == run.spec.condition
    }


def ratio_to(run: RowRun, reference: RowRun) -> Ratio | None:
    """How many times faster `run` is than `reference`, from the rounds both have; None if there is none.

    For throughput the blocks' time per answer is compared instead of the latency of one stream.
    """
    rounds = [number for number in run.rounds() if number in reference.blocks]
    failed = run.failure is not None or reference.failure is not None
    if not rounds or failed or emulated_by(run) or emulated_by(reference):
        return None
    both = [[_comparable(side.blocks[number], side) for number in rounds] for side in (reference, run)]
    return paired_ratio(both[0], both[1], label=ROLE_WORDS[reference.spec.role])


def _comparable(block: Block, run: RowRun) -> Samples:
    if run.spec.mode == "throughput":
        return np.array([block.wall_ns / len(block.samples_ns)]).astype(np.int64)
    return np.array(block.samples_ns, dtype=np.int64)


def write_samples(run: RowRun, folder: Path, number: int) -> str:
    """Write every sample with its round and attempt to an .npz in `folder`; returns the file's name.

    Nothing is written, and the name is empty, where there are no samples that may be quoted.
    """
    if not run.blocks or emulated_by(run):
        return ""
    spec = run.spec
    words = f"{number:03d}-{spec.group}-{spec.runtime}-{spec.precision}-{spec.boundary}-{spec.mode}"
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", words) + ".npz"
    attempt_of = {taken: attempt for attempt, rounds in run.attempts.items() for taken in rounds}
    arrays: dict[str, list[int]] = {"samples_ns": [], "round": [], "attempt": []}
    for taken in sorted(run.blocks):
        block = run.blocks[taken]
        arrays["samples_ns"] += block.samples_ns
        arrays["round"] += [taken] * len(block.samples_ns)
        arrays["attempt"] += [attempt_of.get(taken, -1)] * len(block.samples_ns)
        for part, values in {**block.parts_ns, "response": block.response_ns}.items():
            if values:
                arrays.setdefault(f"{part}_ns", []).extend(values)
    np.savez_compressed(folder / name, **{key: np.array(v, np.int64) for key, v in arrays.items()})  # type: ignore[arg-type]  # the stub takes the names for its own flags
    return name


def ratio_of_files(candidate: Path, reference: Path, *, label: str) -> Ratio:
    """As `ratio_to`, from the sample files of two rows of one group.

    Raises:
        UserError: They have no round in common, so that nothing ran side by side.
    """
    blocks: list[dict[int, Samples]] = []
    for path in (reference, candidate):
        with np.load(path) as arrays:
            samples, rounds = arrays["samples_ns"], arrays["round"]
        blocks.append({int(number): samples[rounds == number] for number in np.unique(rounds)})
    common = sorted(blocks[0].keys() & blocks[1].keys())
    return paired_ratio([blocks[0][number] for number in common], [blocks[1][number] for number in common], label=label)


def emulated_by(run: RowRun) -> str:
    """The emulator that the row ran under; empty on a real processor."""
    return "" if run.loaded is None else run.loaded.emulator


def make_row(run: RowRun, runs: Sequence[RowRun], preset: Preset, *, samples_file: str) -> Row:
    """The report's row: latency, ratios and what really ran, or the status and reason of its failure."""
    spec, loaded = run.spec, run.loaded
    known: dict[str, Any] = {
        name: getattr(spec, name)
        for name in (
            "runtime", "precision", "profile", "boundary", "mode", "device", "threads", "streams",
            "input_size", "artifact", "sha256", "recipe",
        )
    }  # fmt: skip
    known |= {"size_bytes": spec.size_bytes or None, "samples_file": samples_file}
    if loaded is not None:
        known |= {
            "runtime_version": loaded.runtime_version,
            "executed_precision": loaded.executed_precision,
            "load_ms": loaded.load_ms,
            "first_ms": loaded.first_ms,
        }
    details = _details(run, preset)
    if run.failure is not None:
        status: Status = "not run" if run.failure.kind == "unsupported" else "failed"
        return Row(status=status, reason=_reason(run), details=details, **known)
    if name := emulated_by(run):
        reason = f"ran under {name}: shows that it works, says nothing about its speed"
        return Row(
            status="ok", reason=reason, details={"emulator": name}, **{**known, "load_ms": None, "first_ms": None}
        )
    return Row(status="ok", details=details, **known, **(_measured(run) | _ratios(run, runs)))


def _reason(run: RowRun) -> str:
    assert run.failure is not None
    return f"{run.failure.message}; {run.failure.hint}" if run.failure.hint else run.failure.message


def _ratios(run: RowRun, runs: Sequence[RowRun]) -> dict[str, Any]:
    return {
        f"speedup_vs_{role}": ratio
        for role, reference in references(run, runs).items()
        if (ratio := ratio_to(run, reference)) is not None
    }


def _measured(run: RowRun) -> dict[str, Any]:
    blocks = [run.blocks[number] for number in run.rounds()]
    latency, stability = summarize(run.samples()), run.stability
    calls = len(run.samples())
    seconds = sum(block.wall_ns for block in blocks) / 1e9
    if run.spec.mode == "back_to_back":
        seconds = float(run.samples().sum()) / 1e9
    measured: dict[str, Any] = {
        "latency_ms": latency,
        "stable": stability.stable,
        "unstable_reason": stability.reason,
        "fps": calls / seconds,
        "peak_rss_bytes": max(block.peak_rss_bytes for block in blocks),
    }
    if run.spec.macs:
        measured["macs_per_s"] = run.spec.macs / (latency.p50 / 1e3)
    if blocks[0].parts_ns:
        joined = {part: [v for block in blocks for v in block.parts_ns[part]] for part in blocks[0].parts_ns}
        measured["parts_ms"] = Parts(**{part: float(np.median(v)) / NS_PER_MS for part, v in joined.items()})
    if run.spec.mode == "paced":
        measured["paced"] = Paced(
            rate=run.spec.rate,
            arrivals=sum(block.arrivals for block in blocks),
            missed=sum(block.missed for block in blocks),
        )
    return measured


def _details(run: RowRun, preset: Preset) -> dict[str, Any]:
    details: dict[str, Any] = {
        "preset": preset.name,
        "group": run.spec.group,
        "options": dict(run.spec.options),
    }
    if run.spec.role:
        details["role"] = run.spec.role
    if (loaded := run.loaded) is not None:
        details |= {
            "import_ms": loaded.import_ms,
            "threads_read_back": loaded.threads,
            "affinity": list(loaded.affinity),
            "pinned": bool(run.spec.affinity),
            "inputs": loaded.inputs,
            "warmup": {"runs": preset.warmup_runs, "seconds": preset.warmup_seconds},
        }
    if run.blocks:
        blocks = [run.blocks[number] for number in sorted(run.blocks)]
        details |= {
            "clock_mhz": {"before": blocks[0].clocks_mhz[0], "after": blocks[-1].clocks_mhz[1]},
            "load_average": max(block.load_average for block in blocks),
            "blocks": len(run.rounds()),
        }
        if blocks[0].response_ns:
            details["response_ms"] = _response(blocks)
    if len(run.attempts) > 1:
        details["earlier_attempts"] = [
            {"p50": summarize(run.samples(attempt)).p50, "samples": len(run.samples(attempt))}
            for attempt in sorted(run.attempts)[:-1]
        ]
    if run.profile is not None:
        details["op_profile"] = run.profile
    return details


def _response(blocks: Sequence[Block]) -> dict[str, float | None]:
    latency = summarize([value for block in blocks for value in block.response_ns])
    return {"p50": latency.p50, "p90": latency.p90, "p99": latency.p99}
