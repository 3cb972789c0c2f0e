"""One view on any data set: a `data.yaml`, a folder of photos, or a COCO document."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from onchip.dataset import coco, folders, yolo
from onchip.dataset.coco import Coco, Photo
from onchip.dataset.folders import Folders
from onchip.dataset.yolo import Row


@dataclass(frozen=True)
class Source:
    """Images by split, and the rows of each: lines of a label file, or annotations."""

    folders: Folders
    document: Coco | None = None
    photos: Mapping[Path, Photo] = field(default_factory=dict)  # of the document

    @property
    def path(self) -> Path:
        """What was named."""
        return self.folders.source

    @property
    def root(self) -> Path:
        """The folder in which all of it stands."""
        return self.folders.root

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes; none where nothing says."""
        return self.folders.names

    @property
    def splits(self) -> Mapping[str, tuple[Path, ...]]:
        """The images of each split; one called "" where nothing is split."""
        return self.folders.splits

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """All images, each once."""
        return self.folders.images

    @cached_property
    def parts(self) -> Mapping[Path, tuple[str, ...]]:
        """The splits that each image is in."""
        found: dict[Path, tuple[str, ...]] = {}
        for split, paths in self.splits.items():
            for path in paths:
                found[path] = (*found.get(path, ()), split)
        return found

    def rows(self, image: Path) -> tuple[Row, ...] | None:
        """Return the rows of an image; None where nobody labelled it.

        Raises:
            InputError: its label file cannot be read, or is no text.
        """
        if self.document is None:
            return yolo.read(yolo.place(image), len(self.names) or None)
        return self.document.rows[self.photos[image].id]  # none of them: nothing is on it

    def said(self, image: Path) -> str:
        """Return how to call an image or a label file of the data set."""
        return shown(image, self.root)


def open_source(path: Path, images: Path | None = None) -> Source:
    """Open a data set; `images` is the folder of a COCO document's photos.

    Raises:
        InputError: nothing is there, or what is there is wrong; the text names the place.
    """
    if path.suffix.lower() != ".json":
        return Source(folders.find(path))
    document = coco.read(path, images)
    photos: dict[Path, Photo] = {}
    for photo in document.photos:
        photos.setdefault(photo.path, photo)
    found = Folders(path, document.folder, None, document.names, {"": tuple(photos)})
    return Source(found, document, photos)


def shown(path: Path, root: Path) -> str:
    """Return a path below `root` as people name it, in one line.

    >>> shown(Path("/set/images/a.jpg"), Path("/set"))
    'images/a.jpg'
    """
    short = path.relative_to(root) if path.is_relative_to(root) else path
    text = os.fspath(short).encode("utf-8", "replace").decode()
    return text if text.isprintable() else repr(text)


def stray(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Yield the files right in a folder with one of these suffixes."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return
    for path in paths:
        known = path.suffix.lower() in suffixes and not path.name.startswith(".")
        if known and not path.is_dir():
            yield path
