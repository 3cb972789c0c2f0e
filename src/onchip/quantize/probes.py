"""A few images on which plans are tried, and how far a plan's scores stray on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onchip.graph.run import Array, Runner
from onchip.several import each
from onchip.spec import HeadSpec
from onchip.vision import decode

CLEAR = 0.1  # scores below this do not count

Tensors = Mapping[str, Array]


@dataclass(frozen=True)
class Probes:
    """Inputs of a network, and what it makes of them in float."""

    head: HeadSpec
    inputs: Sequence[npt.NDArray[np.generic]]
    wanted: Sequence[Tensors]

    def first(self, count: int) -> "Probes":
        """Return the first of them."""
        return replace(self, inputs=self.inputs[:count], wanted=self.wanted[:count])

    def loss(self, graph: bytes) -> float:
        """Return how far a graph's scores stray: the part of their sum that differs, if clear."""
        run = Runner(graph, threads=1)

        def one(pair: tuple[npt.NDArray[np.generic], Tensors]) -> tuple[float, float]:
            tensor, wanted = pair
            size = (tensor.shape[-1], tensor.shape[-2])
            a, b = _scores(self.head, wanted, size), _scores(self.head, run(tensor), size)
            clear = np.maximum(a, b) >= CLEAR
            return float(np.abs(a - b)[clear].sum()), float(a[clear].sum())

        found = list(each(one, zip(self.inputs, self.wanted, strict=True)))
        error, total = (sum(each[i] for each in found) for i in (0, 1))
        return error / total if total else 0.0


def _scores(head: HeadSpec, tensors: Tensors, size: tuple[int, int]) -> Array:
    levels = decode.levels(head, tensors, size)
    return np.concatenate([decode.scores(level).ravel() for level in levels])
