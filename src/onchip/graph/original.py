"""The network as it was given, read through its own output: the reference of every proof."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.errors import UnsupportedError
from onchip.graph import prove
from onchip.graph import readings as own_output
from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.spec import HeadSpec
from onchip.vision import decode

Tensors = dict[str, npt.NDArray[np.float32]]
Reading = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Original:
    """Runs the network and returns its predictions: boxes `(n, 4)` and scores `(n, classes)`.

    `selected` says that the network has suppressed overlaps itself. `tensors` finds the head's
    tensors among the outputs of a network that gives nothing else.
    """

    run: Callable[[npt.NDArray[np.generic]], Sequence[npt.NDArray[np.float32]]]
    read: Callable[[Sequence[npt.NDArray[np.float32]]], Reading]
    selected: bool

    def __call__(self, tensor: npt.NDArray[np.generic]) -> Reading:
        """Return the predictions for one input, in input pixels."""
        return self.read(self.run(tensor))


def original(
    model: Model, part: Model, head: HeadSpec, example: npt.NDArray[np.generic], threads: int = 0
) -> Original:
    """Find out how a network's own output reads, with the cut graph as the key.

    Args:
        model: the network as it was read.
        part: the same, cut at its head.
        head: how to read the cut.
        example: one input.
        threads: that one call may use; 0 is all.

    Raises:
        UnsupportedError: its output cannot be told apart from noise; the cut was not proven on it.
    """
    whole, cut = Runner(model.bytes, threads), Runner(part.bytes)
    own, ours = list(whole.run(example)), cut(example)
    size = prove.input_size(model)
    for index, reading in enumerate(own_output.readings(own, head.classes, size)):
        proof = prove.compare(head, [ours], [reading], size)
        if proof.passed:

            def read(values: Sequence[npt.NDArray[np.float32]], index: int = index) -> Reading:
                found = list(own_output.readings(list(values), head.classes, size))
                if len(found) <= index:
                    raise UnsupportedError("the model's own output changes its form")
                return found[index]

            return Original(whole.run, read, proof.kind == "selected" or head.coding == "query")
    places = own_output.places(head, own, ours)
    if places is None:
        raise UnsupportedError(
            "the model's own output does not read", "the proof starts at the cut instead"
        )

    def find(values: Sequence[npt.NDArray[np.float32]]) -> Reading:
        tensors = own_output.gathered(head, places, list(values), ours)
        return decode.dense(head, tensors, size)

    return Original(whole.run, find, False)
