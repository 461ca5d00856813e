"""What the manifest says about a measurement."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from mscsa_deploy.core.environment import read_environment
from mscsa_deploy.core.report import Metric, Row
from mscsa_deploy.workflow.ship import _measurement, _rows_to_tell


@pytest.mark.parametrize(("status", "told"), [("ok", True), ("built, not run", False)])
def test_the_processor_is_named_where_it_ran(status, told):
    here = read_environment()
    row = Row(runtime="tensorrt", precision="int8", status=status)
    assert _measurement(row, SimpleNamespace(environment=here)).isa == (here.isa if told else ())


@pytest.mark.parametrize(
    ("drops", "told"),
    [((0.1, 1.3), ["rest"]), ((0.1, 0.2), ["rest", "rest+bf16"]), ((1.3, 1.4), ["rest", "rest+bf16"])],
)
def test_a_float_rest_beyond_the_budget_is_not_told_beside_one_within(drops, told):
    def row(recipe, drop):
        metric = Metric(name="top-1", value=90.0 - drop, reference=90.0, drop=drop, images=10)
        return Row(runtime="openvino", precision="int8", status="ok", artifact="a.xml", recipe=recipe, metric=metric)

    rows = [row("rest", drops[0]), row("rest+bf16", drops[1])]
    elsewhere = msgspec.structs.replace(row("other", 9.0), artifact="b.xml")
    results = SimpleNamespace(settings=SimpleNamespace(max_drop=None))
    report = SimpleNamespace(rows=[*rows, elsewhere])
    assert [row.recipe for row in _rows_to_tell("a.xml", report, results)] == told
    assert [row.recipe for row in _rows_to_tell("b.xml", report, results)] == ["other"]
