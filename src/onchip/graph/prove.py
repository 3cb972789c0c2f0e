"""Prove a cut: the cut graph plus our decode must equal the network's own output.

Each hypothesis about the head is held against every reading of the network's output; the one that
our decode reproduces wins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.detections import Floats
from onchip.errors import InputError, UnsupportedError
from onchip.graph.heads import EndLayer, end_layer, end_layers, hypotheses
from onchip.graph.read import Model, cut_at
from onchip.graph.readings import ROWS, Reading, Values, per_level, places, readings
from onchip.graph.run import Runner
from onchip.graph.solve import solve, usual_anchors
from onchip.spec import HeadSpec
from onchip.vision import decode

BOX_TOLERANCE = 0.01  # input pixels
SCORE_TOLERANCE = 1e-4
RAW_TOLERANCE = BOX_TOLERANCE / 32  # of head values, which count cells of up to 32 pixels


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
        limit = RAW_TOLERANCE if self.kind == "raw" else SCORE_TOLERANCE
        return self.box_px <= BOX_TOLERANCE and self.score <= limit

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
        InputError: the network gives NaN or infinite values on every input.
        UnsupportedError: no known head fits; the text says what was seen.
    """
    ends = _named_ends(model, end_nodes) if end_nodes else end_layers(model)
    found: list[tuple[HeadSpec, CutProof]] = []
    whole = Runner((original or model).bytes)
    pairs = _sound(whole, tensors) or _sound(whole, (model.noise(1), model.noise(2)))
    if not pairs:
        raise InputError(
            "the network itself gives NaN or infinite values, on photos and noise alike",
            "the training diverged or the file is damaged: run it in float, export it again",
        )
    inputs, owns = tuple(x for x, _ in pairs), [own for _, own in pairs]
    for head in hypotheses(model, ends):
        solved, proof = _prove(model, head, inputs, owns)
        if proof.passed:
            return Cut(cut_at(model, solved.outputs), solved, proof)
        found.append((solved, proof))
    raise _unknown(model, ends, found)


def _sound(
    whole: Runner, inputs: Sequence[npt.NDArray[np.generic]]
) -> list[tuple[npt.NDArray[np.generic], Values]]:
    """Inputs on which the network gives numbers, with what it gives."""
    pairs = [(x, whole(x)) for x in inputs]
    return [(x, own) for x, own in pairs if all(np.isfinite(v).all() for v in own.values())]


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


@np.errstate(all="ignore")  # what is not finite never passes
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
    best = CutProof(float("inf"), float("inf"), len(inputs), "decoded")
    if not all(_fits(head, ours) for _, ours in runs):
        return head, best
    if any(_is_raw(head, own, ours) for own, ours in runs[:1]):
        worst = max(_raw_difference(head, own, ours) for own, ours in runs)
        return usual_anchors(head), CutProof(0.0, worst, len(inputs), "raw")
    read = [list(readings([own[n] for n in names], head.classes, size)) for own, _ in runs]
    solved = head
    for own in zip(*read, strict=False):  # an output that varies may read in fewer ways
        candidate = solve(head, [ours for _, ours in runs], own, size)
        proof = compare(candidate, [ours for _, ours in runs], own, size)
        if (proof.passed, -proof.box_px - proof.score) > (best.passed, -best.box_px - best.score):
            best, solved = proof, candidate
    return solved, best


def _fits(head: HeadSpec, ours: Values) -> bool:
    """Whether the cut gives, for one picture, all channels of a head on one grid per level."""
    rank = 3 if head.coding in ("query", "xywh") else 4
    for stride in head.strides:
        shapes = [ours[t.name].shape for t in head.level(stride)]
        if any(len(s) != rank or s[0] != 1 or 0 in s for s in shapes):
            return False
        if head.coding == "query":
            shapes = [(1, s[2], s[1]) for s in shapes]
        wide = all(t.stop <= s[1] for t, s in zip(head.level(stride), shapes, strict=True))
        if not wide or len({s[2:] for s in shapes}) != 1:
            return False
    return True


def input_size(model: Model) -> tuple[int, int]:
    """Return the width and height of the network's input."""
    shape = model.inputs[0].shape
    return (shape[2], shape[1]) if shape[3] == 3 else (shape[3], shape[2])


def _is_raw(head: HeadSpec, own: Values, ours: Values) -> bool:
    """Whether the network's outputs hold the head's tensors themselves."""
    return _raw_difference(head, own, ours) <= RAW_TOLERANCE


def _raw_difference(head: HeadSpec, own: Values, ours: Values) -> float:
    """Return how far the closest output is from each head tensor, as it is or after a sigmoid."""
    found = places(head, list(own.values()), ours)
    return max((p.difference for p in found), default=float("inf")) if found else float("inf")


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
        for anchors, name in zip(head.anchors, head.outputs[:: per_level(head)], strict=True):
            cells = int(np.prod(tensors[name].shape[2:]))
            block = np.arange(start, start + cells * len(anchors)).reshape(len(anchors), cells)
            order.append(block.T.ravel())
            start += block.size
        index = np.concatenate(order)
        yield mine[0][index], mine[1][index]


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
    found = [(0.0, 0.0)]
    for row, kinds in zip(*own, strict=True):
        label = int(kinds.argmax())
        if kinds[label] < 1e-6:
            continue
        boxes = np.abs(mine[0] - row).max(axis=1)
        values = np.abs(mine[1][:, label] - kinds[label])
        best = int((boxes + 100 * values).argmin())
        found.append((boxes[best], values[best]))
    box, score = np.asarray(found, np.float32).T
    return _worst(box), _worst(score)
