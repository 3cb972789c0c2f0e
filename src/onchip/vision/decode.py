"""Head tensors to boxes: one function per way of coding a box.

A head is a list of levels; on a level every cell (and every anchor, where there are several) makes
one prediction. Scores come first, as the chip's own integers where it gives them; only the cells
that pass become real numbers and are decoded, all levels at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.detections import Detections, Floats
from onchip.spec import Coding, HeadSpec, HeadTensor
from onchip.vision.codes import Tensors, Values, at_least, real
from onchip.vision.nms import nms

Indices = npt.NDArray[np.int64]
MAX_CANDIDATES = 3000  # before NMS; COCO counts 100 boxes per image, NMS keeps 300


@dataclass(frozen=True)
class Level:
    """One anchor of one level: box `(4 * bins, n)`, classes `(nc, n)`, objectness `(1, n)`."""

    head: HeadSpec
    size: tuple[int, int]  # width and height of the network's input
    stride: float  # pixels per cell
    columns: int
    anchor: tuple[float, float]
    box: Values
    classes: Values
    object: Values | None
    activated: bool


@dataclass(frozen=True)
class Cells:
    """Cells to decode, of one level or several, with what their boxes are relative to.

    `raw (channels, n)`, `points (2, n)` in grid units, `stride (n,)` in pixels, `anchor (2, n)`.
    """

    raw: Floats
    points: Floats
    stride: Floats
    anchor: Floats


def gather(levels: Sequence[Level], chosen: Sequence[Indices]) -> Cells:
    """Collect the chosen cells of each level."""
    counts = [len(c) for c in chosen]
    places = []
    for level, cells in zip(levels, chosen, strict=True):
        rows, columns = np.divmod(cells, level.columns)
        places.append(np.stack([columns, rows]))
    anchors = np.asarray([level.anchor for level in levels], np.float32)
    strides = np.asarray([level.stride for level in levels], np.float32)
    return Cells(
        raw=np.concatenate(
            [real(level.box[:, cells]) for level, cells in zip(levels, chosen, strict=True)], axis=1
        ),
        points=np.concatenate(places, axis=1).astype(np.float32)
        + np.float32(levels[0].head.offset),
        stride=np.repeat(strides, counts),
        anchor=np.repeat(anchors, counts, axis=0).T,
    )


def boxes(levels: Sequence[Level], chosen: Sequence[Indices]) -> Floats:
    """Decode the chosen cells of each level: boxes `(n, 4)` in input pixels."""
    return CODINGS[levels[0].head.coding](gather(levels, chosen), levels[0])


def _from_distances(cells: Cells, distances: Floats) -> Floats:
    corners = np.concatenate([cells.points - distances[:2], cells.points + distances[2:]])
    return (corners * cells.stride).T


def _corners(center: npt.NDArray[np.floating], size: npt.NDArray[np.floating]) -> Floats:
    half = size / 2
    return np.concatenate([center - half, center + half]).T.astype(np.float32, copy=False)


def dfl(cells: Cells, level: Level) -> Floats:
    """Distances to the four sides, each the mean of a softmax over `bins` (GFL, YOLOv8).

    Source: Li et al., Generalized Focal Loss, 2020, eq. 4-6.
    """
    bins = len(cells.raw) // 4
    logits = cells.raw.reshape(4, bins, -1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    steps = np.arange(bins, dtype=np.float32)[None, :, None]
    return _from_distances(cells, (weights * steps).sum(1) / weights.sum(1))


def ltrb(cells: Cells, level: Level) -> Floats:
    """Distances to the four sides in cells, as they are (YOLOv6-n, YOLO26)."""
    return _from_distances(cells, cells.raw)


def exp(cells: Cells, level: Level) -> Floats:
    """Centre from the cell's corner, size as an exponent (YOLOX)."""
    center = (cells.raw[:2] + cells.points) * cells.stride
    return _corners(center, np.exp(cells.raw[2:]) * cells.stride)


def anchor(cells: Cells, level: Level) -> Floats:
    """Centre `2 sigmoid - 0.5` cells from the corner, size `(2 sigmoid)^2` anchors (YOLOv5, v7)."""
    unit = cells.raw if level.activated else sigmoid(cells.raw)
    center = (unit[:2] * 2 - 0.5 + cells.points) * cells.stride
    return _corners(center, (unit[2:] * 2) ** 2 * cells.anchor)


def prior(cells: Cells, level: Level) -> Floats:
    """Offsets from a prior box, scaled by variances (SSD; Liu et al. 2016, eq. 2)."""
    x, y, w, h = cells.raw if level.head.order == "xywh" else cells.raw[[1, 0, 3, 2]]
    vx, vy, vw, vh = level.head.variances
    center = cells.points * cells.stride + np.stack([x * vx, y * vy]) * cells.anchor
    return _corners(center, np.exp(np.stack([w * vw, h * vh])) * cells.anchor)


