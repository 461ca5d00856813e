from __future__ import annotations

import pytest

from mscsa_deploy.calibration.budget import Budget
from mscsa_deploy.calibration.recipe import read_recipe, shipped_recipes
from mscsa_deploy.calibration.search import MOST_CONTENDERS, Search
from mscsa_deploy.calibration.search_log import Measurement, SearchLog, read_log
from mscsa_deploy.calibration.search_space import drafted, observers, placements, repairs
from mscsa_deploy.errors import UserError

CONTEXT = {"model": "abc", "device": "cpu", "data": "d1"}
BUDGET = Budget(0.5)
BLOCKS = [("/a/b.0/Conv", "/a/b.0/Add"), ("/a/c/Conv",), ("/a/d/Conv",)]
FLOAT_MS = 10.0


class Scripted:
    """Answers by the end of a recipe's name: milliseconds, and percent of a reference of 70; counts what it is asked.

    What is not in a table takes 12 ms, so it cannot win, and scores 60.
    """

    def __init__(self, times, values, sqnr=None):
        self.times = times
        self.values = values
        self.sqnr = sqnr or {}
        self.timed, self.scored, self.ranked = [], [], []

    def time(self, recipes):
        self.timed.extend(recipe.name for recipe in recipes)
        return [self.latency(recipe.name) for recipe in recipes]

    def latency(self, name):
        ms = of(self.times, name, 12.0)
        if ms is None:
            return Measurement(status="failed", reason="no such node")
        return Measurement(latency_ms=ms, float_ms=FLOAT_MS)

    def score(self, recipe):
        self.scored.append(recipe.name)
        value = of(self.values, recipe.name, 60.0)
        return Measurement(value=value, reference=70.0, sqnr_db=of(self.sqnr, recipe.name, 20.0))

    def confirm(self, recipe):
        for suffix in ("+mse", "+p99.99"):
            if recipe.name.endswith(suffix):
                return self.latency(recipe.name.removesuffix(suffix))
        return self.latency(recipe.name)

    def rank(self, recipe):
        self.ranked.append(recipe.name)
        return BLOCKS


def of(table, name, default):
    """The entry of the longest key that `name` ends in."""
    ends = [end for end in table if name.endswith(end)]
    return table[max(ends, key=len)] if ends else default


def search(tmp_path, measures, *, budget=BUDGET, base="int8_onnxruntime_x86", **options):
    log = SearchLog(tmp_path / "log.jsonl", CONTEXT)
    return Search(read_recipe(base), measures, budget=budget, log=log, **options)


def test_the_fastest_candidate_within_budget_wins(tmp_path):
    measures = Scripted(
        {"+all-stem0": 4.0, "+chain-stem1": 5.0, "+per-tensor": 6.0}, {"+chain-stem1": 69.8, "+per-tensor": 69.9}
    )
    outcome = search(tmp_path, measures).run()
    assert outcome.recipe.name == "int8_onnxruntime_x86+chain-stem1"
    assert "5.00 ms, 2.00x the best float (10.00 ms), drop +0.20 points" in outcome.verdict
    assert not any("per-tensor" in name for name in measures.scored)


def test_what_cannot_beat_float_is_never_scored(tmp_path):
    measures = Scripted({"_x86": 9.9}, {})
    outcome = search(tmp_path, measures).run()
    assert outcome.recipe is None
    assert measures.scored == []
    assert outcome.verdict.startswith("INT8 is not faster than the best float artefact here: 9.90 ms")


def test_differences_within_noise_go_to_the_earlier_candidate(tmp_path):
    measures = Scripted({"_x86": 6.0, "+per-tensor": 5.9}, {"_x86": 69.9, "+per-tensor": 69.9})
    assert search(tmp_path, measures).run().recipe.name == "int8_onnxruntime_x86"


def test_among_equal_placements_the_least_output_error_wins(tmp_path):
    values = {"_x86": 69.9, "+mse": 69.7, "+entropy": 60.0}
    measures = Scripted({"_x86": 5.0}, values, {"+mse": 25.0, "+entropy": 30.0})
    assert search(tmp_path, measures).run().recipe.observer == "mse"


def test_an_observer_can_bring_a_placement_within_budget(tmp_path):
    measures = Scripted({"_x86": 5.0}, {"_x86": 60.0, "+p99.99": 69.9})
    assert search(tmp_path, measures).run().recipe.observer == "percentile"
    assert measures.ranked == []


def test_equal_placements_are_timed_once(tmp_path):
    measures = Scripted({"_x86": 5.0}, {"_x86": 69.9})
    search(tmp_path, measures).run()
    assert not any(name.endswith(("+mse", "+p99.99", "+average")) for name in measures.timed)


def test_a_damaged_placement_is_repaired_block_by_block(tmp_path):
    measures = Scripted({"_x86": 5.0, "+repair1": 5.2, "+repair2": 5.5}, {"+repair2": 69.8})
    outcome = search(tmp_path, measures).run()
    assert outcome.recipe.name.endswith("+repair2")
    assert outcome.recipe.keep_float[-1].nodes == (r"^/a/b\.0/Conv$", r"^/a/b\.0/Add$", "^/a/c/Conv$")


