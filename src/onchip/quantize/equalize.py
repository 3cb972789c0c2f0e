"""Move scale between channels where that changes nothing: so that all of a tensor fill its codes.

A layer may make a channel larger and its readers take that back, as long as all that lies between
keeps proportions: ReLU, LeakyReLU, pooling, resizing, joins, splits, shuffles. Every channel of the
network belongs to a class whose members can only be scaled together; those that touch anything else
(a sigmoid, the input, the head) keep their scale.

Source of the idea: Nagel et al., Data-Free Quantization, 2019, section 4.1, there for pairs of
layers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from onchip.graph.read import Model
from onchip.quantize.regions import Regions
from onchip.quantize.stats import Stats

LEAST = 1 / 16  # a channel grows by no more: what calibration saw of a small one is less sure
PINNED = 0  # the class that keeps its scale

Classes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Channels:
    """Which class each channel belongs to, by tensor: `(channels,)`."""

    classes: Mapping[str, Classes]
    count: int


def channels(model: Model) -> Channels:
    """Find the classes of channels that can only be scaled together."""
    joined = _Joined()
    places: dict[str, Classes] = {i.name: np.zeros((1, 1, 1, 1), np.int64) for i in model.inputs}
    for node in model.proto.graph.node:
        if node.op_type == "Constant":
            continue
        data = [n for n in node.input if n and n not in model.constants]
        made = _RULES.get(node.op_type, _pinned)(_Visit(node, model, places, joined))
        if made is None:
            for name in data:
                joined.join(places[name], np.zeros(1, np.int64))
            made = [np.zeros((1, 1, 1, 1), np.int64) for _ in node.output]
        places.update(zip(node.output, made, strict=True))
    for output in model.outputs:
        joined.join(places[output.name], np.zeros(1, np.int64))
    found = {
        name: np.broadcast_to(joined.roots(ids), (1, model.shapes[name][1], 1, 1)).ravel()
        for name, ids in places.items()
        if ids.ndim == 4 and ids.shape[2:] == (1, 1) and len(model.shapes.get(name, ())) == 4
    }
    return Channels(found, len(joined.parents))


class _Joined:
    """Numbers that stand for channels, some of them for the same."""

    def __init__(self) -> None:
        self.parents = [PINNED]

    def new(self, count: int) -> Classes:
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        return np.arange(start, start + count).reshape(1, count, 1, 1)

    def root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def roots(self, ids: Classes) -> Classes:
        found, where = np.unique(ids, return_inverse=True)
        return np.asarray([self.root(int(n)) for n in found])[where].reshape(ids.shape)

    def join(self, first: Classes, second: Classes) -> None:
        a, b = np.broadcast_arrays(first, second)
        for x, y in {(int(x), int(y)) for x, y in zip(a.ravel(), b.ravel(), strict=True)}:
            low, high = sorted((self.root(x), self.root(y)))
            self.parents[high] = low


@dataclass(frozen=True)
class _Visit:
    """One node, and the classes of what it reads: `(1, channels, 1, 1)`, or as wide as needed."""

    node: onnx.NodeProto
    model: Model
    places: Mapping[str, Classes]
    joined: _Joined

    @property
    def first(self) -> Classes:
        return self.places[self.node.input[0]]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.model.shapes.get(name, ())

    def field(self, name: str, default: object = None) -> object:
        found = (a for a in self.node.attribute if a.name == name)
        return next((helper.get_attribute_value(a) for a in found), default)


_Made = list[Classes] | None


def _pinned(visit: _Visit) -> _Made:
    return None


def _same(visit: _Visit) -> _Made:
    return [visit.first] if visit.node.input[0] in visit.places else None


def _conv(visit: _Visit) -> _Made:
    weight = visit.model.constants.get(visit.node.input[1])
    return None if weight is None else [visit.joined.new(len(weight))]


def _add(visit: _Visit) -> _Made:
    if any(n not in visit.places for n in visit.node.input):
        return None
    first, second = (visit.places[n] for n in visit.node.input)
    if visit.shape(visit.node.input[0]) != visit.shape(visit.node.input[1]):
        return None
    visit.joined.join(first, second)
    return [np.broadcast_arrays(first, second)[0]]


def _concat(visit: _Visit) -> _Made:
    names = list(visit.node.input)
    if any(n not in visit.places or len(visit.shape(n)) != 4 for n in names):
        return None
    if visit.field("axis") != 1:
        return None
    parts = [np.broadcast_to(visit.places[n], (1, visit.shape(n)[1], 1, 1)) for n in names]
    return [np.concatenate(parts, axis=1)]


def _split(visit: _Visit) -> _Made:
    if visit.field("axis", 0) != 1 or len(visit.shape(visit.node.input[0])) != 4:
        return None
    sizes = [visit.shape(n)[1] for n in visit.node.output]
    whole = np.broadcast_to(visit.first, (1, sum(sizes), *visit.first.shape[2:]))
    return list(np.split(whole, np.cumsum(sizes)[:-1], axis=1))


def _moved(visit: _Visit) -> _Made:
    """Let the numbers go the way of the values."""
    before, after = visit.shape(visit.node.input[0]), visit.shape(visit.node.output[0])
    if not before or not after or visit.first.ndim != len(before):
        return None
    whole = np.broadcast_to(visit.first, before)
    if visit.node.op_type == "Transpose":
        order: Any = visit.field("perm", list(range(len(before)))[::-1])
        return [_narrowed(whole.transpose(order))]
    return [_narrowed(whole.reshape(after))]


def _narrowed(ids: Classes) -> Classes:
    """Leave out rows and columns that are all alike."""
    narrow = ids[:, :, :1, :1] if ids.ndim == 4 else ids
    return narrow if (ids == narrow).all() else ids


_RULES: dict[str, Callable[[_Visit], _Made]] = {
    "Add": _add,
    "AveragePool": _same,
    "Concat": _concat,
    "Conv": _conv,
    "GlobalAveragePool": _same,
    "Identity": _same,
    "LeakyRelu": _same,
    "MaxPool": _same,
    "Relu": _same,
    "Reshape": _moved,
    "Resize": _same,
    "Split": _split,
    "Transpose": _moved,
}


def factors(
    found: Channels, regions: Regions, seen: Mapping[str, Stats], strength: float = 1.0
) -> Floats:
    """Return by how much each class is divided, `(classes,)`: 1 is left as it is.

    A channel then reaches as far as the widest of those with which it shares a scale, or, where
    `strength` is less than 1, a part of the way there.
    """
    ends: dict[str, tuple[float, float]] = {}
    for tensor, group in regions.groups.items():
        if tensor in seen:
            low, high = ends.get(group, (0.0, 0.0))
            stats = seen[tensor]
            ends[group] = (min(low, float(stats.low.min())), max(high, float(stats.high.max())))
    parts = np.zeros(found.count)
    for tensor, group in regions.groups.items():
        if tensor in seen and tensor in found.classes:
            low, high = ends[group]
            stats = seen[tensor]
            reach = np.maximum(stats.high / max(high, 1e-12), stats.low / min(low, -1e-12))
            np.maximum.at(parts, found.classes[tensor], reach.astype(np.float64))
    parts = np.where(parts > 0, np.clip(parts, LEAST, 1), 1.0) ** strength
    parts[PINNED] = 1.0
    return parts


def scaled(model: Model, found: Channels, by: Floats) -> Model:
    """Return the same network with each class of channels divided; its readers take that back."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    made: list[onnx.TensorProto] = []
    for node in proto.graph.node:
        if node.op_type != "Conv" or node.input[1] not in model.constants:
            continue
        after = _factors(found, by, node.output[0], model.shapes[node.output[0]][1])
        before = _factors(found, by, node.input[0], model.shapes[node.input[0]][1])
        if (after == 1).all() and (before == 1).all():
            continue
        weight = np.asarray(model.constants[node.input[1]], np.float64)
        groups = len(before) // weight.shape[1]
        columns = np.repeat(before.reshape(groups, -1), len(weight) // groups, axis=0)
        weight = weight * columns[:, :, None, None] / after[:, None, None, None]
        arrays = [weight]
        if len(node.input) > 2 and node.input[2]:
            arrays.append(np.asarray(model.constants[node.input[2]], np.float64) / after)
        for place, array in enumerate(arrays, 1):
            node.input[place] = f"{node.name}/equalized/{place}"
            made.append(numpy_helper.from_array(array.astype(np.float32), node.input[place]))
    read = {name for node in proto.graph.node for name in node.input}
    new = {t.name for t in made}  # again by this name, where a network is equalized twice
    kept = [t for t in proto.graph.initializer if t.name in read - new]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, *made])
    return model.changed(proto)


def _factors(found: Channels, by: Floats, tensor: str, count: int) -> Floats:
    return by[found.classes[tensor]] if tensor in found.classes else np.ones(count)
