"""Let the rules for a range compete: who does the detections the least harm wins.

No rule is right for all: a percentile rescues one network and ruins another. Each candidate is
judged by what it is foreseen to do to scores and boxes (see harm.py); the winner, the next best and
the distance between them are data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from onchip.graph.read import Model
from onchip.quantize.activations import function
from onchip.quantize.influence import Influence, new_in
from onchip.quantize.ranges import (
    KEEP,
    SURE,
    Ends,
    Range,
    choose,
    fit,
    fits,
    limits,
    narrowed,
)
from onchip.quantize.stats import Stats
from onchip.spec import QuantSpec

Values = npt.NDArray[np.float64]

UNSEEN = 0.1  # of the judgement: by what all images showed, of which few were carried back
SIZES = 12  # classes of values by their size
RARE = 1e-3  # of all values: classes with fewer count mostly as the next smaller one
USUAL = "power of the error"  # the rule where nothing is known of the detections
PERCENTILES = (99.9, 99.99, 99.999, 99.9999)


class Contest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who won the range of a group of tensors.

    `harm` is the winner's: the expected square of what its rounding does, per image. `margin` is by
    how much the runner-up's is larger, as a part of the winner's.
    """

    group: str
    winner: str
    runner_up: str
    harm: float
    margin: float
    low: float
    high: float

    def describe(self) -> str:
        """Who won, and by how much, in a few words."""
        if not self.runner_up:
            return self.winner
        by = "far" if self.margin >= 10 else f"{self.margin:.1%}"
        return f"{self.winner}, by {by} from {self.runner_up}"


@dataclass(frozen=True)
class Part:
    """Values of one tensor, what an error in each counts, and the function that reads them."""

    centers: Values
    weights: Values
    reader: str

    def harms(self, ranges: Sequence[Ends], quant: QuantSpec) -> Values:
        """What rounding to the codes of each range is foreseen to do."""
        scale, zero = (found[:, None] for found in fits(ranges, quant))
        codes = np.clip(np.rint(self.centers / scale) + zero, quant.qmin, quant.qmax)
        f = function(self.reader)
        errors = f((codes - zero) * scale) - f(self.centers)
        return np.asarray(errors**2 @ self.weights)


@dataclass(frozen=True)
class Judge:
    """Foresees the harm of a range for tensors that share it."""

    parts: Sequence[Part]
    felt: Sequence[Influence]
    quant: QuantSpec

    @classmethod
    def of(
        cls,
        seen: Sequence[Stats],
        felt: Sequence[Influence],
        quant: QuantSpec,
        unseen: float = UNSEEN,
    ) -> "Judge":
        """Judge by what was felt, and a little by what all images showed."""
        parts = []
        for stats, influence in zip(seen, felt, strict=True):
            values, counts = influence.each
            parts.append(Part(values, counts * (1 - unseen), influence.reader))
            values, counts = expected(stats, influence)
            parts.append(Part(values, counts * unseen, influence.reader))
        return cls(tuple(parts), tuple(felt), quant)

    def __call__(self, ranges: Sequence[Ends]) -> Values:
        """Return the harm of each of some ranges."""
        scales, zeros = fits(ranges, self.quant)
        low, high = (self.quant.qmin - zeros) * scales, (self.quant.qmax - zeros) * scales
        harms = sum((part.harms(ranges, self.quant) for part in self.parts), np.zeros(len(scales)))
        return harms + sum(influence.together(low, high) for influence in self.felt)


def decide(
    model: Model,
    group: str,
    names: Sequence[str],
    seen: Mapping[str, Stats],
    felt: Mapping[str, Influence],
    reader: str,
    quant: QuantSpec,
    unseen: float = UNSEEN,
) -> tuple[Range, Contest] | None:
    """Return the range of the tensors of a group; None where too little is known of them.

    Args:
        model: the cut float graph.
        group: its name, for the record.
        names: all tensors that share the range.
        seen: what was observed, by tensor.
        felt: what was felt, by tensor.
        reader: the function that reads all of them, where it is one.
        quant: the chip's arithmetic.
        unseen: how much of the judgement is left to what all images showed.
    """
    new = [n for n in new_in(model, names) if n in seen]
    if not new or any(n not in felt for n in new):
        return None
    return compete(group, [seen[n] for n in new], [felt[n] for n in new], reader, quant, unseen)


