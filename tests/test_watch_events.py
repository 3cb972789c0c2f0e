"""From boxes to events: motion, zones, tracks, and what never happens whatever is seen."""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onchip.detect.program import Limits
from onchip.detections import Detections
from onchip.sight import open_sight
from onchip.watch.config import Camera, Filter, Motion, Zone
from onchip.watch.events import CONFIRM, LONG, STILL, Events, News, ids
from onchip.watch.figures import Ages, Rate
from onchip.watch.motion import HOLD, JUMP, MotionGate
from onchip.watch.tracks import GONE, Looked, Track, Tracker
from onchip.watch.values import Box, Event, Sighting
from onchip.watch.zones import Zones, inside, outside_all

FPS = 5.0
PERSON, CAR = "person", "car"
Gray = npt.NDArray[np.uint8]


def camera(**more: object) -> Camera:
    return Camera(url="usb:0", name="front", fps=FPS, **more)  # type: ignore[arg-type]


class Stage:
    """A camera's events under a clock that the test turns, five looks a second."""

    def __init__(self, **more: object) -> None:
        self.camera = camera(**more)
        self.events = Events(self.camera, self.score, ids())
        self.now, self.wall, self.looked = 1000.0, 1.7e9, 0.0
        self.news: list[News] = []

    @staticmethod
    def score(label: str) -> float:
        return 0.5

    def look(self, *tracks: Track, times: int = 1) -> tuple[Sighting, ...]:
        seen: tuple[Sighting, ...] = ()
        for _ in range(times):
            self.now, self.wall = self.now + 1 / FPS, self.wall + 1 / FPS
            self.looked += 1 / FPS
            seen, news = self.events.seen(tracks, now=self.now, looked=self.looked, wall=self.wall)
            self.news += news
        return seen

    @property
    def told(self) -> list[str]:
        return [f"{n.kind} {n.event.why or ''}".strip() for n in self.news if n.kind != "update"]

    def ended(self) -> list[Event]:
        return [n.event for n in self.news if n.kind == "end"]


def track(number: int, x: float = 0.4, score: float = 0.9, label: str = PERSON) -> Track:
    return Track(number, label, score, (x, 0.3, x + 0.2, 0.8))


def walk(stage: Stage, number: int, looks: int, start: float = 0.0, step: float = 0.01) -> None:
    for n in range(looks):
        stage.look(track(number, start + n * step))


# The events of one object


def test_an_event_lasts_from_the_first_good_look_to_the_last() -> None:
    stage = Stage()
    walk(stage, 1, 20)
    stage.look(times=30)
    assert stage.told == ["new", "end left"]
    (event,) = stage.ended()
    assert event.end is not None and event.end - event.start == pytest.approx(19 / FPS)
    assert (event.camera, event.label) == ("front", PERSON)


def test_what_is_seen_once_or_is_never_sure_is_no_event() -> None:
    stage = Stage()
    stage.look(track(1))
    stage.look(times=20)
    stage.look(track(2, score=0.4), times=50)
    assert stage.news == []


def test_a_faint_look_goes_on_with_an_event() -> None:
    stage = Stage()
    walk(stage, 1, 5)
    stage.look(track(1, 0.1, score=0.2), times=40)
    walk(stage, 1, 5, start=0.1)
    stage.look(times=20)
    assert stage.told == ["new", "end left"]
    (event,) = stage.ended()
    assert event.end is not None and event.end - event.start == pytest.approx(49 / FPS)


def test_the_best_moment_is_the_surest_of_the_whole_object() -> None:
    stage = Stage()
    for x, score in ((0.0, 0.9), (0.0, 0.95), (0.3, 0.85), (0.4, 0.6), (0.5, 0.7)):
        stage.look(track(1, x, score))
    stage.look(times=20)
    (event,) = stage.ended()
    assert (event.score, event.box[0]) == (0.85, 0.3)
    assert [n.best for n in stage.news if n.kind == "update"] == [True]


