"""Recognise a detection head from the graph's structure.

The layers at the end of the graph are grouped by the grid that they speak for; from the number of
layers per grid and their channels follow a few hypotheses, and `prove.py` keeps the one that
reproduces the network's own output. File names play no part.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from onchip.errors import UnsupportedError
from onchip.graph.read import Model, literal
from onchip.spec import Coding, HeadSpec, HeadTensor, Role, Scoring

LEARNED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
MOVES = frozenset(
    {"Reshape", "Transpose", "Concat", "Split", "Slice", "Squeeze", "Unsqueeze", "Flatten"}
    | {"Identity", "Cast", "Gather"}
)
TASKS = {
    "segment": "instance segmentation",
    "pose": "pose estimation",
    "obb": "oriented boxes",
    "classify": "classification",
}


@dataclass(frozen=True)
class EndLayer:
    """A layer after which nothing more is learned, and the grid that it speaks for."""

    node: str
    op: str
    tensor: str
    channels: int
    rows: int
    columns: int

    def describe(self) -> str:
        """One line for people."""
        return f"{self.node} ({self.op}, {self.channels} channels on {self.columns}x{self.rows})"


def end_layers(model: Model) -> tuple[EndLayer, ...]:
    """Return the last learned layers before the outputs, in the graph's order."""
    found: set[str] = set()
    seen: set[str] = set()
    stack = [o.name for o in model.outputs]
    while stack:
        name = stack.pop()
        if name in seen or (node := model.producers.get(name)) is None:
            continue
        seen.add(name)
        if _is_learned(node, model):
            found.add(node.output[0])
        else:
            stack.extend(node.input)
    return tuple(end_layer(n, model) for n in model.proto.graph.node if n.output[0] in found)


def _is_learned(node: onnx.NodeProto, model: Model) -> bool:
    """Whether a layer has weights of its own; the fixed 0..n-1 of a DFL does not count."""
    if node.op_type not in LEARNED or len(node.input) < 2:
        return False
    weights = [model.constants[n] for n in node.input[:2] if n in model.constants]
    if not weights:
        return False
    flat = np.ravel(weights[0])
    return not (flat.size < 64 and np.array_equal(flat, np.arange(flat.size)))


def end_layer(node: onnx.NodeProto, model: Model) -> EndLayer:
    """Return a node as an end layer."""
    shape = model.shapes.get(node.output[0], ())
    name = node.output[0]
    if len(shape) == 4:
        return EndLayer(node.name, node.op_type, name, shape[1], shape[2], shape[3])
    size = shape or (0,)
    return EndLayer(node.name, node.op_type, name, size[-1], 1, int(np.prod(size[:-1])))


def labels(model: Model) -> tuple[str, ...]:
    """Return the class names that the exporter wrote into the model, or none."""
    names = literal(model.metadata.get("names", "()"))
    values = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(values, list | tuple):
        return ()
    try:
        return tuple(str(n) for n in values)
    except ValueError:  # a number of thousands of digits
        return ()


def hypotheses(model: Model, ends: tuple[EndLayer, ...] | None = None) -> Iterator[HeadSpec]:
    """Yield the heads that these end layers could be, most likely first.

    Raises:
        UnsupportedError: the model says itself that it is not a detector, or is a classifier.
    """
    _refuse_other_tasks(model)
    ends = end_layers(model) if ends is None else ends
    found = [_grid_heads(_levels(ends), model), _query_heads(model)]
    if len(ends) == 1:
        found.append(_decoded_head(ends[0], model))
    yield from (head for heads in found for head in heads if head.classes > 0)


def _refuse_other_tasks(model: Model) -> None:
    task = model.metadata.get("task", "detect")
    if task in TASKS:
        raise UnsupportedError(
            f"the model is for {TASKS[task]}, as its metadata says (task: {task})",
            "onchip takes object detectors: models that give boxes and classes",
        )
    shapes = [model.shapes.get(o.name, o.shape) for o in model.outputs]
    if all(len(s) == 2 or (len(s) == 4 and s[2:] == (1, 1)) for s in shapes):
        raise UnsupportedError(
            f"the model has no boxes: its output is {list(shapes[0])}, as a classifier's",
            "onchip takes object detectors: models that give boxes and classes",
        )


