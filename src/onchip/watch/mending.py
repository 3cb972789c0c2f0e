"""What is put right when the data folder is opened: after kill -9, a power cut, a damaged database.

Nothing that is damaged is deleted: a database is set aside, under a name that says when. Of the
files, only those go that onchip was in the middle of writing, and videos of events of which nobody
was told.
"""

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import replace as changed
from pathlib import Path

from msgspec.structs import replace

from onchip.watch.clips import cut
from onchip.watch.files import NAME, TEMPORARY, Files, Line, size
from onchip.watch.table import DamagedError, Row, Table
from onchip.watch.values import Event

DATABASE = "events.db"
ALIVE = "alive"  # the wall clock when this folder was last written to
TRUSTED = "trusted"  # the same, while the clock was not in doubt
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
CAUGHT_UP = 2  # days of which the journal is always read again


def open_table(files: Files) -> tuple[Table, str]:
    """Open the table of a folder, made to agree with the files; also what to tell people.

    Raises:
        sqlite3.Error, OSError: the disk does not let us; it can be tried again.
    """
    files.make()
    note, path = "", files.root / DATABASE
    try:
        table = Table(path)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        note = set_aside(files, error)
        table = Table(path)
    try:
        days = files.days()
        _catch_up(table, files, days[-CAUGHT_UP:] if table.count else days)
        _agree(table, files)
    except BaseException:
        table.close()
        raise
    return table, note


def recover(table: Table, files: Files, left: Iterable[Path]) -> list[Event]:
    """Put right what a process left that was killed; for the first opening.

    `left` are the videos that it was making. Returns the events that it had not ended.
    """
    _remove_temporaries(files)
    _finish_clips(table, files, left)
    return _cut_off(table, files, table.said(ALIVE))


def is_damage(error: BaseException) -> bool:
    """Whether an error says that the database is not to be used, not that the disk fails."""
    code = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, DamagedError) or code & 0xFF in DAMAGE


def set_aside(files: Files, why: BaseException) -> str:
    """Rename the database and what belongs to it; returns what to tell people.

    Its log is renamed first, so that no other database takes it for its own.
    """
    path, number = files.root / DATABASE, 0
    when = time.strftime("%Y-%m-%d-%H%M%S")
    while (aside := path.with_name(f"{DATABASE}.damaged-{when}{number or ''}")).exists():
        number += 1
    for end in ("-wal", "-shm", ""):
        part = path.with_name(path.name + end)
        if part.exists():
            part.replace(aside.with_name(aside.name + end))
    told = str(why) if isinstance(why, DamagedError) else f"{DATABASE} was damaged"
    return f"{told}: it is kept as {aside.name}, and the events were read from the journals"


def _remove_temporaries(files: Files) -> None:
    for folder in (files.underway, *(files.events / day for day in files.days())):
        for path in folder.iterdir():
            if TEMPORARY.fullmatch(path.name):
                path.unlink()


def _catch_up(table: Table, files: Files, days: list[str]) -> None:
    """Take over what the journals know and the table does not, since its last rows were lost."""
    with table.writing(surely=True):
        for day in days:
            _take_over_day(table, files, day)


def _take_over_day(table: Table, files: Files, day: str) -> None:
    last: dict[str, Event] = {}
    sent: set[str] = set()
    for line in files.noted(day):
        if line.event is not None and NAME.fullmatch(line.event.id):
            last[line.event.id] = line.event
        elif line.sent is not None:
            sent.add(line.sent)
        elif line.deleted is not None:
            last.pop(line.deleted, None)
    for event in last.values():
        _take_over(table, files, day, event, event.id in sent)


def _take_over(table: Table, files: Files, day: str, event: Event, sent: bool) -> None:
    row = table.row(event.id)
    if row is None:
        snapshot, clip = files.snapshot(day, event.id), files.clip(day, event.id)
        table.put(Row(event, day, None, sent, size(snapshot), size(clip)))
    elif row.ended is None and event.end is not None:
        table.put(changed(row, event=event, sent=sent))


def _finish_clips(table: Table, files: Files, left: Iterable[Path]) -> None:
    """Keep the videos that were under way, up to where they can be played."""
    for path in left:
        row = table.row(path.stem) if path.suffix == ".mp4" else None
        if row is None:
            path.unlink(missing_ok=True)
        elif cut(path):
            with table.writing():
                table.put(changed(row, clip=files.take_clip(row.day, row.event.id, path)))


def _agree(table: Table, files: Files) -> None:
    """Let rows say which files there are: a kill may have come between a file and its row."""
    days: dict[str, frozenset[str]] = {}
    wrong: list[tuple[str, int, int]] = []
    for event, day, snapshot, clip in table.files():
        if day not in days:
            folder = files.events / day
            days[day] = (
                frozenset(p.name for p in folder.iterdir()) if folder.is_dir() else frozenset()
            )
        there = days[day]
        if (f"{event}.jpg" in there, f"{event}.mp4" in there) != (snapshot > 0, clip > 0):
            wrong.append((event, size(files.snapshot(day, event)), size(files.clip(day, event))))
    with table.writing():
        for event, snapshot, clip in wrong:
            row = table.row(event)
            if row is not None:
                table.put(changed(row, snapshot=snapshot, clip=clip))


def _cut_off(table: Table, files: Files, alive: float | None) -> list[Event]:
    """End the events that nobody ended, at the last time at which they are known to have lasted."""
    found = []
    for row in table.underway():
        end = max(row.event.start, alive or row.event.start)
        event = replace(row.shown(), end=end, why="cut off")
        files.note(row.day, [Line(event=event)], sync=True)
        with table.writing(surely=True):
            table.put(changed(row, event=event))
        found.append(event)
    return found
