from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from mscsa_deploy.export.exporter import ExportResult, export_onnx
from mscsa_deploy.graphs.metadata import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = (64, 96)
STRIDE = 8


class TinySegmenter(nn.Module):
    """(N, 3, H, W) to (N, classes, H / 8, W / 8)."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.Hardswish())
        self.head = nn.Conv2d(6, classes, 4, stride=4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image))


class TinyClassifier(nn.Module):
    """(N, 3, H, W) to (N, classes)."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, stride=4)
        self.head = nn.Linear(6, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image).relu().mean((2, 3)))


@pytest.fixture
def segmenter() -> TinySegmenter:
    torch.manual_seed(3)
    return TinySegmenter()


@pytest.fixture
def classifier() -> TinyClassifier:
    torch.manual_seed(3)
    return TinyClassifier()


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., ExportResult]:
    """Exports a module with the least that has to be said about it."""

    def run(model: nn.Module, **changes: Any) -> ExportResult:
        task = "cls" if isinstance(model, TinyClassifier) else "seg"
        settings = {
            "name": "tiny",
            "task": task,
            "input_size": SIZE,
            "metadata": ModelInfo(name="tiny", task=task, random_weights=3),
            "out": tmp_path / "model.onnx",
        }
        return export_onnx(model, **{**settings, **changes})

    return run
