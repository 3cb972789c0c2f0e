"""The photos of one folder: what they are called, where their labels stand, what may be touched.

A request names a photo by an id from this list, never by a path, and whatever leads out of the
folder, by a link or by a line of a `data.yaml`, is listed with the reason and never opened.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onchip.dataset import folders, yolo
from onchip.errors import InputError
from onchip.vision.preprocess import IMAGE_SUFFIXES

SHOWN = IMAGE_SUFFIXES | folders.UNREAD_SUFFIXES


@dataclass(frozen=True)
class Photo:
    """One photo. Its id stays the same as long as its name in the folder does."""

    id: str
    name: str
    path: Path
    labels: Path
    fault: str = ""  # why it cannot be labelled
    note: str = ""  # what there is to know about it


class MissingError(InputError):
    """There is no such photo, or not any more."""


class Photos:
    """Lists the photos of a folder or of a `data.yaml`, in the order of their names.

    Raises:
        InputError: nothing is there.
    """

    def __init__(self, source: Path) -> None:
        if not source.exists():
            raise InputError(f"{source} does not exist", "name a folder of photos or a data.yaml")
        self.source = source.resolve()
        self.root = self.source if self.source.is_dir() else self.source.parent
        self.id = _digest(str(self.source))
        self.all: tuple[Photo, ...] = ()  # as they were listed last
        self._found: dict[str, Photo] = {}
        self._roots: frozenset[Path] = frozenset()
        self.look()

    def look(self) -> tuple[Photo, ...]:
        """List the photos anew.

        Raises:
            InputError: the folder is gone or cannot be read.
        """
        try:
            os.scandir(self.root).close()
        except OSError as error:
            raise InputError(
                f"cannot read {self.root}: {error.strerror}", "is the disk still there?"
            ) from error
        paths, named = self._paths()
        self._roots = frozenset(r for place in (self.root, *named) for r in _both(place))
        places: dict[Path, _Place] = {}
        for path in paths:
            if path.parent not in places:
                places[path.parent] = self._place(path.parent)
        self.all = _with_notes(self._photo(path, places[path.parent]) for path in paths)
        self._found = {photo.id: photo for photo in self.all}
        return self.all

    def get(self, key: str) -> Photo:
        """Return the photo of an id, which may be labelled.

        Raises:
            MissingError: there is none, or it has a fault.
        """
        photo = self._found.get(key)
        if photo is None:
            raise MissingError("there is no such photo in the folder", "look at the list again")
        if photo.fault:
            raise MissingError(f"{photo.name}: {photo.fault}")
        return photo

    def tag(self, photo: Photo) -> str:
        """Return what changes when a photo's file does: its time and size.

        Raises:
            MissingError: it is gone, or leads out of the folder by now.
        """
        self.check(photo.path)
        try:
            found = photo.path.stat()
        except OSError as error:
            text = "is gone" if isinstance(error, FileNotFoundError) else str(error.strerror)
            raise MissingError(
                f"{photo.name} {text}", "was it moved, or is the disk away?"
            ) from error
        if not stat.S_ISREG(found.st_mode):
            raise MissingError(f"{photo.name} is no file")
        return f"{found.st_mtime_ns:x}-{found.st_size:x}"

    def check(self, path: Path) -> None:
        """Make sure that a path, followed through every link, stays inside.

        Raises:
            MissingError: it leads out of the folder.
        """
        if not self.holds(path):
            raise MissingError(
                f"{path.name} leads out of the folder", "links to elsewhere are refused"
            )

    def holds(self, path: Path) -> bool:
        """Whether a path, followed through every link, stays inside."""
        return self._inside(Path(os.path.realpath(path)))

    def _paths(self) -> tuple[Sequence[Path], list[Path]]:
        """Return the photos, and the folders that they may be in besides our own.

        A `data.yaml` that the user named brings the folders of the photos that it lists.
        """
        notes = self.source if self.source.is_file() else None
        if notes is None:
            notes = next((p for n in folders.NOTES if (p := self.root / n).is_file()), None)
        if notes is None:
            return folders.walk(self.root, SHOWN), []
        try:
            found = folders.find(notes)
        except InputError:
            if self.source == notes:
                raise
            return folders.walk(self.root, SHOWN), []  # what it names is not there yet
        places = list(dict.fromkeys(path.parent for path in found.images))
        others = [p for place in places for p in _unread(place)]
        named = [*places, *map(Path.resolve, places)] if self.source == notes else []
        return sorted(dict.fromkeys([*found.images, *others])), named

    def _place(self, folder: Path) -> "_Place":
        prefix = os.path.relpath(folder, self.root)
        try:
            with os.scandir(folder) as entries:
                links = frozenset(e.name for e in entries if e.is_symlink())
        except OSError:  # a list named it; its photos are gone, which is said when one is opened
            links = frozenset()
        inside = self._inside(Path(os.path.realpath(folder)))
        labels = yolo.place(folder / "x.jpg").parent
        return _Place("" if prefix == "." else f"{prefix}/", labels, links, inside)

    def _photo(self, path: Path, place: "_Place") -> Photo:
        stem, _, suffix = path.name.rpartition(".")
        name = place.prefix + path.name
        shown = os.fsencode(name).decode("utf-8", "replace")
        labels = place.labels / f"{stem}.txt"
        # With the folder in it, a page left open from another folder asks for nothing that is here.
        photo = Photo(_digest(f"{self.source}\n{name}"), shown, path, labels)
        if f".{suffix.lower()}" in folders.UNREAD_SUFFIXES:
            fault = f"{suffix.upper()} cannot be trained on; convert it to JPEG or PNG"
            return replace(photo, fault=fault)
        if f"{stem}.txt" == folders.CLASSES:
            why = f"its labels would replace {folders.CLASSES}, the list of classes"
            return replace(photo, fault=f"{why}; rename the photo")
        if not (self.holds(path) if path.name in place.links else place.inside):
            return replace(photo, fault="it leads out of the folder and is not opened")
        return photo

    def _inside(self, path: Path) -> bool:
        return not self._roots.isdisjoint((path, *path.parents))


@dataclass(frozen=True)
class _Place:
    """What the photos of one folder share."""

    prefix: str  # of their names
    labels: Path  # the folder of their labels
    links: frozenset[str]  # the names there that are links
    inside: bool


def _digest(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=9).hexdigest()


def _both(place: Path) -> tuple[Path, Path]:
    """A folder of photos, and the one where YOLO expects their labels."""
    return place, yolo.place(place / "x.jpg").parent


def _unread(place: Path) -> list[Path]:
    """Photos of kinds that cannot be trained on, so that nobody wonders where they are."""
    try:
        with os.scandir(place) as entries:
            names = [e.name for e in entries if not e.name.startswith(".")]
    except OSError:
        return []
    return [place / n for n in names if Path(n).suffix.lower() in folders.UNREAD_SUFFIXES]


def _with_notes(photos: Iterable[Photo]) -> tuple[Photo, ...]:
    """Say which photos share one label file, as `a.jpg` and `a.png` do."""
    found = tuple(photos)
    count = Counter(str(photo.labels) for photo in found if not photo.fault)
    return tuple(
        replace(p, note=f"shares {p.labels.name} with another photo")
        if count[str(p.labels)] > 1
        else p
        for p in found
    )
