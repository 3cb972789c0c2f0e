"""Results on stdout, progress and failures on stderr."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from onchip.errors import OnchipError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def print_text(text: str) -> None:
    """Print a result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(data: Mapping[str, object]) -> None:
    """Print one JSON object on one line."""
    print_text(msgspec.json.encode(data).decode())


def as_error(error: OnchipError) -> dict[str, str]:
    """Return an error as --json says it."""
    return {"code": error.code, "message": str(error), "hint": error.hint}


def print_error(error: OnchipError, as_json: bool) -> None:
    """Say what happened and what to do; as JSON on stdout where that was asked for."""
    if as_json:
        print_json({"error": as_error(error)})
        return
    sys.stderr.write(f"error: {error}\n")
    if error.hint:
        sys.stderr.write(f"  {error.hint}\n")


def say(text: str) -> None:
    """Say on stderr what is going on."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def somebody() -> bool:
    """Whether somebody sits at a terminal, whom a program may ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def print_new_link(url: str) -> None:
    """Say where a page can be opened whose first link was used already."""
    sys.stderr.write(f"The first link was used already; if that was you, open  {url}\n")
    sys.stderr.flush()


class Bars:
    """Progress bars on a terminal's stderr; a call per step, none where nobody watches.

    A program that shows them itself asks for lines instead, by `ONCHIP_PROGRESS=lines`.
    """

    def __init__(self, progress: "Progress | None") -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._progress is None:
            if os.environ.get("ONCHIP_PROGRESS") == "lines":
                say(f"{what}: {done} of {total}")
            return
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total or None)
        self._progress.update(self._tasks[what], completed=done)


@contextmanager
def bars() -> Iterator[Bars]:
    """Show progress on stderr while the block runs, if it is a terminal."""
    if not sys.stderr.isatty():
        yield Bars(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        yield Bars(progress)
