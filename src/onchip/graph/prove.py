"""Prove a cut: the cut graph plus our decode must equal the network's own output.

The network's output is read in every way that its shape allows; the reading that our decode
reproduces wins. Anchors and priors are not searched in the graph: they are solved from what the
graph computes, and the proof then shows that they are right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from onchip.detections import Floats
from onchip.errors import UnsupportedError
from onchip.graph.heads import EndLayer, end_layer, end_layers, hypotheses
from onchip.graph.read import Model, cut_at
from onchip.graph.run import Runner
from onchip.spec import HeadSpec
from onchip.vision import decode

BOX_TOLERANCE = 0.01  # input pixels
SCORE_TOLERANCE = 1e-4
COCO_ANCHORS = (  # width and height in pixels per level, from YOLOv5's published models
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
ROWS = 2000  # at most so many predictions: a selection, not one row per cell

Values = dict[str, npt.NDArray[np.float32]]
Reading = tuple[Floats, Floats]  # boxes (n, 4) as x1, y1, x2, y2 and scores (n, classes)


@dataclass(frozen=True)
class CutProof:
    """How far the cut graph and our decode are from the network's own output.

    `kind` is "decoded" where the network gives boxes itself, "selected" where it gives the few
    best of them, and "raw" where it gives head tensors and only those could be compared.
    """

    box_px: float
    score: float
    images: int
    kind: str

    @property
    def passed(self) -> bool:
        """Whether both figures are inside the tolerance."""
        return self.box_px <= BOX_TOLERANCE and self.score <= SCORE_TOLERANCE

    def describe(self) -> str:
        """One line for people."""
        if self.kind == "raw":
            return f"head tensors equal to {self.score:.1e} on {self.images} images"
        return f"box {self.box_px:.1e} px, score {self.score:.1e} on {self.images} images"


@dataclass(frozen=True)
class Cut:
    """A network cut at its head: the graph that goes to the chip, and how to read its end."""

    model: Model  # up to the end nodes
    head: HeadSpec
    proof: CutProof


def cut(
    model: Model,
    tensors: Sequence[npt.NDArray[np.generic]] = (),
    end_nodes: Sequence[str] = (),
    original: Model | None = None,
) -> Cut:
    """Recognise the head, cut the graph there, and prove it.

    Args:
        model: the cleaned network.
        tensors: inputs of real images to prove it on; noise is used where there are none.
        end_nodes: cut at these nodes instead of the ones found.
        original: the network before cleaning, whose own output the proof is then against.

    Raises:
        UnsupportedError: no known head fits; the text says what was seen.
    """
    inputs = tuple(tensors) or (model.noise(1), model.noise(2))
    ends = _named_ends(model, end_nodes) if end_nodes else end_layers(model)
    found: list[tuple[HeadSpec, CutProof]] = []
    whole = Runner((original or model).bytes)
    owns = [whole(x) for x in inputs]
    for head in hypotheses(model, ends):
        solved, proof = _prove(model, head, inputs, owns)
        if proof.passed:
            return Cut(cut_at(model, solved.outputs), solved, proof)
        found.append((solved, proof))
    raise _unknown(model, ends, found)


def _named_ends(model: Model, names: Sequence[str]) -> tuple[EndLayer, ...]:
    nodes = {n.name: n for n in model.proto.graph.node}
    missing = [n for n in names if n not in nodes]
    if missing:
        near = [n for n in nodes if nodes[n].op_type == "Conv"][-9:]
        raise UnsupportedError(
            f"the graph has no node {', '.join(missing)}",
            f"its last convolutions are {', '.join(near)}",
        )
    return tuple(end_layer(nodes[n], model) for n in names)


def _unknown(
    model: Model, ends: tuple[EndLayer, ...], found: list[tuple[HeadSpec, CutProof]]
) -> UnsupportedError:
    outputs = ", ".join(f"{o.name}{list(model.shapes.get(o.name, o.shape))}" for o in model.outputs)
    seen = "; ".join(e.describe() for e in ends[-12:]) or "no layers"
    tried = "; ".join(f"{h.family}/{h.coding} (off by {p.describe()})" for h, p in found[:4])
    return UnsupportedError(
        f"no head that onchip knows reproduces this model's output. Outputs: {outputs}. "
        f"Last layers: {seen}." + (f" Tried: {tried}." if tried else ""),
        "if these are not the layers where boxes and classes end, name them: "
        "--end-nodes NODE,NODE,... (onchip inspect MODEL lists every node)",
    )


def _prove(
    model: Model,
    head: HeadSpec,
    inputs: Sequence[npt.NDArray[np.generic]],
    owns: Sequence[Values],
) -> tuple[HeadSpec, CutProof]:
    """Solve and prove one hypothesis; `owns` are the network's own outputs for `inputs`."""
    names = tuple(o.name for o in model.outputs)
    part = Runner(cut_at(model, head.outputs).bytes)
    runs = [(own, part(x)) for own, x in zip(owns, inputs, strict=True)]
    size = input_size(model)
    if any(_is_raw(head, own, ours) for own, ours in runs[:1]):
        worst = max(_raw_difference(head, own, ours) for own, ours in runs)
        return _usual_anchors(head), CutProof(0.0, worst, len(inputs), "raw")
    read = [list(readings([own[n] for n in names], head.classes, size)) for own, _ in runs]
    best = CutProof(float("inf"), float("inf"), len(inputs), "decoded")
    solved = head
    for choice in range(len(read[0])):
        own = [r[choice] for r in read]
        candidate = _solve(head, [ours for _, ours in runs], own, size)
        proof = compare(candidate, [ours for _, ours in runs], own, size)
        if (proof.passed, -proof.box_px - proof.score) > (best.passed, -best.box_px - best.score):
            best, solved = proof, candidate
    return solved, best


