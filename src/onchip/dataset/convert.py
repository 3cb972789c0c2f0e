"""From YOLO's layout to COCO documents and back. What the other format cannot hold is said."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from onchip.dataset import layout, yolo
from onchip.dataset.boxes import count
from onchip.dataset.coco import Coco
from onchip.dataset.facts import size_of
from onchip.dataset.places import elsewhere_of
from onchip.dataset.source import Source, open_source
from onchip.errors import InputError
from onchip.progress import Progress, silent


@dataclass(frozen=True)
class Converted:
    """What was written, and what of the source it does not hold."""

    files: tuple[Path, ...]
    images: int
    boxes: int
    lost: tuple[str, ...]


class _Outline(msgspec.Struct):
    segmentation: msgspec.Raw = msgspec.Raw(b"[]")


def convert(
    path: Path,
    out: Path,
    to: str,
    *,
    images: Path | None = None,
    link: bool = False,
    progress: Progress = silent,
) -> Converted:
    """Write a data set in another format, in a new folder; photos are copied or linked as they are.

    Args:
        path: a `data.yaml`, a folder, or a COCO document.
        out: the new folder.
        to: "yolo" or "coco".
        images: the folder of a COCO document's photos, where it is an unusual one.
        link: link to the photos instead of copying them.
        progress: is told how far it is.

    Raises:
        InputError: there is no data set, or `out` is there already, or cannot be written.
    """
    source = open_source(path, images)
    if not source.images:
        raise InputError(f"no images in {path}", "allowed are jpg, png, bmp, webp and tiff")
    if (source.document is not None) == (to == "coco"):
        raise InputError(f"{path} is {to.upper()} already", "name the other format with --to")
    for image in source.images if source.document is None else ():
        if not yolo.place(image).is_file() and (other := elsewhere_of(image)) is not None:
            raise InputError(
                f"trainers do not find {source.said(other)}; they look for "
                f"{source.said(yolo.place(image))}",
                f"first write folders that they do: onchip dataset split {path} --link OUT",
            )
    there = {split: [p for p in paths if p.is_file()] for split, paths in source.splits.items()}
    if not any(there.values()):
        raise InputError(
            f"{path} names {count(len(source.images), 'photo')}, and none is there",
            "name their folder: --images FOLDER" if source.document else "are they somewhere else?",
        )
    files: tuple[Path, ...]
    if to == "yolo":
        files = (layout.as_yolo(source, there, out, link=link, progress=progress),)
    else:
        files = layout.as_coco(source, there, out, link=link, progress=progress)
    rows = [row for paths in there.values() for p in paths for row in source.rows(p) or ()]
    boxes = sum(_kept(row, to) for row in rows)
    gone = sum(len(paths) - len(there[split]) for split, paths in source.splits.items())
    lost = _said(gone, "photo that is not there", "photos that are not there")
    lost += _said(len(rows) - boxes, "line that is no label", "lines that are no label")
    if to == "coco":
        unsized = sum(size_of(p) is None for paths in there.values() for p in paths)
        lost += _said(unsized, "file that is no image", "files that are no image")
        lost += _unlabelled(source, there)
    elif source.document is not None:
        lost += _of_document(source.document)
    return Converted(files, sum(map(len, there.values())), boxes, tuple(lost))


def _kept(row: yolo.Row, to: str) -> bool:
    return row.label is not None and (not row.fault or (to == "coco" and row.fault != "class"))


def _said(number: int, one: str, many: str) -> list[str]:
    return [count(number, one, many)] if number else []


def _unlabelled(source: Source, parts: layout.Parts) -> list[str]:
    """COCO knows no photo that nobody labelled: without annotations, nothing is on it."""
    if source.document is not None:
        return []
    number = sum(not yolo.place(p).is_file() for paths in parts.values() for p in paths)
    return _said(
        number,
        "photo that nobody labelled is now one without objects",
        "photos that nobody labelled are now some without objects",
    )


def _of_document(found: Coco) -> list[str]:
    outlines = sum(_outlined(raw) for raw in found.entries.values())
    others = [name for name in found.parts if name not in ("images", "annotations", "categories")]
    lost = _said(sum(found.crowds.values()), "crowd region", "crowd regions")
    lost += _said(
        outlines, "outline or mask; its box stays", "outlines and masks; their boxes stay"
    )
    lost += _said(len(found.faults), "entry with a fault", "entries with a fault")
    lost += [f"what the document says under {', '.join(others)}"] if others else []
    return [*lost, "the ids of images, annotations and categories"]


def _outlined(raw: msgspec.Raw) -> bool:
    try:
        outline = msgspec.json.decode(raw, type=_Outline).segmentation
    except msgspec.MsgspecError:
        return False
    return bytes(outline).strip() not in (b"[]", b"null")
