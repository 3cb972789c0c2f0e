"""How alike a checkpoint and its ONNX file see: every prediction, and the boxes that are left.

Boxes are in input pixels, of the same tensors: nothing of preparing an image can hide a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onchip.detect.program import Limits
from onchip.detections import Detections, Floats, iou, pairs
from onchip.vision.nms import nms

BOX_PX = 0.1
SCORE = 1e-3
EDGE = 1e-3  # an overlap that near the limit falls either way by rounding
COUNTS = 0.001  # the score from which a prediction matters to mAP


@dataclass(frozen=True)
class Likeness:
    """What images showed, summed up by `join`.

    `detections` are those of either side, a pair counted once; `matched` of them are on both;
    `edge` are on one side alone because a suppression was decided by rounding. `box_px` and `score`
    are the largest differences of pairs, `raw_box_px` and `raw_score` those before suppression.
    """

    images: int = 0
    detections: int = 0
    matched: int = 0
    edge: int = 0
    box_px: float = 0.0
    score: float = 0.0
    raw_box_px: float = 0.0
    raw_score: float = 0.0

    @property
    def missing(self) -> int:
        """How many detections are on one side alone, without an excuse."""
        return self.detections - self.matched - self.edge

    def failures(self) -> tuple[str, ...]:
        """What is past the gate, in words."""
        said = []
        if self.missing:
            said.append(
                f"{self.missing} of {self.detections} detections are in one of the two alone"
            )
        if max(self.box_px, self.raw_box_px) > BOX_PX:
            worst = max(self.box_px, self.raw_box_px)
            said.append(f"boxes differ by {worst:.2g} px (gate {BOX_PX:g})")
        if max(self.score, self.raw_score) > SCORE:
            worst = max(self.score, self.raw_score)
            said.append(f"scores differ by {worst:.2g} (gate {SCORE:g})")
        return tuple(said)


def lowered(limits: Limits) -> Limits:
    """The limits to look with, so that a score at the threshold is seen on both sides."""
    return Limits(limits.confidence - SCORE, limits.overlap, limits.most)


def join(parts: Sequence[Likeness]) -> Likeness:
    """Sum up images."""
    if not parts:
        return Likeness()
    return Likeness(
        *(sum(getattr(p, n) for p in parts) for n in ("images", "detections", "matched", "edge")),
        *(
            max(getattr(p, n) for p in parts)
            for n in ("box_px", "score", "raw_box_px", "raw_score")
        ),
    )


def raw(own: tuple[Floats, Floats], ours: tuple[Floats, Floats]) -> tuple[float, float]:
    """Compare all predictions, boxes `(n, 4)` and scores `(n, classes)`, one by one.

    Returns:
        The largest difference of a box in pixels, where its score matters, and of a score.
    """
    if own[0].shape != ours[0].shape or own[1].shape != ours[1].shape:
        return float("inf"), float("inf")
    matter = np.maximum(own[1], ours[1]).max(axis=1, initial=0) >= COUNTS
    box = np.abs(own[0] - ours[0])[matter]
    return _worst(box), _worst(np.abs(own[1] - ours[1]))


def _worst(values: Floats) -> float:
    worst = float(values.max(initial=0.0))
    return worst if np.isfinite(worst) else float("inf")


def final(own: Detections, ours: Detections, limits: Limits, *, excused: bool = False) -> Likeness:
    """Compare what is left after suppression on one image.

    Args:
        own: what the checkpoint sees, looked at with `lowered(limits)`.
        ours: what the ONNX file shows, likewise.
        limits: those that count.
        excused: what differs is known to come from rounding: where scores are equal but for the
            last digit, one that falls lets another stand, and so on.
    """
    paired = [p for p in pairs(own, ours) if not excused or _same(own[p[0]], ours[p[1]])]
    counts = [(a, b) for a, b in paired if max(own.scores[a], ours.scores[b]) >= limits.confidence]
    box = [float(np.abs(own.boxes[a] - ours.boxes[b]).max()) for a, b in counts]
    score = [abs(float(own.scores[a] - ours.scores[b])) for a, b in counts]
    alone = edge = 0
    for side, other, column in ((own, ours, 0), (ours, own, 1)):
        with_pair = {p[column] for p in paired}
        for index in range(len(side)):
            if index not in with_pair and side.scores[index] >= limits.confidence:
                alone += 1
                edge += excused or _on_edge(side[index], other, limits)
    return Likeness(
        images=1,
        detections=len(counts) + alone,
        matched=len(counts),
        edge=edge,
        box_px=max(box, default=0.0),
        score=max(score, default=0.0),
    )


def _same(one: Detections, other: Detections) -> bool:
    box = np.abs(one.boxes - other.boxes).max()
    return bool(box <= BOX_PX and np.abs(one.scores - other.scores).max() <= SCORE)


def suppressed(boxes: Floats, scores: Floats, limits: Limits) -> Detections:
    """Suppress predictions, boxes `(n, 4)` and scores `(n, classes)`, as onchip does."""
    rows, classes = np.nonzero(scores >= limits.confidence)
    found = Detections(boxes[rows], scores[rows, classes], classes)
    return nms(found, limits.overlap, limits.most)


def _on_edge(lonely: Detections, other: Detections, limits: Limits) -> bool:
    """Whether it is missing there by a hair: of the threshold, an overlap, or equal scores."""
    if lonely.scores[0] - limits.confidence <= SCORE:
        return True
    rivals = other[other.classes == lonely.classes[0]]
    overlaps = iou(lonely.boxes, rivals.boxes)[0]
    equal = np.abs(rivals.scores - lonely.scores[0]) <= SCORE
    by_overlap = np.abs(overlaps - limits.overlap) <= EDGE
    return bool((by_overlap | (equal & (overlaps > limits.overlap))).any())
