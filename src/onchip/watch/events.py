"""When an object's stay begins, changes and ends. Nothing here reads or writes anything.

Durations are counted by a clock that never jumps; the wall clock is asked once an event, for its
beginning. A clock that jumps moves no end before its start.
"""

import secrets
import statistics
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from msgspec.structs import replace

from onchip.watch.config import Camera
from onchip.watch.tracks import Track, patience
from onchip.watch.values import Box, Event, Sighting, Why
from onchip.watch.zones import Zones

CONFIRM = 2  # good looks at a track, which was seen once before, make an event
STILL = 60.0  # seconds without moving, after which an object is at rest
LONG = 600.0  # seconds of an event, after which the next one begins
MOVED = 0.7  # a box that overlaps its old place by less has moved
PLACES, FORGET = 64, 600.0  # places of what rested that are known, and for how long (looking)
RESTED = 5.0  # seconds at one place from which it is remembered
EDGE = 0.004  # parts of the picture: a box so near to its border is cut there
BETTER = 1.05  # by so much a moment is better than the best

Ids = Callable[[float], str]


def ids(last: str = "") -> Ids:
    """Return what makes ids: one asks with the time and gets a text that sorts after all before.

    `last` is the greatest that is known from earlier; a clock that went back does not matter.
    """
    lock = threading.Lock()
    head = last.partition("-")[0]
    count = int(head, 16) if len(head) == 16 and set(head) <= set("0123456789abcdef") else 0

    def make(wall: float) -> str:
        nonlocal count
        with lock:
            count = max(count + 1, min(max(0, int(wall * 1000)), (1 << 47) - 1) << 16)
            return f"{count:016x}-{secrets.token_hex(3)}"

    return make


@dataclass(frozen=True)
class News:
    """What happened to an event. `best`: this picture shows its best moment until now.

    `at` is when it began, or where it has ended, when that was, by the clock that never jumps.
    """

    kind: Literal["new", "update", "end"]
    event: Event
    at: float
    best: bool = False


@dataclass(frozen=True)
class Place:
    """Where something rested: for how long, and when it was last seen (seconds of looking)."""

    label: str
    box: Box
    rested: float
    looked: float


@dataclass
class Stay:
    """What is known of one track."""

    track: Track
    place: Box  # since it moved last
    moved: float  # when that was
    looked: float  # when it was last seen, in seconds of looking
    seen: float  # and by the clock that never jumps
    boxes: deque[Box] = field(default_factory=lambda: deque(maxlen=5))
    still: bool = False
    good: int = 0  # looks that count for an event
    good_at: float = 0.0  # the last of them, in seconds of looking
    since: float = 0.0  # the first of them
    entered: dict[str, int] = field(default_factory=dict)  # looks in each zone
    event: Event | None = None
    best: float = 0.0


