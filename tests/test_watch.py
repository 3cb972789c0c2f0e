"""A whole watch: cameras, a shared chip, what fails and comes back, and the command."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from onchip.artifact import save
from onchip.build import Options, build
from onchip.cli.watch import _teller
from onchip.detect.save import VideoWriter
from onchip.detections import Detections
from onchip.errors import DeviceError, InputError, ToolError, UnsupportedError
from onchip.quantize.recipe import RECIPES
from onchip.vision.preprocess import Image
from onchip.watch import camera as cameras
from onchip.watch import chip as chips
from onchip.watch.camera import Lookout
from onchip.watch.chip import FRESH, Chip, Load
from onchip.watch.config import Camera, Config, Motion, read
from onchip.watch.events import News, ids
from onchip.watch.figures import Busy, Processor
from onchip.watch.health import Backoff, Health, keep_trying, told
from onchip.watch.values import CameraState, Event, PartState
from onchip.watch.watch import Watch, limit

import graphs
from broker import Listener, Mosquitto
from conftest import Cli

LABELS = ("person", "car")
SOON = 15.0  # seconds that anything here may take


def until(true: Callable[[], object], within: float = SOON) -> None:
    """Wait until something is true."""
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@dataclass(eq=False)
class StandIn:
    """A chip that takes a fixed time for each image, one at a time, and sees what it is told to."""

    seconds: float = 0.0
    see: Callable[[Image], Detections] = lambda image: Detections.empty()
    labels: tuple[str, ...] = LABELS
    parallel: bool = False
    depth: int = 1
    fails: Exception | None = None
    held: threading.Event = field(default_factory=threading.Event)
    hangs: bool = False
    looks: int = 0
    at_once: int = 0
    most_at_once: int = 0
    closed: bool = False

    def __call__(self, image: Image) -> Detections:
        assert not self.closed, "it was used after it had been closed"
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.fails is not None:
                raise self.fails
            if self.hangs and self.looks:
                self.held.wait(SOON)
            time.sleep(self.seconds)
            self.looks += 1
            return self.see(image)
        finally:
            self.at_once -= 1

    def close(self) -> None:
        self.closed = True


def one(x: float, size: tuple[int, int] = (320, 240), score: float = 0.9) -> Detections:
    """A person at a place of a picture."""
    box = np.asarray([[x, 0.2, x + 0.2, 0.8]]) * np.asarray([*size, *size])
    return Detections(box, np.asarray([score]), np.asarray([0]))


def walker(image: Image) -> Detections:
    """Someone who walks to and fro, in whatever picture."""
    x = 0.1 + 0.5 * abs(time.monotonic() / 4 % 2 - 1)
    return one(x, (image.shape[1], image.shape[0]))


@dataclass(eq=False)
class Shot:
    """A picture without a camera."""

    at: float
    wall: float = 1.7e9
    size: tuple[int, int] = (320, 240)
    broken: bool = False

    def bgr(self) -> Image:
        if self.broken:
            raise ValueError("no such colours")
        return np.full((self.size[1], self.size[0], 3), 90, np.uint8)

    def gray(self) -> np.ndarray:
        return np.full(self.size[::-1], 90, np.uint8)


def shot(**more: object) -> Shot:
    return Shot(time.monotonic(), **more)  # type: ignore[arg-type]


# Fairness


class Taker:
    """Takes what was seen, and counts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ats: list[float] = []
        self.ages: list[float] = []
        self.errors: list[Exception] = []
        self.inside = 0

    def seen(self, picture: Shot, found: Detections, labels: tuple[str, ...]) -> None:
        self.inside += 1
        assert self.inside == 1, "two pictures of one camera at once"
        self.ats.append(picture.at)
        self.ages.append(time.monotonic() - picture.at)
        self.inside -= 1

    def unseen(self, error: Exception) -> None:
        self.errors.append(error)


@contextmanager
def running(chip: Chip) -> Iterator[Chip]:
    with chip:
        chip.start()
        yield chip


