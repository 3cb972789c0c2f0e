"""Draw boxes on images."""

from collections.abc import Sequence

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


def color(label: int) -> tuple[int, int, int]:
    """Return the colour of a class."""
    return COLORS[label % len(COLORS)]


def draw(image: Image, found: Detections, labels: Sequence[str]) -> Image:
    """Return a copy of `image` (BGR) with boxes, names and scores, the best on top."""
    canvas = image.copy()
    size = max(0.4, min(image.shape[:2]) / 1100)
    width = max(1, round(2 * size))
    for box, score, label in reversed(list(found)):
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color(label), width, cv2.LINE_AA)
        name = labels[label] if label < len(labels) else str(label)
        _tag(canvas, f"{name} {score:.2f}", (x1, y1), color(label), size)
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
