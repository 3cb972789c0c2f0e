"""What was seen, drawn on its picture, in one colour for each kind of object."""

from collections.abc import Iterable

from onchip.vision.draw import Mark, color, draw_marks
from onchip.vision.preprocess import Image
from onchip.watch.values import Event, Sighting

# What most people watch for is told apart for sure. The page's colors.js has the same rule.
OFTEN = ("person", "car", "dog", "cat", "bicycle", "truck", "bird", "bus")


def marked(image: Image, seen: Iterable[Event | Sighting]) -> Image:
    """Return a copy of a picture (BGR) with boxes, names and scores."""
    tall, wide = image.shape[:2]
    return draw_marks(
        image,
        (
            Mark(
                (one.box[0] * wide, one.box[1] * tall, one.box[2] * wide, one.box[3] * tall),
                f"{one.label} {one.score:.2f}",
                color(number(one.label)),
            )
            for one in seen
        ),
    )


def number(label: str) -> int:
    """Return the number of a label's colour, the same at every time and in every model."""
    if label in OFTEN:
        return OFTEN.index(label)
    found = 7
    for letter in label:
        found = (found * 31 + ord(letter)) % 2**32
    return found
