"""COCO average precision, with an interval from resampling the images.

The matching follows pycocotools (area "all", no crowds, 100 detections per image and class); the
tests hold it against faster-coco-eval. It is our own because the interval needs the matches of
every image, which that library does not give.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.detections import Detections, Floats, iou

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100
RESAMPLES = 200


@dataclass(frozen=True)
class Matches:
    """One image's detections with what they matched: `hits` is `(n, 10)`, one per IoU threshold."""

    scores: Floats
    classes: npt.NDArray[np.int64]
    hits: npt.NDArray[np.bool_]
    truths: npt.NDArray[np.int64]  # true boxes per class


@dataclass(frozen=True)
class Accuracy:
    """mAP50-95, mAP50 and the 95 % interval of mAP50-95, as parts of one."""

    images: int
    map50_95: float
    map50: float
    interval: tuple[float, float]
    by_class: tuple[float, ...]  # nan where a class has no true box
    draws: npt.NDArray[np.float64]  # mAP50-95 of each resample; the same images at each seed


def match(found: Detections, truth: Detections, classes: int) -> Matches:
    """Match one image's detections to its true boxes, greedily, best score first."""
    order = np.argsort(-found.scores, kind="stable")
    found = found[order]
    hits = np.zeros((len(found), len(THRESHOLDS)), bool)
    keep = np.zeros(len(found), bool)
    for label in np.unique(found.classes):
        mine = np.flatnonzero(found.classes == label)[:MAX_DETECTIONS]
        keep[mine] = True
        true = np.flatnonzero(truth.classes == label)
        if len(true):
            hits[mine] = _greedy(iou(found.boxes[mine], truth.boxes[true]))
    return Matches(
        found.scores[keep],
        found.classes[keep],
        hits[keep],
        np.bincount(truth.classes, minlength=classes),
    )


def _greedy(overlaps: Floats) -> npt.NDArray[np.bool_]:
    """Return hits `(detections, thresholds)` for overlaps `(detections, true boxes)`."""
    hits = np.zeros((len(overlaps), len(THRESHOLDS)), bool)
    for column, threshold in enumerate(THRESHOLDS):
        free = np.ones(overlaps.shape[1], bool)
        for row, values in enumerate(overlaps):
            open_values = np.where(free, values, -1.0)
            # among equals pycocotools takes the last
            best = len(values) - 1 - int(np.argmax(open_values[::-1]))
            if open_values[best] >= min(threshold, 1 - 1e-10):
                hits[row, column] = True
                free[best] = False
    return hits


def accuracy(
    matches: Sequence[Matches], classes: int, *, seed: int = 0, resamples: int = RESAMPLES
) -> Accuracy:
    """Summarize matched images; the interval comes from resampling the images."""
    table = _Table(matches, classes)
    whole = table.precision(np.ones(len(matches)))
    random = np.random.default_rng(seed)
    parts = np.full(len(matches), 1 / max(len(matches), 1))
    draws = [
        _mean(table.precision(random.multinomial(len(matches), parts).astype(float)))
        for _ in range(resamples if len(matches) > 1 else 0)
    ]
    # rare classes drop out of some resamples, which lifts them all: only their spread is used
    center = _mean(whole)
    spread = np.percentile(draws, [2.5, 97.5]) - np.median(draws) if draws else (-1.0, 1.0)
    low, high = np.clip(center + np.asarray(spread), 0, 1)
    return Accuracy(
        images=len(matches),
        map50_95=_mean(whole),
        map50=_mean(whole[:, :1]),
        interval=(float(low), float(high)),
        by_class=tuple(float(v) for v in whole.mean(axis=1)),
        draws=np.asarray(draws),
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0


class _Table:
    """All detections by class, best first, so that images can be weighted without sorting again."""

    def __init__(self, matches: Sequence[Matches], classes: int) -> None:
        images = np.repeat(np.arange(len(matches)), [len(m.scores) for m in matches])
        scores = np.concatenate([m.scores for m in matches])
        labels = np.concatenate([m.classes for m in matches])
        hits = np.concatenate([m.hits for m in matches])
        order = np.argsort(-scores, kind="mergesort")
        self._truths = np.stack([m.truths for m in matches])
        self._classes = []
        for label in range(classes):
            mine = order[labels[order] == label]
            self._classes.append((images[mine], hits[mine]))

    def precision(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return AP `(classes, thresholds)` with each image counted `weights` times."""
        truths = weights @ self._truths
        found = np.full((len(self._classes), len(THRESHOLDS)), np.nan)
        for label, (images, hits) in enumerate(self._classes):
            if truths[label] > 0:
                found[label] = _interpolated(weights[images], hits, truths[label])
        return found


def _interpolated(
    weights: npt.NDArray[np.float64], hits: npt.NDArray[np.bool_], truths: float
) -> npt.NDArray[np.float64]:
    true = np.cumsum(hits * weights[:, None], axis=0)
    all_ = np.cumsum(weights)[:, None]
    recall = true / truths
    precision = true / np.maximum(all_, np.finfo(float).eps)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    values = np.zeros(len(THRESHOLDS))
    for column in range(len(THRESHOLDS)):
        at = np.searchsorted(recall[:, column], RECALLS, side="left")
        inside = at < len(recall)
        values[column] = envelope[at[inside], column].sum() / len(RECALLS)
    return values
