"""The store against kill -9, full and damaged disks, clocks that jump, and a hundred thousand events."""

import errno
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onchip.errors import InputError, OnchipError
from onchip.watch import keeping, store
from onchip.watch.config import Keep
from onchip.watch.files import Files, Line
from onchip.watch.health import Health
from onchip.watch.keeping import Clock
from onchip.watch.store import Store
from onchip.watch.table import Row, Table
from onchip.watch.values import Event

import disks

KILLS = int(os.environ.get("ONCHIP_KILLS", "60"))
CHILD = Path(__file__).with_name("watch_child.py")
NOW = float(int(time.time())) - 3600


def event(number: int, *, ended: bool = True, start: float | None = None, **more: Any) -> Event:
    start = NOW + number if start is None else start
    ending: dict[str, Any] = {"end": start + 5, "why": "left"} if ended else {}
    values = {"camera": "front", "label": "person", "score": 0.5, "box": (0.1, 0.1, 0.5, 0.9)}
    return Event(id=f"{number:016x}", start=start, **{**values, **ending, **more})


class Told(list[tuple[str, str]]):
    """What was told as saved: kinds and ids, in their order."""

    def __call__(self, event: Event, kind: str) -> None:
        self.append((kind, event.id))

    def ends(self) -> list[str]:
        return [event for kind, event in self if kind == "end"]


class Kept:
    """A store, its health, and what it told."""

    def __init__(self, folder: Path, keep: Keep | None = None, **more: Any) -> None:
        self.folder, self.health, self.told = folder, Health(), Told()
        self.store = Store(folder, keep or Keep(), self.health, self.told, **more)

    def until(self, what: Callable[[], bool], timeout: float = 10) -> None:
        until = time.monotonic() + timeout
        while not what():
            assert time.monotonic() < until, self.health.parts()
            time.sleep(0.005)

    @property
    def disk(self) -> str:
        part = self.health.part("disk")
        return f"{part.state}: {part.message}; {part.hint}"

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *error: object) -> None:
        self.store.close()
        assert not [t for t in threading.enumerate() if t.name == "store"]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with Kept(tmp_path / "watch") as made:
        yield made


def clip_of(store: Store, number: int, data: bytes = b"video") -> Path:
    path = store.underway / f"{number:016x}.mp4"
    path.write_bytes(data)
    return path


def test_nobody_else_may_look_into_the_folder(tmp_path: Path) -> None:
    with Kept(tmp_path / "new").store:
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_an_event_from_begin_to_end(kept: Kept) -> None:
    kept.store.put(event(1, ended=False), b"first")
    assert kept.store.flush()
    kept.store.put(event(1, ended=False, score=0.9), b"better")
    assert kept.store.flush()
    assert kept.store.unsent(9) == []
    kept.store.put(event(1, score=0.9))
    assert kept.store.flush()
    kept.store.put(event(1, ended=False))  # what comes late opens nothing
    kept.store.add_clip(event(1).id, clip_of(kept.store, 1))
    assert kept.store.flush()
    found = kept.store.event(event(1).id)
    assert found == event(1, score=0.9, snapshot=True, clip=True)
    assert kept.store.events() == kept.store.unsent(9) == [found]
    snapshot, clip = kept.store.snapshot(found.id), kept.store.clip(found.id)
    assert (
        snapshot and snapshot.read_bytes() == b"better" and clip and clip.read_bytes() == b"video"
    )
    assert [kind for kind, _ in kept.told] == ["new", "update", "end", "update"]
    assert kept.store.figures()[:2] == (1, len(b"bettervideo"))
    kept.store.sent(found.id)
    assert kept.store.unsent(9) == []
    assert kept.store.delete(found.id) and not kept.store.delete(found.id)
    assert (
        kept.store.event(found.id)
        is kept.store.snapshot(found.id)
        is kept.store.clip(found.id)
        is None
    )
    assert kept.store.figures()[:2] == (0, 0)
    assert not [
        p for p in kept.folder.rglob("*") if p.is_file() and not p.name.startswith("events.db")
    ]


def test_begin_and_end_at_once_are_both_told_in_their_order(kept: Kept) -> None:
    for number in range(300):
        kept.store.put(event(number, ended=False))
        kept.store.put(event(number))
    assert kept.store.flush()
    for number in range(300):
        told = [kind for kind, name in kept.told if name == event(number).id]
        assert told[0] == "new" and told[-1] == "end" and told.count("end") == 1
    assert kept.told.ends() == [event(n).id for n in range(300)]


