"""Mend what is safe to mend in a data set, and put it back again.

Nothing is deleted: everything that is changed or moved is copied before, to a folder with a record
of it. What only a person can decide is left alone.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import xxhash

from onchip.dataset import coco, folders, yolo
from onchip.dataset.boxes import EDGE, EXACT, count, slight
from onchip.dataset.check import Report
from onchip.dataset.coco import Coco
from onchip.dataset.facts import kind_of
from onchip.dataset.findings import Finding
from onchip.dataset.places import orphans
from onchip.dataset.source import Source, open_source, shown
from onchip.dataset.yolo import Label, Row
from onchip.errors import InputError
from onchip.vision.preprocess import IMAGE_SUFFIXES
from onchip.writing import write_whole

KEPT = ".onchip-fixes"  # hidden, so that neither trainers nor onchip take its photos for the data
RECORD = "record.json"
UNDONE = ".undone"
BOXES = frozenset({"edge", "twin", "label-size"})  # what is mended in labels


@dataclass(frozen=True)
class Change:
    """One file that is written anew (`data`) or moved aside (None), and why."""

    path: Path
    data: bytes | None
    said: str
    before: str  # the digest of what is there now


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was done to one file. `copy` is the name of what it was before."""

    path: str
    copy: str
    said: str
    after: str  # the digest of what it is now; "" where it was moved


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one fix did."""

    data: str
    files: tuple[Entry, ...]


@dataclass(frozen=True)
class Fixed:
    """What was mended, and the folder that keeps what was there before."""

    folder: Path | None
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Undone:
    """What was put back, and what was not because it was changed since."""

    folder: Path
    restored: tuple[Path, ...]
    changed: tuple[Path, ...]


def plan(report: Report) -> tuple[Change, ...]:
    """Return what would be mended: boxes cut off at the edge, exact twins and boxes without a size
    dropped, label files without a photo and files that are no image moved aside.

    Raises:
        InputError: a label file cannot be read any more.
    """
    source = report.source
    images = _images(f for f in report.findings if f.code in BOXES)
    if source.document is not None:
        return _document(source, source.document, images)
    labels: dict[Path, Change] = {}
    for image in images:
        path = yolo.place(image)
        rows = yolo.read(path, len(source.names) or None) or ()
        mended, said = _mended(rows)
        if said and path not in labels:
            labels[path] = Change(path, yolo.encode(mended), said, _digest(path))
    moved = [Change(p, None, "has no photo", _digest(p)) for p in orphans(source)]
    moved += _no_images(source, report.findings)
    aside = {change.path: change for change in moved}
    return (*(c for p, c in labels.items() if p not in aside), *aside.values())


def _images(found: Iterable[Finding]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(p for finding in found for p in finding.images))


def _mended(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """Return the rows as they should be, and what was done; "" where nothing was."""
    kept: list[Row] = []
    done = {"cut off at the edge": 0, "without a size dropped": 0, "twice dropped": 0}
    for row in rows:
        mended = _cut(row)
        if mended is not row:
            done["cut off at the edge"] += 1
        if mended.label is not None and min(mended.label.box[2:]) <= EXACT:
            done["without a size dropped"] += 1
        elif any(_exact(mended, other) for other in kept):
            done["twice dropped"] += 1
        else:
            kept.append(mended)
    parts = (f"{count(n, 'box', 'boxes')} {what}" for what, n in done.items() if n)
    return kept, ", ".join(parts)


def _cut(row: Row) -> Row:
    """Return a row whose box ends at the edge; the same row where that is not safe or needed."""
    if row.label is None or (row.fault and not slight(row)):
        return row
    left, top, right, bottom = row.label.corners
    past = max(-left, -top, right - 1, bottom - 1)
    points = yolo.polygon(row.line)
    values = points or (left, top, right, bottom)
    inside = left < 1 and top < 1 and right > 0 and bottom > 0
    if past <= EDGE or not inside:
        return row
    cut = [min(max(v, 0.0), 1.0) for v in values]
    if points:
        line = " ".join([str(row.label.index), *(f"{v:.8g}" for v in cut)])
        label = yolo.parse(line)[0].label
        return replace(row, line=line, label=label, fault="")
    left, top, right, bottom = cut
    box = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    label = Label(row.label.index, box)
    return replace(row, line=yolo.text(label), label=label, fault="")


def _exact(row: Row, other: Row) -> bool:
    if row.label is None or other.label is None or row.fault or other.fault:
        return False
    if row.label.index != other.label.index or yolo.polygon(row.line) != yolo.polygon(other.line):
        return False
    return all(abs(a - b) <= EXACT for a, b in zip(row.label.box, other.label.box, strict=True))


def _document(source: Source, found: Coco, images: Iterable[Path]) -> tuple[Change, ...]:
    said: list[str] = []
    for image in images:
        key = source.photos[image].id
        mended, done = _mended(found.rows[key])
        if done:
            found = coco.replaced(found, key, mended)
            said.append(f"{source.said(image)}: {done}")
    if not said:
        return ()
    return (Change(found.path, coco.encode(found), "; ".join(said), _digest(found.path)),)


def _no_images(source: Source, findings: Iterable[Finding]) -> list[Change]:
    """What is no image at all, with its labels; not where a list names it, which would then lie."""
    if source.folders.notes is not None and source.folders.source == source.folders.notes:
        notes = folders.read_notes(source.folders.notes)
        named = [item for split in source.splits for item in folders.entries(notes, split)]
        if any(Path(str(item)).suffix.lower() in {".txt", *IMAGE_SUFFIXES} for item in named):
            return []
    found = [
        image
        for image in _images(f for f in findings if f.code in ("empty-file", "not-image"))
        if not _some_image(image)  # of some kind, that can be converted or saved
    ]
    changes = [Change(image, None, "is no image", _digest(image)) for image in found]
    others = {yolo.place(image) for image in set(source.images) - set(found)}
    for labels in map(yolo.place, found):
        if labels.is_file() and labels not in others:
            changes.append(Change(labels, None, "is of a file that is no image", _digest(labels)))
    return changes


def _some_image(path: Path) -> bool:
    with path.open("rb") as file:
        return bool(kind_of(file.read(32)))


def _digest(path: Path) -> str:
    try:
        return xxhash.xxh3_128_hexdigest(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def fix(report: Report) -> Fixed:
    """Mend what is safe, after copying it.

    Raises:
        InputError: something cannot be read or written; what was done until then can be undone.
    """
    changes = plan(report)
    if not changes:
        return Fixed(None, ())
    root = report.source.root
    names = [_named(change.path, root) for change in changes]
    folder = _fresh(root / KEPT)
    entries = []
    try:
        for number, (change, name) in enumerate(zip(changes, names, strict=True), 1):
            copy = f"{number:05}{change.path.suffix}"
            shutil.copy2(change.path, folder / copy)
            after = xxhash.xxh3_128_hexdigest(change.data) if change.data is not None else ""
            entries.append(Entry(name, copy, change.said, after))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # copies alone: nothing was changed yet
        raise InputError(
            f"cannot copy to {folder}: {error.strerror or error}", "nothing was changed"
        ) from error
    record = Record(shown(report.source.path, root), tuple(entries))
    write_whole(folder / RECORD, msgspec.json.format(msgspec.json.encode(record)))
    for done, (change, entry) in enumerate(zip(changes, entries, strict=True)):
        try:
            _apply(change, folder / entry.copy)
        except (InputError, OSError) as error:
            raise InputError(
                f"mended {done} of {count(len(changes), 'file')}, then: {error}",
                f"put them back with: onchip dataset check {report.source.path} --undo",
            ) from error
    return Fixed(folder, changes)


def _apply(change: Change, copy: Path) -> None:
    if not change.before == _digest(change.path) == _digest(copy):
        raise InputError(f"{change.path} was changed meanwhile")
    if change.data is None:
        change.path.unlink()
    else:
        write_whole(change.path, change.data)


def _named(path: Path, root: Path) -> str:
    name = str(path.relative_to(root) if path.is_relative_to(root) else path.absolute())
    if name != name.encode("utf-8", "replace").decode():  # its bytes are no text
        raise InputError(f"{shown(path, root)} fits in no record", "rename it first")
    return name


def _fresh(kept: Path) -> Path:
    number = max((_number(p) for p in kept.glob("*")), default=0) + 1
    try:
        (kept / str(number)).mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"cannot keep a copy in {kept}: {error.strerror or error}", "nothing was changed"
        ) from error
    return kept / str(number)


def _number(path: Path) -> int:
    name = path.name.removesuffix(UNDONE)
    return int(name) if name.isascii() and name.isdigit() else 0


def undo(path: Path) -> Undone:
    """Put back what the newest fix of a data set changed or moved.

    Raises:
        InputError: there was none, its record is damaged, or something cannot be written.
    """
    source = open_source(path)
    kept = source.root / KEPT
    # a fix that was cut off while it copied has no record, and changed nothing
    found = [p.parent for p in kept.glob(f"*/{RECORD}") if _number(p.parent)]
    found = [p for p in found if not p.name.endswith(UNDONE)]
    if not found:
        raise InputError(f"nothing of {path} was mended", "onchip dataset check --fix mends")
    folder = max(found, key=_number)
    record = _record(folder / RECORD)
    inside = _inside(source)
    restored, changed = [], []
    for entry in reversed(record.files):
        target = Path(os.path.normpath(source.root / entry.path))
        copy = folder / entry.copy
        if not inside(_whole(target)) or Path(entry.copy).name != entry.copy or not copy.is_file():
            raise InputError(f"{folder / RECORD} is damaged: {entry.path}", "restore it by hand")
        now = _digest(target) if target.exists() else ""
        if now not in (entry.after, _digest(copy)):
            changed.append(target)
            continue
        write_whole(target, copy.read_bytes())
        restored.append(target)
    if not changed:
        folder.rename(folder.with_name(folder.name + UNDONE))
    return Undone(folder, tuple(restored), tuple(changed))


def _record(path: Path) -> Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}", "restore it by hand") from error


def _inside(source: Source) -> Callable[[Path], bool]:
    """Return what says whether a file belongs to the data set; a record is not trusted to say."""
    root = _whole(source.root)
    files = [*source.images, *map(yolo.place, source.images)]
    places = {_whole(folder) for folder in {path.parent for path in files}}
    kinds = {".txt", *IMAGE_SUFFIXES}

    def inside(path: Path) -> bool:
        ours = path.parent in places and path.suffix.lower() in kinds
        return ours or path.is_relative_to(root) or path == _whole(source.path)

    return inside


def _whole(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))
