"""What really ran, read back by another process than the one that measures."""

from __future__ import annotations

import msgspec
import pytest

from mscsa_deploy.errors import StageError
from mscsa_deploy.timing.executed import executed_apart
from mscsa_deploy.timing.inputs import write_random_inputs
from mscsa_deploy.timing.plan import RowSpec


def test_another_process_tells_what_ran_or_why_not(write_segmenter, tmp_path):
    model = write_segmenter(tmp_path)
    inputs = write_random_inputs(tmp_path / "inputs.npz", model.inputs)
    spec = RowSpec(group="g", runtime="onnxruntime", precision="fp32", path=str(model.path), core=inputs)
    assert executed_apart(spec) == "fp32"
    gone = msgspec.structs.replace(spec, path=str(tmp_path / "gone.onnx"))
    with pytest.raises(StageError, match=r"gone\.onnx"):
        executed_apart(gone)
