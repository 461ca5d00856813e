from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import pytest

from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.graphs import check

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[1,4] x) => (float[1,4] y) { a = Relu(x)  y = Relu(a) }
"""
FOREIGN = """
<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>
g (float[1,4] x) => (float[1,4] y) { y = com.microsoft.Gelu(x) }
"""
IN_BRANCH = """
<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>
g (bool c, float[4] x) => (float[4] y) {
    y = If (c) <
        then_branch = t () => (float[4] p) { p = com.microsoft.Gelu(x) },
        else_branch = e () => (float[4] q) { q = Relu(x) }
    >
}
"""
DYNAMIC = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }
"""


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def test_op_histogram_counts_and_names_foreign_ops() -> None:
    assert check.op_histogram(parse(PLAIN)) == {"Relu": 2}
    assert check.op_histogram(parse(FOREIGN)) == {"com.microsoft::Gelu": 1}


def test_foreign_ops_finds_those_in_branches() -> None:
    assert check.foreign_ops(parse(IN_BRANCH)) == ("com.microsoft::Gelu",)


def test_require_standard_names_the_op() -> None:
    check.require_standard(parse(PLAIN), subject="it")
    with pytest.raises(StageError, match=r"com\.microsoft::Gelu"):
        check.require_standard(parse(FOREIGN), subject="it")


def test_require_standard_refuses_an_unused_foreign_opset() -> None:
    model = parse(PLAIN)
    model.graph.opset_imports["com.microsoft"] = 1
    with pytest.raises(StageError, match=r"opsets outside ai\.onnx: com\.microsoft"):
        check.require_standard(model, subject="it")


def test_signature_gives_specs_with_free_axes_as_minus_one() -> None:
    assert check.signature(parse(DYNAMIC)) == (
        (TensorSpec("x", "float32", (-1, 4)),),
        (TensorSpec("y", "float32", (-1, 4)),),
    )


def test_require_static_allows_a_free_batch_only_when_asked() -> None:
    check.require_static(parse(PLAIN), subject="it")
    check.require_static(parse(DYNAMIC), subject="it", dynamic_batch=True)
    with pytest.raises(UserError, match=r"'x' has shape \[-1, 4\]"):
        check.require_static(parse(DYNAMIC), subject="it")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not onnx at all, just text", id="text"),
        pytest.param(onnx.parser.parse_model(PLAIN).SerializeToString()[:40], id="truncated"),
    ],
)
def test_read_model_refuses_what_is_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx"):
        check.read_model(path)


def test_read_model_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        check.read_model(tmp_path / "none.onnx")


def test_to_bytes_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    model = parse(PLAIN)
    path = tmp_path / "model.onnx"
    path.write_bytes(check.to_bytes(model))
    assert check.fingerprint(check.read_model(path)) == check.fingerprint(model)
