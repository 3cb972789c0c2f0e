"""Reverse mode for inference graphs: the gradient of what comes out, as one more ONNX graph.

`backward` appends to a network the nodes that carry a cotangent of every output back to the tensors
that are asked for. ONNX Runtime runs it like any graph; nothing is fused there, so that it costs
four to ten passes of the network alone. Weights are constants: it is the values between the layers
whose influence is wanted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onchip.errors import ToolError
from onchip.graph.read import Model
from onchip.graph.run import PARTS, Array, Runner, session, translated

OPSET = 16  # the first with a ScatterElements that adds; nothing before differs in what we read

Gradients = Sequence[str | None]  # of a node's inputs; None for one that has none, like a constant


@dataclass(frozen=True)
class Backward:
    """A network with its gradients.

    `proto` takes the image and the cotangents and gives nothing yet: who runs it adds outputs.
    `cotangents` maps each output of the network to the input that takes its cotangent,
    `gradients` each watched tensor to the tensor with its gradient, of the same shape.
    `unknown` says why a watched tensor has none.
    """

    proto: onnx.ModelProto
    cotangents: dict[str, str]
    gradients: dict[str, str]
    unknown: dict[str, str]


class BackwardRunner:
    """A network with its gradients, ready to run. Safe to call from several threads at once.

    Args:
        made: the graph, with outputs.
        threads: how many threads one call may use.
    """

    def __init__(self, made: Backward, threads: int = 1) -> None:
        with translated("ONNX Runtime cannot load the gradients' graph", kind=ToolError):
            self._session = session(
                made.proto.SerializeToString(), threads, optimize=PARTS, spinning=False
            )
        self._cotangents = made.cotangents
        self._names = [o.name for o in self._session.get_outputs()]
        taken = set(made.cotangents.values())
        self._image = next(i.name for i in self._session.get_inputs() if i.name not in taken)

    def __call__(
        self, image: npt.NDArray[np.generic], cotangents: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Return the graph's outputs, by name, for one image and a cotangent of each of its own."""
        given = {self._cotangents[name]: values for name, values in cotangents.items()}
        with translated("ONNX Runtime cannot run the gradients' graph", kind=ToolError):
            found: Sequence[Array] = self._session.run(None, {self._image: image, **given})
        return dict(zip(self._names, found, strict=True))


def backward(model: Model, watched: Iterable[str]) -> Backward:
    """Return the graph that gives the gradient of `sum(cotangent * output)`.

    Args:
        model: a float network with inferred shapes and fixed batch.
        watched: tensors whose gradient is wanted.
    """
    wanted = list(dict.fromkeys(watched))
    tape = _Tape(model)
    cotangents = {o.name: f"{o.name}/cotangent" for o in model.outputs}
    for name, given in cotangents.items():
        tape.take(name, given)
    for node in reversed(_between(model, wanted)):
        _step(tape, node)
    gradients, unknown = {}, {}
    for name in wanted:
        gradient = tape.gradient(name)
        if name in tape.unknown:
            unknown[name] = tape.unknown[name]
        elif gradient is None:
            unknown[name] = "it leads to no output"
        else:
            gradients[name] = gradient
    return Backward(tape.finish(cotangents), cotangents, gradients, unknown)


