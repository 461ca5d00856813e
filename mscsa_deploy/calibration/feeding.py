"""Passing samples through a library's calibrator: one at a time, watched for NaN, its printing kept off stdout."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from mscsa_deploy.calibration.checks import FiniteWatch, float_tensors
from mscsa_deploy.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.calibration.source import Source
    from mscsa_deploy.core.progress import Progress
    from mscsa_deploy.core.tensors import Array, Feed

log = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what the library prints, warns and logs on the root logger to our log, at debug level.

    Standard output belongs to the command line's answer, and a library's warning about one node is no news to
    the user: what matters of it is in `Quantized.left_float`.
    """
    spoken = io.StringIO()

    def redirect(record: logging.LogRecord) -> bool:
        spoken.write(record.getMessage() + "\n")
        return False

    # With a handler in place, logging.warning() does not configure the root logger.
    silencer = logging.NullHandler()
    logging.root.addHandler(silencer)
    logging.root.addFilter(redirect)
    try:
        with contextlib.redirect_stdout(spoken), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeFilter(redirect)
        logging.root.removeHandler(silencer)
    for line in spoken.getvalue().splitlines():
        log.debug("onnxruntime: %s", line)


class _OneFeed:
    """A calibration reader that holds a single feed."""

    def __init__(self, feed: Feed) -> None:
        self.feed: Feed | None = feed

    def get_next(self) -> dict[str, Array] | None:
        feed, self.feed = self.feed, None
        return dict(feed) if feed is not None else None


class _WatchedSession:
    """A session that remembers whether the last values it saw were all finite.

    Args:
        session: What to run; its last `hidden` outputs are looked at and not given out.
    """

    def __init__(self, session: Any, hidden: int) -> None:
        self.session = session
        self.shown = len(session.get_outputs()) - hidden
        self.finite = True

    def get_outputs(self) -> Any:
        return self.session.get_outputs()[: self.shown]

    def get_inputs(self) -> Any:
        return self.session.get_inputs()

    def run(self, names: Any, feed: dict[str, Array]) -> Any:
        assert names is None, "the library's calibrators ask for every output"
        results = self.session.run(None, feed)
        floats = (array for array in (*feed.values(), *results) if issubclass(array.dtype.type, np.floating))
        self.finite = all(bool(np.isfinite(array).all()) for array in floats)
        return results[: self.shown]


class Feeder:
    """Passes every sample through a calibrator, one in memory at a time.

    Args:
        source: The float model, to name the node when a value is not finite.
        samples: What to pass.
        progress: Told after each sample.
        total: How many samples all passes together make.
    """

    def __init__(self, source: Source, samples: Samples, progress: Progress, total: int) -> None:
        self.source = source
        self.samples = samples
        self.progress = progress
        self.total = total
        self.done = 0

    def feed(self, calibrator: Any, hidden: int = 0) -> None:
        """Collect from every sample; raises `StageError` when a value is NaN or infinite.

        Args:
            calibrator: Its session is open.
            hidden: What `open_session` returned.
        """
        calibrator.infer_session = watched = _WatchedSession(calibrator.infer_session, hidden)
        for index, feed in enumerate(self.samples):
            label = f"sample {index + 1} of '{self.samples.name}'"
            if self.done == 0:
                FiniteWatch(self.source).check(feed, label)
            try:
                with quiet():
                    calibrator.collect_data(_OneFeed(feed))
            except RuntimeError as error:
                raise StageError("calibrate", self.source.title, str(error)) from error
            if not watched.finite:
                # Nothing is wrong where only a sum overflowed.
                FiniteWatch(self.source).check(feed, label)
            self.done += 1
            self.progress(self.done, self.total, "calibrate")


def open_session(calibrator: Any, *, sums: bool = False) -> int:
    """Write the augmented graph and open a single-threaded session on it.

    Args:
        calibrator: Of the library.
        sums: Also give out the sum of every float activation, which is NaN or infinite wherever one value of it is.
            The least and the greatest value do not tell: whether they are NaN depends on where among the values it is.

    Returns:
        How many outputs of the session are sums: its last ones.
    """
    import onnxruntime

    names = float_tensors(calibrator.model) if sums else []
    calibrator.augment_graph()
    path = Path(calibrator.augmented_model_path)
    if names:
        _add_sums(path, set(names))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    calibrator.infer_session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return len(names)


def _add_sums(path: Path, wanted: set[str]) -> None:
    """Have the graph in the file at `path` also give out sums, each computed right behind its activation."""
    model = onnx.load(str(path))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.append(node)
        for name in (name for name in node.output if name in wanted):
            total = f"{name}/mscsa_deploy_sum"
            model.graph.node.append(onnx.helper.make_node("ReduceSum", [name], [total], keepdims=0))
            model.graph.output.append(onnx.helper.make_tensor_value_info(total, onnx.TensorProto.FLOAT, []))
    onnx.save(model, str(path))
