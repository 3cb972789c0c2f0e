"""The decode of a head as ONNX operations, for who wants boxes out of the file itself.

They follow a graph's end and stay in float: one table `(1, 4 + classes, n)` of centre x, centre y,
width and height in input pixels, and a score for each class. What they compute is what
`vision/decode.py` does; the tests hold one against the other.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onchip.detections import Floats
from onchip.errors import UnsupportedError
from onchip.graph.read import Model
from onchip.spec import Coding, HeadSpec, HeadTensor, InputSpec, Role
from onchip.vision import decode

Constant = npt.NDArray[np.generic] | np.generic

NAME = "decoded"  # the output; what is added is named after it


class _Graph:
    """Adds operations to a graph; an array as an input becomes a constant."""

    def __init__(self, graph: onnx.GraphProto, name: str = NAME) -> None:
        self._graph, self._prefix = graph, name
        self._count = 0

    def __call__(self, op: str, *inputs: str | Constant, **fields: object) -> str:
        name = self._name(op)
        names = [x if isinstance(x, str) else self._constant(np.asarray(x)) for x in inputs]
        self._graph.node.append(helper.make_node(op, names, [name], name, **fields))
        return name

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{self._prefix}/{what}_{self._count}"

    def _constant(self, value: npt.NDArray[np.generic]) -> str:
        name = self._name("constant")
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self("Reshape", x, np.asarray(shape, np.int64))

    def part(self, x: str, start: int, stop: int) -> str:
        limits = (np.asarray([v], np.int64) for v in (start, stop, 1))
        return self("Slice", x, *limits)

    def rows(self, x: str, indices: "list[int]") -> str:
        return self("Gather", x, np.asarray(indices, np.int64), axis=1)

    def sigmoid(self, x: str, done: bool) -> str:
        return x if done else self("Sigmoid", x)


def decoded(proto: onnx.ModelProto, model: Model, head: HeadSpec, spec: InputSpec) -> None:
    """Have a graph end in one table of boxes and scores instead of its head's tensors.

    Args:
        proto: the graph, which is changed; its outputs have the names of the head's tensors.
        model: the cut graph, which knows their shapes.
        head: how to read them.
        spec: the network's input.
    """
    graph = _Graph(proto.graph)
    tables = [
        _table(graph, level, _parts(graph, model, head, number))
        for number, level in enumerate(_levels(model, head, spec))
    ]
    graph("Concat", *tables, axis=2)
    proto.graph.node[-1].output[0] = NAME
    del proto.graph.output[:]
    shape = (1, 4 + head.classes, _count(model, head, spec))
    proto.graph.output.append(helper.make_tensor_value_info(NAME, TensorProto.FLOAT, shape))


def table(head: HeadSpec) -> HeadSpec:
    """Return how the end of such a graph reads."""
    parts: list[tuple[Role, int, int]] = [("box", 0, 4), ("class", 4, 4 + head.classes)]
    return HeadSpec(
        family=head.family,
        coding="xywh",
        scoring="class",
        labels=head.labels,
        tensors=tuple(
            HeadTensor(name=NAME, node=NAME, role=role, stride=1.0, start=a, stop=b, activated=True)
            for role, a, b in parts
        ),
    )


def refuse_short(model: Model, head: HeadSpec, spec: InputSpec) -> None:
    """Refuse a table that Frigate would read the wrong way round.

    It takes the longer side for the boxes, whichever that is.

    Raises:
        UnsupportedError: there are no more boxes than numbers for each.
    """
    boxes, numbers = _count(model, head, spec), 4 + head.classes
    if boxes <= numbers:
        raise UnsupportedError(
            f"the network gives {boxes} boxes of {numbers} numbers each, and Frigate, which takes "
            "the longer side for the boxes, would read them the wrong way round",
            "export it for a larger input (imgsz), or with fewer classes",
        )


def taking_bytes(proto: onnx.ModelProto, spec: InputSpec) -> None:
    """Have a graph take the pixels themselves, and do mean and std by itself."""
    graph = proto.graph
    kind = graph.input[0].type.tensor_type
    if kind.elem_type == TensorProto.UINT8:
        return
    name, values = graph.input[0].name, f"{NAME}/input"
    for node in graph.node:
        for index, read in enumerate(node.input):
            node.input[index] = values if read == name else read
    kind.elem_type = TensorProto.UINT8
    begin = onnx.GraphProto()
    add = _Graph(begin, values)
    mean, std = (np.asarray(v, np.float32).reshape(1, 3, 1, 1) for v in (spec.mean, spec.std))
    add("Div", add("Sub", add("Cast", name, to=TensorProto.FLOAT), mean), std)
    begin.node[-1].output[0] = values
    nodes = [*begin.node, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(begin.initializer)


def _levels(model: Model, head: HeadSpec, spec: InputSpec) -> list[decode.Level]:
    """The levels, anchor by anchor, as the decoder has them; nothing is in their tensors."""
    empty: dict[str, Floats] = {n: np.zeros(model.shapes[n], np.float32) for n in head.outputs}
    return list(decode.levels(head, empty, (spec.width, spec.height)))


def _count(model: Model, head: HeadSpec, spec: InputSpec) -> int:
    return sum(level.box.shape[1] for level in _levels(model, head, spec))


def _parts(graph: _Graph, model: Model, head: HeadSpec, number: int) -> dict[str, str]:
    """One level's tensors (of one anchor), `(1, channels, rows, columns)`, by what they are.

    They stay maps: an NPU has no room in its registers for rows of ten thousand cells.
    """
    places = [(s, n) for i, s in enumerate(head.strides) for n in range(_anchors(head, i))]
    stride, anchor = places[number]
    found = {}
    for tensor in head.level(stride):
        name = tensor.name
        if head.coding == "query":
            name = graph("Transpose", name, perm=[0, 2, 1])
        size = tensor.channels // _anchors(head, head.strides.index(stride))
        start = tensor.start + anchor * size
        limits: dict[str, tuple[int, int]] = {tensor.role: (0, size)}
        if tensor.role == "all":
            limits = {"box": (0, 4), "object": (4, 5), "class": (5, size)}
        for role, (first, last) in limits.items():
            found[role] = graph.part(name, start + first, start + last)
    return found


def _anchors(head: HeadSpec, index: int) -> int:
    return len(head.anchors[index]) if head.anchors else 1


def _table(graph: _Graph, level: decode.Level, parts: dict[str, str]) -> str:
    boxes = CODINGS[level.head.coding](graph, parts["box"], level)
    both = graph("Concat", boxes, _scores(graph, level, parts), axis=1)
    return graph.reshape(both, 1, 4 + level.head.classes, level.box.shape[1])


def _scores(graph: _Graph, level: decode.Level, parts: dict[str, str]) -> str:
    """The score of each class, between 0 and 1."""
    raw, head = parts["class"], level.head
    kept = [n for n in range(head.classes + 1) if n != head.background]
    if head.scoring == "softmax":
        return graph.rows(graph("Softmax", raw, axis=1), kept)
    if head.background >= 0:
        raw = graph.rows(raw, kept)
    unit = graph.sigmoid(raw, level.activated)
    if "object" in parts:
        unit = graph("Mul", unit, graph.sigmoid(parts["object"], level.activated))
    return unit


def _points(level: decode.Level, shift: float = 0.0) -> Floats:
    """Where each cell's point lies in input pixels, `(1, 2, rows, columns)`."""
    cells = np.arange(level.box.shape[1])
    points = decode.gather([level], [cells]).points + np.float32(shift)
    return (points * np.float32(level.stride)).reshape(1, 2, -1, level.columns)