def test_what_rests_ends_and_begins_again_only_when_it_moves() -> None:
    stage = Stage()
    seen = stage.look(track(1), times=int((STILL + 30) * FPS))
    assert stage.told == ["new", "end still"]
    assert seen[0].still and seen[0].event is None and not stage.events.active
    walk(stage, 1, 30, start=0.4, step=0.02)
    assert stage.told == ["new", "end still", "new"]
    assert stage.events.active


def test_what_rests_makes_no_event_when_it_was_not_looked_at_for_hours() -> None:
    stage = Stage()
    stage.look(track(1), times=int((STILL + 5) * FPS))
    for hours in (1, 10, 100):
        stage.now += hours * 3600  # while nothing moved, no look and no time of looking passed
        stage.wall += hours * 3600
        stage.look(track(1), track(2, 0.05), times=1)
        stage.look(track(1), times=30)
    assert stage.told == ["new", "end still"]


def test_what_rests_is_known_again_though_its_track_was_lost() -> None:
    stage = Stage()
    stage.look(track(1), times=int((STILL + 5) * FPS))
    for number in range(2, 9):
        stage.look(times=20)
        stage.look(track(number, 0.41), times=30)
    assert stage.told == ["new", "end still"]
    stage.news += stage.events.end_all("lost")  # nor after the camera was lost
    stage.look(track(9, 0.41), times=30)
    assert stage.told == ["new", "end still"]


def test_a_flickering_thing_comes_to_rest_too() -> None:
    stage = Stage()
    for number in range(1, 60):
        stage.look(track(number), times=int(10 * FPS))
        stage.look(times=20)
    assert len(stage.ended()) < 8


