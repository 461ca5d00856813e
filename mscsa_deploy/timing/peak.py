"""What this machine could do at best: multiply-accumulates per second, by runtime and precision.

The rate of a chain of square matrix products, run through the runtime's own library by the same workers that
measure models, is the roof that a row's rate is divided by. The fastest sample counts: a roof is what was reached
once, not what is usual.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mscsa_deploy.core.config import Config, read_json, to_json
from mscsa_deploy.core.files import cache_root, content_key, output_file
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Row
from mscsa_deploy.core.tensors import Array, TensorSpec
from mscsa_deploy.timing.inputs import write_random_inputs
from mscsa_deploy.timing.orchestrator import measure
from mscsa_deploy.timing.plan import Preset, RowSpec

SIZES = (512, 1024)
CHAIN = 4
PLAN = Preset(name="peak", min_seconds=0.3, min_samples=9, row_cap_seconds=6.0, blocks=3, remeasures=0, live_workers=8)
RUNTIMES_WITH_PEAK = ("onnxruntime", "openvino")
"""Runtimes that load ONNX and run on the CPU; the others have no roof here."""


class Rate(Config, frozen=True, kw_only=True):
    """The best rate of one runtime in one precision.

    Args:
        runtime: Its name.
        precision: Asked for.
        macs_per_s: Multiply-accumulates per second.
    """

    runtime: str
    precision: str
    macs_per_s: float


class Peaks(Config, frozen=True, kw_only=True):
    """The machine's roofs with so many threads."""

    threads: int
    rates: tuple[Rate, ...]

    def rate(self, runtime: str, executed: str) -> Rate | None:
        """The roof for a row that executed ``"int8+fp32"`` and the like: that of its lowest precision."""
        lowest = executed.split("+", maxsplit=1)[0]
        return next((r for r in self.rates if r.runtime == runtime and r.precision == lowest), None)


def peaks(
    runtimes: Iterable[str],
    *,
    threads: int,
    fingerprint: str,
    affinity: tuple[int, ...] = (),
    progress: Progress = silent,
) -> Peaks:
    """The machine's roofs, from the cache or measured now (about half a minute).

    Args:
        runtimes: Names; those without a roof are passed over.
        threads: Compute threads.
        fingerprint: Of the environment; the cache's key.
        affinity: Cores to pin to.
        progress: Told each block.
    """
    wanted = tuple(name for name in RUNTIMES_WITH_PEAK if name in set(runtimes))
    facts = {"fingerprint": fingerprint, "threads": threads, "affinity": affinity, "runtimes": wanted}
    key = content_key({**facts, "fields": Rate.__struct_fields__})
    place = cache_root() / "peak" / f"{key}.json"
    if place.exists():
        return read_json(place, Peaks)
    measured = measure_peaks(wanted, threads=threads, affinity=affinity, progress=progress)
    with output_file(place, force=True) as work:
        work.write_bytes(to_json(measured))
    return measured


def measure_peaks(
    runtimes: Sequence[str], *, threads: int, affinity: tuple[int, ...] = (), progress: Progress = silent
) -> Peaks:
    """The machine's roofs, measured now; a precision that a runtime does not have is left out."""
    with tempfile.TemporaryDirectory(prefix="mscsa-peak-") as name:
        folder = Path(name)
        rows: list[RowSpec] = []
        for size in SIZES:
            plain = RowSpec(
                group=f"gemm{size}", runtime="", precision="fp32", path=str(folder / f"{size}.fp32.onnx"),
                core=write_random_inputs(folder / f"{size}.npz", (TensorSpec("x", "float32", (size, size)),)),
                threads=threads, affinity=affinity, input_size=(size, size), macs=CHAIN * size**3,
            )  # fmt: skip
            quantized = str(folder / f"{size}.int8.onnx")
            write_gemm(Path(plain.path), size, quantized=False)
            write_gemm(Path(quantized), size, quantized=True)
            for runtime in runtimes:
                row = msgspec.structs.replace(plain, runtime=runtime)
                rows += [row, msgspec.structs.replace(row, precision="bf16")]
                rows.append(msgspec.structs.replace(row, precision="int8", path=quantized))
        made = measure(rows, PLAN, samples_dir=folder / "samples", progress=progress) if rows else ()
    return Peaks(threads=threads, rates=_best(made))


def _best(rows: Sequence[Row]) -> tuple[Rate, ...]:
    best: dict[tuple[str, str], Rate] = {}
    for row in rows:
        if row.latency_ms is None:
            continue
        macs_per_s = CHAIN * row.input_size[0] ** 3 / (row.latency_ms.min / 1e3)
        rate = Rate(runtime=row.runtime, precision=row.precision, macs_per_s=macs_per_s)
        key = (row.runtime, row.precision)
        if key not in best or best[key].macs_per_s < rate.macs_per_s:
            best[key] = rate
    return tuple(best.values())


def with_share(row: Row, roofs: Peaks) -> Row:
    """`row` with its share of the roof of what it executed, where both are known."""
    rate = roofs.rate(row.runtime, row.executed_precision)
    if rate is None or row.macs_per_s is None or row.threads != roofs.threads or row.device != "cpu":
        return row
    return msgspec.structs.replace(row, share_of_peak=row.macs_per_s / rate.macs_per_s)


def write_gemm(path: Path, size: int, *, quantized: bool) -> None:
    """Write x -> x W1 W2 ... as ONNX, (size, size) float32 in and out.

    Quantized, every product has uint8 activations and int8 weights, as QDQ files have them. Scales keep the
    values in range, so that no denormals or infinities change the speed.
    """
    import onnx
    from onnx import helper

    generator = np.random.default_rng(0)
    graph = _Gemm()
    value = graph.through_uint8("x") if quantized else "x"
    for turn in range(CHAIN):
        weights = generator.standard_normal((size, size)) / np.sqrt(size)
        right = graph.int8(f"w{turn}", weights) if quantized else graph.constant(f"w{turn}", weights.astype(np.float32))
        value = graph.add("MatMul", [value, right], f"y{turn}")
        value = graph.through_uint8(value) if quantized else value
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [size, size]) for name in ("x", value)]
    made = helper.make_graph(graph.nodes, "gemm", ends[:1], ends[1:], graph.constants)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


class _Gemm:
    """The nodes and constants of such a chain; every method returns the name of what it made."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(self, op: str, inputs: list[str], output: str) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output]))
        return output

    def through_uint8(self, value: str) -> str:
        scale = self.constant(f"{value}_scale", np.array(0.05, np.float32))
        zero = self.constant(f"{value}_zero", np.array(128, np.uint8))
        rounded = self.add("QuantizeLinear", [value, scale, zero], f"{value}_q")
        return self.add("DequantizeLinear", [rounded, scale, zero], f"{value}_dq")

    def int8(self, name: str, weights: Array) -> str:
        largest = float(np.abs(weights).max())
        rounded = self.constant(name, np.round(weights / (largest / 127)).astype(np.int8))
        scale = self.constant(f"{name}_scale", np.array(largest / 127, np.float32))
        zero = self.constant(f"{name}_zero", np.array(0, np.int8))
        return self.add("DequantizeLinear", [rounded, scale, zero], f"{name}_dq")
