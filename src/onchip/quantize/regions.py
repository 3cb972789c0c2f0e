"""Which layers compute in integers, which tensors are rounded, and which share a scale."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from onchip.graph.read import Model, groups_of
from onchip.quantize import activations
from onchip.spec import HeadSpec, QuantSpec

WEIGHTED = frozenset({"Conv", "Gemm", "ConvTranspose"})
CLAMPS = frozenset({"relu"})  # a range does their work: its end is their limit


MOVED = frozenset(
    {"Concat", "Split", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"}
    | {"Resize", "Identity", "Constant", "Shape"}
)


@dataclass(frozen=True)
class Layer:
    """A weighted node and the activation that follows it, raised or lowered together."""

    node: str
    op: str
    data: str  # the tensor it reads
    raw: str  # what it makes, before the activation
    output: str  # after the activation
    activation: str  # a name that activations.py knows, or ""
    members: tuple[str, ...]  # names of all its nodes
    depthwise: bool = False


@dataclass(frozen=True)
class Regions:
    """How a graph divides on one chip.

    `tensors` are those that get a scale; `groups` maps each to the tensor whose range it uses;
    `fused` are those inside a layer that the chip does not round, though some compilers want a
    scale for them. `reads` maps a tensor to the function that its only reader applies (for
    choosing its range).
    `watched` tensors must be observed; `derived` ones follow from one: (tensor, activation).
    """

    layers: tuple[Layer, ...]
    integer: frozenset[str]  # names of integer nodes
    tensors: tuple[str, ...]
    fused: tuple[str, ...]
    groups: dict[str, str]
    reads: dict[str, str]
    watched: tuple[str, ...]
    derived: dict[str, tuple[str, str]]

    def layer(self, node: str) -> Layer | None:
        """The layer that a node belongs to."""
        return next((x for x in self.layers if node in x.members), None)


def layers(model: Model) -> tuple[Layer, ...]:
    """Return every weighted node of the graph with its activation."""
    return tuple(_layer(n, model) for n in model.proto.graph.node if _is_weighted(n, model))


def _is_weighted(node: onnx.NodeProto, model: Model) -> bool:
    return (
        node.op_type in WEIGHTED
        and node.input[1] in model.constants
        and (len(node.input) < 3 or not node.input[2] or node.input[2] in model.constants)
    )


def _layer(node: onnx.NodeProto, model: Model) -> Layer:
    raw = node.output[0]
    readers = model.consumers.get(raw, [])
    members, output, activation = [node.name], raw, ""
    last = {o.name for o in model.outputs}
    if raw not in last and (mul := silu(readers)) is not None:
        members += [r.name for r in readers]
        output, activation = mul.output[0], "silu"
    elif raw not in last and len(readers) == 1 and (known := activations.name(readers[0])):
        members.append(readers[0].name)
        output, activation = readers[0].output[0], known
    depthwise = node.op_type == "Conv" and model.constants[node.input[1]].shape[1] == 1
    depthwise = depthwise and groups_of(node) > 1
    return Layer(
        node.name, node.op_type, node.input[0], raw, output, activation, tuple(members), depthwise
    )


def silu(readers: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the Mul of `x * sigmoid(x)` if these are its two nodes, in either order."""
    if len(readers) != 2:
        return None
    by_op = {r.op_type: r for r in readers}
    if by_op.keys() != {"Sigmoid", "Mul"} or by_op["Sigmoid"].output[0] not in by_op["Mul"].input:
        return None
    return by_op["Mul"]


def divide(model: Model, head: HeadSpec, quant: QuantSpec, floats: Iterable[str] = ()) -> Regions:
    """Divide a cut graph for a chip.

    Args:
        model: the cut graph.
        head: tells which outputs are scores, so that their range is chosen as scores.
        quant: the chip's arithmetic.
        floats: names of weighted nodes that stay in float, with their activation.
    """
    found = layers(model)
    raised = set(floats)
    kept = {m for x in found if x.node in raised for m in x.members}
    weighted = {x.node for x in found}
    integer = {
        n.name
        for n in model.proto.graph.node
        if n.name not in kept and _fits(n, model, quant, weighted)
    }
    fused = [x for x in found if x.node in integer and _fuses(x, quant)]
    inner = _inner(found, fused, model, quant, integer)
    tensors = _tensors(model, integer, inner)
    return Regions(
        layers=found,
        integer=frozenset(integer),
        tensors=tensors,
        fused=tuple(x.raw for x in fused),
        groups=_groups(model, integer, quant, tensors),
        reads=_reads(model, found, head, integer),
        watched=tuple(
            dict.fromkeys([*(x.raw for x in found), *_sources(model, found), *head.outputs])
        ),
        derived={
            x.output: (x.raw, x.activation)
            for x in found
            if x.activation and x.output not in head.outputs  # attention looks at those itself
        },
    )


