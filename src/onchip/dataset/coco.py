"""COCO detection JSON: one document that says where the boxes of every image are.

Read into rows as a YOLO label file is, and written so that whatever was not changed stays as it
was, to the byte: licences, masks, ids, fields of other tools. Source of the format: "Data format"
of cocodataset.org. Boxes there are left, top, width, height in pixels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec
from msgspec import Raw

from onchip.dataset import yolo
from onchip.dataset.yolo import Label, Row
from onchip.errors import InputError

MAX_BYTES = 2 << 30
SAME = 1e-6  # how far, in parts of the image, a value may move and still be the one that was read
LOOKED_AT = 20  # photos that are tried to find their folder
Key = int | str  # COCO's ids are whole numbers; some tools write text
T = TypeVar("T")


@dataclass(frozen=True)
class Photo:
    """One image of a document: where it lies, its id, and its size as the document says."""

    path: Path
    id: Key
    width: int
    height: int


@dataclass(frozen=True)
class Fault:
    """Something of a document that cannot be used and is left out."""

    code: str  # "image", "annotation", "id"
    place: str
    why: str
    hint: str = ""


@dataclass(frozen=True)
class Coco:
    """A document. Classes are numbered 0, 1, 2 … by ascending category id.

    A row is one annotation of an image; its `number` counts all annotations from one and never
    changes. Crowd regions are no rows: detectors do not learn from them, and they always stay.
    """

    path: Path
    folder: Path  # of the images
    names: tuple[str, ...]
    categories: tuple[Key, ...]  # the id of each class
    photos: tuple[Photo, ...]
    rows: Mapping[Key, tuple[Row, ...]]  # by image id; every photo has an entry
    faults: tuple[Fault, ...]
    crowds: Mapping[Key, int]  # how many crowd regions an image has, where it has any
    parts: Mapping[str, Raw]  # the document as it stands in the file
    entries: Mapping[int, Raw]  # its annotations by number
    last: int  # the highest id of an annotation

    def labels(self, photo: Key) -> tuple[Label, ...]:
        """The boxes of one image that have no fault."""
        return tuple(r.label for r in self.rows[photo] if r.label is not None and not r.fault)


class _Image(msgspec.Struct):
    id: object = None
    file_name: object = None
    width: object = None
    height: object = None


class _Annotation(msgspec.Struct):
    id: object = None
    image_id: object = None
    category_id: object = None
    bbox: object = None
    iscrowd: object = None


class _Category(msgspec.Struct):
    id: object = None
    name: object = None


def read(path: Path, images: Path | None = None) -> Coco:
    """Read a document; `images` is the folder of its photos, found by itself where it is usual.

    Raises:
        InputError: it cannot be read, is no COCO document, or its categories are no classes. What
            is wrong with a single image or annotation is in `faults` and in the rows instead.
    """
    parts = _object(_bytes(path), path)
    if "images" not in parts or "categories" not in parts:
        raise InputError(
            f"{path} is no COCO document: it has no {_missing(parts)}",
            "a COCO document has images, annotations and categories",
        )
    categories = _categories(_list(parts, "categories", path), path)
    faults: list[Fault] = []
    described = _images(_list(parts, "images", path), faults)
    folder = images or _folder(path, [str(i.file_name) for i in described.values()])
    photos = tuple(
        Photo(folder / str(i.file_name), key, _side(i.width), _side(i.height))
        for key, i in described.items()
    )
    raw = _list(parts, "annotations", path) if "annotations" in parts else []
    entries = dict(enumerate(raw, 1))
    numbers = {key: index for index, (key, _) in enumerate(categories)}
    rows, crowds, last = _rows(entries, {p.id: p for p in photos}, numbers, faults)
    ids, names = (tuple(c[n] for c in categories) for n in (0, 1))
    return Coco(
        path,
        folder,
        tuple(map(str, names)),
        ids,
        photos,
        rows,
        tuple(faults),
        crowds,
        parts,
        entries,
        last,
    )


def replaced(found: Coco, photo: Key, rows: Iterable[Row | Label]) -> Coco:
    """Return the document with other boxes for one image; nothing else of it changes.

    Rows that were read keep their annotation, and so does a label that equals one that was read; a
    row with another label than was read keeps all of it but class, box and the outline of the old
    box. Other labels become annotations with a new id at the end.

    Raises:
        KeyError: the document has no such photo.
        InputError: it has no such class.
    """
    size = next(p for p in found.photos if p.id == photo) if photo in found.rows else None
    if size is None:
        raise KeyError(photo)
    free = {row.number: row for row in found.rows[photo]}
    fresh: list[Label] = []
    kept: dict[int, Row] = {}
    moved: dict[int, Raw] = {}
    for row in rows:
        label = row.label if isinstance(row, Row) else row
        number = row.number if isinstance(row, Row) else _equal(row, free)
        if number in free:
            kept[number] = free.pop(number)
            if isinstance(row, Row) and label is not None and label != kept[number].label:
                old = kept[number]
                kept[number] = Row(number, old.line, label)
                moved[number] = _moved(found, found.entries[number], old.label, label, size)
        elif label is not None:
            fresh.append(label)
    entries = {n: moved.get(n, e) for n, e in found.entries.items() if n not in free}
    first = max(found.entries, default=0) + 1
    for number, (id_, label) in enumerate(enumerate(fresh, found.last + 1), first):
        entry = _annotation(id_, photo, _category(found, label), label, size)
        entries[number] = Raw(msgspec.json.encode(entry))
        kept[number] = Row(number, _line(id_), label)
    changed = {**found.rows, photo: tuple(kept[n] for n in sorted(kept))}
    return replace(found, rows=changed, entries=entries, last=found.last + len(fresh))


def _category(found: Coco, label: Label) -> Key:
    if not 0 <= label.index < len(found.categories):
        allowed = f"allowed are 0 to {len(found.categories) - 1}"
        raise InputError(f"{found.path} has no class {label.index}", allowed)
    return found.categories[label.index]


def _moved(found: Coco, entry: Raw, old: Label | None, label: Label, photo: Photo) -> Raw:
    """Return an annotation with another box or class; an outline is only right for its own box."""
    parts = msgspec.json.decode(entry, type=dict[str, Raw])
    fresh = _annotation(0, photo.id, _category(found, label), label, photo)
    changed = {"category_id": fresh["category_id"]}
    if old is None or old.box != label.box:
        changed |= {"bbox": fresh["bbox"], "area": fresh["area"]}
        changed |= {"segmentation": []} if "segmentation" in parts else {}
    return Raw(msgspec.json.encode({**parts, **changed}))


def encode(found: Coco) -> bytes:
    """Return the bytes of a document; what was not changed is as it was read."""
    annotations = Raw(b"[" + b",\n".join(bytes(e) for e in found.entries.values()) + b"]")
    return msgspec.json.encode({**found.parts, "annotations": annotations})


def document(
    names: Sequence[str],
    photos: Iterable[tuple[str, tuple[int, int], Iterable[Row | Label]]],
) -> bytes:
    """Return a new document: for each photo its file name, size (width, height) and boxes.

    Rows without a class and a box are left out; a polygon becomes the annotation's segmentation.
    """
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for id_, (name, (width, height), rows) in enumerate(photos, 1):
        images.append({"id": id_, "file_name": name, "width": width, "height": height})
        size = Photo(Path(name), id_, width, height)
        for row in rows:
            label = row.label if isinstance(row, Row) else row
            if label is None or not 0 <= label.index < len(names):
                continue
            entry = _annotation(len(annotations) + 1, id_, label.index + 1, label, size)
            outline = yolo.polygon(row.line) if isinstance(row, Row) else ()
            if outline:
                sides = (width, height)
                entry["segmentation"] = [[_pixel(v * sides[i % 2]) for i, v in enumerate(outline)]]
            annotations.append(entry)
    classes = [{"id": i, "name": n, "supercategory": ""} for i, n in enumerate(names, 1)]
    return msgspec.json.encode(
        {"images": images, "annotations": annotations, "categories": classes}
    )


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is too large ({MAX_BYTES >> 30} GiB are allowed)")
    return data.removeprefix(b"\xef\xbb\xbf")


def _object(data: bytes, path: Path) -> dict[str, Raw]:
    try:
        return msgspec.json.decode(data, type=dict[str, Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no JSON document: {error}", "name a COCO .json") from error


def _missing(parts: Mapping[str, Raw]) -> str:
    return " and no ".join(n for n in ("images", "categories") if n not in parts)


def _list(parts: Mapping[str, Raw], name: str, path: Path) -> list[Raw]:
    try:
        return msgspec.json.decode(parts[name], type=list[Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is no COCO document: its {name} are no list", "name a COCO .json"
        ) from error


def _key(value: object) -> Key | None:
    """Return an id, or None where it is none; true and 1 are not the same here."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _side(value: object) -> int:
    """Return a width or height in pixels, or 0 where it is none."""
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 1e6
    return int(value) if whole else 0  # type: ignore[call-overload]


