"""Run a vendor's program on files, and turn how it ends into its log or one error.

It has a session of its own, so that whatever ends onchip ends it too, with all that it started. For
an SDK that is called again and again there is a worker.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from onchip.errors import ToolError
from onchip.toolchains.worker import LONG, MOST_LINE, MOST_PRINTED, ended, printed

LOG = "program.log"
POLL = 0.2  # seconds between looks at it


def run(command: Sequence[str], folder: Path, name: str, limit: float = LONG) -> str:
    """Run a program in a folder, and return what it printed.

    Args:
        command: the program and its arguments.
        folder: where it works; its log is written there.
        name: what errors call it.
        limit: seconds after which it counts as hung.

    Raises:
        ToolError: it does not start, fails, crashes or hangs; its log goes with the error.
    """
    log = folder / LOG
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        except OSError as error:
            raise ToolError(f"{name} does not start: {error}") from error
    try:
        code = _waited(process, log, name, limit)
    finally:
        with suppress(ProcessLookupError, PermissionError):  # all are dead already
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code:
        raise _failed(name, ended(code), log)
    return printed(log)


def _waited(process: "subprocess.Popen[bytes]", log: Path, name: str, limit: float) -> int:
    started = time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL)
        if time.monotonic() - started > limit:
            raise _failed(name, f"it hung: no end after {limit:.0f} s", log)
        if log.stat().st_size > MOST_PRINTED:
            raise _failed(name, f"it hung: it printed more than {MOST_PRINTED >> 20} MB", log)


def _failed(name: str, why: str, log: Path) -> ToolError:
    text = printed(log)
    lines = [x.strip() for x in text.splitlines() if x.strip()]
    last = lines[-1][:MOST_LINE] if lines else ""
    error = ToolError(f"{name} failed: {why}" + (f"; {last}" if last else ""))
    error.log = text
    return error
