"""Labels kept in one COCO document: photo by photo, with everything else in it left as it is.

COCO cannot say that a photo was not looked at yet; here that is a photo which the document does not
list. The first save of one lists it.
"""

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from msgspec import Raw

from onchip.annotate.classes import ClassList, with_name
from onchip.annotate.photos import Photo, Photos
from onchip.annotate.pictures import Pictures
from onchip.annotate.saving import NotSavedError, StaleError, save_whole
from onchip.annotate.store import Box, Labelled, Save, Shown, agree, digest
from onchip.dataset import coco
from onchip.dataset.coco import Coco, Key
from onchip.dataset.yolo import Label, Row
from onchip.errors import InputError

SKEW = 0.02  # by how much the shape that the document names may differ from the photo's


@dataclass(frozen=True)
class _Read:
    """A document as it was read: its file's time, size and number, and its images by path."""

    stamp: tuple[int, int, int]
    document: Coco
    listed: Mapping[str, coco.Photo]


class CocoLabels:
    """The labels of a folder's photos in one COCO document, which is begun with `names`.

    Raises:
        InputError: the document cannot be read, is none, or has other classes than `names`.
    """

    forgets = False

    def __init__(
        self, photos: Photos, pictures: Pictures, path: Path, names: Sequence[str] = ()
    ) -> None:
        self.photos, self.pictures, self.place = photos, pictures, path.resolve()
        self._lock = threading.RLock()
        self._last: _Read | None = None
        wanted = ClassList(())
        for index, name in enumerate(names):
            wanted = with_name(wanted, index, name)
        found = self.classes()
        if not found.names and names:
            save_whole(self.place, coco.document(wanted.names, ()))
        elif names and found.names != wanted.names:
            raise InputError(
                f"{path} has other classes: {', '.join(found.names[:8])}",
                "leave out --classes; add and rename them in the page",
            )

    def classes(self) -> ClassList:
        """Return the categories in the order of their ids; none where there is no document yet."""
        read = self._read()
        return ClassList(read.document.names if read is not None else ())

    def rename(self, version: str, index: int, name: str) -> ClassList:
        """Call a category something else, or add one with the next id.

        Raises:
            StaleError: the categories were changed meanwhile.
            InputError: the name will not do, or the document cannot be written.
        """
        with self._lock:
            now = self.classes()
            if now.version != version:
                raise StaleError("the list of classes was changed by another program", "classes")
            wanted = with_name(now, index, name)
            read = self._read()
            if read is None:
                save_whole(self.place, coco.document(wanted.names, ()))
            else:
                self._write(_with_category(read.document, index, wanted.names[index]))
            self._last = None
            return self.classes()

    def read(self, photo: Photo) -> Labelled:
        """Return the annotations of a photo as they are now."""
        read = self._read()
        entry = read.listed.get(str(photo.path)) if read is not None else None
        if read is None or entry is None:
            return Labelled(digest(None), "unlabelled", ())
        keyed = _keyed(read.document, entry.id)
        rows = tuple(_shown(key, row) for key, row in keyed.items())
        state = "labelled" if rows else "negative"
        return Labelled(_version(keyed), state, rows, self._skewed(photo, entry))

    def save(self, photo: Photo, wanted: Save) -> Labelled:
        """Write the annotations of a photo, if they are still what the page read.

        Raises:
            StaleError: they or the classes were changed meanwhile.
            NotSavedError: the document cannot be written.
            MissingError: the photo is gone.
        """
        with self._lock:
            picture, _ = self.pictures.look(photo)
            now = self.read(photo)
            if now.version != wanted.version:
                raise StaleError(f"the labels of {photo.name} were changed meanwhile", "labels")
            agree(self.classes(), wanted)
            read = self._read()
            if now.fault or wanted.forget or read is None:
                why = "a COCO document lists its classes and photos; add a class first"
                raise InputError(now.fault or why)
            found, entry = self._listed(read, photo, (picture.width, picture.height))
            after = _replaced(found, entry, wanted.rows)
            if after.entries != read.document.entries or found is not read.document:
                self._write(after)
            return self.read(photo)

    def states(self, photos: Iterable[Photo]) -> Mapping[str, str]:
        """Return the states of many photos by id."""
        read = self._read()
        if read is None:
            return {p.id: "unlabelled" for p in photos if not p.fault}
        rows, listed = read.document.rows, read.listed
        entries = {p.id: listed.get(str(p.path)) for p in photos if not p.fault}
        return {
            key: "unlabelled" if e is None else "labelled" if rows[e.id] else "negative"
            for key, e in entries.items()
        }

    def counts(self, photos: Iterable[Photo]) -> Mapping[int, int]:
        """Return how many boxes each class has."""
        read = self._read()
        entries = read.document.rows.values() if read is not None else ()
        return Counter(r.label.index for rows in entries for r in rows if r.label is not None)

    def _read(self) -> _Read | None:
        """Return the document as it stands in the file now."""
        with self._lock:
            try:
                found = self.place.stat()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise InputError(f"cannot read {self.place}: {error.strerror}") from error
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._last is None or self._last.stamp != stamp:
                self._last = _Read(stamp, *self._open())
            return self._last

    def _open(self) -> tuple[Coco, Mapping[str, coco.Photo]]:
        """Read the document. Its file names count from our folder, or else from where it lies."""
        ours = {str(photo.path) for photo in self.photos.all}
        found = coco.read(self.place, self.photos.root)
        if not any(str(p.path) in ours for p in found.photos):
            found = coco.read(self.place)
        folder = os.path.realpath(found.folder)
        prefix = len(str(found.folder)) + 1
        paths = {os.path.normpath(os.path.join(folder, str(p.path)[prefix:])): p  # noqa: PTH118
                 for p in found.photos}  # fmt: skip
        return found, {path: entry for path, entry in paths.items() if path in ours}

    def _write(self, found: Coco) -> None:
        save_whole(self.place, coco.encode(found))
        self._last = None

    def _skewed(self, photo: Photo, entry: coco.Photo) -> str:
        picture, _ = self.pictures.look(photo)
        if abs(entry.width * picture.height / (entry.height * picture.width) - 1) <= SKEW:
            return ""
        said, real = f"{entry.width} x {entry.height}", f"{picture.width} x {picture.height}"
        return f"the document says that this photo is {said}, but it is {real} when upright"

    def _listed(
        self, read: _Read, photo: Photo, size: tuple[int, int]
    ) -> tuple[Coco, coco.Photo]:  # fmt: skip
        """Return the document with a photo listed, and its entry."""
        entry = read.listed.get(str(photo.path))
        if entry is not None:
            return read.document, entry
        found = read.document
        folder = Path(os.path.realpath(found.folder))
        if not photo.path.is_relative_to(folder):
            raise NotSavedError(f"{photo.name} is not below {folder}, the folder of the document")
        raw = msgspec.json.decode(found.parts["images"], type=list[Raw])
        ids = (msgspec.json.decode(entry, type=_Numbered).id for entry in raw)
        key = max((i for i in ids if isinstance(i, int)), default=0) + 1
        name = photo.path.relative_to(folder).as_posix()
        facts = {"id": key, "file_name": name, "width": size[0], "height": size[1]}
        raw.append(Raw(msgspec.json.encode(facts)))
        entry = coco.Photo(photo.path, key, *size)
        parts = {**found.parts, "images": _list(raw)}
        rows = {**found.rows, key: ()}
        return replace(found, parts=parts, photos=(*found.photos, entry), rows=rows), entry