def input_size(model: Model) -> tuple[int, int]:
    """Return the width and height of the network's input."""
    shape = model.inputs[0].shape
    return (shape[2], shape[1]) if shape[3] == 3 else (shape[3], shape[2])


def _is_raw(head: HeadSpec, own: Values, ours: Values) -> bool:
    """Whether the network's outputs hold the head's tensors themselves."""
    return _raw_difference(head, own, ours) <= SCORE_TOLERANCE


def _raw_difference(head: HeadSpec, own: Values, ours: Values) -> float:
    """Return how far the closest output is from each head tensor, as it is or after a sigmoid."""
    found = places(head, list(own.values()), ours)
    return max((p.difference for p in found), default=float("inf")) if found else float("inf")


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


def _starts(head: HeadSpec, ours: Values) -> tuple[int, ...]:
    """Where a level may begin in a list of all cells: after any run of levels before it."""
    firsts = head.outputs[:: _per_level(head)]
    cells = [int(np.prod(ours[name].shape[2:])) for name in firsts]
    return (0, *(int(n) for n in np.cumsum(cells[:-1])))


def _pieces(values: npt.NDArray[np.float32]) -> Iterator[Floats]:
    """An output as `(channels, cells)`, whichever way round it is."""
    if values.ndim == 4:
        yield values[0].reshape(values.shape[1], -1)
    elif values.ndim == 3:
        yield values[0]
        yield values[0].T
    elif values.ndim == 5:  # batch, anchors, rows, columns, values
        _, anchors, _, _, width = values.shape
        yield values[0].transpose(0, 3, 1, 2).reshape(anchors * width, -1)


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
        if values.ndim != 3:
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
        flat = boxes.reshape(-1, 4) if boxes.shape[-1] == 4 else None
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
    ids = np.clip(np.rint(label), 0, classes - 1).astype(int)
    found[np.arange(len(score)), ids] = score
    return found


