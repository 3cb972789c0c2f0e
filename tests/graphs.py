"""Complete little detectors with the heads of every family, as their exporters write them.

A few random convolutions make maps at strides 8, 16 and 32; the heads after them are whole, so that
recognising, cutting and proving them is the real thing and takes milliseconds.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)


class Net:
    """Collects nodes and weights; every method returns the name of a tensor."""

    def __init__(self, width: int = 96, height: int = 64, seed: int = 0, opset: int = 17) -> None:
        self.width, self.height, self.opset = width, height, opset
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, values: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, name: str = "", **fields: object):
        label = name or f"{kind}_{len(self.nodes)}"
        made = [f"{label}_out{i}" if i else f"{label}_out" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, label, **fields))
        return made[0] if outputs == 1 else tuple(made)

    def conv(
        self, x: str, c1: int, c2: int, k: int = 1, s: int = 1, gain: float = 1.0, name: str = ""
    ) -> str:
        scale = gain / np.sqrt(c1 * k * k)
        weight = self.const(self.random.normal(0, scale, (c2, c1, k, k)))
        bias = self.const(self.random.normal(0, 0.5, c2))
        return self.op("Conv", x, weight, bias, name=name, kernel_shape=[k, k], strides=[s, s],
                       pads=[k // 2] * 4)  # fmt: skip

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def norm(self, x: str, c: int) -> str:
        parts = [self.random.uniform(0.5, 1.5, c), self.random.normal(0, 0.2, c)]
        parts += [self.random.normal(0, 0.2, c), self.random.uniform(0.5, 1.5, c)]
        return self.op("BatchNormalization", x, *(self.const(p) for p in parts))

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.const(shape, np.int64))

    def split(self, x: str, sizes: Sequence[int], axis: int) -> tuple[str, ...]:
        if self.opset < 13:
            return self.op("Split", x, outputs=len(sizes), axis=axis, split=list(sizes))
        return self.op("Split", x, self.const(sizes, np.int64), outputs=len(sizes), axis=axis)

    def backbone(self, channels: int = 8, levels: int = 3) -> list[str]:
        x = self.silu(self.norm(self.conv("images", 3, channels, 3, 2), channels))
        x = self.silu(self.conv(x, channels, channels, 3, 2))
        maps = []
        for _ in range(levels):
            x = self.silu(self.conv(x, channels, channels, 3, 2, gain=2.0))
            maps.append(x)
        return maps

    def grid(self, level: int) -> tuple[int, int]:
        return self.height // STRIDES[level], self.width // STRIDES[level]

    def model(
        self, outputs: dict[str, str], notes: dict[str, str] | None = None
    ) -> onnx.ModelProto:
        infos = []
        for name, tensor in outputs.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [name], f"end_{name}"))
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        image = helper.make_tensor_value_info(
            "images", TensorProto.FLOAT, [1, 3, self.height, self.width]
        )
        graph = helper.make_graph(self.nodes, "net", [image], infos, self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        made.ir_version = 8
        made = onnx.shape_inference.infer_shapes(made)  # fills in the shapes of the outputs
        if notes:
            helper.set_model_props(made, notes)
        return made


def names(classes: int) -> dict[str, str]:
    return {"names": str({i: f"kind{i}" for i in range(classes)}), "stride": "32"}


def points(net: Net, offset: float, levels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Points (2, n) in grid units and strides (1, n)."""
    found, strides = [], []
    for level in range(levels):
        rows, columns = net.grid(level)
        y, x = np.mgrid[:rows, :columns]
        found.append(np.stack([x.ravel(), y.ravel()]) + offset)
        strides.append(np.full((1, rows * columns), STRIDES[level]))
    return np.concatenate(found, 1), np.concatenate(strides, 1)


