from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.graphs.check import op_histogram
from mscsa_deploy.graphs.opset import opset_of, raise_opset

# Squeeze and ReduceSum took their axes as attributes before opset 13, Softmax worked on flattened axes.
OLD = """
<ir_version: 6, opset_import: ["" : 11]>
g (float[1,3,4] x) => (float[1,3] y) {
    a = Softmax <axis = 2> (x)
    b = Unsqueeze <axes = [0]> (a)
    c = Squeeze <axes = [0]> (b)
    y = ReduceSum <axes = [2], keepdims = 0> (c)
}
"""


def parse(text: str = OLD) -> ir.Model:
    model = ir.from_proto(onnx.parser.parse_model(text))
    model.metadata_props["kept"] = "yes"
    return model


def test_raise_opset_keeps_numbers_and_metadata() -> None:
    x = np.random.default_rng(1).standard_normal((1, 3, 4)).astype(np.float32)
    old = parse()
    expected = ReferenceEvaluator(ir.to_proto(old)).run(None, {"x": x})[0]

    new = raise_opset(old, subject="old.onnx")

    assert opset_of(new) == 18
    assert opset_of(old) == 11
    assert new.metadata_props["kept"] == "yes"
    # The same float32 operations in the same order.
    np.testing.assert_allclose(ReferenceEvaluator(ir.to_proto(new)).run(None, {"x": x})[0], expected, rtol=1e-6)


def test_raise_opset_leaves_a_newer_model_alone() -> None:
    model = parse('<ir_version: 10, opset_import: ["" : 20]> g (float[1] x) => (float[1] y) { y = Gelu(x) }')
    assert raise_opset(model, subject="new.onnx") is model
    assert op_histogram(model) == {"Gelu": 1}


def test_raise_opset_refuses_opset_ten() -> None:
    model = parse('<ir_version: 5, opset_import: ["" : 10]> g (float[1] x) => (float[1] y) { y = Relu(x) }')
    with pytest.raises(UserError, match=r"old\.onnx has opset 10, expected at least 11"):
        raise_opset(model, subject="old.onnx")


def test_raise_opset_tells_what_the_converter_could_not_do() -> None:
    text = '<ir_version: 6, opset_import: ["" : 11]> g (float[1] x) => (float[1] y) { y = NoSuchOp(x) }'
    with pytest.raises(StageError, match=r"convert opset failed on bad\.onnx"):
        raise_opset(parse(text), subject="bad.onnx")


def test_opset_of_needs_the_standard_domain() -> None:
    model = parse()
    model.opset_imports.clear()
    with pytest.raises(UserError, match=r"no version of ai\.onnx"):
        opset_of(model)
