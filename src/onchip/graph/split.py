"""Give boxes and classes a convolution each where one made both, so that each has its own scale.

Exact: the output channels of a convolution do not depend on each other.
"""

import numpy as np
import numpy.typing as npt
import onnx
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from onchip.graph.prove import Cut
from onchip.spec import HeadTensor


def split_ends(cut: Cut) -> Cut:
    """Return the same cut with one end layer per part of the head."""
    shared = {t.name for t in cut.head.tensors if _parts(cut, t.name) > 1}
    splittable = {n for n in shared if cut.model.producers[n].op_type == "Conv"}
    if not splittable:
        return cut
    proto = onnx.ModelProto()
    proto.CopyFrom(cut.model.proto)
    graph = proto.graph
    nodes = [n for n in graph.node if n.output[0] not in splittable]
    tensors: list[HeadTensor] = []
    for tensor in cut.head.tensors:
        if tensor.name not in splittable:
            tensors.append(tensor)
            continue
        node, weights = _slice(cut, tensor)
        nodes.append(node)
        graph.initializer.extend(weights)
        part = {"name": node.output[0], "node": node.name, "start": 0, "stop": tensor.channels}
        tensors.append(replace(tensor, **part))
    del graph.node[:]
    graph.node.extend(nodes)
    outputs = [o for o in graph.output if o.name not in splittable]
    del graph.output[:]
    graph.output.extend(outputs)
    for tensor in tensors:
        if tensor.name not in {o.name for o in outputs}:
            shape = (1, tensor.channels, *cut.model.shapes[_source(tensor.name)][2:])
            value = helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, shape)
            graph.output.append(value)
    return replace_cut(cut, proto, tuple(tensors))


def unstack(cut: Cut) -> Cut:
    """Return the same cut with boxes apart from scores where they are stacked by anchor (YOLOv5).

    The rows of the last convolution are sorted: boxes of all anchors, their objectness, classes.
    """
    stacked = [t for t in cut.head.tensors if _is_stacked(cut, t)]
    if not stacked:
        return cut
    proto = onnx.ModelProto()
    proto.CopyFrom(cut.model.proto)
    graph = proto.graph
    gone = {t.name for t in stacked}
    kept = [o for o in graph.output if o.name not in gone]
    nodes = [n for n in graph.node if n.output[0] not in gone]
    tensors = [t for t in cut.head.tensors if t.name not in gone]
    del graph.node[:], graph.output[:]
    graph.output.extend(kept)
    for tensor in stacked:
        for role, rows, parts in _unstacked(cut, tensor):
            node, weights = _rows(cut, tensor, role, rows)
            nodes.append(node)
            graph.initializer.extend(weights)
            shape = (1, len(rows), *cut.model.shapes[tensor.name][2:])
            value = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, shape)
            graph.output.append(value)
            tensors += [replace(p, name=node.output[0], node=node.name) for p in parts]
    graph.node.extend(nodes)
    return replace_cut(cut, proto, tuple(tensors))


def _is_stacked(cut: Cut, tensor: HeadTensor) -> bool:
    return tensor.role == "all" and cut.model.producers[tensor.name].op_type == "Conv"


def _unstacked(
    cut: Cut, tensor: HeadTensor
) -> list[tuple[str, npt.NDArray[np.int64], list[HeadTensor]]]:
    """Return what becomes of a stacked tensor: names, rows of the convolution, and its parts."""
    anchors = len(cut.head.anchors[0]) if cut.head.anchors else 1
    rows = np.arange(tensor.start, tensor.stop).reshape(anchors, -1)
    box, rest = rows[:, :4].ravel(), [rows[:, 4:5].ravel(), rows[:, 5:].ravel()]
    scores = [
        replace(tensor, role="object", start=0, stop=anchors),
        replace(tensor, role="class", start=anchors, stop=anchors + len(rest[1])),
    ]
    whole = replace(tensor, role="box", start=0, stop=len(box))
    return [("box", box, [whole]), ("scores", np.concatenate(rest), scores)]


def replace_cut(cut: Cut, proto: onnx.ModelProto, tensors: tuple[HeadTensor, ...]) -> Cut:
    """Return the cut with another graph and head tensors; its proof stands."""
    return Cut(cut.model.changed(proto), replace(cut.head, tensors=tensors), cut.proof)


def _source(name: str) -> str:
    """The tensor that a part was cut from."""
    return name.rpartition("/")[0]


def _parts(cut: Cut, name: str) -> int:
    return sum(t.name == name for t in cut.head.tensors)


def _slice(cut: Cut, tensor: HeadTensor) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    return _rows(cut, tensor, tensor.role, np.arange(tensor.start, tensor.stop))


def _rows(
    cut: Cut, tensor: HeadTensor, name: str, rows: npt.NDArray[np.int64]
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """Return a convolution that makes some of the channels, and its weights."""
    node = onnx.NodeProto()
    node.CopyFrom(cut.model.producers[tensor.name])
    node.name = f"{node.name}/{name}"
    node.output[0] = f"{tensor.name}/{name}"
    made = []
    for index in range(1, len(node.input)):
        values = np.asarray(cut.model.constants[node.input[index]])[rows]
        node.input[index] = f"{node.name}/{index}"
        made.append(numpy_helper.from_array(values, node.input[index]))
    return node, made