def expected_distance(net: Net, box: str, bins: int, cells: int) -> str:
    """The mean of a softmax over `bins`, `(1, 4, cells)`, as a convolution with 0..n-1."""
    if bins == 1:
        return box
    x = net.reshape(box, 1, 4, bins, cells)
    x = net.op("Transpose", x, perm=[0, 2, 1, 3])
    x = net.op("Softmax", x, axis=1)
    steps = net.const(np.arange(bins).reshape(1, bins, 1, 1))
    x = net.op("Conv", x, steps, name="dfl_conv", kernel_shape=[1, 1])
    return net.reshape(x, 1, 4, cells)


def corners(net: Net, distances: str, offset: float) -> tuple[str, str]:
    grid, _ = points(net, offset)
    at = net.const(grid[None])
    low, high = net.split(distances, (2, 2), 1)
    return net.op("Sub", at, low), net.op("Add", at, high)


def centred(net: Net, distances: str, offset: float = 0.5) -> str:
    """Boxes `(1, 4, n)` as centre and size in pixels."""
    low, high = corners(net, distances, offset)
    center = net.op("Div", net.op("Add", low, high), net.const(2.0))
    boxes = net.op("Concat", center, net.op("Sub", high, low), axis=1)
    return net.op("Mul", boxes, net.const(points(net, offset)[1][None]))


def cornered(net: Net, distances: str, offset: float = 0.5) -> str:
    boxes = net.op("Concat", *corners(net, distances, offset), axis=1)
    return net.op("Mul", boxes, net.const(points(net, offset)[1][None]))


def two_branches(net: Net, bins: int, classes: int, prefix: str = "/model.22") -> tuple[str, str]:
    """A box and a class convolution per level: `(1, 4 * bins, n)` and `(1, classes, n)`."""
    boxes, kinds = [], []
    for level, x in enumerate(net.backbone()):
        rows, columns = net.grid(level)
        box = net.conv(x, 8, 4 * bins, name=f"{prefix}/cv2.{level}/cv2.{level}.2/Conv")
        kind = net.conv(x, 8, classes, name=f"{prefix}/cv3.{level}/cv3.{level}.2/Conv")
        boxes.append(net.reshape(box, 1, 4 * bins, rows * columns))
        kinds.append(net.reshape(kind, 1, classes, rows * columns))
    return net.op("Concat", *boxes, axis=2), net.op("Concat", *kinds, axis=2)


def cells(net: Net) -> int:
    return points(net, 0.5)[0].shape[1]


def yolov8(classes: int = 5, bins: int = 16, **size: int) -> onnx.ModelProto:
    net = Net(**size)
    box, kind = two_branches(net, bins, classes)
    boxes = centred(net, expected_distance(net, box, bins, cells(net)))
    return net.model(
        {"output0": net.op("Concat", boxes, net.op("Sigmoid", kind), axis=1)}, names(classes)
    )


def end_to_end(bins: int, classes: int = 5, **size: int) -> onnx.ModelProto:
    """YOLOv10 (16 bins) and YOLO26 (1): the network itself chooses the best, `(1, k, 6)`."""
    net, keep = Net(**size), 20
    box, kind = two_branches(net, bins, classes, "/model.23")
    boxes = cornered(net, expected_distance(net, box, bins, cells(net)))
    boxes = net.op("Transpose", boxes, perm=[0, 2, 1])
    scores = net.op("Transpose", net.op("Sigmoid", kind), perm=[0, 2, 1])
    best = net.op("ReduceMax", scores, axes=[2], keepdims=0)
    _, index = net.op("TopK", best, net.const([keep], np.int64), outputs=2, axis=1)
    wide = net.op("Unsqueeze", index, net.const([2], np.int64))
    rows = net.op(
        "GatherElements", boxes, net.op("Tile", wide, net.const([1, 1, 4], np.int64)), axis=1
    )
    times = net.const([1, 1, classes], np.int64)
    picked = net.op("GatherElements", scores, net.op("Tile", wide, times), axis=1)
    score = net.op("ReduceMax", picked, axes=[2], keepdims=1)
    label = net.op("Cast", net.op("ArgMax", picked, axis=2, keepdims=1), to=TensorProto.FLOAT)
    return net.model({"output0": net.op("Concat", rows, score, label, axis=2)}, names(classes))


