"""Records of rows, without a worker."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mscsa_deploy.timing.journal import BlockTaken, RowRun
from mscsa_deploy.timing.messages import Block, Loaded
from mscsa_deploy.timing.plan import PRESETS
from mscsa_deploy.timing.rows import make_row, write_samples


def test_under_an_emulator_a_row_tells_that_it_ran_and_no_time(acting, tmp_path: Path) -> None:
    runs = [
        RowRun(acting(name, spec={"role": role}), tmp_path / f"{name}.jsonl")
        for name, role in (("plain", "fp32"), ("ours", "optimised_fp32"))
    ]
    for run in runs:
        run.note(
            Loaded(
                load_ms=1.0, first_ms=1.0, import_ms=1.0, executed_precision="fp32", runtime_version="1", threads=1,
                affinity=(), inputs=16, emulator="qemu-aarch64-static",
            )
        )  # fmt: skip
        run.note(BlockTaken(round=0, attempt=0, block=Block(samples_ns=[1_000_000] * 30, wall_ns=30_000_000)))
    # The reference may be on a real machine and the row not, or the other way round.
    for emulated in ({0, 1}, {0}, {1}):
        sides = [run if place in emulated else _on_a_real_one(run) for place, run in enumerate(runs)]
        assert make_row(sides[1], sides, PRESETS["smoke"], samples_file="").speedup_vs_fp32 is None
    row = make_row(runs[1], runs, PRESETS["smoke"], samples_file="")
    assert (row.status, row.latency_ms, row.load_ms, row.fps) == ("ok", None, None, None)
    assert "qemu-aarch64-static" in row.reason
    assert write_samples(runs[1], tmp_path, 0) == ""
    real = [_on_a_real_one(run) for run in runs]
    assert make_row(real[1], real, PRESETS["smoke"], samples_file="").speedup_vs_fp32.value == 1.0


def _on_a_real_one(run: RowRun) -> RowRun:
    real = RowRun(run.spec, run.path)
    real.read()
    real.loaded = msgspec.structs.replace(real.loaded, emulator="")
    return real
