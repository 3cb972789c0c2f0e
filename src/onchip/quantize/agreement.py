"""How well a quantized network sees what the float one sees, as one number."""

from collections.abc import Mapping, Sequence

from onchip.detections import Detections, iou, pairs
from onchip.graph.run import Array
from onchip.spec import HeadSpec
from onchip.vision.decode import decode

CLEAR = 0.25
OVERLAP = 0.45
MOST = 300

Tensors = Sequence[Mapping[str, Array]]


def agreement(
    head: HeadSpec,
    size: tuple[int, int],
    wanted: Tensors,
    found: Tensors,
    other: HeadSpec | None = None,
) -> float:
    """Return how alike the detections are that two sets of head tensors give, 0 to 1.

    `other` is how the second set reads, where that is not as the first.

    Detections of one class that overlap by half are pairs; each counts as much as its boxes
    overlap and its scores are alike, and one without a partner counts nothing. 1 where neither
    sees anything.
    """
    alike = total = 0.0
    for first, second in zip(wanted, found, strict=True):
        a, b = _seen(head, first, size), _seen(other or head, second, size)
        overlaps = iou(a.boxes, b.boxes)
        for row, column in pairs(a, b):
            shift = abs(float(a.scores[row] - b.scores[column]))
            alike += float(overlaps[row, column]) * (1 - shift)
        total += (len(a) + len(b)) / 2
    return alike / total if total else 1.0


def _seen(head: HeadSpec, tensors: Mapping[str, Array], size: tuple[int, int]) -> Detections:
    return decode(head, tensors, size, confidence=CLEAR, overlap=OVERLAP, limit=MOST)
