"""How much errors in one tensor change the detections, as a histogram of its values.

Rounding errors hardly know of each other: what an error `d` of a tensor does is the sum of
`g_i^2 d_i^2`, with `g` the gradient of what counts (see harm.py). Each value counts with its
gradient's square, and one histogram foretells the harm of every scale that could be chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx

from onchip.graph.read import Model
from onchip.graph.run import Array
from onchip.quantize.activations import function
from onchip.quantize.ranges import limits, rounded
from onchip.quantize.regions import MOVED
from onchip.quantize.stats import BINS, Stats, fold
from onchip.spec import QuantSpec

Floats = npt.NDArray[np.float64]


@dataclass
class Influence:
    """How much errors in one tensor change the detections.

    `felt` is a histogram of its values in which each counts with its gradient's square, `power` the
    sum of those squares per channel `(C,)`, `draws` the same histogram once per backward pass with
    the gradients themselves. `reader` is the function whose result the gradients are of, `places`
    how many places of the map each sampled one stands for.
    """

    reader: str = ""
    places: float = 1.0
    felt: Stats = field(default_factory=Stats)
    power: Floats = field(default_factory=lambda: np.zeros(0))
    draws: list[Stats] = field(default_factory=list)

    def add(self, values: Array, gradient: Array) -> None:
        """Take in what one backward pass gave for the sampled places: both `(C, n)`."""
        # faint gradients count too: some stand at values so large that cutting them is felt
        moves = gradient * np.float32(self.places)
        squares = moves * gradient
        index = self.felt.places(values)
        self.felt.counts += np.bincount(index, squares.ravel(), 2 * BINS)
        self.felt.samples += values.shape[1]
        power = squares.sum(axis=1, dtype=np.float64)
        self.power = self.power + power if self.draws else power
        drawn = np.bincount(index, moves.ravel(), 2 * BINS).astype(np.float64)
        self.draws.append(Stats(self.felt.exponent, drawn))
        self.__dict__.pop("_table", None)

    def harm(self, scale: float, zero: int, quant: QuantSpec) -> float:
        """The expected square of what rounding to these codes does, per image.

        Rounding errors are as good as independent. What is cut off is not: it is smaller by the
        same everywhere, and so its sum is squared as well, less what that would be by chance.
        """
        if not self.draws:
            return 0.0
        values, counts = self.each
        f, centers = function(self.reader), values.astype(np.float32)
        errors = (f(rounded(centers, scale, zero, quant)) - f(centers)).astype(np.float64)
        low, high = limits(scale, zero, quant)
        cut = self.together(np.asarray([low]), np.asarray([high]))
        return float(counts @ errors**2) + float(cut[0])

    @property
    def each(self) -> tuple[Floats, Floats]:
        """The values, and what the square of an error in each counts, per backward pass."""
        counts = self.felt.counts[self.felt.counts > 0]
        return self.felt.centers.astype(np.float64), counts / max(len(self.draws), 1)

    def together(self, low: Floats, high: Floats) -> Floats:
        """The part of the harm that comes from what is cut off everywhere alike, of each range."""
        centers, draws, squares = self._table
        beyond = (centers < low.max()) | (centers > high.min())
        if not beyond.any():
            return np.zeros(len(low))
        f, values = function(self.reader), centers[beyond]
        lost = f(np.clip(values, low[:, None], high[:, None])) - f(values)
        chance = self.places * (lost**2 @ squares[beyond])
        whole = ((draws[:, beyond] @ lost.T) ** 2).sum(axis=0)
        return np.asarray(np.maximum(0.0, whole - chance) / len(draws))

    @cached_property
    def _table(self) -> tuple[Floats, Floats, Floats]:
        """Values in bins, each draw's gradients in them, and the gradients' squares."""
        bins = [d.counts for d in self.draws]
        for index, draw in enumerate(self.draws):
            for _ in range(self.felt.exponent - draw.exponent):
                bins[index] = fold(bins[index])
        used = np.flatnonzero(self.felt.counts)
        centers = np.asarray(self.felt.centers, np.float64)
        return centers, np.stack(bins)[:, used], self.felt.counts[used]


def new_in(model: Model, names: Sequence[str]) -> list[str]:
    """Return those tensors of a group whose values are not moved there from others of it."""
    inside = set(names) | set(model.constants)
    return [
        n
        for n in names
        if (node := model.producers.get(n)) is None
        or not _only_moves(node)
        or any(i and i not in inside for i in node.input)
    ]


def _only_moves(node: onnx.NodeProto) -> bool:
    """Whether every value of a node's result is one of its input's."""
    if node.op_type == "Resize":
        return any(a.name == "mode" and a.s == b"nearest" for a in node.attribute)
    return node.op_type in MOVED or node.op_type == "MaxPool"
