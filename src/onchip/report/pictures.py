"""One photo as several stages see it, side by side, with what was lost and what is new marked."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape

import cv2
import numpy as np

from onchip.detections import Detections, pairs
from onchip.measure.proof import Example
from onchip.report.document import img
from onchip.vision.draw import draw
from onchip.vision.preprocess import Image, read_image

WIDTH = 480  # pixels of one picture
LOST, NEW = (60, 60, 230), (0, 170, 255)  # blue, green, red; also told apart by their words
DASH = 6  # pixels
TITLES = {"original": "reference", "plan": "INT8 plan", "compiled": "chip program"}


def side_by_side(example: Example, labels: tuple[str, ...]) -> str:
    """Return the figures of one photo: the first stage, the plan, and each that runs a program.

    Raises:
        InputError: the photo cannot be read any more.
    """
    image = read_image(example.path)
    ratio = WIDTH / image.shape[1]
    size = (WIDTH, max(1, round(image.shape[0] * ratio)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    seen = {n: replace(found, boxes=found.boxes * ratio) for n, found in example.seen.items()}
    first = next(iter(seen))
    reference = seen.pop(first)
    seen.pop("cut", None)  # proven equal to the first
    figures = [_figure(draw(small, reference, labels), TITLES.get(first, first), "")]
    for name, found in seen.items():
        picture, lost, new = compared(small, reference, found, labels)
        said = f": {lost} lost, {new} new" if lost or new else ": the same objects"
        figures.append(_figure(picture, TITLES.get(name, name), said))
    return f'<h3>{escape(example.path.name)}</h3><div class="pair">{"".join(figures)}</div>'


def compared(
    image: Image, reference: Detections, found: Detections, labels: tuple[str, ...]
) -> tuple[Image, int, int]:
    """Draw what is found, with what the reference alone sees and what it does not see marked.

    Returns the picture, how many are lost, and how many are new.
    """
    matched = pairs(reference, found)
    lost = sorted(set(range(len(reference))) - {r for r, _ in matched})
    new = sorted(set(range(len(found))) - {f for _, f in matched})
    picture = draw(image, found, labels)
    for what, rows, ink in (("lost", reference[lost], LOST), ("new", found[new], NEW)):
        for box in rows.boxes:
            _mark(picture, box.tolist(), what, ink)
    return picture, len(lost), len(new)


def chosen(examples: Sequence[Example], most: int) -> list[Example]:
    """Return the photos that differ most, and as many typical ones; `examples` worst first."""
    found = [e for e in examples if len(e.first) or len(e.last)] or list(examples)
    if len(found) <= most:
        return found
    half, middle = most // 2, len(found) // 2
    return [*found[:half], *found[middle : middle + half]]


def _mark(image: Image, box: list[float], text: str, ink: tuple[int, int, int]) -> None:
    """A thick dashed frame, with a word in its lower left corner."""
    x1, y1, x2, y2 = (round(v) for v in box)
    width = 2
    for start in range(x1, x2, 2 * DASH):
        for y in (y1, y2):
            cv2.line(image, (start, y), (min(start + DASH, x2), y), ink, width)
    for start in range(y1, y2, 2 * DASH):
        for x in (x1, x2):
            cv2.line(image, (x, start), (x, min(start + DASH, y2)), ink, width)
    size = 0.42
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    x, y = max(0, min(x1, image.shape[1] - wide - 4)), max(tall + 6, min(y2, image.shape[0]))
    cv2.rectangle(image, (x, y - tall - 6), (x + wide + 4, y), ink, cv2.FILLED)
    place = (x + 2, y - 4)
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)


def _figure(image: Image, title: str, said: str) -> str:
    caption = f"<figcaption><b>{escape(title)}</b>{escape(said)}</figcaption>"
    return f"<figure>{img(image)}{caption}</figure>"