def test_a_long_event_is_cut_and_goes_on_as_the_next() -> None:
    stage = Stage()
    for n in range(int((LONG + 5) * FPS)):
        stage.look(track(1, 0.3 + 0.3 * (n // 20 % 2)))
    assert stage.told == ["new", "end long", "new"]


def test_filters_and_areas() -> None:
    stage = Stage(filters={PERSON: Filter(area=(0.2, 1.0))})
    walk(stage, 1, 20)
    assert stage.news == []
    stage = Stage(filters={CAR: Filter(area=(0.2, 1.0))})
    walk(stage, 1, 20)
    assert stage.told == ["new"]


def test_zones_with_objects_decide_and_others_are_noted() -> None:
    left = Zone(points=((0, 0), (0.5, 0), (0.5, 1), (0, 1)))
    right = Zone(points=((0.5, 0), (1, 0), (1, 1), (0.5, 1)), objects=(PERSON,))
    stage = Stage(zones={"left": left, "right": right})
    walk(stage, 1, 30, step=0.01)  # its middle goes from 0.1 to 0.39: on the left
    stage.look(track(2, 0.1, label=CAR), times=4)
    assert [n.event.label for n in stage.news if n.kind == "new"] == [CAR]
    walk(stage, 1, 30, start=0.3)
    stage.look(times=20)
    person = next(e for e in stage.ended() if e.label == PERSON)
    assert person.zones == ("right",)
    assert person.end is not None and person.end - person.start < 19 / FPS
    assert next(e for e in stage.ended() if e.label == CAR).zones == ("left",)


# What never happens, whatever is seen and whatever the clocks do

BOXES: tuple[Box, ...] = ((0.1, 0.1, 0.3, 0.4), (0.11, 0.1, 0.31, 0.4), (0.5, 0.5, 0.9, 1.0))
LOOKS = st.lists(
    st.tuples(
        st.sampled_from([0.05, 0.2, 0.2, 0.2, 1.0, 30.0]),
        st.sampled_from([0.0, 0.0, 0.0, 86400.0, -86400.0, 1e9, -3e9]),
        st.dictionaries(
            st.integers(1, 5), st.tuples(st.sampled_from([0.2, 0.6, 0.9]), st.sampled_from(BOXES)),
            max_size=4,
        ),
        st.sampled_from(["", "", "", "", "lost"]),
    ),
    max_size=60,
)  # fmt: skip
Step = tuple[float, float, dict[int, tuple[float, Box]], str]


@settings(max_examples=200, deadline=None)
@given(LOOKS)
def test_events_of_anything(steps: list[Step]) -> None:
    events = Events(camera(zones={"z": Zone(points=((0, 0), (1, 0), (0, 1)))}), Stage.score, ids())
    looked, now, wall = Looked(FPS), 50.0, 1.7e9
    open_: dict[str, tuple[int, Event]] = {}  # by id: since which look
    ended: dict[str, Event] = {}
    born: list[str] = []

    def note(news: list[News], number: int) -> None:
        for one in news:
            event = one.event
            if one.kind == "new":
                assert event.id not in open_ and event.id not in ended
                assert all(event.id > earlier for earlier in born)
                assert event.end is None and event.why is None
                open_[event.id] = (number, event)
                born.append(event.id)
            elif one.kind == "update":
                assert event.id in open_ and event.end is None
            else:
                began, first = open_.pop(event.id)
                assert event.end is not None and event.why is not None
                assert event.end >= event.start == first.start
                assert number >= began
                assert event.end - event.start >= 0.049 * (CONFIRM - 1)
                ended[event.id] = event

    for number, (passed, jump, seen, lost) in enumerate(steps):
        now, wall = now + passed, wall + passed + jump
        tracks = [Track(n, (PERSON, CAR)[n % 2], s, b) for n, (s, b) in seen.items()]
        sightings, news = events.seen(tracks, now=now, looked=looked(now), wall=wall)
        note(news, number)
        named = [s.event for s in sightings if s.event]
        assert len(named) == len(set(named)) and set(named) <= open_.keys()
        assert events.open == len(open_)
        assert not (events.open and not events.active)
        if lost:
            note(events.end_all("lost"), number)
            assert not open_ and not events.active
    note(events.end_all("stopped"), len(steps))
    assert not open_ and len(ended) == len(born)
    assert events.end_all("stopped") == []


@given(st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=50), st.integers(0, 20))
def test_ids_are_sorted_over_jumps_and_restarts(walls: list[float], restart: int) -> None:
    make, made = ids(), []
    for number, wall in enumerate(walls):
        if number == restart:
            make = ids(made[-1]) if made else ids()
        made.append(make(wall))
    assert made == sorted(set(made))


def test_ids_go_on_after_what_is_no_id() -> None:
    assert ids("what else")(1.0) > ids()(0.0)


# Tracks

NAMES = ("person", "bicycle", "car")


def found(*rows: tuple[float, float, float, int]) -> Detections:
    """Boxes of 60 by 120 pixels at x, y, with a score and a class."""
    boxes = np.asarray([(x, y, x + 60, y + 120) for x, y, _, _ in rows]).reshape(-1, 4)
    return Detections(
        boxes, np.asarray([r[2] for r in rows]), np.asarray([r[3] for r in rows], np.int64)
    )


class Followed:
    """A tracker fed five times a second."""

    def __init__(self, *labels: str) -> None:
        self.tracker = Tracker(labels, lambda label: 0.5, FPS)
        self.now, self.looked = 0.0, Looked(FPS)

    def __call__(
        self, *rows: tuple[float, float, float, int], after: float = 1 / FPS
    ) -> dict[int, Track]:
        self.now += after
        got = self.tracker(found(*rows), NAMES, (1920, 1080), self.looked(self.now))
        return {track.id: track for track in got}


def test_a_track_keeps_its_id_and_goes_on_with_faint_boxes() -> None:
    follow = Followed()
    assert follow((100, 100, 0.9, 0)) == {}  # seen once is not seen yet
    ids_ = [set(follow((100 + 20 * n, 100, 0.9 if n < 5 else 0.15, 0))) for n in range(1, 12)]
    assert ids_ == [{1}] * 11


def test_boxes_are_parts_of_the_picture() -> None:
    follow = Followed()
    follow((1900, 1000, 0.9, 0))
    ((box),) = (t.box for t in follow((1900, 1000, 0.9, 0)).values())
    assert box == pytest.approx((1900 / 1920, 1000 / 1080, 1, 1))


def test_a_person_never_goes_on_with_a_cars_track() -> None:
    follow = Followed()
    for _ in range(5):
        car = follow((100, 100, 0.9, 2))
    for _ in range(5):
        person = follow((100, 100, 0.9, 0))
    assert set(car) == {1} and set(person) == {2}
    assert {t.label for t in person.values()} == {PERSON}


def test_only_labels_that_are_wanted() -> None:
    follow = Followed(CAR)
    for _ in range(5):
        seen = follow((100, 100, 0.9, 0), (800, 100, 0.9, 2), (1400, 100, 0.9, 1))
    assert [t.label for t in seen.values()] == [CAR]


def test_a_parked_car_keeps_its_id_while_nobody_looks() -> None:
    follow = Followed()
    for _ in range(5):
        before = follow((100, 100, 0.9, 2))
    assert set(before) == {1}
    for pause in (1.0, 60.0, 3600.0, 1e6):
        assert set(follow((101, 100, 0.9, 2), after=pause)) == set(before)


def test_what_is_gone_for_long_comes_back_as_another() -> None:
    follow = Followed()
    for _ in range(5):
        before = follow((100, 100, 0.9, 2))
    for _ in range(int((GONE + 1) * FPS)):
        follow()
    for _ in range(3):
        after = follow((100, 100, 0.9, 2))
    assert set(after) and not set(before) & set(after)


def test_nothing_is_kept_of_what_is_gone() -> None:
    follow = Followed()
    for number in range(200):
        follow((number * 7 % 1500, 100, 0.9, number % 3))
    for _ in range(40):
        follow()
    assert not follow.tracker._ids and not follow.tracker._trackers


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.floats(0, 1800), st.floats(0, 900), st.floats(0, 1), st.integers(0, 2)),
            max_size=6,
        ),
        max_size=20,
    )
)
def test_ids_are_of_one_label_and_one_picture_has_each_once(
    pictures: list[list[tuple[float, float, float, int]]],
) -> None:
    follow, labels = Followed(), {}
    for rows in pictures:
        seen = follow.tracker(found(*rows), NAMES, (1920, 1080), follow.looked(follow.now))
        follow.now += 0.2
        assert len({t.id for t in seen}) == len(seen) <= len(rows)
        for one in seen:
            assert labels.setdefault(one.id, one.label) == one.label
            assert all(0 <= v <= 1 for v in one.box)


