"""GELU as one operator.

``gelu(x) = x / 2 * (1 + erf(x / sqrt(2)))`` is traced as Div, Erf, Add, Mul, Mul; from opset 20 on it is the
operator Gelu with ``approximate="none"``, the same function. Exact up to float32 rounding.

The model's opset is raised to 20 when something was fused. That changes no other operator the exporter
writes: what opsets 19 and 20 brought is new types and attributes whose defaults keep the old behavior.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx_ir as ir

from mscsa_deploy.graphs.match import LocalPass, output, producer, replace, scalar_constant, sole_user, source

if TYPE_CHECKING:
    from mscsa_deploy.graphs.build import Builder

GELU_OPSET = 20
OLDEST_OPSET = 18


class FuseGelu(LocalPass):
    """Rewrites the Erf form of GELU as Gelu."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse where the opset allows raising to 20, and raise it."""
        if model.opset_imports.get("", 0) < OLDEST_OPSET:
            return ir.passes.PassResult(model, modified=False)
        result = super().call(model)
        if result.modified:
            model.opset_imports[""] = max(model.opset_imports[""], GELU_OPSET)
        return result

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Match around Erf."""
        if node.op_type != "Erf" or node.domain != "":
            return False
        x = _unscaled(source(node))
        end = _end(node, x) if x is not None else None
        if x is None or end is None:
            return False
        made = b.op("Gelu", x, approximate="none")
        replace(end, made)
        return True


def _unscaled(value: ir.Value) -> ir.Value | None:
    """x, if `value` is x / sqrt(2)."""
    scaled = producer(value, "Div", "Mul")
    if scaled is None or sole_user(value) is None:
        return None
    factor = scalar_constant(scaled.inputs[1])
    wanted = math.sqrt(2) if scaled.op_type == "Div" else 1 / math.sqrt(2)
    return source(scaled) if factor is not None and math.isclose(factor, wanted, rel_tol=1e-6) else None


def _end(erf: ir.Node, x: ir.Value) -> ir.Value | None:
    """The value of x * (1 + erf) / 2, if that is what becomes of `erf`; the two products in any order."""
    add = sole_user(output(erf), "Add")
    if add is None or _other_number(add, output(erf)) != 1.0:
        return None
    value, halved, multiplied = output(add), False, False
    while not (halved and multiplied):
        product = sole_user(value, "Mul")
        if product is None:
            return None
        if x in product.inputs and not multiplied:
            multiplied = True
        elif _other_number(product, value) == 0.5 and not halved:
            halved = True
        else:
            return None
        value = output(product)
    return value


def _other_number(node: ir.Node, value: ir.Value) -> float | None:
    """The number that `node` combines with `value`."""
    return next((scalar_constant(each) for each in node.inputs if each is not value), None)
