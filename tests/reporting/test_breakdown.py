"""Before and after: bars that add up to what was measured, whatever the profile's own milliseconds are."""

from __future__ import annotations

import re

import msgspec
import pytest

from mscsa_deploy.core.report import Latency, Parts, Report, Row, Verdict
from mscsa_deploy.errors import UserError
from mscsa_deploy.reporting.bars import bars
from mscsa_deploy.reporting.breakdown import AROUND, Share, breakdowns
from mscsa_deploy.reporting.html import to_html
from mscsa_deploy.reporting.markdown import to_markdown


def profile(*kernels):
    rows = [
        {"node": str(number), "op": op, "precision": "fp32", "kernel": "", "layout": "", "ms": ms, "count": 2}
        for number, (op, ms) in enumerate(kernels)
    ]
    return {"runtime": "onnxruntime", "version": "1", "precision": "fp32", "runs": 20, "rows": rows}


SLOWED = profile(("Conv", 30.0), ("Reshape", 8.0), ("Transpose", 2.0))


def row(artifact, p50, *, role="", op_profile=None, **more):
    latency = Latency(min=p50, mean=p50, p50=p50, samples=99, cv=0.0, ci95=(p50, p50))
    details = {"group": "m", "role": role} | ({} if op_profile is None else {"op_profile": op_profile})
    fields = {"runtime": "onnxruntime", "precision": "fp32", "status": "ok", "latency_ms": latency}
    return Row(artifact=artifact, details=details, **{**fields, **more})


def end_to_end(artifact, network, postprocess, **more):
    parts = Parts(decode=2.0, preprocess=1.0, network=network, postprocess=postprocess)
    return row(artifact, network + postprocess + 3, boundary="end_to_end", parts_ms=parts, **more)


PLAIN = (row("plain.onnx", 12.0, role="fp32", op_profile=SLOWED), end_to_end("plain.onnx", 12.5, 3.5, role="fp32"))
OURS = (
    row("model.onnx", 10.0, role="optimised_fp32", op_profile=profile(("Conv", 9.0), ("ArgMax", 1.0))),
    end_to_end("x/model.classmap.onnx", 11.0, 0.0, role="optimised_fp32"),
)


def test_bars_divide_the_measured_latency_by_the_shares_of_the_profile():
    (found,) = breakdowns(Report(rows=(*PLAIN, *OURS)))
    before, after = found.bars
    assert (before.label, after.label) == ("FP32, plain export", "FP32, optimized")
    assert before.parts == {
        "decode": 2.0,
        "pre-processing": 1.0,
        "convolution": pytest.approx(9.0),
        "moving data": pytest.approx(3.0),
        "to the answer": pytest.approx(4.0),  # 12.5 + 3.5 beyond the 12 of the network alone
    }
    # The tail inside the graph is told like the one behind it.
    assert after.parts[AROUND[2]] == pytest.approx(1.0)
    assert after.parts["other"] == pytest.approx(1.0)
    assert [bar.total for bar in found.bars] == pytest.approx([19.0, 14.0])
    assert found.parts == ("decode", "pre-processing", "convolution", "moving data", "other", "to the answer")
    assert found.ops[0] == (("Conv", "fp32"), [Share(9.0, 2), Share(9.0, 2)])


def test_without_end_to_end_the_network_alone_is_divided():
    (found,) = breakdowns(Report(rows=(PLAIN[0], OURS[0])))
    assert [bar.total for bar in found.bars] == pytest.approx([12.0, 10.0])


def test_an_end_to_end_profile_alone_divides_the_network_it_ran():
    (found,) = breakdowns(Report(rows=(end_to_end("plain.onnx", 12.0, 3.5, op_profile=SLOWED),)))
    assert found.bars[0].parts["convolution"] == pytest.approx(9.0)
    assert found.bars[0].total == pytest.approx(18.5)


def test_runtimes_and_models_are_kept_apart_and_small_operators_summed_up():
    many = profile(*((f"Op{number}", 1.0 + number) for number in range(20)))
    other = row("b.onnx", 5.0, op_profile=many)
    other = msgspec.structs.replace(other, details={**other.details, "group": "n"})
    elsewhere = row("c.xml", 4.0, op_profile=SLOWED, runtime="openvino")
    found = breakdowns(Report(rows=(PLAIN[0], other, elsewhere)))
    assert [each.title for each in found] == ["ONNX Runtime, m", "ONNX Runtime, n", "OpenVINO, m"]
    (name, _), (rest,) = found[1].ops[-1]
    assert name == "others"
    assert sum(shares[0].ms for _, shares in found[1].ops) == pytest.approx(5.0)
    assert rest.count == 12


def test_the_plot_names_every_part_and_marks_the_recommended_bar(tmp_path):
    verdict = Verdict(passed=True, summary="", runtime="onnxruntime", precision="fp32", recommended="model.onnx")
    report = Report(rows=(*PLAIN, *OURS), verdict=verdict)
    text = bars(breakdowns(report)[0])
    assert text.count("recommended") == 1
    assert "convolution: 9.00 ms" in text
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', text)]
    assert sum(widths[:5]) / sum(widths[5:]) == pytest.approx(19 / 14, rel=0.01)
    assert "FP32, optimized ◯ recommended" in to_html(report, tmp_path)
    assert "| to the answer | 4.00 | 1.00 |" in to_markdown(report)


def test_an_old_report_without_profiles_has_no_such_part(tmp_path):
    report = Report(rows=(row("a.onnx", 3.0),))
    assert "Where the time goes" not in to_html(report, tmp_path) + to_markdown(report)


def test_a_damaged_profile_is_refused():
    with pytest.raises(UserError, match="profile of ONNX Runtime FP32 is damaged"):
        breakdowns(Report(rows=(row("a.onnx", 3.0, op_profile={"rows": 7}),)))
