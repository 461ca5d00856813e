"""Why a row is as fast as it is, in words beside its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mscsa_deploy.core.environment import Environment
    from mscsa_deploy.core.report import Row


def with_explanations(rows: Sequence[Row], environment: Environment, *, reduced_only: bool = False) -> list[Row]:
    """The rows with a profile, put into words next to the FP32 row of their runtime.

    Args:
        rows: Of one report.
        environment: The machine they ran on.
        reduced_only: Leave FP32 rows as they are.
    """
    from mscsa_deploy.timing.explain import explain, profile_of

    explained = []
    for row in rows:
        if profile_of(row) is None or (reduced_only and row.precision == "fp32"):
            explained.append(row)
            continue
        reference = next((other for other in rows if _is_reference(other, row)), None)
        words = explain(row, reference, arch=environment.arch, isa=environment.isa)
        explained.append(msgspec.structs.replace(row, explanation=words))
    return explained


def _is_reference(other: Row, row: Row) -> bool:
    same = ("runtime", "boundary", "mode", "threads", "batch", "input_size", "streams")
    plain = other.details.get("role") == "fp32" and other.details.get("group") == row.details.get("group")
    return plain and other is not row and all(getattr(other, name) == getattr(row, name) for name in same)
