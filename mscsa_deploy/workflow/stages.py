"""Named stages of a job: timed, recorded for the report, and told to whoever watches."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import StageRecord
from mscsa_deploy.errors import DeployError

logger = logging.getLogger(__name__)


@dataclass
class StageNote:
    """What a running stage may say about itself for the report."""

    detail: str = ""


@dataclass
class Stages:
    """Runs stages one after the other and keeps a record of each.

    Args:
        progress: Told the stage's name when it starts; stages hand it on to what they call.
    """

    progress: Progress = silent
    records: list[StageRecord] = field(default_factory=list)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[StageNote]:
        """Time the block as stage `name`; an error is recorded and goes on its way."""
        note = StageNote()
        self.progress(0, 1, name)
        begin = time.perf_counter()
        try:
            yield note
        except DeployError as error:
            self._record(name, begin, ok=False, detail=error.message)
            raise
        self._record(name, begin, ok=True, detail=note.detail)

    def _record(self, name: str, begin: float, *, ok: bool, detail: str) -> None:
        seconds = round(time.perf_counter() - begin, 3)
        logger.info("%s: %.1f s %s", name, seconds, detail)
        self.records.append(StageRecord(name=name, seconds=seconds, status="ok" if ok else "failed", detail=detail))
