"""What this machine could do at best: multiply-accumulates per second by runtime and precision, and bytes per second.

The rate of a chain of square matrix products, run through the runtime's own library by the same workers that
measure models, is the roof that a row's rate is divided by. The fastest sample counts: a roof is what was reached
once, not what is usual.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from mscsa_deploy.core.config import Config, read_json, to_json
from mscsa_deploy.core.files import cache_root, content_key, output_file
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Row
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.timing.inputs import write_random_inputs
from mscsa_deploy.timing.orchestrator import measure
from mscsa_deploy.timing.plan import Preset, RowSpec

SIZES = (512, 1024)
CHAIN = 4
COPY_BYTES = 256 << 20
COPIES = 5
PLAN = Preset(name="peak", min_seconds=0.3, min_samples=9, row_cap_seconds=6.0, blocks=3, remeasures=0, live_workers=8)
RUNTIMES_WITH_PEAK = ("onnxruntime", "openvino")
"""Runtimes that load ONNX and run on the CPU; the others have no roof here."""


class Rate(Config, frozen=True, kw_only=True):
    """The best rate of one runtime in one precision.

    Args:
        runtime: Its name.
        version: Of its library.
        precision: Asked for.
        executed: Read back.
        macs_per_s: Multiply-accumulates per second.
        size: Side of the matrices that reached it.
    """

    runtime: str
    version: str
    precision: str
    executed: str
    macs_per_s: float
    size: int


class Peaks(Config, frozen=True, kw_only=True):
    """The machine's roofs with so many threads; `bytes_per_s` counts reads and writes of one thread's copy."""

    threads: int
    rates: tuple[Rate, ...]
    bytes_per_s: float

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
    again: bool = False,
) -> Peaks:
    """The machine's roofs, from the cache or measured now (about half a minute).

    Args:
        runtimes: Names; those without a roof are passed over.
        threads: Compute threads.
        fingerprint: Of the environment; the cache's key.
        affinity: Cores to pin to.
        progress: Told each block.
        again: Measure even if the cache knows.
    """
    wanted = tuple(name for name in RUNTIMES_WITH_PEAK if name in set(runtimes))
    key = content_key({"fingerprint": fingerprint, "threads": threads, "affinity": affinity, "runtimes": wanted})
    place = cache_root() / "peak" / f"{key}.json"
    if place.exists() and not again:
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
    return Peaks(threads=threads, rates=_best(made), bytes_per_s=copy_bytes_per_s())


def _best(rows: Sequence[Row]) -> tuple[Rate, ...]:
    best: dict[tuple[str, str], Rate] = {}
    for row in rows:
        if row.latency_ms is None:
            continue
        size = row.input_size[0]
        rate = Rate(
            runtime=row.runtime, version=row.runtime_version, precision=row.precision,
            executed=row.executed_precision, macs_per_s=CHAIN * size**3 / (row.latency_ms.min / 1e3), size=size,
        )  # fmt: skip
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


def copy_bytes_per_s() -> float:
    """Memory bandwidth of one thread: bytes read and written by the fastest of some copies of 256 MiB."""
    source = np.ones(COPY_BYTES // 8, np.float64)
    target = np.empty_like(source)
    seconds = []
    for _ in range(COPIES):
        begin = time.perf_counter_ns()
        np.copyto(target, source)
        seconds.append((time.perf_counter_ns() - begin) / 1e9)
    return 2 * COPY_BYTES / min(seconds)


def write_gemm(path: Path, size: int, *, quantized: bool) -> None:
    """Write x -> x W1 W2 ... as ONNX, (size, size) float32 in and out.

    Quantized, every product has uint8 activations and int8 weights, as QDQ files have them. Scales keep the
    values in range, so that no denormals or infinities change the speed.
    """
    import onnx
    from onnx import helper, numpy_helper

    generator = np.random.default_rng(0)
    nodes, constants, value = [], [], "x"

    def constant(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    def through_uint8(source: str, stage: str) -> str:
        scale = constant(f"{stage}_scale", np.array(0.05, np.float32))
        zero = constant(f"{stage}_zero", np.array(128, np.uint8))
        nodes.append(helper.make_node("QuantizeLinear", [source, scale, zero], [f"{stage}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{stage}_q", scale, zero], [f"{stage}_dq"]))
        return f"{stage}_dq"

    if quantized:
        value = through_uint8(value, "input")
    for turn in range(CHAIN):
        weights = generator.standard_normal((size, size)) / np.sqrt(size)
        if quantized:
            scale = float(np.abs(weights).max() / 127)
            integers = np.round(weights / scale).astype(np.int8)
            inputs = [
                constant(f"w{turn}", integers),
                constant(f"w{turn}_scale", np.array(scale, np.float32)),
                constant(f"w{turn}_zero", np.array(0, np.int8)),
            ]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"w{turn}_dq"]))
            right = f"w{turn}_dq"
        else:
            right = constant(f"w{turn}", weights.astype(np.float32))
        nodes.append(helper.make_node("MatMul", [value, right], [f"y{turn}"]))
        value = through_uint8(f"y{turn}", f"y{turn}") if quantized else f"y{turn}"
    shape = [size, size]
    graph = helper.make_graph(
        nodes,
        "gemm",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
