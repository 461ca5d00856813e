"""The two tables of docs/scaling.md from a result of run.py: CPU per image, and what many images take.

    python benchmarks/serving/scaling.py RESULT.json [docs/scaling.md]

Prints them, or puts them between the document's markers.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

NAMES = {"uint8": "uint8 pixels", "jpeg": "JPEG bytes", "fp32": "FP32 tensor"}
BEGIN, END = "<!-- figures of benchmarks/serving/scaling.py -->\n", "<!-- end of figures -->\n"


def tables(result: dict[str, Any], *, utilization: float, price: float, machine: int) -> str:
    """Both tables, as Markdown."""
    lines = ["| input | CPU per image in process | CPU per image served | ratio |", "|---|---|---|---|"]
    for kind, name in NAMES.items():
        part = result["throughput"][kind]
        inside, served = part["in_process_cpu_ms"], part["served_cpu_ms"]
        lines.append(f"| {name} | {inside:.1f} ms | {served:.1f} ms | {part['cpu_ratio']:.2f} |")
    milliseconds = result["throughput"]["jpeg"]["served_cpu_ms"]
    lines += [
        "",
        f"That is {1e3 / milliseconds:.0f} images per second and core for JPEG. At a utilization of {utilization:g},",
        f"and {price:.2f} USD per core and hour (put in your own price):",
        "",
        f"| images per second | cores | machines of {machine} cores | USD per hour | USD per million images |",
        "|---|---|---|---|---|",
    ]
    for rate in (1_000, 100_000):
        cores = math.ceil(rate * milliseconds / 1e3 / utilization)
        hourly = cores * price
        million = 1e6 * hourly / (3600 * rate)
        lines.append(f"| {rate:,} | {cores:,} | {math.ceil(cores / machine)} | {hourly:.2f} | {million:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("document", type=Path, nargs="?")
    parser.add_argument("--utilization", type=float, default=0.7)
    parser.add_argument("--price", type=float, default=0.04, help="USD per core and hour")
    parser.add_argument("--machine", type=int, default=32, help="cores of one machine")
    options = parser.parse_args()
    result = json.loads(options.result.read_text(encoding="utf-8"))
    text = tables(result, utilization=options.utilization, price=options.price, machine=options.machine)
    if options.document is None:
        print(text, end="")
        return
    head, _, rest = options.document.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    options.document.write_text(head + BEGIN + text + END + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