def offer(chip: Chip, rates: dict[Taker, float], seconds: float) -> Counter[Taker]:
    """Offer pictures of several cameras, so many a second each, and count them."""
    start, offered = time.monotonic(), Counter[Taker]()
    due = {taker: start + number * 0.003 for number, taker in enumerate(rates)}
    while (now := time.monotonic()) < start + seconds:
        for taker, rate in rates.items():
            if now >= due[taker]:
                due[taker] += 1 / rate
                offered[taker] += 1
                chip.offer(taker, shot())
        time.sleep(0.001)
    return offered


def test_a_busy_camera_takes_no_turn_from_quiet_ones() -> None:
    stand = StandIn(0.010)
    busy, quiet = Taker("busy"), [Taker(f"quiet {n}") for n in range(8)]
    with running(Chip(lambda: stand, Health())) as chip:
        offered = offer(chip, {busy: 200.0, **dict.fromkeys(quiet, 4.0)}, 3.0)
    for taker in quiet:
        assert len(taker.ats) >= 0.8 * offered[taker] - 1
    assert len(busy.ats) > 3 * max(len(taker.ats) for taker in quiet)  # what is left is its own
    assert stand.most_at_once == 1


def test_more_than_the_chip_can_do_is_shared_and_never_old() -> None:
    stand = StandIn(0.010)
    takers = [Taker(f"camera {n}") for n in range(20)]
    with running(Chip(lambda: stand, Health())) as chip:
        offer(chip, dict.fromkeys(takers, 15.0), 3.0)
        load = chip.load()
    counts = [len(taker.ats) for taker in takers]
    assert min(counts) >= 0.7 * max(counts)
    assert max(age for taker in takers for age in taker.ages) < FRESH + 0.2
    assert all(taker.ats == sorted(taker.ats) for taker in takers)
    assert load.busy > 0.8
    assert load.ms == pytest.approx(10, rel=0.5)


def test_an_old_picture_is_not_looked_at_and_keeps_its_turn() -> None:
    stand, taker, other = StandIn(), Taker("slow"), Taker("other")
    with running(Chip(lambda: stand, Health())) as chip:
        chip.offer(taker, Shot(time.monotonic() - FRESH - 0.1))
        chip.offer(other, shot())
        until(lambda: other.ats)
        assert not taker.ats
        chip.offer(taker, shot())
        until(lambda: taker.ats)


def test_several_requests_are_under_way_where_a_chip_takes_them() -> None:
    stand = StandIn(0.02, parallel=True, depth=3)
    takers = [Taker(f"camera {n}") for n in range(8)]
    with running(Chip(lambda: stand, Health())) as chip:
        offer(chip, dict.fromkeys(takers, 30.0), 1.0)
    assert stand.most_at_once == 3


# A chip that fails


def states(health: Health) -> list[str]:
    told_: list[str] = []
    health.on_change.append(lambda part: told_.append(f"{part.name} {part.state}"))
    return told_


@pytest.mark.parametrize(
    "error",
    [ToolError("it broke", "mend it"), DeviceError("gone"), ValueError("odd"), MemoryError()],
)
def test_a_chip_that_fails_is_opened_again(error: Exception) -> None:
    health, made, taker = Health(), [], Taker("camera")
    changes = states(health)

    def opened() -> StandIn:
        if len(made) == 1:
            made.append(StandIn())
            raise DeviceError("it is not there yet")
        made.append(StandIn())
        return made[-1]

    with running(Chip(opened, health)) as chip:
        until(lambda: (chip.offer(taker, shot()), taker.ats)[1])
        made[0].fails = error
        before = len(taker.ats)
        until(lambda: (chip.offer(taker, shot()), len(taker.ats) > before + 3)[1], 10.0)
        assert made[0].closed and len(made) == 3
        assert health.part("chip").state == "ok"
    assert changes.count("chip failing") >= 2
    assert made[2].closed
    assert not taker.errors  # a camera is not to blame


