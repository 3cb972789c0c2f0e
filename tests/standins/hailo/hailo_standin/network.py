"""An ONNX graph as the layers that the Dataflow Compiler makes of it, with its names.

The compiler gives each layer the name of its kind and a number. How it numbers is documented
nowhere; what is here gives the numbers that the Hailo Model Zoo's scripts name for nineteen
networks (YOLOv8 to 11, YOLO26), and those of YOLOv5n:

1. breadth first from the input, the layers after each in the order of the ONNX file, each layer
   when all that it reads have been; numbered by kind in that order;
2. sorted again so that each follows what it reads, and among those free to come the first by its
   name *as text* (conv10 before conv9), joins last; numbered again in that order.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onchip.graph.read import Model
from onchip.quantize import activations

KINDS = {
    "Conv": "conv", "ConvTranspose": "deconv", "Gemm": "fc", "Concat": "concat", "Add": "ew_add",
    "Sub": "ew_sub", "Mul": "ew_mult", "Div": "ew_div", "Max": "ew_max", "Min": "ew_min",
    "MaxPool": "maxpool", "AveragePool": "avgpool", "GlobalAveragePool": "avgpool",
    "Resize": "resize", "Split": "feature_splitter", "Slice": "slice", "MatMul": "matmul",
    "Softmax": "softmax", "ReduceMax": "reduce_max", "ReduceSum": "reduce_sum",
    "ReduceMean": "reduce_mean", "DepthToSpace": "depth_to_space", "Sqrt": "activation",
    "SpaceToDepth": "space_to_depth", "Pad": "external_pad", "Pow": "pow",
    "BatchNormalization": "batch_norm", "LayerNormalization": "layer_normalization",
}  # fmt: skip
ACTIVATIONS = {
    "Sigmoid", "Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Tanh", "Elu", "PRelu",
    "Softplus", "Mish", "Gelu", "Erf", "Exp",
}  # fmt: skip
MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Dropout"}
FUSING = {"conv", "dw", "deconv", "fc", "ew_add", "ew_mult"}  # take the activation after them
Array = npt.NDArray[Any]


@dataclass
class Layer:
    """One layer. `raw` is its tensor before its activation, `tensor` the one after."""

    kind: str
    inputs: list["Layer"]
    nodes: list[str]
    tensor: str
    raw: str = ""
    activation: str = "linear"
    weight: str = ""
    bias: str = ""
    fields: dict[str, Any] = field(default_factory=dict)  # of the ONNX node
    position: int = 0
    name: str = ""

    @property
    def weighted(self) -> bool:
        """Whether it has a kernel."""
        return bool(self.weight)


@dataclass(frozen=True)
class Network:
    """A network as the compiler sees it."""

    name: str
    model: Model
    layers: tuple[Layer, ...]
    ends: tuple[Layer, ...]  # the output layers, in the order of the end nodes

    def scoped(self, layer: Layer) -> str:
        """A layer's name with the network's before it."""
        return f"{self.name}/{layer.name}"

    def layer(self, name: str) -> Layer | None:
        """A layer by its name, with or without the network's."""
        short = name.removeprefix(f"{self.name}/")
        return next((x for x in self.layers if x.name == short), None)

    @property
    def input(self) -> Layer:
        """The one input."""
        return self.layers[0]

    @property
    def outputs(self) -> tuple[Layer, ...]:
        """The layers before the output layers, in the order of the end nodes."""
        return tuple(e.inputs[0] for e in self.ends)

    def shape(self, layer: Layer) -> tuple[int, int, int]:
        """Height, width and channels of what a layer makes."""
        return feature(self.model.shapes[layer.tensor])

    def kernel(self, layer: Layer) -> Array:
        """A layer's weights as `(out, in, ...)`."""
        return np.asarray(self.model.constants[layer.weight], np.float32)


def feature(shape: Sequence[int]) -> tuple[int, int, int]:
    """Height, width and channels of a tensor `(N, C, H, W)`, `(N, C, W)` or `(N, C)`."""
    if len(shape) == 4:
        return shape[2], shape[3], shape[1]
    if len(shape) == 3:
        return 1, shape[2], shape[1]
    return 1, 1, shape[-1]


def network(name: str, model: Model, ends: Sequence[str], places: Mapping[str, int]) -> Network:
    """Return a graph, cut at the tensors `ends`, as named layers.

    Args:
        name: the network's name.
        model: the cut graph, simplified.
        ends: its outputs, in the order of the end nodes.
        places: where in the ONNX file each tensor is made.
    """
    layers, owner = _layers(model, places)
    outputs = [Layer("output_layer", [owner[t]], [], t, position=1 << 30) for t in ends]
    ordered = _numbered([*layers, *outputs])
    return Network(name, model, tuple(ordered), tuple(outputs))


