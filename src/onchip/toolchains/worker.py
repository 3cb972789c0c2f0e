"""Run an SDK in a process of its own, and turn whatever becomes of it into a result or one error.

SDKs crash, abort, call exit(), hang, take all memory, and print a lot. None of that reaches onchip:
the worker has its own environment, folder and session, and what it prints goes to a log.
"""

import os
import queue
import re
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any
from weakref import WeakSet

from onchip.closing import Closing
from onchip.errors import ToolError
from onchip.progress import Progress, silent
from onchip.toolchains import install
from onchip.toolchains.inside import wire
from onchip.toolchains.install import Environment

LOG = "worker.log"
LONG = 3600.0  # seconds that one call may take
MOST_LOG = 256 << 10  # bytes of a log that are kept
MOST_PRINTED = 1 << 30  # bytes on the disk, after which it counts as hung
MOST_LINE = 500  # characters of an error
GRACE = 5.0  # seconds for a worker without a pipe to end by itself
POLL = 0.2  # seconds between looks at a silent worker


_running: "WeakSet[Worker]" = WeakSet()


def end_all() -> None:
    """End every worker of this process, whichever thread waits for it."""
    for worker in list(_running):
        worker.close()


class Worker(Closing):
    """An SDK at work in its own environment. Close it when done.

    Args:
        environment: the SDK's environment.
        module: which calls to serve: a module in `inside`, or a Python file with a class `Calls`.
        name: the SDK, for errors.
        memory_mb: the most memory it may take; 0 is no limit.
        settings: more environment variables.

    Raises:
        ToolError: it does not start.
    """

    def __init__(
        self,
        environment: Environment,
        module: str | Path,
        name: str,
        *,
        memory_mb: int = 0,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.seconds = 0.0  # spent in calls
        self._memory_mb = memory_mb
        self._environment = environment
        self._killed = self._closed = False
        # the SDK splits paths at spaces
        place = None if " " not in tempfile.gettempdir() else "/tmp"  # noqa: S108
        # what an escaped process still writes there must not hide why the SDK failed
        self._folder = tempfile.TemporaryDirectory(
            prefix="onchip-", dir=place, ignore_cleanup_errors=True
        )
        self.folder = Path(self._folder.name)
        served = str(module.absolute()) if isinstance(module, Path) else module
        place_of_inside = str(Path(__file__).parent)
        start = (
            f"import sys; sys.path.insert(0, {place_of_inside!r}); "
            f"from inside.serve import main; sys.path.remove({place_of_inside!r}); "
            f"main({served!r}, {str(self.folder)!r})"
        )
        self._process = self._started([str(environment.python), "-u", "-c", start], settings or {})
        self._answers: queue.Queue[wire.Message | None] = queue.Queue()
        self._reader = Thread(target=self._listen, daemon=True)
        self._reader.start()
        self._writer = Thread()
        _running.add(self)

    def _started(self, command: list[str], settings: dict[str, str]) -> "subprocess.Popen[bytes]":
        with (self.folder / LOG).open("wb") as log:
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.folder,
                    env=install.settings() | settings,
                    start_new_session=True,  # Ctrl-C is ours to handle
                )
            except OSError as error:
                self._folder.cleanup()
                raise ToolError(
                    f"{self.name} does not start: {error}", f"mend it: {self._environment.mend}"
                ) from error

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            try:
                while True:
                    self._answers.put(wire.receive(pipe))  # type: ignore[arg-type]
            except (wire.Closed, OSError):
                self._answers.put(None)

    def call(
        self,
        verb: str,
        *,
        limit: float = LONG,
        progress: Progress = silent,
        **options: Any,
    ) -> Any:
        """Run one verb and return its result.

        Args:
            verb: a method of the module's `Calls`.
            limit: seconds after which it counts as hung.
            progress: is told how far it is.
            options: the method's arguments.

        Raises:
            ToolError: it failed, crashed, hung, or took too much memory. The worker is closed.
        """
        if self._closed:
            raise ToolError(f"{self.name} has ended: it cannot {verb} any more")
        packed = wire.pack(wire.Call(verb, options))
        started = time.monotonic()
        # in a thread, for a worker that hangs does not read
        self._writer = Thread(target=self._send, args=(packed,), daemon=True)
        self._writer.start()
        try:
            return self._result(verb, started, limit, progress)
        except BaseException:
            self.close()
            raise
        finally:
            self.seconds += time.monotonic() - started

    def _send(self, packed: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(wire.Closed):  # it is gone: `_result` reads what it left
            wire.write(self._process.stdin, packed)  # type: ignore[arg-type]

    def _result(self, verb: str, started: float, limit: float, progress: Progress) -> Any:
        gone = False
        while True:
            self._check(verb, started, limit)
            try:
                answer = self._answers.get(timeout=POLL)
            except queue.Empty:
                if not gone:
                    gone = self._exit_code(0) is not None
                    continue
                answer = None  # a process that escaped keeps the pipe open
            match answer:
                case wire.Progress(what, done, total):
                    progress(what, done, total)
                case wire.Result(value):
                    return value
                case wire.Failure("start", message):
                    why = f"it does not start: {_told(self.log, 'start', message)}"
                    raise self._failed(verb, why, f"mend it: {self._environment.mend}")
                case wire.Failure(kind, message):
                    raise self._failed(verb, _told(self.log, kind, message))
                case _:
                    raise self._failed(verb, self._death())

    def _check(self, verb: str, started: float, limit: float) -> None:
        if time.monotonic() - started > limit:
            raise self._failed(verb, f"it hung: no result after {limit:.0f} s")
        if self._memory_mb and (taken := _memory_mb(self._process.pid)) > self._memory_mb:
            raise self._failed(verb, f"it took {taken} MB of memory; {self._memory_mb} are allowed")
        if _size(self.folder / LOG) > MOST_PRINTED:
            raise self._failed(verb, f"it hung: it printed more than {MOST_PRINTED >> 20} MB")

    def _death(self) -> str:
        code = self._exit_code(GRACE)
        if code is None:
            return "it closed its pipe, or wrote over it"
        said = "" if code == -signal.SIGKILL else _last_words(self.log)
        return _joined(ended(code), said)

    def _exit_code(self, wait: float) -> int | None:
        """Return how it ended, with all that it started; None where it still runs."""
        try:
            code = self._process.wait(wait)
        except subprocess.TimeoutExpired:
            return None
        self._kill()
        return code

    def _kill(self) -> None:
        """Kill it and what it started; once, for later the number may be another's."""
        if not self._killed:
            self._killed = True
            with suppress(ProcessLookupError, PermissionError):  # all are dead already
                os.killpg(self._process.pid, signal.SIGKILL)

    def _failed(self, verb: str, why: str, hint: str = "") -> ToolError:
        full = "No space left on device" in why
        room = f"make room in {self.folder.parent}, or set TMPDIR to a folder elsewhere"
        error = ToolError(f"{self.name} failed in {verb}: {why}", room if full else hint)
        error.log = self.log
        return error

    @property
    def log(self) -> str:
        """What the SDK printed: without colours, and of progress bars only the last state."""
        try:
            return printed(self.folder / LOG)
        except OSError:
            return ""  # it was closed, and the log went with its folder

    def close(self) -> None:
        """End the worker and everything it started, and remove its folder."""
        self._closed = True
        _running.discard(self)
        self._kill()
        self._process.wait()
        if self._writer.ident is not None:
            self._writer.join(1)
        self._reader.join(1)
        pipe = self._process.stdin
        # a pipe whose other end a process that escaped still holds is left to that thread
        if pipe is not None and not self._writer.is_alive():
            with suppress(OSError):  # what was not sent is not wanted any more
                pipe.close()
        self._folder.cleanup()


def ended(code: int) -> str:
    """Say how a program ended that failed, by its exit code."""
    if code == -signal.SIGKILL:
        return "it was killed; most often this machine ran out of memory"
    return f"it died of {_signal(-code)}" if code < 0 else f"it left with exit code {code}"


def printed(log: Path) -> str:
    """Return what a log holds, or its last part where it is long; OSError where it is gone."""
    with log.open("rb") as file:
        file.seek(max(0, _size(log) - 8 * MOST_LOG))
        return readable(file.read(8 * MOST_LOG))


# what moves a terminal's cursor or sets its colours or title, and other characters without a face
_UNSEEN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f]"
)


