"""One camera of a watch: its connection, when it is looked at, what is followed, what is kept.

Pictures come on the camera's own thread, and what was seen in them on one of the chip's, in order.
Whatever goes wrong in either is shown as the state of the camera, and it goes on.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2

from onchip.closing import Closing
from onchip.detect.live import Picture, Seen
from onchip.detections import Detections
from onchip.watch.chip import Chip
from onchip.watch.config import Camera, Config, where
from onchip.watch.events import Events, Ids, News
from onchip.watch.figures import Ages, Rate
from onchip.watch.health import Health
from onchip.watch.marks import marked
from onchip.watch.motion import HOLD, MotionGate
from onchip.watch.tracks import Looked, Tracker, scores
from onchip.watch.values import CameraState, Event, Sighting, Why

LOST = 10.0  # seconds without pictures, or without a look at them, that end what was going on
UNSEEN = 1.0  # seconds after which a picture is shown though it was not looked at
MENDED = 3.0  # seconds without a fault after which a camera is well again
ENCODE = 1.0  # seconds between two snapshots of an event
QUALITY = 85  # of a snapshot


class Clips(Protocol):
    """Who makes the videos of a camera's events; `at` is of the monotonic clock. Nothing waits."""

    def picture(self, picture: Picture, /) -> None: ...
    def begin(self, event: str, at: float) -> None: ...
    def end(self, event: str, at: float) -> None: ...


class View(NamedTuple):
    """What is shown of a camera: its newest picture, what is in it, and the picture's number."""

    picture: Picture
    sightings: tuple[Sighting, ...]
    number: int


@dataclass
class Best:
    """The best moment of an event that lasts: not written yet where there is a picture."""

    event: Event
    began: float
    picture: Picture | None
    written: float


