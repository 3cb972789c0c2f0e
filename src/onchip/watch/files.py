"""The data folder: one folder a day with snapshots, clips and a journal; clips under way beside.

    watch/events.db
    watch/events/2026-11-21/<id>.jpg  <id>.mp4  events.jsonl
    watch/underway/<id>.mp4

The journal says the same as the database, in lines that people and scripts can read; the database
is made anew from it where that was damaged.
"""

import errno
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from onchip.watch.values import Event
from onchip.writing import write_whole

NAME = re.compile(r"\w[\w.-]{0,120}")
TEMPORARY = re.compile(r"\.onchip-\d+-\d+\.part")


class Line(Struct, frozen=True, omit_defaults=True):
    """One line of a journal: an event as it is now, or one that was told of, or deleted."""

    event: Event | None = None
    sent: str | None = None
    deleted: str | None = None


class Files:
    """Where the files of events are, and how they get there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events = root / "events"
        self.underway = root / "underway"

    def make(self) -> None:
        """Make the folders."""
        for folder in (self.events, self.underway):
            folder.mkdir(parents=True, exist_ok=True)

    def days(self) -> list[str]:
        """Return the days of which there is anything, the oldest first."""
        return sorted(p.name for p in self.events.iterdir() if p.is_dir())

    def snapshot(self, day: str, event: str) -> Path:
        """Return where the picture of an event is."""
        return self.events / day / f"{event}.jpg"

    def clip(self, day: str, event: str) -> Path:
        """Return where the video of an event is."""
        return self.events / day / f"{event}.mp4"

    def save_snapshot(self, day: str, event: str, data: bytes) -> int:
        """Write a picture whole, and return its size."""
        write_whole(self.snapshot(day, event), data)
        return len(data)

    def take_clip(self, day: str, event: str, made: Path) -> int:
        """Move a finished video to where it stays, and return its size; 0 where it is not there."""
        target = self.clip(day, event)
        target.parent.mkdir(parents=True, exist_ok=True)
        if made.exists():
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(target)
        return size(target)

    def note(self, day: str, lines: Iterable[Line], sync: bool = False) -> None:
        """Append lines to the journal of a day: all of them or, where there is no room, none."""
        path = self.events / day / "events.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            if before and not _ends_well(path):  # the power went away in the middle of a line
                data = b"\n" + data
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a part had room
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise
        if sync:
            _sync_folder(path.parent)

    def noted(self, day: str) -> Iterator[Line]:
        """Read the journal of a day; lines that cannot be read are passed over."""
        try:
            lines = (self.events / day / "events.jsonl").read_bytes().splitlines()
        except OSError:
            return
        for line in lines:
            try:
                yield msgspec.json.decode(line, type=Line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue

    def remove_empty(self, day: str) -> None:
        """Take away the folder of a day without events, unless there are files of others."""
        folder = self.events / day
        if not folder.is_dir():
            return
        (folder / "events.jsonl").unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def day_of(start: float) -> str:
    """Return the folder for an event that began at a time of the wall clock.

    >>> day_of(1e300)
    'undated'
    """
    try:
        return time.strftime("%Y-%m-%d", time.localtime(start))
    except (OverflowError, ValueError, OSError):
        return "undated"


def size(path: Path) -> int:
    """Return how many bytes a file has, 0 where it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _ends_well(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _sync_folder(folder: Path) -> None:
    """Put the names of new files on the disk too."""
    held = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)
