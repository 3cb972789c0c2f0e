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

FEW = 16  # rows of a part

Array = npt.NDArray[np.generic]


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
        if weights is None or bias is None or [r.op_type for r in rounds] != ["QuantizeLinear"]:
            return None
        codes = self.constants.get(weights.input[0])
        if codes is None or len(codes) >= FEW or codes[0, 0].size == 1 or _grouped(node):
            return None
        return _Part(node, rounds[0], weights, bias)

    def values(self, node: onnx.NodeProto) -> tuple[Array, Array, Array]:
        """Return the constants that a node dequantizes or rounds by: codes or none, scale, zero."""
        found = [self.constants.get(name, np.zeros(0)) for name in node.input]
        return found[0], found[1], found[2]


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
    return proto.SerializeToString()


def _merge(graph: onnx.GraphProto, known: _Graph, parts: Sequence[_Part]) -> None:
    first = parts[0]
    _, scale, zero = known.values(first.rounds)
    codes, scales, biases, steps = [], [], [], []
    for part in parts:
        values, weight_scales, _ = known.values(part.weights)
        bias, bias_scales, _ = known.values(part.bias)
        _, own, own_zero = known.values(part.rounds)
        ratio = float(scale) / float(own)
        shift = (float(own_zero) - float(zero)) * float(own) / bias_scales.astype(np.float64)
        codes.append(values)
        scales.append(weight_scales.astype(np.float64) * ratio)
        biases.append(bias.astype(np.float64) + np.round(shift))
        steps.append(bias_scales.astype(np.float64) * ratio)
    if max(np.abs(b).max() for b in biases) >= 2**31:
        return
    name = f"{first.conv.name}/merged"
    made = {
        f"{name}/weight": (np.concatenate(codes), np.concatenate(scales)),
        f"{name}/bias": (np.concatenate(biases).astype(np.int32), np.concatenate(steps)),
    }
    nodes = []
    for target, (values, by_row) in made.items():
        inputs = [f"{target}/{part}" for part in ("codes", "scale", "zero")]
        arrays = (values, by_row.astype(np.float32), np.zeros(len(by_row), values.dtype))
        graph.initializer.extend(map(numpy_helper.from_array, arrays, inputs))
        nodes.append(helper.make_node("DequantizeLinear", inputs, [target], target, axis=0))
    conv = onnx.NodeProto()
    conv.CopyFrom(first.conv)
    conv.name = name
    conv.input[1:] = list(made)
    conv.output[0] = f"{name}/float"
    rounds = helper.make_node(
        "QuantizeLinear", [conv.output[0], *first.rounds.input[1:]], [f"{name}/codes"], f"{name}/q"
    )
    sizes = np.array([len(c) for c in codes], np.int64)
    graph.initializer.append(numpy_helper.from_array(sizes, f"{name}/sizes"))
    divided = [part.rounds.output[0] for part in parts]
    split = helper.make_node("Split", [f"{name}/codes", f"{name}/sizes"], divided, f"{name}/split")
    split.attribute.append(helper.make_attribute("axis", 1))
    gone = {n.output[0] for p in parts for n in (p.conv, p.rounds, p.weights, p.bias)}
    place = min(i for i, node in enumerate(graph.node) if node.output[0] in gone)
    kept = [node for node in graph.node if node.output[0] not in gone]
    del graph.node[:]
    graph.node.extend([*kept[:place], *nodes, conv, rounds, split, *kept[place:]])


def _grouped(node: onnx.NodeProto) -> bool:
    return any(a.name == "group" and a.i != 1 for a in node.attribute)
