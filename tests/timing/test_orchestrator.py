"""Whole measurements with workers that act: known latencies, failures of every kind, and what is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.timing.journal import BlockTaken, RowRun
from mscsa_deploy.timing.messages import Block, Failure
from mscsa_deploy.timing.orchestrator import measure, state_directory
from mscsa_deploy.timing.plan import CoreInputs, Preset

WORKER = (sys.executable, str(Path(__file__).with_name("acting_worker.py")))
TINY = Preset(
    name="tiny", min_seconds=0.1, min_samples=24, row_cap_seconds=2.0, blocks=4, warmup_runs=2, warmup_seconds=0.0,
    rewarm_runs=0, remeasures=0, timeout_seconds=10.0,
)  # fmt: skip
FEW = msgspec.structs.replace(TINY, min_seconds=0.0, min_samples=4, blocks=2, row_cap_seconds=0.2, timeout_seconds=4.0)
VIRTUAL = (*WORKER, "virtual")


def test_known_latencies_come_back_with_paired_ratio_and_samples(acting, tmp_path: Path) -> None:
    log = str(tmp_path / "calls.log")
    rows = [
        acting("slow", ms=(4.0,), log=log, spec={"role": "fp32"}),
        acting("fast", ms=(2.0,), log=log, spec={"precision": "int8", "macs": 2_000_000}),
        acting("twin", ms=(4.0,), log=log, spec={"precision": "int8", "role": "optimised_fp32"}),
    ]
    labels = []
    slow, fast, twin = measure(
        rows, TINY, samples_dir=tmp_path / "samples", worker=VIRTUAL,
        progress=lambda done, total, label: labels.append((done, total, label)),
    )  # fmt: skip
    assert [row.status for row in (slow, fast, twin)] == ["ok"] * 3
    assert slow.latency_ms.min == slow.latency_ms.p50 == 4.0
    assert fast.latency_ms.p50 == 2.0
    assert fast.speedup_vs_fp32.value == fast.speedup_vs_optimised_fp32.value == 2.0
    assert fast.speedup_vs_fp32.blocks == 4
    assert twin.speedup_vs_fp32.value == 1.0
    assert slow.speedup_vs_fp32 is None
    assert fast.macs_per_s == 1e9
    assert fast.fps == pytest.approx(500)
    assert fast.executed_precision == "int8+fp32"
    assert fast.runtime_version == "1.2.3"
    assert fast.first_ms == 2.0
    assert fast.peak_rss_bytes > 10 << 20
    assert fast.details["inputs"] == 16
    assert (labels[-1][0], labels[-1][1]) == (12, 12)
    with np.load(tmp_path / "samples" / fast.samples_file) as samples:
        assert samples["samples_ns"].tolist() == [2_000_000] * fast.latency_ms.samples
        assert sorted(set(samples["round"].tolist())) == [0, 1, 2, 3]
    # Blocks take turns, every other round backwards, and inputs rotate over all sixteen.
    calls = [line.split() for line in Path(log).read_text().splitlines()]
    order = [name for i, (name, _, _) in enumerate(calls) if i == 0 or calls[i - 1][0] != name]
    loading, rounds = ["slow", "fast", "twin"], ["slow", "fast", "twin", "fast"]
    assert order == [*loading, *rounds, *rounds, "slow"]
    assert {value for name, value, _ in calls if name == "fast"} == {str(2 * i) for i in range(16)}


def test_failures_are_rows_with_reasons_and_the_others_finish(acting, tmp_path: Path) -> None:
    limit = {"memory_limit_bytes": 3 << 30}
    rows = [
        acting("good"),
        acting("crash", fail="crash", after=4),
        acting("hang", fail="hang", after=4),
        acting("memory", fail="memory", after=3, spec=limit),
        acting("unsupported", fail="unsupported"),
        acting("raise", fail="raise", after=1),
        acting("chatty", fail="print"),
        acting("missing", spec={"runtime": "missing"}),
        acting("unread", spec={"core": CoreInputs(path="/nowhere.npz")}),
    ]
    made = {row.artifact: row for row in measure(rows, FEW, samples_dir=tmp_path / "s", worker=WORKER)}
    status = {name: row.status for name, row in made.items()}
    assert status == {
        "good": "ok", "crash": "failed", "hang": "failed", "memory": "failed", "unsupported": "not run",
        "raise": "failed", "chatty": "ok", "missing": "not run", "unread": "failed",
    }  # fmt: skip
    assert "SIGSEGV" in made["crash"].reason
    assert "no answer within" in made["hang"].reason
    assert "out of memory" in made["memory"].reason
    assert made["unsupported"].reason == "no such accelerator; buy one"
    assert "did not feel like it" in made["raise"].reason
    assert made["missing"].reason == "missing cannot run here: it is not installed; pip install acting"
    assert "cannot read the inputs 'nowhere.npz'" in made["unread"].reason
    assert made["hang"].latency_ms is None
    assert not [child for child in psutil.Process().children() if "acting" in " ".join(child.cmdline())]


def test_a_known_distribution_gives_back_its_percentiles(acting, tmp_path: Path) -> None:
    quantiles = (np.arange(1000) + 0.5) / 1000
    # Shuffled, so that it neither drifts nor depends on the block; the first calls go to load and warm-up.
    ms = np.random.default_rng(8).permutation(np.round(-np.log1p(-quantiles) + 5, 6))
    preset = msgspec.structs.replace(TINY, min_seconds=0.0, min_samples=4000, blocks=8, row_cap_seconds=60.0)
    (row,) = measure([acting("known", ms=tuple(ms))], preset, samples_dir=tmp_path / "s", worker=VIRTUAL)
    ordered = np.sort(ms)
    assert row.latency_ms.samples == 4000
    # Four whole turns: order statistics of the list itself, at ranks 500, 900 and 990 of 1,000.
    assert (row.latency_ms.p50, row.latency_ms.p90, row.latency_ms.p99) == (ordered[499], ordered[899], ordered[989])
    assert row.latency_ms.mean == pytest.approx(ms.mean())
    assert row.stable


def test_an_unstable_row_is_measured_again_with_its_reference(acting, tmp_path: Path) -> None:
    again = msgspec.structs.replace(TINY, min_seconds=0.0, min_samples=60, remeasures=1)
    rows = [
        acting("steady", ms=(1.0,), spec={"role": "fp32"}),
        # Loading and warm-up take three calls; the first attempt's first tenth drifts, the second's does not.
        acting("warming", ms=(1.0,), drift_calls=12, drift_ms=1.0, spec={"precision": "int8"}),
        acting("wild", ms=(0.5, 2.0, 1.2, 3.0, 0.7), spec={"precision": "fp16"}),
    ]
    steady, warming, wild = measure(rows, again, samples_dir=tmp_path / "s", worker=VIRTUAL)
    assert steady.stable
    assert "earlier_attempts" not in steady.details
    assert steady.latency_ms.samples == 60
    assert warming.stable
    assert warming.details["earlier_attempts"] == [{"p50": 1.0, "samples": 60}]
    assert warming.speedup_vs_fp32.value == 1.0
    assert not wild.stable
    assert "half-width" in wild.unstable_reason
    with np.load(tmp_path / "s" / steady.samples_file) as samples:
        assert sorted(set(samples["round"].tolist())) == list(range(8))


def test_slow_reduced_precision_brings_its_profile_and_that_of_its_reference(acting, tmp_path: Path) -> None:
    rows = [
        acting("fp32", ms=(1.0,), spec={"role": "fp32"}),
        acting("int8", ms=(1.0,), spec={"precision": "int8"}),
        acting("other", spec={"group": "another model"}),
    ]
    fp32, int8, other = measure(rows, FEW, samples_dir=tmp_path / "s", worker=VIRTUAL)
    assert int8.details["op_profile"]["rows"][0]["op"] == "Conv"
    assert "op_profile" in fp32.details
    assert "op_profile" not in other.details


def test_modes_reach_the_row(acting, tmp_path: Path) -> None:
    rows = [
        acting("paced", ms=(1.0,), spec={"mode": "paced", "rate": 100.0}),
        acting("late", ms=(25.0,), spec={"mode": "paced", "rate": 100.0}),
    ]
    paced, late = measure(rows, TINY, samples_dir=tmp_path / "s", worker=VIRTUAL)
    assert (paced.paced.rate, paced.paced.missed) == (100.0, 0)
    assert paced.latency_ms.p50 == 1.0
    assert paced.details["response_ms"]["p50"] == pytest.approx(1.0, abs=1e-3)
    assert late.paced.missed >= late.latency_ms.samples
    assert late.paced.arrivals == late.paced.missed + late.latency_ms.samples
    (streams,) = measure(
        [acting("streams", ms=(1.0,), spec={"mode": "throughput", "streams": 2})],
        FEW, samples_dir=tmp_path / "t", worker=WORKER,
    )  # fmt: skip
    assert streams.streams == 2
    # Two streams of 1 ms each cannot answer more than 2,000 times a second.
    assert 0 < streams.fps <= 2000


def _interrupted(acting, tmp_path: Path, spec_names: list[str]):
    """A measurement in a process of its own, killed with SIGKILL after some blocks of the first rows."""
    rows = [acting(name, ms=(15.0,)) for name in spec_names]
    (tmp_path / "rows.json").write_bytes(msgspec.json.encode(rows))
    script = tmp_path / "run.py"
    script.write_text(
        "import msgspec\n"
        "from mscsa_deploy.timing.orchestrator import measure\n"
        "from mscsa_deploy.timing.plan import Preset, RowSpec\n"
        "from pathlib import Path\n"
        f"rows = msgspec.json.decode(Path({str(tmp_path / 'rows.json')!r}).read_bytes(), type=list[RowSpec])\n"
        f"preset = msgspec.json.decode({msgspec.json.encode(TINY)!r}, type=Preset)\n"
        f"measure(rows, preset, samples_dir=Path({str(tmp_path / 'samples')!r}), worker={WORKER!r})\n"
    )
    place = state_directory(rows, TINY, "")
    # A suite that runs in the background inherits a SIGINT that is ignored; the script needs the usual one.
    usual = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 - one line, used once
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, preexec_fn=usual)  # noqa: PLW1509 - no threads yet
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        lines = [path.read_bytes().count(b'"taken"') for path in place.glob("*.jsonl")]
        if len(lines) == len(rows) and min(lines) >= 1:
            break
        time.sleep(0.01)
    return rows, process, place


def test_killed_run_leaves_no_process_and_is_resumed(acting, tmp_path: Path) -> None:
    rows, process, place = _interrupted(acting, tmp_path, ["one", "two"])
    workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(workers) == 2
    deadline = time.monotonic() + 5
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in workers if psutil.pid_exists(pid)]

    journal = next(iter(sorted(place.glob("*.jsonl"))))
    kept = _blocks(journal)[0]
    with journal.open("a") as stream:
        stream.write('{"type":"taken","round":3,"att')  # killed while writing a line
    told = []
    one, two = measure(
        rows, TINY, samples_dir=tmp_path / "samples", worker=WORKER, resume=True,
        progress=lambda *counts: told.append(counts[:2]),
    )  # fmt: skip
    assert told[0][0] >= 1
    assert told[-1] == (8, 8)
    assert one.status == two.status == "ok"
    with np.load(tmp_path / "samples" / one.samples_file) as samples:
        first_block = samples["samples_ns"][samples["round"] == kept["round"]]
    assert first_block.tolist() == kept["block"]["samples_ns"]
    assert not place.exists()


def test_without_resume_a_measurement_starts_afresh(acting, tmp_path: Path) -> None:
    rows, process, place = _interrupted(acting, tmp_path, ["one"])
    process.kill()
    process.communicate()
    before = _blocks(next(iter(place.glob("*.jsonl"))))
    (row,) = measure(rows, TINY, samples_dir=tmp_path / "samples", worker=WORKER)
    with np.load(tmp_path / "samples" / row.samples_file) as samples:
        assert samples["samples_ns"][samples["round"] == 0].tolist() != before[0]["block"]["samples_ns"]


def _blocks(journal: Path) -> list[dict]:
    return [json.loads(line) for line in journal.read_text().splitlines() if line.startswith('{"type":"taken"')]


def test_ctrl_c_ends_the_workers(acting, tmp_path: Path) -> None:
    _, process, _ = _interrupted(acting, tmp_path, ["one"])
    workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGINT)
    _, noise = process.communicate(timeout=10)
    assert process.returncode != 0
    assert noise.decode().count("KeyboardInterrupt") == 1
    assert not [pid for pid in workers if psutil.pid_exists(pid)]


def test_damaged_journal_is_an_error_that_says_so(acting, tmp_path: Path) -> None:
    rows, process, place = _interrupted(acting, tmp_path, ["one"])
    process.kill()
    process.communicate()
    journal = next(iter(place.glob("*.jsonl")))
    journal.write_text("nonsense\n" + journal.read_text())
    with pytest.raises(UserError, match="line 1 of the benchmark's journal"):
        measure(rows, TINY, samples_dir=tmp_path / "samples", worker=WORKER, resume=True)


def test_a_failed_row_gets_another_chance_when_resumed(acting, tmp_path: Path) -> None:
    run = RowRun(acting("row"), tmp_path / "journal.jsonl")
    run.note(BlockTaken(round=0, attempt=0, block=Block(samples_ns=[1, 2], wall_ns=3)))
    run.note(Failure(kind="crash", message="it died"))
    assert run.failure is not None
    again = RowRun(run.spec, run.path)
    again.read()
    assert again.failure is None
    assert again.rounds() == [0]
    assert "it died" not in run.path.read_text()


def test_nothing_to_measure_and_doubled_roles_are_refused(acting, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the list of rows is empty"):
        measure([], FEW, samples_dir=tmp_path)
    rows = [acting(name, spec={"role": "fp32"}) for name in ("a", "b")]
    with pytest.raises(UserError, match="two rows of 'model' claim to be the fp32"):
        measure(rows, FEW, samples_dir=tmp_path)


def test_a_worker_ends_with_its_input_even_when_it_hangs(acting) -> None:
    spec = acting("hang", fail="hang")
    process = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b'{"type":"load","spec":' + msgspec.json.encode(spec) + b"}\n")
    process.stdin.flush()
    time.sleep(1.0)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=5) == 0
    process.stdout.close()
