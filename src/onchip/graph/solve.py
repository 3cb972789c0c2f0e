"""Solve a head's anchors and priors from what the network itself computes.

They are not searched for in the graph; the proof that follows shows that they are right.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from onchip.graph.readings import Reading, Values
from onchip.spec import HeadSpec
from onchip.vision import decode
from onchip.vision.codes import real

COCO_ANCHORS = (  # width and height in pixels per level, from YOLOv5's published models
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)


def usual_anchors(head: HeadSpec) -> HeadSpec:
    """Take YOLOv5's own anchors where the network gives raw tensors: they are not in the graph."""
    if head.coding == "anchor" and len(head.anchors) == 3 and len(head.anchors[0]) == 3:
        return replace(head, anchors=COCO_ANCHORS)
    return head


def solve(
    head: HeadSpec, ours: Sequence[Values], owns: Sequence[Reading], size: tuple[int, int]
) -> HeadSpec:
    """Fill in anchors (YOLOv5) or priors (SSD) from what the network itself computes."""
    if head.coding == "anchor":
        return _solve_anchors(head, ours[0], owns[0], size)
    if head.coding == "prior":
        for by_cell in (True, False):
            solved = _solve_priors(head, ours, owns, size, by_cell)
            if solved is not None:
                return solved
    return head


def _solve_anchors(
    head: HeadSpec, tensors: Values, own: Reading, size: tuple[int, int]
) -> HeadSpec:
    parts = list(decode.levels(head, tensors, size))
    if sum(p.box.shape[1] for p in parts) != len(own[0]):
        return head
    anchors, start = [], 0
    for part in parts:
        cells = part.box.shape[1]
        boxes = own[0][start : start + cells]
        wh = (boxes[:, 2:] - boxes[:, :2]).T
        ratio = wh / (2 * decode.sigmoid(real(part.box[2:]))) ** 2
        anchors.append(tuple(float(v) for v in _tidy(np.median(ratio, axis=1))))
        start += cells
    count = len(head.anchors[0])
    grouped = [tuple(anchors[i : i + count]) for i in range(0, len(anchors), count)]
    return replace(head, anchors=tuple(grouped))


def _tidy(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Anchors are short decimals: take the nearest if it is within rounding."""
    near = np.round(values * 32) / 32
    return np.where(np.abs(near - values) < 1e-3, near, values)


def _solve_priors(
    head: HeadSpec,
    ours: Sequence[Values],
    owns: Sequence[Reading],
    size: tuple[int, int],
    by_cell: bool,
) -> HeadSpec | None:
    """Fit, per anchor, centre = step * cell + v * prior * t and log size = log prior + v * t.

    The variances v are one for all anchors: they come from the first, which has the most cells.
    """
    runs = [list(decode.levels(head, tensors, size)) for tensors in ours]
    counts = [p.box.shape[1] for p in runs[0]]
    if sum(counts) != len(owns[0][0]):
        return None
    index = _prior_index(head, counts, by_cell)
    priors: list[tuple[float, float]] = []
    strides: dict[float, float] = {}
    variances: npt.NDArray[np.float64] | None = None
    pick = [0, 1, 2, 3] if head.order == "xywh" else [1, 0, 3, 2]
    for number, part in enumerate(runs[0]):
        rows, columns = np.divmod(np.arange(counts[number]), part.columns)
        grid = np.tile(np.stack([columns, rows]) + head.offset, len(runs))
        raw = np.concatenate([r[number].box[pick] for r in runs], axis=1).astype(np.float64)
        boxes = np.concatenate([o[0][index[number]] for o in owns]).astype(np.float64)
        center, wh = (boxes[:, :2] + boxes[:, 2:]).T / 2, (boxes[:, 2:] - boxes[:, :2]).T
        if not (wh > 0).all() or not (np.isfinite(boxes).all() and np.isfinite(raw).all()):
            return None
        if variances is None:
            variances = _variances(raw, grid, center, np.log(wh))
        prior = np.exp((np.log(wh) - variances[2:, None] * raw[2:]).mean(axis=1))
        left = center - variances[:2, None] * prior[:, None] * raw[:2]
        strides[part.stride] = float(_tidy(np.asarray(_fit(grid[:1], left[0])[0])))
        priors.append((float(prior[0]), float(prior[1])))
    if len(set(strides.values())) < len(strides) or variances is None:
        return None
    grouped, start = [], 0
    for anchors in head.anchors:
        grouped.append(tuple(priors[start : start + len(anchors)]))
        start += len(anchors)
    return replace(
        head,
        anchors=tuple(grouped),
        variances=tuple(float(v) for v in variances),
        tensors=tuple(replace(t, stride=strides[t.stride]) for t in head.tensors),
    )


def _variances(
    raw: npt.NDArray[np.float64],
    grid: npt.NDArray[np.floating],
    center: npt.NDArray[np.float64],
    log_size: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    sizes = [_fit(np.stack([raw[2 + k], np.ones_like(raw[0])]), log_size[k]) for k in (0, 1)]
    steps = [_fit(np.stack([raw[k], grid[k]]), center[k]) for k in (0, 1)]
    places = [step[0] / np.exp(fit[1]) for step, fit in zip(steps, sizes, strict=True)]
    return np.round([*places, *(fit[0] for fit in sizes)], 4)


def _fit(columns: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> list[float]:
    found = np.linalg.lstsq(columns.T, target, rcond=None)[0]
    return [float(v) for v in found]


def _prior_index(head: HeadSpec, counts: list[int], by_cell: bool) -> list[npt.NDArray[np.int64]]:
    """Where each anchor's cells stand in the network's list of predictions."""
    index, start, at = [], 0, 0
    for anchors in head.anchors:
        many, cells = len(anchors), counts[at]
        for number in range(many):
            steps = np.arange(cells)
            index.append(start + (steps * many + number if by_cell else number * cells + steps))
        start += many * cells
        at += many
    return index
