"""Which box is the same object as in the picture before: ByteTrack, of the package `trackers`.

Time passes for a track only while somebody looks: a parked car that was not looked at for an hour,
because nothing moved, is the same car in the next picture.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onchip.detections import Detections
from onchip.errors import UnsupportedError
from onchip.watch.values import Box

if TYPE_CHECKING:
    from trackers import ByteTrackTracker

GONE = 2.0  # seconds of looking after which what is not seen has left
FAINT = 0.1  # boxes from this score go on with a track, though they begin none
REACH = 0.5  # by so much of its size a box is widened when it is sought in the next picture


@dataclass(frozen=True)
class Track:
    """One object in one picture: what it is, and its box in parts of the picture."""

    id: int
    label: str
    score: float
    box: Box


class Looked:
    """Seconds for which a camera was looked at. A pause counts as little as a usual gap."""

    def __init__(self, fps: float) -> None:
        self._most = max(1.0, 2 / fps)
        self._last: float | None = None
        self.seconds = 0.0

    def __call__(self, now: float) -> float:
        """Return them, after a look at `now`."""
        if self._last is not None:
            self.seconds += min(max(1e-3, now - self._last), self._most)
        self._last = now
        return self.seconds


def patience(fps: float) -> float:
    """Return after how many seconds of looking what is not seen has left: three looks at least."""
    return max(GONE, 3 / fps)


class Tracker:
    """Follows the objects of one camera, those of each label apart.

    Args:
        labels: those that are followed, others are left out; all where there are none.
        score: the least score with which a track of a label begins.
        fps: looks a second.

    Raises:
        UnsupportedError: the package is not installed.
    """

    def __init__(self, labels: Sequence[str], score: Callable[[str], float], fps: float) -> None:
        self._made = _tracker()
        self._labels, self._score, self._fps = frozenset(labels), score, fps
        self._size = (0, 0)
        self._trackers: dict[str, ByteTrackTracker] = {}
        self._ids: dict[tuple[str, int], int] = {}
        self._next = itertools.count(1)

    def __call__(
        self, found: Detections, names: Sequence[str], size: tuple[int, int], looked: float
    ) -> tuple[Track, ...]:
        """Return the objects that are seen at least for the second time, best first.

        Args:
            found: boxes in pixels of a picture of `size` (width, height), from a score of 0.1.
            names: the labels of the model.
            looked: seconds for which was looked, which grow with each call.
        """
        if size != self._size:  # other pixels: what was known of places is void
            self._size = size
            self._trackers.clear()
            self._ids.clear()
        seen = {names[c] for c in found.classes.tolist()} & (self._labels or set(names))
        tracks: list[Track] = []
        for label in sorted(seen | self._trackers.keys()):
            of = found.classes == names.index(label)
            tracks += self._update(label, found[of & (found.scores >= FAINT)], looked)
        self._ids = {key: own for key, own in self._ids.items() if key[0] in self._trackers}
        return tuple(sorted(tracks, key=lambda track: -track.score))

    def _update(self, label: str, found: Detections, looked: float) -> list[Track]:
        """Follow the objects of one label; where none are left, their tracker goes."""
        tracker = self._trackers.get(label)
        if tracker is None:
            tracker = self._trackers[label] = self._made(self._score(label), self._fps)
        import supervision

        given = supervision.Detections(
            xyxy=found.boxes, confidence=found.scores, class_id=found.classes
        )
        result = tracker.update(given, timestamp=looked)
        alive = {int(track.tracker_id) for track in tracker.tracks}
        for key in [k for k in self._ids if k[0] == label and k[1] not in alive]:
            del self._ids[key]
        if not alive:
            del self._trackers[label]
        rows = zip(result.xyxy, result.confidence, result.tracker_id, strict=True)
        return [
            Track(self._id(label, int(number)), label, float(score), self._parts(box))
            for box, score, number in rows
            if number >= 0
        ]

    def _id(self, label: str, number: int) -> int:
        if (label, number) not in self._ids:
            self._ids[label, number] = next(self._next)
        return self._ids[label, number]

    def _parts(self, box: Any) -> Box:
        width, height = self._size
        x1, y1, x2, y2 = np.clip(box / (width, height, width, height), 0, 1).tolist()
        return (x1, y1, x2, y2)


def _tracker() -> "Callable[[float, float], ByteTrackTracker]":
    try:
        from trackers import ByteTrackTracker
        from trackers.utils.iou import BIoU
    except ImportError as error:
        raise UnsupportedError(
            "watching needs a tracker that is not installed", "pip install 'onchip[watch]'"
        ) from error

    def make(score: float, fps: float) -> ByteTrackTracker:
        return ByteTrackTracker(
            lost_track_buffer=round(patience(fps) * 30),  # which counts in 30ths of a second
            frame_rate=fps,
            track_activation_threshold=score,
            high_conf_det_threshold=score,
            minimum_consecutive_frames=2,
            minimum_iou_threshold=0.1,
            iou=BIoU(REACH),
        )

    return make


def scores(confidence: float, filters: Mapping[str, float]) -> Callable[[str], float]:
    """Return the least score of each label: its filter's own, where it has one."""
    return lambda label: filters.get(label) or confidence
