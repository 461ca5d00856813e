"""The plot of accuracy over latency stays readable where points lie close together."""

from __future__ import annotations

import re

from mscsa_deploy.reporting.plots import Point, pareto

TEXT = re.compile(r'<text class="label" x="([\d.]+)" y="([\d.]+)" text-anchor="start">([^<]+)</text>')


def point(label, latency, percent):
    return Point(label, 0, "fp32", latency, (latency, latency), percent, None, chosen=False)


def labels(*points):
    return [(float(x), float(y), words) for x, y, words in TEXT.findall(pareto(points, y_title="mIoU, %"))]


def test_points_are_numbered_by_latency_and_named_below():
    found = labels(point("slow", 30.0, 70.0), point("fast", 10.0, 60.0))
    assert [words for *_, words in found] == ["1", "2", "fast: 10.0 ms, 60.00 %", "slow: 30.0 ms, 70.00 %"]


def test_points_on_top_of_each_other_share_one_text():
    found = labels(point("a", 10.0, 70.0), point("b", 10.01, 70.0), point("c", 30.0, 70.0))
    assert [words for *_, words in found][:2] == ["1, 2", "3"]


def test_numbers_of_close_points_do_not_cover_each_other():
    points = [point(str(index), 10.0 + 0.5 * index, 70.0 + 0.05 * (index % 3)) for index in range(8)]
    numbers = [(x, y, words) for x, y, words in labels(*points) if ":" not in words]
    assert [int(part) for *_, words in numbers for part in words.split(", ")] == list(range(1, 9))
    for place, (x, y, words) in enumerate(numbers):
        for other_x, other_y, other in numbers[place + 1 :]:
            apart = abs(y - other_y) >= 12 or x + 6.8 * len(words) <= other_x or other_x + 6.8 * len(other) <= x
            assert apart, (words, other)
