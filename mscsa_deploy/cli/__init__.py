"""The command line: parse, call a workflow, print, exit code; heavy imports wait until a command runs."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from typing import NoReturn

import click

from mscsa_deploy.cli.app import app
from mscsa_deploy.cli.streams import make_patient
from mscsa_deploy.core.files import CACHE_VARIABLE, NO_ROOM
from mscsa_deploy.errors import DeployError, StageError, UnsupportedError, UserError

INTERRUPTED = 130
TERMINATED = 143
PACKAGES = "pip install 'mscsa-deploy[all]'"
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
STOPPED = "finished work is kept and a rerun goes on from it\n"
ROOM = f"free some space and rerun; {CACHE_VARIABLE} moves what is kept between runs"


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    make_patient()
    # As Ctrl-C does, it ends what was started and clears away what is half done; `serve` has its own way.
    signal.signal(signal.SIGTERM, _terminate)
    code = run(sys.argv[1:])
    if code == TERMINATED:
        # Everything of ours is cleared away. A library that was just starting (Ray) may abort while Python ends.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class _Terminated(BaseException):
    """Somebody asked this process to end."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def run(arguments: list[str]) -> int:  # noqa: PLR0911 - one return per kind of ending
    """Run the command line on `arguments` and return its exit code (the table in `errors`)."""
    as_json = "--json" in arguments
    try:
        code = app.main(args=arguments, prog_name="mscsa-deploy", standalone_mode=False)
    except DeployError as error:
        return _tell(error.kind, error.message, error.hint, error.exit_code, as_json=as_json)
    except click.UsageError as error:
        return _tell("user", error.format_message().rstrip("."), _usage_hint(error), 2, as_json=as_json)
    except click.ClickException as error:
        return _tell("user", error.format_message().rstrip("."), "", 2, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write(f"interrupted; {STOPPED}")
        return INTERRUPTED
    except _Terminated:
        sys.stderr.write(f"terminated; {STOPPED}")
        return TERMINATED
    except Exception as error:  # noqa: BLE001 - the process edge: anything unforeseen is a bug of ours
        known = _of_the_system(error)
        if known is None:
            return _tell_bug(error, as_json=as_json)
        return _tell(known.kind, known.message, known.hint, known.exit_code, as_json=as_json)
    return code if isinstance(code, int) else 0


def _of_the_system(error: Exception) -> DeployError | None:
    """What a refusal of the operating system, or a missing package, means; None if it tells of a bug of ours."""
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != "mscsa_deploy":
        return UnsupportedError(f"this needs the package '{error.name}', which is not installed", hint=PACKAGES)
    if not isinstance(error, OSError):
        return None
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return StageError("write", str(error.filename or "the disk"), reason, hint=ROOM)
    if error.errno in NOT_ALLOWED and error.filename:
        return UserError(f"cannot open '{error.filename}': {reason}", hint="check the path and its permissions")
    return None


def _usage_hint(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else "mscsa-deploy"
    return f"see '{path} --help'"


def _tell(kind: str, message: str, hint: str, code: int, *, as_json: bool) -> int:
    sys.stderr.write(f"error: {message}; {hint}\n" if hint else f"error: {message}\n")
    if as_json:
        document = {"error": {"kind": kind, "message": message, "hint": hint}}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    return code


def _tell_bug(error: Exception, *, as_json: bool) -> int:
    with tempfile.NamedTemporaryFile("w", prefix="mscsa-deploy-", suffix=".log", delete=False, encoding="utf-8") as log:
        traceback.print_exc(file=log)
    logging.getLogger(__name__).debug("unforeseen error", exc_info=error)
    message = f"unforeseen {type(error).__name__}: {error}"
    hint = f"this is a bug of mscsa-deploy; please report it with the file {log.name}"
    return _tell("bug", message, hint, 1, as_json=as_json)
