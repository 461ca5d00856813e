"""Bringing ONNX files from elsewhere to the opset that the rest of the package works on."""

from __future__ import annotations

import logging

import onnx
import onnx_ir as ir

from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.graphs.check import STANDARD_DOMAINS, signature

logger = logging.getLogger(__name__)

OLDEST_OPSET = 11
DEFAULT_OPSET = 18


def opset_of(model: ir.Model) -> int:
    """The version of ai.onnx that the model imports.

    Raises:
        UserError: It imports none.
    """
    for domain in STANDARD_DOMAINS:
        if (version := model.opset_imports.get(domain)) is not None:
            return int(version)
    raise UserError("the model imports no version of ai.onnx", hint="export it again with opset 18")


def raise_opset(model: ir.Model, target: int = DEFAULT_OPSET, *, subject: str) -> ir.Model:
    """The model at opset `target`, or as it is where it is already there or beyond.

    Args:
        model: With its weights inside; unchanged.
        target: The opset wanted.
        subject: Names the model in errors.

    Raises:
        UserError: Its opset is older than 11, from where conversions are trustworthy.
        StageError: The converter failed, left an invalid graph or changed the signature.
    """
    found = opset_of(model)
    if found < OLDEST_OPSET:
        raise UserError(
            f"{subject} has opset {found}, expected at least {OLDEST_OPSET}",
            hint=f"export it again with opset {DEFAULT_OPSET}",
        )
    if found >= target:
        return model
    logger.info("%s: converting opset %d to %d", subject, found, target)
    before = ir.to_proto(model)
    try:
        after = onnx.version_converter.convert_version(before, target)
        onnx.checker.check_model(after, full_check=True)
    # The converter is C++ and reports what it cannot do as RuntimeError.
    except (
        RuntimeError,
        onnx.version_converter.ConvertError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        hint = f"export it again with opset {target}"
        raise StageError("convert opset", subject, f"from {found} to {target}: {error}", hint=hint) from error
    raised = ir.from_proto(after)
    if signature(raised) != signature(model):
        raise StageError("convert opset", subject, "the converter changed the inputs or outputs")
    return raised
