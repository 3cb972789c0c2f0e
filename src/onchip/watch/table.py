"""The table of events: one SQLite file. One thread writes, any thread reads."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from onchip.closing import Closing
from onchip.watch.values import Event

VERSION = 1
SCHEMA = """
CREATE TABLE events (
  id TEXT PRIMARY KEY NOT NULL,          -- sorts as they came, whatever the clock said
  camera TEXT NOT NULL,
  label TEXT NOT NULL,
  zones TEXT NOT NULL,                   -- a line for each
  start REAL NOT NULL,
  day TEXT NOT NULL,                     -- the folder of its files
  event BLOB NOT NULL,                   -- all of it, as JSON
  ended INTEGER,                         -- the order in which they ended; NULL while it lasts
  sent INTEGER NOT NULL DEFAULT 0,       -- whether its end was told to the broker
  snapshot INTEGER NOT NULL DEFAULT 0,   -- bytes
  clip INTEGER NOT NULL DEFAULT 0        -- bytes
);
CREATE INDEX by_camera ON events (camera, id);
CREATE INDEX by_label ON events (label, id);
CREATE INDEX by_start ON events (start);
CREATE INDEX by_day ON events (day);
CREATE INDEX with_clip ON events (id) WHERE clip > 0;
CREATE INDEX with_snapshot ON events (id) WHERE snapshot > 0;
CREATE INDEX underway ON events (id) WHERE ended IS NULL;
CREATE INDEX unsent ON events (ended) WHERE sent = 0 AND ended IS NOT NULL;
CREATE TABLE facts (name TEXT PRIMARY KEY, value REAL NOT NULL);
"""
WHERE = "SELECT event, day, ended, sent, snapshot, clip FROM events WHERE "


class DamagedError(sqlite3.DatabaseError):
    """The file is there, and is not to be used: it is damaged, or a newer onchip wrote it."""


@dataclass(frozen=True)
class Row:
    """An event as it is kept. `snapshot` and `clip` are sizes; `ended` counts ends from 1."""

    event: Event
    day: str
    ended: int | None = None
    sent: bool = False
    snapshot: int = 0
    clip: int = 0

    def shown(self) -> Event:
        """The event, saying which files there are now."""
        return replace(self.event, snapshot=self.snapshot > 0, clip=self.clip > 0)


class Table(Closing):
    """The events in one SQLite file, made where it is not there.

    Raises:
        DamagedError: it is not to be used.
        sqlite3.Error: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = self.stored = self._ends = (
            0  # events, bytes of files, the number of the last end
        )
        self._lock = threading.Lock()
        self._write = self._connect()
        try:
            self._prepare()
            self._read = self._connect()
            self._read.execute("PRAGMA query_only = 1")
        except BaseException:
            self._write.close()
            raise
        self._inode = path.stat().st_ino

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._read.close()
        self._write.close()

    def vanished(self) -> bool:
        """Whether somebody took the file away, so that what is written into it is lost."""
        try:
            return self.path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    @contextmanager
    def writing(self, surely: bool = False) -> Iterator[None]:
        """Commit all that the block does, or nothing. `surely`: not before it is on the disk."""
        count, stored, ends = self.count, self.stored, self._ends
        self._write.execute(f"PRAGMA synchronous = {'FULL' if surely else 'NORMAL'}")
        try:
            with self._write:
                self._write.execute("BEGIN IMMEDIATE")
                yield
        except BaseException:
            self.count, self.stored, self._ends = count, stored, ends
            raise

    def row(self, event: str) -> Row | None:
        """Return one event; for the thread that writes."""
        found = self._write.execute(WHERE + "id = ?", (event,))
        return next(map(_row, found), None)

    def put(self, row: Row) -> Row:
        """Add an event, or change it. One that ended gets the next number of an end."""
        if row.event.end is not None and row.ended is None:
            self._ends += 1
            row = Row(row.event, row.day, self._ends, row.sent, row.snapshot, row.clip)
        before = self.row(row.event.id)
        event = row.event
        self._write.execute(
            "INSERT INTO events (id, camera, label, zones, start, day, event, ended, sent,"
            " snapshot, clip) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET camera = excluded.camera, label = excluded.label, zones = excluded.zones,"
            " start = excluded.start, event = excluded.event, ended = excluded.ended,"
            " sent = excluded.sent, snapshot = excluded.snapshot, clip = excluded.clip",
            (
                *(event.id, event.camera, event.label, _zones(event.zones), event.start, row.day),
                *(msgspec.json.encode(event), row.ended, row.sent, row.snapshot, row.clip),
            ),
        )
        self.count += before is None
        self.stored += row.snapshot + row.clip
        if before is not None:
            self.stored -= before.snapshot + before.clip
        return row

    def remove(self, events: Iterable[str]) -> None:
        """Forget events."""
        for event in events:
            row = self.row(event)
            if row is not None:
                self._write.execute("DELETE FROM events WHERE id = ?", (event,))
                self.count -= 1
                self.stored -= row.snapshot + row.clip

    def mark_sent(self, events: Iterable[str]) -> None:
        """Remember that the ends of these were told."""
        self._write.executemany("UPDATE events SET sent = 1 WHERE id = ?", ((e,) for e in events))

    def say(self, name: str, value: float) -> None:
        """Remember a number."""
        self._write.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def said(self, name: str) -> float | None:
        """Return a number that was remembered."""
        found = self._write.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    def underway(self) -> list[Row]:
        """Return the events that have not ended; for the thread that writes."""
        return self._rows("ended IS NULL ORDER BY id", ())

    def oldest(self, what: str, limit: int) -> list[Row]:
        """Return the first ended events that have a "clip", a "snapshot", or are an "event"."""
        has = {"clip": "clip > 0 AND", "snapshot": "snapshot > 0 AND", "event": ""}[what]
        return self._rows(f"{has} ended IS NOT NULL ORDER BY id LIMIT ?", (limit,))

    def between(self, after: float, before: float, limit: int) -> list[Row]:
        """Return ended events that began in a span of the wall clock, the oldest first."""
        where = "start > ? AND start < ? AND ended IS NOT NULL ORDER BY start LIMIT ?"
        return self._rows(where, (after, before, limit))

    def holds(self, day: str) -> bool:
        """Whether any event is of a day."""
        found = self._write.execute("SELECT 1 FROM events WHERE day = ? LIMIT 1", (day,))
        return found.fetchone() is not None

    def files(self) -> Iterator[tuple[str, str, int, int]]:
        """Return id, day, and the sizes of snapshot and clip of all."""
        return iter(self._write.execute("SELECT id, day, snapshot, clip FROM events").fetchall())

    def used(self) -> int:
        """Return how many bytes the database needs; pages of deleted events are used again."""
        pages, free, bytes_ = (
            self._write.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * bytes_)

    def find(self, event: str) -> Row | None:
        """Return one event; for any thread."""
        return next(iter(self._ask(WHERE + "id = ?", (event,))), None)

    def unsent(self, limit: int) -> list[Row]:
        """Return ends that were not told, in the order in which they ended; for any thread."""
        where = "sent = 0 AND ended IS NOT NULL ORDER BY ended LIMIT ?"
        return self._ask(WHERE + where, (limit,))

    def page(
        self,
        before: str | None,
        limit: int,
        camera: str | None,
        label: str | None,
        zone: str | None,
    ) -> list[Row]:
        """Return the newest events, or those before one that is or was there; for any thread."""
        wanted = ["1"]
        values: list[Any] = []
        if before is not None:
            wanted.append("id < ?")
            values.append(before)
        for column, value in (("camera", camera), ("label", label)):
            if value is not None:
                wanted.append(f"{column} = ?")
                values.append(value)
        if zone is not None:
            wanted.append("instr(zones, ?)")
            values.append(_zones((zone,)))
        where = " AND ".join(wanted) + " ORDER BY id DESC LIMIT ?"
        return self._ask(WHERE + where, (*values, limit))

    def _rows(self, where: str, values: Sequence[Any]) -> list[Row]:
        found = self._write.execute(WHERE + where, values)
        return list(map(_row, found))

    def _ask(self, query: str, values: Sequence[Any]) -> list[Row]:
        with self._lock:
            found = self._read.execute(query, values).fetchall()
        return list(map(_row, found))

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=3, isolation_level=None, check_same_thread=False)

    def _prepare(self) -> None:
        version = self._write.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise DamagedError(f"{self.path.name} is of a newer onchip")
        if version == 0:
            if self._write.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                raise DamagedError(f"{self.path.name} is of another program")
            self._write.execute("PRAGMA journal_mode = WAL")
            script = f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;"
            self._write.executescript(script)
        found = self._write.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise DamagedError(f"{self.path.name} was damaged")
        self.count, self.stored, self._ends = self._write.execute(
            "SELECT count(*), ifnull(sum(snapshot + clip), 0), ifnull(max(ended), 0) FROM events"
        ).fetchone()


def _row(found: tuple[bytes, str, int | None, int, int, int]) -> Row:
    try:
        event = msgspec.json.decode(found[0], type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
        raise DamagedError("a row was damaged") from error
    return Row(event, found[1], found[2], bool(found[3]), found[4], found[5])


def _zones(zones: Iterable[str]) -> str:
    """Write zones so that one is found whole.

    >>> _zones(("yard",)) in _zones(("drive", "yard")), _zones(("yard",)) in _zones(("backyard",))
    (True, False)
    """
    return "".join(f"\n{zone}\n" for zone in zones)
