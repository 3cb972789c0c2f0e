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
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from onchip.errors import ToolError
from onchip.toolchains.inside import wire
from onchip.toolchains.install import Environment

LOG = "worker.log"
LONG = 3600.0  # seconds that one call may take
MOST_LOG = 256 << 10  # bytes of a log that are kept
POLL = 0.2  # seconds between looks at a silent worker

Progress = Callable[[str, int, int], None]


class Worker:
    """An SDK at work in its own environment. Close it when done.

    Args:
        environment: the SDK's environment.
        module: which calls to serve (a module in `inside`).
        name: the SDK, for errors.
        memory_mb: the most memory it may take; 0 is no limit.
        settings: more environment variables.

    Raises:
        ToolError: it does not start.
    """

    def __init__(
        self,
        environment: Environment,
        module: str,
        name: str,
        *,
        memory_mb: int = 0,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.seconds = 0.0  # spent in calls
        self._memory_mb = memory_mb
        # the SDK splits paths at spaces
        place = None if " " not in tempfile.gettempdir() else "/tmp"  # noqa: S108
        self._folder = tempfile.TemporaryDirectory(prefix="onchip-", dir=place)
        self.folder = Path(self._folder.name)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        start = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
            f"from inside.serve import main; main({module!r})"
        )
        with (self.folder / LOG).open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [str(environment.python), "-u", "-c", start],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.folder,
                    env=kept | (settings or {}),
                    start_new_session=True,  # Ctrl-C is ours to handle
                )
            except OSError as error:
                self._folder.cleanup()
                raise ToolError(f"{name} does not start: {error}") from error
        self._answers: queue.Queue[wire.Message | None] = queue.Queue()
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                self._answers.put(wire.receive(self._process.stdout))  # type: ignore[arg-type]
        except (wire.Closed, OSError, ValueError):
            self._answers.put(None)

    def call(
        self,
        verb: str,
        *,
        limit: float = LONG,
        progress: Progress = lambda what, done, total: None,
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
        started = time.monotonic()
        try:
            assert self._process.stdin is not None
            wire.send(self._process.stdin, wire.Call(verb, options))  # type: ignore[arg-type]
        except (wire.Closed, OSError):
            pass  # it is gone: what it left is read below
        try:
            return self._result(verb, started, limit, progress)
        except BaseException:
            self.close()
            raise
        finally:
            self.seconds += time.monotonic() - started

    def _result(self, verb: str, started: float, limit: float, progress: Progress) -> Any:
        while True:
            try:
                answer = self._answers.get(timeout=POLL)
            except queue.Empty:
                self._check(verb, started, limit)
                continue
            match answer:
                case wire.Progress(what, done, total):
                    progress(what, done, total)
                case wire.Result(value):
                    return value
                case wire.Failure(kind, message):
                    raise self._failed(verb, _told(self.log, kind, message))
                case _:
                    raise self._failed(verb, self._death())

    def _check(self, verb: str, started: float, limit: float) -> None:
        if time.monotonic() - started > limit:
            raise self._failed(verb, f"it hung: no result after {limit:.0f} s")
        if self._memory_mb and (taken := _memory_mb(self._process.pid)) > self._memory_mb:
            raise self._failed(verb, f"it took {taken} MB of memory; {self._memory_mb} are allowed")

    def _death(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        if code == -signal.SIGKILL:
            return "it was killed; most often this machine ran out of memory"
        if code < 0:
            last = _told(self.log, "", "")
            return f"it died of {signal.Signals(-code).name}" + (f"; {last}" if last else "")
        return f"it left with exit code {code}; {_told(self.log, '', '')}"

    def _failed(self, verb: str, why: str) -> ToolError:
        error = ToolError(f"{self.name} failed in {verb}: {why}")
        error.log = self.log
        return error

    @property
    def log(self) -> str:
        """What the SDK printed: without colours, and of progress bars only the last state."""
        try:
            data = (self.folder / LOG).read_bytes()
        except OSError:
            return ""
        return readable(data)

    def close(self) -> None:
        """End the worker and everything it started, and remove its folder."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def readable(data: bytes) -> str:
    r"""Return a log without colours, and of each progress bar only what it showed last.

    >>> readable(b"\x1b[1;33mW\x1b[0m low\n 1%\r 99%\r\nend")
    'W low\n 99%\nend'
    """
    text = _COLOUR.sub("", data[-8 * MOST_LOG :].decode(errors="replace"))
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return "\n".join(lines)[-MOST_LOG:]


def _told(log: str, kind: str, message: str) -> str:
    """Return the one line that says best what went wrong.

    The SDKs' own errors are their whole traceback; its last line, or else the log's last error
    line, is the part that helps.
    """
    lines = [x.strip() for x in message.strip().splitlines() if x.strip()]
    if lines and "see the log" not in lines[-1]:
        line = re.sub(r"^[EWI] \w+: +", "", lines[-1])
        return line if kind in ("ValueError", "RuntimeError", "exit", "") else f"{kind}: {line}"
    errors = [x for x in log.splitlines() if re.match(r"\s*E( |:)", x)]
    return errors[-1].strip() if errors else (lines[-1] if lines else "")


def _memory_mb(process: int) -> int:
    """The memory that a process has in use; 0 where this system does not say."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20
