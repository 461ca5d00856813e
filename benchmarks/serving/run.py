"""Load tests of `mscsa-deploy serve`: the server on one core, the client on another, both on this machine.

    python benchmarks/serving/run.py BUNDLE [PICTURE] [-o RESULT.json]      all but the soak, about six minutes
    python benchmarks/serving/run.py BUNDLE --soak 30 [-o RESULT.json]      the soak, 30 minutes

In-process work and served work take turns in short blocks, so that both see the same machine; a result is the
median over rounds of the ratio within a round. The table at the end holds every target; a missed one ends the
script with status 1. On a machine that is busy with other things, `--realtime` (as root) measures latencies at
real-time priority.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from faults import faults
from parts import PARTS as MEASURED
from parts import Json, soak
from processes import CLIENT_CORE, SERVER_CORE, Subject, in_process_worker

PICTURE = Path(__file__).parents[2] / "examples" / "images" / "river.jpg"

PARTS = {**MEASURED, "faults": faults}


def main() -> int:
    """Run the chosen parts, write the results and print the table."""
    options = arguments()
    subject = Subject(
        options.bundle,
        options.picture,
        options.runtime,
        options.precision,
        options.seconds,
        options.rounds,
        options.realtime,
    )
    if options.in_process:
        in_process_worker(subject, options.in_process)
        return 0
    os.sched_setaffinity(0, {CLIENT_CORE})
    results: Json = {"environment": environment(options)}
    for name in ["soak"] if options.soak else options.only or list(PARTS):
        results[name] = soak(subject, options.soak) if name == "soak" else PARTS[name](subject)
        print(table(results[name]["targets"]), flush=True)
        if options.output:
            options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    targets = [line for part in results.values() for line in part.get("targets", [])]
    missed = sum(not line["kept"] for line in targets)
    print(
        f"\n{len(targets) - missed} of {len(targets)} targets kept", *([f"in {options.output}"] * bool(options.output))
    )
    return 1 if missed else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each block")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="only the soak, this long")
    parser.add_argument("--only", choices=sorted(PARTS), action="append")
    parser.add_argument("--runtime", help="serve with this runtime only")
    parser.add_argument("--precision", help="serve in this precision only")
    parser.add_argument("--realtime", action="store_true", help="latencies at real-time priority; needs root")
    parser.add_argument("--note", default="", help="goes into the result: what else the machine was doing")
    parser.add_argument("--in-process", metavar="KIND", help=argparse.SUPPRESS)
    return parser.parse_args()


def environment(options: argparse.Namespace) -> Json:
    """What the figures hold for."""
    from mscsa_deploy.bundle.selection import answering, select
    from mscsa_deploy.bundle.store import read_bundle
    from mscsa_deploy.core.config import to_plain
    from mscsa_deploy.core.environment import read_environment

    bundle = read_bundle(options.bundle)
    chosen = select(bundle, runtime=options.runtime, precision=options.precision, values=True)
    return {
        "device": to_plain(read_environment()),
        "load_average_before": os.getloadavg(),
        "server_core": SERVER_CORE,
        "client_core": CLIENT_CORE,
        "bundle": options.bundle.name,
        "runtime": chosen.runtime,
        "precision": chosen.precision,
        "network": str(chosen),
        "class_maps": str(answering(chosen, bundle) or chosen),
        "picture": options.picture.name,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "realtime": options.realtime,
        "note": options.note,
    }


def table(targets: list[Json]) -> str:
    """Targets with what was measured, as Markdown rows."""
    rows = []
    for line in targets:
        bound = f"{'>=' if line['least'] else '<='} {line['limit']:g}"
        rows.append(
            f"| {line['what']:42} | {line['value']:9.3f} | {bound:8} | {'ok' if line['kept'] else 'MISSED':6} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