def _layers(model: Model, places: Mapping[str, int]) -> tuple[list[Layer], dict[str, Layer]]:
    entry = model.inputs[0].name
    first = Layer("input_layer", [], [entry], entry, entry)
    layers, owner, done = [first], {entry: first}, set[str]()
    last = {o.name for o in model.outputs}
    for node in model.proto.graph.node:
        inputs = [owner[i] for i in node.input if i in owner]
        if node.name in done or not inputs:
            continue  # part of an earlier one, or a constant
        before = inputs[0]
        alone = len(model.consumers[node.input[0]]) == 1 and node.input[0] not in last
        if node.op_type in ACTIVATIONS and before.kind in FUSING and alone and _bare(before):
            _activate(before, node, node.output[0], activation(node))
        elif (mul := _silu(node, model, last)) is not None and before.kind in FUSING:
            done.add(mul.name)
            _activate(before, node, mul.output[0], "silu")
            before.nodes.append(mul.name)
        elif len(inputs) == 1 and (node.op_type in MOVES or _constant(node, model)):
            before.nodes.append(node.name)
            for output in node.output:
                owner[output] = before
            continue
        else:
            before = _layer(node, model, inputs, places)
            layers.append(before)
        for output in [before.tensor, *node.output]:
            owner[output] = before
    return layers, owner


def _layer(
    node: onnx.NodeProto, model: Model, inputs: list[Layer], places: Mapping[str, int]
) -> Layer:
    kind = KINDS.get(node.op_type, "activation" if node.op_type in ACTIVATIONS else "")
    fields = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    weight = bias = ""
    if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
        weight, bias = node.input[1], node.input[2] if len(node.input) > 2 else ""
        depthwise = fields.get("group", 1) > 1 and model.constants[weight].shape[1] == 1
        kind = "dw" if depthwise and kind == "conv" else kind
    position = min((places[o] for o in node.output if o in places), default=1 << 29)
    return Layer(
        kind or node.op_type.lower(), inputs, [node.name], node.output[0], node.output[0],
        activation=activation(node) if node.op_type in ACTIVATIONS else "linear",
        weight=weight, bias=bias, fields=fields, position=position,
    )  # fmt: skip


def activation(node: onnx.NodeProto) -> str:
    """Return the compiler's name of an activation."""
    known = activations.name(node).partition(":")[0]
    return {"leakyrelu": "leaky"}.get(known, known or node.op_type.lower())


def _bare(layer: Layer) -> bool:
    return layer.activation == "linear"


def _activate(layer: Layer, node: onnx.NodeProto, tensor: str, name: str) -> None:
    layer.nodes.append(node.name)
    layer.tensor, layer.activation = tensor, name


def _silu(node: onnx.NodeProto, model: Model, last: set[str]) -> onnx.NodeProto | None:
    """Return the product of `x * sigmoid(x)` where the node is its sigmoid."""
    if node.op_type != "Sigmoid" or node.input[0] in last:
        return None
    readers = model.consumers[node.input[0]]
    found = [r for r in readers if r.op_type == "Mul" and node.output[0] in r.input]
    return found[0] if found and len(readers) == 2 else None


def _constant(node: onnx.NodeProto, model: Model) -> bool:
    """Whether a node only scales or shifts, which the layer before it takes in."""
    single = node.op_type in ("Mul", "Div", "Add", "Sub")
    return single and any(i in model.constants for i in node.input)


def _numbered(layers: list[Layer]) -> list[Layer]:
    """Name the layers; return them in the order of their numbers."""
    after: dict[int, list[Layer]] = {id(x): [] for x in layers}
    for layer in layers:
        for one in _distinct(layer.inputs):
            after[id(one)].append(layer)
    for found in after.values():
        found.sort(key=lambda x: x.position)
    _name(_sorted(layers, after, lambda _: ""))
    ordered = _sorted(layers, after, lambda x: ("z" if x.kind == "concat" else "") + x.name)
    _name(ordered)
    return ordered


def _distinct(layers: Iterable[Layer]) -> list[Layer]:
    return list({id(x): x for x in layers}.values())


def _sorted(
    layers: list[Layer], after: dict[int, list[Layer]], key: Callable[[Layer], str]
) -> list[Layer]:
    """Return layers after what they read; of those free, the first by key, then by arrival."""
    missing = {id(x): len(_distinct(x.inputs)) for x in layers}
    waiting = deque(x for x in layers if not x.inputs)
    heap: list[tuple[str, int, Layer]] = []
    found: list[Layer] = []
    arrival = 0
    while waiting or heap:
        while waiting:
            layer = waiting.popleft()
            heapq.heappush(heap, (key(layer), arrival, layer))
            arrival += 1
        layer = heapq.heappop(heap)[2]
        found.append(layer)
        for one in after[id(layer)]:
            missing[id(one)] -= 1
            if not missing[id(one)]:
                waiting.append(one)
    return found


def _name(layers: list[Layer]) -> None:
    counts: Counter[str] = Counter()
    for layer in layers:
        counts[layer.kind] += 1
        layer.name = f"{layer.kind}{counts[layer.kind]}"
