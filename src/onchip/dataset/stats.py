"""What a data set holds, in numbers. Images are not decoded for it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onchip.dataset.boxes import boxes
from onchip.dataset.facts import size_of
from onchip.dataset.source import Source, open_source
from onchip.detections import Floats
from onchip.errors import InputError
from onchip.progress import Progress, silent
from onchip.several import each

AREAS = (32.0**2, 96.0**2)  # pixels of the image, as COCO calls boxes small, medium and large
COMMON = 8  # image sizes that are told


@dataclass(frozen=True)
class Stats:
    """Numbers of one split. Sizes are small, medium, large: up to 32², up to 96², and larger."""

    images: int
    unlabelled: int
    negatives: int
    boxes: int
    classes: tuple[tuple[int, int], ...]  # boxes and images of each class
    per_image: tuple[float, int]  # the mean over labelled images, and the most
    sizes: tuple[int, int, int]  # in pixels of the photos
    sizes_at: tuple[int, int, int]  # in pixels of the training input
    sides: tuple[float, float, float]  # 5 %, half and 95 % of the boxes' shorter sides there
    photos: tuple[tuple[tuple[int, int], int], ...]  # width and height, how many; the most common
    kinds: int  # how many different sizes of photos


@dataclass(frozen=True)
class _Image:
    size: tuple[int, int] | None
    labelled: bool
    areas: Floats  # in pixels of the photo
    scale: float  # from the photo to the training input
    least: Floats  # shorter sides at the training input
    classes: tuple[int, ...]


def stats(
    path: Path,
    *,
    images: Path | None = None,
    imgsz: int = 640,
    progress: Progress = silent,
) -> tuple[Source, Mapping[str, Stats]]:
    """Return the numbers of each split of a data set.

    Raises:
        InputError: there is no data set, or nothing in it.
    """
    source = open_source(path, images)
    if not source.images:
        raise InputError(f"no images in {path}", "allowed are jpg, png, bmp, webp and tiff")

    def one(image: Path) -> _Image:
        size = size_of(image)
        try:
            rows = source.rows(image)
        except InputError:  # onchip dataset check says so
            rows = None
        found = boxes(rows)
        sides = found.values[:, 2:] * np.asarray(size or (0, 0), np.float32)
        scale = imgsz / max(*(size or (1, 1)), 1)
        least = sides.min(axis=1, initial=np.inf) * scale
        classes = tuple(found.classes.tolist())
        return _Image(size, rows is not None, sides.prod(axis=1), scale, least, classes)

    looked: dict[Path, _Image] = {}
    for done, (image, found) in enumerate(
        zip(source.images, each(one, source.images), strict=True), 1
    ):
        looked[image] = found
        progress("read", done, len(source.images))
    top = max((max(one.classes, default=-1) for one in looked.values()), default=-1)
    size = len(source.names) or top + 1
    return source, {
        split: _summed([looked[p] for p in paths], size) for split, paths in source.splits.items()
    }


def _summed(images: list[_Image], size: int) -> Stats:
    in_boxes, in_images = Counter[int](), Counter[int]()
    for one in images:
        in_boxes.update(one.classes)
        in_images.update(set(one.classes))
    labelled = [one for one in images if one.labelled]
    numbers = [len(one.classes) for one in labelled]
    known = [one for one in images if one.size is not None]
    none = np.zeros(0, np.float32)
    areas = np.concatenate([none, *(one.areas for one in known)])
    areas_at = np.concatenate([none, *(one.areas * one.scale**2 for one in known)])
    least = np.concatenate([none, *(one.least for one in known)])
    shares = np.percentile(least, (5, 50, 95)) if len(least) else np.zeros(3)
    photos = Counter(one.size for one in known if one.size is not None)
    return Stats(
        images=len(images),
        unlabelled=len(images) - len(labelled),
        negatives=sum(not n for n in numbers),
        boxes=sum(numbers),
        classes=tuple((in_boxes[i], in_images[i]) for i in range(size)),
        per_image=(sum(numbers) / max(1, len(numbers)), max(numbers, default=0)),
        sizes=_three(areas),
        sizes_at=_three(areas_at),
        sides=(float(shares[0]), float(shares[1]), float(shares[2])),
        photos=tuple(photos.most_common(COMMON)),
        kinds=len(photos),
    )


def _three(areas: Floats) -> tuple[int, int, int]:
    small, large = int((areas < AREAS[0]).sum()), int((areas >= AREAS[1]).sum())
    return small, len(areas) - small - large, large
