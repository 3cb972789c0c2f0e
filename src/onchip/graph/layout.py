"""Forms of a graph that others expect: the outputs of a demo, the names of custom operations.

rknn_model_zoo's C++ demos take scores after their sigmoid and, where boxes and classes are apart,
one more tensor per level: the sum of all scores, by which they pass over cells that see nothing.
Source: the forks of the training code that the zoo names, and `postprocess.cc` of its examples.
"""

from collections import Counter
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import onnx
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from onchip.errors import InputError, UnsupportedError
from onchip.graph.prove import Cut
from onchip.graph.read import Model
from onchip.spec import HeadTensor, Layout, Verdict

CALLED = "onchip.custom_ops"  # the model's own note: node to the name of its custom operation


def laid_out(cut: Cut, layout: Layout) -> Cut:
    """Return the same cut with the outputs of a layout; its boxes and scores stay what they are.

    Args:
        cut: with one end layer per part of the head.
        layout: "onchip" changes nothing, and "frigate" nothing yet: its end is in float, so that it
            is added to what is compiled.

    Raises:
        UnsupportedError: rknn_model_zoo has no demo for this family.
    """
    if layout != "zoo":
        return cut
    if cut.head.family not in FAMILIES:
        raise UnsupportedError(
            f"rknn_model_zoo has no demo that reads a {cut.head.family} head",
            f"it has for {', '.join(sorted(FAMILIES))}; leave --layout out",
        )
    form, lay_out = _Form(cut.model), FAMILIES[cut.head.family]
    tensors = [t for s in cut.head.strides for t in lay_out(form, cut.head.level(s))]
    return Cut(form.model(), replace(cut.head, tensors=tuple(tensors)), cut.proof)


def verdicts(cut: Cut, layout: Layout) -> tuple[Verdict, ...]:
    """Say what a layout costs."""
    if layout == "zoo" and cut.head.family == "yolox":
        text = (
            "rknn_model_zoo's layout joins boxes and scores of YOLOX into one tensor, so that they "
            "share one scale: onchip verify shows what that costs"
        )
        return (Verdict(code="layout_joins", message=text, level="warning"),)
    return ()


class _Form:
    """Collects nodes that follow the cut, and the outputs in the order of the demo."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._outputs: list[tuple[str, int, tuple[int, ...]]] = []

    def add(self, op: str, name: str, *inputs: str, **fields: object) -> str:
        """Add a node that makes a tensor of its own name."""
        self._nodes.append(helper.make_node(op, list(inputs), [name], name, **fields))
        return name

    def const(self, name: str, value: object, kind: type) -> str:
        """Add a constant."""
        self._weights.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def output(self, name: str, channels: int, like: str) -> None:
        """Make a tensor an output; its grid is that of a tensor of the cut."""
        self._outputs.append((name, channels, self._model.shapes[like][2:]))

    def model(self) -> Model:
        """Return the cut graph with all that was added."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self._model.proto)
        proto.graph.node.extend(self._nodes)
        proto.graph.initializer.extend(self._weights)
        del proto.graph.output[:]
        proto.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, *grid))
            for name, channels, grid in self._outputs
        )
        return self._model.changed(proto)


def _apart(form: _Form, parts: tuple[HeadTensor, ...]) -> list[HeadTensor]:
    """Boxes, scores, and the sum of the scores (YOLOv6, v8 and after)."""
    box, kind = (next(p for p in parts if p.role == r) for r in ("box", "class"))
    scores = form.add("Sigmoid", f"{kind.name}/scores", kind.name)
    axes = form.const(f"{kind.name}/axes", [1], np.int64)
    total = form.add("ReduceSum", f"{kind.name}/total", scores, axes, keepdims=1)
    ends = [form.const(f"{kind.name}/{n}", v, np.float32) for n, v in (("least", 0), ("most", 1))]
    clipped = form.add("Clip", f"{kind.name}/sum", total, *ends)
    form.output(box.name, box.channels, box.name)
    form.output(scores, kind.channels, kind.name)
    form.output(clipped, 1, kind.name)
    return [box, replace(kind, name=scores, node=scores, activated=True)]


def _stacked(form: _Form, parts: tuple[HeadTensor, ...]) -> list[HeadTensor]:
    """All of an anchor in one tensor, all of it after the sigmoid (YOLOv5, v7)."""
    (whole,) = parts
    unit = form.add("Sigmoid", f"{whole.name}/unit", whole.name)
    form.output(unit, whole.channels, whole.name)
    return [replace(whole, name=unit, node=unit, activated=True)]


def _joined(form: _Form, parts: tuple[HeadTensor, ...]) -> list[HeadTensor]:
    """Box, objectness and scores in one tensor (YOLOX)."""
    box, thing, kind = (next(p for p in parts if p.role == r) for r in ("box", "object", "class"))
    units = [form.add("Sigmoid", f"{p.name}/unit", p.name) for p in (thing, kind)]
    joined = form.add("Concat", f"{box.name}/joined", box.name, *units, axis=1)
    form.output(joined, 5 + kind.channels, box.name)
    ends = np.cumsum([0, box.channels, thing.channels, kind.channels]).tolist()
    return [
        replace(p, name=joined, node=joined, start=a, stop=b, activated=p is not box)
        for p, a, b in zip((box, thing, kind), ends[:-1], ends[1:], strict=True)
    ]


FAMILIES: dict[str, Callable[[_Form, tuple[HeadTensor, ...]], list[HeadTensor]]] = {
    "yolov5": _stacked,
    "yolov6": _apart,
    "yolov8": _apart,
    "yolox": _joined,
}


def understood(model: Model, standard: Mapping[str, str]) -> Model:
    """Return the model with its custom operations under the names of what they compute.

    What they were called is noted in the model, for `named_back`.

    Args:
        model: as it was read.
        standard: custom operation to ONNX operation.

    Raises:
        InputError: the model has no such operation, or ONNX has none.
        UnsupportedError: an operation is neither ONNX's nor named in `standard`.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    called: dict[str, str] = {}
    for number, node in enumerate(proto.graph.node):
        if node.op_type in standard:
            node.name = node.name or f"{node.op_type}_{number}"
            called[node.name] = node.op_type
            node.op_type, node.domain = standard[node.op_type], ""
    if missing := sorted(standard.keys() - set(called.values())):
        raise InputError(f"the model has no operation {missing[0]}", "check --custom-op NAME=OP")
    _refuse_unknown(proto)
    if not called:
        return model
    note = proto.metadata_props.add()
    note.key, note.value = CALLED, msgspec.json.encode(called).decode()
    return model.changed(proto)


def _refuse_unknown(proto: onnx.ModelProto) -> None:
    ours = ("", "ai.onnx")
    found = Counter(
        n.op_type
        for n in proto.graph.node
        if n.domain in ours and not onnx.defs.has(n.op_type) and not proto.functions
    )
    if found:
        name, count = found.most_common(1)[0]
        raise UnsupportedError(
            f"the model has an operation that is not ONNX's: {name} (nodes: {count})",
            f"if it computes what an ONNX operation does, say which: --custom-op {name}=Softmax",
        )


def called(model: Model) -> dict[str, str]:
    """Return node to custom operation, for the nodes that are still in the graph."""
    try:
        noted = msgspec.json.decode(model.metadata.get(CALLED, "{}"), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise InputError(f"the model's note {CALLED} does not read: {error}") from error
    return {n.name: noted[n.name] for n in model.proto.graph.node if n.name in noted}


def named_back(proto: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """Return a graph with custom operations under their own names."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for node in made.graph.node:
        node.op_type = names.get(node.name, node.op_type)
    return made
