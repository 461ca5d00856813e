from __future__ import annotations

import logging
import sys
import warnings

import pytest
import torch
from torch import nn

from mscsa_deploy.errors import StageError
from mscsa_deploy.export import trace
from mscsa_deploy.export.numeric import distance, run_graph

SIZE = (64, 96)


def best(module: nn.Module, **changes) -> trace.TracedGraph:
    settings = {"name": "tiny", "size": SIZE, "batch": 1, "output_name": "logits", "opset": 18}
    return trace.best_graph(module, **{**settings, **changes})


@pytest.fixture
def broken_trace(monkeypatch):
    """The tracing exporter fails; the other one works."""
    real = trace.to_graph

    def fail(module, image, *, method, **rest):
        if method == "trace":
            raise StageError(method, "tiny", "unknown operator")
        return real(module, image, method=method, **rest)

    monkeypatch.setattr(trace, "to_graph", fail)


def agrees(found: trace.TracedGraph, module: nn.Module, batch: int) -> bool:
    image = torch.randn(batch, 3, *SIZE)
    with torch.no_grad():
        wanted = module.eval()(image).numpy()
    ((got,),) = run_graph(found.model, [{"image": image.numpy()}])
    # Three layers of float32 sums.
    return distance(wanted, got) <= 1e-5


@pytest.mark.parametrize(("batch", "tried"), [(1, 1), ("dynamic", 3)])
def test_dynamo_is_the_retry(segmenter, broken_trace, batch, tried) -> None:
    found = best(segmenter, batch=batch)
    assert found.method == "dynamo"
    assert found.notes == ("not by trace: unknown operator",)
    assert agrees(found, segmenter, tried)


def test_dynamo_leaves_no_paths(segmenter, broken_trace) -> None:
    content = best(segmenter).model
    assert b".py" not in content
    assert b"site-packages" not in content


def test_opset_beyond_tracing_goes_to_dynamo(segmenter) -> None:
    found = best(segmenter, opset=21)
    assert found.method == "dynamo"
    assert found.notes == ()


def test_wrong_numbers_are_no_success(segmenter, monkeypatch) -> None:
    other = type(segmenter)().eval()
    real = trace.to_graph
    monkeypatch.setattr(trace, "to_graph", lambda _, *args, **rest: real(other, *args, **rest))
    with pytest.raises(StageError, match=r"export failed on tiny: trace: its outputs differ .*; dynamo: its outputs"):
        best(segmenter)


def test_reasons_of_both_exporters_are_given() -> None:
    class Unexportable(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svd(image.mean(1))[1]

    with pytest.raises(StageError, match=r"trace: .*svd.*dynamo: "):
        best(Unexportable())


def test_tracing_is_quiet(segmenter, capfd, caplog) -> None:
    with warnings.catch_warnings(record=True) as seen, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        best(segmenter)
        sys.stdout.flush()
    assert [str(warning.message) for warning in seen] == []
    assert capfd.readouterr().out == ""
    assert caplog.records == []
