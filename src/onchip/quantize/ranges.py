"""Choose the range of a tensor: the one that loses least in what its reader makes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.graph.run import Array
from onchip.quantize.activations import function
from onchip.quantize.stats import Stats
from onchip.spec import QuantSpec

Values = npt.NDArray[np.float64]
Ends = tuple[float, float]

CELLS = 512  # to which a histogram is coarsened before the search
KEEP = np.concatenate([np.linspace(1, 0.5, 26), np.geomspace(0.48, 0.05, 14)])
POWER = 2.4  # of the error: between the mean square and the largest; measured, see the benchmarks
NOTHING = 1e-20  # a range below this is none: its scale times a weight's is no normal float32
SAME = 1 + 1e-9  # what threads add in another order differs in the last digits
SURE = 3.0  # scores up to sigmoid(3) = 0.95 must have codes, seen or not


@dataclass(frozen=True)
class Range:
    """A scale and zero point, and the share of the signal's power that the codes keep (dB)."""

    scale: float
    zero: int
    sqnr_db: float

    def limits(self, quant: QuantSpec) -> tuple[float, float]:
        """The lowest and highest value that has a code."""
        return limits(self.scale, self.zero, quant)


def limits(scale: float, zero: int, quant: QuantSpec) -> tuple[float, float]:
    """Return the lowest and highest value that has a code."""
    return (quant.qmin - zero) * scale, (quant.qmax - zero) * scale


def rounded(values: Array, scale: float, zero: int, quant: QuantSpec) -> Array:
    """Return what is left of values after they were turned into codes and back."""
    step = np.float32(scale)
    codes = np.clip(np.rint(values / step) + zero, quant.qmin, quant.qmax)
    return np.asarray((codes - zero) * step, np.float32)