def test_a_chip_that_fails_at_every_look_is_tried_less_and_less() -> None:
    health, opened = Health(), []

    def broken() -> StandIn:
        opened.append(time.monotonic())
        return StandIn(fails=ToolError("no"))

    with running(Chip(broken, health)):
        until(lambda: len(opened) == 3)
        assert health.part("chip").retry is not None
    assert opened[2] - opened[1] > 1.2 * (opened[1] - opened[0])


def test_a_hanging_chip_keeps_nobody_from_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chips, "HANGS", 0.2)
    health, stand, taker = Health(), StandIn(hangs=True), Taker("camera")
    with running(Chip(lambda: stand, health)) as chip:
        chip.offer(taker, shot())
        until(lambda: health.part("chip").state == "failing")
        assert "has not answered" in health.part("chip").message
        start = time.monotonic()
        chip.close()
        assert time.monotonic() - start < 6
    assert not stand.closed  # it is still at work
    stand.held.set()
    until(lambda: stand.closed)
    assert not taker.ats


def test_a_hanging_chip_that_answers_again_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chips, "HANGS", 0.2)
    health, stand, taker = Health(), StandIn(hangs=True), Taker("camera")
    with running(Chip(lambda: stand, health)) as chip:
        chip.offer(taker, shot())
        until(lambda: health.part("chip").state == "failing")
        stand.hangs = False
        stand.held.set()
        until(lambda: health.part("chip").state == "ok")
        assert taker.ats


def test_keep_trying_waits_longer_each_time_and_ends() -> None:
    health, ends, tries = Health(), threading.Event(), []

    def work() -> None:
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise OSError("no")

    keep_trying(work, "part", health, ends, Backoff(0.02, 1.0))
    assert len(tries) == 4
    assert tries[3] - tries[2] > tries[1] - tries[0]
    assert health.part("part").message == "no"
    ends.set()
    keep_trying(work, "part", health, ends, Backoff())
    assert len(tries) == 4


def test_what_is_told_of_errors_is_one_line() -> None:
    assert told(OSError(2, "No such file")) == "[Errno 2] No such file"
    assert told(KeyError("a\nb" * 500)).count("\n") == 0
    assert len(told(ValueError("x" * 5000))) < 400


# One camera


class Kept:
    """A lookout whose chip is played by the test, and what it tells."""

    def __init__(self, **more: object) -> None:
        self.told: list[tuple[News, bytes | None]] = []
        self.offered: list[Shot] = []
        self.health = Health()
        options = {"url": "usb:0", "name": "front", "motion": None, **more}
        self.camera = Camera(**options)  # type: ignore[arg-type]
        self.clips = Clips()
        config = Config(model=Path("m.onnx"), cameras=(self.camera,))
        self.lookout = Lookout(
            self.camera, config, self, self.health, ids(),  # type: ignore[arg-type]
            lambda news, jpeg: self.told.append((news, jpeg)), self.clips,
        )  # fmt: skip

    def offer(self, taker: object, picture: Shot) -> None:
        self.offered.append(picture)

    def leave(self, taker: object) -> None:
        pass

    def look(self, x: float | None, **more: object) -> None:
        """Let a picture come in which a person is, or nobody, and be looked at."""
        picture = shot(**more)
        self.lookout.take(picture)  # type: ignore[arg-type]
        found = Detections.empty() if x is None else one(x)
        self.lookout.seen(picture, found, LABELS)  # type: ignore[arg-type]
        time.sleep(0.01)

    def kinds(self) -> list[str]:
        return [f"{n.kind} {n.event.why or ''}".strip() for n, _ in self.told if n.kind != "update"]


