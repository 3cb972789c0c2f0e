"""Labels of single photos: read with a version, saved only against the version that was read.

A row of a file that the page did not touch comes back as its `key` and is written as it stood, to
the byte, whether onchip understands it or not.
"""

import hashlib
import os
import stat
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta, Struct

from onchip.annotate.classes import ClassFile, ClassList
from onchip.annotate.photos import Photo, Photos
from onchip.annotate.saving import NotSavedError, StaleError, save_whole
from onchip.dataset import yolo
from onchip.dataset.yolo import Label, Row
from onchip.errors import InputError

MAX_ROWS = 10_000
MAX_KEY = 1 << 20  # characters of one line; polygons are long
BLANK = 4  # bytes of a label file that may hold no box, only line ends
MAX_CLASS = 1_000_000
FAR = 1e6  # in parts of the image; what lies farther away, or is no number, cannot be drawn
Part = Annotated[float, Meta(ge=0, le=1)]


class Box(Struct, frozen=True, forbid_unknown_fields=True):
    """One box as the page sends it: a row that stays as it is has its `key`, a new one has none.

    `box` is centre x, centre y, width, height in parts of the upright photo; `was` is the key of
    the row from which an edited box came.
    """

    key: Annotated[str, Meta(max_length=MAX_KEY)] | None = None
    was: Annotated[str, Meta(max_length=MAX_KEY)] | None = None
    index: Annotated[int, Meta(ge=0, le=MAX_CLASS)] | None = None
    box: tuple[Part, Part, Part, Part] | None = None

    def label(self) -> Label:
        """The box as a label.

        Raises:
            InputError: it has no class, or no size.
        """
        if self.index is None or self.box is None:
            raise InputError("a new box needs a class and four numbers")
        if self.box[2] <= 0 or self.box[3] <= 0:
            raise InputError("a new box needs a width and a height")
        return Label(self.index, self.box)


class Save(Struct, frozen=True, forbid_unknown_fields=True):
    """What the page wants to be in a label file, and against which versions it was drawn.

    `forget` takes the label file away, so that a photo counts as not labelled again; it must have
    no box then.
    """

    version: Annotated[str, Meta(max_length=64)]
    classes: Annotated[str, Meta(max_length=64)]
    rows: Annotated[tuple[Box, ...], Meta(max_length=MAX_ROWS)]
    forget: bool = False


class Shown(Struct, frozen=True):
    """One row for the page. `box` is None where it cannot be read; `why` says what is wrong."""

    key: str
    index: int | None
    box: yolo.Values | None
    polygon: bool = False
    why: str = ""


class Labelled(Struct, frozen=True):
    """What is in a photo's labels now. `state` is "unlabelled", "negative" or "labelled"."""

    version: str
    state: str
    rows: tuple[Shown, ...]
    fault: str = ""  # why the labels cannot be edited

    def labels(self) -> list[Label]:
        """The rows that are boxes."""
        rows = (r for r in self.rows if r.index is not None and r.box is not None)
        return [Label(r.index, r.box) for r in rows if r.index is not None and r.box is not None]


class Labels(Protocol):
    """Where labels are kept: beside the photos, or in one COCO document."""

    @property
    def place(self) -> Path:
        """What holds the classes, for people."""

    @property
    def forgets(self) -> bool:
        """Whether a photo can go back to not being labelled."""

    def classes(self) -> ClassList:
        """Return the classes as they are now."""

    def rename(self, version: str, index: int, name: str) -> ClassList:
        """Call a class something else, or add one."""

    def read(self, photo: Photo) -> Labelled:
        """Return the labels of a photo as they are now."""

    def save(self, photo: Photo, wanted: Save) -> Labelled:
        """Write the labels of a photo."""

    def states(self, photos: Iterable[Photo]) -> Mapping[str, str]:
        """Return the states of many photos by id, without reading more than must be."""

    def counts(self, photos: Iterable[Photo]) -> Mapping[int, int]:
        """Return how many boxes each class has in many photos together."""


