"""What the compiler's parser takes and refuses, and what it recommends instead.

Sources: public logs of DFC 3.28 to 3.33 and the public threads that quote its exceptions. It takes
names of nodes, not of tensors; stops at the first reshape or selection of a decoder; and recommends
the last nodes before that, which is the joined tensor rather than the convolutions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from hailo_sdk_client.model_translator.exceptions import (
    MisspellNodeError,
    ParsingWithRecommendationException,
    UnsupportedModelError,
)

from hailo_standin.network import ACTIVATIONS, KINDS, MOVES, Network, network
from hailo_standin.said import info, timed
from onchip.graph import read
from onchip.graph.clean import clean
from onchip.graph.read import Model

SUPPORTED = {*KINDS, *ACTIVATIONS, *MOVES}
FIXED = {"Constant", "ConstantOfShape", "Shape", "Range"}
BINS = 64  # 4 sides of 16


@dataclass(frozen=True)
class Grid:
    """The convolutions that end one level: boxes, classes and objectness, or one for all."""

    height: int
    convs: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """A head that HailoRT can decode: its architecture and where it begins."""

    kind: str
    grids: tuple[Grid, ...]
    ends: tuple[str, ...]


@dataclass(frozen=True)
class Parsed:
    """A network and what was seen of its head."""

    network: Network
    structure: Structure | None
    ends: tuple[str, ...]


def translate(
    model: str,
    name: str,
    starts: Sequence[str] | None,
    ends: Sequence[str] | None,
    shapes: Mapping[str, Sequence[int]] | None,
) -> Parsed:
    """Parse an ONNX file; says what it finds."""
    info(f"Translation started on ONNX model {name}")
    with timed(f"Translation completed on ONNX model {name} (completion time: {{time}})"):
        with timed(f"Restored ONNX model {name} (completion time: {{time}})"):
            whole = _loaded(model, shapes)
        with timed("Extracted ONNXRuntime meta-data for Hailo model (completion time: {time})"):
            seen = structure(whole)
        if seen is not None:
            info(f"NMS structure of {seen.kind} (or equivalent architecture) was detected.")
            info("In order to use HailoRT post-processing capabilities, these end node names should "
                 f"be used: {' '.join(seen.ends)}.")  # fmt: skip
        _start(whole, starts)
        parsed = _cut(whole, name, ends, seen)
        entry = whole.inputs[0].name
        info(f"Start nodes mapped from original model: '{entry}': '{name}/input_layer1'.")
        listed = ", ".join(f"'{e}'" for e in parsed.ends)
        info(f"End nodes mapped from original model: {listed}.")
    return parsed


def reparsed(data: bytes, name: str, size: tuple[int, int], ends: Sequence[str]) -> Parsed:
    """Parse again what a HAR holds, and say nothing."""
    model = Model(read.parse(data, name), "")
    whole = read.prepared(model, size)
    return _cut(whole, name, ends, structure(whole))


def _loaded(path: str, shapes: Mapping[str, Sequence[int]] | None) -> Model:
    proto = onnx.load(path)  # raises what a user sees where it is no ONNX file
    onnx.checker.check_model(proto)
    for node in proto.graph.node:
        if node.op_type == "Conv" and "kernel_shape" not in [a.name for a in node.attribute]:
            raise IndexError("list index out of range")
    model = read.load(Path(path))
    entry = model.inputs[0]
    size = None
    if shapes is not None:
        if list(shapes) != [entry.name]:
            raise UnsupportedModelError(f"net_input_shapes names {list(shapes)}, not {entry.name}")
        given = list(shapes[entry.name])
        if len(given) != 4 or given[:2] != [1, 3]:
            raise UnsupportedModelError(f"net_input_shapes: {given} is no [1, 3, H, W]")
        size = (given[3], given[2])
    elif 0 in entry.shape[2:]:
        raise UnsupportedModelError(
            f"Dynamic shapes are not supported: {entry.name} {entry.shape}; give net_input_shapes"
        )
    if entry.dtype != "float32":
        raise UnsupportedModelError(f"The input {entry.name} is {entry.dtype}, not float32")
    return read.prepared(model, size)


def _start(whole: Model, starts: Sequence[str] | None) -> None:
    known = whole.inputs[0].name
    if starts is not None and list(starts) != [known]:
        raise MisspellNodeError(
            f"Unable to find start node names: {list(starts)}, please verify and try again."
        )


def _cut(whole: Model, name: str, ends: Sequence[str] | None, seen: Structure | None) -> Parsed:
    by_name = {n.name: n for n in whole.proto.graph.node}
    if ends is None:
        tensors = [o.name for o in whole.outputs]
        ends = [whole.producers[t].name for t in tensors]
    else:
        if unknown := [e for e in ends if e not in by_name]:
            raise MisspellNodeError(
                f"Unable to find end node names: {unknown}, please verify and try again."
            )
        tensors = [by_name[e].output[0] for e in ends]
    places = {o: at for at, n in enumerate(whole.proto.graph.node) for o in n.output}
    model = _in_order(clean(read.cut_at(whole, tuple(tensors)), check=False).model, places)
    if faults := _faults(model):
        _refuse(model, faults)
    return Parsed(network(name, model, tensors, places), seen, tuple(ends))


def _in_order(model: Model, places: Mapping[str, int]) -> Model:
    """Return a graph with its nodes as they were in the file, those that are new at their readers."""
    nodes = list(model.proto.graph.node)
    place = {id(n): min((places[o] for o in n.output if o in places), default=-1) for n in nodes}
    for node in reversed(nodes):
        if place[id(node)] < 0:
            readers = [r for o in node.output for r in model.consumers.get(o, [])]
            place[id(node)] = min((place[id(r)] for r in readers), default=0)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(sorted(nodes, key=lambda n: place[id(n)]))
    return model.changed(proto)


def _refuse(model: Model, faults: Mapping[str, str]) -> None:
    text = "Parsing failed. The errors found in the graph are:\n" + "\n".join(
        f" {f}" for f in faults.values()
    )
    recommended = recommendation(model, faults)
    if not recommended:
        raise UnsupportedModelError(text)
    info("Simplified ONNX model for a parsing retry attempt (completion time: 00:00:00.31)")
    raise ParsingWithRecommendationException(
        f"{text}\nPlease try to parse the model again, using these end node names: "
        f"{', '.join(recommended)}"
    )


def recommendation(model: Model, faults: Mapping[str, str]) -> list[str]:
    """Return the last nodes that can be parsed, of those that nothing else leads to."""
    nodes = [n for n in model.proto.graph.node if n.op_type not in FIXED]
    good: dict[str, onnx.NodeProto] = {}
    made = {model.inputs[0].name, *model.constants}
    for node in nodes:
        if node.name not in faults and all(not i or i in made for i in node.input):
            good[node.name] = node
            made.update(node.output)
    last = {o.name for o in model.outputs}
    front: dict[str, onnx.NodeProto] = {}
    for node in good.values():
        readers = [r for o in node.output for r in model.consumers.get(o, [])]
        if any(r.name not in good for r in readers) or last & set(node.output):
            before = model.producers.get(node.input[0])
            node = before if node.op_type == "Split" and before is not None else node
            front[node.name] = node
    return [n for n in front if not _leads(model, front, n)]


def _leads(model: Model, front: Mapping[str, onnx.NodeProto], name: str) -> bool:
    """Whether another node of the front stands before this one."""
    stack, done = list(front[name].input), set[str]()
    while stack:
        tensor = stack.pop()
        node = model.producers.get(tensor)
        if node is None or tensor in done:
            continue
        done.add(tensor)
        if node.name in front:
            return True
        stack.extend(node.input)
    return False


def _faults(model: Model) -> dict[str, str]:
    """Return what is said of each node that cannot be parsed, where all before it can."""
    found: dict[str, str] = {}
    made = {model.inputs[0].name}
    for node in model.proto.graph.node:
        moving = [i for i in node.input if i in made]
        if not moving and not any(i in model.producers for i in node.input):
            continue  # a constant
        fault = _fault(node, model) if moving else ""
        if fault:
            found[node.name] = fault
        elif all(i in made or i in model.constants or not i for i in node.input):
            made.update(node.output)
    return found


def _fault(node: onnx.NodeProto, model: Model) -> str:
    if node.op_type not in SUPPORTED:
        return (
            f"UnsupportedOperationError in op {node.name}: {node.op_type} operation is unsupported"
        )
    before, after = (len(model.shapes.get(t, ())) for t in (node.input[0], node.output[0]))
    shuffled = node.op_type == "Reshape" and ((before, after) == (3, 4) or after > 4)
    if shuffled and not _channel_shuffle(node, model):
        return (
            f"UnsupportedShuffleLayerError in op {node.name}: Failed to determine type of layer "
            f"to create in node {node.name}"
        )
    return ""


def _channel_shuffle(node: onnx.NodeProto, model: Model) -> bool:
    """Whether this begins the reshape, transpose and reshape of a ShuffleNet."""
    chain = [node]
    for kind in ("Transpose", "Reshape"):
        readers = model.consumers.get(chain[-1].output[0], [])
        if [r.op_type for r in readers] != [kind]:
            return False
        chain.append(readers[0])
    shapes = [model.shapes.get(t) for t in (node.input[0], chain[-1].output[0])]
    return shapes[0] == shapes[1]


def structure(model: Model) -> Structure | None:
    """Return the head that HailoRT could decode: its last convolutions, finest grid first."""
    grids: dict[int, list[onnx.NodeProto]] = {}
    for node in _last_convolutions(model):
        grids.setdefault(model.shapes[node.output[0]][2], []).append(node)
    found = [Grid(h, tuple(n.name for n in convs)) for h, convs in sorted(grids.items())[::-1]]
    if len(found) < 2 or len({len(g.convs) for g in found}) > 1:
        return None
    by_name = {n.name: n for n in model.proto.graph.node}
    channels = {n: model.shapes[by_name[n].output[0]][1] for g in found for n in g.convs}
    grids_ = [_ordered(g, channels) for g in found]
    kind = _kind([[channels[c] for c in g.convs] for g in grids_])
    if not kind:
        return None
    ends = [c for g in grids_ for c in g.convs]
    if kind in ("yolox", "yolov6"):
        ends = [_after_sigmoid(by_name[e], model) for e in ends]
    return Structure(kind, tuple(grids_), tuple(ends))


def _ordered(grid: Grid, channels: Mapping[str, int]) -> Grid:
    """Boxes first, then classes, then objectness."""
    convs = list(grid.convs)
    boxes = next((c for c in convs if channels[c] in (4, BINS)), None)
    if boxes is None:
        return grid
    rest = sorted((c for c in convs if c != boxes), key=lambda c: -channels[c])
    return Grid(grid.height, (boxes, *rest))


def _kind(grids: Sequence[Sequence[int]]) -> str:
    first = grids[0]
    if any(list(g) != list(first) for g in grids):
        return ""
    if len(first) == 1:
        return "yolov5" if first[0] % 3 == 0 and first[0] >= 18 else ""
    if len(first) == 2:
        return {BINS: "yolov8", 4: "yolov6"}.get(first[0], "")
    return "yolox" if len(first) == 3 and first[0] == 4 and first[2] == 1 else ""


def _after_sigmoid(node: onnx.NodeProto, model: Model) -> str:
    readers = model.consumers.get(node.output[0], [])
    return str(readers[0].name if [r.op_type for r in readers] == ["Sigmoid"] else node.name)


def _last_convolutions(model: Model) -> list[onnx.NodeProto]:
    """The convolutions after which no other comes; the one that sums a distribution is none."""
    followed: set[str] = set()
    last: list[onnx.NodeProto] = []
    for node in reversed(model.proto.graph.node):
        four = node.op_type == "Conv" and len(model.shapes.get(node.output[0], ())) == 4
        four = four and not _sums_bins(node, model)
        if four and not followed & set(node.output):
            last.append(node)
        if four or followed & set(node.output):
            followed.update(i for i in node.input if i not in model.constants)
    return last[::-1]


def _sums_bins(node: onnx.NodeProto, model: Model) -> bool:
    """Whether a convolution takes the mean of a distribution: its weights are 0, 1, 2, ..."""
    weight = model.constants.get(node.input[1], np.zeros(1))
    return weight.size > 1 and np.array_equal(weight.ravel(), np.arange(weight.size))
