"""Detections: rows of box, score and class. Nothing here knows any framework."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SAME = 0.5  # the overlap from which two boxes show one object


@dataclass(frozen=True)
class Detections:
    """Boxes `(n, 4)` as x1, y1, x2, y2 in pixels of the original image, scores and class ids.

    Indexing with anything that numpy takes returns new Detections.

    >>> d = Detections(np.array([[0, 0, 4, 4], [1, 1, 2, 2]]), np.array([0.9, 0.1]), np.zeros(2))
    >>> len(d[d.scores > 0.5])
    1
    """

    boxes: Floats
    scores: Floats
    classes: Ints

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", np.asarray(self.boxes, np.float32))
        object.__setattr__(self, "scores", np.asarray(self.scores, np.float32))
        object.__setattr__(self, "classes", np.asarray(self.classes, np.int64))
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.classes.shape != (count,):
            raise ValueError(
                f"boxes must be (n, 4) and scores and classes (n,), but got "
                f"{self.boxes.shape}, {self.scores.shape}, {self.classes.shape}"
            )

    @classmethod
    def empty(cls) -> "Detections":
        """No detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> "Detections":
        return Detections(
            np.atleast_2d(self.boxes[index]),
            np.atleast_1d(self.scores[index]),
            np.atleast_1d(self.classes[index]),
        )

    def __iter__(self) -> Iterator[tuple[Floats, float, int]]:
        for box, score, label in zip(self.boxes, self.scores, self.classes, strict=True):
            yield box, float(score), int(label)


def iou(first: Floats, second: Floats) -> Floats:
    """Return the intersection over union of every box in `first (n, 4)` with every one in `second`.

    Boxes are x1, y1, x2, y2; the result is `(n, m)`. Empty boxes overlap nothing.

    >>> found = iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6]]))
    >>> [round(float(v), 3) for v in found[0]]
    [0.333, 0.0]
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    side = np.maximum(high - low, 0)
    overlap = side[..., 0] * side[..., 1]
    union = _area(first)[:, None] + _area(second)[None, :] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap, dtype=np.float32), where=union > 0)


def _area(boxes: Floats) -> Floats:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def pairs(reference: Detections, found: Detections) -> list[tuple[int, int]]:
    """Pair detections of one class that overlap by half, greedily by overlap: (row, row)."""
    overlaps = iou(reference.boxes, found.boxes)
    free = np.where(reference.classes[:, None] == found.classes[None, :], overlaps, 0)
    paired: list[tuple[int, int]] = []
    while free.size and free.max() >= SAME:
        row, column = np.unravel_index(int(free.argmax()), free.shape)
        paired.append((int(row), int(column)))
        free[row, :] = 0
        free[:, column] = 0
    return paired
