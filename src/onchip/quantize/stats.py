"""What was seen of one tensor, in a form that merges."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onchip.errors import InputError
from onchip.graph.run import Array

BINS = 1024  # at least half of them used on the wider side of zero


@dataclass
class Stats:
    """What was seen of one tensor: a weighted histogram, and mean and limits of each channel.

    Bins are `2**exponent` wide and aligned to zero, so that two histograms of different widths
    merge exactly: the finer is folded into the coarser.
    """

    exponent: int = -30
    counts: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2 * BINS))
    total: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    low: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    high: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    samples: int = 0  # per channel

    def add(self, values: Array, weights: npt.NDArray[np.float64]) -> None:
        """Take in one sample `(channels, n)`, whose places count as `weights (n,)` say.

        Raises:
            InputError: a value is NaN or infinite.
        """
        total = _sums(values)
        index = self.places(values)
        each = np.broadcast_to(weights, values.shape).ravel()
        self.counts += np.bincount(index, each, minlength=2 * BINS)
        low, high = values.min(axis=1), values.max(axis=1)
        first = not self.samples
        self.total = total if first else self.total + total
        self.low = low if first else np.minimum(self.low, low)
        self.high = high if first else np.maximum(self.high, high)
        self.samples += values.shape[1]

    def places(self, values: Array) -> npt.NDArray[np.int32]:
        """Return the bin of each value, and make room for them all."""
        self._widen(max(float(-values.min()), float(values.max())))
        index = values.ravel() * np.float32(2.0**-self.exponent)
        index += BINS  # positive now, so that the cast rounds down
        return index.astype(np.int32)

    def merge(self, other: "Stats") -> None:
        """Take in what another observer saw of the same tensor."""
        if not other.samples:
            return
        self._widen(2.0**other.exponent * BINS * 0.75)
        counts, exponent = other.counts, other.exponent
        while exponent < self.exponent:
            counts, exponent = fold(counts), exponent + 1
        self._widen((BINS - 1) * 2.0 ** (exponent - 1))
        self.counts = self.counts + counts
        first = not self.samples
        self.total = other.total if first else self.total + other.total
        self.low = other.low if first else np.minimum(self.low, other.low)
        self.high = other.high if first else np.maximum(self.high, other.high)
        self.samples += other.samples

    def _widen(self, magnitude: float) -> None:
        """Fold the histogram until `magnitude` falls inside it."""
        empty = not self.counts.any()
        while magnitude >= (BINS - 1) * 2.0**self.exponent:
            self.counts = self.counts if empty else fold(self.counts)
            self.exponent += 1

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean of each channel."""
        return self.total / max(self.samples, 1)

    @property
    def centers(self) -> npt.NDArray[np.floating]:
        """The middle of each bin that holds something."""
        return (np.flatnonzero(self.counts) - BINS + 0.5) * 2.0**self.exponent

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """How much each of `centers` was seen, as parts of one."""
        seen = self.counts[self.counts > 0]
        return seen / seen.sum()


def _sums(values: Array) -> npt.NDArray[np.float64]:
    """Return the sum of each row."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = (values @ np.ones(values.shape[1], np.float32)).astype(np.float64)
        if not np.isfinite(total).all():  # the sum alone may be too large for float32
            total = values.astype(np.float64).sum(axis=1)
    if not np.isfinite(total).all():
        raise InputError(
            "an activation is NaN or infinite",
            "run the network in float on each photo: it, or the photo, is damaged",
        )
    return total


def fold(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Halve the resolution: bins 2i and 2i+1, counted from zero, become one."""
    folded = np.zeros_like(counts)
    folded[BINS // 2 : BINS // 2 + BINS] = counts.reshape(-1, 2).sum(axis=1)
    return folded
