"""Additions and products in float between quantized neighbors, for files that give the same bits on every processor.

ONNX Runtime fuses an Add or Mul with the pairs around it into QLinearAdd and QLinearMul, which round ties on ARM
otherwise than on x86; its other integer kernels round alike (each was run on both). One step of difference in a sum
grows at every quantizer behind it: in TopFormer-T with MSCSA 2 of one sum's 131,072 values became 0.2 to 1 % of the
decisions. No option prevents that fusion alone, so the operators are written in a form that it does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper

from mscsa_deploy.calibration.placement import on_integers

if TYPE_CHECKING:
    import onnx

    from mscsa_deploy.calibration.recipe import CalibrationRecipe


def unfuse(quantized: onnx.ModelProto, recipe: CalibrationRecipe) -> dict[str, str]:
    """Rewrite `quantized` in place so that no addition or product runs on integers.

    An Add becomes a Sum of the same name. A Mul reads one of its inputs through a Sum of that one tensor.

    Returns:
        The nodes that are float because of it: name to reason.
    """
    reasons = {}
    for node in on_integers(quantized, recipe, {"Add", "Mul"}):
        reasons[node.name] = f"ONNX Runtime's integer {node.op_type} rounds differently on x86 and on ARM"
        if node.op_type == "Add":
            node.op_type = "Sum"
            continue
        passed = f"{node.input[0]}_{node.name}_float"
        place = list(quantized.graph.node).index(node)
        quantized.graph.node.insert(place, helper.make_node("Sum", [node.input[0]], [passed], name=passed))
        node.input[0] = passed
    return reasons
