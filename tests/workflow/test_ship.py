"""What the manifest says about a measurement."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mscsa_deploy.core.environment import read_environment
from mscsa_deploy.core.report import Row
from mscsa_deploy.workflow.ship import _measurement


@pytest.mark.parametrize(("status", "told"), [("ok", True), ("built, not run", False)])
def test_the_processor_is_named_where_it_ran(status, told):
    here = read_environment()
    row = Row(runtime="tensorrt", precision="int8", status=status)
    assert _measurement(row, SimpleNamespace(environment=here)).isa == (here.isa if told else ())
