"""Labels that a model disputes: it sees something else, something more, or nothing.

A model is wrong often enough; what it is sure of is worth a look, and no more.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from onchip.dataset.boxes import SMALL, called
from onchip.dataset.findings import Finding, Mark
from onchip.dataset.seen import Seen, labels_of
from onchip.dataset.source import Source
from onchip.detections import SAME, Detections, Floats, iou
from onchip.errors import InputError
from onchip.progress import Progress
from onchip.several import each
from onchip.vision.preprocess import Image, read_image

LEAST = 0.1  # the score from which a model sees something at all
SURE = 0.6  # and from which a detection without a label, or of another class, is told
IMGSZ = 640
PLAIN = 2 * SMALL  # pixels at IMGSZ; that a smaller object is not seen says nothing
TOUCHED = 0.3  # the overlap from which a label counts as seen, if only roughly


class Sight(Protocol):
    """What looks at an image (BGR) and returns what it sees, also what it is less sure of."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its classes."""

    @property
    def parallel(self) -> bool:
        """Whether several threads may look at once."""

    def __call__(self, image: Image) -> Detections:
        """Look."""


def disputes(
    source: Source, seen: Sequence[Seen], sight: Sight, progress: Progress
) -> Iterator[Finding]:
    """Return what a model sees otherwise; classes are matched by their names.

    Raises:
        InputError: the model and the data set share no class.
    """
    classes = _matched(source.names, sight.labels)
    looked = [one for one in seen if one.labelled and not one.facts.fault]

    def one(which: Seen) -> list[Finding]:
        try:
            found = sight(read_image(which.path))
        except InputError:  # what is wrong with the file was found before
            return []
        return [*_disputed(source, which, _named(found, classes), set(classes.values()))]

    results = each(one, looked) if sight.parallel else map(one, looked)
    for done, findings in enumerate(results, 1):
        yield from findings
        progress("model", done, len(looked))


def _matched(names: Sequence[str], labels: Sequence[str]) -> Mapping[int, int]:
    """Return the class of the data set for each class of the model that it has."""
    if not names:
        return {i: i for i in range(len(labels))}
    plain = {_plain(name): index for index, name in enumerate(names)}
    found = {i: plain[_plain(name)] for i, name in enumerate(labels) if _plain(name) in plain}
    if not found:
        raise InputError(
            f"the model knows none of the classes {', '.join(names[:5])}",
            f"it knows {', '.join(labels[:5])}; name a model that was trained for such a data set",
        )
    return found


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _named(found: Detections, classes: Mapping[int, int]) -> Detections:
    """Return the detections of classes that the data set has, with its numbers."""
    kept = found[np.isin(found.classes, list(classes))]
    numbers = np.asarray([classes[int(c)] for c in kept.classes], np.int64)
    return Detections(kept.boxes, kept.scores, numbers)


def _disputed(source: Source, one: Seen, found: Detections, known: set[int]) -> Iterator[Finding]:
    size = np.asarray(one.facts.size * 2, np.float32)
    truth = np.clip(one.boxes.corners, 0, 1) * size
    overlaps = iou(truth, found.boxes)
    name, at = source.names, labels_of(source, one.path)

    def finding(code: str, said: str, *marks: Mark) -> Finding:
        return Finding(code, at, said, (one.path,), marks)

    equal = one.boxes.classes[:, None] == found.classes[None, :]
    agreed = (overlaps >= SAME) & equal
    least = one.boxes.sides(one.facts.size, IMGSZ).min(axis=1, initial=np.inf)
    for row, label in enumerate(one.boxes.classes.tolist()):
        if label not in known or agreed[row].any():
            continue
        mark = _mark(truth[row], size, f"label: {called(name, label)}")
        # what the model sees there may be another object, which has its label
        near = np.flatnonzero((overlaps[row] >= SAME) & ~agreed.any(axis=0))
        best = max(near, key=lambda i: found.scores[i], default=None)
        if best is not None and found.scores[best] >= SURE:
            seen = f"{called(name, int(found.classes[best]))} ({found.scores[best]:.2f})"
            yield finding(
                "model-class", f"says {called(name, label)} where the model sees {seen}",
                mark, _mark(found.boxes[best], size, f"model: {seen}"),
            )  # fmt: skip
        elif least[row] >= PLAIN and not (overlaps[row] >= TOUCHED).any():
            yield finding(
                "model-unseen", f"says {called(name, label)} where the model sees nothing", mark
            )
    if source.document is not None and source.document.crowds.get(source.photos[one.path].id):
        return  # what is in a crowd has no box of its own
    free = overlaps.max(axis=0, initial=0) < TOUCHED
    for i in np.flatnonzero(free & (found.scores >= SURE)):
        seen = f"{called(name, int(found.classes[i]))} ({found.scores[i]:.2f})"
        yield finding(
            "model-missing", f"lacks a label for {seen}",
            _mark(found.boxes[i], size, f"model: {seen}"),
        )  # fmt: skip


def _mark(box: Floats, size: Floats, text: str) -> Mark:
    left, top, right, bottom = (float(v) for v in box / size)
    return Mark(((left + right) / 2, (top + bottom) / 2, right - left, bottom - top), text)
