"""Check the measuring itself: our worker against an independent loop around ONNX Runtime, block by block.

    python benchmarks/check_clock.py MODEL.onnx [--pairs 6] [--rounds 10] [--limit 0.03]

The independent loop shares no code with the package: the vendor's session, `time.monotonic_ns`, its own process.
Blocks take turns, so that both see the same machine. Two processes of the very same loop can differ by a few percent
for as long as they live, so several pairs of fresh processes take part; ends with status 1 if the median of their
ratios is further from 1 than the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mscsa_deploy.timing.plan import CoreInputs

SECONDS = 0.5


def independent(model: str, inputs: str) -> None:
    """Answer each line on standard input with one block of nanoseconds; no import of ours."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    feeds = list(np.load(inputs)[name])
    count = 0
    for _ in sys.stdin:
        taken: list[int] = []
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            feed = {name: feeds[count % len(feeds)]}
            begin = time.monotonic_ns()
            session.run(None, feed)
            taken.append(time.monotonic_ns() - begin)
            count += 1
        print(json.dumps(taken), flush=True)


def compare(model: Path, pairs: int, rounds: int, limit: float) -> int:
    """Pair by pair; the exit status."""
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.runtimes.protocol import SessionSettings
    from mscsa_deploy.timing.inputs import write_random_inputs

    with tempfile.TemporaryDirectory() as folder:
        with RUNTIMES.load("onnxruntime")().load(model, SessionSettings()) as session:
            inputs = write_random_inputs(Path(folder) / "inputs.npz", session.inputs)
        ratios = [ratio_of_pair(model, inputs, rounds) for _ in range(pairs)]
    found = float(np.median(ratios))
    each = ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios))
    print(f"independent / ours: {found:.4f}, the median of {pairs} pairs of processes ({each}; {rounds} blocks each)")
    return 0 if abs(found - 1) <= limit else 1


def ratio_of_pair(model: Path, inputs: CoreInputs, rounds: int) -> float:
    """Median over blocks that ran next to each other: the independent loop's time over ours."""
    from mscsa_deploy.timing import messages
    from mscsa_deploy.timing.plan import RowSpec
    from mscsa_deploy.timing.process import Worker
    from mscsa_deploy.timing.statistics import paired_ratio

    other = subprocess.Popen(  # noqa: S603 - this very script
        [sys.executable, __file__, "--independent", str(model), inputs.path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdin is not None
    assert other.stdout is not None
    worker = Worker()
    try:
        spec = RowSpec(group="check", runtime="onnxruntime", precision="fp32", path=str(model), core=inputs)
        worker.ask(messages.Load(spec=spec), messages.Loaded, timeout_seconds=120)
        command = messages.Measure(runs=1, seconds=SECONDS, cap_seconds=60, rewarm_runs=3)
        ours, theirs = [], []
        for number in range(rounds + 1):
            for side in (0, 1) if number % 2 else (1, 0):
                if side:
                    block = worker.ask(command, messages.Block, timeout_seconds=120)
                    ours.append(np.array(block.samples_ns))
                else:
                    other.stdin.write("go\n")
                    other.stdin.flush()
                    theirs.append(np.array(json.loads(other.stdout.readline())[3:]))
    finally:
        worker.close()
        other.stdin.close()
        other.wait()
    # The first round warms both up.
    return paired_ratio(theirs[1:], ours[1:], label="the independent loop").value


if __name__ == "__main__":
    if sys.argv[1:2] == ["--independent"]:
        independent(*sys.argv[2:4])
    else:
        parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
        parser.add_argument("model", type=Path)
        parser.add_argument("--pairs", type=int, default=6)
        parser.add_argument("--rounds", type=int, default=10)
        parser.add_argument("--limit", type=float, default=0.03)
        given = parser.parse_args()
        sys.exit(compare(given.model, given.pairs, given.rounds, given.limit))
