"""What a user would make without this project: the stock recipes, with their defaults.

Each maker gets the model, the calibration images and a folder, writes its file there and returns its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mscsa_deploy.workflow.evaluate import ImageSet
from mscsa_deploy.workflow.prepare import Prepared

INPUT = "image"
OPSET = 18


def make_torch(prepared: Prepared, _: ImageSet, folder: Path) -> Path:
    """The PyTorch model with its weights."""
    path = folder / "model.safetensors"
    path.unlink(missing_ok=True)
    prepared.save(path)
    return path


def make_onnxsim(prepared: Prepared, _: ImageSet, folder: Path) -> Path:
    """`torch.onnx.export` by tracing, then `onnxsim.simplify`."""
    import onnx
    import onnxsim
    import torch

    path = folder / "plain.onnx"
    height, width = prepared.size
    torch.onnx.export(
        prepared.module, (torch.zeros(1, 3, height, width),), str(path),
        input_names=[INPUT], output_names=["logits"], opset_version=OPSET, dynamo=False,
    )  # fmt: skip
    simplified, good = onnxsim.simplify(onnx.load(path))
    if not good:
        raise RuntimeError("onnxsim says that its own result differs")
    onnx.save(simplified, path)
    return path


def make_ort_static(_: Prepared, calibration: ImageSet, folder: Path) -> Path:
    """`quant_pre_process`, then `quantize_static`, as the documentation of ONNX Runtime shows it."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the vendor has no types
        def __init__(self) -> None:
            self.feeds = _feeds(calibration)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    plain, ready, path = (folder / name for name in ("plain.onnx", "ready.onnx", "ort_static.onnx"))
    quant_pre_process(str(plain), str(ready))
    quantize_static(str(ready), str(path), Reader())
    return path


def make_nncf(_: Prepared, calibration: ImageSet, folder: Path) -> Path:
    """`nncf.quantize` on the ONNX model."""
    import nncf
    import onnx

    path = folder / "nncf.onnx"
    dataset = nncf.Dataset(list(range(len(calibration))), lambda index: {INPUT: calibration.input(index)})
    model = onnx.load(folder / "plain.onnx")
    onnx.save(nncf.quantize(model, dataset, subset_size=len(calibration)), path)
    return path


def _feeds(images: ImageSet) -> Iterator[dict[str, np.ndarray]]:
    for index in range(len(images)):
        yield {INPUT: images.input(index)}


MAKERS: dict[str, Callable[[Prepared, ImageSet, Path], Path]] = {
    "torch": make_torch,
    "onnxsim": make_onnxsim,
    "ort_static": make_ort_static,
    "nncf": make_nncf,
}
"""By name, in the order they must run: the quantizers start from the plain export."""
