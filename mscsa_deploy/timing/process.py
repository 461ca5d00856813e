"""The measuring side of one worker: start it, ask it, and be sure that it is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TypeVar

import msgspec

import mscsa_deploy
from mscsa_deploy.errors import DeployError
from mscsa_deploy.timing import messages

R = TypeVar("R", messages.Loaded, messages.Warmed, messages.Block, messages.Profiled)

EXIT_GRACE_SECONDS = 5.0
NOISE_KEPT_BYTES = 2000


class RowError(DeployError):
    """A worker could not do what it was asked; becomes the row's status and reason, never leaves `timing`."""

    def __init__(self, kind: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.failure_kind = kind


class Worker:
    """One measuring process, from start to certain end.

    Args:
        threads: Compute threads of the row; caps the pools of NumPy and OpenMP in the process too.
        command: What to start; the default is this package's worker under this interpreter.
    """

    def __init__(self, *, threads: int = 1, command: tuple[str, ...] = ()) -> None:
        self._noise: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
            command or (sys.executable, "-m", "mscsa_deploy.timing.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            env=worker_environment(threads),
            # Ctrl-C reaches the parent only, which then ends the workers itself.
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, command: messages.Command, reply: type[R], *, timeout_seconds: float) -> R:
        """Send `command` and wait for its `reply`.

        Raises:
            RowError: The worker answered with a failure, ended, hung (it is killed then) or sent nonsense.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(messages.encode(command) + b"\n")
            self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=timeout_seconds)
        except queue.Empty:
            self.kill()
            raise RowError("timeout", f"no answer within {timeout_seconds:.0f} s, so the process was killed") from None
        if not line:
            raise RowError("crash", self._last_words())
        try:
            answer = messages.decode_reply(line)
        except msgspec.DecodeError as error:
            self.kill()
            raise RowError("crash", f"the worker sent something else than a reply: {error}") from error
        if isinstance(answer, messages.Failure):
            raise RowError(answer.kind, answer.message, hint=answer.hint)
        assert isinstance(answer, reply)
        return answer

    def kill(self) -> None:
        """End the process and what it started, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the process; closing twice is allowed."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=EXIT_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._listener.join(timeout=EXIT_GRACE_SECONDS)
        self._noise.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as replies:
            for line in replies:
                self._lines.put(line)
        self._lines.put(b"")

    def _last_words(self) -> str:
        code = self._process.wait()
        size = self._noise.seek(0, os.SEEK_END)
        self._noise.seek(max(size - NOISE_KEPT_BYTES, 0))
        lines = self._noise.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1].strip()}" if lines else ""
        if code == -signal.SIGKILL:
            return f"the process was killed, most likely for lack of memory{said}"
        if code < 0:
            return f"the process died of {signal.Signals(-code).name}{said}"
        return f"the process ended by itself with status {code}{said}"


def worker_environment(threads: int) -> dict[str, str]:
    """Our environment, with this package importable and thread pools capped to the row's threads."""
    root = str(Path(mscsa_deploy.__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH")
    caps = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **caps, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root}
