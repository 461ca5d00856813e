"""Do several runs of `mscsa-deploy benchmark` agree? Its paired ratios, run by run, and how far apart they are.

    python benchmarks/repeat.py BUNDLE [--runs 3] [--preset quick] [--limit 0.05] [-o FILE.json]

Every run is a process of its own that measures every row anew. Ends with status 1 if the ratios of a row that every
run calls stable are further apart than the limit; rows that a run calls unstable are listed, not judged.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mscsa_deploy.core.config import read_json, to_json, to_plain
from mscsa_deploy.core.environment import read_environment
from mscsa_deploy.core.files import output_file
from mscsa_deploy.core.report import Report, Row


def measure(bundle: Path, preset: str, runtimes: str, place: Path) -> Report:
    """One run in a process of its own."""
    command = ["benchmark", str(bundle), "--preset", preset, "--boundary", "core", "--runtime", runtimes]
    command += ["--no-resume", "--no-peak", "--quiet", "-o", str(place)]
    subprocess.run([sys.executable, "-m", "mscsa_deploy", *command], check=True)  # noqa: S603 - our own command
    return read_json(place / "report.json", Report)


def agreement(reports: list[Report], limit: float) -> list[dict[str, Any]]:
    """Per row: its ratio to its runtime's FP32 in every run, and how far the largest is above the smallest."""
    by_key = [{row.key: row for row in report.rows} for report in reports]
    found = []
    for key, first in by_key[0].items():
        rows: list[Row] = [rows[key] for rows in by_key if key in rows]
        ratios = [ratio.value for row in rows if (ratio := row.speedup_vs_fp32 or row.speedup_vs_optimised_fp32)]
        if len(ratios) < len(reports):
            continue
        spread = max(ratios) / min(ratios) - 1
        stable = all(row.stable for row in rows)
        found.append(
            {
                "runtime": first.runtime, "executed": first.executed_precision, "recipe": first.recipe,
                "p50_ms": [row.latency_ms.p50 for row in rows if row.latency_ms], "ratios": ratios,
                "spread": spread, "stable": stable, "agree": spread <= limit if stable else None,
            }
        )  # fmt: skip
    return found


def main() -> int:
    """Measure, compare, print; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--runtimes", default="onnxruntime,openvino")
    parser.add_argument("--limit", type=float, default=0.05)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(number) for number in range(given.runs)]
        reports = [measure(given.bundle, given.preset, given.runtimes, place) for place in places]
    rows = agreement(reports, given.limit)
    for row in rows:
        ratios = ", ".join(f"{ratio:.3f}" for ratio in row["ratios"])
        words = {True: "agree", False: "DISAGREE", None: "unstable, not judged"}[row["agree"]]
        print(f"{row['runtime']:<12} {row['executed']:<16} {ratios}  apart {row['spread']:.1%}  {words}")
    if given.output is not None:
        head = {"runs": given.runs, "preset": given.preset, "limit": given.limit}
        body = {**head, "environment": to_plain(read_environment()), "rows": rows}
        with output_file(given.output, force=True) as place:
            place.write_bytes(to_json(body))
    return 1 if any(row["agree"] is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
