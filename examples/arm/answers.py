"""Runs one model on some inputs: `python answers.py RUNTIME MODEL INPUTS.npy OUTPUTS.npy`. Runs on both processors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def by_onnxruntime(model: Path, inputs: np.ndarray) -> np.ndarray:
    """First output per input, (N, ...) float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: one[None]})[0] for one in inputs])


def by_openvino(model: Path, inputs: np.ndarray) -> np.ndarray:
    """First output per input, (N, ...) float32, computed in f32 where the model is."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(model), "CPU", settings)
    return np.concatenate([compiled(one[None])[0] for one in inputs])


RUNTIMES = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}


def main(runtime: str, model: str, inputs: str, outputs: str) -> None:
    """Read, run, write."""
    np.save(outputs, RUNTIMES[runtime](Path(model), np.load(inputs)))


if __name__ == "__main__":
    main(*sys.argv[1:])