def fit(low: float, high: float, quant: QuantSpec) -> tuple[float, int]:
    """Return the scale and zero point that cover `low` to `high` and hold zero exactly.

    Where nothing but zero is to be covered, it is 0 to 1: any scale says zero, and this one fits
    what reads the tensor.

    >>> fit(0.0, 1.0, QuantSpec()) == fit(0.0, 0.0, QuantSpec())
    True
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < NOTHING:
        low, high = 0.0, 1.0
    scale = (high - low) / (quant.qmax - quant.qmin)
    zero = min(max(round(quant.qmin - low / scale), quant.qmin), quant.qmax)
    if zero == quant.barred_zero:
        return _beside(low, high, quant)
    return float(scale), zero


def fits(ends: Sequence[tuple[float, float]], quant: QuantSpec) -> tuple[Values, Values]:
    """Return the scales and zero points of many ranges at once."""
    if quant.barred_zero is not None:
        pairs = [fit(*e, quant) for e in ends]
        return np.asarray([p[0] for p in pairs]), np.asarray([p[1] for p in pairs], np.float64)
    low, high = np.asarray(ends, np.float64).T
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    nothing = high - low < NOTHING
    low, high = np.where(nothing, 0.0, low), np.where(nothing, 1.0, high)
    scale = (high - low) / (quant.qmax - quant.qmin)
    return scale, np.clip(np.rint(quant.qmin - low / scale), quant.qmin, quant.qmax)


def _beside(low: float, high: float, quant: QuantSpec) -> tuple[float, int]:
    """Return the finest scale whose zero point is next to the barred one."""
    assert quant.barred_zero is not None
    found = []
    for zero in (quant.barred_zero - 1, quant.barred_zero + 1):
        below, above = max(zero - quant.qmin, 0.5), max(quant.qmax - zero, 0.5)
        found.append((float(max(-low / below, high / above)), zero))
    return min(found)


Choice = Callable[[list[Stats], str, QuantSpec], Range]


def remembering() -> Choice:
    """Return a `choose` that does not choose twice for the same statistics, which no longer change.

    Plans that are tried one after the other have most of their tensors in common.
    """
    known: dict[tuple[object, ...], tuple[list[Stats], Range]] = {}

    def chosen(seen: list[Stats], reader: str, quant: QuantSpec) -> Range:
        key = (*map(id, seen), reader, quant)
        if key not in known:
            known[key] = seen, choose(seen, reader, quant)  # kept, so that no other gets its id
        return known[key][1]

    return chosen


def choose(seen: list[Stats], reader: str, quant: QuantSpec) -> Range:
    """Return the range for tensors seen as `seen` that share a scale.

    What is minimized is the mean error of `f(x)`, to the power of `POWER`, where `f` is the
    activation that reads the tensor: a SiLU does not care what lies far below zero, a sigmoid not
    what lies far from it.
    """
    centers, weights = _merged(seen)
    low = min(0.0, *(float(s.low.min()) for s in seen))
    high = max(0.0, *(float(s.high.max()) for s in seen))
    trial = _Trial(centers, weights, reader, quant)
    if reader == "sigmoid":
        high = max(high, SURE)
    best = narrowed(trial.losses, (low, high), fixed_top=reader == "sigmoid")
    return Range(*fit(*best, quant), trial.sqnr_db(best))


def narrowed(losses: Callable[[Sequence[Ends]], Values], whole: Ends, *, fixed_top: bool) -> Ends:
    """Return the part of a range that loses least: each end is searched in turn, at most twice.

    Args:
        losses: what each of some ranges loses.
        whole: the widest.
        fixed_top: whether the upper end stays. That of what a sigmoid reads does: cutting it would
            be a ceiling over the scores.
    """
    best = whole
    beside: dict[int, float] = {}  # where the other end was when an end was searched last
    for end in (0,) if fixed_top else (1, 0, 1, 0):
        if whole[end] and beside.get(end) != best[1 - end]:
            beside[end] = best[1 - end]
            tried = [(best[0], whole[1] * k) if end else (whole[0] * k, best[1]) for k in KEEP]
            found = losses(tried)
            best = tried[int(np.flatnonzero(found <= found.min() * SAME)[0])]
    return best


@dataclass(frozen=True)
class _Trial:
    """A tensor's values with their weights, and what reads them."""

    centers: Values
    weights: Values
    reader: str
    quant: QuantSpec

    def errors(self, ends: Sequence[tuple[float, float]]) -> Values:
        """What rounding changes in the reader's result: `(ranges, values)`."""
        scale, zero = (found[:, None] for found in fits(ends, self.quant))
        codes = np.clip(np.rint(self.centers / scale) + zero, self.quant.qmin, self.quant.qmax)
        f = function(self.reader)
        return np.asarray(f((codes - zero) * scale) - f(self.centers))

    def losses(self, ends: Sequence[tuple[float, float]]) -> Values:
        """The mean error of each range, to the power of `POWER`."""
        return np.asarray((np.abs(self.errors(ends)) ** POWER) @ self.weights)

    def sqnr_db(self, ends: tuple[float, float]) -> float:
        """The signal to noise ratio of one range."""
        power = float(self.weights @ function(self.reader)(self.centers) ** 2)
        noise = float(self.errors([ends])[0] ** 2 @ self.weights)
        return round(10 * float(np.log10(max(power, 1e-20) / max(noise, 1e-20))), 2)


def _merged(seen: list[Stats]) -> tuple[Values, Values]:
    """Return the values seen and how often, as parts of one, on at most `CELLS` cells."""
    centers = np.concatenate([s.centers for s in seen])
    counts = np.concatenate([s.counts[s.counts > 0] for s in seen])
    low, high = float(centers.min()), float(centers.max())
    step = max((high - low) / CELLS, 1e-30)
    cells = np.minimum(((centers - low) / step).astype(np.int64), CELLS - 1)
    weights = np.bincount(cells, counts, CELLS)
    sums = np.bincount(cells, counts * centers, CELLS)
    used = weights > 0
    return sums[used] / weights[used], weights[used] / counts.sum()
