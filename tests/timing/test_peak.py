"""Roofs: the matrix chains are right, the cache holds, and shares are taken of the right roof."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mscsa_deploy.core.report import Row
from mscsa_deploy.timing import peak
from mscsa_deploy.timing.peak import CHAIN, Peaks, Rate, peaks, with_share, write_gemm

ROOFS = Peaks(
    threads=1,
    rates=(
        Rate(runtime="openvino", precision="int8", macs_per_s=4e11),
        Rate(runtime="openvino", precision="fp32", macs_per_s=1e11),
    ),
)


@pytest.mark.parametrize("quantized", [False, True], ids=["fp32", "int8"])
def test_matrix_chain_computes_what_it_says(tmp_path: Path, quantized: bool) -> None:
    onnx = pytest.importorskip("onnx")
    vendor = pytest.importorskip("onnxruntime")
    write_gemm(tmp_path / "g.onnx", 16, quantized=quantized)
    onnx.checker.check_model(onnx.load(tmp_path / "g.onnx"), full_check=True)
    session = vendor.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    (got,) = session.run(None, {"x": x})
    expected = x.astype(np.float64)
    generator = np.random.default_rng(0)
    for _ in range(CHAIN):
        expected = expected @ (generator.standard_normal((16, 16)) / 4)
    # Steps of 0.05 per activation and 1/127 of the largest weight, through four products of unit gain.
    assert np.abs(got - expected).max() < (0.6 if quantized else 1e-4)


def test_peaks_are_measured_once_per_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(peak, "measure_peaks", lambda *given, **_: calls.append(given) or ROOFS)
    first = peaks(("openvino", "pytorch"), threads=1, fingerprint="a")
    assert first == peaks(("openvino",), threads=1, fingerprint="a") == ROOFS
    assert calls == [(("openvino",),)]
    peaks(("openvino",), threads=1, fingerprint="b")
    peaks(("openvino",), threads=2, fingerprint="a")
    assert len(calls) == 3


def test_share_is_of_the_lowest_precision_that_ran() -> None:
    row = Row(runtime="openvino", precision="int8", executed_precision="int8+fp32", status="ok", macs_per_s=1e11)
    assert with_share(row, ROOFS).share_of_peak == pytest.approx(0.25)
    elsewhere = Row(runtime="pytorch", precision="fp32", executed_precision="fp32", status="ok", macs_per_s=1e9)
    assert with_share(elsewhere, ROOFS).share_of_peak is None
    two = Row(runtime="openvino", precision="fp32", executed_precision="fp32", status="ok", threads=2, macs_per_s=1)
    assert with_share(two, ROOFS).share_of_peak is None


def test_onnxruntime_has_a_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setattr(peak, "SIZES", (64,))
    got = peak.measure_peaks(("onnxruntime",), threads=1)
    assert [rate.precision for rate in got.rates if rate.precision != "bf16"] == ["fp32", "int8"]
    # Anything that multiplies matrices reaches a hundred million a second, and nothing a quadrillion.
    assert all(1e8 < rate.macs_per_s < 1e15 for rate in got.rates)
