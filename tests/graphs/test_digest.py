from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mscsa_deploy.graphs.digest import Digest

TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[1,4] x) => (float[1,4] y) <float[4] w = {1, 2, 3, 4}> { [one] a = Mul (x, w)  [two] y = Elu <alpha = 0.5> (a) }
"""


def parse() -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(TEXT))


def nodes(model: ir.Model) -> dict[str, ir.Node]:
    return {node.name: node for node in model.graph}


def new_weight(model: ir.Model) -> None:
    model.graph.initializers["w"].const_value = ir.tensor(np.array([1, 2, 3, 5], np.float32), name="w")


EDITS = {
    "op": lambda model: setattr(nodes(model)["two"], "op_type", "Celu"),
    "name": lambda model: setattr(nodes(model)["two"], "name", "three"),
    "attribute": lambda model: nodes(model)["two"].attributes.add(ir.AttrFloat32("alpha", 0.25)),
    "edge": lambda model: nodes(model)["two"].replace_input_with(0, model.graph.inputs[0]),
    "weight": new_weight,
    "inner_type": lambda model: setattr(nodes(model)["one"].outputs[0], "dtype", ir.DataType.FLOAT),
    "output_shape": lambda model: setattr(model.graph.outputs[0], "shape", ir.Shape(["n", 4])),
    "opset": lambda model: model.graph.opset_imports.update({"": 17}),
    "metadata": lambda model: model.metadata_props.update({"key": "value"}),
    "doc_string": lambda model: setattr(model.graph, "doc_string", "words"),
}


@pytest.mark.parametrize("name", EDITS)
def test_digest_sees_a_change(name: str) -> None:
    model, digests = parse(), Digest()
    before = digests.of(model)
    EDITS[name](model)
    assert digests.of(model) != before


def test_digest_of_equal_models_is_equal() -> None:
    assert Digest().of(parse()) == Digest().of(parse())


def test_digest_reads_a_weight_once(monkeypatch) -> None:
    model, digests = parse(), Digest()
    first = digests.of(model)
    tensor = model.graph.initializers["w"].const_value

    def read_again(_: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr(type(tensor), "tobytes", read_again)
    assert digests.of(model) == first
