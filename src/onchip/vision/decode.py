"""Head tensors to boxes: one function per way of coding a box.

A head is a list of levels; on a level every cell (and every anchor, where there are several) makes
one prediction. All functions take the raw values of the chosen cells, `(channels, n)`, and return
boxes `(n, 4)` as x1, y1, x2, y2 in input pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.detections import Detections, Floats
from onchip.spec import Coding, HeadSpec, HeadTensor
from onchip.vision.nms import nms

Tensors = Mapping[str, npt.NDArray[np.float32]]
MAX_CANDIDATES = 3000  # before NMS; COCO counts 100 boxes per image, NMS keeps 300


@dataclass(frozen=True)
class Level:
    """One anchor of one level: box `(4 * bins, n)`, classes `(nc, n)`, objectness `(1, n)`."""

    head: HeadSpec
    size: tuple[int, int]  # width and height of the network's input
    stride: float  # pixels per cell
    columns: int
    anchor: tuple[float, float]
    box: Floats
    classes: Floats
    object: Floats | None
    activated: bool

    def points(self, cells: npt.NDArray[np.int64]) -> Floats:
        """Return the reference points `(2, n)` of `cells` in grid units."""
        rows, columns = np.divmod(cells, self.columns)
        return np.stack([columns, rows]).astype(np.float32) + np.float32(self.head.offset)


def _from_distances(level: Level, distances: Floats, cells: npt.NDArray[np.int64]) -> Floats:
    points = level.points(cells)
    corners = np.concatenate([points - distances[:2], points + distances[2:]])
    return (corners * np.float32(level.stride)).T


def _corners(center: npt.NDArray[np.floating], size: npt.NDArray[np.floating]) -> Floats:
    return np.concatenate([center - size / 2, center + size / 2]).T.astype(np.float32, copy=False)


def dfl(level: Level, raw: Floats, cells: npt.NDArray[np.int64]) -> Floats:
    """Distances to the four sides, each the mean of a softmax over `bins` (GFL, YOLOv8).

    Source: Li et al., Generalized Focal Loss, 2020, eq. 4-6.
    """
    bins = len(raw) // 4
    logits = raw.reshape(4, bins, -1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    steps = np.arange(bins, dtype=np.float32)[None, :, None]
    return _from_distances(level, (weights * steps).sum(1) / weights.sum(1), cells)


def ltrb(level: Level, raw: Floats, cells: npt.NDArray[np.int64]) -> Floats:
    """Distances to the four sides in cells, as they are (YOLOv6-n, YOLO26)."""
    return _from_distances(level, raw, cells)


def exp(level: Level, raw: Floats, cells: npt.NDArray[np.int64]) -> Floats:
    """Centre from the cell's corner, size as an exponent (YOLOX)."""
    stride = np.float32(level.stride)
    return _corners((raw[:2] + level.points(cells)) * stride, np.exp(raw[2:]) * stride)


def anchor(level: Level, raw: Floats, cells: npt.NDArray[np.int64]) -> Floats:
    """Centre `2 sigmoid - 0.5` cells from the corner, size `(2 sigmoid)^2` anchors (YOLOv5, v7)."""
    unit = raw if level.activated else sigmoid(raw)
    center = (unit[:2] * 2 - 0.5 + level.points(cells)) * np.float32(level.stride)
    size = (unit[2:] * 2) ** 2 * np.asarray(level.anchor, np.float32)[:, None]
    return _corners(center, size)


def prior(level: Level, raw: Floats, cells: npt.NDArray[np.int64]) -> Floats:
    """Offsets from a prior box, scaled by variances (SSD; Liu et al. 2016, eq. 2)."""
    x, y, w, h = raw if level.head.order == "xywh" else raw[[1, 0, 3, 2]]
    size = np.asarray(level.anchor, np.float32)[:, None]
    vx, vy, vw, vh = level.head.variances
    center = level.points(cells) * np.float32(level.stride) + np.stack([x * vx, y * vy]) * size
    return _corners(center, np.exp(np.stack([w * vw, h * vh])) * size)


def query(level: Level, raw: Floats, cells: npt.NDArray[np.int64]) -> Floats:
    """Centre and size as parts of the input, one box per query (DETR, RT-DETR)."""
    size = np.asarray([*level.size, *level.size], np.float32)[:, None]
    unit = (raw if level.activated else sigmoid(raw)) * size
    return _corners(unit[:2], unit[2:])


def xywh(level: Level, raw: Floats, cells: npt.NDArray[np.int64]) -> Floats:
    """Centre and size in input pixels, as networks give them that decode their boxes themselves."""
    return _corners(raw[:2], raw[2:])


CODINGS: dict[Coding, Callable[[Level, Floats, npt.NDArray[np.int64]], Floats]] = {
    "dfl": dfl,
    "ltrb": ltrb,
    "exp": exp,
    "anchor": anchor,
    "prior": prior,
    "query": query,
    "xywh": xywh,
}


def sigmoid(x: Floats) -> Floats:
    """Return the logistic function without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), x.dtype)


def logit(p: Floats) -> Floats:
    """Return what `sigmoid` turns into `p`, kept finite.

    >>> logit(np.array([0.5])).tolist()
    [0.0]
    """
    inside = np.clip(p, 1e-30, 1 - 6e-8)
    return np.asarray(np.log(inside) - np.log1p(-inside), p.dtype)


def levels(head: HeadSpec, tensors: Tensors, size: tuple[int, int]) -> Iterator[Level]:
    """Split head tensors into levels; `size` is the input's width and height."""
    for index, stride in enumerate(head.strides):
        yield from _level(head, head.level(stride), tensors, size, index)


