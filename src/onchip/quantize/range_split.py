"""Give the channels of one tensor several scales, on chips that have one scale for each tensor.

Where what reads a tensor works on each channel alone (an activation, a depthwise convolution, a
pooling, a resize), up to the next dense convolution, the channels can be sorted by their range and
cut into parts. The layer that makes the tensor becomes one layer for each part, and so does all
that follows; at the end the parts are joined, and the dense convolution's weights are put into the
new order. The network computes what it did before, but each part has a scale of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from onchip.graph.read import Model, groups_of, is_depthwise

SINGLE = frozenset(
    {"Sigmoid", "Relu", "LeakyRelu", "HardSwish", "Clip", "Tanh", "MaxPool", "AveragePool"}
    | {"Resize", "Identity"}
)

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chain:
    """A layer and what follows it channel by channel, up to dense convolutions.

    `ends` are the tensors that those read, `readers` the convolutions. `inner` are all others: the
    tensors that a split gives finer scales.
    """

    node: str
    members: tuple[str, ...]  # names of the nodes, the layer's first, in the graph's order
    inner: tuple[str, ...]
    ends: tuple[str, ...]
    readers: tuple[str, ...]


def chains(model: Model) -> list[Chain]:
    """Find every layer that can be split."""
    nodes = [
        (node, [n for n in node.input if n and n not in model.constants])
        for node in model.proto.graph.node
    ]
    found = (_chain(n, model, nodes) for n, _ in nodes if _is_conv(n, model))
    return [c for c in found if c is not None]


def _is_conv(node: onnx.NodeProto, model: Model) -> bool:
    return node.op_type == "Conv" and all(n in model.constants for n in node.input[1:] if n)


def _chain(
    layer: onnx.NodeProto, model: Model, nodes: Sequence[tuple[onnx.NodeProto, list[str]]]
) -> Chain | None:
    """Follow a dense layer's channels until something mixes them; each node comes with its data."""
    if groups_of(layer) != 1:
        return None
    outputs = {o.name for o in model.outputs}
    inside, members = {layer.output[0]}, {layer.name}
    readers: dict[str, str] = {}
    for node, data in nodes:
        if node.name in members or inside.isdisjoint(data):
            continue
        if not inside.issuperset(data):
            return None
        if _is_single(node, model):
            members.add(node.name)
            inside.update(node.output)
        elif _is_conv(node, model) and groups_of(node) == 1:
            readers[node.name] = node.input[0]
        else:
            return None
    inner = inside - {*readers.values()}
    deep = any(model.producers[o].op_type == "Conv" for o in inside - {layer.output[0]})
    if inside & outputs or not readers or not deep:
        return None  # without a second layer only the first's own raw result would gain
    ordered = tuple(n.name for n in model.proto.graph.node if n.name in members)
    ends = tuple(dict.fromkeys(readers.values()))
    return Chain(layer.name, ordered, tuple(sorted(inner)), ends, tuple(readers))


def _is_single(node: onnx.NodeProto, model: Model) -> bool:
    """Whether each channel of a node's result comes of the same channel alone."""
    if node.op_type == "Mul":
        return not any(n in model.constants for n in node.input)
    if _is_conv(node, model):
        return is_depthwise(node, model.constants[node.input[1]].shape)
    return node.op_type in SINGLE


def parts(ranges: Floats, count: int) -> list[Indices]:
    """Sort channels by range and cut them into `count` parts where that serves them most.

    What is least is the sum of the squares of (range of the part / range of the channel): how many
    times coarser each channel's step is than it would be with a scale of its own.

    >>> [p.tolist() for p in parts(np.array([8.0, 1.0, 7.0, 1.1]), 2)]
    [[1, 3], [2, 0]]
    """
    order = np.argsort(ranges, kind="stable")
    sizes = _sizes(ranges)[order]
    inverse = np.concatenate([[0], np.cumsum(sizes**-2.0)])
    total = len(sizes)
    cost = np.full((count + 1, total + 1), np.inf)
    cut = np.zeros((count + 1, total + 1), np.int64)
    cost[0, 0] = 0
    for number in range(1, count + 1):
        for end in range(number, total + 1):
            starts = np.arange(number - 1, end)
            trials = cost[number - 1, starts] + sizes[end - 1] ** 2 * (
                inverse[end] - inverse[starts]
            )
            best = int(trials.argmin())
            cost[number, end], cut[number, end] = trials[best], starts[best]
    found, end = [], total
    for number in range(count, 0, -1):
        start = int(cut[number, end])
        found.append(order[start:end])
        end = start
    return found[::-1]


def coarseness(ranges: Floats, count: int) -> float:
    """Return the mean square of how many times too coarse a channel's step is, in `count` parts."""
    sizes = _sizes(ranges)
    parted = [(sizes[p].max() / sizes[p]) ** 2 for p in parts(ranges, count)]
    return float(np.concatenate(parted).mean())


def _sizes(ranges: Floats) -> npt.NDArray[np.float64]:
    """Ranges of which none is nothing: dead channels count as a hundredth of the widest."""
    return np.maximum(np.asarray(ranges, np.float64), 1e-2 * float(ranges.max()) + 1e-12)


def split(model: Model, chain: Chain, groups: Sequence[Indices]) -> Model:
    """Return the same network with a chain cut into groups of channels."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    order = np.concatenate(groups)
    nodes: list[onnx.NodeProto] = []
    last = chain.members[-1]
    for node in model.proto.graph.node:
        if node.name in chain.members:
            for number, channels in enumerate(groups, 1):
                nodes.append(_part(node, model, chain, number, channels, graph))
            if node.name == last:
                nodes += [_joined(end, len(groups)) for end in chain.ends]
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.name in chain.readers:
            weight = np.asarray(model.constants[node.input[1]])[:, order]
            copy.input[0] = f"{node.input[0]}/joined"
            copy.input[1] = _constant(graph, f"{node.name}/ordered", weight)
        nodes.append(copy)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return model.changed(proto)


def _part(
    node: onnx.NodeProto,
    model: Model,
    chain: Chain,
    number: int,
    channels: Indices,
    graph: onnx.GraphProto,
) -> onnx.NodeProto:
    """Copy a node for some channels."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"{node.name}/{number}"
    for place, name in enumerate(node.input):
        if name and name not in model.constants and node.name != chain.node:
            copy.input[place] = f"{name}/{number}"
    for place, name in enumerate(node.output):
        copy.output[place] = f"{name}/{number}"
    if node.op_type == "Conv":
        for place, name in enumerate(node.input):
            if place and name:
                values = np.asarray(model.constants[name])[channels]
                copy.input[place] = _constant(graph, f"{copy.name}/{place}", values)
        for attribute in copy.attribute:
            if attribute.name == "group" and attribute.i > 1:
                attribute.i = len(channels)
    return copy


def _joined(end: str, count: int) -> onnx.NodeProto:
    inputs = [f"{end}/{number}" for number in range(1, count + 1)]
    return helper.make_node("Concat", inputs, [f"{end}/joined"], f"{end}/join", axis=1)


def _constant(graph: onnx.GraphProto, name: str, values: npt.NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name
