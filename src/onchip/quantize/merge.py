"""Convolutions of few rows, the parts of a range split, become one whose codes are divided.

A runtime gathers the patches that a convolution reads for each convolution anew, and works on
sixteen rows at a time: the parts take as long each as the whole did. Codes have no scale of their
own, so that one convolution can read and write those of all parts: row by row its weights' scale is
times `x_part / x * y / y_part`, and its bias higher by what the zero points differ. Then
`round(sum * step * w * (y / y_part) / y) + z` is the part's own code, but for a sum on the border
between two codes, since the bias moves by whole steps of the sum. Parts that read different codes
are joined first; where their zero points differ, the codes are padded before, each with its own.

ONNX Runtime keeps the channels of a pixel side by side, for its convolutions, and turns tensors as
seldom as it can: it would divide and join codes pixel by pixel, a few bytes each, which takes more
time than turning them. It turns nothing across a Reshape, even one that changes no shape.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from onchip.graph.clean import in_order
from onchip.graph.read import groups_of, is_depthwise
from onchip.quantize.emit import dequantized, drop_unused
from onchip.quantize.range_split import SINGLE

FEW = 16  # rows of a part; where all have so many, nothing is won

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Part:
    """A convolution of integers, the nodes that make its values, and the one that rounds them."""

    conv: onnx.NodeProto
    reads: onnx.NodeProto
    weights: onnx.NodeProto
    bias: onnx.NodeProto
    rounds: onnx.NodeProto


class _Graph:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {o.name: [] for o in graph.output}
        self.shown = set(self.readers)
        self.origins: dict[str, Hashable] = {}
        numbers: dict[Hashable, int] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            if (origin := self.origin(node)) is not None:
                self.origins[node.output[0]] = numbers.setdefault(origin, len(numbers))

    def part(self, node: onnx.NodeProto) -> _Part | None:
        """Return a convolution as a part, if it can be one."""
        if node.op_type != "Conv" or len(node.input) != 3 or node.output[0] in self.shown:
            return None
        reads, weights, bias = (self.makers.get(name) for name in node.input)
        rounds = self.readers[node.output[0]]
        if reads is None or weights is None or bias is None or len(rounds) != 1:
            return None
        if reads.op_type != "DequantizeLinear" or rounds[0].op_type != "QuantizeLinear":
            return None
        if reads.domain or rounds[0].domain:  # 16 bits are not divided
            return None
        codes = self.codes(node)
        if codes is None or len(codes) > FEW:
            return None
        if groups_of(node) != 1 and not _depthwise(node, codes):
            return None
        return _Part(node, reads, weights, bias, rounds[0])

    def codes(self, conv: onnx.NodeProto) -> Array | None:
        """Return the weights of a convolution, where they are codes."""
        weights = self.makers.get(conv.input[1])
        return self.constants.get(weights.input[0]) if weights is not None else None

    def kind(self, part: _Part) -> Hashable:
        """Return what is the same for parts of one whole, and for those alone."""
        kinds = [self.constants[node.input[2]].dtype for node in (part.reads, part.rounds)]
        return (self.origins[part.conv.output[0]], *kinds)

    def origin(self, node: onnx.NodeProto) -> Hashable | None:
        """Return what makes a tensor of which other, whichever channels it has, where known."""
        sources = [self.origins.get(name, name) for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return sources[0]
        traits = sorted(a.SerializeToString() for a in node.attribute if a.name != "group")
        if node.op_type == "Conv":
            codes = self.codes(node)
            if codes is not None and groups_of(node) == 1:
                return ("Conv", node.input[0], *codes.shape[1:], *traits)
            if codes is not None and _depthwise(node, codes):
                return ("Conv", sources[0], *codes.shape[2:], *traits)
        elif node.op_type in SINGLE or node.op_type == "Mul":
            return (node.op_type, *traits, *sources)
        return None

    def step(self, node: onnx.NodeProto) -> tuple[float, int]:
        """Return the scale and zero point that a node rounds by, or reads codes by."""
        scale, zero = (self.constants[name] for name in node.input[1:])
        return float(scale), int(zero)

    def rows(self, part: _Part, first: _Part) -> tuple[Array, Floats, Floats, Floats]:
        """Return codes, scales, biases and their steps, as of what the first reads and makes."""
        codes, scales = (self.constants[name] for name in part.weights.input[:2])
        biases, steps = (self.constants[name].astype(np.float64) for name in part.bias.input[:2])
        (read, read_zero), (made, made_zero) = self.step(first.reads), self.step(first.rounds)
        (own_read, own_read_zero), (own, own_zero) = self.step(part.reads), self.step(part.rounds)
        sums = codes.reshape(len(codes), -1).sum(axis=1, dtype=np.float64)
        shift = np.round((own_zero - made_zero) * own / steps) + (read_zero - own_read_zero) * sums
        ratio = made / own
        scales = scales.astype(np.float64) * ratio * own_read / read
        return codes, scales, biases + shift, steps * ratio


def merged(qdq: bytes) -> bytes:
    """Return a QDQ graph with such convolutions merged."""
    proto = onnx.ModelProto.FromString(qdq)
    graph = proto.graph
    known = _Graph(graph)
    alike: dict[Hashable, list[_Part]] = {}
    for node in graph.node:
        if (part := known.part(node)) is not None:
            alike.setdefault(known.kind(part), []).append(part)
    whole = [_whole(graph, known, parts) for parts in alike.values() if len(parts) > 1]
    if any(whole):
        in_order(proto, onnx.ModelProto.FromString(qdq))
    drop_unused(graph)
    return proto.SerializeToString()


def _whole(graph: onnx.GraphProto, known: _Graph, parts: Sequence[_Part]) -> bool:
    """Put one convolution in the place of several, where that is quicker and within 32 bits."""
    rows = [known.rows(part, parts[0]) for part in parts]
    codes, scales, biases, steps = (np.concatenate(column) for column in zip(*rows, strict=True))
    if len(codes) == FEW * len(parts) or np.abs(biases).max() >= 2**31:
        return False
    first = parts[0]
    name = f"{first.conv.name}/merged"
    weights, constants = dequantized(f"{name}/weight", codes, scales.astype(np.float32))
    bias, more = dequantized(f"{name}/bias", biases.astype(np.int32), steps.astype(np.float32))
    sizes = numpy_helper.from_array(np.array([len(r[0]) for r in rows], np.int64), f"{name}/sizes")
    graph.initializer.extend([*constants, *more, sizes])
    conv, rounds = onnx.NodeProto(), onnx.NodeProto()
    conv.CopyFrom(first.conv)
    conv.name = name
    conv.input[1:] = [weights.output[0], bias.output[0]]
    conv.output[0] = f"{name}/float"
    joins = _joined(graph, known, parts, conv) if groups_of(conv) != 1 else []
    rounds.CopyFrom(first.rounds)
    rounds.name = f"{name}/quantize"
    rounds.input[0], rounds.output[0] = conv.output[0], f"{name}/codes"
    planes = _in_planes(graph, rounds.output[0], f"{name}/planes", codes.ndim)
    divided = [part.rounds.output[0] for part in parts]
    inputs = [planes.output[0], sizes.name]
    split = helper.make_node("Split", inputs, divided, f"{name}/split", axis=1)
    gone = {n.output[0] for p in parts for n in (p.conv, p.rounds, p.weights, p.bias)}
    gone |= {p.reads.output[0] for p in parts if joins and len(known.readers[p.conv.input[0]]) == 1}
    kept = [node for node in graph.node if node.output[0] not in gone]
    del graph.node[:]
    graph.node.extend([*kept, weights, bias, *joins, conv, rounds, planes, split])
    return True


def _joined(
    graph: onnx.GraphProto, known: _Graph, parts: Sequence[_Part], conv: onnx.NodeProto
) -> list[onnx.NodeProto]:
    """Let a depthwise convolution read the codes of all parts, and return what joins those."""
    name, codes, nodes = conv.name, [part.reads.input[0] for part in parts], []
    fields = {a.name: a for a in conv.attribute}
    pads = fields["pads"].ints if "pads" in fields else []
    if any(pads) and len({known.step(part.reads)[1] for part in parts}) > 1:
        half = len(pads) // 2
        widths = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
        graph.initializer.append(numpy_helper.from_array(widths, f"{name}/pads"))
        fields["pads"].ints[:] = [0] * len(pads)
        padded = [f"{name}/padded/{number}" for number in range(len(parts))]
        for own, part, made in zip(codes, parts, padded, strict=True):
            inputs = [own, f"{name}/pads", part.reads.input[2]]
            nodes.append(helper.make_node("Pad", inputs, [made], f"{made}/pad"))
        codes = padded
    axes = known.constants[parts[0].weights.input[0]].ndim
    join = helper.make_node("Concat", codes, [f"{name}/joined"], f"{name}/join", axis=1)
    planes = _in_planes(graph, join.output[0], f"{name}/joined/planes", axes)
    reads = onnx.NodeProto()
    reads.CopyFrom(parts[0].reads)
    reads.name = f"{name}/dequantize"
    reads.input[0], reads.output[0] = planes.output[0], f"{name}/values"
    conv.input[0] = reads.output[0]
    fields["group"].i = sum(groups_of(part.conv) for part in parts)
    return [*nodes, join, planes, reads]


def _in_planes(graph: onnx.GraphProto, x: str, made: str, axes: int) -> onnx.NodeProto:
    """Return a Reshape to the same shape."""
    shape = numpy_helper.from_array(np.array([0] * (axes - 1) + [-1], np.int64), f"{made}/shape")
    graph.initializer.append(shape)
    return helper.make_node("Reshape", [x, shape.name], [made], f"{made}/reshape")


def _depthwise(node: onnx.NodeProto, codes: Array) -> bool:
    """Whether each row reads one channel, and what is padded is written down."""
    return is_depthwise(node, codes.shape) and all(
        a.s == b"NOTSET" for a in node.attribute if a.name == "auto_pad"
    )