class Clips:
    """Counts what clips are wanted."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.pictures = 0

    def picture(self, picture: Shot) -> None:
        self.pictures += 1

    def begin(self, event: str, at: float) -> None:
        assert at <= time.monotonic()
        self.begun.append(event)

    def end(self, event: str, at: float) -> None:
        assert at <= time.monotonic()
        self.ended.append(event)


def test_an_event_has_a_snapshot_of_its_best_moment_and_a_clip() -> None:
    kept = Kept()
    for n in range(6):
        kept.look(0.3 + 0.01 * n)
    kept.lookout.close()
    assert kept.kinds() == ["new", "end stopped"]
    first, last = kept.told[0], kept.told[-1]
    assert kept.clips.begun == kept.clips.ended == [first[0].event.id]
    image = cv2.imdecode(np.frombuffer(first[1], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (240, 320, 3) and len(np.unique(image)) > 5  # with its box
    assert last[0].event.end is not None
    kept.look(0.5)  # what comes late changes nothing
    assert kept.kinds() == ["new", "end stopped"]


def test_better_moments_are_written_once_a_second_and_at_the_end() -> None:
    kept = Kept()
    for n in range(20):
        picture = shot()
        kept.lookout.take(picture)  # type: ignore[arg-type]
        kept.lookout.seen(picture, one(0.3, score=0.5 + 0.02 * n), LABELS)  # type: ignore[arg-type]
    kept.lookout.close()
    assert sum(jpeg is not None for _, jpeg in kept.told) == 2
    assert kept.told[-1][1] is not None
    assert kept.told[-1][0].event.score == pytest.approx(0.88, abs=0.03)


def test_a_lost_camera_ends_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "LOST", 0.2)
    kept = Kept(fps=20)
    for _ in range(5):
        kept.look(0.3)
    until(lambda: kept.lookout.tick() or "end lost" in kept.kinds())
    assert kept.lookout.state().objects == 0
    for _ in range(5):
        kept.look(0.3)
    assert kept.kinds() == ["new", "end lost", "new"]


@pytest.mark.parametrize("jump", [1e9, -1e9, -1.7e9, 5e9])
def test_a_clock_that_jumps_changes_no_duration(jump: float) -> None:
    kept = Kept()
    for n in range(10):
        kept.look(0.3, wall=1.7e9 + (jump if n > 4 else 0))
    kept.lookout.close()
    (event,) = (n.event for n, _ in kept.told if n.kind == "end")
    assert event.end is not None and 0 < event.end - event.start < SOON


def test_pictures_that_cannot_be_used_are_shown_and_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cameras, "MENDED", 0.05)
    kept = Kept()
    kept.look(0.3)
    kept.look(0.3, broken=True)
    kept.look(0.3, broken=True)
    kept.look(0.3, broken=True)
    assert kept.kinds() == ["new"]  # though there is no picture of it
    assert kept.health.part("front").state == "failing"
    assert "no such colours" in kept.health.part("front").message
    time.sleep(0.06)
    kept.look(0.3)
    assert kept.health.part("front").state == "ok"


def test_what_is_shown_has_numbers_that_grow() -> None:
    kept = Kept()
    assert kept.lookout.latest() is None
    assert kept.lookout.wait(0, 0.01) is None
    kept.look(None)
    first = kept.lookout.wait(0, 1.0)
    assert first is not None
    thread = threading.Thread(target=lambda: (time.sleep(0.05), kept.look(0.3)))
    thread.start()
    later = kept.lookout.wait(first.number, SOON)
    thread.join()
    assert later is not None and later.number > first.number


def test_without_motion_nothing_is_looked_at_and_pictures_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cameras, "HOLD", 0.1)
    kept = Kept(motion=Motion())
    kept.lookout.take(shot())  # type: ignore[arg-type]
    assert len(kept.offered) == 1  # the first is looked at
    time.sleep(0.15)
    for _ in range(5):
        kept.lookout.take(shot())  # type: ignore[arg-type]
    assert len(kept.offered) == 1
    view = kept.lookout.latest()
    assert view is not None and view.number >= 5
    assert not kept.lookout.state().motion


# What limits it


def state(fps: float, missed: float = 0) -> CameraState:
    part = PartState(name="front", state="ok")
    return CameraState(name="front", part=part, fps=fps, wanted_fps=5, missed_fps=missed)


@pytest.mark.parametrize(
    ("fps", "load", "processor", "own", "says"),
    [
        (5.0, 0.2, 0.2, 0.2, "nothing"),
        (5.0, 0.97, 0.5, 0.5, "the chip"),
        (5.0, 0.5, 0.97, 0.9, "processor: cameras of smaller pictures"),
        (5.0, 0.5, 0.97, 0.2, "other programs take 77%"),
        (3.0, 0.5, 0.5, 0.5, "front (3.0 of 5)"),
        (3.0, 0.97, 0.97, 0.9, "the chip"),
    ],
)
def test_what_limits(fps: float, load: float, processor: float, own: float, says: str) -> None:
    assert says in limit([state(fps)], Load(load, 60, 16), processor, own)


def test_what_one_process_can_do_is_a_limit_too() -> None:
    load = Load(0.7, 60, 16)
    assert "one process" in limit([state(5, missed=2)], load, 0.8, 0.8)


def test_the_processor_is_measured() -> None:
    processor = Processor()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    busy, own = processor()
    assert 0 < own <= busy <= 1


def test_busy_counts_what_overlaps_once() -> None:
    busy = Busy()

    def work() -> None:
        with busy.work():
            time.sleep(0.3)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    part, rate, mean = busy.figures()
    assert part <= 1 and rate > 0 and mean == pytest.approx(0.3, rel=0.5)


# All of it


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten seconds of a bright square that moves."""
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10) as video:
        for n in range(100):
            image = np.full((240, 320, 3), 60, np.uint8)
            cv2.rectangle(image, (10 + 2 * n, 60), (60 + 2 * n, 180), (220, 220, 220), -1)
            video.write(image, n / 10)
    return path


