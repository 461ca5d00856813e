"""What a suite's TOML file says."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mscsa_deploy.core.config import Config
from mscsa_deploy.core.report import Boundary
from mscsa_deploy.timing.plan import Role


class Stock(Config, frozen=True, kw_only=True):
    """One alternative: how its file is made (a name in `stock.MAKERS`) and on what it runs."""

    name: str
    make: str
    runtime: str
    precision: str = "fp32"
    role: Role = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class Suite(Config, frozen=True, kw_only=True):
    """One comparison.

    Args:
        name: Of the suite and its result.
        model: Zoo name.
        random_weights: Seed of random weights; None takes those that ship.
        task: ``"cls"`` or ``"seg"``.
        calibration: Images the stock quantizers see.
        calibration_images: How many of them.
        evaluation: Images that accuracy is quoted on.
        evaluation_images: How many of them; None for all.
        boundaries: What is timed.
        threads: Compute threads of every row.
        preset: Fields that replace those of the full preset.
        stock: The alternatives.
    """

    name: str
    model: str
    random_weights: int | None = None
    task: Literal["cls", "seg"]
    calibration: str
    calibration_images: int
    evaluation: str
    evaluation_images: int | None = None
    boundaries: tuple[Boundary, ...]
    threads: int = 1
    preset: dict[str, Any] = msgspec.field(default_factory=dict)
    stock: tuple[Stock, ...]
