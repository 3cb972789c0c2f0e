"""Which pictures show the same: copies that were saved again, resized, brightened or cropped.

Candidates agree in how brightness changes from place to place, on a grid; that ignores how bright
a picture is, and tells flat backgrounds apart from each other. A candidate is a near-duplicate if
it can be laid over the other (Evangelidis and Psarakis, "Parametric image alignment using enhanced
correlation coefficient maximization", 2008) so that no part of it differs: a camera that stands
still sees the same street with another car on it, and that is another picture.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from onchip.dataset.facts import THUMB, Facts
from onchip.progress import Progress
from onchip.several import each
from onchip.vision.preprocess import Image

GRID = 16  # cells of a side
LIKE = 0.72  # candidates from here on; on 306 photos of COCO different ones reach 0.60
FIT = 0.95  # correlation when laid over each other; different pictures reach 0.93
PART = 6  # pixels of a side of the parts that must not differ
APART = 1.0  # by how many deviations of the picture a part may differ
SHARED = 0.6  # the least share of the picture that both show
NEAREST = 4  # candidates that are laid over each picture
BLOCK = 1024
ROUNDS = 40

Grey = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures, by number, that are alike; `like` is how much, up to 1."""

    first: int
    second: int
    like: float


def signature(picture: Image) -> npt.NDArray[np.int8]:
    """Return how brightness changes over a small picture (BGR), 512 numbers of one byte."""
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    cells = cv2.resize(grey, (GRID + 1, GRID + 1), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(cells.astype(np.float32), (0, 0), 0.7)
    across = smooth[:GRID, 1:] - smooth[:GRID, :GRID]
    down = smooth[1:, :GRID] - smooth[:GRID, :GRID]
    steps = np.concatenate([across.ravel(), down.ravel()])
    steps = np.sign(steps) * np.sqrt(np.abs(steps))  # a few hard edges shall not decide alone
    length = float(np.linalg.norm(steps))
    return np.rint(steps * (400 / max(length, 1e-6))).clip(-127, 127).astype(np.int8)


def candidates(signatures: npt.NDArray[np.int8], progress: Progress) -> list[Pair]:
    """Return for each picture those before it that are most like it.

    `signatures` is `(n, 512)`; memory does not grow with the square of n.
    """
    found: list[Pair] = []
    count = len(signatures)
    for start in range(0, count, BLOCK):
        rows = _unit(signatures[start : start + BLOCK])
        best = np.full((len(rows), NEAREST), -1, np.float32)
        which = np.zeros((len(rows), NEAREST), np.int64)
        for other in range(0, start + 1, BLOCK):
            like = rows @ _unit(signatures[other : other + BLOCK]).T
            if other == start:
                like[np.triu_indices(len(rows))] = -1  # each pair once
            best, which = _nearest(best, which, like, other)
        for row, column in np.argwhere(best >= LIKE):
            first = int(which[row, column])
            found.append(Pair(first, start + int(row), float(best[row, column])))
        progress("compare", start + len(rows), count)
    return found


def _nearest(
    best: Grey, which: npt.NDArray[np.int64], like: Grey, start: int
) -> tuple[Grey, npt.NDArray[np.int64]]:
    """Return the best of each row, and their numbers, with those of one more block."""
    numbers = np.broadcast_to(np.arange(start, start + like.shape[1]), like.shape)
    both, names = np.hstack([best, like]), np.hstack([which, numbers])
    order = np.argpartition(-both, NEAREST - 1, axis=1)[:, :NEAREST]
    return np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)


def _unit(signatures: npt.NDArray[np.int8]) -> Grey:
    rows = signatures.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)


def same(first: Image, second: Image) -> bool:
    """Say whether two small pictures (BGR) are one, but for a little crop, light and noise."""
    one, other = (cv2.cvtColor(p, cv2.COLOR_BGR2GRAY).astype(np.float32) for p in (first, second))
    warp = np.eye(2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ROUNDS, 1e-4)
    try:
        fit, warp = cv2.findTransformECC(one, other, warp, cv2.MOTION_AFFINE, stop, None, 3)  # type: ignore[call-overload]
    except cv2.error:  # they cannot be laid over each other
        return False
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(other, warp, (THUMB, THUMB), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones_like(other), warp, (THUMB, THUMB), flags=flags) > 0.99
    if fit < FIT or inside.mean() < SHARED:
        return False
    return _apart(one, np.asarray(laid, np.float32), inside) < APART


def _apart(one: Grey, laid: Grey, inside: npt.NDArray[np.bool_]) -> float:
    gain, offset = np.polyfit(laid[inside], one[inside], 1)
    rest = np.where(inside, np.abs(one - (gain * laid + offset)), 0).astype(np.float32)
    return float(cv2.blur(rest, (PART, PART)).max() / (one[inside].std() + 4))


def near_duplicates(found: Sequence[Facts], progress: Progress) -> list[Pair]:
    """Return the pairs among images with a small picture that show the same."""
    seen = [i for i, facts in enumerate(found) if facts.thumb]
    if len(seen) < 2:
        return []
    signatures = np.stack([signature(found[i].picture()) for i in seen])
    pairs = candidates(signatures, progress)

    def laid(pair: Pair) -> bool:
        return same(found[seen[pair.first]].picture(), found[seen[pair.second]].picture())

    kept = []
    for done, (pair, alike) in enumerate(zip(pairs, each(laid, pairs), strict=True), 1):
        if alike:
            kept.append(Pair(seen[pair.first], seen[pair.second], pair.like))
        progress("lay over", done, len(pairs))
    return kept


def clusters(count: int, pairs: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the groups of numbers below `count` that the pairs connect, also single ones.

    >>> clusters(4, [(0, 2), (2, 3)])
    [(0, 2, 3), (1,)]
    """
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for number in range(count):
        groups.setdefault(root(number), []).append(number)
    return [tuple(group) for group in groups.values()]
