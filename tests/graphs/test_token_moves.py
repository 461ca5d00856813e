"""The passes that move values between tokens and maps, each on the smallest graph that has its pattern."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.graphs.check import fingerprint
from mscsa_deploy.graphs.rewrite import rewrite
from mscsa_deploy.graphs.token_layout import PermuteMaps, SinkTokenReshape

MOVE_ARRAYS = {
    "s_map": np.array([2, 4, 3, 2]), "s_flat": np.array([2, 4, 6]), "s_eight": np.array([2, 8, 3]),
    "s_thin": np.array([2, 8, 3, 1]), "s_tok": np.array([2, 6, 4]), "s_wide": np.array([2, 3, 2, 4]),
    "s_turned": np.array([2, 2, 3, 4]), "one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32),
    "one6": np.ones((6, 4), np.float32),
}  # fmt: skip
TO_MAP = "g (float[2,6,4] x) => (float[2,4,3,2] y) { t = Transpose<perm=[0,2,1]>(x) y = Reshape(t, s_map) }"
TO_TOKENS = "g (float[2,4,3,2] x) => (float[2,6,4] y) { f = Reshape(x, s_flat) y = Transpose<perm=[0,2,1]>(f) }"
MOVES = {"to_map": (TO_MAP, ["Reshape", "Transpose"]), "to_tokens": (TO_TOKENS, ["Transpose", "Reshape"])}
NO_MOVES = {
    "other_order": TO_MAP.replace("[0,2,1]", "[2,1,0]"),
    "channels_cut": TO_MAP.replace("float[2,4,3,2] y", "float[2,8,3,1] y").replace("s_map", "s_thin"),
    "channels_joined": TO_TOKENS.replace("float[2,6,4] y", "float[2,3,8] y").replace("s_flat", "s_eight"),
}
NORM = "LayerNormalization<axis=-1>(r, one, zero)"
SINK = f"g (float[2,3,2,4] x) => (float[2,6,4] y) {{ r = Reshape(x, s_tok) y = {NORM} }}"
SUM = (
    "g (float[2,3,2,4] x) => (float[2,6,4] y) { r = Reshape(x, s_tok) h = Relu(x) q = Reshape(h, s_tok) y = Add(r, q) }"
)
BACK = (
    f"g (float[2,3,2,4] x) => (float[2,3,2,4] y) {{ r = Reshape(x, s_tok) n = {NORM} w = Reshape(n, s_wide) "
    "y = Relu(w) }"
)
SINKS = {
    "norm": (SINK, ["LayerNormalization", "Reshape"]),
    "sum": (SUM, ["Relu", "Add", "Reshape"]),
    "and_back": (BACK, ["LayerNormalization", "Relu"]),
}
NO_SINKS = {
    "softmax_across_tokens": SINK.replace(NORM, "Softmax<axis=1>(r)"),
    "norm_of_all_tokens": SINK.replace(NORM, "LayerNormalization<axis=1>(r, one6)"),
    "sum_with_other_tokens": SUM.replace("h = Relu(x) q = Reshape(h, s_tok)", "q = Relu(r)"),
    "channels_regrouped": SINK.replace("(float[2,3,2,4] x)", "(float[2,3,4,2] x)"),
    "back_to_another_map": BACK.replace(f"n = {NORM} w = Reshape(n, s_wide)", "w = Reshape(r, s_turned)").replace(
        "(float[2,3,2,4] y)", "(float[2,2,3,4] y)"
    ),
}


@pytest.mark.parametrize(
    ("kind", "text", "order"),
    [pytest.param(PermuteMaps, *case, id=name) for name, case in MOVES.items()]
    + [pytest.param(SinkTokenReshape, *case, id=name) for name, case in SINKS.items()],
)
def test_moves_are_written_in_the_form_that_vanishes(make, run, kind, text, order) -> None:
    model = make(text, **MOVE_ARRAYS)
    expected = run(model)

    rewrite(model, [kind()])

    assert [node.op_type for node in model.graph] == order
    turns = [node.attributes.get_ints("perm", []) for node in model.graph if node.op_type == "Transpose"]
    assert all(len(turn) == 4 for turn in turns)
    # Values are moved, never changed.
    np.testing.assert_array_equal(run(model), expected)
    once = fingerprint(model)
    rewrite(model, [kind()])
    assert fingerprint(model) == once


@pytest.mark.parametrize(
    ("kind", "text"),
    [pytest.param(PermuteMaps, text, id=name) for name, text in NO_MOVES.items()]
    + [pytest.param(SinkTokenReshape, text, id=name) for name, text in NO_SINKS.items()],
)
def test_moves_that_mix_numbers_stay(make, kind, text) -> None:
    model = make(text, **MOVE_ARRAYS)
    before = fingerprint(model)

    rewrite(model, [kind()])

    assert fingerprint(model) == before
