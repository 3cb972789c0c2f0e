"""Draw boxes on images."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from onchip.detections import Detections
from onchip.vision.preprocess import Image

# Blue, green, red; told apart by people with any kind of colour sight, and on dark and light.
COLORS = (
    (70, 70, 235),
    (255, 144, 30),
    (40, 200, 240),
    (60, 179, 60),
    (220, 60, 200),
    (30, 125, 255),
    (190, 190, 30),
    (200, 120, 110),
)


class Mark(NamedTuple):
    """A box in pixels (x1, y1, x2, y2), what is written above it, and a colour (BGR)."""

    box: Iterable[float]
    text: str
    color: tuple[int, int, int]


def color(label: int) -> tuple[int, int, int]:
    """Return the colour of a class."""
    return COLORS[label % len(COLORS)]


def draw(image: Image, found: Detections, labels: Sequence[str]) -> Image:
    """Return a copy of `image` (BGR) with boxes, names and scores, the best on top."""
    named = ((labels[n] if n < len(labels) else str(n)) for n in map(int, found.classes))
    marks = [
        Mark(box, f"{name} {score:.2f}", color(label))
        for name, (box, score, label) in zip(named, found, strict=True)
    ]
    return draw_marks(image, reversed(marks))


def draw_marks(image: Image, marks: Iterable[Mark]) -> Image:
    """Return a copy of `image` (BGR) with boxes and what is written above them."""
    canvas = image.copy()
    size = max(0.4, min(image.shape[:2]) / 1100)
    width = max(1, round(2 * size))
    for mark in marks:
        x1, y1, x2, y2 = (round(float(v)) for v in mark.box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), mark.color, width, cv2.LINE_AA)
        _tag(canvas, mark.text, (x1, y1), mark.color, size)
    return canvas


def _tag(
    canvas: Image, text: str, corner: tuple[int, int], fill: tuple[int, int, int], size: float
) -> None:
    """Write on a filled tag above a box, or inside it where there is no room above."""
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    tall = height + below + 2
    x = max(0, min(corner[0], canvas.shape[1] - width - 4))
    y = corner[1] - tall if corner[1] >= tall else corner[1]
    cv2.rectangle(canvas, (x, y), (x + width + 4, y + tall), fill, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(fill, (0.11, 0.59, 0.3)) > 140 else (255, 255, 255)
    place = (x + 2, y + height + 1)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)