def written(
    tmp_path: Path, clip: Path, model: str = "model.onnx", more: str = "", count: int = 2
) -> Path:
    file = tmp_path / "cameras.toml"
    listed = "".join(f'[cameras.c{n}]\nurl = "{clip}"\nfps = 10\n' for n in range(count))
    file.write_text(f'model = "{model}"\ndata = "kept"\n{more}\n{listed}')
    return file


def left_over() -> list[str]:
    return [t.name for t in threading.enumerate() if t is not threading.main_thread()]


def test_a_watch_from_cameras_to_events(tmp_path: Path, clip: Path) -> None:
    before = set(left_over())
    stand, heard = StandIn(0.008, walker), []
    with Watch(read(written(tmp_path, clip)), open_chip=lambda: stand) as watch:
        watch.subscribe(lambda event, kind: heard.append((kind, event.camera)))
        watch.start()
        until(lambda: {("new", "c0"), ("new", "c1")} <= set(heard))
        now = watch.state()
        assert [c.part.state for c in now.cameras] == ["ok", "ok"]
        assert {p.name: p.state for p in now.parts} == {"chip": "ok", "disk": "ok"}
        assert now.model == "model.onnx" and now.chip_ms > 5
        view = watch.latest("c0")
        assert view is not None and view[0].size == (320, 240)
        assert watch.wait("c0", view[2], SOON) is not None
        assert watch.latest("nobody") is None
        until(lambda: watch.state().cameras[0].age_ms[0])
        assert all(c.age_ms[0] < 500 for c in watch.state().cameras)
        start = time.monotonic()
    assert time.monotonic() - start < 8
    assert stand.closed
    assert set(left_over()) <= before
    with Watch(read(written(tmp_path, clip)), open_chip=StandIn) as again:
        events = again.store.events()
        assert {e.camera for e in events} == {"c0", "c1"}
        assert all(e.end is not None and e.why == "stopped" and e.snapshot for e in events)
        for event in events:
            path = again.store.snapshot(event.id)
            assert path is not None and cv2.imread(str(path)) is not None


