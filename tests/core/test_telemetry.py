"""A package that reports usage is out of reach while vendor libraries are imported, and only then."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from mscsa_deploy.core.telemetry import REPORTER, without_telemetry


@pytest.mark.parametrize("loaded", [True, False])
def test_the_reporter_is_hidden_for_the_block_alone(loaded, monkeypatch):
    module = ModuleType(REPORTER)
    if loaded:
        monkeypatch.setitem(sys.modules, REPORTER, module)
    else:
        monkeypatch.delitem(sys.modules, REPORTER, raising=False)
    with without_telemetry(), pytest.raises(ImportError):
        importlib.import_module(REPORTER)
    assert sys.modules.get(REPORTER) is (module if loaded else None)
    assert (REPORTER in sys.modules) is loaded
