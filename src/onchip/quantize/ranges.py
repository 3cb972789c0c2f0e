"""Choose the range of a tensor: the one that loses least in what its reader makes of it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.quantize.activations import function
from onchip.quantize.observe import Stats
from onchip.spec import QuantSpec

Values = npt.NDArray[np.float64]

KEEP = np.concatenate([np.linspace(1, 0.5, 26), np.geomspace(0.48, 0.05, 24)])
CELLS = 1024  # to which a histogram is coarsened before the search


@dataclass(frozen=True)
class Range:
    """A scale and zero point, and the share of the signal's power that the codes keep (dB)."""

    scale: float
    zero: int
    sqnr_db: float

    def limits(self, quant: QuantSpec) -> tuple[float, float]:
        """The lowest and highest value that has a code."""
        return (quant.qmin - self.zero) * self.scale, (quant.qmax - self.zero) * self.scale


def fit(low: float, high: float, quant: QuantSpec) -> tuple[float, int]:
    """Return the scale and zero point that cover `low` to `high` and hold zero exactly.

    >>> fit(0.0, 1.0, QuantSpec())
    (0.00392156862745098, 0)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / (quant.qmax - quant.qmin), 1e-12)
    zero = round(quant.qmin - low / scale)
    return scale, int(np.clip(zero, quant.qmin, quant.qmax))


def choose(seen: list[Stats], reader: str, quant: QuantSpec) -> Range:
    """Return the range for tensors seen as `seen` that share a scale.

    The ends are searched in turn. What is minimized is the mean squared error of `f(x)`, where `f`
    is the activation that reads the tensor: a SiLU does not care what lies far below zero, a
    sigmoid not what lies far from it on either side.
    """
    centers, weights = _merged(seen)
    low, high = min(float(centers.min()), 0.0), max(float(centers.max()), 0.0)
    low = min(low, *(float(s.low.min()) for s in seen))
    high = max(high, *(float(s.high.max()) for s in seen))
    f = function(reader)
    wanted = f(centers)
    best = (low, high)
    for end in (1, 0, 1, 0):
        trials = [(best[0], high * k) if end else (low * k, best[1]) for k in KEEP]
        losses = [_loss(t, centers, weights, wanted, reader, quant) for t in trials]
        best = trials[int(np.argmin(losses))]
    loss = _loss(best, centers, weights, wanted, reader, quant)
    power = float((weights * wanted**2).sum())
    sqnr = 10 * np.log10(max(power, 1e-20) / max(loss, 1e-20))
    return Range(*fit(*best, quant), round(float(sqnr), 2))


def _loss(
    ends: tuple[float, float],
    centers: Values,
    weights: Values,
    wanted: Values,
    reader: str,
    quant: QuantSpec,
) -> float:
    scale, zero = fit(*ends, quant)
    codes = np.clip(np.rint(centers / scale) + zero, quant.qmin, quant.qmax)
    error = function(reader)((codes - zero) * scale) - wanted
    return float((weights * error**2).sum())


def _merged(seen: list[Stats]) -> tuple[Values, Values]:
    """Return the values seen and how often, as parts of one, on at most `CELLS` cells."""
    centers = np.concatenate([s.centers for s in seen])
    counts = np.concatenate([s.counts[s.counts > 0] for s in seen]).astype(np.float64)
    low, high = float(centers.min()), float(centers.max())
    step = max((high - low) / CELLS, 1e-30)
    cells = np.minimum(((centers - low) / step).astype(np.int64), CELLS - 1)
    weights = np.bincount(cells, counts, CELLS)
    sums = np.bincount(cells, counts * centers, CELLS)
    used = weights > 0
    return sums[used] / weights[used], weights[used] / counts.sum()
