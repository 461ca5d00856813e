from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.graphs import metadata
from mscsa_deploy.graphs.check import to_bytes
from mscsa_deploy.graphs.metadata import ModelInfo

if TYPE_CHECKING:
    from pathlib import Path

INFO = ModelInfo(
    name="topformer_t_mscsa",
    task="seg",
    output="classmap",
    precision="fp16",
    stride=1,
    source_sha256="ab" * 32,
    random_weights=7,
    preprocess={"height": 64, "width": 96, "mean": [0.5, 0.5, 0.5]},
    labels=("background", "Tür"),
    palette=((0, 0, 0), (255, 0, 10)),
    tools={"mscsa_deploy": "1.0", "torch": "2.13"},
)


def parse() -> ir.Model:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
    return ir.from_proto(onnx.parser.parse_model(text))


def test_info_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(to_bytes(parse()))
    assert metadata.read_info(path) is None

    metadata.write_info(path, INFO)

    assert metadata.read_info(path) == INFO
    onnx.checker.check_model(path)


def test_info_defaults_survive() -> None:
    model = parse()
    info = ModelInfo(name="m", task="cls")
    metadata.set_info(model, info)
    assert metadata.info_of(model, source="m") == info


def test_name_that_looks_like_json_stays_text() -> None:
    model = parse()
    info = ModelInfo(name="12", task="cls", source_sha256="0")
    metadata.set_info(model, info)
    assert metadata.info_of(model, source="m") == info


def test_set_info_clears_what_exporters_leave() -> None:
    model = parse()
    secret = "/home/somebody/train.py"
    model.doc_string = model.graph.doc_string = secret
    model.metadata_props["source"] = secret
    model.graph.metadata_props["stack"] = secret
    node = model.graph.node(0)
    node.doc_string = secret
    node.metadata_props["pkg.torch.onnx.stack_trace"] = secret
    node.outputs[0].metadata_props["where"] = secret
    model.graph.inputs[0].doc_string = secret
    model.domain = secret
    proto = ir.to_proto(model)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "w"))
    proto.graph.initializer[0].doc_string = secret
    model = ir.from_proto(proto)
    model.producer_name = secret

    metadata.set_info(model, INFO)

    assert b"somebody" not in to_bytes(model)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), np.ones(3, np.float32))


def test_info_of_names_a_damaged_entry() -> None:
    model = parse()
    metadata.set_info(model, INFO)
    model.metadata_props["mscsa_deploy.stride"] = "eight"
    with pytest.raises(UserError, match=r"m\.onnx.*stride"):
        metadata.info_of(model, source="m.onnx")


def test_info_of_names_an_unknown_entry() -> None:
    model = parse()
    metadata.set_info(model, INFO)
    model.metadata_props["mscsa_deploy.strides"] = "8"
    with pytest.raises(UserError, match="strides"):
        metadata.info_of(model, source="m.onnx")


def test_same_info_gives_the_same_bytes() -> None:
    first, second = parse(), parse()
    metadata.set_info(first, INFO)
    metadata.set_info(second, INFO)
    metadata.set_info(second, INFO)
    assert to_bytes(first) == to_bytes(second)
