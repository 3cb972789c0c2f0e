"""How near two sets of head tensors are in what counts: the scores, and the edges of boxes.

Finer than which detections match, and nearer to them than the noise of raw tensors: a logit far
below zero, or a bin of a distribution that says nothing, may be off as it likes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from onchip.graph.run import Array
from onchip.spec import HeadSpec
from onchip.vision.decode import Level, boxes, levels, scores

SEEN = 0.05  # the score from which a place counts
MOST = 60.0  # dB; what is nearer is the same

Tensors = Sequence[Mapping[str, Array]]


def nearness_db(
    head: HeadSpec,
    size: tuple[int, int],
    wanted: Tensors,
    found: Tensors,
    other: HeadSpec | None = None,
) -> float:
    """Return the signal to noise ratio of what is seen, in dB.

    The signal are the scores of the places where one of both sees something. The noise are the
    changes of these scores, and those of the boxes' edges as parts of their sides, which count as
    sure as the place is.

    Args:
        head: how the tensors read.
        size: width and height of the network's input.
        wanted: the float network's head tensors, image by image.
        found: those to compare.
        other: how those read, where that is not as the first.
    """
    signal = noise = 0.0
    for first, second in zip(wanted, found, strict=True):
        pairs = zip(levels(head, first, size), levels(other or head, second, size), strict=True)
        for a, b in pairs:
            power, error = _level(a, b)
            signal, noise = signal + power, noise + error
    if signal <= 0:
        return MOST
    return min(MOST, 10 * float(np.log10(signal / max(noise, 1e-20))))


def _level(a: Level, b: Level) -> tuple[float, float]:
    """Signal and noise of one level."""
    first, second = scores(a).astype(np.float64), scores(b).astype(np.float64)
    sure = first.max(axis=0)
    chosen = np.flatnonzero(np.maximum(sure, second.max(axis=0)) >= SEEN)
    if not len(chosen):
        return 0.0, 0.0
    first, second, sure = first[:, chosen], second[:, chosen], sure[chosen]
    ours, theirs = boxes([a], [chosen]), boxes([b], [chosen])
    sides = np.maximum(np.abs(ours[:, 2:] - ours[:, :2]), 1.0)
    moved = np.minimum(np.abs(theirs - ours) / np.tile(sides, 2), 1.0).astype(np.float64)
    edges = float((sure**2 @ np.square(moved)).mean())
    return float(np.square(first).sum()), float(np.square(second - first).sum()) + edges