def _between(model: Model, watched: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that read a watched tensor or something made from one, in order."""
    reached = set(watched)
    found = []
    for node in model.proto.graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
            found.append(node)
    return found


def _step(tape: "_Tape", node: onnx.NodeProto) -> None:
    """Carry the gradient of a node's results to what it reads."""
    inputs = [n for n in node.input if n and n not in tape.model.constants]
    lost = next((tape.unknown[o] for o in node.output if o in tape.unknown), "")
    rule = RULES.get(node.op_type)
    results = [tape.gradient(o) if o else None for o in node.output]
    if not lost and not any(results):
        return
    found = rule(tape, node, results) if rule and not lost else None
    if found is None:
        reason = lost or f"no rule for {node.op_type} ({node.name or node.output[0]})"
        for name in inputs:
            tape.unknown.setdefault(name, reason)
        return
    for name, gradient in zip(node.input, found, strict=False):
        if gradient is not None and name in inputs:
            tape.take(name, gradient)


class _Tape:
    """Collects the nodes of the way back, and the gradients that arrive at each tensor."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.shapes = model.shapes
        self.unknown: dict[str, str] = {}
        self._arrived: dict[str, list[str]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._made: list[onnx.TensorProto] = []

    def take(self, tensor: str, gradient: str) -> None:
        """Add to the gradient of a tensor what comes from one of its readers."""
        self._arrived.setdefault(tensor, []).append(gradient)

    def gradient(self, tensor: str) -> str | None:
        """Return the sum of what arrived at a tensor; None where nothing did."""
        arrived = self._arrived.get(tensor, [])
        if len(arrived) > 1:
            arrived[:] = [self.op("Sum", *arrived)]
        return arrived[0] if arrived else None

    def op(self, kind: str, *inputs: str, outputs: int = 1, **fields: Any) -> str:
        """Append a node and return the name of its last output."""
        label = f"gradient_{len(self._nodes)}"
        names = [f"{label}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, label, **fields))
        return names[-1]

    def const(self, values: npt.ArrayLike, kind: type = np.float32) -> str:
        """Append a constant and return its name."""
        name = f"gradient_constant_{len(self._made)}"
        self._made.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def value(self, name: str) -> npt.NDArray[np.generic] | None:
        """A constant's value; None for what is computed."""
        return self.model.constants.get(name)

    def names(self, first: str, count: int) -> list[str]:
        """The names of all outputs of a node, from that of its last one."""
        label = first.rpartition("_")[0]
        return [f"{label}_{i}" for i in range(count)]

    def finish(self, cotangents: Mapping[str, str]) -> onnx.ModelProto:
        """Return the graph, without outputs."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model.proto)
        graph = proto.graph
        del graph.output[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._made)
        for name, given in cotangents.items():
            shape = self.shapes[name]
            graph.input.append(helper.make_tensor_value_info(given, TensorProto.FLOAT, shape))
        for opset in proto.opset_import:
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(opset.version, OPSET)
        return proto


Rule = Callable[[_Tape, onnx.NodeProto, Sequence[str | None]], Gradients | None]


def _field(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _simple(rule: Callable[[_Tape, onnx.NodeProto, str], Gradients | None]) -> Rule:
    """A rule of a node with one result."""

    def full(tape: _Tape, node: onnx.NodeProto, results: Sequence[str | None]) -> Gradients | None:
        return rule(tape, node, str(results[0]))

    return full


def _mask(tape: _Tape, truth: str, gradient: str) -> list[str | None]:
    """Let a gradient pass where a condition is true."""
    return [tape.op("Mul", gradient, tape.op("Cast", truth, to=TensorProto.FLOAT))]


# ---- convolutions and products ----


def _window(node: onnx.NodeProto, kernel: Sequence[int]) -> dict[str, Any]:
    """Strides, dilations and kernel of a node that slides over its input."""
    axes = len(kernel)
    return {
        "kernel_shape": list(kernel),
        "strides": list(_field(node, "strides", [1] * axes)),
        "dilations": list(_field(node, "dilations", [1] * axes)),
    }


def _reach(window: Mapping[str, list[int]]) -> list[int]:
    """How many lines of its input a window spans, per axis."""
    pairs = zip(window["dilations"], window["kernel_shape"], strict=True)
    return [d * (k - 1) + 1 for d, k in pairs]


def _pads(node: onnx.NodeProto, model: Model, window: Mapping[str, list[int]]) -> list[int]:
    """The padding before and after each axis, also where the node leaves it to the shapes."""
    axes = len(window["strides"])
    if _field(node, "auto_pad", b"NOTSET") in (b"NOTSET", b""):
        return list(_field(node, "pads", [0] * (2 * axes)))
    rows, made = model.shapes[node.input[0]][2:], model.shapes[node.output[0]][2:]
    reach = _reach(window)
    steps = zip(rows, made, window["strides"], reach, strict=True)
    total = [max((o - 1) * s + r - i, 0) for i, o, s, r in steps]
    upper = _field(node, "auto_pad", b"") == b"SAME_UPPER"
    first = [t // 2 if upper else t - t // 2 for t in total]
    return first + [t - f for t, f in zip(total, first, strict=True)]


def _left(window: Mapping[str, list[int]], pads: Sequence[int], small: Any, large: Any) -> Any:
    """What a transposed convolution must add at the ends to give back the larger grid."""
    axes = len(small)
    reach = _reach(window)
    return [
        large[i] - ((small[i] - 1) * window["strides"][i] + reach[i] - pads[i] - pads[i + axes])
        for i in range(axes)
    ]


def _conv(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients | None:
    weight = tape.value(node.input[1])
    if weight is None:
        return None
    window, group = _window(node, weight.shape[2:]), _field(node, "group", 1)
    pads = _pads(node, tape.model, window)
    back = [r - 1 - pad for r, pad in zip(_reach(window) * 2, pads, strict=True)]
    if set(window["strides"]) == {1} and min(back) >= 0:
        # as a convolution with the kernel turned round, which is faster than a transposed one
        turned = tape.const(_turned(np.asarray(weight, np.float32), group))
        return [tape.op("Conv", given, turned, group=group, pads=back, **window)]
    shapes = tape.shapes[node.output[0]][2:], tape.shapes[node.input[0]][2:]
    left = _left(window, pads, *shapes)
    fields: dict[str, Any] = {"group": group, "pads": pads, "output_padding": left, **window}
    return [tape.op("ConvTranspose", given, node.input[1], **fields)]


def _turned(weight: Array, group: int) -> Array:
    """Weights `(out, in / group, ...)` as those of the way back, `(in, out / group, ...)`."""
    parts = weight.reshape(group, -1, *weight.shape[1:]).swapaxes(1, 2)
    axes = tuple(range(3, parts.ndim))
    turned = np.flip(parts, axes).reshape(-1, parts.shape[2], *weight.shape[2:])
    return np.ascontiguousarray(turned)


def _conv_transpose(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients | None:
    weight = tape.value(node.input[1])
    if weight is None or _field(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        return None
    window = _window(node, weight.shape[2:])
    pads = list(_field(node, "pads", [0] * (2 * len(weight.shape[2:]))))
    group = _field(node, "group", 1)
    return [tape.op("Conv", given, node.input[1], group=group, pads=pads, **window)]


def _gemm(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients | None:
    if _field(node, "transA", 0) or tape.value(node.input[1]) is None:
        return None
    turned = 0 if _field(node, "transB", 0) else 1
    alpha = _field(node, "alpha", 1.0)
    return [tape.op("Gemm", given, node.input[1], transB=turned, alpha=alpha)]


def _matmul(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients | None:
    shapes = [tape.shapes.get(n, ()) for n in node.input]
    if min(len(s) for s in shapes) < 2:
        return None
    pairs = zip(node.input, shapes, strict=True)
    turned = [tape.op("Transpose", n, perm=_last_two(len(s))) for n, s in pairs]
    found = tape.op("MatMul", given, turned[1]), tape.op("MatMul", turned[0], given)
    made = tape.shapes[node.output[0]]
    wholes = [(*made[:-2], *s[-2:]) for s in shapes]
    return [_narrowed(tape, g, w, s) for g, w, s in zip(found, wholes, shapes, strict=True)]


def _last_two(axes: int) -> list[int]:
    return [*range(axes - 2), axes - 1, axes - 2]


# ---- element by element ----


def _narrowed(tape: _Tape, gradient: str, whole: Sequence[int], shape: Sequence[int]) -> str:
    """Sum a gradient over the axes along which its tensor was repeated."""
    if tuple(whole) == tuple(shape):
        return gradient
    extra = len(whole) - len(shape)
    axes = [i for i, n in enumerate(whole) if i < extra or (shape[i - extra] == 1 and n != 1)]
    summed = tape.op("ReduceSum", gradient, tape.const(axes, np.int64), keepdims=1)
    return tape.op("Reshape", summed, tape.const(shape, np.int64)) if extra else summed


def _both(tape: _Tape, node: onnx.NodeProto, gradients: Gradients) -> Gradients:
    """Gradients of a node with two operands, each narrowed to its own shape."""
    whole, fixed = tape.shapes[node.output[0]], tape.model.constants
    return [
        None if g is None or n in fixed else _narrowed(tape, g, whole, tape.shapes[n])
        for n, g in zip(node.input, gradients, strict=True)
    ]


def _add(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    return _both(tape, node, [given, given])


def _sub(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    return _both(tape, node, [given, tape.op("Neg", given)])


def _mul(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    return _both(tape, node, [tape.op("Mul", given, node.input[i]) for i in (1, 0)])


def _div(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    upper = tape.op("Div", given, node.input[1])
    lower = tape.op("Neg", tape.op("Mul", upper, node.output[0]))
    return _both(tape, node, [upper, lower])


def _sum(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    whole = tape.shapes[node.output[0]]
    return [_narrowed(tape, given, whole, tape.shapes[n]) for n in node.input]


def _sigmoid(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    slope = tape.op("Mul", node.output[0], tape.op("Sub", tape.const(1.0), node.output[0]))
    return [tape.op("Mul", given, slope)]


def _tanh(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    square = tape.op("Mul", node.output[0], node.output[0])
    return [tape.op("Mul", given, tape.op("Sub", tape.const(1.0), square))]


def _exp(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    return [tape.op("Mul", given, node.output[0])]


def _softplus(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    return [tape.op("Mul", given, tape.op("Sigmoid", node.input[0]))]


def _relu(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    return _mask(tape, tape.op("Greater", node.input[0], tape.const(0.0)), given)


def _clip(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    return _mask(tape, tape.op("Equal", node.input[0], node.output[0]), given)


def _leaky(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    below = tape.op("Less", node.input[0], tape.const(0.0))
    slope = tape.const(_field(node, "alpha", 0.01))
    return [tape.op("Where", below, tape.op("Mul", given, slope), given)]


def _prelu(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    below = tape.op("Less", node.input[0], tape.const(0.0))
    return [tape.op("Where", below, tape.op("Mul", given, node.input[1]), given)]


def _hard_sigmoid(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    made, zero, one = node.output[0], tape.const(0.0), tape.const(1.0)
    inside = tape.op("And", tape.op("Greater", made, zero), tape.op("Less", made, one))
    slope = tape.const(_field(node, "alpha", 0.2))
    return _mask(tape, inside, tape.op("Mul", given, slope))


def _hard_swish(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    x, three = node.input[0], tape.const(3.0)
    inner = tape.op("Add", tape.op("Div", x, three), tape.const(0.5))  # d x (x/6 + 1/2)
    outer = tape.op("Cast", tape.op("Greater", x, three), to=TensorProto.FLOAT)
    inside = tape.op("Less", tape.op("Abs", x), three)
    return [tape.op("Mul", given, tape.op("Where", inside, inner, outer))]


def _softmax(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    made, axis = node.output[0], _field(node, "axis", -1)
    both = tape.op("Mul", given, made)
    total = tape.op("ReduceSum", both, tape.const([axis], np.int64), keepdims=1)
    return [tape.op("Sub", both, tape.op("Mul", made, total))]


# ---- what only moves values ----


def _same(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    return [given]


def _reshape(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    shape = tape.const(tape.shapes[node.input[0]], np.int64)
    return [tape.op("Reshape", given, shape)]


def _transpose(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    axes = len(tape.shapes[node.input[0]])
    perm = _field(node, "perm", list(range(axes))[::-1])
    return [tape.op("Transpose", given, perm=[int(i) for i in np.argsort(perm)])]


def _concat(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
    axis = _field(node, "axis", 0)
    sizes = [tape.shapes[n][axis] for n in node.input]
    if len(sizes) == 1:
        return [given]
    last = tape.op("Split", given, tape.const(sizes, np.int64), outputs=len(sizes), axis=axis)
    return tape.names(last, len(sizes))


def _split(tape: _Tape, node: onnx.NodeProto, results: Sequence[str | None]) -> Gradients:
    parts = [
        tape.const(np.zeros(tape.shapes[o])) if g is None else g
        for o, g in zip(node.output, results, strict=True)
    ]
    return [tape.op("Concat", *parts, axis=_field(node, "axis", 0))]


def _slice(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients | None:
    values = [tape.value(n) for n in node.input[1:] if n]
    shape = tape.shapes[node.input[0]]
    if len(values) < 2 or any(v is None for v in values):
        return None
    starts, ends, *rest = ([int(i) for i in v.ravel()] for v in values if v is not None)
    axes = rest[0] if rest else list(range(len(starts)))
    if len(rest) > 1 and set(rest[1]) != {1}:
        return None
    pads = [0] * (2 * len(shape))
    for start, end, axis in zip(starts, ends, axes, strict=True):
        first, last, _ = slice(start, end).indices(shape[axis])
        pads[axis % len(shape)], pads[axis % len(shape) + len(shape)] = first, shape[axis] - last
    return [tape.op("Pad", given, tape.const(pads, np.int64))]


def _resize(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients | None:
    shape, made = tape.shapes[node.input[0]], tape.shapes[node.output[0]]
    if len(shape) != 4 or shape[:2] != made[:2]:
        return None
    rows = _resizing(tape, node, 2)  # (rows before, rows after)
    columns = _resizing(tape, node, 3).T
    found = tape.op("MatMul", tape.const(rows), tape.op("MatMul", given, tape.const(columns)))
    return [found]


def _resizing(tape: _Tape, node: onnx.NodeProto, axis: int) -> Array:
    """What a resize makes of each line of an axis, `(before, after)`: it is linear in them."""
    before, after = tape.shapes[node.input[0]][axis], tape.shapes[node.output[0]][axis]
    scales = tape.value(node.input[2]) if len(node.input) > 2 else None
    scale = float(scales[axis]) if scales is not None and scales.size else after / before
    fields = [a for a in node.attribute if a.name not in ("axes", "keep_aspect_ratio_policy")]
    alone = helper.make_node("Resize", ["x", "", "scales"], ["y"])
    alone.attribute.extend(fields)
    sizes = numpy_helper.from_array(np.asarray([1, 1, scale, 1], np.float32), "scales")
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [before, 1, before, 1])
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([alone], "resize", [image], [value], [sizes])
    opset = [helper.make_opsetid("", max(tape.model.opset, 11))]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    unit = np.eye(before, dtype=np.float32)[:, None, :, None]
    return Runner(proto.SerializeToString(), threads=1).run(unit)[0][:, 0, :, 0]


# ---- pooling ----


def _max_pool(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients | None:
    if _field(node, "storage_order", 0):
        return None
    fields = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    places = tape.op("MaxPool", node.input[0], outputs=2, **fields)
    shape = tape.shapes[node.input[0]]
    flat = tape.const([-1], np.int64)
    zeros = tape.const(np.zeros(int(np.prod(shape))))
    where, values = tape.op("Reshape", places, flat), tape.op("Reshape", given, flat)
    summed = tape.op("ScatterElements", zeros, where, values, axis=0, reduction="add")
    return [tape.op("Reshape", summed, tape.const(shape, np.int64))]


def _average_pool(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients | None:
    shape, made = tape.shapes[node.input[0]], tape.shapes[node.output[0]]
    window = _window(node, _field(node, "kernel_shape", []))
    pads = _pads(node, tape.model, window)
    left = _left(window, pads, made[2:], shape[2:])
    if min(left) < 0 or len(shape) != 4:
        return None  # a last window that hangs over the edge
    counted = np.ones(()) * np.prod(window["kernel_shape"])
    if not _field(node, "count_include_pad", 0):
        reach = [_counts(window, pads, shape[2:], made[2:], axis) for axis in (0, 1)]
        counted = reach[0][:, None] * reach[1][None]
    share = tape.op("Div", given, tape.const(counted))
    ones = tape.const(np.ones((shape[1], 1, *window["kernel_shape"])))
    fields: dict[str, Any] = {"group": shape[1], "pads": pads, "output_padding": left, **window}
    return [tape.op("ConvTranspose", share, ones, **fields)]


def _counts(
    window: Mapping[str, list[int]], pads: Sequence[int], shape: Any, made: Any, axis: int
) -> npt.NDArray[np.float64]:
    """How many lines of an axis each window holds, padding left out."""
    first = np.arange(made[axis]) * window["strides"][axis] - pads[axis]
    steps = np.arange(window["kernel_shape"][axis]) * window["dilations"][axis]
    lines = first[:, None] + steps[None]
    return ((lines >= 0) & (lines < shape[axis])).sum(axis=1).astype(np.float64)


def _reduce(mean: bool) -> Callable[[_Tape, onnx.NodeProto, str], Gradients]:
    """A sum or a mean gives every value that went into it the same share."""

    def rule(tape: _Tape, node: onnx.NodeProto, given: str) -> Gradients:
        shape = tape.shapes[node.input[0]]
        axes = _field(node, "axes", None)
        if node.op_type.startswith("Global"):
            axes = range(2, len(shape))
        elif len(node.input) > 1 and node.input[1]:
            axes = np.asarray(tape.value(node.input[1])).ravel()
        gone = {int(a) % len(shape) for a in (range(len(shape)) if axes is None else axes)}
        kept = [1 if i in gone else n for i, n in enumerate(shape)]
        spread = [n if i in gone else 1 for i, n in enumerate(shape)]
        share = 1 / np.prod(spread) if mean else 1.0
        whole = tape.op("Reshape", given, tape.const(kept, np.int64))
        return [tape.op("Mul", whole, tape.const(np.full(spread, share)))]

    return rule


RULES: dict[str, Rule] = {
    "Split": _split,
    **{
        kind: _simple(rule)
        for kind, rule in {
            "Conv": _conv,
            "ConvTranspose": _conv_transpose,
            "Gemm": _gemm,
            "MatMul": _matmul,
            "Add": _add,
            "Sub": _sub,
            "Mul": _mul,
            "Div": _div,
            "Sum": _sum,
            "Sigmoid": _sigmoid,
            "Tanh": _tanh,
            "Exp": _exp,
            "Softplus": _softplus,
            "Relu": _relu,
            "Clip": _clip,
            "LeakyRelu": _leaky,
            "PRelu": _prelu,
            "HardSigmoid": _hard_sigmoid,
            "HardSwish": _hard_swish,
            "Softmax": _softmax,
            "Identity": _same,
            "Reshape": _reshape,
            "Flatten": _reshape,
            "Squeeze": _reshape,
            "Unsqueeze": _reshape,
            "Transpose": _transpose,
            "Concat": _concat,
            "Slice": _slice,
            "Resize": _resize,
            "MaxPool": _max_pool,
            "AveragePool": _average_pool,
            "GlobalAveragePool": _reduce(mean=True),
            "ReduceMean": _reduce(mean=True),
            "ReduceSum": _reduce(mean=False),
        }.items()
    },
}