def with_nms(classes: int = 5, **size: int) -> onnx.ModelProto:
    """YOLOv8 with NonMaxSuppression inside: `(1, k, 6)`, where k depends on the picture."""
    net = Net(**size)
    box, kind = two_branches(net, 16, classes)
    boxes = cornered(net, expected_distance(net, box, 16, cells(net)))
    boxes = net.op("Transpose", boxes, perm=[0, 2, 1])
    scores = net.op("Sigmoid", kind)
    most, overlap = net.const([20], np.int64), net.const([0.5])
    chosen = net.op("NonMaxSuppression", boxes, scores, most, overlap, net.const([0.3]))
    _, label, cell = net.split(chosen, (1, 1, 1), 1)
    flat = net.op("Squeeze", cell, net.const([1], np.int64))
    rows = net.op("Gather", boxes, flat, axis=1)
    place = net.op("Concat", label, cell, axis=1)
    score = net.op("GatherND", net.op("Squeeze", scores, net.const([0], np.int64)), place)
    columns = [
        net.op("Unsqueeze", score, net.const([0, 2], np.int64)),
        net.op("Unsqueeze", net.op("Cast", label, to=TensorProto.FLOAT), net.const([0], np.int64)),
    ]
    return net.model({"output0": net.op("Concat", rows, *columns, axis=2)}, names(classes))


def yolov6(bins: int = 1, classes: int = 5, **size: int) -> onnx.ModelProto:
    """Boxes, a column of ones for objectness, scores: `(1, n, 5 + classes)`."""
    net = Net(**size)
    box, kind = two_branches(net, bins, classes, "/detect")
    boxes = centred(net, expected_distance(net, box, bins, cells(net)))
    ones = net.const(np.ones((1, 1, cells(net))))
    whole = net.op("Concat", boxes, ones, net.op("Sigmoid", kind), axis=1)
    return net.model({"outputs": net.op("Transpose", whole, perm=[0, 2, 1])})


ANCHORS = (((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 119)))
ANCHORS += (((116, 90), (156, 198), (373, 326)),)


def yolov5(classes: int = 5, opset: int = 17, raw: bool = False, **size: int) -> onnx.ModelProto:
    """Anchors, `(1, n, 5 + classes)`; YOLOv7 decodes the same way."""
    net = Net(opset=opset, **size)
    outputs, width = [], 5 + classes
    for level, x in enumerate(net.backbone()):
        rows, columns = net.grid(level)
        x = net.conv(x, 8, 3 * width, name=f"/model.24/m.{level}/Conv")
        x = net.op("Transpose", net.reshape(x, 1, 3, width, rows, columns), perm=[0, 1, 3, 4, 2])
        if raw:
            outputs.append(x)
            continue
        xy, wh, rest = net.split(net.op("Sigmoid", x), (2, 2, 1 + classes), 4)
        grid_y, grid_x = np.mgrid[:rows, :columns]
        grid = np.stack([grid_x, grid_y], 2)[None, None] - 0.5
        twice = net.op("Mul", xy, net.const(2.0))
        center = net.op(
            "Mul", net.op("Add", twice, net.const(grid)), net.const(float(STRIDES[level]))
        )
        square = net.op("Pow", net.op("Mul", wh, net.const(2.0)), net.const(2.0))
        side = net.op("Mul", square, net.const(np.asarray(ANCHORS[level]).reshape(1, 3, 1, 1, 2)))
        boxes = net.op("Concat", center, side, rest, axis=4)
        outputs.append(net.reshape(boxes, 1, 3 * rows * columns, width))
    if raw:
        return net.model({f"output{i}": x for i, x in enumerate(outputs)}, names(classes))
    return net.model({"output0": net.op("Concat", *outputs, axis=1)}, names(classes))


