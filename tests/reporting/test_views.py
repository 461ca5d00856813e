"""Every view says what the report says, and the page needs nothing but itself."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mscsa_deploy.core.report import Report
from mscsa_deploy.errors import UserError
from mscsa_deploy.reporting.console import render
from mscsa_deploy.reporting.delimited import to_csv
from mscsa_deploy.reporting.files import VIEWS, read_report, write_report
from mscsa_deploy.reporting.html import recommended_row, to_html
from mscsa_deploy.reporting.markdown import to_markdown
from mscsa_deploy.reporting.samples import read_samples


class Page(HTMLParser):
    """Tags, addresses and text of a page; fails on tags that do not match."""

    VOID = ("meta", "img", "link", "br", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tags, self.words, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, _):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def replaced(report, **changes):
    return msgspec.structs.replace(report, **changes)


def test_every_view_tells_who_on_a_phone_would_run_the_model(report, tmp_path):
    page = " ".join(" ".join(Page(to_html(report, tmp_path)).words).split())
    for text in (to_markdown(report), page):
        assert "On phones" in text
        assert "mobile/model.ort" in text
        assert "2.4e-07 of the range apart" in text
        assert "239 of 258" in text
        assert "/act/HardSigmoid (HardSigmoid)" in text
        assert "not known to ONNX Runtime's checker" in text
        assert "no .ort file: it was refused" in text
    assert "| NNAPI | no | 239 of 258 | 3 | /act/HardSigmoid (HardSigmoid) |" in to_markdown(report)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(report))
    assert "mobile/model.ort: NNAPI no, QNN unknown" in console.export_text()
    assert "On phones" not in to_markdown(replaced(report, mobile=()))


def test_views_tell_what_was_decided_and_why(report, tmp_path):
    page = " ".join(" ".join(Page(to_html(report, tmp_path)).words).split())
    for text in (to_markdown(report), page):
        assert "x86_vnni (named with --device)" in text
        assert "cells (cells 7.50 ms, outside 9.31 ms)" in text
    assert "What was decided" not in to_markdown(replaced(report, decisions=()))


def test_views_tell_how_many_pictures_could_not_be_read(report, tmp_path):
    sets = {"evaluation": {"name": "mine", "images": 200, "of": 240, "unreadable": 2}}
    text = "200 of the 240 of 'mine', 2 unreadable left out"
    assert text in to_markdown(replaced(report, data=sets))
    assert text in html.unescape(to_html(replaced(report, data=sets), tmp_path))


def test_write_report_leaves_every_view_and_reads_back_equal(report, tmp_path):
    write_report(report, tmp_path)
    assert all((tmp_path / name).stat().st_size > 1000 for name in VIEWS)
    assert read_report(tmp_path) == report
    assert read_report(tmp_path / "report.json") == report


def test_html_needs_no_network_and_runs_no_script(report, tmp_path):
    text = to_html(report, tmp_path)
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not re.search(r"url\(|@import|//(?!www\.w3\.org/2000/svg)\w", re.sub(r"data:[^\"]*", "", text))
    assert "default-src 'none'" in text


def test_html_holds_every_row_and_reason(report, tmp_path):
    words = " ".join(" ".join(Page(to_html(report, tmp_path)).words).split())
    for expected in (
        "Ship OpenVINO INT8",
        "no NVIDIA GPU on this machine",
        "<Resize> has no fp16 kernel | on this CPU",
        "the first tenth ran 7 % slower than the rest",
        "QLinearConv",
        "HardSwish stays in float: 29 % of the time.",
        "AMD EPYC 9B14",
        "paired bootstrap",
        "1.71 MB",
        "63.22",
        "/head/gate: HardSigmoid has no integer kernel",
    ):
        assert expected in words, expected


def test_html_lists_a_networks_float_nodes_once_for_both_its_files(report, tmp_path):
    core = report.rows[2]
    whole = replaced(core, boundary="end_to_end", artifact=core.artifact.replace(".onnx", ".classmap.onnx"))
    text = to_html(replaced(report, rows=(*report.rows, whole)), tmp_path)
    assert text.count("/ffn/act: kept for accuracy") == 1


def test_html_escapes_what_comes_from_outside(report, tmp_path):
    evil = replaced(report, command="<script>alert(1)</script>", pictures=())
    row = replaced(report.rows[1], runtime="<b>x</b>", explanation=("<img src=x>",))
    text = to_html(replaced(evil, rows=(row, *report.rows[2:])), tmp_path)
    page = Page(text)
    assert "script" not in page.tags
    assert page.addresses == []
    assert "<b>x" not in text
    assert text.count("&lt;b&gt;x&lt;/b&gt;") >= 3  # table, plot and explanation


def test_html_of_an_empty_report_is_a_page(tmp_path):
    assert "Report" in " ".join(Page(to_html(Report(), tmp_path)).words)


def test_html_without_labels_plots_agreement(report, tmp_path):
    rows = tuple(replaced(row, metric=None) for row in report.rows)
    words = " ".join(Page(to_html(replaced(report, rows=rows), tmp_path)).words)
    assert "agreement with FP32, %" in words
    assert "mIoU %" not in words


def test_html_random_weights_are_said_aloud(report, tmp_path):
    random = replaced(report, model=replaced(report.model, random_weights=True))
    assert "never trained" in to_html(random, tmp_path)
    assert "Random weights" in to_markdown(random)


def test_html_picture_outside_of_the_report_refused(report, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="lies outside its directory"):
        to_html(replaced(report, pictures=("../outside.png",)), tmp_path / "in")


@pytest.mark.parametrize("name", ["missing.png", "report.txt"])
def test_html_picture_that_cannot_be_embedded_refused(report, tmp_path, name):
    (tmp_path / "report.txt").write_text("no picture")
    with pytest.raises(UserError, match="picture"):
        to_html(replaced(report, pictures=(name,)), tmp_path)


def test_recommended_row_is_the_measured_core_row(report):
    row = recommended_row(report)
    assert (row.runtime, row.precision, row.boundary) == ("openvino", "int8", "core")


def test_a_verdict_without_gates_is_a_recommendation(report, tmp_path):
    asked_nothing = msgspec.structs.replace(report, verdict=msgspec.structs.replace(report.verdict, gates=()))
    assert "**Recommendation.** Ship OpenVINO INT8" in to_markdown(asked_nothing)
    text = to_html(asked_nothing, tmp_path)
    assert "Benchmark report" in text
    assert "Passed" not in text


def test_markdown_table_has_one_line_per_row_and_escapes_bars(report):
    text = to_markdown(report)
    tables = [line for line in text.splitlines() if line.startswith("| ONNX Runtime | ")]
    assert len(tables) == 4
    widths = {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| ")}
    assert len(widths) <= 4  # one width per table
    assert "kernel \\| on this CPU" in text
    assert "**Passed.** Ship OpenVINO INT8" in text
    assert "All rows: 1 thread." in text


def test_csv_has_unrounded_numbers_and_no_formulas(report):
    rows = (replaced(report.rows[1], recipe="=cmd()"), *report.rows[2:])
    lines = list(csv.DictReader(io.StringIO(to_csv(replaced(report, rows=rows)))))
    assert len(lines) == len(rows)
    assert float(lines[0]["latency_ms.p50"]) == report.rows[1].latency_ms.p50
    assert float(lines[0]["metric.drop_ci95.high"]) == report.rows[1].metric.drop_ci95[1]
    assert lines[0]["recipe"] == "'=cmd()"
    assert lines[-1]["latency_ms.p50"] == ""
    assert lines[-1]["status"] == "failed"


@pytest.mark.parametrize("width", [80, 100, 160])
def test_console_fits_the_terminal_and_keeps_what_matters(report, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render(report))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    text = " ".join(text.split())
    for expected in ("1.93x", "[1.90, 1.97]", "7.61", "63.22", "(int8+fp32)", "✗", "no NVIDIA GPU", "95 % interval"):
        assert expected in text
    assert "…" not in text


def test_console_leaves_out_columns_only_where_there_is_no_room(report):
    shown = {}
    for width in (60, 240):
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(render(report))
        shown[width] = console.file.getvalue()
    assert "p50 ms" in shown[60]
    for heading in ("vs optimized", "Agree %", "FPS", "Size", "p90 ms", "Drop"):
        assert heading in shown[240]
    assert "vs optimized" not in shown[60]


def test_read_samples_finds_raw_latencies_in_milliseconds(report, tmp_path):
    samples = read_samples(report, tmp_path)
    assert sorted(samples) == list(range(8))
    # nanoseconds are whole numbers
    assert np.median(samples[1]) == pytest.approx(report.rows[1].latency_ms.p50, abs=1e-5)


def test_read_samples_damaged_file_refused(report, tmp_path):
    (tmp_path / report.rows[0].samples_file).write_bytes(b"PK\x03\x04 no")
    with pytest.raises(UserError, match="is damaged"):
        read_samples(report, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"{", "not valid JSON", id="json"),
        pytest.param(b"[]", "not a report", id="list"),
        pytest.param(b'{"schema": 1}', "not a report", id="no rows"),
        pytest.param(b'{"schema": 7, "rows": []}', "schema 7, this version reads up to 1", id="newer"),
        pytest.param(b'{"schema": 1, "rows": [{"runtime": 3}]}', "runtime", id="field"),
        pytest.param(b"\xff\xfe", "not valid JSON", id="bytes"),
    ],
)
def test_read_report_damaged_refused(tmp_path, content, message):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_report(tmp_path)


def test_read_report_missing_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read the report"):
        read_report(tmp_path / "none.json")


def test_report_schema_keys_are_those_of_the_documents(report, tmp_path):
    write_report(report, tmp_path)
    plain = json.loads((tmp_path / "report.json").read_text())
    assert {"schema", "environment", "model", "stages", "rows", "verdict"} <= set(plain)
    wanted = {"runtime", "runtime_version", "profile", "precision", "executed_precision", "boundary", "mode", "device",
              "threads", "batch", "input_size", "artifact", "sha256", "recipe", "latency_ms", "stable", "samples_file",
              "fps", "load_ms", "peak_rss_bytes", "size_bytes", "speedup_vs_fp32", "speedup_vs_optimised_fp32",
              "metric", "parity", "status", "reason"}  # fmt: skip
    assert wanted <= set(plain["rows"][0])


def test_metrics_over_parts_of_the_set_are_told_beside_the_headline(report, tmp_path):
    row = next(row for row in report.rows if row.metric is not None)
    metric = msgspec.structs.replace(row.metric, others={"mIoU seen": 54.163, "mIoU held_out": 22.119})
    told = msgspec.structs.replace(report, rows=(msgspec.structs.replace(row, metric=metric),))
    for text in (to_markdown(told), to_html(told, tmp_path)):
        assert "mIoU seen 54.16, mIoU held out 22.12" in text