def _levels(ends: tuple[EndLayer, ...]) -> list[list[EndLayer]]:
    """Group convolutions by grid, finest first; empty where this is not a grid head."""
    grids: dict[tuple[int, int], list[EndLayer]] = {}
    for end in ends:
        if end.op == "Conv" and end.channels and end.rows and end.columns:
            grids.setdefault((end.rows, end.columns), []).append(end)
    found = sorted(grids.items(), key=lambda item: -item[0][0] * item[0][1])
    if len({columns for _, columns in grids}) < len(grids):
        return []  # a level is known by its stride
    return [layers for _, layers in found]


def _grid_heads(levels: list[list[EndLayer]], model: Model) -> Iterator[HeadSpec]:
    counts = {len(layers) for layers in levels}
    if counts == {1}:
        yield from _one_layer_heads([layers[0] for layers in levels], model)
    elif counts == {2}:
        yield from _two_layer_heads(levels, model)
    elif counts == {3}:
        yield from _three_layer_heads(levels, model)


@dataclass(frozen=True)
class _Part:
    """A slice of an end layer's channels with its role."""

    layer: EndLayer
    role: Role
    start: int = 0
    stop: int = 0


def _head(
    model: Model,
    levels: list[list[_Part]],
    *,
    family: str,
    coding: Coding,
    scoring: Scoring,
    classes: int,
    **more: object,
) -> HeadSpec:
    width = _input_width(model)
    tensors = tuple(
        HeadTensor(
            name=p.layer.tensor,
            node=p.layer.node,
            role=p.role,
            stride=width / p.layer.columns,
            start=p.start,
            stop=p.stop or p.layer.channels,
        )
        for parts in levels
        for p in parts
    )
    named = labels(model)
    return HeadSpec(
        family=family,
        coding=coding,
        scoring=scoring,
        labels=named if len(named) == classes else tuple(f"class{i}" for i in range(classes)),
        tensors=tensors,
        **more,  # type: ignore[arg-type]
    )


def _input_width(model: Model) -> int:
    shape = model.inputs[0].shape
    return shape[2] if shape[3] == 3 else shape[3]


def _one_layer_heads(layers: list[EndLayer], model: Model) -> Iterator[HeadSpec]:
    """Anchors with everything stacked (YOLOv5, v7), or classes and distributions (NanoDet)."""
    channels = layers[0].channels
    if any(layer.channels != channels for layer in layers):
        return
    for classes, anchors in _anchor_splits(channels, layers, model):
        yield _head(
            model,
            [[_Part(layer, "all")] for layer in layers],
            family="yolov5",
            coding="anchor",
            scoring="object",
            classes=classes,
            offset=0.0,
            anchors=tuple(((1.0, 1.0),) * anchors for _ in layers),
        )
    for classes, box_first in _class_splits(channels, layers[0], model):
        bins = (channels - classes) // 4
        cuts = ((0, 4 * bins), (4 * bins, 0)) if box_first else ((classes, 0), (0, classes))
        yield _head(
            model,
            [[_Part(x, "box", *cuts[0]), _Part(x, "class", *cuts[1])] for x in layers],
            family="nanodet" if bins > 1 else "fcos",
            coding="dfl" if bins > 1 else "ltrb",
            scoring="class",
            classes=classes,
            reg_max=bins,
        )


def _anchor_splits(
    channels: int, layers: list[EndLayer], model: Model
) -> Iterator[tuple[int, int]]:
    """Yield (classes, anchors) that fit the channels and the number of predictions."""
    cells = sum(x.rows * x.columns for x in layers)
    widths = {n for o in model.outputs for n in model.shapes.get(o.name, ())[1:]}
    for width in sorted(widths):
        if width > 5 and channels % width == 0 and channels // width * cells in widths:
            yield width - 5, channels // width
    raw = [model.shapes.get(o.name, ()) for o in model.outputs]
    if len(raw) == len(layers) and channels % 3 == 0 and channels // 3 > 5:
        fits = [s for s in raw if len(s) == 5 or (len(s) == 4 and s[1] == channels)]
        if len(fits) == len(raw):
            yield channels // 3 - 5, 3