def compete(
    group: str,
    seen: Sequence[Stats],
    felt: Sequence[Influence],
    reader: str,
    quant: QuantSpec,
    unseen: float = UNSEEN,
) -> tuple[Range, Contest]:
    """Return the range of a group of tensors, and how it was won.

    Args:
        group: its name, for the record.
        seen: what was observed of the tensors whose values are new in the group.
        felt: their influences, in the same order.
        reader: the function that reads them, where it is one.
        quant: the chip's arithmetic.
        unseen: how much of the judgement is left to what all images showed.
    """
    whole = _whole(seen, reader)
    found = candidates(seen, whole, reader, quant)
    if not any(influence.power.any() for influence in felt):  # no image shows anything
        return _won(group, found, {USUAL: 0.0}, seen, reader, quant)
    judge = Judge.of(seen, felt, quant, unseen)
    found["least harm"] = narrowed(judge, whole, fixed_top=reader == "sigmoid")
    judged = judge(list(found.values())).tolist()
    harms = {name: float(f"{h:.6g}") for name, h in zip(found, judged, strict=True)}
    return _won(group, found, harms, seen, reader, quant)


def _won(
    group: str,
    found: dict[str, Ends],
    harms: dict[str, float],
    seen: Sequence[Stats],
    reader: str,
    quant: QuantSpec,
) -> tuple[Range, Contest]:
    """Return the range with the least harm, with its record."""
    first, *others = sorted(harms, key=lambda name: harms[name])
    second = next((n for n in others if found[n] != found[first]), "")
    scale, zero = fit(*found[first], quant)
    low, high = limits(scale, zero, quant)
    contest = Contest(
        group=group,
        winner=first,
        runner_up=second,
        harm=harms[first],
        margin=_margin(harms[first], harms[second]) if second else 0.0,
        low=low,
        high=high,
    )
    values, weights = merged(seen)
    power = float(weights @ function(reader)(values) ** 2)
    noise = float(Part(values, weights, reader).harms([found[first]], quant)[0])
    sqnr = 10 * float(np.log10(max(power, 1e-20) / max(noise, 1e-20)))
    return Range(scale, zero, round(sqnr, 2)), contest


def _margin(first: float, second: float) -> float:
    """By how much the second is larger; a thousand times is as good as any more."""
    return round(min(second / max(first, 1e-30) - 1, 1000.0), 4) if second > first else 0.0


def _whole(seen: Sequence[Stats], reader: str) -> Ends:
    low = min(0.0, *(float(s.low.min()) for s in seen))
    high = max(0.0, *(float(s.high.max()) for s in seen))
    return low, max(high, SURE) if reader == "sigmoid" else high


def expected(stats: Stats, influence: Influence) -> tuple[Values, Values]:
    """Return the values of all images, and what the square of an error in each should count.

    Few images are carried back, and what is rare may be in none of them. A value counts as those
    of its size do where they were felt; sizes are told apart by half octaves.
    """
    values, counts = influence.each
    others, shares = stats.centers.astype(np.float64), stats.weights
    top = max(float(np.abs(v).max(initial=1e-30)) for v in (values, others))
    found = np.zeros(len(others))
    for negative in (False, True):
        here, there = (values < 0) == negative, (others < 0) == negative
        felt = np.bincount(_sizes(values[here], top), counts[here], SIZES)
        seen = np.bincount(_sizes(others[there], top), shares[there], SIZES)
        each = np.empty(SIZES)
        before = float(counts.sum())  # of the next smaller size: what stands in for what is rare
        for size in range(SIZES):
            before = each[size] = (felt[size] + before * RARE) / (seen[size] + RARE)
        found[there] = shares[there] * each[_sizes(others[there], top)]
    return others, found * counts.sum() / max(float(found.sum()), 1e-30)