class Events:
    """The events of one camera: fed with what is seen, it says what begins, changes and ends.

    All is done by one thread at a time. `now` never jumps; `looked` are seconds of looking.
    """

    def __init__(self, camera: Camera, score: Callable[[str], float], make_id: Ids) -> None:
        self._camera, self._score, self._make_id = camera.name, score, make_id
        self._areas = {label: f.area for label, f in camera.filters.items()}
        self._zones = Zones(camera.zones)
        self._patience = patience(camera.fps)
        self._stays: dict[int, Stay] = {}
        self._places: deque[Place] = deque(maxlen=PLACES)

    @property
    def active(self) -> bool:
        """Whether something is followed that is not at rest."""
        return any(not stay.still for stay in self._stays.values())

    @property
    def open(self) -> int:
        """How many events last."""
        return sum(stay.event is not None for stay in self._stays.values())

    def seen(
        self, tracks: Sequence[Track], *, now: float, looked: float, wall: float
    ) -> tuple[tuple[Sighting, ...], list[News]]:
        """Take note of one picture's objects.

        Returns:
            What is seen, with the events that it belongs to, and what is new of events.
        """
        news: list[News] = []
        for stay in [s for s in self._stays.values() if looked - s.looked > self._patience]:
            news += self._leave(stay, "left")
        for track in tracks:
            news += self._follow(self._stay(track, now, looked), now, looked, wall)
        return tuple(self._sighting(self._stays[t.id]) for t in tracks), news

    def end_all(self, why: Why) -> list[News]:
        """End every event, when the camera is lost or the program ends. What rested is known on."""
        return [news for stay in list(self._stays.values()) for news in self._leave(stay, why)]

    def _stay(self, track: Track, now: float, looked: float) -> Stay:
        """Return what is known of a track, with its box of now."""
        stay = self._stays.get(track.id)
        if stay is None:
            known = self._known(track, looked)
            place, rested = (known.box, known.rested) if known else (track.box, 0.0)
            stay = Stay(track, place, now - rested, looked, now)
            self._stays[track.id] = stay
        stay.track, stay.looked, stay.seen = track, looked, now
        stay.boxes.append(track.box)
        middle = median(stay.boxes)
        if overlap(middle, stay.place) < MOVED:
            stay.place, stay.moved, stay.still = middle, now, False
        return stay

    def _follow(self, stay: Stay, now: float, looked: float, wall: float) -> list[News]:
        zones = self._zones.at(stay.track.box)
        if not stay.still and now - stay.moved >= STILL:
            ended = self._end(stay, "still")
            stay.still = True
            return ended
        if stay.still:
            return []
        if stay.event is not None and now - stay.since >= LONG:
            return self._end(stay, "long")
        good = self._good(stay.track, zones)
        if good:
            if stay.event is None and looked - stay.good_at > self._patience:
                stay.good = 0  # those before are too long ago
            if stay.good == 0:
                stay.since, stay.entered = now, {}
            stay.good, stay.good_at = stay.good + 1, looked
        for name in zones:
            stay.entered[name] = stay.entered.get(name, 0) + 1
        if stay.event is None:
            return self._begin(stay, wall - (now - stay.since), wall) if good else []
        return self._change(stay, good)

    def _good(self, track: Track, zones: Sequence[str]) -> bool:
        least, most = self._areas.get(track.label, (0.0, 1.0))
        x1, y1, x2, y2 = track.box
        return (
            track.score >= self._score(track.label)
            and least <= (x2 - x1) * (y2 - y1) <= most
            and self._zones.count(track.label, zones)
        )

    def _begin(self, stay: Stay, start: float, wall: float) -> list[News]:
        if stay.good < CONFIRM:
            return []
        stay.best = quality(stay.track.score, stay.track.box)
        stay.event = Event(
            id=self._make_id(wall), camera=self._camera, label=stay.track.label, start=start,
            score=stay.track.score, box=stay.track.box, zones=_entered(stay),
        )  # fmt: skip
        return [News("new", stay.event, stay.since, best=True)]

    def _change(self, stay: Stay, good: bool) -> list[News]:
        assert stay.event is not None
        event = replace(stay.event, zones=_entered(stay))
        worth = quality(stay.track.score, stay.track.box) if good else 0.0
        best = worth > stay.best * BETTER
        if best:
            stay.best = worth
            event = replace(event, score=stay.track.score, box=stay.track.box)
        if event == stay.event:
            return []
        stay.event = event
        return [News("update", event, stay.since, best)]

    def _end(self, stay: Stay, why: Why) -> list[News]:
        """End a track's event, where it has one; the next begins anew."""
        event, stay.event, stay.good = stay.event, None, 0
        if event is None:
            return []
        ended = replace(event, end=event.start + (stay.seen - stay.since), why=why)
        return [News("end", ended, stay.seen)]

    def _leave(self, stay: Stay, why: Why) -> list[News]:
        """Forget a track, and remember where it rested."""
        del self._stays[stay.track.id]
        rested = stay.seen - stay.moved
        if rested >= RESTED:
            self._places.append(Place(stay.track.label, stay.place, rested, stay.looked))
        return self._end(stay, why)

    def _known(self, track: Track, looked: float) -> Place | None:
        """Return the place where a new track rested already, as one that was lost for a while."""
        here = [
            p for p in self._places
            if p.label == track.label
            and looked - p.looked <= FORGET
            and overlap(p.box, track.box) >= MOVED
        ]  # fmt: skip
        if not here:
            return None
        self._places.remove(here[-1])
        return here[-1]

    def _sighting(self, stay: Stay) -> Sighting:
        track = stay.track
        return Sighting(
            track=track.id, label=track.label, score=track.score, box=track.box,
            zones=self._zones.at(track.box), event=stay.event.id if stay.event else None,
            still=stay.still,
        )  # fmt: skip


def _entered(stay: Stay) -> tuple[str, ...]:
    """The zones in which it was seen twice or more, in the order in which it came."""
    return tuple(name for name, looks in stay.entered.items() if looks > 1)


def quality(score: float, box: Box) -> float:
    """Return how good a moment shows an object: sure, whole, and large.

    >>> quality(0.8, (0.2, 0.2, 0.5, 0.6)) > quality(0.9, (0.0, 0.2, 0.3, 0.6))
    True
    """
    x1, y1, x2, y2 = box
    side = ((x2 - x1) * (y2 - y1)) ** 0.5
    whole = min(x1, y1, 1 - x2, 1 - y2) > EDGE
    return score * (1.0 if whole else 0.7) * (0.7 + 0.3 * min(1.0, side / 0.3))


def median(boxes: Iterable[Box]) -> Box:
    """Return the box of the middle sides, which one odd box does not move."""
    x1, y1, x2, y2 = (statistics.median(sides) for sides in zip(*boxes, strict=True))
    return (x1, y1, x2, y2)


def overlap(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes.

    >>> overlap((0, 0, 1, 1), (0, 0, 1, 0.5))
    0.5
    """
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    both = max(0.0, wide) * max(0.0, high)
    total = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)) - both
    return both / total if total > 0 else float(first == second)