# Zones


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8),
       st.floats(0.01, 0.99), st.floats(0.01, 0.99))  # fmt: skip
def test_inside_is_what_opencv_says(polygon: list[tuple[float, float]], x: float, y: float) -> None:
    points = np.float32(polygon) * np.float32(4096)
    side = cv2.pointPolygonTest(points, (x * 4096, y * 4096), True)
    if abs(side) > 0.01 and len(set(polygon)) == len(polygon):
        assert inside(tuple(polygon), x, y) == (side > 0)


def test_an_object_is_where_it_stands() -> None:
    zones = Zones({"floor": Zone(points=((0, 0.5), (1, 0.5), (1, 1), (0, 1)))})
    assert zones.at((0.4, 0.1, 0.6, 0.45)) == ()
    assert zones.at((0.4, 0.1, 0.6, 0.6)) == ("floor",)
    assert zones.at((0.4, 0.1, 0.6, 1.0)) == ("floor",)  # at the picture's lower border


def test_a_mask_covers_cells() -> None:
    counts = outside_all([((0, 0), (0.5, 0), (0.5, 1), (0, 1))], 64, 36)
    assert counts.shape == (36, 64)
    assert not counts[:, :31].any() and counts[:, 33:].all()


# Motion

SIZE = (432, 768)