def yolox(classes: int = 5, decoded: bool = False, **size: int) -> onnx.ModelProto:
    """Box, objectness and class per level; raw `(1, n, 5 + classes)` unless decoded."""
    net = Net(**size)
    rows_of = []
    for level, x in enumerate(net.backbone()):
        rows, columns = net.grid(level)
        parts = [net.conv(x, 8, 4, name=f"reg_{level}")]
        parts.append(net.op("Sigmoid", net.conv(x, 8, 1, name=f"obj_{level}")))
        parts.append(net.op("Sigmoid", net.conv(x, 8, classes, name=f"cls_{level}")))
        rows_of.append(
            net.reshape(net.op("Concat", *parts, axis=1), 1, 5 + classes, rows * columns)
        )
    table = net.op("Transpose", net.op("Concat", *rows_of, axis=2), perm=[0, 2, 1])
    if decoded:
        grid, strides = points(net, 0.0)
        xy, wh, rest = net.split(table, (2, 2, 1 + classes), 2)
        step = net.const(strides.T[None])
        center = net.op("Mul", net.op("Add", xy, net.const(grid.T[None])), step)
        table = net.op("Concat", center, net.op("Mul", net.op("Exp", wh), step), rest, axis=2)
    return net.model({"output": table})


def nanodet(classes: int = 5, bins: int = 8, **size: int) -> onnx.ModelProto:
    """NanoDet-Plus: one convolution per level, classes then distributions, `(1, n, width)`."""
    net = Net(**size)
    width, tables = classes + 4 * bins, []
    for level, x in enumerate(net.backbone()):
        rows, columns = net.grid(level)
        x = net.conv(x, 8, width, name=f"gfl_cls.{level}")
        kind, box = net.split(x, (classes, 4 * bins), 1)
        whole = net.op("Concat", net.op("Sigmoid", kind), box, axis=1)
        tables.append(net.reshape(whole, 1, width, rows * columns))
    table = net.op("Concat", *tables, axis=2)
    return net.model({"output": net.op("Transpose", table, perm=[0, 2, 1])})


def damo(classes: int = 5, bins: int = 17, **size: int) -> onnx.ModelProto:
    """Scores and boxes apart; points at the corner of the cell."""
    net = Net(**size)
    box, kind = two_branches(net, bins, classes, "/head")
    boxes = cornered(net, expected_distance(net, box, bins, cells(net)), 0.0)
    return net.model(
        {
            "scores": net.op("Transpose", net.op("Sigmoid", kind), perm=[0, 2, 1]),
            "boxes": net.op("Transpose", boxes, perm=[0, 2, 1]),
        }
    )


def ssd(classes: int = 5, **size: int) -> onnx.ModelProto:
    """Priors with variances, a softmax with background; corners as parts of the picture."""
    net = Net(**size)
    boxes, kinds, priors = [], [], []
    for level, x in enumerate(net.backbone()):
        rows, columns = net.grid(level)
        many = 3 if level == 0 else 4
        for values, width, name in ((boxes, 4, "loc"), (kinds, classes + 1, "conf")):
            y = net.conv(x, 8, many * width, name=f"{name}_{level}")
            y = net.op("Transpose", y, perm=[0, 2, 3, 1])
            values.append(net.reshape(y, 1, rows * columns * many, width))
        grid_y, grid_x = np.mgrid[:rows, :columns]
        for cell_y, cell_x in zip(grid_y.ravel(), grid_x.ravel(), strict=True):
            for n in range(many):
                side = 0.1 * (level + 1) * (1 + 0.3 * n)
                center = ((cell_x + 0.5) / columns, (cell_y + 0.5) / rows)
                priors.append((*center, side, side / (1 + n)))
    prior = np.asarray(priors)[None]
    box = net.op("Concat", *boxes, axis=1)
    xy, wh = net.split(box, (2, 2), 2)
    sizes = net.const(prior[..., 2:])
    shift = net.op("Mul", net.op("Mul", xy, net.const(0.1)), sizes)
    center = net.op("Add", shift, net.const(prior[..., :2]))
    side = net.op("Mul", net.op("Exp", net.op("Mul", wh, net.const(0.2))), sizes)
    half = net.op("Div", side, net.const(2.0))
    ends = net.op("Sub", center, half), net.op("Add", center, half)
    scores = net.op("Softmax", net.op("Concat", *kinds, axis=1), axis=2)
    return net.model({"boxes": net.op("Concat", *ends, axis=2), "scores": scores})