def test_an_event_that_lasts_is_not_deleted(kept: Kept) -> None:
    kept.store.put(event(1, ended=False))
    assert kept.store.flush()
    with pytest.raises(InputError, match="not ended"):
        kept.store.delete(event(1).id)


def test_two_processes_cannot_hold_one_folder(kept: Kept) -> None:
    with pytest.raises(InputError, match="another onchip"):
        Store(kept.folder, Keep(), Health(), Told())


def test_ids_that_are_no_file_names_are_refused(kept: Kept) -> None:
    for name in ("../up", "", ".hidden", "a/b", "a\0b"):
        with pytest.raises(ValueError, match="no file name"):
            kept.store.put(
                Event(id=name, camera="a", label="b", start=1, score=1, box=(0, 0, 1, 1))
            )


def test_what_could_not_be_read_again_is_refused(kept: Kept) -> None:
    for odd in ({"score": float("nan")}, {"start": float("inf")}, {"label": "\ud800"}):
        with pytest.raises(ValueError):
            kept.store.put(event(1, **odd))


# kill -9


def whole(path: Path | None) -> bool:
    """Whether a video can be decoded from its first picture, which is a key, to its last."""
    import av

    assert path is not None
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return bool(frames) and frames[0].key_frame


def strays(folder: Path, events: list[Event]) -> list[str]:
    wanted = {f"{e.id}.jpg" for e in events if e.snapshot} | {
        f"{e.id}.mp4" for e in events if e.clip
    }
    there = {p.name for p in folder.rglob("*") if p.is_file()}
    there -= {"events.jsonl", "events.db", "events.db-wal", "events.db-shm"}
    assert wanted <= there
    return sorted(there - wanted)


