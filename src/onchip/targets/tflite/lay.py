"""In which order the axes of a tensor lie in memory: channels last, where ONNX has them second.

Every tensor keeps the shape and the axes of the ONNX graph, and an order: its axes as they lie. So
a transposition costs nothing until something needs another order.
"""

from collections.abc import Sequence
from math import prod

Axes = tuple[int, ...]


def native(rank: int) -> Axes:
    """Return the order of a file's own inputs and outputs: channels last where there is a grid."""
    return (0, 2, 3, 1) if rank == 4 else tuple(range(rank))


def lies(shape: Sequence[int], order: Axes) -> Axes:
    """Return a shape as it lies.

    >>> lies((1, 3, 48, 64), (0, 2, 3, 1))
    (1, 48, 64, 3)
    """
    return tuple(shape[a] for a in order)


def moved(shape: Sequence[int], before: Axes, after: Axes) -> tuple[Axes, Axes] | None:
    """Return a shape and a permutation that bring one order into another; None where nothing moves.

    Axes that stay side by side are one.

    >>> moved((1, 2, 58, 52, 52), (0, 3, 4, 1, 2), (0, 3, 4, 2, 1))
    ((2704, 2, 58), (0, 2, 1))
    """
    old = [a for a in before if shape[a] != 1]
    new = [a for a in after if shape[a] != 1]
    if old == new:
        return None
    runs: list[list[int]] = []
    for axis in new:
        place = old.index(axis)
        if runs and place and runs[-1][-1] == old[place - 1]:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    there = sorted(range(len(runs)), key=lambda n: old.index(runs[n][0]))
    sizes = tuple(prod(shape[a] for a in runs[n]) for n in there)
    return sizes, tuple(there.index(n) for n in range(len(runs)))


def parts(before: Sequence[int], after: Sequence[int]) -> list[tuple[Axes, Axes]]:
    """Return which axes of a shape become which of another; axes of 1 are left out.

    >>> parts((1, 2, 58, 52, 52), (1, 116, 52, 52))
    [((1, 2), (1,)), ((3,), (2,)), ((4,), (3,))]
    """
    old = [a for a, size in enumerate(before) if size != 1]
    new = [a for a, size in enumerate(after) if size != 1]
    found: list[tuple[Axes, Axes]] = []
    while old or new:
        first, second = [old.pop(0)], [new.pop(0)]
        while (a := prod(before[i] for i in first)) != (b := prod(after[i] for i in second)):
            if a < b:
                first.append(old.pop(0))
            else:
                second.append(new.pop(0))
        found.append((tuple(first), tuple(second)))
    return found


def reshaped(before: Sequence[int], order: Axes, after: Sequence[int]) -> tuple[Axes, Axes]:
    """Return how a tensor must lie to be given another shape, and how it lies then.

    >>> reshaped((1, 64, 20, 20), (0, 2, 3, 1), (1, 64, 400))
    ((0, 2, 3, 1), (0, 2, 1))
    """
    found = parts(before, after)
    place = {axis: number for number, axis in enumerate(order)}
    found.sort(key=lambda pair: min(place[a] for a in pair[0]))
    needed = [a for pair in found for a in pair[0]]
    made = [a for pair in found for a in pair[1]]
    return _with_ones(needed, before), _with_ones(made, after)


def _with_ones(axes: list[int], shape: Sequence[int]) -> Axes:
    """Return an order with the axes of 1 put in: where they are at home, if that can be."""
    home = native(len(shape))
    if [a for a in home if shape[a] != 1] == axes:
        return home
    return (*(a for a in range(len(shape)) if shape[a] == 1), *axes)