def query(cells: Cells, level: Level) -> Floats:
    """Centre and size as parts of the input, one box per query (DETR, RT-DETR)."""
    size = np.asarray([*level.size, *level.size], np.float32)[:, None]
    unit = (cells.raw if level.activated else sigmoid(cells.raw)) * size
    return _corners(unit[:2], unit[2:])


def xywh(cells: Cells, level: Level) -> Floats:
    """Centre and size in input pixels, as networks give them that decode their boxes themselves."""
    return _corners(cells.raw[:2], cells.raw[2:])


# how cells become boxes; a "found" head has none, for the program has done it
CODINGS: dict[Coding, Callable[[Cells, Level], Floats]] = {
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


def _flat(tensor: Values, head: HeadSpec) -> Values:
    """Return `(C, n)` for `(1, C, H, W)`, and for `(1, Q, C)` of query heads."""
    if head.coding == "query":
        return tensor[0].T
    return tensor.reshape(tensor.shape[1], -1)


def _share(values: Values, number: int, of: int) -> Values:
    size = len(values) // of
    return values[number * size : (number + 1) * size]


def scores(level: Level, cells: Indices | slice = slice(None)) -> Floats:
    """Return the class scores `(nc, n)` of `cells`, between 0 and 1."""
    raw = real(level.classes[:, cells])
    if level.head.scoring == "softmax":
        weights = np.exp(raw - raw.max(axis=0))
        return np.delete(weights / weights.sum(0), level.head.background, axis=0)
    if level.head.background >= 0:
        raw = np.delete(raw, level.head.background, axis=0)
    unit = raw if level.activated else sigmoid(raw)
    if level.object is not None:
        objectness = real(level.object[:, cells])
        unit = unit * (objectness if level.activated else sigmoid(objectness))
    return unit


def dense(head: HeadSpec, tensors: Tensors, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Decode every cell: boxes `(n, 4)` in input pixels and scores `(n, nc)`. For proofs."""
    found = list(levels(head, tensors, size))
    everything = [np.arange(level.box.shape[1]) for level in found]
    return boxes(found, everything), np.concatenate([scores(level).T for level in found])


def candidates(level: Level, confidence: float) -> tuple[Indices, Indices, Floats]:
    """Return cells, classes and scores of a level that are at least `confidence`.

    A cell speaks once for each class that passes. Classes are compared as logits, so that only
    the few that pass are ever turned into scores.
    """
    if level.object is not None or level.head.scoring != "class" or level.head.background >= 0:
        return _products(level, confidence)
    least = confidence if level.activated else _logit(confidence)
    hits = _where(at_least(level.classes, least).ravel())
    classes, cells = np.divmod(hits, level.classes.shape[1])
    raw = real(level.classes[classes, cells])
    return cells, classes, raw if level.activated else sigmoid(raw)


def _where(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return where a mask is true: eight places at a time, since few are (twice as fast)."""
    if len(mask) % 8:
        return np.flatnonzero(mask)
    words = np.flatnonzero(mask.view(np.uint64) != 0)
    places = (words[:, None] * 8 + np.arange(8)).ravel()
    return places[mask[places]]


def _products(level: Level, confidence: float) -> tuple[Indices, Indices, Floats]:
    """The same where a score depends on more than one logit."""
    chosen = np.arange(level.classes.shape[1])
    if level.object is not None:
        least = confidence if level.activated else _logit(confidence)
        chosen = np.flatnonzero(at_least(level.object[0], least))
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
        tensors: by name, as the runtime gave them (batch 1).
        size: width and height of the input in pixels.
        confidence: the least score that counts.
        overlap: boxes of one class that overlap more than this are one.
        limit: the most detections to return.
    """
    if head.coding == "found":
        return nms(_found(head, tensors, size, confidence), overlap, limit)
    found = list(levels(head, tensors, size))
    hits = [candidates(level, confidence) for level in found]
    values = np.concatenate([h[2] for h in hits])
    if not len(values):
        return Detections.empty()
    if len(values) > MAX_CANDIDATES:
        least = np.partition(values, -MAX_CANDIDATES)[-MAX_CANDIDATES]
        hits = [tuple(part[h[2] >= least] for part in h) for h in hits]
        values = np.concatenate([h[2] for h in hits])
    seen = Detections(
        boxes(found, [h[0] for h in hits]), values, np.concatenate([h[1] for h in hits])
    )
    if head.coding == "query":
        return seen[np.argsort(-seen.scores, kind="stable")[:limit]]
    return nms(seen, overlap, limit)


def _found(
    head: HeadSpec, tensors: Tensors, size: tuple[int, int], confidence: float
) -> Detections:
    """What a program found by itself, in input pixels."""
    whole = real(tensors[head.tensors[0].name])[0]
    classes, places = np.nonzero(whole[:, 4] >= max(confidence, np.finfo(np.float32).tiny))
    top, left, bottom, right, score = whole[classes, :, places].T
    width, height = size
    boxes = np.stack([left * width, top * height, right * width, bottom * height], axis=1)
    return Detections(boxes.astype(np.float32), score, classes)
