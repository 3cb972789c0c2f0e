"""Every image of a data set, looked at once: its file, its boxes, and what is wrong with both."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onchip.dataset import yolo
from onchip.dataset.boxes import Boxes, boxes, faults, sizes
from onchip.dataset.facts import Facts, facts
from onchip.dataset.findings import Finding
from onchip.dataset.source import Source
from onchip.errors import InputError
from onchip.progress import Progress
from onchip.several import each

HUGE = 64_000_000  # pixels
LEAST = 10  # pixels of a side that Ultralytics asks for
SUFFIXES = {
    "jpeg": (".jpg", ".jpeg"),
    "png": (".png",),
    "bmp": (".bmp",),
    "webp": (".webp",),
    "tiff": (".tif", ".tiff"),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One image, the splits it is in, its boxes, and whether somebody labelled it."""

    path: Path
    splits: tuple[str, ...]
    facts: Facts
    boxes: Boxes
    labelled: bool
    findings: tuple[Finding, ...]


def look(source: Source, imgsz: int, progress: Progress) -> list[Seen]:
    """Look at every image and its labels; a bad one is a finding and stops nothing."""

    def one(image: Path) -> Seen:
        found = facts(image)
        rows, wrong = None, []
        try:
            rows = source.rows(image)
        except InputError as error:
            wrong = [Finding("label-file", labels_of(source, image), str(error), (image,))]
        place, read = labels_of(source, image), boxes(rows)
        wrong += faults(image, place, rows or (), source.names)
        wrong += sizes(image, place, read, found.size, imgsz)
        wrong += _file(source, image, found)
        known = rows is not None or bool(wrong)
        return Seen(image, source.parts[image], found, read, known, tuple(wrong))

    seen = []
    with warnings.catch_warnings():  # Pillow warns of what is found here anyway
        warnings.filterwarnings("ignore", module="PIL")
        for done, one_seen in enumerate(each(one, source.images), 1):
            seen.append(one_seen)
            progress("look", done, len(source.images))
    return seen


def labels_of(source: Source, image: Path) -> str:
    """Return how to call the labels of an image: its label file, or itself in a document."""
    return source.said(image if source.document else yolo.place(image))


def _file(source: Source, image: Path, found: Facts) -> Iterator[Finding]:
    """What is wrong with the file of an image."""
    name = source.said(image)

    def finding(code: str, said: str) -> Finding:
        return Finding(code, name, said, (image,))

    if found.fault:
        yield finding(found.fault, found.why)
    width, height = found.size
    if 0 < min(width, height) < LEAST:
        yield finding("small-image", f"has {width} x {height} pixels")
    if width * height > HUGE and found.fault != "huge":
        yield finding("huge", f"has {width * height / 1e6:.0f} megapixels ({width} x {height})")
    if found.kind in SUFFIXES and image.suffix.lower() not in SUFFIXES[found.kind]:
        yield finding("suffix", f"is {found.kind.upper()} inside")
    if found.frames > 1:
        yield finding("animated", f"has {found.frames} frames")
    if found.tail and not found.fault:
        yield finding("tail", "has bytes behind its end")
    if found.orientation > 1 and not found.fault:
        yield finding("rotated", f"is turned by EXIF (orientation {found.orientation})")
    if odd := _odd(image.name):
        yield finding("name", odd)
    if source.document is not None and width:
        yield from _stated(source, image, found.size)


def _odd(name: str) -> str:
    stem = name.rpartition(".")[0]
    if stem != stem.strip():
        return "begins or ends with a space"
    if not name.isprintable():
        return "has a line break or another sign that cannot be printed in its name"
    return ""


def _stated(source: Source, image: Path, size: tuple[int, int]) -> Iterator[Finding]:
    photo = source.photos[image]
    if (photo.width, photo.height) != size:
        said = f"is {size[0]} x {size[1]}, but the document says {photo.width} x {photo.height}"
        yield Finding("coco-size", source.said(image), said, (image,))
