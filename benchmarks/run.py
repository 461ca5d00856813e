"""Run a comparison suite: this project's bundle against what a user would pick instead.

    python benchmarks/run.py benchmarks/against_stock.toml [--bundle DIR] [--quick] [--resume]

Without --bundle, `mscsa-deploy deploy` makes one first. Every row is a process of its own; all rows of the suite
take turns block by block, so that any two can be compared by the ratio of blocks that ran side by side.
The result is one file, benchmarks/results/<suite>__<device>__<runtime>-<version>....json, with the environment and
the command; the raw samples lie beside it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
from comparison import OURS, comparisons, to_markdown
from stock import INPUT, MAKERS
from suite import Suite

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.core.config import Config, read_json, read_toml, to_json, to_plain
from mscsa_deploy.core.environment import read_environment
from mscsa_deploy.core.files import cache_root, content_key, output_file
from mscsa_deploy.core.report import ModelRecord, Report, Row
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import unknown_name
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.runtimes.protocol import KINDS, SessionSettings
from mscsa_deploy.timing.plan import Preset, preset
from mscsa_deploy.workflow.evaluate import ImageSet
from mscsa_deploy.workflow.explained import with_explanations
from mscsa_deploy.workflow.images import open_images
from mscsa_deploy.workflow.measure import Measurement, measure_variants
from mscsa_deploy.workflow.prepare import ModelRequest, Prepared, prepare
from mscsa_deploy.workflow.score import score_variants
from mscsa_deploy.workflow.variants import Variant

RESULTS = Path(__file__).parent / "results"


class Measured(Config, frozen=True, kw_only=True):
    """The rows of a finished measurement, each with its variant's position."""

    rows: tuple[tuple[int, Row], ...]


def main() -> None:
    """Parse, build what is compared, measure, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("suite", type=Path)
    parser.add_argument("--bundle", type=Path, help="a bundle that 'deploy' made for the suite's model")
    parser.add_argument("--quick", action="store_true", help="the quick preset, to try the suite out")
    parser.add_argument("--dry-run", action="store_true", help="show the rows and stop")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    suite = read_toml(given.suite, Suite)
    plan = preset("quick") if given.quick else preset("full", **suite.preset)
    if given.dry_run:
        _show(suite, plan)
        return
    prepared = _prepare(suite)
    work = cache_root() / "benchmarks" / content_key({"suite": to_plain(suite), "model": prepared.key})
    work.mkdir(parents=True, exist_ok=True)
    bundle = given.bundle or _deploy(suite, work / "bundle")
    variants = [*_stock_variants(suite, prepared, work), *_our_variants(suite, bundle)]
    report = _measure(suite, prepared, variants, plan, work=work, resume=given.resume)
    print(f"wrote {_write(suite, report, work)}")


def _show(suite: Suite, plan: Preset) -> None:
    """Print what would be measured; an unknown maker or runtime is an error already here."""
    for stock in suite.stock:
        for name, known in ((stock.make, MAKERS), (stock.runtime, RUNTIMES)):
            if name not in known:
                raise unknown_name("maker or runtime", name, known)
        print(f"{stock.runtime} {stock.precision}: {stock.name}")
    print(f"and every artefact of the bundle; {', '.join(suite.boundaries)}, {plan.min_seconds:g} s a row at least")


def _prepare(suite: Suite) -> Prepared:
    request = ModelRequest(model=suite.model, task=suite.task, random_weights=suite.random_weights)
    return prepare(request)


def _deploy(suite: Suite, place: Path) -> Path:
    if not place.exists():
        command = ["deploy", suite.model, "--task", suite.task, "-o", str(place)]
        if suite.random_weights is not None:
            command += ["--random-weights", str(suite.random_weights)]
        print("$ mscsa-deploy", shlex.join(command), file=sys.stderr)
        subprocess.run([sys.executable, "-m", "mscsa_deploy", *command], check=True)  # noqa: S603 - our own command
    return place


def _stock_variants(suite: Suite, prepared: Prepared, work: Path) -> list[Variant]:
    calibration = _images(suite, prepared, suite.calibration, suite.calibration_images)
    folder = work / "stock"
    folder.mkdir(exist_ok=True)
    made: dict[str, Path] = {}
    for name in MAKERS:
        if any(stock.make == name for stock in suite.stock):
            # An interrupted run goes on with the very files that it measured.
            finished = folder / f"{name}.finished"
            if not finished.is_file():
                print(f"making {name}", file=sys.stderr)
                finished.write_text(MAKERS[name](prepared, calibration, folder).name)
            made[name] = folder / finished.read_text()
    return [
        Variant(
            runtime=stock.runtime, precision=stock.precision, recipe=stock.name, role=stock.role,
            artifact=_artifact(made[stock.make], stock.precision),
            settings=SessionSettings(threads=suite.threads, precision=stock.precision, options=stock.options),
        )
        for stock in suite.stock
    ]  # fmt: skip


def _our_variants(suite: Suite, bundle: Path) -> list[Variant]:
    """The bundle's own artefacts that ran, once per runtime and precision."""
    rows = read_json(bundle / "report.json", Report).rows
    variants: dict[tuple[str, str, str], Variant] = {}
    for row in rows:
        path = bundle / row.artifact
        if row.status != "ok" or not row.artifact or not path.is_file() or row.boundary != suite.boundaries[0]:
            continue
        variants.setdefault(
            (row.runtime, row.precision, row.artifact),
            Variant(
                runtime=row.runtime, precision=row.precision, artifact=_artifact(path, row.precision),
                place=row.artifact, recipe=f"{OURS}: {row.recipe}" if row.recipe else OURS,
                role="optimised_fp32" if row.precision == "fp32" else "",
                settings=SessionSettings(
                    threads=suite.threads, precision=row.precision, options=row.details.get("options", {})
                ),
            ),
        )  # fmt: skip
    return list(variants.values())