def test_one_camera_that_is_not_there_does_not_disturb(tmp_path: Path, clip: Path) -> None:
    file = written(tmp_path, clip, count=1)
    with file.open("a") as text:
        text.write('[cameras.gone]\nurl = "rtsp://127.0.0.1:9/none"\n')
    heard: list[str] = []
    with Watch(read(file), open_chip=lambda: StandIn(see=walker)) as watch:
        watch.subscribe(lambda event, kind: heard.append(event.camera))
        watch.start()
        until(lambda: heard)
        until(lambda: watch.state().cameras[1].part.state == "failing")
        part = watch.state().cameras[1].part
        assert part.message and part.retry is not None


def test_a_chip_that_fails_in_a_watch_comes_back(tmp_path: Path, clip: Path) -> None:
    made: list[StandIn] = []

    def opened() -> StandIn:
        made.append(StandIn(see=walker))
        return made[-1]

    with Watch(read(written(tmp_path, clip)), open_chip=opened) as watch:
        watch.start()
        until(lambda: made[0].looks > 3)
        made[0].fails = ToolError("the runtime fell over")
        until(lambda: len(made) == 2 and made[1].looks > 3, 10.0)
        assert all(c.part.state == "ok" for c in watch.state().cameras)


def test_a_listener_that_fails_stops_nothing(tmp_path: Path, clip: Path) -> None:
    heard: list[str] = []

    def odd(event: Event, kind: str) -> None:
        raise ValueError("odd")

    with Watch(read(written(tmp_path, clip)), open_chip=lambda: StandIn(see=walker)) as watch:
        watch.subscribe(odd)
        watch.subscribe(lambda event, kind: heard.append(kind))
        watch.start()
        until(lambda: len(heard) > 1)


def test_a_chip_that_is_not_there_at_the_start_may_come(tmp_path: Path, clip: Path) -> None:
    tries: list[StandIn] = []

    def opened() -> StandIn:
        if not tries:
            tries.append(StandIn())
            raise DeviceError("no chip yet")
        tries.append(StandIn(see=walker))
        return tries[-1]

    with Watch(read(written(tmp_path, clip)), open_chip=opened) as watch:
        watch.start()
        until(lambda: len(tries) > 1 and tries[-1].looks > 3)


def test_a_model_that_will_not_do_is_said_at_once(tmp_path: Path, clip: Path, tiny: Path) -> None:
    with pytest.raises(InputError, match=r"no\.onnx"):
        Watch(read(written(tmp_path, clip, "no.onnx")))
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError):
        Watch(read(written(tmp_path, clip, "bad.onnx")))
    onnx.save(graphs.classifier(), tmp_path / "classes.onnx")
    with pytest.raises((InputError, UnsupportedError)):
        Watch(read(written(tmp_path, clip, "classes.onnx")))
    file = written(tmp_path, clip, str(tiny))
    file.write_text(file.read_text() + 'objects = ["unicorn"]\n')
    with pytest.raises(InputError, match="knows no 'unicorn'"):
        Watch(read(file))
    assert not (tmp_path / "kept").exists()


def test_a_folder_in_use_is_refused_and_the_chip_given_back(tmp_path: Path, clip: Path) -> None:
    config, stand = read(written(tmp_path, clip)), StandIn()
    with Watch(config, open_chip=StandIn):
        with pytest.raises(InputError, match="another onchip"):
            Watch(config, open_chip=lambda: stand)
        assert stand.closed


def test_a_broker_hears_all_of_it_also_the_end(tmp_path: Path, clip: Path) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder) as broker, Listener(broker) as listener:
        mqtt = f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
        file = written(tmp_path, clip, more=mqtt, count=1)
        with Watch(read(file), open_chip=lambda: StandIn(see=walker)) as watch:
            watch.start()
            listener.until(lambda _: listener.last("onchip/c0/person") == b"1")
            listener.until(lambda _: listener.last("onchip/c0/person/snapshot"))
            listener.until(lambda _: listener.last("onchip/c0/status") == b"online")
        messages = listener.until(lambda _: listener.last("onchip/available") == b"offline")
    heard = [m.json for m in messages if m.topic == "onchip/events"]
    assert {m["event"]["why"] for m in heard if m["type"] == "end"} >= {"stopped"}
    assert listener.last("onchip/c0/person") == b"0"


