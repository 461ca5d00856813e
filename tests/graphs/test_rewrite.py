from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from mscsa_deploy.errors import StageError
from mscsa_deploy.graphs.check import fingerprint
from mscsa_deploy.graphs.rewrite import PassRecord, rewrite

TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[1,4] x) => (float[1,4] y) {
    a = Identity(x)
    b = Relu(a)
    unused = Neg(x)
    y = Sigmoid(b)
}
"""


def parse(text: str = TEXT) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


class _Changes(ir.passes.InPlacePass):
    """Applies `edit` to the model, and claims to have done nothing."""

    def __init__(self, edit) -> None:
        self.edit = edit

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.edit(model)
        return ir.passes.PassResult(model, modified=False)


def node(model: ir.Model, op_type: str) -> ir.Node:
    return next(found for found in model.graph if found.op_type == op_type)


def test_rewrite_records_each_pass_in_order() -> None:
    model = parse()

    records = rewrite(model, [RemoveUnusedNodesPass(), IdentityEliminationPass()])

    assert records == (
        PassRecord("RemoveUnusedNodesPass", 4, 3, changed=True),
        PassRecord("IdentityEliminationPass", 3, 2, changed=True),
    )


def test_rewrite_second_run_changes_nothing() -> None:
    model = parse()
    passes = [RemoveUnusedNodesPass(), IdentityEliminationPass()]
    rewrite(model, passes)
    before = fingerprint(model)

    records = rewrite(model, passes)

    assert not any(record.changed for record in records)
    assert fingerprint(model) == before


def test_rewrite_sees_a_change_the_pass_denies() -> None:
    def soften(model: ir.Model) -> None:
        node(model, "Sigmoid").op_type = "Tanh"

    (record,) = rewrite(parse(), [_Changes(soften)])

    assert record.changed


def test_rewrite_refuses_a_renamed_output() -> None:
    def rename(model: ir.Model) -> None:
        model.graph.outputs[0].name = "z"

    with pytest.raises(StageError, match=r"_Changes.*changed the inputs or outputs"):
        rewrite(parse(), [_Changes(rename)])


def test_rewrite_refuses_a_changed_shape() -> None:
    def reshape(model: ir.Model) -> None:
        model.graph.outputs[0].shape = ir.Shape(["n", 4])

    with pytest.raises(StageError, match="changed the inputs or outputs"):
        rewrite(parse(), [_Changes(reshape)])


def test_rewrite_refuses_an_op_of_another_domain() -> None:
    def foreign(model: ir.Model) -> None:
        model.graph.opset_imports["com.microsoft"] = 1
        node(model, "Relu").domain = "com.microsoft"
        node(model, "Relu").op_type = "Gelu"

    with pytest.raises(StageError, match=r"com\.microsoft::Gelu"):
        rewrite(parse(), [_Changes(foreign)])


def test_rewrite_refuses_an_invalid_graph() -> None:
    def unknown(model: ir.Model) -> None:
        node(model, "Relu").op_type = "NoSuchOp"

    with pytest.raises(StageError, match="invalid graph"):
        rewrite(parse(), [_Changes(unknown)])


def test_rewrite_refuses_a_wrong_inner_type() -> None:
    def retype(model: ir.Model) -> None:
        ints = ir.Value(name="ints", const_value=ir.tensor(np.ones(4, np.int64), name="ints"))
        model.graph.initializers.add(ints)
        node(model, "Sigmoid").replace_input_with(0, ints)

    with pytest.raises(StageError, match="invalid graph"):
        rewrite(parse(), [_Changes(retype)])


def test_rewrite_names_the_pass_that_raised() -> None:
    class Breaks(ir.passes.InPlacePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            return ir.passes.PassResult(model, modified=False)

        def requires(self, model: ir.Model) -> None:  # noqa: ARG002 - the signature of a pass
            raise ir.passes.PreconditionError("needs a Conv")

    with pytest.raises(StageError, match="rewrite failed on Breaks: needs a Conv"):
        rewrite(parse(), [Breaks()])


def test_rewrite_verifies_only_after_a_change() -> None:
    seen: list[str] = []

    def verify(model: bytes, label: str) -> None:
        onnx.load_from_string(model)
        seen.append(label)

    rewrite(parse(), [IdentityEliminationPass(), IdentityEliminationPass()], verify=verify)

    assert seen == ["IdentityEliminationPass"]


def test_rewrite_reports_progress_per_pass() -> None:
    told: list[tuple[int, int, str]] = []

    rewrite(parse(), [RemoveUnusedNodesPass()], progress=lambda *step: told.append(step))

    assert told == [(0, 1, "RemoveUnusedNodesPass")]
