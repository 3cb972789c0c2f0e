"""Boxes of hundreds of pixels set the step of the scores that share their tensor."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from onchip.spec import Verdict

STRIDES = (8, 16, 32)
COARSE = 1 / 32  # a step between scores that costs accuracy


class Output(Protocol):
    """An output of a compiled network, as its format describes it."""

    @property
    def name(self) -> str:
        """What the file calls it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> str:
        """The type of its numbers."""

    @property
    def scale(self) -> float | None:
        """What one step is."""


T = TypeVar("T", bound=Output)


def one_scale(size: tuple[int, int] | None, outputs: Sequence[Output]) -> Iterator[Verdict]:
    """Judge the step of an output that holds boxes and scores; `size` are the image's sides."""
    tensor = stacked(size, outputs)
    if tensor is None or tensor.dtype not in ("int8", "uint8"):
        return
    step = tensor.scale
    if step is None or step <= COARSE:
        return
    blind = step / 2 > 1  # then every score rounds to 0
    seen = "no score can be seen" if blind else "scores are too coarse to rank boxes"
    yield Verdict(
        code="one_scale",
        message=f"output {tensor.name}: one scale over boxes and scores: step {step:.3g}, {seen}; "
        "cut the network before its boxes and scores are joined",
        level="error" if blind else "warning",
    )


def stacked(size: tuple[int, int] | None, outputs: Sequence[T]) -> T | None:
    """Return the output that holds all of a detector: boxes and scores of every cell of its grids.

    It is (1, C, N) or (1, N, C), ones aside, with N cells, or 3 N for three anchors per cell. If
    another output has as many rows, boxes and scores are apart, and it is None.
    """
    if size is None:
        return None
    cells = sum(-(-size[0] // s) * -(-size[1] // s) for s in STRIDES)
    rows = {cells, 3 * cells}
    found = [t for t in outputs if rows.intersection(t.shape)]
    if len(found) != 1:
        return None
    columns = [n for n in found[0].shape if n != 1 and n not in rows]
    return found[0] if len(columns) == 1 and columns[0] >= 5 else None
