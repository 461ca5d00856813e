"""Scales map their ends to the right pixels and mark round values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mscsa_deploy.reporting.axes import latency_scale, log_ticks, percent_scale, ticks


@given(low=st.floats(-1e3, 1e3), span=st.floats(1e-3, 1e3))
def test_ticks_are_inside_and_few(low, span):
    marks = ticks(low, low + span)
    assert 1 <= len(marks) <= 7
    slack = 1e-6 * max(1.0, abs(low), span)
    assert all(low - slack <= mark <= low + span + slack for mark in marks)


def test_log_ticks_are_one_two_five():
    assert log_ticks(0.8, 60) == (1, 2, 5, 10, 20, 50)


def test_latency_scale_is_linear_from_zero_until_the_range_is_wide():
    near = latency_scale([5.0, 10.0], 0, 100)
    assert not near.log
    assert near(0.0) == 0.0
    wide = latency_scale([5.0, 80.0], 0, 100)
    assert wide.log
    assert wide(wide.low) == pytest.approx(0.0)
    assert wide(wide.high) == pytest.approx(100.0)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_percent_scale_spans_at_least_a_point_within_0_to_100(values):
    scale = percent_scale(values, 300, 0)
    assert 0.0 <= scale.low <= min(values)
    assert max(values) <= scale.high <= 100.0
    assert scale.high - scale.low >= 1.0 - 1e-9
