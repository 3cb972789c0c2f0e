"""How near two sets of head tensors are in what counts: the scores, and the edges of boxes.

Finer than which detections match, and nearer to them than the noise of raw tensors: a logit far
below zero, or a bin of a distribution that says nothing, may be off as it likes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from onchip.graph.run import Array
from onchip.quantize.attention import best_scores
from onchip.quantize.harm import CLEAR, moved
from onchip.spec import HeadSpec
from onchip.vision.decode import Level, levels, scores

EDGES = 4  # of a box, that count as one score
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
    seen = np.maximum(best_scores(a), best_scores(b))
    chosen = np.flatnonzero(seen >= CLEAR)
    if not len(chosen):
        return 0.0, 0.0
    in_scores, in_boxes = moved(a, b, chosen)
    signal = np.square(scores(a, chosen), dtype=np.float64).sum()
    return float(signal), in_scores + in_boxes / EDGES
