"""What Frigate makes of a program's outputs: its own decode, with all that it loses.

Frigate (0.18) keeps what scores more than 0.4, gives each box its best class only, suppresses boxes
of all classes against each other, and hands on 20. It gives OpenCV's suppression two corners where
a corner and a size are wanted: a box then reaches from its first corner by its second one, and two
boxes overlap the more the farther they are from the picture's upper left. Boxes that HailoRT has
suppressed come class by class, and the first 20 are kept, whatever they score.
"""

import cv2
import numpy as np

from onchip.detections import Detections, Floats
from onchip.spec import HeadSpec
from onchip.vision.codes import Tensors, real
from onchip.vision.decode import dense

THRESHOLD = 0.4
OVERLAP = 0.4
ROWS = 20


def seen(head: HeadSpec, tensors: Tensors, size: tuple[int, int]) -> Detections:
    """Return what Frigate sees, in input pixels and in its order.

    Args:
        head: how the program's end reads: "found" for Frigate's hailo8l, else its yolo-generic.
        tensors: the program's outputs.
        size: width and height of its input.
    """
    return _by_class(head, tensors, size) if head.coding == "found" else _best(head, tensors, size)


def rows(found: Detections, size: tuple[int, int]) -> Floats:
    """Return detections as Frigate's detectors do: `(20, 6)`, the rest zeros.

    A row is class, score, and top, left, bottom and right as parts of an input of `size`.

    >>> found = Detections(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([0.9]), np.array([7]))
    >>> [round(float(v), 2) for v in rows(found, (10, 10))[0]]
    [7.0, 0.9, 0.2, 0.1, 0.4, 0.3]
    """
    made = np.zeros((ROWS, 6), np.float32)
    few = found[:ROWS]
    made[: len(few), 0], made[: len(few), 1] = few.classes, few.scores
    made[: len(few), 2:] = (few.boxes / np.asarray([*size, *size], np.float32))[:, [1, 0, 3, 2]]
    return made


def _best(head: HeadSpec, tensors: Tensors, size: tuple[int, int]) -> Detections:
    boxes, scores = dense(head, tensors, size)
    best = scores.max(axis=1)
    clear = best > THRESHOLD
    found = Detections(boxes[clear], best[clear], scores[clear].argmax(axis=1))
    kept = cv2.dnn.NMSBoxes(found.boxes, found.scores, THRESHOLD, OVERLAP)  # type: ignore[arg-type]
    return found[np.asarray(kept, np.int64)[:ROWS]]


def _by_class(head: HeadSpec, tensors: Tensors, size: tuple[int, int]) -> Detections:
    whole = real(tensors[head.tensors[0].name])[0]
    classes, places = np.nonzero(whole[:, 4] >= THRESHOLD)
    top, left, bottom, right, score = whole[classes, :, places].T
    parts = np.stack([left, top, right, bottom], axis=1)
    return Detections(parts * np.asarray([*size, *size]), score, classes)[:ROWS]