def _sources(model: Model, found: tuple[Layer, ...]) -> list[str]:
    """Tensors outside the layers whose values are new: not moved, joined or cut from others."""
    members = {m for x in found for m in x.members}
    return [
        o
        for n in model.proto.graph.node
        if n.name not in members and n.op_type not in MOVED
        for o in n.output
    ]


def _fits(node: onnx.NodeProto, model: Model, quant: QuantSpec, weighted: set[str]) -> bool:
    if node.op_type not in quant.ops:
        return False
    if node.op_type in WEIGHTED:
        return node.name in weighted
    # a constant operand (a scale, a bias) is left in float with its node
    arguments = 2 if node.op_type in ("Add", "Mul", "Sub") else 1
    return not any(n in model.constants for n in node.input[:arguments])


def _fuses(layer: Layer, quant: QuantSpec) -> bool:
    kind = layer.activation.partition(":")[0]
    return kind in (quant.fused_depthwise if layer.depthwise else quant.fused)


def _inner(
    found: Sequence[Layer],
    fused: Sequence[Layer],
    model: Model,
    quant: QuantSpec,
    integer: set[str],
) -> set[str]:
    """Tensors that are never rounded: the chip clamps, fuses or looks the activation up."""
    nodes = {n.name: n for n in model.proto.graph.node}
    inner = {
        o
        for n in nodes.values()
        if n.op_type in quant.folded and n.name in integer and _is_folded(n, model)
        for o in n.output
    }
    for layer in found:
        clamped = layer.activation in CLAMPS and layer.node in integer
        if clamped or layer in fused:
            inner.add(layer.raw)
            for name in layer.members[1:]:
                inner.update(o for o in nodes[name].output if o != layer.output)
    return inner


def _is_folded(node: onnx.NodeProto, model: Model) -> bool:
    """Whether a node is the sigmoid of a SiLU: its result times its own input, and no more."""
    return silu(model.consumers.get(node.input[0], [])) is not None


def _tensors(model: Model, integer: set[str], inner: set[str]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for node in model.proto.graph.node:
        if node.name in integer:
            data = node.input if node.op_type == "Concat" else node.input[: _operands(node)]
            names.update(dict.fromkeys([*data, *node.output]))
    return tuple(n for n in names if n and n not in inner and n not in model.constants)


def _operands(node: onnx.NodeProto) -> int:
    return 2 if node.op_type in ("Add", "Mul", "Sub") else 1


def _groups(
    model: Model, integer: set[str], quant: QuantSpec, tensors: tuple[str, ...]
) -> dict[str, str]:
    """Union tensors that live on one scale; each maps to the first of its group."""
    parent = {t: t for t in tensors}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in model.proto.graph.node:
        if node.name in integer and node.op_type in quant.shared:
            names = [*(node.input if node.op_type == "Concat" else node.input[:1]), *node.output]
            first = root(names[0])
            for other in names[1:]:
                parent[root(other)] = first
    return {t: root(t) for t in tensors}


def _reads(
    model: Model, found: tuple[Layer, ...], head: HeadSpec, integer: set[str]
) -> dict[str, str]:
    reads = {x.raw: x.activation for x in found if x.activation and x.node in integer}
    if head.scoring == "softmax":
        return reads
    whole = {"box", "class", "object", "all"} if head.coding == "anchor" else {"class", "object"}
    for name in head.outputs:  # what the decoder takes the sigmoid of
        parts = [t for t in head.tensors if t.name == name]
        if all(t.role in whole and not t.activated for t in parts):
            reads[name] = "sigmoid"
    return reads
