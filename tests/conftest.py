"""What every test needs: the command line may set up logging, and the next test must not see it."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def own_logging():
    """Put the package's logger back as it was."""
    logger = logging.getLogger("mscsa_deploy")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before