def _sizes(values: Values, top: float) -> npt.NDArray[np.int64]:
    """Number each value by its size, in half octaves below the largest."""
    size = np.floor(2 * np.log2(np.abs(values) / top + 1e-9)).astype(np.int64)
    return np.clip(size, -SIZES, -1) + SIZES


def candidates(
    seen: Sequence[Stats], whole: Ends, reader: str, quant: QuantSpec
) -> dict[str, Ends]:
    """Return the ranges that the usual rules would choose."""
    values, weights = merged(seen)
    power = choose(list(seen), reader, quant)
    found = {"min/max": whole, USUAL: power.limits(quant)}
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    for percent in PERCENTILES:
        ends = np.searchsorted(reached, [1 - percent / 100, percent / 100])
        low, high = values[order][np.minimum(ends, len(values) - 1)]
        top = max(float(high), SURE) if reader == "sigmoid" else float(high)
        found[f"percentile {percent:g}"] = (min(float(low), 0.0), max(top, 0.0))
    squared = Judge((Part(values, weights, reader),), (), quant)
    found["squared error"] = narrowed(squared, whole, fixed_top=reader == "sigmoid")
    found["entropy"] = entropy(values, weights, whole, quant, fixed_top=reader == "sigmoid")
    return found


def merged(seen: Sequence[Stats]) -> tuple[Values, Values]:
    """Return all values seen and how much each counts, as parts of one."""
    values = np.concatenate([s.centers for s in seen]).astype(np.float64)
    counts = np.concatenate([s.counts[s.counts > 0] for s in seen])
    return values, counts / counts.sum()


def entropy(
    values: Values, weights: Values, whole: Ends, quant: QuantSpec, *, fixed_top: bool
) -> Ends:
    """Return the range whose codes tell most about the values (least KL divergence).

    Source: Migacz, 8-bit Inference with TensorRT, 2017; here with a zero point.
    """
    ranges = [(whole[0] * k, whole[1] * (1.0 if fixed_top else k)) for k in KEEP]
    return ranges[int(np.argmin(_divergences(values, weights, ranges, quant)))]


def _divergences(
    values: Values, weights: Values, ranges: Sequence[Ends], quant: QuantSpec
) -> Values:
    """How far the values spread evenly over the codes of each range are from the clipped ones."""
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    scale, zero = (found[:, None] for found in fits(ranges, quant))
    low, high = (quant.qmin - zero) * scale, (quant.qmax - zero) * scale
    inside = (values >= low) & (values <= high)
    each, last = np.arange(len(ranges)), len(values) - 1
    # what is clipped belongs to the last value that is not
    clipped = np.where(inside, weights, 0.0)
    clipped[each, inside.argmax(axis=1)] += np.where(values < low, weights, 0.0).sum(axis=1)
    top = last - inside[:, ::-1].argmax(axis=1)
    clipped[each, top] += np.where(values > high, weights, 0.0).sum(axis=1)
    codes = np.clip(np.rint(values / scale) + zero, quant.qmin, quant.qmax).astype(np.int64)
    codes += each[:, None] * (quant.qmax - quant.qmin + 1) - quant.qmin  # of its own range
    total = np.bincount(codes[inside], np.broadcast_to(weights, codes.shape)[inside])
    members = np.bincount(codes[inside])
    shared = np.append(total / np.maximum(members, 1), np.zeros(codes.max() + 1 - len(total)))
    spread = np.where(inside, shared[codes], 0.0)
    spread /= np.maximum(spread.sum(axis=1, keepdims=True), 1e-30)
    used = (clipped > 0) & (spread > 0)
    ratio = np.divide(clipped, spread, out=np.ones_like(clipped), where=used)
    return np.asarray((clipped * np.log(ratio)).sum(axis=1))
