"""A whole watch under random faults: it is well again within seconds, and no end is lost.

Cameras, broker, disk, page and process are real; the chip is a stand-in that sees somebody come and
go. ONCHIP_FAULTS is how many faults there are, and ONCHIP_SEED which.
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import av
import cv2
import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="pip install 'onchip[watch]'")

from onchip.watch.config import Keep
from onchip.watch.health import RECENT, SOON, Backoff, Health
from onchip.watch.store import Store
from onchip.watch.values import Event

import disks
import rtsp
from annotating import Visitor
from broker import Listener, Mosquitto

CHILD = Path(__file__).with_name("watch_faults_child.py")
MOST = 10.0  # seconds after which all must be well again
PATIENCE = 45.0  # seconds after which it is given up
FEW = 12  # faults of a quick run, which last shorter
PASSWORD = "tea and cake"
CAMERAS = {"front": "gate", "yard": "gate", "lane": "road"}  # and which server sends it
CONFIG = """
model = "none.onchip"
data = "{disk}/kept"
[mqtt]
host = "127.0.0.1"
port = {broker}
[page]
port = {page}
password_file = "password"
"""
CAMERA = """
[cameras.{name}]
url = "{url}"
clip = {{before = 1, after = 1}}
motion = {motion}
fps = 8
"""


class Told:
    """What a program says of events on its output, over its restarts."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.events: dict[str, Any] = {}
        self._lock = threading.Lock()

    def read(self, output: Any) -> None:
        for line in output:
            if line.startswith("{"):
                event = json.loads(line)
                with self._lock:
                    self.ends[event["id"]] += event["end"] is not None
                    if event["end"] is not None:
                        self.events[event["id"]] = event

    def ended(self) -> dict[str, Any]:
        with self._lock:
            return dict(self.events)