class Lookout(Closing):
    """Watches one camera.

    Args:
        camera: what the file says of it.
        config: the file.
        chip: which looks at its pictures.
        health: where the states of the cameras are told, by name.
        make_id: makes the ids of events.
        told: is called with what is new of events, and a JPEG of its best moment where it is new.
        clips: makes videos of the events, where the file wants them.
    """

    def __init__(
        self,
        camera: Camera,
        config: Config,
        chip: Chip,
        health: Health,
        make_id: Ids,
        told: Callable[[News, bytes | None], None],
        clips: Clips | None = None,
    ) -> None:
        self.camera, self.name, self.place = camera, camera.name, where(camera)
        self._chip, self._health, self._told, self._clips = chip, health, told, clips
        least = scores(config.confidence, {n: f.score for n, f in camera.filters.items()})
        self._tracker = Tracker(camera.objects, least, camera.fps)
        self._events = Events(camera, least, make_id)
        self._gate = None if camera.motion is None else MotionGate(camera.motion)
        self._looked = Looked(camera.fps)
        self._best: dict[str, Best] = {}
        self._step = threading.Lock()  # for what is followed: the tracker, the events, the best
        self._shown = threading.Condition()
        self._view: View | None = None
        self._shown_at = 0.0
        now = time.monotonic()
        self._came, self._looks, self._missed, self._ages = Rate(now), Rate(now), Rate(now), Ages()
        self._figures = threading.Lock()
        self._last_came = self._last_look = now
        self._moved = -HOLD
        self._active = self._closed = False
        self._broken: float | None = None  # when a picture could not be used
        self._lost_after = max(LOST, 3 / camera.fps)
        self._unseen_after = max(UNSEEN, 2 / camera.fps)

    def take(self, picture: Picture) -> None:
        """Take a picture that is due."""
        try:
            if not self._closed:
                self._take(picture)
            self._mended()
        except Exception as error:  # noqa: BLE001 - shown as the state of the camera
            self.unseen(error)

    def seen(self, picture: Picture, found: Detections, labels: tuple[str, ...]) -> None:
        """Take what was seen in a picture."""
        try:
            with self._step:
                if not self._closed:
                    self._follow(picture, found, labels)
            self._mended()
        except Exception as error:  # noqa: BLE001 - shown as the state of the camera
            self.unseen(error)

    def unseen(self, error: Exception) -> None:
        """Say that pictures of this camera cannot be used."""
        self._broken = time.monotonic()
        self._health.failing(self.name, error)

    def tell(self, seen: Seen) -> None:
        """Take note of how the connection is."""
        if seen.state == "live":
            self._health.ok(self.name)
        elif seen.state == "connecting":
            if self._health.part(self.name).state != "failing":  # then why, and since when, stays
                self._health.starting(self.name)
        else:
            wait = None if seen.retry is None else max(0.0, seen.retry - time.monotonic())
            self._health.failing(self.name, seen.error or "the camera is lost", retry=wait)

    def tick(self) -> None:
        """Once a second: end what goes on where nothing is seen any more, write what waits."""
        try:
            with self._step:
                now = time.monotonic()
                silent = now - min(self._last_came, self._last_look) > self._lost_after
                if self._active and silent:
                    self._end_all("lost")
                self._write(now)
        except Exception as error:  # noqa: BLE001 - shown as the state of the camera
            self.unseen(error)

    def latest(self) -> View | None:
        """Return what is shown, where there is something."""
        return self._view

    def wait(self, number: int, timeout: float) -> View | None:
        """Return what is shown once its number is greater; None where that takes too long."""
        with self._shown:
            self._shown.wait_for(lambda: self._closed or self._newer(number), timeout)
            return self._view if self._newer(number) else None

    def counts(self) -> dict[str, int]:
        """Return how many objects of each label are there now."""
        view = self._view
        if view is None or time.monotonic() - self._last_came > self._lost_after:
            return {}
        return dict(Counter(sighting.label for sighting in view.sightings))

    def _newer(self, number: int) -> bool:
        return self._view is not None and self._view.number > number

    def state(self) -> CameraState:
        """Return how the camera is, and its figures."""
        now, view = time.monotonic(), self._view
        with self._figures:
            came, looks, missed = self._came(now), self._looks(now), self._missed(now)
        middle, worst = self._ages(now)
        live = now - self._last_came < self._lost_after
        return CameraState(
            name=self.name, part=self._health.part(self.name),
            size=view.picture.size if view else (0, 0),
            fps=round(came, 1), wanted_fps=self.camera.fps, detect_fps=round(looks, 1),
            missed_fps=round(missed, 1),
            age_ms=(round(middle * 1000, 1), round(worst * 1000, 1)),
            motion=live and now - self._moved < HOLD,
            objects=sum(self.counts().values()),
            zones={name: zone.points for name, zone in self.camera.zones.items()},
        )  # fmt: skip

    def close(self) -> None:
        """End its events. Its connection is closed before, by who opened it."""
        self._chip.leave(self)
        with self._step:
            if not self._closed:
                self._closed = True
                self._end_all("stopped")
        with self._shown:
            self._shown.notify_all()

    def _take(self, picture: Picture) -> None:
        now = self._last_came = time.monotonic()
        with self._figures:
            self._came.add(now)
        if self._gate is None or self._gate(picture.gray(), picture.at):
            self._moved = now
        if self._clips is not None:
            self._clips.picture(picture)
        looking = self._active or now - self._moved < HOLD
        if looking and self._chip.offer(self, picture):
            with self._figures:
                self._missed.add(now)
        if not looking or now - self._shown_at > self._unseen_after:
            rests = self._view.sightings if self._view is not None and not looking else ()
            self._show(picture, tuple(s for s in rests if s.still))

    def _follow(self, picture: Picture, found: Detections, labels: tuple[str, ...]) -> None:
        now = self._last_look = time.monotonic()
        with self._figures:
            self._looks.add(now)
        self._ages.add(now, now - picture.at)
        looked = self._looked(picture.at)
        tracks = self._tracker(found, labels, picture.size, looked)
        sightings, news = self._events.seen(
            tracks, now=picture.at, looked=looked, wall=picture.wall
        )
        self._active = self._events.active
        self._show(picture, sightings)
        for one in news:
            self._handle(one, picture, now)
        self._write(now)

    def _show(self, picture: Picture, sightings: tuple[Sighting, ...]) -> None:
        with self._shown:
            number = self._view.number + 1 if self._view is not None else 1
            self._view, self._shown_at = View(picture, sightings, number), time.monotonic()
            self._shown.notify_all()

    def _handle(self, news: News, picture: Picture | None, now: float) -> None:
        """Hand on what is new; a new best moment is written at most once a second."""
        name = news.event.id
        best = self._best.setdefault(name, Best(news.event, news.at, None, now - ENCODE))
        best.event = news.event
        if news.best:
            best.picture = picture
        if news.kind == "end":
            del self._best[name]
            best.written = now - ENCODE
        self._told(news, self._snapshot(best, now))
        if self._clips is not None and news.kind == "new":
            self._clips.begin(name, news.at)
        elif self._clips is not None and news.kind == "end":
            self._clips.end(name, news.at)

    def _write(self, now: float) -> None:
        """Write the best moments that wait for it."""
        for best in self._best.values():
            jpeg = self._snapshot(best, now)
            if jpeg is not None:
                self._told(News("update", best.event, best.began, best=True), jpeg)

    def _snapshot(self, best: Best, now: float) -> bytes | None:
        """Return a JPEG where one is due. An event goes on also where none can be made."""
        if best.picture is None or now - best.written < ENCODE:
            return None
        picture, best.picture, best.written = best.picture, None, now
        try:
            return snapshot(picture, best.event)
        except Exception as error:  # noqa: BLE001 - shown as the state of the camera
            self.unseen(error)
            return None

    def _end_all(self, why: Why) -> None:
        for one in self._events.end_all(why):
            self._handle(one, None, time.monotonic())
        self._active = False

    def _mended(self) -> None:
        if self._broken is not None and time.monotonic() - self._broken > MENDED:
            self._broken = None
            self._health.ok(self.name)


def snapshot(picture: Picture, event: Event) -> bytes:
    """Return a JPEG of an event's best moment, with its box."""
    drawn = marked(picture.bgr(), [event])
    _, data = cv2.imencode(".jpg", drawn, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    return data.tobytes()
