"""Limits, their defaults and how callers override them."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.errors import GateError, UserError
from mscsa_deploy.parity.compare import Comparator
from mscsa_deploy.parity.tolerance import (
    DEFAULTS,
    Tolerance,
    check,
    override,
    parse_overrides,
    tolerance_for,
    violations,
)

from .conftest import compare

REFERENCE = np.array([[0.0, 1.0], [0.0, 1.0]], dtype=np.float32)


def test_defaults_are_those_of_the_documents():
    assert DEFAULTS["fp32"].limits() == {"max_abs_over_range": 1e-4, "argmax_agreement": 99.9}
    assert DEFAULTS["int8"].limits() == {"argmax_agreement": 99.0}


def test_check_within_limits_passes():
    check("logits", compare(REFERENCE, REFERENCE + np.float32(5e-5)), tolerance_for("fp32"), subject="x")


def test_check_beyond_a_limit_names_metric_value_and_worst_image():
    comparator = Comparator()
    comparator.add(REFERENCE, np.array([[0.0, 1.0], [0.25, 1.0]], np.float32), names=("fine.jpg", "odd.jpg"))
    with pytest.raises(GateError, match=r"cand on ort: 'logits' has max_abs_over_range 0\.25.*odd\.jpg") as caught:
        check("logits", comparator.result(), tolerance_for("fp32"), subject="cand on ort")
    assert caught.value.exit_code == 5
    assert "fine.jpg" not in str(caught.value)


def test_violations_nan_breaks_even_a_lax_tolerance():
    found = violations(
        "y", compare(REFERENCE, REFERENCE * np.float32(np.nan)), Tolerance(why="lax", argmax_agreement=0.0)
    )
    assert [violation.metric for violation in found] == ["nonfinite"]


def test_violations_metric_that_does_not_apply_is_not_judged():
    classmap = np.zeros((1, 2, 2), np.uint8)
    assert violations("y", compare(classmap, classmap), tolerance_for("fp32")) == ()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"why": " ", "cosine": 0.9}, id="no reason"),
        pytest.param({"why": "x"}, id="no limit"),
        pytest.param({"why": "x", "cosine": float("nan")}, id="nan"),
    ],
)
def test_tolerance_without_meaning_refused(settings):
    with pytest.raises(UserError):
        Tolerance(**settings)


def test_parse_overrides_reads_dotted_output_names():
    parsed = parse_overrides(["logits.cosine=0.99", "logits.max_abs=1e-3", "a.b.sqnr_db=20"])
    assert parsed == {"logits": {"cosine": 0.99, "max_abs": 1e-3}, "a.b": {"sqnr_db": 20.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logits.cosine", "not OUTPUT.METRIC=VALUE"),
        ("cosine=1", "not OUTPUT.METRIC=VALUE"),
        ("logits.cosin=1", "did you mean 'cosine'"),
        ("logits.cosine=high", "not a number"),
        ("logits.cosine=nan", "a finite number, zero or more"),
        ("logits.max_abs=inf", "a finite number, zero or more"),
        ("logits.max_abs=-1", "a finite number, zero or more"),
        ("logit.cosine=1", "did you mean 'logits'"),
    ],
)
def test_parse_overrides_wrong_setting_says_what(text, message):
    with pytest.raises(UserError, match=message):
        parse_overrides([text], outputs=("logits",))


def test_override_changes_only_the_named_output():
    overrides = parse_overrides(["logits.argmax_agreement=50"])
    changed = override(tolerance_for("fp32"), "logits", overrides)
    assert changed.limits() == {"max_abs_over_range": 1e-4, "argmax_agreement": 50.0}
    assert "overridden by the caller" in changed.why
    assert override(tolerance_for("fp32"), "other", overrides) is DEFAULTS["fp32"]


def test_tolerance_for_unknown_precision_offers_the_nearest():
    with pytest.raises(UserError, match="did you mean 'fp16'"):
        tolerance_for("fp61")