class Heard:
    """The ends that a subscriber heard of."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._ends: set[str] = set()
        self._read = 0

    def ends(self) -> set[str]:
        new = self.listener.messages[self._read :]
        self._read += len(new)
        for message in new:
            if message.topic == "onchip/events" and message.json["type"] == "end":
                self._ends.add(message.json["event"]["id"])
        return self._ends


class Place:
    """A house with cameras, a broker, a disk, and a watch in a process of its own."""

    def __init__(
        self, folder: Path, servers: dict[str, rtsp.Server], clips: dict[str, list[Path]],
        broker: Mosquitto, listener: Listener, disk: Path,
    ) -> None:  # fmt: skip
        self.folder, self.servers, self.clips = folder, servers, clips
        self.broker, self.listener, self.disk = broker, listener, disk
        self.kept, self.switch = disk / "kept", folder / "chip"
        self.told, self.heard = Told(), Heard(listener)
        self.paged: set[str] = set()  # ends of which the page told
        self.seen: set[str] = set()  # ends that were found to be kept
        self.process: subprocess.Popen[str] | None = None
        port = rtsp.free_port()
        text = CONFIG.format(disk=disk, broker=broker.port, page=port)
        for name, server in CAMERAS.items():
            motion = "{}" if name == "lane" else "false"
            text += CAMERA.format(name=name, url=servers[server].url(name), motion=motion)
        (folder / "cameras.toml").write_text(text)
        (folder / "password").write_text(PASSWORD)
        where = SimpleNamespace(
            server=SimpleNamespace(port=port), origin=f"http://127.0.0.1:{port}"
        )
        self.page = Visitor(where, enter=False)  # type: ignore[arg-type]

    def start(self) -> None:
        assert self.process is None
        with (self.folder / "errors").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(CHILD), "cameras.toml", str(self.switch)], cwd=self.folder,
                stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self.reader = threading.Thread(target=self.told.read, args=(self.process.stdout,))
        self.reader.start()

    def stop(self, how: signal.Signals) -> int:
        """End the program, and read all that it said."""
        assert self.process is not None and self.process.poll() is None, self.errors()
        process, self.process = self.process, None
        process.send_signal(how)
        code = process.wait(20)
        self.reader.join()
        assert process.stdout is not None
        process.stdout.close()
        return code

    def errors(self) -> str:
        return (self.folder / "errors").read_text()[-6000:]

    def ask(self, path: str) -> Any:
        """Ask the page; None where it is not there or says no."""
        try:
            if not self.page.cookie:
                body = f"password={quote(PASSWORD)}".encode()
                form = {"Content-Type": "application/x-www-form-urlencoded"}
                self.page("POST", "/login", body, form)
            answer = self.page("GET", path)
        except OSError:
            return None
        return answer if answer.status == 200 else None

    def missing(self, since: float) -> str:
        """Return what is not as it should be since a time of the wall clock; nothing if all is."""
        assert self.process is not None and self.process.poll() is None, self.errors()
        return self._failing() or self._no_news(since) or self._lost()

    def _failing(self) -> str:
        answer = self.ask("/api/state")
        if answer is None:
            return "the page does not answer"
        state = answer.json
        parts = [c["part"] for c in state["cameras"]]
        parts += [p for p in state["parts"] if p["name"] in ("chip", "disk", "broker")]
        return "; ".join(f"{p['name']}: {p['message']}" for p in parts if p["state"] != "ok")

    def _no_news(self, since: float) -> str:
        """For each camera an event began since, and has ended; all were told of that."""
        ended, heard = self.told.ended(), self.heard.ends()
        new = [e for e in ended.values() if e["start"] >= since and e["id"] in heard]
        quiet = CAMERAS.keys() - {event["camera"] for event in new}
        if quiet:
            return f"no event of {', '.join(sorted(quiet))} has ended and was told"
        unheard = {i for i, e in ended.items() if e["end"] < since} - heard
        return f"the broker was not told of the ends of {unheard}" if unheard else ""

    def _lost(self) -> str:
        """All that was told is kept, with its picture; a video that is said to be there plays."""
        page = self.ask("/api/events?limit=50")
        if page is None:
            return "the page gives no events"
        self.paged |= {e["id"] for e in page.json["events"] if e["end"] is not None}
        for event in sorted(self.told.ended().keys() - self.seen):
            if why := self._unkept(event):
                return f"{event}: {why}"
            self.seen.add(event)
        return ""

    def _unkept(self, event: str) -> str:
        found = self._event(event)
        if found is None or found["end"] is None:
            return f"it is not kept as ended: {found}"
        if found["snapshot"] or found["why"] != "cut off":
            picture = self.ask(f"/api/events/{event}/snapshot.jpg")
            if picture is None or not readable(picture.body):
                return f"there is no picture of it: {found}"
        if found["clip"]:
            clip = self.ask(f"/api/events/{event}/clip.mp4")
            again = self._event(event)  # a full disk may have made it go meanwhile
            if again and again["clip"] and (clip is None or not plays(io.BytesIO(clip.body))):
                return f"its video does not play: {again}"
        return ""

    def _event(self, event: str) -> Any:
        answer = self.ask(f"/api/events/{event}")
        return answer and answer.json["event"]


def readable(data: bytes) -> bool:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return image is not None and data.endswith(b"\xff\xd9")


def plays(file: Any) -> bool:
    """Whether pictures come of a video; junk that a camera sent between them is in it too."""
    pictures = 0
    with av.open(file) as video:
        for packet in video.demux(video=0):
            with suppress(av.InvalidDataError):
                pictures += len(packet.decode())
    return pictures > 0


def test_what_failed_lately_is_tried_again_within_seconds() -> None:
    now = 0.0
    backoff = Backoff(1.0, 30.0, lambda: now)
    for after, most in ((0, SOON), (RECENT - 1, SOON), (RECENT + 200, 30.0)):
        now = after
        waits = [backoff.failed() for _ in range(8)]
        assert 0.75 * most <= max(waits) <= most
    backoff.worked()
    assert max(backoff.failed() for _ in range(8)) <= SOON  # another failure, another time


# Faults; each returns when it is over.


@dataclass(frozen=True)
class Chance:
    """What is left to chance in a fault: most are short, some long."""

    random: random.Random
    longest: float

    def seconds(self) -> float:
        return 0.3 + self.random.random() ** 3 * self.longest

    def wait(self) -> None:
        time.sleep(self.seconds())

    def rarely(self) -> bool:
        return self.random.random() < 0.3

    def camera(self) -> str:
        return self.random.choice(list(CAMERAS))

    def server(self, place: Place) -> rtsp.Server:
        return place.servers[self.random.choice(list(place.servers))]


def server_killed(place: Place, chance: Chance) -> None:
    server = chance.server(place)
    server.kill()
    chance.wait()
    server.start()


def server_frozen(place: Place, chance: Chance) -> None:
    server = chance.server(place)
    server.freeze()
    chance.wait()
    server.thaw()


def bad_stream(place: Place, chance: Chance, what: Any) -> None:
    name = chance.camera()
    server = place.servers[CAMERAS[name]]
    server.send(name, what)
    chance.wait()
    server.send(name, "video")


def other_size(place: Place, chance: Chance) -> None:
    name = chance.camera()
    clips = place.clips[name]
    clips.reverse()
    place.servers[CAMERAS[name]].show(name, clips[0])


def broker_killed(place: Place, chance: Chance) -> None:
    """Now and then the watch is killed, too: what the broker does not know it is told later."""
    place.broker.kill()
    chance.wait()
    if chance.rarely():
        killed(place, chance)
        chance.wait()
    assert place.process is not None
    # It keeps nothing: the subscriber must be there before anything is told.
    place.process.send_signal(signal.SIGSTOP)
    place.broker.start()
    place.listener.listening()
    place.process.send_signal(signal.SIGCONT)


def disk_full(place: Place, chance: Chance) -> None:
    """Filled once, or again and again while room is made."""
    end = time.monotonic() + 1 + chance.seconds()
    again = not chance.rarely()
    other = disks.fill(place.disk)
    while time.monotonic() < end:
        time.sleep(0.05)
        if again:
            disks.fill(place.disk)
    other.unlink()


def chip_fails(place: Place, chance: Chance) -> None:
    new = place.switch.with_suffix(".new")
    new.write_text(chance.random.choice(["device", "other"]))
    new.replace(place.switch)
    chance.wait()
    place.switch.unlink()


def killed(place: Place, chance: Chance) -> None:
    assert place.stop(signal.SIGKILL) == -signal.SIGKILL
    place.start()


def stopped(place: Place, chance: Chance) -> None:
    assert place.stop(signal.SIGTERM) == 0, place.errors()
    place.start()


FAULTS: dict[str, Callable[[Place, Chance], None]] = {
    "RTSP server killed": server_killed,
    "RTSP server frozen": server_frozen,
    "junk for video": partial(bad_stream, what="junk"),
    "nothing for video": partial(bad_stream, what="nothing"),
    "other size": other_size,
    "broker killed": broker_killed,
    "disk full": disk_full,
    "chip fails": chip_fails,
    "kill -9": killed,
    "SIGTERM": stopped,
}


def drawn(count: int, chance: random.Random, kinds: list[str]) -> Iterator[str]:
    """Yield kinds of faults, each as often as the others."""
    while count > 0:
        chance.shuffle(kinds)
        yield from kinds[:count]
        count -= len(kinds)


def clips(data: Path, folder: Path) -> dict[str, list[Path]]:
    """Make little clips of the real ones, of two sizes for each camera."""
    sizes = {"front": (320, 180), "yard": (288, 160), "lane": (256, 144)}
    sources = sorted((data / "video").glob("*.mp4"))
    found: dict[str, list[Path]] = {}
    for number, (name, (width, height)) in enumerate(sizes.items()):
        source = sources[number % len(sources)]
        small, large = (width, height), (width + 64, height + 36)
        found[name] = [
            rtsp.clip(source, folder / f"{name}-{size[0]}.mp4", size=size, fps=10)
            for size in (small, large)
        ]
    return found


@contextmanager
def built(data: Path, folder: Path, disk: Path) -> Iterator[Place]:
    made = clips(data, folder)
    servers = {
        server: rtsp.Server({n: made[n][0] for n, s in CAMERAS.items() if s == server})
        for server in sorted(set(CAMERAS.values()))
    }
    with Mosquitto(folder) as broker, Listener(broker) as listener:
        place = Place(folder, servers, made, broker, listener, disk)
        try:
            for server in servers.values():
                server.start()
            place.start()
            yield place
        finally:
            for server in servers.values():
                server.kill()
            if place.process is not None:
                place.stop(signal.SIGKILL)


def well(place: Place) -> tuple[float, str]:
    """Wait until all is well again; returns the seconds that it took, and what took longest."""
    since, last = time.time(), ""
    while why := place.missing(since):
        assert time.time() - since < PATIENCE, f"{why}\n{place.errors()}"
        last = why
        time.sleep(0.1)
    return time.time() - since, last


@contextmanager
def disk_of(folder: Path, megabytes: int) -> Iterator[tuple[Path, bool]]:
    """Give a small disk, or where none may be mounted, a folder; and whether it is a disk."""
    try:
        mounting = disks.small(folder, megabytes)
        mounted = mounting.__enter__()
    except pytest.skip.Exception:
        yield folder, False
        return
    try:
        yield mounted, True
    finally:
        mounting.__exit__(None, None, None)


@pytest.mark.alone
@pytest.mark.live
@pytest.mark.data
def test_random_faults(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = int(os.environ.get("ONCHIP_FAULTS", len(FAULTS)))
    chance = random.Random(int(os.environ.get("ONCHIP_SEED", "1")))
    took: dict[str, list[float]] = {}
    with (
        disk_of(tmp_path / "disk", 24 + count) as (disk, small),
        built(data, tmp_path, disk) as place,
    ):
        kinds = [kind for kind in FAULTS if small or kind != "disk full"]
        well(place)
        for number, kind in enumerate(drawn(count, chance, kinds)):
            FAULTS[kind](place, Chance(chance, 1.0 if count <= FEW else 15.0))
            seconds, last = well(place)
            took.setdefault(kind, []).append(seconds)
            if count > FEW:
                with capsys.disabled():
                    print(f"{number + 1:4} {kind:<20} {seconds:5.1f} s  {last}", flush=True)
        kept = ended_well(place)
        table = [f"{kind:<20} {len(s):3} times, worst {max(s):4.1f} s" for kind, s in took.items()]
        with capsys.disabled():
            print("", *table, f"{len(kept)} events, none lost", sep="\n")
    assert max(max(seconds) for seconds in took.values()) <= MOST, table


def ended_well(place: Place) -> dict[str, Event]:
    """Stop the watch, and hold what it kept against what was told; returns what it kept."""
    assert place.stop(signal.SIGTERM) == 0, place.errors()
    assert "Traceback" not in place.errors()
    kept: dict[str, Event] = {}
    with Store(place.kept, Keep(), Health(), lambda event, kind: None) as store:
        while page := store.events(before=min(kept, default=None), limit=500):
            kept |= {event.id: event for event in page}
        assert not store.unsent(10)
        assert all(event.end is not None for event in kept.values())
        for event in kept.values():
            picture, clip = store.snapshot(event.id), store.clip(event.id)
            assert event.why == "cut off" or (picture and readable(picture.read_bytes())), event
            assert event.clip == (clip is not None) and (clip is None or plays(str(clip))), event
    told = place.told.ended()
    place.listener.until(lambda messages: kept.keys() <= place.heard.ends())
    assert told.keys() | place.heard.ends() | place.paged <= kept.keys()
    assert all(times == 1 for event, times in place.told.ends.items() if event in told)
    assert any(event.clip for event in kept.values())
    return kept
