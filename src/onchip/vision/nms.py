"""The only non-maximum suppression."""

import numpy as np
import numpy.typing as npt

from onchip.detections import Detections, Floats, iou

BLOCK = 256


def nms(found: Detections, threshold: float, limit: int = 300) -> Detections:
    """Keep the best of overlapping boxes of one class, best first, at most `limit`.

    Greedy: a box is dropped when its overlap with a kept box of its class is above `threshold`.
    Works through the sorted boxes in blocks, so that it can stop once `limit` are kept.
    """
    if not len(found):
        return found
    order = np.argsort(-found.scores, kind="stable")
    boxes = _apart(found)[order]
    if len(boxes) <= BLOCK:
        return found[order[_greedy(boxes, threshold)[:limit]]]
    kept: list[npt.NDArray[np.int64]] = []
    count = 0
    for start in range(0, len(boxes), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(boxes)))
        if kept:
            block = block[iou(boxes[block], boxes[np.concatenate(kept)]).max(axis=1) <= threshold]
        survivors = block[_greedy(boxes[block], threshold)]
        kept.append(survivors)
        count += len(survivors)
        if count >= limit:
            break
    return found[order[np.concatenate(kept)[:limit]]]


def _apart(found: Detections) -> Floats:
    """Move each class to a plane of its own, so that only boxes of one class overlap."""
    span = float(found.boxes.max() - found.boxes.min()) + 1
    return found.boxes + (found.classes * span)[:, None].astype(np.float32)


def _greedy(boxes: Floats, threshold: float) -> npt.NDArray[np.int64]:
    """Return the indices kept within one block of sorted boxes."""
    above = iou(boxes, boxes) > threshold
    alive = np.ones(len(boxes), bool)
    for i in np.flatnonzero(np.triu(above, 1).any(axis=1)):
        if alive[i]:
            alive[i + 1 :] &= ~above[i, i + 1 :]
    return np.flatnonzero(alive)
