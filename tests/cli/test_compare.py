"""`compare`: a gate between two reports."""

from __future__ import annotations

import json
from dataclasses import asdict

import msgspec
import pytest

from mscsa_deploy.core.config import to_json
from mscsa_deploy.core.environment import read_environment
from mscsa_deploy.core.report import Latency, Metric, Report, Row


def row(p50, *, role="", width=0.1, metric=70.0):
    latency = Latency(min=p50, mean=p50, p50=p50, p90=p50, samples=100, cv=0.0, ci95=(p50 - width, p50 + width))
    return Row(
        runtime="onnxruntime",
        precision="fp32",
        status="ok",
        latency_ms=latency,
        size_bytes=1000,
        metric=Metric(name="mIoU", value=metric, images=10),
        details={"role": role},
    )


@pytest.fixture
def report(tmp_path):
    """Write a report with these rows; returns its path."""
    environment = json.loads(msgspec.json.encode(asdict(read_environment())))

    def write(name, *rows, **changes):
        path = tmp_path / name
        path.write_bytes(to_json(Report(environment={**environment, **changes}, rows=rows)))
        return path

    return write


def test_equal_reports_pass(cli, report):
    outcome = cli("compare", report("old.json", row(10.0)), report("new.json", row(10.0)))
    assert outcome.code == 0
    assert "Passed" in outcome.out
    assert outcome.err == ""


def test_a_slower_row_fails_the_gate(cli, report):
    outcome = cli("compare", report("old.json", row(10.0)), report("new.json", row(12.0)), "--json")
    assert outcome.code == 5
    document = outcome.json
    assert document["passed"] is False
    assert document["error"]["kind"] == "gate"
    slower = next(change for change in document["changes"] if change["quantity"] == "p50")
    assert (slower["old"], slower["new"], slower["verdict"]) == (10.0, 12.0, "regression")
    assert slower["loss"] == pytest.approx(20.0)
    assert outcome.err.count("error:") == 1


def test_overlapping_intervals_are_noise(cli, report):
    old, new = report("old.json", row(10.0, width=2.0)), report("new.json", row(11.0, width=2.0))
    outcome = cli("compare", old, new, "--max-regress", "p50=5%")
    assert outcome.code == 0
    assert "within noise" in outcome.out


def test_named_limits_stand_alone(cli, report):
    old, new = report("old.json", row(10.0)), report("new.json", row(12.0, metric=60.0))
    assert cli("compare", old, new, "--max-regress", "size=1%").code == 0
    outcome = cli("compare", old, new, "--max-regress", "p50=50%", "--max-regress", "metric=0.5", "--json")
    assert outcome.code == 5
    assert outcome.json["limits"] == {"p50": 50.0, "metric": 0.5}
    assert [change["verdict"] for change in outcome.json["changes"]].count("regression") == 1


def test_plain_and_optimized_exports_are_different_rows(cli, report):
    old = report("old.json", row(10.0, role="fp32"), row(8.0, role="optimised_fp32"))
    new = report("new.json", row(10.0, role="fp32"), row(9.0, role="optimised_fp32"))
    document = cli("compare", old, new, "--max-regress", "p50=5%", "--json").json
    assert [change["verdict"] for change in document["changes"]] == ["same", "regression"]


def test_a_row_that_is_gone_fails_the_gate(cli, report):
    old = report("old.json", row(10.0, role="fp32"), row(8.0))
    outcome = cli("compare", old, report("new.json", row(8.0)), "--json")
    assert outcome.code == 5
    assert len(outcome.json["missing"]) == 1
    assert "gone" in outcome.json["error"]["message"]


def test_a_row_that_no_longer_runs_fails_the_gate(cli, report):
    failed = msgspec.structs.replace(row(10.0), status="failed", reason="out of memory", latency_ms=None)
    outcome = cli("compare", report("old.json", row(10.0)), report("new.json", failed), "--json")
    assert outcome.code == 5
    assert "out of memory" in outcome.json["error"]["message"]
    assert outcome.json["broken"]


def test_many_regressions_are_named_by_the_first(cli, report):
    rows = [msgspec.structs.replace(row(10.0), threads=count) for count in range(1, 6)]
    slow = [msgspec.structs.replace(row(20.0), threads=count) for count in range(1, 6)]
    outcome = cli("compare", report("a.json", *rows), report("b.json", *slow), "--max-regress", "p50=5%")
    assert outcome.err.startswith("error: 5 regressions: ")
    assert outcome.err.endswith("; and 2 more\n")


def test_unlike_environments_are_refused_unless_forced(cli, report):
    old, new = report("old.json", row(10.0)), report("new.json", row(10.0), cpu="Another CPU")
    outcome = cli("compare", old, new)
    assert outcome.code == 2
    assert "Another CPU" in outcome.err
    assert "--force" in outcome.err
    forced = cli("compare", old, new, "--force", "--json")
    assert forced.code == 0
    assert any("Another CPU" in text for text in forced.json["differences"])


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        pytest.param("p95=5%", "unknown quantity 'p95'", id="unknown quantity"),
        pytest.param("p90", "is not QUANTITY=AMOUNT", id="no amount"),
        pytest.param("p90=fast", "is not a number", id="no number"),
        pytest.param("metric=5%", "is limited in points", id="wrong unit"),
    ],
)
def test_wrong_limits_are_told(cli, report, limit, words):
    path = report("r.json", row(10.0))
    outcome = cli("compare", path, path, "--max-regress", limit)
    assert outcome.code == 2
    assert words in outcome.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "cannot read the report", id="missing"),
        pytest.param("{", "not valid JSON", id="cut"),
        pytest.param("{}", "is not a report", id="other JSON"),
        pytest.param('{"schema": 999, "rows": []}', "schema 999", id="newer"),
    ],
)
def test_what_is_no_report(cli, report, tmp_path, content, words):
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    outcome = cli("compare", report("r.json", row(10.0)), tmp_path / "x.json")
    assert outcome.code == 2
    assert words in outcome.err