class Scene:
    """A made picture with noise, seen five times a second."""

    def __init__(self, motion: Motion | None = None, noise: float = 3.0) -> None:
        self.random = np.random.default_rng(0)
        coarse = self.random.integers(60, 180, (12, 20), np.uint8)
        self.ground = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC).astype(float)
        self.gate = MotionGate(motion or Motion())
        self.noise, self.now = noise, 100.0
        self.settle()

    def settle(self) -> None:
        for _ in range(30):
            self()

    def __call__(self, at: tuple[int, int] | None = None, *, light: float = 0.0) -> bool:
        """Show it, with an object of 24 by 60 pixels at a place."""
        picture = self.ground + light + self.random.normal(0, self.noise, SIZE)
        if at is not None:
            x, y = at
            picture[y : y + 60, x : x + 24] = 40
        self.now += 1 / FPS
        return self.gate(np.clip(picture, 0, 255).astype(np.uint8), self.now)


def test_the_first_picture_is_looked_at() -> None:
    gate = MotionGate(Motion())
    assert gate(np.zeros(SIZE, np.uint8), 0.0)
    assert not gate(np.zeros(SIZE, np.uint8), 0.2)


@pytest.mark.parametrize("noise", [0, 3, 12])
@pytest.mark.parametrize("sensitivity", [0.0, 0.5, 0.8])
def test_noise_is_no_motion(noise: float, sensitivity: float) -> None:
    scene = Scene(Motion(sensitivity=sensitivity), noise)
    assert not any(scene() for _ in range(100))


def test_a_walker_is_motion_all_the_way() -> None:
    scene = Scene()
    seen = [scene((x, 200)) for x in range(20, 700, 12)]
    assert all(seen[1:])
    scene.settle()
    assert not scene()


def test_less_sensitive_sees_less() -> None:
    counts = []
    for sensitivity in (0.0, 0.5, 1.0):
        scene = Scene(Motion(sensitivity=sensitivity))
        counts.append(sum(scene((x, 200)) for x in range(20, 400, 2)))
    assert counts[0] < counts[1] <= counts[2]


def test_slow_light_is_no_motion() -> None:
    scene = Scene()
    assert not any(scene(light=40 * np.sin(n / 100)) for n in range(400))


@pytest.mark.parametrize("light", [60, -60])
def test_a_lamp_is_one_look(light: float) -> None:
    scene = Scene()
    seen = [scene(light=light) for _ in range(40)]
    assert seen[0] and sum(seen) == 1
    assert sum(scene() for _ in range(40)) == 1


def test_after_a_lamp_a_walker_is_seen_before_the_hold_is_over() -> None:
    scene = Scene()
    seen = [scene((20 + 12 * n, 200), light=60) for n in range(40)]
    quiet = [n for n, moves in enumerate(seen) if not moves]
    assert seen[0] and max(quiet, default=0) / FPS < HOLD


def test_what_is_masked_does_not_count() -> None:
    left = Motion(mask=(((0, 0), (0.5, 0), (0.5, 1), (0, 1)),))
    scene = Scene(left)
    assert not any(scene((x, 200)) for x in range(20, 320, 12))
    assert any(scene((x, 200)) for x in range(400, 700, 12))
    all_ = Motion(mask=(((0, 0), (1, 0), (1, 1), (0, 1)),))
    covered = Scene(all_)
    assert not any(covered((x, 200)) for x in range(20, 700, 12))


def test_pictures_of_another_size_are_looked_at() -> None:
    gate = MotionGate(Motion())
    gate(np.zeros(SIZE, np.uint8), 0.0)
    for number, shape in enumerate([(1080, 1920), (3, 5), (1, 1), (2160, 3840), SIZE], 1):
        assert gate(np.zeros(shape, np.uint8), float(number))
        assert not gate(np.zeros(shape, np.uint8), number + 0.2)