class YoloLabels:
    """A text file for each photo, where YOLO expects it."""

    forgets = True

    def __init__(self, photos: Photos, classes: ClassFile) -> None:
        self.photos = photos
        self.names = classes
        self.place = classes.path
        self._lock = threading.Lock()
        self._counted: dict[Path, tuple[tuple[int, int], Counter[int]]] = {}

    def classes(self) -> ClassList:
        """Return the classes as they are now."""
        return self.names.now()

    def rename(self, version: str, index: int, name: str) -> ClassList:
        """Call a class something else, or add one."""
        return self.names.change(version, index, name)

    def read(self, photo: Photo) -> Labelled:
        """Return the labels of a photo as they are now.

        Raises:
            MissingError: the labels lead out of the folder.
        """
        self.photos.check(photo.labels)
        try:
            data = _bytes(photo.labels)
            lines = _lines(data or b"")
        except InputError as error:
            return Labelled("unreadable", "labelled", (), str(error))
        if data is None:
            return Labelled(digest(None), "unlabelled", ())
        if len(lines) > MAX_ROWS:
            return Labelled(digest(data), "labelled", (), f"there are more than {MAX_ROWS} rows")
        rows = tuple(_shown(row) for row in yolo.parse("\n".join(lines)))
        return Labelled(digest(data), "labelled" if rows else "negative", rows)

    def save(self, photo: Photo, wanted: Save) -> Labelled:
        """Write the labels of a photo, if they are still what the page read.

        Raises:
            StaleError: the labels or the classes were changed meanwhile.
            NotSavedError: they cannot be written.
            MissingError: the photo is gone, or its labels lead out of the folder.
        """
        with self._lock:
            self.photos.tag(photo)  # a folder that vanished must not be made anew somewhere else
            fault = self.read(photo).fault
            if fault:
                raise InputError(fault)
            before = _bytes(photo.labels)
            if digest(before) != wanted.version:
                raise StaleError(f"the labels of {photo.name} were changed meanwhile", "labels")
            agree(self.classes(), wanted)
            if wanted.forget:
                _forget(photo, before, wanted)
            else:
                after = _joined(before or b"", wanted.rows)
                if after != before:
                    save_whole(photo.labels, after)
        return self.read(photo)

    def states(self, photos: Iterable[Photo]) -> Mapping[str, str]:
        """Return the states of many photos by id; a file counts as labelled if it holds anything.

        A label file that leads out of the folder is not followed.
        """
        sizes: dict[Path, dict[str, int]] = {}
        states = {}
        for photo in photos:
            place = photo.labels.parent
            if place not in sizes:
                sizes[place] = _sizes(place) if self.photos.holds(place) else {}
            if not photo.fault:
                states[photo.id] = _state(photo.labels, sizes[place].get(photo.labels.name))
        return states

    def counts(self, photos: Iterable[Photo]) -> Mapping[int, int]:
        """Return how many boxes each class has; files that did not change are not read again."""
        total: Counter[int] = Counter()
        for path in {p.labels for p in photos if not p.fault}:
            total += self._count(path)
        return total

    def _count(self, path: Path) -> Counter[int]:
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if path not in self._counted or self._counted[path][0] != stamp:
                self.photos.check(path)
                rows = yolo.parse("\n".join(_lines(_bytes(path) or b"")))
                classes = Counter(r.label.index for r in rows if r.label is not None)
                self._counted[path] = (stamp, classes)
            return self._counted[path][1]
        except (OSError, InputError):  # what is wrong with it is said where the photo is opened
            return Counter()


def agree(classes: ClassList, wanted: Save) -> None:
    """Make sure that the page numbers the classes as the list does.

    Raises:
        StaleError: it does not.
    """
    if classes.version != wanted.classes:
        raise StaleError("the list of classes was changed meanwhile", "classes")


def digest(data: bytes | None) -> str:
    """Return the version of some bytes; no file is not an empty file."""
    return "none" if data is None else hashlib.blake2b(data, digest_size=9).hexdigest()


def decode(body: bytes) -> Save:
    """Read what the page wants to save.

    Raises:
        InputError: it is not in the form of `Save`.
    """
    try:
        return msgspec.json.decode(body, type=Save)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"this cannot be saved: {error}") from error


def _bytes(path: Path) -> bytes | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for a writer
            raise InputError(f"{path.name} is no file")
        with path.open("rb") as file:
            data = file.read(yolo.MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read the labels {path.name}: {error.strerror}") from error
    if len(data) > yolo.MAX_BYTES:
        raise InputError(f"{path.name} is too large for labels")
    return data


def _lines(data: bytes) -> list[str]:
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError("the labels are not text; onchip leaves them alone") from error


def _shown(row: Row) -> Shown:
    why = " ".join(filter(None, (row.why, f"({row.hint})" if row.hint else "")))
    if row.label is None or not all(abs(v) < FAR for v in row.label.box):
        return Shown(row.line, None, None, why=why)
    index = row.label.index if 0 <= row.label.index <= MAX_CLASS else None
    return Shown(row.line, index, row.label.box, bool(yolo.polygon(row.line)), why)


def _joined(before: bytes, rows: Sequence[Box]) -> bytes:
    """Return a label file with these rows, in the order of the page, in its own kind of line."""
    if not any(row.key is None for row in rows) and [r.key for r in rows] == [
        line for line in _lines(before) if line.strip()
    ]:
        return before
    end = "\r\n" if b"\r\n" in before else "\n"
    lines = [_line(row) for row in rows]
    return "".join(f"{line}{end}" for line in lines).encode()


def _line(row: Box) -> str:
    if row.key is None:
        return yolo.text(row.label())
    if len(row.key.splitlines()) != 1:
        raise InputError("a row is one line")
    return row.key


def _forget(photo: Photo, before: bytes | None, wanted: Save) -> None:
    if wanted.rows or (before or b"").strip():
        raise InputError("a photo with boxes is labelled; take them away first")
    try:
        photo.labels.unlink(missing_ok=True)
    except OSError as error:
        raise NotSavedError(f"cannot remove {photo.labels}: {error.strerror}") from error


def _sizes(place: Path) -> dict[str, int]:
    try:
        with os.scandir(place) as entries:
            found = [e for e in entries if e.name.endswith(".txt")]
    except OSError:
        return {}
    return {e.name: size for e in found if (size := _size(e)) is not None}


def _size(entry: "os.DirEntry[str]") -> int | None:
    """Return a file's size; None where it is gone, or a link to nothing."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return None
    except OSError:
        return sys.maxsize


def _state(path: Path, size: int | None) -> str:
    if size is None:
        return "unlabelled"
    if size > BLANK or path.is_symlink():
        return "labelled"
    try:
        return "negative" if not (_bytes(path) or b"").strip() else "labelled"
    except InputError:  # what is wrong with it is said where the photo is opened
        return "labelled"
