"""The names of layers in Hailo's compiler: foretold from the graph, and read from its HN.

A model script speaks of conv42 and output_layer1, which the compiler numbers by itself. How, was
found from what is public: the layers that the scripts and NMS files of Hailo's zoo name, for 25
networks of YOLOv5 to YOLO26, the whole graph of one of them (YOLO11m), which its script for
Hailo-15 lists, and a compiled YOLOv8n. The rule that gives all of them:

1. Layers are numbered by kind in the order of a breadth-first walk, in which a layer comes when all
   that it reads has come, and the readers of a tensor in the order of the file.
2. They are sorted anew: of all layers that could come next, the one whose name so far is first in
   the alphabet comes, and each kind is numbered again in that order. In it a convolution is still
   called base_conv and a depthwise one base_dw, so that base_conv100 comes before base_conv99,
   which comes before base_dw1, which comes before concat1.

The names after translation are in the HN, and only they are given to the compiler.
"""

import heapq
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from onchip.errors import InputError
from onchip.graph.read import Model, is_depthwise

BASE = "base_"
ACTIVATION = "base_activation"
KINDS = {
    "Add": "ew_add",
    "AveragePool": "avgpool",
    "Concat": "concat",
    "ConvTranspose": "base_deconv",
    "GlobalAveragePool": "avgpool",
    "MatMul": "matmul",
    "MaxPool": "maxpool",
    "Mul": "ew_mult",
    "Resize": "resize",
    "Slice": "slice",
    "Softmax": "softmax",
    "Split": "feature_splitter",
    "Sub": "ew_sub",
    "Upsample": "resize",
}
# Kinds whose numbers public material confirms; others are walked through, but not named.
CONFIRMED = frozenset(
    {"conv", "dw", "deconv", "concat", "ew_add", "feature_splitter"}
    | {"matmul", "maxpool", "resize", "softmax"}
)
ACTIVATIONS = frozenset(
    {"Clip", "Elu", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu"}
    | {"Sigmoid", "Softplus", "Sqrt", "Tanh"}
)
BEFORE = frozenset({"base_conv", "base_dw", "base_deconv", "ew_add"})  # that an activation joins
ENDS = frozenset({"input_layer", "output_layer"})
COMPUTES = ("conv", "dw", "deconv", "dense", "matmul")

DAMAGED = "the compiler's own description of the network (HN) does not read"


@dataclass(frozen=True)
class _Layer:
    """One layer of the compiler's: its kind, the node that stands for it, what it reads, makes."""

    kind: str
    node: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]


def predicted(model: Model) -> dict[str, str]:
    """Return the layer that each ONNX node will become or be part of, by the rule above.

    Nodes that only move values, and kinds whose numbers nothing public confirms, are left out.

    Args:
        model: the cut graph, with its nodes in the order in which the compiler gets them.
    """
    layers = list(_layers(model))
    readers, waiting = _links(layers)
    first = _named(layers, _walked(readers, waiting))
    names = _named(layers, _sorted(readers, waiting, first))
    makers = {t: i for i, layer in enumerate(layers) for t in layer.makes}
    found: dict[str, str] = {}
    for index, layer in enumerate(layers):
        place = index
        if layer.kind == ACTIVATION and layer.reads and layer.reads[0] in makers:
            place = makers[layer.reads[0]]  # it joins the layer before it
            if layers[place].kind not in BEFORE:
                continue
        if layers[place].kind.removeprefix(BASE) in CONFIRMED:
            found[layer.node] = names[place].removeprefix(BASE)
    return found


def _layers(model: Model) -> Iterator[_Layer]:
    """Yield the graph's layers in its order; a sigmoid times its own input is one activation."""
    joined: set[str] = set()
    for node in model.proto.graph.node:
        if node.name in joined:
            continue
        reads = tuple(t for t in node.input if t and t not in model.constants)
        if not reads:
            continue  # made of constants alone
        if (mul := _gate(model, node)) is not None:
            joined.add(mul.name)
            yield _Layer(ACTIVATION, mul.name, (node.input[0],), (mul.output[0],))
        else:
            yield _Layer(_kind(model, node), node.name, reads, tuple(node.output))