def _artifact(path: Path, precision: str) -> Artifact:
    return Artifact.of(
        path, kind=KINDS[path.suffix], precision=precision, inputs=(), outputs=(), made_by=MadeBy(stage="benchmark")
    )


def _images(suite: Suite, prepared: Prepared, place: str, limit: int | None = None) -> ImageSet:
    dataset = open_images(place, suite.task)
    return ImageSet(dataset, prepared.preprocess, suite.task, prepared.classes, limit)


def _measure(
    suite: Suite, prepared: Prepared, variants: list[Variant], plan: Preset, *, work: Path, resume: bool
) -> Report:
    environment = read_environment()
    images = _images(suite, prepared, suite.evaluation, suite.evaluation_images)
    height, width = prepared.size
    measurement = Measurement(
        group=suite.model, images=images, boundaries=suite.boundaries, preset=plan, profile="", threads=suite.threads,
        explain=suite.boundaries, declared=TensorSpec(INPUT, "float32", (1, 3, height, width)),
    )  # fmt: skip
    found = _measured(variants, measurement, environment.fingerprint(), work=work, resume=resume)
    scores = [score for _, score in score_variants(variants, images, progress=_tell)]
    rows = []
    for (position, _), row in zip(found, with_explanations([row for _, row in found], environment), strict=True):
        score = scores[position]
        metric = None if score is None else score.metric(scores[0])
        # The profile itself, now in words, is too long to keep.
        details = {name: value for name, value in row.details.items() if name != "op_profile"}
        rows.append(msgspec.structs.replace(row, metric=metric, details=details))
    return Report(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", "benchmarks/run.py", *map(_shown, sys.argv[1:])]),
        environment={**to_plain(environment), "fingerprint": environment.fingerprint()},
        model=ModelRecord(
            name=suite.model, task=suite.task, sha256=prepared.source_sha256, input_size=prepared.size,
            classes=prepared.classes, random_weights=prepared.random_weights is not None,
        ),
        data={"preset": to_plain(plan), "comparisons": comparisons(rows, work / "samples")},
        rows=tuple(rows),
    )  # fmt: skip


def _measured(
    variants: list[Variant], measurement: Measurement, fingerprint: str, *, work: Path, resume: bool
) -> tuple[tuple[int, Row], ...]:
    """Each row with its variant's position; they are kept until they have been scored, too."""
    place = work / "measured.json"
    if resume and place.is_file():
        return read_json(place, Measured).rows
    made = measure_variants(
        variants, measurement, samples_dir=work / "samples", fingerprint=fingerprint, resume=resume, progress=_tell
    )
    rows = tuple((position, row) for (position, _), row in made.items())
    with output_file(place, force=True) as file:
        file.write_bytes(to_json(Measured(rows=rows)))
    return rows


def _shown(argument: str) -> str:
    """An argument without the machine's directories."""
    path = Path(argument)
    return path.name if path.is_absolute() else argument


def _write(suite: Suite, report: Report, work: Path) -> Path:
    versions = sorted({f"{row.runtime}-{row.runtime_version}" for row in report.rows if row.runtime_version})
    device = re.sub(r"[^A-Za-z0-9]+", "-", str(report.environment.get("cpu", "cpu"))).strip("-").lower()
    stem = "__".join([suite.name, device, "+".join(versions)])
    RESULTS.mkdir(exist_ok=True)
    place = RESULTS / f"{stem}.json"
    samples = RESULTS / f"{stem}.samples"
    shutil.rmtree(samples, ignore_errors=True)
    shutil.copytree(work / "samples", samples)
    place.with_suffix(".md").write_text(to_markdown(report))
    with output_file(place, force=True) as file:
        file.write_bytes(to_json(report))
    return place


def _tell(done: int, total: int, label: str) -> None:
    print(f"\r{done}/{total} {label:<80}", end="", file=sys.stderr)


if __name__ == "__main__":
    main()
