"""Labelled images in YOLO layout: `data.yaml`, `images/…`, and one text file of boxes per image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onchip.detections import Detections, Floats
from onchip.errors import InputError
from onchip.vision.preprocess import find_images


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
    notes = _notes(path)
    labels = _labels(notes, path)
    entry = notes.get(split) or notes.get("val")
    if not entry:
        raise InputError(f"{path} names no {split!r} images", "add a line like  val: images/val")
    images = [p for source in _sources(entry, notes, path) for p in find_images(source)]
    samples = tuple(_sample(p, len(labels)) for p in images)
    if not any(s.classes for s in samples):
        raise InputError(
            f"{path}: none of the {len(samples)} {split} images has a label",
            "labels stand beside the images: images/a.jpg and labels/a.txt",
        )
    return Dataset(samples, labels)


def unlabelled(paths: Sequence[Path], labels: tuple[str, ...]) -> Dataset:
    """Return images without labels as a data set."""
    empty = np.zeros((0, 4), np.float32)
    return Dataset(tuple(Sample(p, empty, ()) for p in paths), labels)


def _notes(path: Path) -> dict[str, object]:
    import yaml  # only data sets need it

    try:
        notes = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file", "name a data.yaml") from error
    if not isinstance(notes, dict):
        raise InputError(f"{path} holds no names and folders", "name a data.yaml")
    return notes


def _labels(notes: dict[str, object], path: Path) -> tuple[str, ...]:
    names = notes.get("names")
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names)]
    if not isinstance(names, list) or not names:
        raise InputError(f"{path} has no class names", "add a line like  names: [car, truck]")
    return tuple(str(n) for n in names)


def _sources(entry: object, notes: dict[str, object], path: Path) -> list[Path]:
    entries: Sequence[object] = entry if isinstance(entry, list) else [entry]
    root = path.parent / str(notes.get("path") or ".")
    places = []
    for item in entries:
        choices = [root / str(item), path.parent / str(item), Path(str(item))]
        place = next((c for c in choices if c.exists()), None)
        if place is None:
            raise InputError(f"{path} names {item}, which does not exist", f"looked in {root}")
        places.append(place)
    return places


def label_file(image: Path) -> Path:
    """Return where an image's labels stand: `images/` becomes `labels/`, the suffix `.txt`."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def truth_beside(image: Path, classes: int) -> Sample | None:
    """Return an image's sample if a label file stands beside it that fits `classes`, or None."""
    if not label_file(image).is_file():
        return None
    try:
        return _sample(image, classes)
    except InputError:  # some other text file, or another data set's labels
        return None


def _sample(image: Path, classes: int) -> Sample:
    path = label_file(image)
    try:
        text = path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the labels {path}: {error}") from error
    boxes, ids = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            label, box = _row(line, f"{path}:{number}", classes)
            ids.append(label)
            boxes.append(box)
    return Sample(image, np.asarray(boxes, np.float32).reshape(-1, 4), tuple(ids))


def _row(line: str, place: str, classes: int) -> tuple[int, list[float]]:
    fields = line.split()
    try:
        label, box = int(float(fields[0])), [float(f) for f in fields[1:5]]
    except ValueError as error:
        raise InputError(f"{place} is not a label: {line!r}", "allowed: class cx cy w h") from error
    if len(box) != 4:
        raise InputError(f"{place} has {len(fields)} fields", "allowed: class cx cy w h")
    if not 0 <= label < classes:
        raise InputError(
            f"{place} has class {label}, but there are {classes} classes",
            f"allowed are 0 to {classes - 1}; is data.yaml the one of this dataset?",
        )
    if not all(-1e-3 <= v <= 1.001 for v in box):
        raise InputError(
            f"{place} is out of range: {line!r}",
            "boxes are parts of the image, 0 to 1; were pixels written?",
        )
    return label, box