def _gate(model: Model, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The multiplication that makes a sigmoid a SiLU."""
    if node.op_type != "Sigmoid":
        return None
    readers = model.consumers.get(node.output[0], [])
    if len(readers) == 1 and readers[0].op_type == "Mul" and node.input[0] in readers[0].input:
        return readers[0]
    return None


def _kind(model: Model, node: onnx.NodeProto) -> str:
    if node.op_type == "Conv":
        shape = model.shapes.get(node.input[1], ())
        return "base_dw" if is_depthwise(node, shape) else "base_conv"
    if node.op_type in ACTIVATIONS:
        return ACTIVATION
    return KINDS.get(node.op_type, node.op_type.lower())


def _links(layers: Sequence[_Layer]) -> tuple[list[list[int]], list[int]]:
    """Return who reads each layer, in the file's order, and how many layers each one reads."""
    makers = {t: i for i, layer in enumerate(layers) for t in layer.makes}
    readers: list[list[int]] = [[] for _ in layers]
    waiting = []
    for index, layer in enumerate(layers):
        before = {makers[t] for t in layer.reads if t in makers} - {index}
        waiting.append(len(before))
        for place in before:
            readers[place].append(index)
    return readers, waiting


def _walked(readers: Sequence[Sequence[int]], waiting: Sequence[int]) -> Iterator[int]:
    """Yield the layers breadth first, each once all that it reads has come."""
    left = list(waiting)
    queue = deque(i for i, count in enumerate(left) if not count)
    while queue:
        yield (index := queue.popleft())
        for reader in readers[index]:
            left[reader] -= 1
            if not left[reader]:
                queue.append(reader)


def _sorted(
    readers: Sequence[Sequence[int]], waiting: Sequence[int], names: Mapping[int, str]
) -> Iterator[int]:
    """Yield the layers, of those that could come next always the first in the alphabet."""
    left = list(waiting)
    heap = [(names[i], i) for i, count in enumerate(left) if not count]
    heapq.heapify(heap)
    while heap:
        _, index = heapq.heappop(heap)
        yield index
        for reader in readers[index]:
            left[reader] -= 1
            if not left[reader]:
                heapq.heappush(heap, (names[reader], reader))


def _named(layers: Sequence[_Layer], order: Iterator[int]) -> dict[int, str]:
    counts: Counter[str] = Counter()
    names = {}
    for index in order:
        kind = layers[index].kind
        counts[kind] += 1
        names[index] = f"{kind}{counts[kind]}"
    return names


def derived(hn: Mapping[str, Any]) -> dict[str, str]:
    """Return the layer that each ONNX node has become or is part of, as the compiler itself says.

    Args:
        hn: the compiler's HN: `layers`, each with its type and the `original_names` of its nodes.

    Raises:
        InputError: it is none.
    """
    found: dict[str, tuple[int, str]] = {}
    for name, layer in _described(hn).items():
        kind = str(layer.get("type"))
        if kind in ENDS:
            continue  # these repeat the name of what they read or give
        rank = 0 if kind.removeprefix(BASE) in COMPUTES else 1
        for node in _texts(layer.get("original_names", ())):
            if node not in found or rank < found[node][0]:
                found[node] = (rank, _plain(name))
    return {node: name for node, (_, name) in found.items()}


def ends(hn: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the layers whose output the network gives, in the compiler's order.

    Raises:
        InputError: it is no HN.
    """
    layers = _described(hn)
    params = hn.get("net_params", {})
    order = params.get("output_layers_order", ()) if isinstance(params, Mapping) else ()
    found = []
    for name in _texts(order) or [n for n, x in layers.items() if x.get("type") == "output_layer"]:
        layer = layers.get(name, {})
        before = _texts(layer.get("input", ()))
        is_end = layer.get("type") == "output_layer" and before
        found.append(_plain(before[0] if is_end else name))
    return tuple(found)


def differences(foretold: Mapping[str, str], real: Mapping[str, str]) -> tuple[str, ...]:
    """Return where the names that were foretold are not those of the HN, as lines for people."""
    return tuple(
        f"{node} is {real[node]}, not {name} as foretold"
        for node, name in foretold.items()
        if node in real and real[node] != name
    )


def _described(hn: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    layers = hn.get("layers")
    if not isinstance(layers, Mapping) or not all(isinstance(x, Mapping) for x in layers.values()):
        raise InputError(f"{DAMAGED}: it has no layers", "translate the network again")
    return {str(name): layer for name, layer in layers.items()}


def _texts(values: object) -> list[str]:
    values = () if values is None else values
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        raise InputError(f"{DAMAGED}: {str(values)[:80]!r} is no list of names")
    return list(values)


def _plain(name: str) -> str:
    """A layer's name without that of its network, which a script of one network needs not."""
    return name.rpartition("/")[2]