class _Numbered(msgspec.Struct):
    id: object = None


def _keyed(found: Coco, photo: Key) -> dict[str, Row]:
    """Return the rows of a photo by what tells them apart: their id, and what they say."""
    keyed: dict[str, Row] = {}
    for row in found.rows[photo]:
        said = hashlib.blake2b(bytes(found.entries[row.number]), digest_size=9).hexdigest()
        key = f"{row.line} {said}"
        keyed[f"{key} again {row.number}" if key in keyed else key] = row
    return keyed


def _version(keyed: Mapping[str, Row]) -> str:
    return digest("\n".join(keyed).encode())


def _shown(key: str, row: Row) -> Shown:
    why = " ".join(filter(None, (row.why, f"({row.hint})" if row.hint else "")))
    if row.label is None:
        return Shown(key, None, None, why=why)
    return Shown(key, row.label.index, row.label.box, why=why)


def _replaced(found: Coco, photo: coco.Photo, boxes: Sequence[Box]) -> Coco:
    """Return the document with these boxes; an edited one keeps its id and its other fields."""
    keyed = _keyed(found, photo.id)
    rows: list[Row | Label] = []
    for box in boxes:
        row = keyed.pop(box.key, None) if box.key is not None else None
        edited = keyed.pop(box.was, None) if box.was is not None and row is None else None
        if row is not None:
            rows.append(row)
        elif edited is not None:
            rows.append(replace(edited, label=box.label(), fault="", why="", hint=""))
        elif box.index is not None and box.box is not None:
            rows.append(box.label())
    return coco.replaced(found, photo.id, rows)


def _with_category(found: Coco, index: int, name: str) -> Coco:
    raw = msgspec.json.decode(found.parts["categories"], type=list[Raw])
    if index == len(found.names):
        ids = [i for i in found.categories if isinstance(i, int)]
        entry = {"id": max(ids, default=0) + 1, "name": name, "supercategory": ""}
        raw.append(Raw(msgspec.json.encode(entry)))
    else:
        raw = [_called(entry, found.categories[index], name) for entry in raw]
    return replace(found, parts={**found.parts, "categories": _list(raw)})


def _called(raw: Raw, key: Key, name: str) -> Raw:
    entry = msgspec.json.decode(raw)
    return Raw(msgspec.json.encode({**entry, "name": name})) if entry.get("id") == key else raw


def _list(raw: Sequence[Raw]) -> Raw:
    return Raw(b"[" + b",\n".join(bytes(entry) for entry in raw) + b"]")