def test_a_repair_slower_than_the_next_placement_waits_for_it(tmp_path):
    measures = Scripted({"_x86": 5.0, "+repair2": 8.0, "+per-tensor": 6.0}, {"_x86+repair2": 69.8, "+per-tensor": 69.7})
    assert search(tmp_path, measures).run().recipe.name == "int8_onnxruntime_x86+per-tensor"


def test_nothing_within_budget_is_said(tmp_path):
    outcome = search(tmp_path, Scripted({"_x86": 5.0}, {})).run()
    assert outcome.recipe is None
    assert outcome.verdict == "no INT8 faster than float is within 0.5 points: the least drop is 10.00 points"


def test_a_search_gives_up_after_a_few_placements(tmp_path):
    measures = Scripted({"": 5.0}, {})
    assert search(tmp_path, measures).run().recipe is None
    assert len(measures.ranked) == MOST_CONTENDERS


def test_a_winner_that_is_not_confirmed_does_not_win(tmp_path):
    measures = Scripted({"_x86": 5.0}, {"_x86": 69.9})
    measures.confirm = lambda _: Measurement(latency_ms=10.0, float_ms=10.0)
    outcome = search(tmp_path, measures).run()
    assert outcome.recipe is None
    assert outcome.verdict.startswith("no INT8 candidate within budget stays faster")


def test_the_relative_floor_counts_too(tmp_path):
    loose = Budget(10.0)
    assert search(tmp_path, Scripted({"_x86": 5.0}, {"": 66.0}), budget=loose).run().recipe is None


def test_candidates_that_fail_are_logged_and_passed_over(tmp_path):
    outcome = search(tmp_path, Scripted({"": None, "_x86": 5.0}, {"_x86": 69.9})).run()
    assert outcome.recipe.name == "int8_onnxruntime_x86"
    assert any(entry.measured.reason == "no such node" for entry in outcome.entries)


def test_each_placement_is_tried_in_each_arithmetic_of_the_rest(tmp_path):
    measures = Scripted({"_openvino+bf16": 5.0}, {"": 69.9})
    outcome = search(tmp_path, measures, base="int8_openvino", rests=("bf16",)).run()
    assert outcome.recipe.rest == "bf16"
    assert {"int8_openvino+transformer", "int8_openvino+transformer+bf16"} <= set(measures.timed)


def test_a_replay_measures_nothing_and_agrees(tmp_path):
    first = search(tmp_path, Scripted({"_x86": 5.0, "+repair2": 5.5}, {"+repair2": 69.8})).run()
    again = Scripted({}, {"": 70.0})
    again.rank = lambda _: BLOCKS
    replayed = search(tmp_path, again).run()
    assert again.timed == again.scored == []
    assert replayed.recipe == first.recipe
    assert replayed.verdict == first.verdict
    assert set(map(repr, replayed.entries)) == set(map(repr, first.entries))


def test_an_interrupted_search_goes_on_from_its_log(tmp_path):
    measures = Scripted({"_x86": 5.0}, {"": 69.9})

    def interrupted(recipe):
        if len(measures.scored) == 3:
            raise KeyboardInterrupt
        return Scripted.score(measures, recipe)

    measures.score = interrupted
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, measures).run()
    del measures.score
    search(tmp_path, measures).run()
    assert len(set(measures.timed)) == len(measures.timed)
    assert len(set(measures.scored)) == len(measures.scored)


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    search(tmp_path, Scripted({"_x86": 5.0}, {"": 69.9})).run()
    path = tmp_path / "log.jsonl"
    whole = read_log(path, CONTEXT)
    path.write_bytes(path.read_bytes()[:-20])
    assert read_log(path, CONTEXT) == whole[:-1]
    assert search(tmp_path, Scripted({"_x86": 5.0}, {"": 69.9})).run().recipe is not None
    assert len(read_log(path, CONTEXT)) == len(whole)


def test_a_log_of_another_context_is_refused(tmp_path):
    search(tmp_path, Scripted({"_x86": 5.0}, {"": 69.9})).run()
    with pytest.raises(UserError, match="its data is d1, expected d2"):
        SearchLog(tmp_path / "log.jsonl", {**CONTEXT, "data": "d2"})


def test_a_damaged_log_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text("{\n")
    with pytest.raises(UserError, match="damaged"):
        read_log(tmp_path / "log.jsonl", CONTEXT)


@pytest.mark.parametrize("base", shipped_recipes(), ids=lambda base: base.name)
def test_the_space_starts_with_the_base_and_has_no_repeats(base):
    for recipes in (placements(base), placements(base, rests=("bf16",)), observers(base)):
        assert recipes[0] == base
        assert len({recipe.name for recipe in recipes}) == len(recipes)
        assert len({repr({**recipe.plain(), "name": ""}) for recipe in recipes}) == len(recipes)
        assert all(drafted(recipe).samples <= 8 for recipe in recipes)


@pytest.mark.parametrize("base", shipped_recipes(), ids=lambda base: base.name)
def test_no_placement_forgets_the_shapes_that_the_runtime_computes_wrongly(base):
    wrong = [rule for rule in base.keep_float if rule.min_kernel]
    assert all(set(wrong) <= set(recipe.keep_float) for recipe in placements(base, rests=("bf16",)))


def test_repairs_stop_where_the_ranking_does():
    assert [len(recipe.keep_float[-1].nodes) for recipe in repairs(read_recipe("int8_openvino"), BLOCKS)] == [2, 3]
