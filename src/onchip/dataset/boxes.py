"""What is wrong with the labels of one image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onchip.dataset import yolo
from onchip.dataset.findings import Finding, Mark
from onchip.dataset.yolo import Label, Row
from onchip.detections import Floats, iou

EDGE = 2e-3  # how far past the edge, in parts of the image, is more than rounding
TAKEN = 0.01  # how far out of range a value may be for Ultralytics to take its line
TWIN = 0.95  # the overlap from which two boxes of one class are one object
TWIN_CLASS = 0.9  # and of two classes
EXACT = 1e-6
TINY = 4.0  # pixels of the input: half a cell of the finest grid of most detectors
SMALL = 8.0  # a cell of it
MANY = 20  # boxes that it takes to judge how they are written
COMPARED = 2000  # boxes of one image that are compared with each other
SHOWN = 50  # findings of one kind about one image

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of one image that can be read: `(n, 4)` as x, y, w, h in parts, and classes."""

    values: Floats
    classes: Ints

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def corners(self) -> Floats:
        """Left, top, right, bottom, `(n, 4)`."""
        half = self.values[:, 2:] / 2
        return np.hstack([self.values[:, :2] - half, self.values[:, :2] + half])

    def sides(self, size: tuple[int, int], imgsz: int) -> Floats:
        """Width and height `(n, 2)` in pixels of a square input of `imgsz`, letterboxed."""
        scale = imgsz / max(*size, 1)
        return self.values[:, 2:] * np.asarray(size, np.float32) * scale


def boxes(rows: Sequence[Row] | None) -> Boxes:
    """Return the boxes of the rows that have no fault."""
    found = [r.label for r in rows or () if r.label is not None and not r.fault]
    values = np.asarray([label.box for label in found], np.float32).reshape(-1, 4)
    return Boxes(values, np.asarray([label.index for label in found], np.int32))


def faults(image: Path, place: str, rows: Sequence[Row], names: Sequence[str]) -> list[Finding]:
    """Return what is wrong with the rows of an image; `place` is what their file is called."""
    found = [*_lines(image, place, rows)]
    kinds = {bool(yolo.polygon(row.line)) for row in rows if row.label is not None}
    if len(kinds) == 2:
        found.append(Finding("mixed", place, "has boxes and outlines", (image,)))
    good = [row for row in rows if row.label is not None and (not row.fault or slight(row))]
    found += _edges(image, place, good)
    found += _twins(image, place, good, names)
    return found


def _lines(image: Path, place: str, rows: Sequence[Row]) -> Iterator[Finding]:
    for row in [r for r in rows if r.fault and not slight(r)][:SHOWN]:
        marks = _marks(row.label) if row.fault in ("class", "range") else ()
        yield Finding(f"label-{row.fault}", _at(place, row), row.why, (image,), marks)


def slight(row: Row) -> bool:
    """Whether a row is out of range by so little that the trainer takes it: a box past the edge."""
    if row.fault != "range" or row.label is None:
        return False
    values = (*row.label.box, *yolo.polygon(row.line))
    return all(-TAKEN <= v <= 1 + TAKEN for v in values) and min(row.label.box[2:]) > 0


def _edges(image: Path, place: str, rows: Sequence[Row]) -> Iterator[Finding]:
    past = [(row, _past(row.label)) for row in rows if row.label is not None]
    for row, far in [p for p in past if p[1] > EDGE][:SHOWN]:
        said = f"passes the edge by {far:.1%} of the image"
        yield Finding("edge", _at(place, row), said, (image,), _marks(row.label))


def _past(label: Label) -> float:
    left, top, right, bottom = label.corners
    return max(-left, -top, right - 1, bottom - 1)


def _twins(image: Path, place: str, rows: Sequence[Row], names: Sequence[str]) -> Iterator[Finding]:
    rows = rows[:COMPARED]
    if len(rows) < 2:
        return
    labels = [row.label for row in rows if row.label is not None]
    corners = np.asarray([label.corners for label in labels], np.float32)
    overlaps = np.triu(iou(corners, corners), 1)
    for first, second in np.argwhere(overlaps >= TWIN_CLASS)[:SHOWN]:
        one, other, overlap = labels[first], labels[second], float(overlaps[first, second])
        marks = (*_marks(one, called(names, one.index)), *_marks(other, called(names, other.index)))
        at = f"{place}:{rows[first].number} and {rows[second].number}"
        if one.index == other.index and overlap >= TWIN:
            said = f"say the same of one {called(names, one.index)}"
            yield Finding("twin", at, said, (image,), marks[:1])
        elif one.index != other.index:
            said = f"call one object {called(names, one.index)} and {called(names, other.index)}"
            yield Finding("twin-class", at, said, (image,), marks)


def sizes(
    image: Path, place: str, found: Boxes, size: tuple[int, int], imgsz: int
) -> Iterator[Finding]:
    """Return what is too small to learn when the image is letterboxed to `imgsz`."""
    if not len(found) or not size[0]:
        return
    least = found.sides(size, imgsz).min(axis=1)
    for code, low, high in (("tiny", 0.0, TINY), ("small", TINY, SMALL)):
        which = np.flatnonzero((least >= low) & (least < high))
        if not len(which):
            continue
        said = f"has {count(len(which), 'box', 'boxes')} of {least[which].min():.1f} pixels"
        said += f" and more at {imgsz}" if len(which) > 1 else f" at {imgsz}"
        marks = tuple(Mark(_values(found.values[i]), f"{least[i]:.1f} px") for i in which[:SHOWN])
        yield Finding(code, place, said, (image,), marks)


def like_corners(found: Sequence[Boxes]) -> bool:
    """Say whether boxes were written as two corners: nearly always the second is past the first.

    Of boxes with a centre and a size, few are larger than twice their centre's distance from the
    edge on both axes; of corners, all are.
    """
    some = [b.values for b in found if len(b)]
    if sum(map(len, some)) < MANY:
        return False
    values = np.concatenate(some)
    return bool(np.mean((values[:, 2:] > values[:, :2]).all(axis=1)) > 0.95)


def _at(place: str, row: Row) -> str:
    return f"{place}: {row.line}" if row.line.startswith("annotation ") else f"{place}:{row.number}"


def _marks(label: Label | None, text: str = "") -> tuple[Mark, ...]:
    return (Mark(label.box, text),) if label is not None else ()


def _values(row: Any) -> yolo.Values:
    x, y, w, h = (float(v) for v in row)
    return (x, y, w, h)


def called(names: Sequence[str], index: int) -> str:
    """Return the name of a class, or its number where it has none."""
    return names[index] if 0 <= index < len(names) else f"class {index}"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number and its noun.

    >>> count(1, "box", "boxes"), count(2000, "photo")
    ('1 box', '2,000 photos')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
