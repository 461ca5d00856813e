"""Regressions are told from noise, and unlike things are not compared."""

from __future__ import annotations

import msgspec
import pytest

from mscsa_deploy.core.config import to_plain
from mscsa_deploy.core.environment import read_environment
from mscsa_deploy.core.report import Latency, Report
from mscsa_deploy.errors import GateError, UserError
from mscsa_deploy.reporting.compare import compare_reports, parse_limits

replace = msgspec.structs.replace


def slower(report, place, factor, *, width=0.01):
    """The report with one row's latencies times `factor`."""
    row = report.rows[place]
    old = row.latency_ms
    values = {name: getattr(old, name) * factor for name in ("min", "mean", "p50", "p90")}
    p50, p90 = values["p50"], values["p90"]
    latency = Latency(
        **values,
        samples=old.samples,
        cv=old.cv,
        ci95=(p50 * (1 - width), p50 * (1 + width)),
        p90_ci95=(p90 * (1 - width), p90 * (1 + width)),
    )
    return changed(report, place, latency_ms=latency)


def changed(report, place, **changes):
    rows = list(report.rows)
    rows[place] = replace(rows[place], **changes)
    return replace(report, rows=tuple(rows))


def test_compare_same_report_passes(report):
    comparison = compare_reports(report, report)
    comparison.check()
    assert {change.verdict for change in comparison.changes} == {"same"}
    assert (comparison.broken, comparison.missing, comparison.added) == ((), (), ())


def test_compare_slower_beyond_the_limit_is_a_regression(report):
    comparison = compare_reports(report, slower(report, 1, 1.2), parse_limits(["p50=5%"]))
    assert [(change.quantity, round(change.loss, 3)) for change in comparison.regressions] == [("p50", 20.0)]
    with pytest.raises(
        GateError, match=r"ONNX Runtime FP32, core.*p50 12\.9 -> 15\.5 \(\+20\.0 %, allowed 5 %\)"
    ) as caught:
        comparison.check()
    assert caught.value.exit_code == 5


def test_compare_slower_within_the_limit_passes(report):
    comparison = compare_reports(report, slower(report, 1, 1.04), parse_limits(["p50=5%"]))
    comparison.check()
    assert [change.verdict for change in comparison.changes].count("worse") == 1


def test_compare_slower_within_noise_passes_and_says_so(report):
    comparison = compare_reports(report, slower(report, 1, 1.2, width=0.2), parse_limits(["p50=5%"]))
    comparison.check()
    assert [change.verdict for change in comparison.changes].count("within noise") == 1


def test_compare_faster_is_better(report):
    comparison = compare_reports(report, slower(report, 1, 0.5), parse_limits(["p50=5%"]))
    comparison.check()
    assert [change.verdict for change in comparison.changes].count("better") == 1


def test_compare_lost_accuracy_is_in_points(report):
    metric = replace(report.rows[2].metric, value=report.rows[2].metric.value - 0.4)
    worse = changed(report, 2, metric=metric)
    compare_reports(report, worse, parse_limits(["metric=0.5"])).check()
    with pytest.raises(GateError, match=r"metric 63\.1 -> 62\.7 \(\+0\.4 points, allowed 0\.3 points\)"):
        compare_reports(report, worse, parse_limits(["metric=0.3"])).check()


def test_compare_lost_throughput_is_a_regression(report):
    with pytest.raises(GateError, match="fps"):
        compare_reports(report, changed(report, 2, fps=10.0), parse_limits(["fps=5%"])).check()


def test_compare_row_that_no_longer_runs_is_a_regression(report):
    broken = changed(report, 2, status="failed", reason="out of memory", latency_ms=None)
    with pytest.raises(GateError, match=r"failed \(out of memory\), no longer measured"):
        compare_reports(report, broken).check()


def test_compare_missing_row_is_a_regression_and_added_is_not(report):
    fewer = replace(report, rows=report.rows[1:])
    with pytest.raises(GateError, match=r"PyTorch FP32.*not in the new report"):
        compare_reports(report, fewer).check()
    comparison = compare_reports(fewer, report)
    comparison.check()
    assert len(comparison.added) == 1


def test_compare_rows_that_never_ran_do_not_count(report):
    fewer = replace(report, rows=tuple(row for row in report.rows if row.runtime != "tensorrt"))
    compare_reports(report, fewer).check()


def test_compare_unlike_environments_refused_unless_forced(report):
    other = replace(report, environment=report.environment | {"cpu": "another"})
    with pytest.raises(UserError, match=r"cpu: AMD EPYC 9B14 and another.*--force"):
        compare_reports(report, other)
    assert compare_reports(report, other, force=True).differences == ("cpu: AMD EPYC 9B14 and another",)


def test_compare_full_environments_ignores_the_moment(report):
    plain = to_plain(read_environment())
    now = replace(report, environment={**plain, "fingerprint": "x"})
    later = replace(report, environment={**plain, "load_average": [9.0, 9.0, 9.0], "memory_available_bytes": 1})
    compare_reports(now, later).check()
    upgraded = {**plain, "packages": {**plain["packages"], "onnxruntime": "99.0"}}
    with pytest.raises(UserError, match="packages"):
        compare_reports(now, replace(report, environment=upgraded))


def test_compare_other_model_refused(report):
    other = replace(report, model=replace(report.model, name="topformer_b"))
    with pytest.raises(UserError, match="model name: topformer_t_mscsa and topformer_b"):
        compare_reports(report, other)


def test_compare_nothing_in_common_refused(report):
    with pytest.raises(UserError, match="no row in common"):
        compare_reports(replace(report, rows=report.rows[:2]), replace(report, rows=report.rows[2:4]))
    with pytest.raises(UserError, match="no row in common"):
        compare_reports(Report(), Report())


def test_compare_row_given_twice_refused(report):
    with pytest.raises(UserError, match="two rows for PyTorch"):
        compare_reports(replace(report, rows=report.rows[:1] * 2), report)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p90", "not QUANTITY=AMOUNT"),
        ("p91=5%", "did you mean 'p9"),
        ("p90=fast", "not a number"),
        ("p90=-5%", "zero or more"),
        ("p90=nan", "zero or more"),
        ("metric=5%", "write metric=5"),
    ],
)
def test_parse_limits_wrong_setting_says_what(text, message):
    with pytest.raises(UserError, match=message):
        parse_limits([text])


def test_parse_limits_reads_percent_and_points():
    assert parse_limits(["p90=5%", "metric=0.5", "size=2"]) == {"p90": 5.0, "metric": 0.5, "size": 2.0}