def _class_splits(channels: int, layer: EndLayer, model: Model) -> Iterator[tuple[int, bool]]:
    """Yield (classes, whether the box comes first) for one layer that holds both."""
    sizes = _split_sizes(layer, model)
    if len(sizes) == 2:
        pairs = [(sizes[1], True), (sizes[0], False)]
    else:
        named = len(labels(model))
        pairs = [(named, False), (named, True)] if named else []
    if len(sizes) == 2 and not _reaches(model, layer.tensor, "Softmax"):
        pairs.reverse()  # raw classes first, then distributions: NanoDet's own export
    for classes, box_first in pairs:
        rest = channels - classes
        if classes > 0 and rest >= 4 and rest % 4 == 0:
            yield classes, box_first


def _split_sizes(layer: EndLayer, model: Model) -> tuple[int, ...]:
    """The sizes into which the graph itself splits the layer's channels."""
    stack, seen = [layer.tensor], set()
    while stack:
        name = stack.pop()
        for node in model.consumers.get(name, []):
            if node.op_type == "Split":
                sizes = _sizes([model.shapes.get(o, ()) for o in node.output])
                if sum(sizes) == layer.channels:
                    return sizes
            if node.op_type in MOVES and node.output[0] not in seen:
                seen.add(node.output[0])
                stack.extend(node.output)
    return ()