def compare(
    head: HeadSpec, ours: Sequence[Values], owns: Sequence[Reading], size: tuple[int, int]
) -> CutProof:
    """Return how far our decode of the cut's tensors is from readings of the network's output."""
    box = score = 0.0
    kind = "decoded"
    for tensors, own in zip(ours, owns, strict=True):
        mine = decode.dense(head, tensors, size)
        differences = (float("inf"), float("inf"))
        if len(own[0]) == len(mine[0]):
            differences = min(_dense_difference(m, own) for m in _orders(head, tensors, mine))
        if sum(differences) > 1 and len(own[0]) <= min(len(mine[0]), ROWS):
            differences, kind = min(differences, _selected_difference(mine, own)), "selected"
        box, score = max(box, differences[0]), max(score, differences[1])
    return CutProof(box, score, len(ours), kind)


def _orders(head: HeadSpec, tensors: Values, mine: Reading) -> Iterator[Reading]:
    """Our predictions anchor by anchor, and cell by cell as some networks list them."""
    yield mine
    if any(len(a) > 1 for a in head.anchors):
        order, start = [], 0
        for anchors, name in zip(head.anchors, head.outputs[:: _per_level(head)], strict=True):
            cells = int(np.prod(tensors[name].shape[2:]))
            block = np.arange(start, start + cells * len(anchors)).reshape(len(anchors), cells)
            order.append(block.T.ravel())
            start += block.size
        index = np.concatenate(order)
        yield mine[0][index], mine[1][index]


def _per_level(head: HeadSpec) -> int:
    return len(head.outputs) // len(head.strides)


def _dense_difference(mine: Reading, own: Reading) -> tuple[float, float]:
    # a cell that sees nothing may code a box of any size: compare those relative to their size
    scale = np.maximum(1.0, np.abs(own[0]).max(axis=1, keepdims=True) / 1000)
    with np.errstate(invalid="ignore", over="ignore"):
        box = np.abs(mine[0] - own[0]) / scale
    return _worst(box), _worst(np.abs(mine[1] - own[1]))


def _worst(values: Floats) -> float:
    worst = float(values.max(initial=0.0))
    return worst if np.isfinite(worst) else float("inf")


def _selected_difference(mine: Reading, own: Reading) -> tuple[float, float]:
    """Each row that the network chose must be one of ours: same class, nearest box and score."""
    box = score = 0.0
    for row, kinds in zip(*own, strict=True):
        label = int(kinds.argmax())
        if kinds[label] < 1e-6:
            continue
        boxes = np.abs(mine[0] - row).max(axis=1)
        values = np.abs(mine[1][:, label] - kinds[label])
        best = int((boxes + 100 * values).argmin())
        box, score = max(box, float(boxes[best])), max(score, float(values[best]))
    return box, score


def _solve(
    head: HeadSpec, ours: Sequence[Values], owns: Sequence[Reading], size: tuple[int, int]
) -> HeadSpec:
    """Fill in anchors (YOLOv5) or priors (SSD) from what the network itself computes."""
    if head.coding == "anchor":
        return _solve_anchors(head, ours[0], owns[0], size)
    if head.coding == "prior":
        for by_cell in (True, False):
            solved = _solve_priors(head, ours, owns, size, by_cell)
            if solved is not None:
                return solved
    return head


def _usual_anchors(head: HeadSpec) -> HeadSpec:
    """Take YOLOv5's own anchors where the network gives raw tensors: they are not in the graph."""
    if head.coding == "anchor" and len(head.anchors) == 3 and len(head.anchors[0]) == 3:
        return replace(head, anchors=COCO_ANCHORS)
    return head


def _solve_anchors(
    head: HeadSpec, tensors: Values, own: Reading, size: tuple[int, int]
) -> HeadSpec:
    parts = list(decode.levels(head, tensors, size))
    if sum(p.box.shape[1] for p in parts) != len(own[0]):
        return head
    anchors, start = [], 0
    for part in parts:
        cells = part.box.shape[1]
        boxes = own[0][start : start + cells]
        wh = (boxes[:, 2:] - boxes[:, :2]).T
        ratio = wh / (2 * decode.sigmoid(part.box[2:])) ** 2
        anchors.append(tuple(float(v) for v in _tidy(np.median(ratio, axis=1))))
        start += cells
    count = len(head.anchors[0])
    grouped = [tuple(anchors[i : i + count]) for i in range(0, len(anchors), count)]
    return replace(head, anchors=tuple(grouped))