def test_the_jump_is_less_than_all() -> None:
    assert JUMP < 1


# Gate, tracks and events together, on the real clips


@dataclass(frozen=True)
class Frame:
    at: float
    gray: Gray
    found: Detections


def frames(clip: Path, see: Callable[[npt.NDArray[np.uint8]], Detections]) -> Iterator[Frame]:
    import av

    due = 0.0
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            at = float(frame.time or 0)
            if at >= due:
                due = max(due + 1 / FPS, at)
                yield Frame(
                    at, frame.to_ndarray(format="gray"), see(frame.to_ndarray(format="bgr24"))
                )


def watched(
    seen: list[Frame], names: tuple[str, ...], motion: Motion | None
) -> tuple[int, list[Event]]:
    """Return how many looks there were, and what they found."""
    stage = camera(objects=("person", "bicycle", "car"))
    gate = MotionGate(motion) if motion else None
    tracker, events = Tracker(stage.objects, Stage.score, FPS), Events(stage, Stage.score, ids())
    looked, moved, looks, news = Looked(FPS), -HOLD, 0, []
    for frame in seen:
        if gate is None or gate(frame.gray, frame.at):
            moved = frame.at
        if not (events.active or frame.at - moved < HOLD):
            continue
        looks += 1
        clock = looked(frame.at)
        tracks = tracker(frame.found, names, frame.gray.shape[::-1], clock)
        news += events.seen(tracks, now=frame.at, looked=clock, wall=1.7e9 + frame.at)[1]
    news += events.end_all("stopped")
    return looks, [n.event for n in news if n.kind == "end"]


@pytest.mark.data
def test_the_gate_loses_no_event_of_the_real_clip(data: Path) -> None:
    clip = data / "video" / "person-bicycle-car-detection.mp4"
    with open_sight(data / "models" / "yolov8n.onnx", limits=Limits(0.1, 0.45)) as sight:
        names, seen = sight.labels, list(frames(clip, sight))
    looks, without = watched(seen, names, None)
    fewer, gated = watched(seen, names, Motion(sensitivity=0.25))
    assert sorted(e.label for e in without) == sorted([PERSON] * 3 + ["bicycle"] * 2 + [CAR] * 2)
    assert [(e.label, e.why) for e in gated] == [(e.label, e.why) for e in without]
    assert fewer < 0.7 * looks  # the camera sways a little; one that stands still saves more


# Figures


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=200))
def test_ages_are_a_median_and_a_worst(ages: list[float]) -> None:
    figures = Ages()
    for age in ages:
        figures.add(1000.0, age)
    middle, worst = figures(1001.0)
    assert worst == max(ages)
    below = sorted(ages)[(len(ages) - 1) // 2]
    assert below <= middle * 1.0001 and middle <= max(below * 1.16, 0.001)
    assert figures(1100.0) == (0.0, 0.0)


def test_a_rate_is_of_the_last_seconds() -> None:
    rate = Rate(0.0)
    for number in range(200):
        rate.add(number / 5)
    assert rate(40.0) == pytest.approx(5, rel=0.15)
    assert rate(100.0) == 0


def test_figures_take_no_more_room_with_time() -> None:
    ages, rate = Ages(), Rate(0.0)
    sizes = []
    for until in (1000, 20000):
        for number in range(until):
            ages.add(number / 7, 0.1)
            rate.add(number / 7)
        sizes.append(len(pickle.dumps((ages._counts, rate._amount))))
    assert sizes[1] < sizes[0] * 1.5


def test_the_pairs_of_a_walk_are_in_order() -> None:
    stage = Stage()
    walk(stage, 1, 30)
    starts = [n.event.start for n in stage.news]
    assert all(a <= b for a, b in pairwise(starts))
