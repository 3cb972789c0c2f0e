"""How alike two stages are on the same images, with or without labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.detections import Detections, iou, pairs
from onchip.spec import HeadSpec
from onchip.vision.decode import sigmoid

Tensors = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Parity:
    """Likeness to the reference: shares as parts of one, over all images.

    `matched` is the F1 of detections against the reference's, `mean_iou` the overlap of matched
    boxes, `score_shift` the mean change of their scores, `sqnr_db` the signal to quantization
    noise ratio of each head tensor, by name.
    """

    matched: float
    mean_iou: float
    score_shift: float
    sqnr_db: dict[str, float]
    reference: int  # detections of the reference


@dataclass(frozen=True)
class Pairing:
    """One image's comparison, summed up by `parity`."""

    reference: int
    found: int
    overlaps: tuple[float, ...]
    shifts: tuple[float, ...]


def pair(reference: Detections, found: Detections) -> Pairing:
    """Pair detections of one class that overlap by half, greedily by overlap."""
    found_pairs = pairs(reference, found)
    overlaps = iou(reference.boxes, found.boxes)
    return Pairing(
        len(reference),
        len(found),
        tuple(float(overlaps[p]) for p in found_pairs),
        tuple(float(found.scores[c] - reference.scores[r]) for r, c in found_pairs),
    )


def parity(pairings: Sequence[Pairing], noise: "Noise | None" = None) -> Parity:
    """Sum up the pairs of all images."""
    reference = sum(p.reference for p in pairings)
    found = sum(p.found for p in pairings)
    overlaps = [v for p in pairings for v in p.overlaps]
    shifts = [v for p in pairings for v in p.shifts]
    total = reference + found
    return Parity(
        matched=2 * len(overlaps) / total if total else 1.0,
        mean_iou=float(np.mean(overlaps)) if overlaps else 0.0,
        score_shift=float(np.mean(shifts)) if shifts else 0.0,
        sqnr_db=noise.sqnr_db() if noise else {},
        reference=reference,
    )


class Noise:
    """Adds up signal and error of head tensors over images.

    Scores are compared as scores: how far below zero a logit lies does not matter to anyone. The
    same where only one of the two has its sigmoid applied already.

    Args:
        head: how the reference reads.
        other: how the tensors that are held against it read.
    """

    def __init__(self, head: HeadSpec, other: HeadSpec | None = None) -> None:
        theirs = {t.name: t.activated for t in (other or head).tensors}
        unit = {
            t.name
            for t in head.tensors
            if theirs.get(t.name, t.activated) != t.activated
            or (t.role in ("class", "object") and head.scoring != "softmax")
        }
        self._raw = {t.name for t in head.tensors if t.name in unit and not t.activated}
        self._raw_found = {n for n in unit if not theirs.get(n, False)}
        self._power: dict[str, float] = {}
        self._error: dict[str, float] = {}

    def add(self, reference: Tensors, found: Tensors) -> None:
        """Take in one image."""
        for name, wanted in reference.items():
            values = sigmoid(wanted) if name in self._raw else wanted
            made = sigmoid(found[name]) if name in self._raw_found else found[name]
            power, error = np.square(values), np.square(values - made)
            self._power[name] = self._power.get(name, 0.0) + float(power.sum(dtype=np.float64))
            self._error[name] = self._error.get(name, 0.0) + float(error.sum(dtype=np.float64))

    def sqnr_db(self) -> dict[str, float]:
        """Return the ratio per tensor, at most 200 dB."""
        return {
            name: min(200.0, 10 * float(np.log10((power + 1e-20) / (self._error[name] + 1e-20))))
            for name, power in self._power.items()
        }