class Nursery:
    """A process that has loaded what takes long to load; its children make events until killed."""

    def __init__(self) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, str(CHILD)], **pipes)

    def close(self) -> None:
        self._process.communicate()

    def child(self, folder: Path, lasts: float) -> list[str]:
        """Have a child kill -9'd so long after it began with its events; returns what it said."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        pipe = folder.with_name("said")
        os.mkfifo(pipe)
        stdin.write(f"{folder}\n{pipe}\n")
        stdin.flush()
        child = int(stdout.readline())
        said = []
        with pipe.open() as file:
            pipe.unlink()
            while (line := file.readline()) != "ready\n":
                assert line
                said.append(line)  # what the last one left is told first
            time.sleep(lasts)
            os.kill(child, signal.SIGKILL)
            said += file.readlines()
        assert stdout.readline() == f"{child} ended\n"
        return [line[:-1] for line in said if line.endswith("\n")]  # or it was not told yet


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


def test_kill_9_at_any_moment_loses_no_finished_event(tmp_path: Path, nursery: Nursery) -> None:
    folder, seed = tmp_path / "watch", random.Random(1)
    finished: set[str] = set()
    checked: set[str] = set()
    cut_off = 0
    for round_ in range(KILLS):
        finished.update(nursery.child(folder, seed.uniform(0, 0.2)))
        if round_ % 4 != 3 and round_ != KILLS - 1:
            continue  # the next process finds what this one left, too
        opened = time.monotonic()
        with Kept(folder) as kept:
            assert time.monotonic() - opened < 10
            assert kept.disk.startswith(("ok", "starting"))
            events = kept.store.events(limit=100_000)
            ids = {e.id for e in events}
            assert finished <= ids
            assert all(e.end is not None and e.end >= e.start for e in events)
            cut_off += sum(e.why == "cut off" and e.id not in checked for e in events)
            assert strays(folder, events) == []
            for one in events:
                if one.id in checked:
                    continue
                if one.id in finished and one.why == "left":
                    snapshot = kept.store.snapshot(one.id)
                    assert snapshot is not None
                    image = cv2.imdecode(np.frombuffer(snapshot.read_bytes(), np.uint8), 1)
                    assert image is not None and image.shape == (48, 64, 3)
                if one.clip:
                    assert whole(kept.store.clip(one.id)), one
            checked |= ids
    assert len(finished) > KILLS and cut_off > 0  # or else this proved little


# disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small(tmp_path / "disk") as folder:
        yield folder


def test_a_full_disk_is_said_and_nothing_is_lost_when_there_is_room_again(small_disk: Path) -> None:
    with Kept(small_disk / "watch") as kept:
        kept.store.put(event(0), b"x" * 10_000)
        assert kept.store.flush()
        filler = disks.fill(small_disk)
        for number in range(1, 200):
            kept.store.put(event(number, ended=False), b"x" * 10_000)
            kept.store.put(event(number))
        kept.until(lambda: kept.disk.startswith("failing"))
        assert "full" in kept.disk and "free some space" in kept.disk
        assert kept.store.event(event(0).id)  # what is there can be read
        filler.unlink()
        room = time.monotonic()
        kept.until(lambda: len(kept.told.ends()) == 200)
        kept.until(lambda: kept.disk.startswith("ok"))
        assert time.monotonic() - room < 10
        assert kept.store.flush()
        events = kept.store.events(limit=300)
        assert len(events) == 200 and all(e.snapshot for e in events)
        assert sorted(kept.told.ends()) == [event(n).id for n in range(200)]


def test_a_full_disk_costs_the_oldest_clips_first(small_disk: Path) -> None:
    with Kept(small_disk / "watch") as kept:
        for number in range(6):
            kept.store.put(event(number), b"picture", clip_of(kept.store, number, b"v" * 400_000))
        assert kept.store.flush()
        disks.fill(small_disk)
        for number in range(6, 60):
            kept.store.put(event(number), b"x" * 10_000)
        kept.until(lambda: len(kept.told.ends()) == 60)
        kept.until(lambda: kept.store.flush() and kept.disk.startswith("ok"))
        found = {e.id: e for e in kept.store.events(limit=100)}
        assert len(found) == 60 and all(e.snapshot for e in found.values())
        clips = [found[event(n).id].clip for n in range(6)]
        assert clips == sorted(clips) and not clips[0] and clips[-1]  # the newest are there yet


def test_a_disk_that_is_full_at_the_start(small_disk: Path) -> None:
    (small_disk / "watch").mkdir()
    filler = disks.fill(small_disk)
    with Kept(small_disk / "watch") as kept:
        kept.store.put(event(1), b"picture")
        kept.until(lambda: kept.disk.startswith("failing"))
        assert kept.store.events() == []
        filler.unlink()
        kept.until(lambda: kept.told.ends() == [event(1).id])


def test_what_waits_in_memory_is_bounded_and_what_is_lost_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_BYTES", 50_000)
    monkeypatch.setattr(store, "MOST_EVENTS", 110)
    with Kept(tmp_path) as kept:
        holder = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")  # another program holds the database
        kept.store.put(event(0))
        for number in range(1, 150):
            kept.store.put(event(number, ended=number % 3 > 0), b"x" * 1000)
        kept.until(lambda: "another program holds the database" in kept.disk, 20)
        holder.close()
        kept.until(lambda: kept.store.flush(1) and kept.disk.startswith("ok"), 20)
        ended = {event(n).id for n in range(150) if n % 3 > 0 or n == 0}
        assert ended <= {e.id for e in kept.store.events(limit=1000)}  # what had ended went last
        assert "snapshots" in kept.disk and " events" not in kept.disk
        assert "lost while" in kept.disk


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES])
def test_other_faults_of_a_disk_are_plain_and_pass(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(Files, "note", fails)
        kept.store.put(event(1), b"picture")
        kept.until(lambda: kept.disk.startswith("failing"))
        assert "Errno" not in kept.disk and len(kept.disk.rpartition("; ")[2]) > 10
    kept.until(lambda: kept.told.ends() == [event(1).id])


def test_a_process_that_may_write_no_more_says_so(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys\nsys.path.insert(0, sys.argv[2])\nfrom pathlib import Path\n"
        "from test_watch_store import Kept, event\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "kept = Kept(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))\n"
        "kept.store.put(event(1), b'x' * 30000)\n"
        "kept.until(lambda: kept.disk.startswith('failing'))\nprint(kept.disk)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "kept.until(lambda: kept.store.flush() and kept.store.snapshot(event(1).id) is not None)\n"
        "kept.store.close()\n"
    )
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), here], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "failing: " in done.stdout


def test_a_folder_that_was_taken_away_is_made_anew(kept: Kept) -> None:
    kept.store.put(event(1), b"picture")
    assert kept.store.flush()
    shutil.rmtree(kept.folder)
    kept.store.put(event(2), b"picture")
    kept.until(lambda: event(2).id in kept.told.ends())
    kept.until(lambda: kept.store.flush() and bool(kept.store.events()))
    assert [e.id for e in kept.store.events()] == [event(2).id]


# damage


def made(folder: Path, count: int = 50) -> None:
    with Kept(folder) as kept:
        for number in range(count):
            clip = clip_of(kept.store, number) if number % 2 else None
            kept.store.put(event(number, zones=("drive",)), b"picture", clip)
        assert kept.store.flush()
        kept.store.sent(event(3).id)
        kept.store.delete(event(4).id)
        kept.store.put(event(count, ended=False))


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def noisy(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[: len(data)] = random.Random(3).randbytes(len(data))
    path.write_bytes(data)


def noisy_inside(path: Path) -> None:
    with path.open("r+b") as file:
        for page in range(4096, path.stat().st_size, 8192):
            file.seek(page)
            file.write(random.Random(page).randbytes(2000))


def newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE events (a)")


@pytest.mark.parametrize("damage", [truncated, noisy, noisy_inside, newer, foreign])
def test_a_damaged_database_is_set_aside_and_its_events_are_read_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    made(tmp_path)
    damage(tmp_path / "events.db")
    broken = (tmp_path / "events.db").read_bytes()
    with Kept(tmp_path) as kept:
        kept.until(lambda: kept.disk.startswith("ok"))
        (aside,) = (
            p for p in tmp_path.glob("events.db.damaged-*") if p.name[-4:] not in ("-wal", "-shm")
        )
        assert aside.name in kept.disk
        if damage is not newer:
            assert aside.read_bytes() == broken
        found = {e.id: e for e in kept.store.events(limit=1000)}
        assert set(found) == {event(n).id for n in range(51) if n != 4}
        assert found[event(5).id] == event(5, zones=("drive",), snapshot=True, clip=True)
        assert found[event(50).id].why == "stopped" or found[event(50).id].why == "cut off"
        waiting = {e.id for e in kept.store.unsent(1000)}
        assert waiting == set(found) - {event(3).id}
        assert all(name.startswith(aside.name) for name in strays(tmp_path, list(found.values())))


@pytest.mark.parametrize("damage", [emptied, Path.unlink])
def test_a_database_that_is_gone_is_made_from_the_journals(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    made(tmp_path)
    damage(tmp_path / "events.db")
    with Kept(tmp_path) as kept:
        assert len(kept.store.events(limit=100)) == 50


def test_a_database_damaged_while_it_is_used(tmp_path: Path) -> None:
    with Kept(tmp_path) as kept:
        for number in range(2000):
            kept.store.put(event(number))
        assert kept.store.flush()
        kept.store._table._write.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
        noisy(tmp_path / "events.db")
        numbers = iter(range(2000, 10_000))

        def mended() -> bool:
            try:
                kept.store.put(event(next(numbers)))
                return len(kept.store.events(limit=2000)) == 2000 and bool(
                    list(tmp_path.glob("events.db.damaged-*"))
                )
            except OnchipError:
                return False

        kept.until(mended, 20)
        assert kept.store.flush()
        last = next(numbers)
        assert kept.store.figures()[0] == last
        assert set(kept.told.ends()) == {event(n).id for n in range(last)}


def test_rows_that_a_power_cut_took_come_from_the_journal(tmp_path: Path) -> None:
    made(tmp_path)
    with Table(tmp_path / "events.db") as table, table.writing():
        table.remove([event(7).id, event(9).id])
    for path in tmp_path.rglob("events.jsonl"):
        with path.open("a") as file:
            file.write('{"event":{"id":"torn')
    with Kept(tmp_path) as kept:
        found = {e.id for e in kept.store.events(limit=100)}
        assert {event(7).id, event(9).id} <= found and event(4).id not in found
        kept.store.put(event(60))
        assert kept.store.flush()
        lines = [line for day in kept.store._files.days() for line in kept.store._files.noted(day)]
        assert Line(event=event(60)) in lines  # the torn line did not take it along


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    made(tmp_path)
    day = next((tmp_path / "events").iterdir())
    (day / "holiday.jpg").write_bytes(b"mine")
    with Kept(tmp_path, Keep(days=0.001), clock=at(NOW + 86_400)) as kept:
        kept.until(lambda: kept.store.figures()[0] == 0)
    assert (day / "holiday.jpg").read_bytes() == b"mine"


# what goes


class Wall:
    """A wall clock that can be set, and a steady one that can be let run."""

    def __init__(self, wall: float) -> None:
        self.wall, self.steady = wall, 0.0

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.steady)

    def run(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def at(wall: float) -> Clock:
    return Wall(wall).clock()


def due(kept: Kept) -> None:
    """Let what is done now and then be done now; twice, for it may have been under way already."""
    for _ in range(2):
        kept.store._due = 0.0
        with kept.store._changed:
            kept.store._changed.notify_all()
        kept.until(lambda: kept.store._due > time.monotonic() + 1)  # all that is too much went


def test_events_go_by_age_and_open_ones_stay(tmp_path: Path) -> None:
    wall = Wall(NOW)
    with Kept(tmp_path, Keep(days=7), clock=wall.clock()) as kept:
        for number in range(1, 11):
            kept.store.put(event(number, start=NOW - number * 86_400), b"picture")
        kept.store.put(event(99, start=NOW - 30 * 86_400, ended=False))
        assert kept.store.flush()
        due(kept)
        kept.until(lambda: kept.store.figures()[0] == 8)
        assert {e.id for e in kept.store.events()} == {event(n).id for n in (*range(1, 8), 99)}
        assert (
            len(list((tmp_path / "events").iterdir())) == 8
        )  # the folders of days without events went


@pytest.mark.parametrize("jump", [-50 * 365 * 86_400, 73 * 365 * 86_400, 86_400 * 30])
def test_a_clock_that_jumps_deletes_nothing(tmp_path: Path, jump: float) -> None:
    wall = Wall(NOW)
    with Kept(tmp_path, Keep(days=7), clock=wall.clock()) as kept:
        kept.store.put(event(1, start=NOW - 6 * 86_400))
        assert kept.store.flush()
        due(kept)
        wall.wall += jump
        for _ in range(50):
            wall.run(60)
            due(kept)
        assert "the clock jumped" in kept.disk
        kept.store.put(event(2, start=wall.wall))  # in 1976, or in 2099
        assert kept.store.flush()
        wall.wall -= jump
        for _ in range(50):
            wall.run(60)
            due(kept)
        assert kept.store.figures()[0] == 2
        for _ in range(20):
            wall.run(60)
            due(kept)
        assert "clock" not in kept.disk and kept.store.figures()[0] == 2
        wall.run(2 * 86_400 - 60)  # drift is no jump; nor is time that passes
        due(kept)
        kept.until(lambda: event(1).id not in {e.id for e in kept.store.events()})


def test_a_clock_that_is_in_doubt_stays_so_over_restarts(tmp_path: Path) -> None:
    wall = Wall(NOW)
    with Kept(tmp_path, Keep(days=7), clock=wall.clock()) as kept:
        kept.store.put(event(1, start=NOW - 86_400))
        assert kept.store.flush()
    wall.wall += 73 * 365 * 86_400
    for _ in range(5):
        with Kept(tmp_path, Keep(days=7), clock=wall.clock()) as kept:
            wall.run(1800)
            due(kept)
            assert kept.store.figures()[0] == 1 and "the clock jumped" in kept.disk


@pytest.mark.parametrize("slept", [-50 * 365 * 86_400, 73 * 365 * 86_400])
def test_a_board_that_wakes_in_another_year_deletes_nothing(tmp_path: Path, slept: float) -> None:
    with Kept(tmp_path, Keep(days=7), clock=at(NOW)) as kept:
        kept.store.put(event(1, start=NOW - 86_400))
        assert kept.store.flush()
    wall = Wall(NOW + slept)
    with Kept(tmp_path, Keep(days=7), clock=wall.clock()) as kept:
        kept.until(lambda: "the clock jumped" in kept.disk)
        due(kept)
        assert kept.store.figures()[0] == 1


def test_events_go_by_size_clips_first(tmp_path: Path) -> None:
    keep = Keep(gigabytes=1e-3)
    with Kept(tmp_path, keep) as kept:
        for number in range(30):
            kept.store.put(event(number), b"p" * 5000, clip_of(kept.store, number, b"v" * 50_000))
        kept.store.put(event(99, ended=False), b"p" * 5000, clip_of(kept.store, 99, b"v" * 50_000))
        assert kept.store.flush()
        due(kept)
        assert kept.store.figures()[1] < 1_000_000
        events = sorted(kept.store.events(limit=100), key=lambda e: e.id)
        assert len(events) == 31 and all(e.snapshot for e in events)
        clips = [e.clip for e in events]
        assert clips == sorted(clips) and True in clips and False in clips
        assert strays(tmp_path, events) == []
        for number in range(100, 400):
            kept.store.put(event(number), b"p" * 5000)
        assert kept.store.flush()
        due(kept)
        assert kept.store.figures()[1] < 1_000_000
        events = sorted(kept.store.events(limit=1000), key=lambda e: e.id)
        assert [e.clip for e in events if e.id != event(99).id] == [False] * 330
        assert next(e for e in events if e.id == event(99).id).clip  # it lasts
        assert len(events) == 331 and strays(tmp_path, events) == []


def test_the_last_of_the_disk_stays_free(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "FLOOR_PART", 0.25)
    with Kept(small_disk / "watch") as kept:
        for number in range(8):
            kept.store.put(event(number), b"picture", clip_of(kept.store, number, b"v" * 400_000))
        assert kept.store.flush()
        due(kept)
        kept.until(lambda: shutil.disk_usage(small_disk).free >= 1 << 20)
        clips = [e.clip for e in sorted(kept.store.events(), key=lambda e: e.id)]
        assert clips == sorted(clips) and clips[-1]


# lists


def test_pages_of_a_list_hold_each_event_once(kept: Kept) -> None:
    labels, cameras, zones = (
        ("car", "dog", "person"),
        ("front", "yard"),
        ((), ("drive",), ("lawn", "drive")),
    )
    for number in range(500):
        one = event(
            number, label=labels[number % 3], camera=cameras[number % 2], zones=zones[number % 3]
        )
        kept.store.put(one)
    assert kept.store.flush()

    def ids(**wanted: Any) -> list[int]:
        found: list[int] = []
        while page := kept.store.events(
            before=f"{found[-1]:016x}" if found else None, limit=37, **wanted
        ):
            found += [int(e.id, 16) for e in page]
            if len(found) == 74:
                kept.store.delete(f"{found[-1]:016x}")  # the list goes on from what is gone
        return found

    assert ids() == list(reversed(range(500)))
    there = [int(e.id, 16) for e in kept.store.events(limit=1000)]
    assert ids(label="dog") == [n for n in there if n % 3 == 1]
    there = [int(e.id, 16) for e in kept.store.events(limit=1000)]
    assert ids(camera="yard", label="car") == [n for n in there if n % 2 and n % 3 == 0]
    there = [int(e.id, 16) for e in kept.store.events(limit=1000)]
    assert ids(zone="lawn") == [n for n in there if n % 3 == 2]
    assert ids(zone="law") == ids(camera="nobody") == ids(label="' OR 1 --") == []


def test_a_hundred_thousand_events_are_listed_without_reading_them_all(tmp_path: Path) -> None:
    with Table(tmp_path / "events.db") as table, table.writing():
        for number in range(100_000):
            one = event(number, label=f"label{number % 7}", camera=f"camera{number % 5}")
            table.put(Row(one, "2026-11-21", sent=True))
        for query, values in (
            ("id < ? ORDER BY id DESC LIMIT 50", ("x",)),
            ("camera = ? AND id < ? ORDER BY id DESC LIMIT 50", ("camera1", "x")),
            ("label = ? AND id < ? ORDER BY id DESC LIMIT 50", ("label1", "x")),
            ("sent = 0 AND ended IS NOT NULL ORDER BY ended LIMIT 50", ()),
            ("clip > 0 AND ended IS NOT NULL ORDER BY id LIMIT 50", ()),
        ):
            plan = table._write.execute(
                f"EXPLAIN QUERY PLAN SELECT * FROM events WHERE {query}", values
            )
            told = " ".join(str(row[3]) for row in plan)
            assert "INDEX" in told and "TEMP B-TREE" not in told, told
    with Kept(tmp_path) as kept:
        assert kept.store.figures()[0] == 100_000
        assert (
            len(kept.store.events(before=event(50_000).id, camera="camera3", label="label2")) == 50
        )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), max_size=30))
def test_whatever_comes_in_whatever_order_an_event_begins_once_and_ends_once(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, bool, bool]]
) -> None:
    with Kept(tmp_path_factory.mktemp("any")) as kept:
        for number, ended, pictured in puts:
            kept.store.put(event(number, ended=ended), b"picture" if pictured else None)
            if pictured:
                kept.store.flush()
        assert kept.store.flush()
        for number in {number for number, _, _ in puts}:
            told = [kind for kind, name in kept.told if name == event(number).id]
            ended = any(e for n, e, _ in puts if n == number)
            assert told[0] == "new" and told.count("new") == 1 and told.count("end") == ended
            found = kept.store.event(event(number).id)
            assert found is not None and (found.end is not None) == ended
            assert found.snapshot == any(p for n, _, p in puts if n == number)
