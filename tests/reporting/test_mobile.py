"""What a report says of a file for phones: who it is for, and to what its numbers were held."""

from __future__ import annotations

import msgspec

from mscsa_deploy.core.phones import MobileModel
from mscsa_deploy.core.report import Report
from mscsa_deploy.reporting.mobile import mobile_tables

MODEL = MobileModel(
    artifact="model.onnx", precision="fp32", path="mobile/model.ort", size_bytes=7_060_000, max_abs_over_range=2.5e-7
)


def lead(model):
    (table,) = mobile_tables(Report(mobile=(model,)))
    return table.lead


def test_file_for_the_processor_is_equal_to_the_artefact_bit_by_bit():
    assert "equal to it bit by bit" in lead(MODEL)


def test_file_for_accelerators_is_near_the_artefact():
    text = lead(msgspec.structs.replace(MODEL, made_for="accelerators"))
    assert "operators that accelerators have" in text
    assert "2.5e-07 of the range" in text
    assert "bit by bit" not in text
