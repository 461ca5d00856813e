"""The budget of INT8, in points and as a share of float."""

from __future__ import annotations

import pytest

from mscsa_deploy.calibration.budget import AGREEMENT, Budget


@pytest.mark.parametrize(
    ("budget", "value", "reference", "allowed"),
    [
        pytest.param(Budget(0.5), 69.5, 70.0, True, id="all of the budget"),
        pytest.param(Budget(0.5), 69.4, 70.0, False, id="more points than it has"),
        pytest.param(Budget(0.5), 10.0, 10.5, False, id="few points, but a twentieth of a low metric"),
        pytest.param(Budget(0.5), 71.0, 70.0, True, id="better than float"),
        pytest.param(Budget(0.5), 0.0, 0.0, False, id="float is never right"),
        pytest.param(Budget.of("top-1"), 79.6, 80.0, False, id="top-1 has its own"),
        pytest.param(Budget.of("mIoU"), 79.6, 80.0, True, id="mIoU has its own"),
        pytest.param(Budget.of("pixel accuracy"), 79.4, 80.0, False, id="any other metric has half a point"),
        pytest.param(Budget.of("top-1", 1.0), 79.2, 80.0, True, id="what was asked for"),
        pytest.param(Budget.of(AGREEMENT), 99.0, 100.0, True, id="one decision in a hundred"),
        pytest.param(Budget.of(AGREEMENT), 98.9, 100.0, False, id="more than one in a hundred"),
        pytest.param(Budget.of(AGREEMENT, 3.0), 98.0, 100.0, False, id="points of the metric are not of agreement"),
    ],
)
def test_the_budget_allows(budget, value, reference, allowed):
    assert budget.allows(value, reference) is allowed
