"""The parity of two outputs in one call."""

from __future__ import annotations

from mscsa_deploy.parity.compare import Comparator, Parity


def compare(reference, candidate) -> Parity:
    comparator = Comparator()
    comparator.add(reference, candidate)
    return comparator.result()
