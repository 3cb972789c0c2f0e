"""Merge a Focus (four interleaved slices, joined) with the convolution after it: exactly.

Taking every second pixel four times and convolving the quarters with `k` by `k` is one convolution
of `2k` by `2k` and stride 2. Chips that have no strided slice, or run it outside the NPU, are
spared it; Rockchip's compiler shifts the biases of a convolution that it has to merge itself.
"""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from onchip.graph.read import Model

Corner = tuple[int, int]  # of a quarter: its first row and column, 0 or 1


def merge_focus(model: Model) -> Model:
    """Return the model with every Focus merged into its convolution."""
    found = {}
    for node in model.proto.graph.node:
        if node.op_type == "Concat" and (merged := _merge(node, model)) is not None:
            conv, made, weight = merged
            found[conv] = (made, weight)
    if not found:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    nodes = [found[n.name][0] if n.name in found else n for n in proto.graph.node]
    used = _used(nodes, {o.name for o in proto.graph.output})
    kept = [n for n in nodes if any(o in used for o in n.output)]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    proto.graph.initializer.extend(weight for _, weight in found.values())
    read = {name for n in kept for name in n.input}
    weights = [t for t in proto.graph.initializer if t.name in read]
    del proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.initializer.extend(weights)
    return model.changed(proto)


def _used(nodes: list[onnx.NodeProto], outputs: set[str]) -> set[str]:
    used = set(outputs)
    for node in reversed(nodes):
        if used & set(node.output):
            used |= set(node.input)
    return used


def _merge(
    concat: onnx.NodeProto, model: Model
) -> tuple[str, onnx.NodeProto, onnx.TensorProto] | None:
    """Return the convolution's name, what takes its place, and its weight."""
    readers = model.consumers.get(concat.output[0], [])
    if len(readers) != 1 or not _is_plain(readers[0]) or len(concat.input) != 4:
        return None
    conv = readers[0]
    quarters = [_quarter(name, model) for name in concat.input]
    sources = {q[0] for q in quarters if q is not None}
    corners = [q[1] for q in quarters if q is not None]
    if len(sources) != 1 or len(set(corners)) != 4 or conv.input[1] not in model.constants:
        return None
    weight = np.asarray(model.constants[conv.input[1]])
    if weight.ndim != 4 or weight.shape[1] % 4:
        return None
    weight = _woven(weight, corners)
    made = onnx.NodeProto()
    made.CopyFrom(conv)
    made.input[0], made.input[1] = sources.pop(), f"{conv.name}/focus"
    fields = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
    del made.attribute[:]
    fields |= {"kernel_shape": weight.shape[2:], "strides": [2, 2]}
    fields["pads"] = [2 * p for p in fields.get("pads", [0, 0, 0, 0])]
    made.attribute.extend(helper.make_attribute(k, v) for k, v in fields.items())
    return conv.name, made, numpy_helper.from_array(weight, made.input[1])


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution of stride 1 over all channels."""
    fields = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    ones = [fields.get(n, [1, 1]) for n in ("strides", "dilations")]
    automatic = fields.get("auto_pad", b"NOTSET") != b"NOTSET"
    plain = all(list(o) == [1, 1] for o in ones) and fields.get("group", 1) == 1
    return node.op_type == "Conv" and plain and not automatic


def _quarter(name: str, model: Model) -> tuple[str, Corner] | None:
    """Return the tensor that every second pixel is taken from, and which of the four it is."""
    starts: dict[int, int] = {}
    while (node := model.producers.get(name)) is not None and node.op_type == "Slice":
        window = _window(node, model)
        if window is None or window.keys() & starts.keys():
            return None
        starts |= window
        name = node.input[0]
    if starts.keys() != {2, 3} or not set(starts.values()) <= {0, 1}:
        return None
    shape = model.shapes.get(name, ())
    even = len(shape) == 4 and shape[2] % 2 == 0 and shape[3] % 2 == 0 and 0 not in shape[2:]
    return (name, (starts[2], starts[3])) if even else None


def _window(node: onnx.NodeProto, model: Model) -> dict[int, int] | None:
    """Return axis to start of a Slice that takes every second pixel to the end, or None."""
    if len(node.input) != 5 or any(n not in model.constants for n in node.input[1:]):
        return None
    starts, ends, axes, steps = (model.constants[n].ravel().tolist() for n in node.input[1:])
    shape = model.shapes.get(node.input[0], ())
    if len(shape) != 4 or any(s != 2 for s in steps) or not set(axes) <= set(range(-4, 4)):
        return None
    if not len(starts) == len(ends) == len(axes):
        return None
    if any(end < shape[axis] for end, axis in zip(ends, axes, strict=True)):
        return None
    return {axis % 4: start for axis, start in zip(axes, starts, strict=True)}


def _woven(weight: npt.NDArray[np.generic], corners: list[Corner]) -> npt.NDArray[np.generic]:
    """Return weights `(out, 4 * c, k, k)` of the quarters as `(out, c, 2 * k, 2 * k)`."""
    out, channels, rows, columns = weight.shape
    each = channels // 4
    woven = np.zeros((out, each, 2 * rows, 2 * columns), weight.dtype)
    for number, (top, left) in enumerate(corners):
        woven[:, :, top::2, left::2] = weight[:, number * each : (number + 1) * each]
    return woven
