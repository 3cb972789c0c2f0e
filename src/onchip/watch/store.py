"""Keeps events: rows in SQLite, snapshots and clips in files. What was told as saved stays.

`Store.put` only puts a thing down in memory; one thread writes. An event's row comes first, then
its files, then the row that says so, so that after kill -9 every file belongs to a row. While the
disk cannot be written, what is new waits in memory and is tried again.
"""

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from onchip.closing import Closing
from onchip.errors import DeviceError, InputError
from onchip.watch.config import Keep
from onchip.watch.files import NAME, Files, Line, day_of
from onchip.watch.health import Backoff, Health
from onchip.watch.keeping import Clock, Keeping, remove
from onchip.watch.mending import ALIVE, TRUSTED, is_damage, open_table, recover, set_aside
from onchip.watch.table import DamagedError, Row, Table
from onchip.watch.trouble import FULL, plain
from onchip.watch.values import Event
from onchip.writing import alone

PART = "disk"
T = TypeVar("T")
Saved = Callable[[Event, str], None]
PRIVATE = 0o700  # of a folder with pictures of people
AT_ONCE = 100  # events in one commit
MOST_EVENTS = 10_000  # that wait in memory while the disk cannot be written
MOST_BYTES = 32 << 20  # of snapshots that wait
CHORES = 60.0  # seconds between looks at what is too old or too much
BEAT = 10.0  # seconds between marks that open events still last
LAST = 5.0  # seconds for what waits, at the end


@dataclass
class _Waiting:
    """What is to be written of one event."""

    event: Event | None = None
    snapshot: bytes | None = None
    clip: Path | None = None
    noted: Event | None = None  # what the journal has already
    new: bool = False  # whether nobody was told of it yet
    ended: bool = False  # whether it had ended before

    def add(self, newer: "_Waiting") -> None:
        if newer.event is not None and not (_ended(self) and newer.event.end is None):
            self.event = newer.event  # an event ends once; what comes late does not open it again
        self.snapshot = newer.snapshot or self.snapshot
        self.clip = newer.clip or self.clip


