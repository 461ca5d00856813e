"""What every test needs: the command line may set up logging, and the next test must not see it."""

from __future__ import annotations

import logging
import os

import pytest

REQUIRED = "MSCSA_DEPLOY_REQUIRE"


@pytest.fixture(autouse=True)
def own_logging():
    """Put the package's logger back as it was."""
    logger = logging.getLogger("mscsa_deploy")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def missing():
    """Skips with a reason, or fails if MSCSA_DEPLOY_REQUIRE counts on the key."""

    def give_up(key, reason):
        if key in os.environ.get(REQUIRED, "").split(","):
            pytest.fail(f"{REQUIRED} counts on {key}, which cannot run: {reason}")
        pytest.skip(f"{key}: {reason}")

    return give_up