def _categories(raw: Sequence[Raw], path: Path) -> list[tuple[Key, str]]:
    found: dict[Key, str] = {}
    for place, entry in enumerate(raw, 1):
        read = _decoded(entry, _Category)
        key = _key(read.id) if read else None
        if read is None or key is None or not isinstance(read.name, str):
            raise InputError(
                f"{path}: category {place} has no id or no name", 'allowed: {"id": 1, "name": …}'
            )
        if key in found:
            raise InputError(
                f"{path}: two categories have the id {key}: {found[key]}, {read.name}",
                "give each class an id of its own",
            )
        found[key] = read.name
    if not found:
        raise InputError(f"{path} has no categories", "add the classes to its categories")
    return sorted(found.items(), key=lambda c: (isinstance(c[0], str), c[0]))


def _decoded(entry: Raw, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(entry, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _images(raw: Sequence[Raw], faults: list[Fault]) -> dict[Key, _Image]:
    found: dict[Key, _Image] = {}
    for place, entry in enumerate(raw, 1):
        read = _decoded(entry, _Image)
        key = _key(read.id) if read else None
        if read is None or key is None:
            faults.append(Fault("image", f"image {place}", "has no id", "give it one"))
        elif key in found:
            why = f"has the id of another image ({_shown(found[key].file_name)})"
            faults.append(Fault("id", f"image {place} (id {_shown(key)})", why, "ids must differ"))
        elif wrong := _unusable(read):
            faults.append(Fault("image", f"image {place} (id {_shown(key)})", *wrong))
        else:
            found[key] = read
    return found


def _unusable(image: _Image) -> tuple[str, str] | None:
    name = image.file_name
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        return "has no file_name", "name its file, from the folder of the images"
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or Path(name).drive:
        why = f"leads out of the folder of the images: {_shown(name)}"
        return why, "file_name must be a name below that folder; name the folder with --images"
    if not (_side(image.width) and _side(image.height)):
        return f"({_shown(name)}) has no width and height", "boxes are in pixels: write both"
    return None


def _shown(value: object) -> str:
    return repr(value)[:80] if isinstance(value, str) else str(value)[:80]


def _folder(path: Path, names: Sequence[str]) -> Path:
    """Return the folder, of those that are usual, in which the photos lie."""
    part = path.stem.rpartition("_")[2]  # as in annotations/instances_val2017.json
    places = [
        base / inner
        for base in (path.parent, path.parent.parent)
        for inner in (".", "images", part, f"images/{part}")
    ]
    some = names[:: max(1, len(names) // LOOKED_AT)]
    return max(places, key=lambda place: sum(_is_file(place / name) for name in some))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _rows(
    entries: Mapping[int, Raw],
    photos: Mapping[Key, Photo],
    numbers: Mapping[Key, int],
    faults: list[Fault],
) -> tuple[dict[Key, tuple[Row, ...]], dict[Key, int], int]:
    rows: dict[Key, list[Row]] = {key: [] for key in photos}
    crowds: dict[Key, int] = {}
    seen: set[Key] = set()
    for number, entry in entries.items():
        read = _decoded(entry, _Annotation)
        image = _key(read.image_id) if read else None
        place = f"annotation {number}" + (f" (id {_shown(read.id)})" if read else "")
        if read is None or image is None:
            faults.append(Fault("annotation", place, "names no image", "give it an image_id"))
            continue
        key = _key(read.id)
        if key is None or key in seen:
            why = "has no id" if key is None else "has the id of another annotation"
            faults.append(
                Fault("id", place, why, "ids must differ; evaluation mixes up equal ones")
            )
        else:
            seen.add(key)
        if image not in photos:
            why = f"is of the image {_shown(image)}, which does not exist or cannot be used"
            faults.append(Fault("annotation", place, why, "its box is not learned"))
        elif read.iscrowd in (1, "1"):
            crowds[image] = crowds.get(image, 0) + 1
        else:
            rows[image].append(_row(number, read, photos[image], numbers))
    last = max((key for key in seen if isinstance(key, int)), default=0)
    return {key: tuple(found) for key, found in rows.items()}, crowds, max(last, 0)


def _row(number: int, entry: _Annotation, photo: Photo, numbers: Mapping[Key, int]) -> Row:
    line = _line(entry.id)

    def wrong(fault: str, why: str, hint: str, label: Label | None = None) -> Row:
        return Row(number, line, label, fault, why, hint)

    allowed = "allowed: [left, top, width, height] in pixels"
    box = entry.bbox
    if not isinstance(box, list) or len(box) != 4:
        return wrong("fields", f"has no bbox of four numbers: {_shown(box)}", allowed)
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in box):
        return wrong("text", f"has a bbox that is no numbers: {_shown(box)}", allowed)
    category = _key(entry.category_id)
    if category is None or category not in numbers:
        why = f"has the category {_shown(entry.category_id)}, which does not exist"
        return wrong("class", why, "name one of the document's categories")
    try:
        label = Label(numbers[category], _parts(box, photo))
    except OverflowError:
        return wrong("range", f"is out of range: {_shown(box)}", allowed)
    if not all(-yolo.SLACK <= v <= 1 + yolo.SLACK for v in label.box[:2]) or not all(
        v <= 1 + yolo.SLACK for v in label.box[2:]
    ):
        hint = f"boxes are in pixels of the image, which is {photo.width} x {photo.height}"
        return wrong("range", f"is out of range: {_shown(box)}", hint, label)
    if label.box[2] <= 0 or label.box[3] <= 0:
        return wrong("size", f"has no width or no height: {_shown(box)}", allowed, label)
    return Row(number, line, label)


def _line(id_: object) -> str:
    return f"annotation {_shown(id_)}"


def _parts(box: Sequence[float], photo: Photo) -> yolo.Values:
    left, top, width, height = map(float, box)
    x, y = (left + width / 2) / photo.width, (top + height / 2) / photo.height
    values = (x, y, width / photo.width, height / photo.height)
    if not all(map(math.isfinite, values)):
        raise OverflowError
    return values


def _equal(label: Label, free: Mapping[int, Row]) -> int:
    """Return the number of the row that says the same, or 0."""
    for number, row in free.items():
        read = row.label
        if read is not None and read.index == label.index:
            moved = (abs(a - b) for a, b in zip(read.box, label.box, strict=True))
            if max(moved) <= SAME:
                return number
    return 0


def _annotation(
    id_: int, photo: Key, category: Key, label: Label, size: Photo
) -> dict[str, object]:
    left, top, *_ = label.corners
    width, height = label.box[2] * size.width, label.box[3] * size.height
    return {
        "id": id_,
        "image_id": photo,
        "category_id": category,
        "bbox": [_pixel(v) for v in (left * size.width, top * size.height, width, height)],
        "area": _pixel(width * height),
        "iscrowd": 0,
        "segmentation": [],
    }


def _pixel(value: float) -> float:
    return round(value, 8)