def _tidy(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Anchors are short decimals: take the nearest if it is within rounding."""
    near = np.round(values * 32) / 32
    return np.where(np.abs(near - values) < 1e-3, near, values)


def _solve_priors(
    head: HeadSpec,
    ours: Sequence[Values],
    owns: Sequence[Reading],
    size: tuple[int, int],
    by_cell: bool,
) -> HeadSpec | None:
    """Fit, per anchor, centre = step * cell + v * prior * t and log size = log prior + v * t.

    The variances v are one for all anchors: they come from the first, which has the most cells.
    """
    runs = [list(decode.levels(head, tensors, size)) for tensors in ours]
    counts = [p.box.shape[1] for p in runs[0]]
    if sum(counts) != len(owns[0][0]):
        return None
    index = _prior_index(head, counts, by_cell)
    priors: list[tuple[float, float]] = []
    strides: dict[float, float] = {}
    variances: npt.NDArray[np.float64] | None = None
    pick = [0, 1, 2, 3] if head.order == "xywh" else [1, 0, 3, 2]
    for number, part in enumerate(runs[0]):
        rows, columns = np.divmod(np.arange(counts[number]), part.columns)
        grid = np.tile(np.stack([columns, rows]) + head.offset, len(runs))
        raw = np.concatenate([r[number].box[pick] for r in runs], axis=1).astype(np.float64)
        boxes = np.concatenate([o[0][index[number]] for o in owns]).astype(np.float64)
        center, wh = (boxes[:, :2] + boxes[:, 2:]).T / 2, (boxes[:, 2:] - boxes[:, :2]).T
        if (wh <= 0).any():
            return None
        if variances is None:
            variances = _variances(raw, grid, center, np.log(wh))
        prior = np.exp((np.log(wh) - variances[2:, None] * raw[2:]).mean(axis=1))
        left = center - variances[:2, None] * prior[:, None] * raw[:2]
        strides[part.stride] = float(_tidy(np.asarray(_fit(grid[:1], left[0])[0])))
        priors.append((float(prior[0]), float(prior[1])))
    assert variances is not None
    grouped, start = [], 0
    for anchors in head.anchors:
        grouped.append(tuple(priors[start : start + len(anchors)]))
        start += len(anchors)
    return replace(
        head,
        anchors=tuple(grouped),
        variances=tuple(float(v) for v in variances),
        tensors=tuple(replace(t, stride=strides[t.stride]) for t in head.tensors),
    )


def _variances(
    raw: npt.NDArray[np.float64],
    grid: npt.NDArray[np.floating],
    center: npt.NDArray[np.float64],
    log_size: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    sizes = [_fit(np.stack([raw[2 + k], np.ones_like(raw[0])]), log_size[k]) for k in (0, 1)]
    steps = [_fit(np.stack([raw[k], grid[k]]), center[k]) for k in (0, 1)]
    places = [step[0] / np.exp(fit[1]) for step, fit in zip(steps, sizes, strict=True)]
    return np.round([*places, *(fit[0] for fit in sizes)], 4)


def _fit(columns: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> list[float]:
    found = np.linalg.lstsq(columns.T, target, rcond=None)[0]
    return [float(v) for v in found]


def _prior_index(head: HeadSpec, counts: list[int], by_cell: bool) -> list[npt.NDArray[np.int64]]:
    """Where each anchor's cells stand in the network's list of predictions."""
    index, start, at = [], 0, 0
    for anchors in head.anchors:
        many, cells = len(anchors), counts[at]
        for number in range(many):
            steps = np.arange(cells)
            index.append(start + (steps * many + number if by_cell else number * cells + steps))
        start += many * cells
        at += many
    return index
