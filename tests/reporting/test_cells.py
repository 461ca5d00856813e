"""How numbers are spelled, for every view alike."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mscsa_deploy.core.report import Latency, Row
from mscsa_deploy.reporting import cells


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.1234, "0.123"),
        (0.99951, "1.00"),
        (7.604, "7.60"),
        (9.996, "10.0"),
        (71.56, "71.6"),
        (131.5, "132"),
    ],
)
def test_number_has_three_digits(value, text):
    assert cells.number(value) == text


def test_p90_is_only_given_where_supported():
    few = Latency(min=1, mean=1, p50=1, samples=50, cv=0.1, ci95=(1, 1))
    assert cells.p90(few) == ""
    assert cells.p90(replace(few, p90_early_stopping=2.5)) == "≤ 2.50"
    assert cells.p90(replace(few, p90=2.0, p90_early_stopping=2.5)) == "2.00"


def test_agreement_is_never_rounded_up_to_all(report):
    parity = report.rows[0].parity
    row = replace(report.rows[0], parity=replace(parity, argmax_agreement=99.9996))
    assert cells.agreement(row) == "99.99"
    assert cells.agreement(replace(row, parity=replace(parity, argmax_agreement=100.0))) == "100"


def test_drop_gain_is_negative_and_zero_has_no_sign(report):
    metric = report.rows[0].metric
    assert (
        cells.drop(replace(metric, drop=-0.5, drop_ci95=(-1.0, 0.001)))
        == "\N{MINUS SIGN}0.50 [\N{MINUS SIGN}1.00, 0.00]"
    )
    assert cells.drop(replace(metric, drop=-0.001, drop_ci95=None)) == "0.00"


def test_groups_keep_boundaries_and_modes_apart(report):
    paced = Row(runtime="fake", precision="fp32", status="not run", mode="paced")
    assert list(cells.groups(replace(report, rows=(*report.rows, paced)))) == [
        "Network only",
        "End to end (picture bytes to answer)",
        "Network only, at a fixed rate",
    ]