def rtdetr(classes: int = 5, together: bool = True, **size: int) -> onnx.ModelProto:
    """A fixed number of queries, each a box as parts of the picture and scores."""
    net = Net(**size)
    x = net.backbone()[0]
    rows, columns = net.grid(0)
    tokens = net.op("Transpose", net.reshape(x, 1, 8, rows * columns), perm=[0, 2, 1])
    boxes = net.op("MatMul", tokens, net.const(net.random.normal(0, 1, (8, 4))))
    kinds = net.op("MatMul", tokens, net.const(net.random.normal(0, 1, (8, classes))))
    boxes = net.op("Sigmoid", net.op("Add", boxes, net.const(net.random.normal(0, 1, 4))))
    kinds = net.op("Sigmoid", net.op("Add", kinds, net.const(net.random.normal(0, 1, classes))))
    if together:
        return net.model({"output0": net.op("Concat", boxes, kinds, axis=2)}, names(classes))
    return net.model({"boxes": boxes, "scores": kinds})


def rknn_fork(classes: int = 5, bins: int = 16, **size: int) -> onnx.ModelProto:
    """Nine outputs: per level box distributions, scores after the sigmoid, and their sum."""
    net = Net(**size)
    outputs = {}
    for level, x in enumerate(net.backbone()):
        box = net.conv(x, 8, 4 * bins, name=f"/model.22/cv2.{level}/cv2.{level}.2/Conv")
        kind = net.conv(x, 8, classes, name=f"/model.22/cv3.{level}/cv3.{level}.2/Conv")
        scores = net.op("Sigmoid", kind)
        total = net.op("ReduceSum", scores, net.const([1], np.int64), keepdims=1)
        outputs[f"box{level}"] = box
        outputs[f"score{level}"] = scores
        outputs[f"sum{level}"] = net.op("Clip", total, net.const(0.0), net.const(1.0))
    return net.model(outputs, names(classes))


def classifier() -> onnx.ModelProto:
    net = Net()
    x = net.op("GlobalAveragePool", net.backbone()[-1])
    x = net.op("Flatten", x, axis=1)
    x = net.op("Gemm", x, net.const(net.random.normal(0, 1, (8, 10))), net.const(np.zeros(10)))
    return net.model({"probs": net.op("Softmax", x, axis=1)})


def no_boxes() -> onnx.ModelProto:
    """A picture in, a picture out."""
    net = Net()
    return net.model({"depth": net.conv(net.backbone()[0], 8, 1, name="last")})


BUILDERS: dict[str, Callable[..., onnx.ModelProto]] = {
    "yolov5": yolov5,
    "yolov5-raw": lambda **k: yolov5(raw=True, **k),
    "yolov6": yolov6,
    "yolov6-dfl": lambda **k: yolov6(bins=17, **k),
    "yolov8": yolov8,
    "yolov10": lambda **k: end_to_end(16, **k),
    "yolo26": lambda **k: end_to_end(1, **k),
    "yolov8-nms": with_nms,
    "yolox": yolox,
    "yolox-decoded": lambda **k: yolox(decoded=True, **k),
    "nanodet": nanodet,
    "damo": damo,
    "ssd": ssd,
    "rtdetr": rtdetr,
    "rtdetr-apart": lambda **k: rtdetr(together=False, **k),
    "rknn-fork": rknn_fork,
}
