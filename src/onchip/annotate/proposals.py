"""What a model would draw: looked at in the background, the photo on the screen first.

From its scores, and from how it differs from the labels that are there, follows how unsure it is of
a photo; the least sure ones teach it most.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onchip.annotate.photos import Photo, Photos
from onchip.annotate.store import Labelled, Labels
from onchip.closing import Closing
from onchip.detections import Detections, pairs
from onchip.errors import OnchipError
from onchip.vision.preprocess import Image, read_image

MOST = 200  # proposals on one photo


@dataclass(frozen=True)
class Seen:
    """What the model saw on one photo: `boxes` `(n, 4)` are left, top, right, bottom in parts."""

    found: Detections
    fault: str = ""


@dataclass(frozen=True)
class Doubt:
    """How unsure the model is of a photo, from 0 to 1, and whether it contradicts its labels."""

    id: str
    value: float
    disagrees: bool


def unsure(scores: Sequence[float], threshold: float) -> float:
    """Return from 0 to 1 how much hangs on scores near the threshold.

    A score at the threshold counts fully, one at 1 or at half the threshold not at all. The
    closest counts half, the next a quarter, and so on, so that many boxes are not one doubtful one.

    >>> unsure([0.95, 0.9], 0.25) < unsure([0.3], 0.25) < unsure([0.3, 0.26], 0.25)
    True
    >>> unsure([], 0.25)
    0.0
    """
    above, below = max(1e-6, 1 - threshold), threshold / 2
    doubts = [1 - (s - threshold) / above if s >= threshold else 1 - (threshold - s) / below
              for s in scores]  # fmt: skip
    ranked = enumerate(sorted(doubts, reverse=True), 1)
    return sum((max(0.0, d) / 2**n for n, d in ranked), start=0.0)


def differs(labelled: Labelled, seen: Detections, numbers: Mapping[int, int]) -> float:
    """Return from 0 to 1 how far the labels and what is seen are from saying the same.

    `numbers` leads from the model's classes to those of the labels; other classes are left out.

    >>> differs(Labelled("", "negative", ()), Detections.empty(), {})
    0.0
    """
    rows = [r for r in labelled.labels() if r.index in set(numbers.values())]
    corners = np.asarray([r.corners for r in rows], np.float32).reshape(-1, 4)
    ones = np.ones(len(rows), np.float32)
    truth = Detections(corners, ones, np.asarray([r.index for r in rows], np.int64))
    kept = seen[np.asarray([int(c) in numbers for c in seen.classes], bool)]
    classes = np.asarray([numbers[int(c)] for c in kept.classes], np.int64)
    mapped = Detections(kept.boxes, kept.scores, classes)
    total = len(truth) + len(mapped)
    return 1 - 2 * len(pairs(truth, mapped)) / total if total else 0.0


def numbers(model: Sequence[str], names: Sequence[str]) -> dict[int, int]:
    """Lead from a model's classes to those of the list, by name.

    >>> numbers(("car", "Dog"), ("dog", "cat"))
    {1: 0}
    """
    known = {name.strip().casefold(): index for index, name in enumerate(names)}
    found = {i: known.get(name.strip().casefold()) for i, name in enumerate(model)}
    return {i: index for i, index in found.items() if index is not None}


class Proposals(Closing):
    """Looks at all photos in a thread of its own, those that are asked for first."""

    def __init__(
        self,
        see: Callable[[Image], Detections],
        names: tuple[str, ...],
        threshold: float,
        photos: Photos,
        labels: Labels,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.names, self.threshold = names, threshold
        self._see, self._photos, self._labels, self._close = see, photos, labels, close
        self._seen: dict[str, Seen] = {}
        self._doubts: list[Doubt] = []
        self._wanted: list[str] = []
        self._left: dict[str, Photo] = {}  # not looked at, in the order of their names
        self._now = ""  # the photo that is looked at
        self._change = threading.Condition()
        self._noting = threading.Lock()  # the last doubt that is noted is of the newest labels
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="proposals", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self.renew(self._photos.all)
        self._thread.start()

    def close(self) -> None:
        """Stop after the photo that is looked at now, and give the model back."""
        with self._change:
            self._ends = True
            self._change.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._close()

    def renew(self, photos: Sequence[Photo]) -> None:
        """Take note of photos that were added or removed."""
        with self._change:
            known = {*self._seen, self._now}
            self._left = {p.id: p for p in photos if not p.fault and p.id not in known}
            self._change.notify_all()

    def of(self, photo: Photo, patience: float) -> Seen | None:
        """Return what is seen on a photo; it is looked at next. None if that takes longer."""
        with self._change:
            if photo.id not in self._seen:
                self._wanted.append(photo.id)
                self._change.notify_all()
                self._change.wait_for(lambda: photo.id in self._seen or self._ends, patience)
            return self._seen.get(photo.id)

    def kept(self, seen: Seen) -> Detections:
        """What is proposed of what was seen."""
        return seen.found[seen.found.scores >= self.threshold][:MOST]

    def compare(self, photo: Photo) -> None:
        """Work out anew how a photo's labels differ from what is seen, after a save."""
        seen = self._seen.get(photo.id)
        if seen is not None:
            with self._noting:
                self._note(photo, seen)

    def doubts(self, after: int) -> tuple[list[Doubt], int, int]:
        """Return the doubts that were noted after the first `after`, and how many photos are done.

        The last number is how many there are.
        """
        with self._change:
            return self._doubts[after:], len(self._seen), len(self._seen) + len(self._left)

    def _run(self) -> None:
        while (photo := self._next()) is not None:
            seen = self._look(photo)
            with self._change:
                self._seen[photo.id] = seen
                self._change.notify_all()
            with self._noting:
                self._note(photo, seen)

    def _next(self) -> Photo | None:
        """Return the photo that was asked for last, or else the next one; None at the end."""
        with self._change:
            while not self._ends:
                while self._wanted:
                    photo = self._left.pop(self._wanted.pop(), None)
                    if photo is not None:
                        self._now = photo.id
                        return photo
                if self._left:
                    self._wanted.append(next(iter(self._left)))
                else:
                    self._change.wait()
        return None

    def _look(self, photo: Photo) -> Seen:
        try:
            self._photos.tag(photo)
            image = read_image(photo.path)
            found = self._see(image)
        except OnchipError as error:
            return Seen(Detections.empty(), str(error))
        except MemoryError:
            return Seen(Detections.empty(), f"{photo.name} is too large for this machine's memory")
        height, width = image.shape[:2]
        boxes = found.boxes / np.asarray([width, height] * 2, np.float32)
        return Seen(Detections(np.clip(boxes, 0, 1), found.scores, found.classes))

    def _note(self, photo: Photo, seen: Seen) -> None:
        try:
            labelled = self._labels.read(photo)
            known = numbers(self.names, self._labels.classes().names)
        except OnchipError:  # the page says so where the photo is opened
            return
        if labelled.state == "unlabelled":
            doubt = Doubt(photo.id, unsure(seen.found.scores.tolist(), self.threshold), False)
        else:
            value = differs(labelled, self.kept(seen), known)
            doubt = Doubt(photo.id, value, value > 0)
        with self._change:
            self._doubts.append(doubt)
