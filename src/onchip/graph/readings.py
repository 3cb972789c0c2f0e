"""Read a network's own outputs: in every way that their shapes allow.

Outputs are either predictions (boxes and scores, decoded by the network) or the head's tensors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.detections import Floats
from onchip.spec import HeadSpec
from onchip.vision import decode

ROWS = 2000  # at most so many predictions: a selection, not one row per cell

Values = dict[str, npt.NDArray[np.float32]]
Reading = tuple[Floats, Floats]  # boxes (n, 4) as x1, y1, x2, y2 and scores (n, classes)


@dataclass(frozen=True)
class Place:
    """Where a head tensor stands in the network's outputs: which one, turned how, from where."""

    output: int
    turn: int
    row: int
    cell: int
    activated: bool
    difference: float


def places(
    head: HeadSpec, outputs: Sequence[npt.NDArray[np.float32]], ours: Values
) -> tuple[Place, ...] | None:
    """Find each head tensor among the network's outputs, as it is or after a sigmoid.

    None where one of them is not there.
    """
    found = []
    for tensor in head.tensors:
        part = ours[tensor.name]
        if part.ndim != 4:
            return None
        flat = part[0, tensor.start : tensor.stop].reshape(tensor.channels, -1)
        near = [
            Place(index, turn, row, start, activated, difference)
            for activated, wanted in ((False, flat), (True, decode.sigmoid(flat)))
            for index, values in enumerate(outputs)
            for turn, piece in enumerate(_pieces(values))
            for start in _starts(head, ours)
            for row, difference in _nearest(wanted, piece, start)
        ]
        if not near:
            return None
        found.append(min(near, key=lambda p: p.difference))
    return tuple(found)


def gathered(
    head: HeadSpec,
    found: Sequence[Place],
    outputs: Sequence[npt.NDArray[np.float32]],
    like: Values,
) -> Values:
    """Collect the head's tensors from the network's outputs, in the shapes of `like`."""
    tensors = {name: np.zeros_like(values) for name, values in like.items()}
    for tensor, place in zip(head.tensors, found, strict=True):
        piece = list(_pieces(outputs[place.output]))[place.turn]
        cells = int(np.prod(like[tensor.name].shape[2:]))
        block = piece[place.row : place.row + tensor.channels, place.cell : place.cell + cells]
        if place.activated:
            block = decode.logit(block)
        shape = (tensor.channels, *like[tensor.name].shape[2:])
        tensors[tensor.name][0, tensor.start : tensor.stop] = block.reshape(shape)
    return tensors


def _pieces(values: npt.NDArray[np.float32]) -> Iterator[Floats]:
    """An output as `(channels, cells)`, whichever way round it is."""
    if not values.size:
        return
    if values.ndim == 4:
        yield values[0].reshape(values.shape[1], -1)
    elif values.ndim == 3:
        yield values[0]
        yield values[0].T
    elif values.ndim == 5:  # batch, anchors, rows, columns, values
        _, anchors, _, _, width = values.shape
        yield values[0].transpose(0, 3, 1, 2).reshape(anchors * width, -1)


def _starts(head: HeadSpec, ours: Values) -> tuple[int, ...]:
    """Where a level may begin in a list of all cells: after any run of levels before it."""
    firsts = head.outputs[:: per_level(head)]
    cells = [int(np.prod(ours[name].shape[2:])) for name in firsts]
    return (0, *(int(n) for n in np.cumsum(cells[:-1])))


def _nearest(wanted: Floats, piece: Floats, start: int) -> Iterator[tuple[int, float]]:
    """Yield each run of rows of an output that begins like `wanted` at cell `start`: row, error."""
    rows, cells = wanted.shape
    if piece.shape[0] < rows or piece.shape[1] < start + cells:
        return
    first = np.abs(piece[: len(piece) - rows + 1, start] - wanted[0, 0]) < 1e-3
    for row in np.flatnonzero(first):
        block = piece[row : row + rows, start : start + cells]
        yield int(row), float(np.abs(block - wanted).max())


def readings(
    outputs: list[npt.NDArray[np.float32]], classes: int, size: tuple[int, int]
) -> Iterator[Reading]:
    """Read a network's outputs in every way that their shapes allow."""
    if len(outputs) >= 2:
        yield from _pair_readings(outputs, classes, size)
    for values in outputs[:1]:
        if values.ndim != 3 or not len(values):
            continue
        for table in (values[0], values[0].T):
            if table.shape[1] == 4 + classes:
                yield _xyxy(table[:, :4]), table[:, 4:]
                yield _xyxy(table[:, :4]) * _tile(size), table[:, 4:]
                yield table[:, :4], table[:, 4:]
            if table.shape[1] == 5 + classes:
                scores = table[:, 4:5] * table[:, 5:]
                yield _xyxy(table[:, :4]), scores
                yield table[:, :4], scores
            if table.shape[1] == 6 and len(table) <= ROWS:
                scores = _one_hot(table[:, 4], table[:, 5], classes)
                yield table[:, :4], scores
                yield _xyxy(table[:, :4]), scores
                yield _xyxy(table[:, :4]) * _tile(size), scores
                yield table[:, :4] * _tile(size), scores


def _pair_readings(
    outputs: list[npt.NDArray[np.float32]], classes: int, size: tuple[int, int]
) -> Iterator[Reading]:
    """Boxes in one output, scores in another (SSD, DAMO-YOLO, DETR)."""
    for boxes in outputs:
        flat = boxes.reshape(-1, 4) if boxes.shape[-1:] == (4,) else None
        for scores in outputs:
            if flat is None or scores is boxes or scores.ndim != 3 or len(flat) != scores.shape[1]:
                continue
            kinds = scores[0][:, -classes:] if scores.shape[2] in (classes, classes + 1) else None
            if kinds is None:
                continue
            tile = _tile(size)
            for kind in (kinds, decode.sigmoid(kinds)):
                yield flat, kind
                yield flat * tile, kind
                yield _xyxy(flat), kind
                yield _xyxy(flat) * tile, kind
                yield flat[:, [1, 0, 3, 2]] * tile, kind


def _tile(size: tuple[int, int]) -> Floats:
    return np.asarray([*size, *size], np.float32)


def _xyxy(boxes: Floats) -> Floats:
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _one_hot(score: Floats, label: Floats, classes: int) -> Floats:
    found = np.zeros((len(score), classes), np.float32)
    ids = np.clip(np.nan_to_num(np.rint(label)), 0, classes - 1).astype(int)
    found[np.arange(len(score)), ids] = score
    return found


def per_level(head: HeadSpec) -> int:
    """Return how many tensors each level has."""
    return len(head.outputs) // len(head.strides)