def _level(
    head: HeadSpec,
    parts: tuple[HeadTensor, ...],
    tensors: Tensors,
    size: tuple[int, int],
    index: int,
) -> Iterator[Level]:
    columns = tensors[parts[0].name].shape[1 if head.coding == "query" else -1]
    flat = {p.role: _flat(tensors[p.name], head)[p.start : p.stop] for p in parts}
    activated = any(p.activated for p in parts)
    anchors = head.anchors[index] if head.anchors else ((1.0, 1.0),)
    for number, wh in enumerate(anchors):
        mine = {role: _share(values, number, len(anchors)) for role, values in flat.items()}
        if "all" in mine:
            whole = mine.pop("all")
            mine = {"box": whole[:4], "object": whole[4:5], "class": whole[5:]}
        yield Level(
            head=head,
            size=size,
            stride=parts[0].stride,
            columns=columns,
            anchor=wh,
            box=mine["box"],
            classes=mine["class"],
            object=mine.get("object"),
            activated=activated,
        )


def _flat(tensor: npt.NDArray[np.float32], head: HeadSpec) -> Floats:
    """Return `(C, n)` for `(1, C, H, W)`, and for `(1, Q, C)` of query heads."""
    if head.coding == "query":
        return tensor[0].T
    return tensor.reshape(tensor.shape[1], -1)


def _share(values: Floats, number: int, of: int) -> Floats:
    size = len(values) // of
    return values[number * size : (number + 1) * size]


def scores(level: Level, cells: npt.NDArray[np.int64] | slice = slice(None)) -> Floats:
    """Return the class scores `(nc, n)` of `cells`, between 0 and 1."""
    raw = level.classes[:, cells]
    if level.head.scoring == "softmax":
        weights = np.exp(raw - raw.max(axis=0))
        return np.delete(weights / weights.sum(0), level.head.background, axis=0)
    if level.head.background >= 0:
        raw = np.delete(raw, level.head.background, axis=0)
    unit = raw if level.activated else sigmoid(raw)
    if level.object is not None:
        objectness = level.object[:, cells]
        unit = unit * (objectness if level.activated else sigmoid(objectness))
    return unit


def dense(head: HeadSpec, tensors: Tensors, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Decode every cell: boxes `(n, 4)` in input pixels and scores `(n, nc)`. For proofs."""
    found = []
    for level in levels(head, tensors, size):
        cells = np.arange(level.box.shape[1])
        found.append((CODINGS[head.coding](level, level.box, cells), scores(level).T))
    return np.concatenate([b for b, _ in found]), np.concatenate([s for _, s in found])


def candidates(level: Level, confidence: float) -> Detections:
    """Return the boxes of one level whose score is at least `confidence`, in input pixels.

    A cell speaks once for each class that passes. Classes are compared as logits, so that only
    the few that pass are ever turned into scores.
    """
    if level.object is None and level.head.scoring == "class" and level.head.background < 0:
        least = confidence if level.activated else _logit(confidence)
        # one flat pass and a division are several times faster than nonzero on two axes
        hits = np.flatnonzero(level.classes.ravel() >= least)
        classes, cells = np.divmod(hits, level.classes.shape[1])
        raw = level.classes[classes, cells]
        found = raw if level.activated else sigmoid(raw)
    else:
        cells, classes, found = _hits(level, confidence)
    unique, inverse = np.unique(cells, return_inverse=True)
    boxes = CODINGS[level.head.coding](level, level.box[:, unique], unique)
    return Detections(boxes[inverse], found, classes)


def _hits(
    level: Level, confidence: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Cells, classes and scores that pass, where a score depends on more than one logit."""
    chosen = np.arange(level.classes.shape[1])
    if level.object is not None:
        least = confidence if level.activated else _logit(confidence)
        chosen = np.flatnonzero(level.object[0] >= least)
    values = scores(level, chosen)
    classes, positions = np.nonzero(values >= confidence)
    return chosen[positions], classes, values[classes, positions]


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p))) if 0 < p < 1 else float("inf" if p >= 1 else "-inf")


def decode(
    head: HeadSpec,
    tensors: Tensors,
    size: tuple[int, int],
    *,
    confidence: float = 0.25,
    overlap: float = 0.45,
    limit: int = 300,
) -> Detections:
    """Turn head tensors into detections in input pixels, best first, after NMS.

    Args:
        head: how to read the tensors.
        tensors: by name, as the runtime gave them (float, batch 1).
        size: width and height of the input in pixels.
        confidence: the least score that counts.
        overlap: boxes of one class that overlap more than this are one.
        limit: the most detections to return.
    """
    parts = [candidates(level, confidence) for level in levels(head, tensors, size)]
    found = Detections(
        np.concatenate([p.boxes for p in parts]),
        np.concatenate([p.scores for p in parts]),
        np.concatenate([p.classes for p in parts]),
    )
    if len(found) > MAX_CANDIDATES:
        found = found[np.argpartition(-found.scores, MAX_CANDIDATES)[:MAX_CANDIDATES]]
    if head.coding == "query":
        return found[np.argsort(-found.scores, kind="stable")[:limit]]
    return nms(found, overlap, limit)
