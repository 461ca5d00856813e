from __future__ import annotations

import pytest

from mscsa_deploy.calibration.recipe import read_recipe, shipped_recipes
from mscsa_deploy.calibration.search import Budget, Measurement, Search, read_log
from mscsa_deploy.calibration.search_space import observers, placements, repairs
from mscsa_deploy.errors import UserError

CONTEXT = {"model": "abc", "device": "cpu", "data": "d1"}
BUDGET = Budget(max_drop=0.5, best_float_ms=10.0)
BLOCKS = [("/a/b.0/Conv", "/a/b.0/Add"), ("/a/c/Conv",), ("/a/d/Conv",)]


def found(latency_ms, value, status="ok"):
    return Measurement(status=status, latency_ms=latency_ms, value=value, reference=70.0)


class Scripted:
    """Measures by the end of a recipe's name and counts calls."""

    def __init__(self, table, default):
        self.table = table
        self.default = default
        self.calls = []

    def __call__(self, recipe):
        self.calls.append(recipe.name)
        ends = [end for end in self.table if recipe.name.endswith(end)]
        return self.table[max(ends, key=len)] if ends else self.default


def search(tmp_path, measure, *, budget=BUDGET, context=CONTEXT):
    base = read_recipe("int8_onnxruntime_x86")
    return Search(base, measure, budget=budget, context=context, log_path=tmp_path / "log.jsonl", rank=lambda _: BLOCKS)


def test_the_fastest_candidate_within_budget_wins(tmp_path):
    measure = Scripted({"+all-stem0": found(4.0, 60.0), "+chain-stem1": found(5.0, 69.8)}, found(6.0, 69.9))
    outcome = search(tmp_path, measure).run()
    assert outcome.recipe.name == "int8_onnxruntime_x86+chain-stem1"
    assert "2.00x the best float, drop 0.20 points" in outcome.verdict


def test_differences_within_noise_go_to_the_earlier_candidate(tmp_path):
    measure = Scripted({"_x86": found(6.0, 69.9), "+per-tensor": found(5.9, 69.9)}, found(7.0, 69.9))
    assert search(tmp_path, measure).run().recipe.name == "int8_onnxruntime_x86"


def test_among_equal_placements_the_most_accurate_observer_wins(tmp_path):
    measure = Scripted({"_x86": found(5.0, 69.6), "_x86+mse": found(5.1, 69.9)}, found(7.0, 69.7))
    assert search(tmp_path, measure).run().recipe.observer == "mse"


def test_a_damaged_placement_is_repaired_block_by_block(tmp_path):
    measure = Scripted({"_x86": found(5.0, 60.0), "+repair2": found(5.5, 69.8)}, found(7.0, 65.0))
    outcome = search(tmp_path, measure).run()
    assert outcome.recipe.name.endswith("+repair2")
    assert outcome.recipe.keep_float[-1].nodes == (r"^/a/b\.0/Conv$", r"^/a/b\.0/Add$", "^/a/c/Conv$")


def test_nothing_within_budget_is_said(tmp_path):
    outcome = search(tmp_path, Scripted({}, found(5.0, 60.0))).run()
    assert outcome.recipe is None
    assert outcome.verdict == "no INT8 within 0.5 points: the least drop is 10.00 points"


def test_slower_than_float_is_said(tmp_path):
    outcome = search(tmp_path, Scripted({}, found(11.0, 70.0))).run()
    assert outcome.recipe is None
    assert outcome.verdict == "INT8 is not faster here: 11.00 ms, float 10.00 ms"


def test_the_relative_floor_counts_too(tmp_path):
    loose = Budget(max_drop=10.0, best_float_ms=10.0)
    assert search(tmp_path, Scripted({}, found(5.0, 66.0)), budget=loose).run().recipe is None


def test_candidates_that_fail_are_logged_and_passed_over(tmp_path):
    failed = Measurement(status="failed", reason="no such node")
    outcome = search(tmp_path, Scripted({"_x86": found(5.0, 69.9)}, failed)).run()
    assert outcome.recipe.name == "int8_onnxruntime_x86"
    assert any(entry.measured.reason == "no such node" for entry in outcome.entries)


def test_a_replay_measures_nothing_and_agrees(tmp_path):
    table = {"_x86": found(5.0, 60.0), "+repair2": found(5.5, 69.8)}
    first = search(tmp_path, Scripted(table, found(7.0, 65.0))).run()
    again = Scripted({}, found(0.1, 70.0))
    replayed = search(tmp_path, again).run()
    assert again.calls == []
    assert replayed == first


def test_an_interrupted_search_goes_on_from_its_log(tmp_path):
    whole = Scripted({"_x86": found(5.0, 69.9)}, found(7.0, 69.0))

    def interrupted(recipe):
        if len(whole.calls) == 3:
            raise KeyboardInterrupt
        return whole(recipe)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, interrupted).run()
    search(tmp_path, whole).run()
    assert len(set(whole.calls)) == len(whole.calls)


def test_a_log_of_another_context_is_refused(tmp_path):
    search(tmp_path, Scripted({}, found(5.0, 70.0))).run()
    with pytest.raises(UserError, match="its data is d1, expected d2"):
        search(tmp_path, Scripted({}, found(5.0, 70.0)), context={**CONTEXT, "data": "d2"})


def test_a_damaged_log_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text("{\n")
    with pytest.raises(UserError, match="damaged"):
        read_log(tmp_path / "log.jsonl", CONTEXT)


@pytest.mark.parametrize("base", shipped_recipes(), ids=lambda base: base.name)
def test_the_space_starts_with_the_base_and_has_no_repeats(base):
    for recipes in (placements(base), observers(base)):
        assert recipes[0] == base
        assert len({recipe.name for recipe in recipes}) == len(recipes)
        assert len({repr({**recipe.plain(), "name": ""}) for recipe in recipes}) == len(recipes)


def test_repairs_stop_where_the_ranking_does():
    assert [len(recipe.keep_float[-1].nodes) for recipe in repairs(read_recipe("int8_openvino"), BLOCKS)] == [2, 3]
