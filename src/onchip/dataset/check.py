"""Look through a data set before it is trained on, and say what is wrong with it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onchip.dataset import yolo
from onchip.dataset.balance import balance, per_class
from onchip.dataset.boxes import count, like_corners
from onchip.dataset.copies import copies
from onchip.dataset.dispute import Sight, disputes
from onchip.dataset.findings import Finding, Level
from onchip.dataset.folders import UNREAD_SUFFIXES, walk
from onchip.dataset.places import orphans, places
from onchip.dataset.seen import Seen, look
from onchip.dataset.source import Source, open_source
from onchip.detections import Floats
from onchip.errors import InputError
from onchip.progress import Progress, silent

IMGSZ = 640


@dataclass(frozen=True)
class Part:
    """What one split holds. `files` counts all that stand in its folders of labels."""

    name: str
    images: int
    labelled: int
    files: int
    negatives: int  # labelled as having nothing on them
    boxes: int


@dataclass(frozen=True)
class Report:
    """What was found in a data set, and what it holds."""

    source: Source
    parts: tuple[Part, ...]
    findings: tuple[Finding, ...]
    classes: Mapping[str, tuple[int, ...]]  # boxes of each class by split
    sides: Floats  # (n, 2): width and height of each box, in pixels of an input of `imgsz`
    imgsz: int

    @property
    def passed(self) -> bool:
        """Whether it can be trained on: there is no error."""
        return not self.of("error")

    def of(self, level: Level) -> tuple[Finding, ...]:
        """The findings of a level."""
        return tuple(f for f in self.findings if f.level == level)


def check(
    path: Path,
    *,
    images: Path | None = None,
    imgsz: int = IMGSZ,
    sight: Sight | None = None,
    progress: Progress = silent,
) -> Report:
    """Look through a data set.

    Args:
        path: a `data.yaml`, a folder of photos, or a COCO document.
        images: the folder of a COCO document's photos, where it is an unusual one.
        imgsz: pixels of a side of the training input, for what is too small.
        sight: a model whose view of the labels is asked for.
        progress: is told what is done, how far, and of how many.

    Raises:
        InputError: there is no data set, or nothing in it; or the model knows none of its classes.
    """
    source = open_source(path, images)
    if not source.images:
        raise InputError(f"no images in {path}", _others(source))
    seen = look(source, imgsz, progress)
    counts = per_class(source, seen)
    corners = like_corners([one.boxes for one in seen])
    findings = [
        *(f for one in seen for f in one.findings if not (corners and f.code == "edge")),
        *places(source, seen),
        *copies(source, seen, progress),
        *balance(source, counts),
        *_whole(source, corners),
        *(disputes(source, seen, sight, progress) if sight is not None else ()),
    ]
    sides = [one.boxes.sides(one.facts.size, imgsz) for one in seen if one.facts.size[0]]
    table = np.concatenate([np.zeros((0, 2), np.float32), *sides])
    return Report(source, _parts(source, seen), tuple(findings), counts, table, imgsz)


def _others(source: Source) -> str:
    if source.root.is_dir():
        others = walk(source.root, UNREAD_SUFFIXES)
        if others:
            kinds = ", ".join(sorted({p.suffix for p in others}))
            return f"{count(len(others), 'photo')} there cannot be read ({kinds}): convert them"
    return "allowed are jpg, png, bmp, webp and tiff"


def _parts(source: Source, seen: Sequence[Seen]) -> tuple[Part, ...]:
    by_path = {one.path: one for one in seen}
    over = [] if source.document else list(orphans(source))
    parts = []
    for name, paths in source.splits.items():
        ours = [by_path[p] for p in paths]
        labelled = [one for one in ours if one.labelled]
        negatives = sum(not len(one.boxes) for one in labelled)
        boxes = sum(len(one.boxes) for one in ours)
        files = {yolo.place(one.path) for one in labelled}
        folders = {yolo.place(one.path).parent for one in ours}
        left = sum(path.parent in folders for path in over)
        parts.append(Part(name, len(ours), len(labelled), len(files) + left, negatives, boxes))
    return tuple(parts)


def _whole(source: Source, corners: bool) -> Iterator[Finding]:
    """What shows in the data set as a whole."""
    if corners:
        said = "nearly every box is larger than its distance from the left and the top"
        yield Finding("corners", source.said(source.path), said, source.images[:12])
    if "val" not in source.splits:
        yield Finding("no-val", source.said(source.path), "has no val images")
    for fault in source.document.faults if source.document else ():
        yield Finding(f"coco-{fault.code}", fault.place, fault.why)


def require_sound(report: Report, allowed: Sequence[str], hint: str) -> None:
    """Raise InputError if there are errors of other codes than those allowed; `hint` is its end."""
    wrong = [f for f in report.of("error") if f.code not in allowed]
    if wrong:
        codes = Counter(f.code for f in wrong)
        said = ", ".join(f"{n} {code}" for code, n in codes.most_common())
        raise InputError(
            f"the data set has errors: {said}; the first: {wrong[0].text}",
            f"onchip dataset check {report.source.path} --fix mends what is safe; {hint}",
        )
