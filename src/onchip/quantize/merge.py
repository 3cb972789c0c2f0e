"""Convolutions of few rows that read one tensor become one, whose codes are divided.

A runtime gathers the patches that a convolution reads for each convolution anew, and for a few rows
that is most of the work: the parts of a range split take as long each as the whole did. Codes have
no scale of their own, so that one convolution can write those of all parts: row by row its weights'
scale is times `s / s_part`, and its bias higher by what the zero points differ. Then
`round(sum * step * w * (s / s_part) / s) + z` is the part's own code, but for a sum on the border
between two codes, since the bias moves by whole steps of the sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from onchip.quantize.emit import dequantized, drop_unused

FEW = 16  # rows of a part

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Part:
    """A convolution of integers, and the node that rounds what it makes."""

    conv: onnx.NodeProto
    rounds: onnx.NodeProto
    weights: onnx.NodeProto
    bias: onnx.NodeProto


class _Graph:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {o.name: [] for o in graph.output}
        self.shown = set(self.readers)
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def part(self, node: onnx.NodeProto) -> _Part | None:
        """Return a convolution as a part, if it can be one."""
        if node.op_type != "Conv" or len(node.input) != 3 or node.output[0] in self.shown:
            return None
        weights, bias = (self.makers.get(name) for name in node.input[1:])
        rounds = self.readers[node.output[0]]
        if weights is None or bias is None or len(rounds) != 1:
            return None
        if rounds[0].op_type != "QuantizeLinear" or rounds[0].domain:  # 16 bits are not divided
            return None
        codes = self.constants.get(weights.input[0])
        if codes is None or len(codes) >= FEW or codes[0, 0].size == 1 or _grouped(node):
            return None
        return _Part(node, rounds[0], weights, bias)

    def rows(self, part: _Part, first: _Part) -> tuple[Array, Floats, Floats, Floats]:
        """Return codes, scales, biases and their steps, rounded as the first part is."""
        codes, scales = (self.constants[name] for name in part.weights.input[:2])
        biases, steps = (self.constants[name].astype(np.float64) for name in part.bias.input[:2])
        scale, zero = (float(self.constants[name]) for name in first.rounds.input[1:])
        own, own_zero = (float(self.constants[name]) for name in part.rounds.input[1:])
        shift = np.round((own_zero - zero) * own / steps)
        ratio = scale / own
        return codes, scales.astype(np.float64) * ratio, biases + shift, steps * ratio


def merged(qdq: bytes) -> bytes:
    """Return a QDQ graph with such convolutions merged."""
    proto = onnx.ModelProto.FromString(qdq)
    graph = proto.graph
    known = _Graph(graph)
    alike: dict[tuple[object, ...], list[_Part]] = {}
    for node in graph.node:
        if (part := known.part(node)) is not None:
            shape = known.constants[part.weights.input[0]].shape[1:]
            traits = sorted(a.SerializeToString() for a in node.attribute)
            kind = known.constants[part.rounds.input[2]].dtype
            alike.setdefault((node.input[0], shape, *traits, kind), []).append(part)
    for parts in alike.values():
        if len(parts) > 1:
            _merge(graph, known, parts)
    drop_unused(graph)
    return proto.SerializeToString()


def _merge(graph: onnx.GraphProto, known: _Graph, parts: Sequence[_Part]) -> None:
    rows = [known.rows(part, parts[0]) for part in parts]
    codes, scales, biases, steps = (np.concatenate(column) for column in zip(*rows, strict=True))
    if np.abs(biases).max() >= 2**31:
        return
    first = parts[0].conv
    name = f"{first.name}/merged"
    weights, constants = dequantized(f"{name}/weight", codes, scales.astype(np.float32))
    bias, more = dequantized(f"{name}/bias", biases.astype(np.int32), steps.astype(np.float32))
    sizes = numpy_helper.from_array(np.array([len(r[0]) for r in rows], np.int64), f"{name}/sizes")
    graph.initializer.extend([*constants, *more, sizes])
    conv, rounds = onnx.NodeProto(), onnx.NodeProto()
    conv.CopyFrom(first)
    conv.name = name
    conv.input[1:] = [weights.output[0], bias.output[0]]
    conv.output[0] = f"{name}/float"
    rounds.CopyFrom(parts[0].rounds)
    rounds.name = f"{name}/quantize"
    rounds.input[0], rounds.output[0] = conv.output[0], f"{name}/codes"
    inputs, divided = [rounds.output[0], sizes.name], [p.rounds.output[0] for p in parts]
    split = helper.make_node("Split", inputs, divided, f"{name}/split", axis=1)
    gone = {n.output[0] for p in parts for n in (p.conv, p.rounds, p.weights, p.bias)}
    place = min(i for i, node in enumerate(graph.node) if node.output[0] in gone)
    kept = [node for node in graph.node if node.output[0] not in gone]
    del graph.node[:]
    graph.node.extend([*kept[:place], weights, bias, conv, rounds, split, *kept[place:]])


def _grouped(node: onnx.NodeProto) -> bool:
    return any(a.name == "group" and a.i != 1 for a in node.attribute)