def _sizes(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the sizes along the one axis on which shapes differ, or along the channels."""
    ranks = {len(s) for s in shapes}
    rank = ranks.pop() if len(ranks) == 1 else 0
    differ = [axis for axis in range(1, rank) if len({s[axis] for s in shapes}) > 1]
    if rank < 2 or len(differ) > 1:
        return ()
    return tuple(s[differ[0] if differ else 1] for s in shapes)


def _reaches(model: Model, tensor: str, op: str) -> bool:
    stack, seen = [tensor], set()
    while stack:
        for node in model.consumers.get(stack.pop(), []):
            if node.op_type == op:
                return True
            if node.output[0] not in seen:
                seen.add(node.output[0])
                stack.extend(node.output)
    return False


def _two_layer_heads(levels: list[list[EndLayer]], model: Model) -> Iterator[HeadSpec]:
    """A box layer and a class layer per grid (YOLOv6, v8 and after, DAMO-YOLO, SSD)."""
    for box in (0, 1):
        by_role = [_by_role(layers, levels[0], box) for layers in levels]
        by_place = [(layers[box], layers[1 - box]) for layers in levels]
        for ordered in [by_role] if by_role == by_place else [by_role, by_place]:
            parts = [[_Part(b, "box"), _Part(k, "class")] for b, k in ordered]
            boxes, kinds = [b.channels for b, _ in ordered], [k.channels for _, k in ordered]
            if any(n % 4 for n in boxes):
                continue
            if len(set(boxes)) == 1 and len(set(kinds)) == 1:
                yield from _distance_heads(model, parts)
            yield from _prior_heads(model, parts)


def _by_role(layers: list[EndLayer], first: list[EndLayer], box: int) -> tuple[EndLayer, EndLayer]:
    """Return (box, class) of one level. Levels may list the two in another order than the first."""
    wanted = first[box].channels
    if layers[0].channels != layers[1].channels and first[0].channels != first[1].channels:
        match = [x for x in layers if x.channels == wanted]
        if len(match) == 1:
            other = layers[1] if layers[0] is match[0] else layers[0]
            return match[0], other
    return layers[box], layers[1 - box]


def _distance_heads(model: Model, parts: list[list[_Part]]) -> Iterator[HeadSpec]:
    bins, classes = parts[0][0].layer.channels // 4, parts[0][1].layer.channels
    named = labels(model)
    if named and classes != len(named):
        return
    for offset in (0.5, 0.0):
        yield _head(
            model,
            parts,
            family=_distance_family(model, parts, bins, offset),
            coding="dfl" if bins > 1 else "ltrb",
            scoring="class",
            classes=classes,
            reg_max=bins,
            offset=offset,
        )


def _distance_family(model: Model, parts: list[list[_Part]], bins: int, offset: float) -> str:
    """Name the family: heads of one coding differ only in bins, offset and what the export says."""
    if offset == 0.0:
        return "damo-yolo"
    cells = sum(p[0].layer.rows * p[0].layer.columns for p in parts)
    with_objectness = (cells, 5 + parts[0][1].layer.channels)
    if any(model.shapes.get(o.name, ())[-2:] == with_objectness for o in model.outputs):
        return "yolov6"
    if bins == 1:
        return "yolo26"
    return "nanodet" if bins < 16 else "yolov8" if bins == 16 else "damo-yolo"


def _prior_heads(model: Model, parts: list[list[_Part]]) -> Iterator[HeadSpec]:
    """Several priors per cell (SSD), with or without a background class."""
    priors = [p[0].layer.channels // 4 for p in parts]
    widths = {p[1].layer.channels / n for p, n in zip(parts, priors, strict=True)}
    if len(widths) != 1 or max(priors) < 2 or (width := widths.pop()) != int(width):
        return
    options: tuple[tuple[Scoring, int], ...] = (("softmax", 0), ("class", 0), ("class", -1))
    for scoring, background in options:
        for order in ("xywh", "yxhw"):
            yield _head(
                model,
                parts,
                family="ssd",
                coding="prior",
                scoring=scoring,
                classes=int(width) - (background >= 0),
                anchors=tuple(((1.0, 1.0),) * n for n in priors),
                background=background,
                order=order,
            )


def _three_layer_heads(levels: list[list[EndLayer]], model: Model) -> Iterator[HeadSpec]:
    """Box, objectness and class per grid (YOLOX, early YOLOv6)."""
    parts = []
    for layers in levels:
        boxes = [x for x in layers if x.channels == 4]
        objects = [x for x in layers if x.channels == 1]
        if not boxes or not objects:
            return
        kinds = [x for x in layers if x is not boxes[0] and x is not objects[0]]
        parts.append(
            [_Part(boxes[0], "box"), _Part(objects[0], "object"), _Part(kinds[0], "class")]
        )
    if len({kind.layer.channels for _, _, kind in parts}) != 1:
        return
    codings: tuple[tuple[Coding, float], ...] = (("exp", 0.0), ("ltrb", 0.5))
    for coding, offset in codings:
        yield _head(
            model,
            parts,
            family="yolox" if coding == "exp" else "fcos",
            coding=coding,
            scoring="object",
            classes=parts[0][2].layer.channels,
            offset=offset,
        )


def _query_heads(model: Model) -> Iterator[HeadSpec]:
    """A fixed number of queries, each a box and class scores (DETR, RT-DETR)."""
    for box in _query_tensors(model, lambda n: n == 4):
        queries = model.shapes[box][1]
        for kind in _query_tensors(model, lambda n: n != 4):
            if model.shapes[kind][1] == queries:
                yield _query_head(model, box, kind)


def _decoded_head(end: EndLayer, model: Model) -> Iterator[HeadSpec]:
    """The whole network with its decoding, `(1, 4 + classes, n)`: cut where boxes are ready."""
    shape = model.shapes.get(end.tensor, ())
    if len(shape) != 3 or shape[1] < 5 or shape[2] < shape[1]:
        return
    parts: tuple[tuple[Role, int, int], ...] = (("box", 0, 4), ("class", 4, shape[1]))
    tensors = tuple(
        HeadTensor(
            name=end.tensor,
            node=end.node,
            role=role,
            stride=1.0,
            start=start,
            stop=stop,
            activated=True,
        )
        for role, start, stop in parts
    )
    named, classes = labels(model), shape[1] - 4
    yield HeadSpec(
        family="decoded",
        coding="xywh",
        scoring="class",
        labels=named if len(named) == classes else tuple(f"class{i}" for i in range(classes)),
        tensors=tensors,
    )


def _query_tensors(model: Model, fits: "object") -> list[str]:
    """Sigmoid outputs `(1, Q, C)` near the end of the graph, last first."""
    return [
        node.output[0]
        for node in reversed(model.proto.graph.node)
        if node.op_type == "Sigmoid"
        and len(shape := model.shapes.get(node.output[0], ())) == 3
        and shape[0] == 1
        and 1 < shape[1] <= 2000
        and fits(shape[2])  # type: ignore[operator]
    ][:4]


def _query_head(model: Model, box: str, kind: str) -> HeadSpec:
    classes = model.shapes[kind][2]
    named = labels(model)
    roles: tuple[tuple[str, Role], ...] = ((box, "box"), (kind, "class"))
    tensors = tuple(
        HeadTensor(
            name=name,
            node=model.producers[name].name,
            role=role,
            stride=1.0,
            start=0,
            stop=model.shapes[name][2],
            activated=True,
        )
        for name, role in roles
    )
    return HeadSpec(
        family="rtdetr",
        coding="query",
        scoring="class",
        labels=named if len(named) == classes else tuple(f"class{i}" for i in range(classes)),
        tensors=tensors,
    )
