"""Photos and labels that miss each other, and files that lie where nothing reads them."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from onchip.dataset import yolo
from onchip.dataset.boxes import count
from onchip.dataset.findings import Finding
from onchip.dataset.folders import CLASSES, UNREAD_SUFFIXES
from onchip.dataset.seen import Seen
from onchip.dataset.source import Source, stray
from onchip.errors import InputError
from onchip.vision.preprocess import IMAGE_SUFFIXES

TEXT = frozenset({".txt"})


def places(source: Source, seen: Sequence[Seen]) -> Iterator[Finding]:
    """Return what is missing, left over, shared, or not looked at."""
    yield from _unlabelled(source, seen)
    yield from _empty(source, seen)
    if source.document is None:
        yield from _shared(source)
        yield from _orphans(source)
    yield from _beside(source)


def _unlabelled(source: Source, seen: Sequence[Seen]) -> Iterator[Finding]:
    without = {s.path for s in seen if not s.labelled}
    for split, paths in source.splits.items():
        if len(paths) > 1 and without.issuperset(paths):
            elsewhere = [p for p in paths if elsewhere_of(p)]
            if not elsewhere:
                part = split or source.said(source.root)
                said = f"has {count(len(paths), 'photo')} and no label file"
                code = "missing" if split == "test" else "no-labels"  # a test set may have none
                yield Finding(code, part, said, paths)
                without -= set(paths)
    for image in [p for p in source.images if p in without]:
        other = elsewhere_of(image)
        if other is not None:
            said = f"is where trainers do not look; they look for {source.said(yolo.place(image))}"
            yield Finding("misplaced", source.said(other), said, (image,))
        else:
            yield Finding("missing", source.said(image), "has no label file", (image,))


def elsewhere_of(image: Path) -> Path | None:
    """Return labels of an image that stand beside its folder or below it, where none are right."""
    name, folder = f"{image.stem}.txt", image.parent
    tried = (
        folder / "labels" / name,
        folder.parent / "labels" / name,
        folder.parent / "labels" / folder.name / name,
        folder / name,
    )
    right = yolo.place(image)
    return next((p for p in tried if p != right and p.is_file()), None)


def _empty(source: Source, seen: Sequence[Seen]) -> Iterator[Finding]:
    for one in seen:
        if one.labelled and not len(one.boxes) and not one.findings:
            yield Finding("empty", source.said(one.path), "has no objects", (one.path,))


def _shared(source: Source) -> Iterator[Finding]:
    by_label = defaultdict(list)
    for image in source.images:
        by_label[yolo.place(image)].append(image)
    for labels, images in by_label.items():
        if len(images) > 1:
            names = " and ".join(source.said(p) for p in images)
            yield Finding("one-label", source.said(labels), f"is of {names}", tuple(images))


def orphans(source: Source) -> Iterator[Path]:
    """Yield label files in the folders of labels that no photo there belongs to."""
    kept: dict[Path, set[str]] = defaultdict(set)
    for image in source.images:
        kept[yolo.place(image).parent].add(image.stem)
    for image in {yolo.place(i).parent: i for i in source.images}.values():
        found = stray(image.parent, IMAGE_SUFFIXES | UNREAD_SUFFIXES)
        kept[yolo.place(image).parent].update(p.stem for p in found)
    folders = {image.parent for image in source.images}
    for folder, stems in sorted(kept.items()):
        for path in stray(folder, TEXT):
            apart = folder not in folders  # where only labels are, each file is one
            if path.stem not in stems and path.name != CLASSES and (apart or _is_label(path)):
                yield path


def _is_label(path: Path) -> bool:
    try:
        rows = yolo.read(path)
    except InputError:
        return False
    return bool(rows) and all(row.fault not in ("text", "fields") for row in rows or ())


def _orphans(source: Source) -> Iterator[Finding]:
    for path in orphans(source):
        yield Finding("orphan", source.said(path), "has no photo")


def _beside(source: Source) -> Iterator[Finding]:
    """What lies in the folders of the photos and is no part of the data set."""
    listed = set(source.images)
    for folder in sorted({image.parent for image in listed} | {source.root}):
        for path in stray(folder, UNREAD_SUFFIXES - {".svg", ".psd"}):
            if path not in listed:
                said = f"is {path.suffix[1:].upper()}, which is passed over"
                yield Finding("unread", source.said(path), said, (path,))
        if source.folders.notes is not None or source.document is not None:
            for path in stray(folder, IMAGE_SUFFIXES):
                if path not in listed and folder != source.root:
                    yield Finding("unlisted", source.said(path), "is in no list", (path,))
        yield from _doors(source, folder)


def _doors(source: Source, folder: Path) -> Iterator[Finding]:
    """Folders below that were not looked into."""
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        if entry.is_symlink():
            yield Finding("link", source.said(Path(entry)), f"leads to {Path(entry).readlink()}")
        elif not os.access(entry, os.R_OK | os.X_OK):
            yield Finding("unreadable", source.said(Path(entry)), "is a folder that is locked")