class Store(Closing):
    """The events of one data folder, which it holds for this process alone.

    Ids of events sort as they came.

    `saved` is called by the writing thread after the commit: with "new" when an event began, then
    "update" when it changed or a file was added, and "end". It must not raise. `outbox`: whether
    ends wait in `unsent` until `sent`.

    Raises:
        InputError: another process holds the folder, or it cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        keep: Keep,
        health: Health,
        saved: Saved,
        *,
        outbox: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self._files = Files(folder)
        self._health, self._saved, self._outbox = health, saved, outbox
        self._clock = clock or Clock()
        self._keeping = Keeping(keep, self._files, self._clock)
        self._table: Table | None = None
        self._note = ""
        self._damaged = self._recovered = False
        self._cut_off: list[Event] = []
        self._waiting: dict[str, _Waiting] = {}
        self._snapshot_bytes = 0
        self._lost_snapshots = self._lost_events = 0
        self._told: dict[str, None] = {}  # ends that the broker has; the table does not know yet
        self._deletes: list[_Delete] = []
        self._changed = threading.Condition()
        self._ends = self._works = False
        self._backoff = Backoff(0.5, 4)
        self._due = self._beat = 0.0
        self._held = ExitStack()
        self._held.enter_context(alone(folder, PRIVATE))
        self._left = _inside(self._files.underway)
        health.starting(PART)
        try:
            self._open()
        except (OSError, sqlite3.Error) as error:
            self._failed(error)  # the thread goes on trying
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    @property
    def underway(self) -> Path:
        """The folder for clips while they are made: `<id>.mp4`, on the same disk as the rest."""
        return self._files.underway

    def put(self, event: Event, snapshot: bytes | None = None, clip: Path | None = None) -> None:
        """Have an event written, with a JPEG and a finished video if given; returns at once."""
        self._add(event.id, _Waiting(event, snapshot, clip))

    def add_clip(self, event: str, clip: Path | None) -> None:
        """Have a finished video added to an event; returns at once. None: there is none."""
        if clip is not None:
            self._add(event, _Waiting(clip=clip))

    def sent(self, event: str) -> None:
        """Remember that the broker has the end of an event; returns at once."""
        with self._changed:
            self._told[event] = None
            self._changed.notify_all()

    def unsent(self, limit: int) -> list[Event]:
        """Return ends that the broker does not have, in the order in which they were saved."""
        with self._changed:
            told = frozenset(self._told)
        rows = self._read(lambda table: table.unsent(limit + len(told)), list[Row]())
        return [row.shown() for row in rows if row.event.id not in told][:limit]

    def events(
        self,
        *,
        before: str | None = None,
        limit: int = 50,
        camera: str | None = None,
        label: str | None = None,
        zone: str | None = None,
    ) -> list[Event]:
        """Return the newest events, or those that came before the event `before`.

        Raises:
            DeviceError: the disk does not give them.
        """
        rows = self._read(lambda table: table.page(before, limit, camera, label, zone), list[Row]())
        return [row.shown() for row in rows]

    def event(self, event: str) -> Event | None:
        """Return one event."""
        row = self._row(event)
        return row.shown() if row else None

    def snapshot(self, event: str) -> Path | None:
        """Return the JPEG of an event, where there is one."""
        row = self._row(event)
        path = self._files.snapshot(row.day, event) if row else None
        return path if path and path.is_file() else None

    def clip(self, event: str) -> Path | None:
        """Return the video of an event, where there is one."""
        row = self._row(event)
        path = self._files.clip(row.day, event) if row else None
        return path if path and path.is_file() else None

    def delete(self, event: str) -> bool:
        """Delete an event and its files; whether there was one. Waits until it is done.

        Raises:
            InputError: it has not ended yet.
            DeviceError: the disk does not let us.
        """
        asked = _Delete(event)
        with self._changed:
            self._deletes.append(asked)
            self._changed.notify_all()
        if not asked.done.wait(LAST):
            raise DeviceError(
                "the event could not be deleted now", "it will be as soon as it can be"
            )
        if asked.lasts:
            raise InputError("the event has not ended yet", "delete it when it has")
        return asked.was

    def figures(self) -> tuple[int, int, int]:
        """Return how many events there are, how many bytes they take, and how many are free."""
        table = self._table
        try:
            free = shutil.disk_usage(self._files.root).free
        except OSError:
            free = 0
        return (table.count, table.stored, free) if table else (0, 0, free)

    def flush(self, timeout: float = LAST) -> bool:
        """Wait until all that was put is written; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._works), timeout)

    def close(self) -> None:
        """Write what waits, for some seconds if need be, and let go of the folder."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        self._thread.join()
        table, self._table = self._table, None
        if table is not None:
            table.close()
        self._held.close()

    # What follows is in memory alone.

    def _add(self, event: str, newer: _Waiting) -> None:
        if not NAME.fullmatch(event):
            raise ValueError(f"{event!r} cannot be an event's id: it is no file name")
        if newer.event is not None and not _lasting(newer.event):
            raise ValueError(f"{newer.event} cannot be kept")  # it would hold up all others
        with self._changed:
            waiting = self._waiting.setdefault(event, _Waiting())
            self._snapshot_bytes -= _bytes([waiting])
            waiting.add(newer)
            self._snapshot_bytes += _bytes([waiting])
            self._bound()
            self._changed.notify_all()

    def _bound(self) -> None:
        """Drop what is too much: the oldest snapshots first, finished events last."""
        for waiting in self._waiting.values():
            if self._snapshot_bytes <= MOST_BYTES:
                break
            if waiting.snapshot is not None:
                self._snapshot_bytes -= len(waiting.snapshot)
                waiting.snapshot = None
                self._lost_snapshots += 1
        while len(self._waiting) > MOST_EVENTS:
            first = next((i for i, w in self._waiting.items() if not _ended(w)), None)
            gone = self._waiting.pop(first or next(iter(self._waiting)))
            self._snapshot_bytes -= _bytes([gone])
            self._lost_events += first is None

    def _take(self) -> dict[str, _Waiting]:
        some = list(self._waiting)[:AT_ONCE]
        batch = {event: self._waiting.pop(event) for event in some}
        self._snapshot_bytes -= _bytes(batch.values())
        return batch

    def _back(self, batch: dict[str, _Waiting]) -> None:
        """Put back what was not written, before what came since."""
        with self._changed:
            for event, newer in self._waiting.items():
                batch.setdefault(event, _Waiting()).add(newer)
            self._waiting = batch
            self._snapshot_bytes = _bytes(batch.values())
            self._bound()

    # What follows is the writing thread's.

    def _run(self) -> None:
        try:
            until = None
            while until is None or time.monotonic() < until:
                if self._wait() and until is None:
                    until = time.monotonic() + LAST
                if not self._turn() and until is not None:
                    return
            self._say_lost()
        except BaseException as error:
            hint = "this is a fault in onchip: start it again, and report it"
            self._health.failing(PART, error, hint)
            raise

    def _wait(self) -> bool:
        """Wait until there is something to do; whether the end has come."""
        with self._changed:
            pause = max(0.0, min(self._due, self._beat) - time.monotonic())
            self._changed.wait_for(self._busy, timeout=pause)
            return self._ends

    def _busy(self) -> bool:
        todo = (self._waiting, self._told, self._deletes, self._cut_off, self._damaged)
        return self._ends or any(todo) or time.monotonic() >= min(self._due, self._beat)

    def _turn(self) -> bool:
        """Do what waits; whether there is more to do."""
        with self._changed:
            batch, told, deletes = self._take(), list(self._told), tuple(self._deletes)
            self._works = True
        try:
            table = self._opened()
            batch, fault = self._save(table, batch)
            self._mark_sent(table, told)
            for asked in deletes:
                self._delete(table, asked)
            self._chores(table)
        except (OSError, sqlite3.Error, InputError) as error:
            fault = error
        if fault is not None:
            self._back(batch)
            self._failed(fault)
            return True
        self._backoff.worked()
        self._health.ok(PART, self._message(table))
        with self._changed:
            self._works = False
            self._changed.notify_all()
            return bool(self._waiting or self._told or self._deletes)

    def _opened(self) -> Table:
        if self._table is not None and (self._damaged or self._table.vanished()):
            table, self._table = self._table, None
            table.close()
            if self._damaged:
                self._note = set_aside(self._files, DamagedError("events.db was damaged"))
        self._damaged = False
        return self._table or self._open()

    def _open(self) -> Table:
        table, note = open_table(self._files)
        self._note = note or self._note
        try:
            if not self._recovered:
                self._cut_off += recover(table, self._files, self._left)
                self._clock.begin(table.said(TRUSTED))
                self._recovered = True
        except BaseException:
            table.close()
            raise
        self._table = table
        return table

    def _failed(self, error: Exception) -> None:
        """Say what is wrong; make room or wait, so that the next try can do better."""
        cause = error.__cause__ if isinstance(error, InputError) and error.__cause__ else error
        self._damaged = self._damaged or is_damage(cause)
        text, hint = plain(cause, self._files.root)
        if text == FULL and self._freed():
            return
        wait = self._backoff.failed()
        self._health.failing(PART, f"{text}{self._lost()}", hint, wait)
        if not self._damaged:
            with self._changed:
                self._changed.wait_for(lambda: self._ends, timeout=wait)
                if self._ends:
                    self._changed.wait(0.1)

    def _freed(self) -> bool:
        try:
            return self._table is not None and self._keeping.make_room(self._table)
        except (OSError, sqlite3.Error):
            return False

    def _save(
        self, table: Table, batch: dict[str, _Waiting]
    ) -> tuple[dict[str, _Waiting], Exception | None]:
        """Write a batch; returns files that could not be written, and why.

        Rows go where files do not: they are small, and say the most.
        """
        while self._cut_off:
            self._saved(self._cut_off.pop(0), "end")
        left: dict[str, _Waiting] = {}
        fault: Exception | None = None
        rows = self._begin(table, batch)
        for event, row in rows.items():
            try:
                rows[event] = self._save_files(row, batch[event])
            except (OSError, InputError) as error:
                fault = error
                left[event] = _Waiting(snapshot=batch[event].snapshot, clip=batch[event].clip)
        self._note_ends(rows, batch)
        if rows:
            with table.writing(surely=any(row.event.end is not None for row in rows.values())):
                for event, row in rows.items():
                    rows[event] = table.put(row)
        for event, row in rows.items():
            self._tell(row, batch[event])
        return left, fault

    def _begin(self, table: Table, batch: dict[str, _Waiting]) -> dict[str, Row]:
        """Give every event a row before it has a file; returns the rows as they are to become."""
        rows: dict[str, Row] = {}
        new: dict[str, list[Row]] = {}
        for event, waiting in batch.items():
            row = table.row(event)
            if row is None and waiting.event is not None:
                row = Row(_open_again(waiting.event), day_of(waiting.event.start))
                new.setdefault(row.day, []).append(row)
                waiting.new = True
            if row is not None and not (row.ended is not None and _late(waiting)):
                waiting.ended = row.ended is not None
                rows[event] = self._newest(row, waiting.event)
            elif row is None and waiting.clip is not None:  # the event was deleted
                waiting.clip.unlink(missing_ok=True)
        for day, some in new.items():
            self._files.note(day, (Line(event=row.event) for row in some))
            with table.writing():
                for row in some:
                    table.put(row)
        return rows

    def _newest(self, row: Row, event: Event | None) -> Row:
        """Return a row as it is to become. An event ends once; what comes late opens none."""
        if event is None or (row.ended is not None and event.end is None):
            return row
        sent = row.sent or (event.end is not None and not self._outbox)
        return changed(row, event=event, sent=sent)

    def _save_files(self, row: Row, waiting: _Waiting) -> Row:
        event = row.event.id
        if waiting.snapshot is not None:
            row = changed(row, snapshot=self._files.save_snapshot(row.day, event, waiting.snapshot))
        if waiting.clip is not None:
            row = changed(row, clip=self._files.take_clip(row.day, event, waiting.clip))
        return changed(row, event=row.shown())

    def _note_ends(self, rows: dict[str, Row], batch: dict[str, _Waiting]) -> None:
        days: dict[str, list[Line]] = {}
        for event, row in rows.items():
            if row.event.end is not None and batch[event].noted != row.event:
                days.setdefault(row.day, []).append(Line(event=row.event))
        for day, lines in days.items():
            self._files.note(day, lines, sync=True)
        for event, row in rows.items():
            batch[event].noted = row.event

    def _tell(self, row: Row, waiting: _Waiting) -> None:
        event = row.shown()
        if waiting.new:
            self._saved(_open_again(event), "new")
        if event.end is not None and not waiting.ended:
            self._saved(event, "end")
        elif not waiting.new:
            self._saved(event, "update")

    def _mark_sent(self, table: Table, told: list[str]) -> None:
        if not told:
            return
        days: dict[str, list[Line]] = {}
        for event in told:
            row = table.row(event)
            if row is not None:
                days.setdefault(row.day, []).append(Line(sent=event))
        for day, lines in days.items():
            self._files.note(day, lines)
        with table.writing():
            table.mark_sent(told)
        with self._changed:
            for event in told:
                del self._told[event]

    def _delete(self, table: Table, asked: "_Delete") -> None:
        row = table.row(asked.event)
        asked.lasts = row is not None and row.ended is None
        if row is not None and not asked.lasts:
            remove(table, self._files, [row])
            asked.was = True
        with self._changed:
            self._deletes.remove(asked)
        asked.done.set()

    def _chores(self, table: Table) -> None:
        """Now and then: mark that we are alive, and take away what is too old or too much."""
        now = time.monotonic()
        if now >= self._beat or self._ends:
            self._beat = now + (BEAT if table.underway() else 10 * BEAT)
            with table.writing():
                table.say(ALIVE, self._clock.wall())
                if not self._clock.doubtful():
                    table.say(TRUSTED, self._clock.wall())
        if now >= self._due:
            self._due = now if self._keeping.step(table) else now + CHORES

    def _message(self, table: Table) -> str:
        parts = (self._note, self._lost().removeprefix("; "), self._keeping.note(table))
        return "; ".join(part for part in parts if part)

    def _lost(self) -> str:
        lost = ((self._lost_events, "event"), (self._lost_snapshots, "snapshot"))
        parts = [f"{number} {what}{'s' * (number > 1)}" for number, what in lost if number]
        return f"; lost while the disk could not be written: {', '.join(parts)}" if parts else ""

    def _say_lost(self) -> None:
        with self._changed:
            self._lost_events += sum(map(_ended, self._waiting.values()))
        self._health.failing(PART, f"not everything could be written{self._lost()}")

    # What follows is for any thread.

    def _row(self, event: str) -> Row | None:
        return self._read(lambda table: table.find(event), None)

    def _read(self, ask: Callable[[Table], T], nothing: T) -> T:
        table = self._table
        if table is None:
            return nothing
        try:
            return ask(table)
        except sqlite3.Error as error:
            if self._table is not table:  # it was closed meanwhile
                return self._read(ask, nothing)
            if is_damage(error):
                with self._changed:
                    self._damaged = True
                    self._changed.notify_all()
            text, hint = plain(error, self._files.root)
            raise DeviceError(f"the events cannot be read: {text}", hint) from error


class _Delete:
    """A wish to delete an event, and what came of it."""

    def __init__(self, event: str) -> None:
        self.event = event
        self.done = threading.Event()
        self.was = self.lasts = False


def _inside(folder: Path) -> tuple[Path, ...]:
    """Return what a process that was killed left in a folder."""
    try:
        return tuple(folder.iterdir())
    except OSError:
        return ()


def _lasting(event: Event) -> bool:
    """Whether an event can be read as it was written: no number is none, all texts are texts."""
    return msgspec.json.decode(msgspec.json.encode(event), type=Event | None) == event


def _open_again(event: Event) -> Event:
    """Return an event as it was when it began."""
    return replace(event, end=None, why=None)


def _ended(waiting: _Waiting) -> bool:
    return waiting.event is not None and waiting.event.end is not None


def _late(waiting: _Waiting) -> bool:
    """Whether it says nothing new of an event that has ended."""
    return not _ended(waiting) and waiting.snapshot is None and waiting.clip is None


def _bytes(waiting: Iterable[_Waiting]) -> int:
    return sum(len(w.snapshot) for w in waiting if w.snapshot is not None)