# The command


def test_check_says_what_will_be_done_and_hides_passwords(
    cli: Cli, clip: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hush/hush")
    file = written(cli.folder, clip, str(tiny), count=1)
    with file.open("a") as text:
        text.write('[cameras.yard]\nurl = "rtsp://admin:${SECRET}@10.0.0.5/s"\nmotion = false\n')
    done = cli("watch", file, "--check")
    assert "rtsp://admin:***@10.0.0.5/s" in done.stdout and "hush" not in done.stdout
    found = json.loads(cli("watch", file, "--check", "--json").stdout)
    assert [c["name"] for c in found["cameras"]] == ["c0", "yard"]
    assert found["cameras"][1]["motion"] is None and found["page"] == "127.0.0.1:8470"
    assert not (cli.folder / "kept").exists()


def test_what_is_wrong_ends_with_its_exit_code(cli: Cli, clip: Path, tiny: Path) -> None:
    cli("watch", "no.toml", code=2)
    cli("watch", written(cli.folder, clip, "no.onnx"), "--check", code=2)
    file = written(cli.folder, clip, str(tiny), '[page]\nhost = "0.0.0.0"\n')
    assert "password_file" in cli("watch", file, "--check", code=2).stderr
    cli("watch", file, "--check", "--no-page")


def test_a_part_that_fails_again_and_again_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    health = Health()
    health.on_change.append(_teller())
    for wait in (1.0, 2.0, 4.0):
        health.failing("front", "no connection", "is it on?", retry=wait)
    health.ok("front")
    health.failing("front", "no connection", retry=1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "front: failing: no connection (is it on?)"
    assert lines[1:] == ["front: ok", "front: failing: no connection"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_cleanly(
    tmp_path: Path, clip: Path, tiny: Path, how: signal.Signals
) -> None:
    file = written(tmp_path, clip, str(tiny), "[page]\nport = 0\n")
    command = [sys.executable, "-m", "onchip", "watch", str(file)]
    if how is signal.SIGTERM:
        command.append("--json")
    running_ = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert running_.stdout is not None
    first = running_.stdout.readline()
    if how is signal.SIGTERM:
        assert {c["name"] for c in json.loads(first)["cameras"]} == {"c0", "c1"}
    else:
        assert first.startswith("Watching 2 cameras")
    running_.send_signal(how)
    running_.send_signal(how)  # as of a wrapper that passes on what it got from the terminal too
    _, errors = running_.communicate(timeout=SOON)
    assert running_.returncode == 0, errors
    assert "Traceback" not in errors


# With the real model and the real clip


@pytest.mark.data
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_the_real_clip_on_a_real_chip(target: str, tmp_path: Path, data: Path) -> None:
    photos = sorted((data / "coco" / "images" / "train2017").glob("*.jpg"))[:16]
    options = Options(recipe=RECIPES["fast"])
    made = build(data / "models" / "yolov8n.onnx", target, photos, options=options)
    save(made, tmp_path / "best.onchip")
    file = tmp_path / "cameras.toml"
    file.write_text(
        'model = "best.onchip"\ndata = "kept"\n[cameras.lot]\n'
        f'url = "{data}/video/person-bicycle-car-detection.mp4"\n'
        'objects = ["car"]\nclip = {before = 1, after = 1}\n'
    )
    with Watch(read(file)) as watch:
        watch.start()
        until(lambda: any(event.clip for event in watch.store.events()), 90.0)
        event = next(event for event in watch.store.events() if event.clip)
        assert (event.label, event.camera, event.why) == ("car", "lot", "left")
        clip, picture = watch.store.clip(event.id), watch.store.snapshot(event.id)
        assert picture is not None and cv2.imread(str(picture)).shape == (432, 768, 3)
        video = cv2.VideoCapture(str(clip))
        assert video.read()[0]
        assert watch.state().chip == target
