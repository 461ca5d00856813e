"""The report: what ran, how, and what came out. `report.json` is the truth; other formats are views of it.

Latencies are milliseconds, sizes bytes, metrics percentages (0-100), and a drop is the reference minus the
value in points. A field that was not measured is None, never a made-up number.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mscsa_deploy.core.config import Record
from mscsa_deploy.core.phones import MobileModel

SCHEMA = 1

Status = Literal["ok", "failed", "not run", "built, not run"]
Boundary = Literal["core", "end_to_end"]
Mode = Literal["back_to_back", "paced", "throughput"]
PLAIN_EXPORT = "plain.onnx"


class Latency(Record, frozen=True, kw_only=True):
    """Latency of one call in milliseconds; a percentile that the sample count does not support is None."""

    min: float
    mean: float
    p50: float
    samples: int
    cv: float
    """Coefficient of variation: standard deviation over mean."""
    ci95: tuple[float, float]
    """95 % interval of the median."""
    p90: float | None = None
    p99: float | None = None
    p90_early_stopping: float | None = None
    """MLPerf's early-stopping estimate of p90, given when p90 itself is not supported by the count."""
    p90_ci95: tuple[float, float] | None = None
    """95 % interval of p90, where p90 is given."""


class Ratio(Record, frozen=True, kw_only=True):
    """A paired ratio of median latencies (reference over this row) with its 95 % interval."""

    value: float
    ci95: tuple[float, float]
    blocks: int
    reference: str
    """What it is measured against, in words."""


class Metric(Record, frozen=True, kw_only=True):
    """Task accuracy of one artefact on the evaluation images."""

    name: str
    value: float
    images: int
    reference: float | None = None
    drop: float | None = None
    drop_ci95: tuple[float, float] | None = None
    drop_spread: float | None = None
    """Standard deviation of the drop over calibration draws."""
    others: dict[str, float] = msgspec.field(default_factory=dict)
    """Further metrics in percent, e.g. pixel accuracy."""


class ParityNumbers(Record, frozen=True, kw_only=True):
    """How far outputs are from the reference's; agreement in percent, SQNR in decibels.

    None: does not apply (class maps have no distances), or is infinite.
    """

    max_abs: float | None
    max_abs_over_range: float | None
    cosine: float | None
    argmax_agreement: float | None
    sqnr_db: float | None = None


class Parts(Record, frozen=True, kw_only=True):
    """Median milliseconds of each part of an end-to-end call."""

    decode: float
    preprocess: float
    network: float
    postprocess: float


class Paced(Record, frozen=True, kw_only=True):
    """A paced run: arrivals at a fixed rate."""

    rate: float
    arrivals: int
    missed: int


class Row(Record, frozen=True, kw_only=True):
    """One artefact on one runtime under one condition."""

    runtime: str
    precision: str
    """What the artefact stores: fp32, fp16, int8; or bf16, a runtime's own execution precision."""
    status: Status
    reason: str = ""
    runtime_version: str = ""
    profile: str = ""
    executed_precision: str = ""
    boundary: Boundary = "core"
    mode: Mode = "back_to_back"
    device: str = "cpu"
    threads: int = 1
    streams: int = 1
    batch: int = 1
    input_size: tuple[int, int] = (0, 0)
    artifact: str = ""
    sha256: str = ""
    recipe: str = ""
    latency_ms: Latency | None = None
    stable: bool | None = None
    unstable_reason: str = ""
    samples_file: str = ""
    fps: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    peak_rss_bytes: int | None = None
    size_bytes: int | None = None
    speedup_vs_fp32: Ratio | None = None
    speedup_vs_optimised_fp32: Ratio | None = None
    parts_ms: Parts | None = None
    paced: Paced | None = None
    macs_per_s: float | None = None
    share_of_peak: float | None = None
    metric: Metric | None = None
    parity: ParityNumbers | None = None
    left_float: tuple[str, ...] = ()
    explanation: tuple[str, ...] = ()
    details: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two rows of different reports the same condition."""
        return (
            self.runtime,
            self.precision,
            self.profile,
            self.boundary,
            self.mode,
            self.device,
            self.threads,
            self.streams,
            self.batch,
            self.input_size,
            self.recipe,
            # The plain and the optimized export are rows of one runtime; several models may share a report.
            self.details.get("role", ""),
            self.details.get("group", ""),
        )

    @property
    def key_at_both(self) -> tuple[Any, ...]:
        """As `key`, but the same at either boundary: what runs from picture to answer may be another file."""
        return msgspec.structs.replace(self, boundary="core").key

    @property
    def plain_export(self) -> bool:
        """Whether this is the export without graph passes, which is measured for comparison and never shipped."""
        return self.artifact == PLAIN_EXPORT


class StageRecord(Record, frozen=True, kw_only=True):
    """One stage of a job."""

    name: str
    seconds: float
    status: Literal["ok", "failed", "skipped"]
    detail: str = ""


class Decision(Record, frozen=True, kw_only=True):
    """Something that a job decided by itself; what was asked of it stands in ``resolved.toml``.

    Args:
        subject: What was to be decided, e.g. ``"calibration recipe for openvino"``.
        choice: The outcome.
        reason: Why, in words; empty where `scores_ms` say it.
        scores_ms: Median milliseconds of everything that was measured for it, the choice included.
    """

    subject: str
    choice: str
    reason: str = ""
    scores_ms: dict[str, float] = msgspec.field(default_factory=dict)


class ModelRecord(Record, frozen=True, kw_only=True):
    """What was deployed."""

    name: str
    task: str
    sha256: str
    params: int | None = None
    macs: int | None = None
    input_size: tuple[int, int] = (0, 0)
    classes: int | None = None
    source: str = ""
    random_weights: bool = False


class Verdict(Record, frozen=True, kw_only=True):
    """The one thing to read: which artefact to ship here, and whether every gate passed."""

    passed: bool
    summary: str
    recommended: str = ""
    """Path of the recommended artefact inside the bundle."""
    runtime: str = ""
    precision: str = ""
    recipe: str = ""
    """Recipe of the recommended row; one artefact can have rows in several arithmetics."""
    gates: tuple[str, ...] = ()
    """One line per gate: what was asked and what came out."""

    def picks(self, row: Row) -> bool:
        """Whether `row` ran what is recommended; it may have several boundaries and modes."""
        same = (row.runtime, row.precision) == (self.runtime, self.precision)
        return (
            same and row.status == "ok" and self.recommended in ("", row.artifact) and self.recipe in ("", row.recipe)
        )


class Report(Record, frozen=True, kw_only=True):
    """A whole report.

    Args:
        schema: Version of this layout.
        created: UTC time, ISO 8601.
        command: The command line that made it, without paths of the machine.
        environment: The device and the versions, from `core.environment`.
        data: Name and size of each image set, and how it was chosen.
        mobile: Files for phones, where they were asked for.
        decisions: What the job decided by itself, in the order of its stages.
    """

    schema: int = SCHEMA
    created: str = ""
    command: str = ""
    environment: dict[str, Any] = msgspec.field(default_factory=dict)
    model: ModelRecord | None = None
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()
    rows: tuple[Row, ...] = ()
    verdict: Verdict | None = None
    pictures: tuple[str, ...] = ()
    mobile: tuple[MobileModel, ...] = ()
    decisions: tuple[Decision, ...] = ()
