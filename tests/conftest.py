"""What every test needs: the command line may set up logging, and the next test must not see it."""

from __future__ import annotations

import logging
import os

import pytest

REQUIRED = "MSCSA_DEPLOY_REQUIRE"


@pytest.fixture(autouse=True)
def own_logging():
    """Every test finds the package's logger as Python makes it, whatever ran before."""
    logger = logging.getLogger("mscsa_deploy")
    logger.handlers[:], logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def missing():
    """Skips with a reason, or fails if MSCSA_DEPLOY_REQUIRE counts on the key."""

    def give_up(key, reason):
        if key in os.environ.get(REQUIRED, "").split(","):
            pytest.fail(f"{REQUIRED} counts on {key}, which cannot run: {reason}")
        pytest.skip(f"{key}: {reason}")

    return give_up


@pytest.fixture
def write_segmenter():
    """Writes a network from pictures (1, 3, 16, 24) to logits of five classes at stride 4."""
    import numpy as np
    import onnx
    import onnx_ir as ir

    from mscsa_deploy.core.artifact import Artifact, MadeBy
    from mscsa_deploy.graphs.check import signature, to_bytes
    from mscsa_deploy.graphs.metadata import ModelInfo, set_info

    def write(folder, *, batch="1", opset=18) -> Artifact:
        text = (
            f'<ir_version: 10, opset_import: ["" : {opset}]> g (float[{batch},3,16,24] image) => '
            f"(float[{batch},5,4,6] logits) {{ logits = Conv<strides=[4,4]>(image, w) }}"
        )
        proto = onnx.parser.parse_model(text)
        weight = np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
        model = ir.from_proto(proto)
        set_info(model, ModelInfo(name="topformer_t", task="seg", stride=4))
        path = folder / "model.onnx"
        path.write_bytes(to_bytes(model))
        inputs, outputs = signature(model)
        return Artifact.of(
            path, kind="onnx", precision="fp32", inputs=inputs, outputs=outputs, made_by=MadeBy(stage="export")
        )

    return write
