from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.graphs.foreign import adopt
from mscsa_deploy.graphs.metadata import ModelInfo, write_info
from mscsa_deploy.graphs.opset import opset_of

if TYPE_CHECKING:
    from pathlib import Path

PREPROCESS = {"height": 8, "width": 16}
SEG = """
<ir_version: IR, opset_import: ["" : OPSET]>
g (float[1,3,8,16] x) => (float[1,2,4,8] y) <float[2,3,2,2] w = {WEIGHTS}> { y = Conv <strides = [2, 2]> (x, w) }
""".replace("WEIGHTS", ", ".join(["0.5"] * 24))
SEG_18 = SEG.replace("IR", "8").replace("OPSET", "18")


def write(folder: Path, text: str) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def body(inputs: str, outputs: str, nodes: str) -> str:
    return f'<ir_version: 8, opset_import: ["" : 18]> g ({inputs}) => ({outputs}) {{ {nodes} }}'


def test_foreign_file_is_described_by_what_was_told(tmp_path) -> None:
    found = adopt(write(tmp_path, SEG_18), task="seg", preprocess=PREPROCESS)
    assert not found.changed
    assert found.info == ModelInfo(name="net", task="seg", stride=2, preprocess=PREPROCESS)
    assert found.notes == ()


def test_own_file_needs_nothing_told(tmp_path) -> None:
    path = write(tmp_path, SEG_18)
    info = ModelInfo(name="mine", task="seg", stride=2, preprocess=PREPROCESS, labels=("a", "b"))
    write_info(path, info)
    assert adopt(path).info == info


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, r"does not say its task and preprocessing; add --task cls or --task seg and --preprocess FILE\.toml"),
        ({"task": "seg"}, "does not say its preprocessing"),
        ({"preprocess": PREPROCESS}, "does not say its task"),
    ],
)
def test_what_is_not_said_is_asked_for(tmp_path, told, message) -> None:
    with pytest.raises(UserError, match=message):
        adopt(write(tmp_path, SEG_18), **told)


def test_old_opset_is_converted_and_noted(tmp_path) -> None:
    path = write(tmp_path, SEG.replace("IR", "6").replace("OPSET", "11"))
    found = adopt(path, task="seg", preprocess=PREPROCESS, rewrite=True)
    assert opset_of(found.model) == 18
    assert (found.changed, found.notes) == (True, ("converted from opset 11 to 18",))


def test_old_opset_is_left_alone_where_the_file_is_only_run(tmp_path) -> None:
    found = adopt(write(tmp_path, SEG.replace("IR", "6").replace("OPSET", "11")), task="seg", preprocess=PREPROCESS)
    assert opset_of(found.model) == 11
    assert (found.changed, found.notes) == (False, ())


def test_batch_may_be_free_and_pixels_may_be_the_input(tmp_path) -> None:
    nodes = "f = Cast <to = 1> (x) c = Transpose <perm = [0, 3, 1, 2]> (f) "
    nodes += "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)"
    found = adopt(
        write(tmp_path, body("uint8[N,8,16,3] x", "float[N,3,4,8] y", nodes)), task="seg", preprocess=PREPROCESS
    )
    assert (found.inputs[0].shape, found.info.output, found.info.stride) == ((-1, 8, 16, 3), "logits", 2)


def test_weights_listed_as_inputs_are_no_inputs(tmp_path) -> None:
    path = write(tmp_path, SEG_18)
    model = onnx.load(path)
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [2, 3, 2, 2]))
    onnx.save(model, path)
    assert [value.name for value in adopt(path, task="seg", preprocess=PREPROCESS).model.graph.inputs] == ["x"]


def test_ops_of_one_vendor_are_noted(tmp_path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]> '
        "g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = com.microsoft.Gelu(x) }"
    )
    (note,) = adopt(write(tmp_path, text), task="seg", preprocess=PREPROCESS).notes
    assert "com.microsoft::Gelu" in note


@pytest.mark.parametrize(
    ("text", "task", "expected"),
    [
        pytest.param(
            body("float[1,3,8,8] x", "float[1,192] y", "y = Flatten (x)"),
            "cls",
            ("logits", 0),
            id="cls",
        ),
        pytest.param(
            body("float[1,3,8,8] x", "float[1,3,8,8] y", "y = Relu (x)"), "seg", ("logits-full", 1), id="full"
        ),
        pytest.param(
            body("float[1,3,8,8] x", "int64[1,8,8] y", "y = ArgMax <axis = 1, keepdims = 0> (x)"),
            "seg",
            ("classmap", 1),
            id="classmap",
        ),
    ],
)
def test_boundary_is_read_off_the_output(tmp_path, text, task, expected) -> None:
    info = adopt(write(tmp_path, text), task=task, preprocess=PREPROCESS).info
    assert (info.output, info.stride) == expected


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        pytest.param(
            body("float[1,3,8,8] x", "float[1,3,8,8] y", "y = Relu (x)"),
            "cls",
            "expected .N, classes. for cls",
            id="task",
        ),
        pytest.param(
            body("uint8[1,3,8,8] x", "uint8[1,3,8,8] y", "y = Identity (x)"), "seg", "takes x uint8", id="dtype"
        ),
        pytest.param(
            body("float[1,8,8,3] x", "float[1,8,8,3] y", "y = Relu (x)"),
            "seg",
            "expected one image: float32",
            id="layout",
        ),
        pytest.param(
            body("float[1,3,8,8] x, float[1,3,8,8] z", "float[1,3,8,8] y", "y = Add (x, z)"),
            "seg",
            "takes x .* z ",
            id="two",
        ),
        pytest.param(
            body("float[1,3,h,w] x", "float[1,3,h,w] y", "y = Relu (x)"), "seg", "expected static sizes", id="dynamic"
        ),
    ],
)
def test_other_models_are_refused(tmp_path, text, task, message) -> None:
    with pytest.raises(UserError, match=message):
        adopt(write(tmp_path, text), task=task, preprocess=PREPROCESS)


def test_weights_in_constant_nodes_become_initializers(tmp_path) -> None:
    constant = f"w = Constant <value = float[2,3,2,2] {{{', '.join(['0.5'] * 24)}}}> () y = Conv"
    text = body("float[1,3,8,16] x", "float[1,2,4,8] y", f"{constant} <strides = [2, 2]> (x, w)")
    found = adopt(write(tmp_path, text), task="seg", preprocess=PREPROCESS)
    assert list(found.model.graph.initializers) == ["w"]
    assert [node.op_type for node in found.model.graph] == ["Conv"]
    assert found.changed
