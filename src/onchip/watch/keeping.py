"""What is kept and what goes: by age, by size, and so that the disk is never filled to its end.

The clock decides over age alone, and only while it can be trusted. "Oldest" is by the order in
which events came, which no clock can change. Events that have not ended always stay.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Literal

from onchip.watch.config import Keep
from onchip.watch.files import Files, Line, size
from onchip.watch.table import Row, Table

JUMP = 60.0  # seconds between the clocks that cannot be drift
PAUSE = 3600.0  # of running time, in which the clock can be put right
FORGOTTEN = 86_400.0  # a stop so long that the clock may have been lost in it
SINCE = 1_577_836_800.0  # 2020: before it, no clock of a machine that runs this was right
AT_ONCE = 200  # events that go in one step, so that new ones need not wait
ROOM = 1 << 20  # bytes of clips that go at once when the disk is full
FLOOR = 500e6  # bytes of the disk, or
FLOOR_PART = 0.02  # this part of it, that stay free


class Clock:
    """Tells when the wall clock jumped, by holding it against the one that never does."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wall, self._steady = wall, steady
        self._apart = wall() - steady()
        self._doubted: float | None = None

    def begin(self, last: float | None) -> None:
        """Compare with the last time of which there was no doubt."""
        if last is not None and not -JUMP <= self.wall() - last <= FORGOTTEN:
            self._doubted = self._steady()

    def doubtful(self) -> bool:
        """Whether it jumped in the last hour of running time."""
        apart = self.wall() - self._steady()
        if abs(apart - self._apart) > JUMP:
            self._doubted = self._steady()
        self._apart = apart
        return self._doubted is not None and self._steady() - self._doubted < PAUSE


class Keeping:
    """Takes away what is too old or too much. For the thread that writes."""

    def __init__(self, keep: Keep, files: Files, clock: Clock) -> None:
        self._keep, self._files, self._clock = keep, files, clock

    def step(self, table: Table) -> bool:
        """Take some away; whether there is more to take away."""
        return self._by_age(table) or self._by_size(table) or self._by_room(table)

    def note(self, table: Table) -> str:
        """What people should know, or nothing."""
        if self._clock.doubtful():
            return "the clock jumped, or stood: for an hour nothing is deleted for its age"
        free, floor = _room(self._files.root)
        if free < floor and not table.oldest("clip", 1):
            return (
                f"only {free / 1e6:.0f} MB of the disk are free, and onchip has no clips to delete"
            )
        return ""

    def make_room(self, table: Table) -> bool:
        """Take some of the oldest clips away since the disk is full; whether there were any."""
        return self._drop(table, "clip", ROOM) > 0

    def _by_age(self, table: Table) -> bool:
        if self._clock.doubtful():
            return False
        oldest = self._clock.wall() - self._keep.days * 86_400
        rows = table.between(SINCE, oldest, AT_ONCE)
        remove(table, self._files, rows)
        return len(rows) == AT_ONCE

    def _by_size(self, table: Table) -> bool:
        over = self._over(table)
        if over <= 0:
            return False
        if self._drop(table, "clip", over) or self._drop(table, "snapshot", over):
            return self._over(table) > 0
        rows = table.oldest("event", AT_ONCE)
        remove(table, self._files, rows)
        return bool(rows) and self._over(table) > 0

    def _by_room(self, table: Table) -> bool:
        free, floor = _room(self._files.root)
        return free < floor and 0 < self._drop(table, "clip", floor - free) < floor - free

    def _over(self, table: Table) -> float:
        underway = sum(map(size, self._files.underway.iterdir()))
        return table.stored + table.used() + underway - self._keep.gigabytes * 1e9

    def _drop(self, table: Table, what: Literal["clip", "snapshot"], wanted: float) -> int:
        """Delete the oldest files of a kind, so many bytes or AT_ONCE; return how many bytes."""
        place = self._files.clip if what == "clip" else self._files.snapshot
        rows = _enough(table.oldest(what, AT_ONCE), wanted, attrgetter(what))
        for row in rows:
            place(row.day, row.event.id).unlink(missing_ok=True)
        with table.writing():
            for row in rows:
                table.put(replace(row, clip=0) if what == "clip" else replace(row, snapshot=0))
        return sum(map(attrgetter(what), rows))


def remove(table: Table, files: Files, rows: list[Row]) -> None:
    """Delete events with all that is kept of them."""
    days: dict[str, list[Row]] = {}
    for row in rows:
        days.setdefault(row.day, []).append(row)
    for day, some in days.items():
        files.note(day, (Line(deleted=row.event.id) for row in some))
        for row in some:
            files.snapshot(day, row.event.id).unlink(missing_ok=True)
            files.clip(day, row.event.id).unlink(missing_ok=True)
        with table.writing():
            table.remove(row.event.id for row in some)
        if not table.holds(day):
            files.remove_empty(day)


def _enough(rows: list[Row], wanted: float, measure: Callable[[Row], int]) -> list[Row]:
    """Return the first rows that together have as many bytes as wanted."""
    found, total = [], 0
    for row in rows:
        if total >= wanted:
            break
        found.append(row)
        total += measure(row)
    return found


def _room(folder: Path) -> tuple[float, float]:
    """Return how many bytes of the disk are free, and how many must stay so."""
    disk = shutil.disk_usage(folder)
    return disk.free, min(FLOOR, disk.total * FLOOR_PART)