def _pair(values: tuple[float, float]) -> Floats:
    """One value for x and one for y."""
    return np.asarray(values, np.float32).reshape(1, 2, 1, 1)


def _dfl(graph: _Graph, raw: str, level: decode.Level) -> str:
    bins, grid = level.box.shape[0] // 4, (level.box.shape[1] // level.columns, level.columns)
    weights = graph("Softmax", graph.reshape(raw, 4, bins, *grid), axis=1)
    steps = np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1)
    axes = np.asarray([1], np.int64)
    means = graph("ReduceSum", graph("Mul", weights, steps), axes, keepdims=1)
    return _ltrb(graph, graph.reshape(means, 1, 4, *grid), level)


def _ltrb(graph: _Graph, raw: str, level: decode.Level) -> str:
    before, after = graph.part(raw, 0, 2), graph.part(raw, 2, 4)
    center = graph("Mul", graph("Sub", after, before), np.float32(level.stride / 2))
    center = graph("Add", center, _points(level))
    size = graph("Mul", graph("Add", after, before), np.float32(level.stride))
    return graph("Concat", center, size, axis=1)


def _exp(graph: _Graph, raw: str, level: decode.Level) -> str:
    center = graph("Mul", graph.part(raw, 0, 2), np.float32(level.stride))
    center = graph("Add", center, _points(level))
    size = graph("Mul", graph("Exp", graph.part(raw, 2, 4)), np.float32(level.stride))
    return graph("Concat", center, size, axis=1)


def _anchor(graph: _Graph, raw: str, level: decode.Level) -> str:
    unit, (width, height) = graph.sigmoid(raw, level.activated), level.anchor
    center = graph("Mul", graph.part(unit, 0, 2), np.float32(2 * level.stride))
    center = graph("Add", center, _points(level, -0.5))
    side = graph.part(unit, 2, 4)
    size = graph("Mul", graph("Mul", side, side), _pair((4 * width, 4 * height)))
    return graph("Concat", center, size, axis=1)


def _prior(graph: _Graph, raw: str, level: decode.Level) -> str:
    vx, vy, vw, vh = level.head.variances
    width, height = level.anchor
    if level.head.order == "yxhw":
        raw = graph.rows(raw, [1, 0, 3, 2])
    center = graph("Mul", graph.part(raw, 0, 2), _pair((vx * width, vy * height)))
    center = graph("Add", center, _points(level))
    size = graph("Exp", graph("Mul", graph.part(raw, 2, 4), _pair((vw, vh))))
    return graph("Concat", center, graph("Mul", size, _pair(level.anchor)), axis=1)


def _query(graph: _Graph, raw: str, level: decode.Level) -> str:
    size = np.asarray([*level.size, *level.size], np.float32).reshape(1, 4, 1)
    return graph("Mul", graph.sigmoid(raw, level.activated), size)


def _xywh(graph: _Graph, raw: str, level: decode.Level) -> str:
    return raw


# the same as decode.CODINGS: each takes a level's numbers for boxes and gives centre and size
CODINGS: dict[Coding, Callable[[_Graph, str, decode.Level], str]] = {
    "dfl": _dfl,
    "ltrb": _ltrb,
    "exp": _exp,
    "anchor": _anchor,
    "prior": _prior,
    "query": _query,
    "xywh": _xywh,
}
