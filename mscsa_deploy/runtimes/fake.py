"""A synthetic runtime: known outputs, a known latency distribution, and failures on demand.

For tests of timing, parity, reports and the command line. It loads a ``.fake`` file, the JSON of `FakeModel`,
or any ``.onnx`` file, of which it takes the inputs and outputs only.

Options (`SessionSettings.options`): any field of `FakeModel` except inputs and outputs, replacing the file's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from mscsa_deploy.core.config import Config, convert, read_json, to_plain
from mscsa_deploy.core.tensors import Array, Feed, TensorSpec, check_feed
from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.runtimes.protocol import PRECISIONS, Capabilities, OpProfile, OpRow, SessionSettings
from mscsa_deploy.runtimes.session import CheckedRuntime, CheckedSession, VendorErrors, vendor_errors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

VERSION = "1.0"
SLEEP_MARGIN_NS = 2_000_000

Answer = Callable[[Feed], Mapping[str, Array]]
Failure = Literal["", "load", "run", "hang", "exit"]


class FakeTensor(Config, frozen=True, kw_only=True):
    """A declared input or output."""

    name: str
    dtype: str = "float32"
    shape: tuple[int, ...]


class FakeModel(Config, frozen=True, kw_only=True):
    """What a fake session does.

    Args:
        inputs: Declared inputs.
        outputs: Declared outputs; each answers with the first input's values, repeated or cut to its size.
        gain: The answer is ``gain * value + offset``.
        offset: See `gain`.
        latency: Distribution of a call's duration: all the same, normal or log-normal.
        latency_ms: Its median in milliseconds; 0 answers at once.
        spread: Standard deviation over the median (normal), or of the logarithm (log-normal).
        seed: Of the latencies.
        executed_precision: What the session says it executed; empty echoes the settings.
        fail: When to fail: at load, at the first run, never return from a run, or end the process in it.
        resident_mb: Memory to hold while loaded, in MiB.
    """

    inputs: tuple[FakeTensor, ...] = ()
    outputs: tuple[FakeTensor, ...] = ()
    gain: float = 1.0
    offset: float = 0.0
    latency: Literal["constant", "normal", "lognormal"] = "constant"
    latency_ms: float = 0.0
    spread: float = 0.0
    seed: int = 0
    executed_precision: str = ""
    fail: Failure = ""
    resident_mb: int = 0


class FakeError(Exception):
    """What the make-believe vendor raises."""


def seam(subject: str, doing: str) -> VendorErrors:
    """Map the make-believe vendor's errors to ours."""
    return vendor_errors({FakeError: StageError}, runtime="fake", subject=subject, doing=doing)


class Fake(CheckedRuntime):
    """The synthetic runtime.

    Args:
        answer: Computes the outputs instead of the file's gain and offset.
    """

    name = "fake"
    accepts = ("fake", "onnx")
    options = tuple(name for name in FakeModel.__struct_fields__ if name not in ("inputs", "outputs"))

    def __init__(self, answer: Answer | None = None) -> None:
        self._answer = answer

    def probe(self) -> Capabilities:
        """Always there, and good for everything it is asked to pretend."""
        return Capabilities(True, "synthetic, for tests", "", VERSION, ("cpu",), PRECISIONS)

    def load(self, path: Path, settings: SessionSettings) -> FakeSession:
        """A session as the file and the options say."""
        self.check(path, settings)
        model = _model(path, settings)
        with seam(path.name, "loading"):
            if model.fail == "load":
                raise FakeError("told to fail at load")
        return FakeSession(path, model, settings, self._answer)

    def profile(self, path: Path, settings: SessionSettings, feed: Feed, *, runs: int = 20) -> OpProfile:
        """One made-up kernel that takes all the time."""
        with self.load(path, settings) as session:
            check_feed(session.inputs, feed)
            precision = session.executed_precision
            row = OpRow("everything", "Fake", precision, "fake", "", session.model.latency_ms, 1)
        return OpProfile(self.name, VERSION, precision, runs, (row,))


class FakeSession(CheckedSession):
    """A make-believe model; made by `Fake.load`."""

    def __init__(self, path: Path, model: FakeModel, settings: SessionSettings, answer: Answer | None) -> None:
        self.model = model
        self._answer = answer
        self._precision = model.executed_precision or settings.precision
        self._generator = np.random.default_rng(model.seed)
        self._ballast = np.ones(model.resident_mb << 20, np.uint8)
        super().__init__(
            tuple(TensorSpec(item.name, item.dtype, item.shape) for item in model.inputs),
            tuple(TensorSpec(item.name, item.dtype, item.shape) for item in model.outputs),
            threads=settings.threads,
            seam=lambda doing: seam(path.name, doing),
        )

    def _run(self, feed: Feed) -> dict[str, Array]:
        until = time.perf_counter_ns() + self._draw_ns()
        _fail(self.model.fail)
        batch = next(iter(feed.values())).shape[0]
        if self._answer is not None:
            answers = {name: np.array(value) for name, value in self._answer(feed).items()}
        else:
            answers = {spec.name: self._echo(feed, spec, batch) for spec in self.outputs}
        _wait(until)
        return answers

    def _echo(self, feed: Feed, spec: TensorSpec, batch: int) -> Array:
        first = next(iter(feed.values()))
        shape = tuple(batch if size < 0 else size for size in spec.shape)
        return np.asarray(np.resize(first * self.model.gain + self.model.offset, shape).astype(spec.dtype))

    def _draw_ns(self) -> int:
        model = self.model
        if model.latency == "normal":
            drawn = self._generator.normal(model.latency_ms, model.spread * model.latency_ms)
        elif model.latency == "lognormal":
            drawn = model.latency_ms * float(np.exp(self._generator.normal(0.0, model.spread)))
        else:
            drawn = model.latency_ms
        return max(0, round(drawn * 1e6))

    def _close(self) -> None:
        self._ballast = np.ones(0, np.uint8)

    def _read_precision(self) -> Iterable[str]:
        return self._precision.split("+")


def write_fake(path: Path, model: FakeModel) -> Path:
    """Write `model` as a ``.fake`` file; returns `path`."""
    path.write_bytes(msgspec.json.encode(model))
    return path


def _fail(how: Failure) -> None:
    if how == "run":
        raise FakeError("told to fail in a run")
    if how == "exit":
        os._exit(139)
    while how == "hang":
        time.sleep(1)


def _wait(until_ns: int) -> None:
    """Return at `until_ns` on the clock of `time.perf_counter_ns`, to within some microseconds."""
    left = until_ns - time.perf_counter_ns()
    if left > SLEEP_MARGIN_NS:
        time.sleep((left - SLEEP_MARGIN_NS) / 1e9)
    while time.perf_counter_ns() < until_ns:
        pass


def _model(path: Path, settings: SessionSettings) -> FakeModel:
    model = _signature(path) if path.suffix.lower() == ".onnx" else read_json(path, FakeModel)
    if not (model.inputs and model.outputs):
        raise UserError(f"'{path.name}' declares no inputs or no outputs")
    merged: dict[str, Any] = {**to_plain(model), **settings.options}
    return convert(merged, FakeModel, source="fake options")


def _signature(path: Path) -> FakeModel:
    from mscsa_deploy.graphs.check import read_model, signature

    inputs, outputs = signature(read_model(path))
    return FakeModel(
        inputs=tuple(FakeTensor(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in inputs),
        outputs=tuple(FakeTensor(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in outputs),
    )