def readable(data: bytes) -> str:
    r"""Return a log without colours, and of each progress bar only what it showed last.

    >>> readable(b"\x1b[1;33mW\x1b[0m low\n 1%\r 99%\r\nend")
    'W low\n 99%\nend'
    """
    text = data[-8 * MOST_LOG :].decode(errors="replace")
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return _UNSEEN.sub("", "\n".join(lines))[-MOST_LOG:]


def _told(log: str, kind: str, message: str) -> str:
    """Return the one line that says best what went wrong.

    The SDKs' own errors are their whole traceback; its last line, or else the log's last error
    line, is the part that helps.
    """
    lines = _lines(message)
    last = re.sub(r"^[EWI] \w+: +", "", lines[-1])[:MOST_LINE] if lines else ""
    if kind == "exit":
        return _joined(last, _error_line(log))
    if not last or "see the log" in last:
        return _error_line(log) or last or kind
    return last if kind in ("ValueError", "RuntimeError", "start") else f"{kind}: {last}"


def _joined(what: str, why: str) -> str:
    return f"{what}; {why}" if why else what


def _lines(text: str) -> list[str]:
    return [x.strip() for x in readable(text.encode()).splitlines() if x.strip()]


def _error_line(log: str) -> str:
    errors = [x for x in _lines(log) if re.match(r"E( |:)", x)]
    return errors[-1][:MOST_LINE] if errors else ""


def _last_words(log: str) -> str:
    lines = _lines(log)
    return _error_line(log) or (lines[-1][:MOST_LINE] if lines else "")


def _signal(number: int) -> str:
    names = {s.value: s.name for s in signal.Signals}
    return names.get(number, f"signal {number}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the SDK may remove even its log


def _memory_mb(process: int) -> int:
    """The memory that a process has in use; 0 where this system does not say."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20
