"""How the compiler speaks: lines on standard output, progress bars on standard error."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from hailo_standin import knob

T = TypeVar("T")

FILES = ("hailo_sdk.client.log", "hailo_sdk.core.log", "acceleras.log", "allocator.log")


def info(text: str) -> None:
    """Say something."""
    _say("info", text)


def warning(text: str) -> None:
    """Say something that most people overlook."""
    _say("warning", text)


def error(text: str) -> None:
    """Say what went wrong; the exception follows."""
    _say("error", text)


def _say(level: str, text: str) -> None:
    print(f"[{level}] {text}", flush=True)
    path = Path(FILES[0])
    if path.exists() and os.access(path, os.W_OK):
        with path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} - {level.upper()} - {text}\n")


def leave_files() -> None:
    """Leave empty log files in the folder that the process runs in, as the compiler does."""
    for name in FILES:
        if os.access(".", os.W_OK):
            Path(name).touch()


def bar(title: str, values: Iterable[T], count: int) -> Iterator[T]:
    """Yield values beside a progress bar that overwrites itself."""
    for done, value in enumerate(values, 1):
        full = "█" * (10 * done // count)
        print(f"\r{title}: {100 * done // count:3d}%|{full:<10}| {done}/{count} [00:00<00:00, 9.9entries/s]",
              end="", file=sys.stderr, flush=True)  # fmt: skip
        yield value
    print(file=sys.stderr, flush=True)


@contextmanager
def timed(text: str, say: Callable[[str], None] = info) -> Iterator[None]:
    """Say `text` with how long it took, where it went well."""
    begun = time.perf_counter()
    yield
    say(text.format(time=clock(time.perf_counter() - begun)))


def clock(seconds: float) -> str:
    """Return `00:00:12.34`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}:{minutes:02d}:{rest:05.2f}"


def version() -> str:
    """Return the compiler's version: the knob's, or the wheel's."""
    if knob("DFC"):
        return knob("DFC")
    try:
        return metadata.version("hailo-dataflow-compiler")
    except metadata.PackageNotFoundError:  # run from its sources
        return "3.33.1"


def since(major: int, minor: int) -> bool:
    """Whether this is that version or a later one."""
    first, second = version().split(".")[:2]
    return (int(first), int(second)) >= (major, minor)
