"""Labelled images in YOLO layout: `data.yaml`, `images/…`, and one text file of boxes per image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onchip.dataset import folders, yolo
from onchip.detections import Detections, Floats
from onchip.errors import InputError


@dataclass(frozen=True)
class Sample:
    """One image and its true boxes: `(n, 4)` centre x, centre y, width, height as parts of it."""

    path: Path
    boxes: Floats
    classes: tuple[int, ...]

    def truth(self, size: tuple[int, int]) -> Detections:
        """Return the true boxes in pixels of an image of `size` (width, height)."""
        half = self.boxes[:, 2:] / 2
        corners = np.concatenate([self.boxes[:, :2] - half, self.boxes[:, :2] + half], axis=1)
        scale = np.asarray([*size, *size], np.float32)
        return Detections(
            corners * scale, np.ones(len(corners), np.float32), np.asarray(self.classes)
        )


@dataclass(frozen=True)
class Dataset:
    """Samples and the names of their classes."""

    samples: tuple[Sample, ...]
    labels: tuple[str, ...]


def load(path: Path, split: str = "val") -> Dataset:
    """Read the `split` of a `data.yaml`.

    Raises:
        InputError: the file, an image folder or a label is wrong; the text names the place.
    """
    notes = folders.read_notes(path)
    names = folders.class_names(path, notes)
    if not notes.get(split):
        there = [name for name in folders.SPLITS if notes.get(name)]
        raise InputError(
            f"{path} names no {split} images",
            f"it names {' and '.join(there)}" if there else f"add a line like  {split}: images",
        )
    images = folders.listed(path, notes, split)
    if not images:
        raise InputError(f"{path}: no {split} images", "allowed are jpg, png, bmp, webp and tiff")
    samples = tuple(_sample(p, len(names)) for p in images)
    if not any(s.classes for s in samples):
        raise InputError(
            f"{path}: none of the {len(samples)} {split} images has a label",
            "labels stand beside the images: images/a.jpg and labels/a.txt",
        )
    return Dataset(samples, names)


def unlabelled(paths: Sequence[Path], labels: tuple[str, ...]) -> Dataset:
    """Return images without labels as a data set."""
    empty = np.zeros((0, 4), np.float32)
    return Dataset(tuple(Sample(p, empty, ()) for p in paths), labels)


def truth_beside(image: Path, classes: int) -> Sample | None:
    """Return an image's sample if a label file stands beside it that fits `classes`, or None."""
    if not yolo.place(image).is_file():
        return None
    try:
        return _sample(image, classes)
    except InputError:  # some other text file, or another data set's labels
        return None


def _sample(image: Path, classes: int) -> Sample:
    path = yolo.place(image)
    rows = yolo.read(path, classes) or ()
    for row in rows:
        if row.fault and row.fault != "size":  # a box without a size is checked for elsewhere
            raise InputError(f"{path}:{row.number} {row.why}", row.hint)
    found = [row.label for row in rows if row.label is not None]
    boxes = np.asarray([label.box for label in found], np.float32).reshape(-1, 4)
    return Sample(image, boxes, tuple(label.index for label in found))
