"""Standard output and error that outlive their reader and their encoding, so that neither spoils an exit code."""

from __future__ import annotations

import io
import os
import sys


class _Patient(io.TextIOWrapper):
    """A text stream on a pipe; once its reader has gone (`| head -1`), what is written goes nowhere."""

    def write(self, text: str, /) -> int:
        """Write as any text stream does."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        """Flush as any text stream does."""
        try:
            super().flush()
        except BrokenPipeError:
            self._let_go()

    def _let_go(self) -> None:
        # What still is in the buffer goes there as well, at the latest when the process ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def make_patient() -> None:
    """Let this process finish its work, and say by its exit code how it went, whoever stops reading.

    A letter that the encoding has no place for, as in a file's name, is written as its number.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream.isatty():
            stream.reconfigure(errors="backslashreplace")
            continue
        encoding, by_line, at_once = stream.encoding, stream.line_buffering, stream.write_through
        patient = _Patient(stream.detach(), encoding, "backslashreplace", None, by_line, at_once)
        setattr(sys, name, patient)
