"""What a row executes in, read back in a process of its own: ``python -m mscsa_deploy.timing.executed``.

A runtime that tells only through its profiler needs a second session for it. In the measuring process, the memory which
that session leaves behind made every later call up to five percent slower, in some processes and not in others.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mscsa_deploy.errors import StageError
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.timing import messages
from mscsa_deploy.timing.plan import RowSpec


def executed_apart(spec: RowSpec) -> str:
    """As `Session.executed_precision`, from a process that ends with it.

    Raises:
        StageError: That process failed.
    """
    command = [sys.executable, "-m", "mscsa_deploy.timing.executed"]
    done = subprocess.run(  # noqa: S603 - our own interpreter and module, no shell
        command, input=messages.encode(messages.Load(spec=spec)), capture_output=True, check=False
    )
    if done.returncode != 0:
        raise StageError("read-back", Path(spec.path).name, done.stderr.decode(errors="replace").strip()[-500:])
    return done.stdout.decode().splitlines()[-1]


def main() -> None:
    """Answer the `Load` on standard input."""
    command = messages.decode_command(sys.stdin.buffer.read())
    assert isinstance(command, messages.Load)
    spec = command.spec
    with RUNTIMES.load(spec.runtime)().load(Path(spec.path), spec.settings()) as session:
        print(session.executed_precision)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
