"""Rows of acting runtimes, and a place of their own for journals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mscsa_deploy.timing.plan import CoreInputs, RowSpec


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def acting(tmp_path: Path) -> Callable[..., RowSpec]:
    """``acting(name, ms=[...], fail=..., spec={...})`` is the row of an artefact that acts that part."""
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, x=np.arange(32, dtype=np.float32).reshape(16, 1, 2))

    def make(name: str, *, ms: tuple[float, ...] = (0.2,), spec: dict | None = None, **part) -> RowSpec:
        path = tmp_path / f"{name}.fake"
        path.write_text(json.dumps({"name": name, "ms": ms, **part}))
        fields = {
            "group": "model", "runtime": "acting", "precision": "fp32", "path": str(path), "artifact": name,
            "core": CoreInputs(path=str(inputs)),
        }  # fmt: skip
        return RowSpec(**(fields | (spec or {})))

    return make
