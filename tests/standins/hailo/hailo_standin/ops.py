"""The decoding and suppression that HailoRT does on the host, as its sources describe it.

Sources: libhailort/src/net_flow/ops of HailoRT 4.23: a candidate passes at `score >= threshold`, a
box falls to a better one of its class at `IoU >= threshold`, boxes are parts of the image, and
scores are taken as they are: nothing here is a sigmoid except where an option asks for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onchip.detections import Detections
from onchip.vision.nms import nms

Array = npt.NDArray[Any]
BOX = 5  # y_min, x_min, y_max, x_max, score


class WrongSize(Exception):  # noqa: N818 - HailoRT's status HAILO_INVALID_ARGUMENT
    """A layer has not the channels that the post-process was told of."""


@dataclass(frozen=True)
class Decoder:
    """One level: which layers (by name) it reads, its stride, and its anchors in pixels (w, h)."""

    layers: tuple[str, ...]  # yolov8: reg, cls; yolox: reg, cls, obj; yolov5: all in one
    stride: int = 0
    anchors: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class PostProcess:
    """A whole post-process with its thresholds. `image` is height and width."""

    kind: str
    classes: int
    image: tuple[float, float]
    decoders: tuple[Decoder, ...]
    score: float = 0.2
    iou: float = 0.7
    most: int = 100
    bins: int = 16
    logits: bool = field(default=False)  # yolov5: the layers are not yet sigmoid

    @property
    def size(self) -> int:
        """How many floats one frame's answer takes, by class."""
        return self.classes * (1 + BOX * self.most)


def by_class(op: PostProcess, layers: Mapping[str, Array]) -> list[Array]:
    """Return each class's boxes `(n, 5)`, best first.

    Args:
        op: the post-process.
        layers: dequantized, `(H, W, C)`, by name.
    """
    boxes, classes = _CANDIDATES[op.kind](op, layers)
    order = np.argsort(-boxes[:, 4], kind="stable")
    boxes, classes = boxes[order], classes[order]
    return [_suppressed(boxes[classes == c], op.iou, op.most) for c in range(op.classes)]


def packed(found: Sequence[Array], op: PostProcess) -> Array:
    """Return the buffer that HailoRT fills: per class a count and its boxes, without gaps."""
    buffer = np.zeros(op.size, np.float32)
    at = 0
    for boxes in found:
        buffer[at] = len(boxes)
        buffer[at + 1 : at + 1 + boxes.size] = boxes.ravel()
        at += 1 + boxes.size
    return buffer


def padded(found: Sequence[Array], op: PostProcess) -> Array:
    """Return `(classes, 5, most)`, as the compiler's emulator gives it."""
    answer = np.zeros((op.classes, BOX, op.most), np.float32)
    for index, boxes in enumerate(found):
        answer[index, :, : len(boxes)] = boxes.T
    return answer


def _sized(layers: Mapping[str, Array], name: str, channels: int) -> Array:
    layer = layers[name]
    if layer.shape[-1] != channels:
        raise WrongSize(f"{name} has {layer.shape[-1]} channels, not {channels}")
    return layer


def _rows(boxes: Array, scores: Array, least: float) -> tuple[Array, Array]:
    """Boxes `(n, 4)` and scores `(n, classes)` as one row for each class that passes."""
    cells, classes = np.nonzero(scores >= least)
    rows = np.concatenate([boxes[cells], scores[cells, classes][:, None]], axis=1)
    return rows.astype(np.float32), classes


def _cells(height: int, width: int) -> tuple[Array, Array]:
    rows, columns = np.mgrid[:height, :width]
    return rows.ravel(), columns.ravel()


def _joined(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _yolov8(op: PostProcess, layers: Mapping[str, Array]) -> tuple[Array, Array]:
    parts = []
    for level in op.decoders:
        reg = _sized(layers, level.layers[0], 4 * op.bins)
        cls = _sized(layers, level.layers[1], op.classes)
        height, width = reg.shape[:2]
        rows, columns = _cells(height, width)
        logits = reg.reshape(-1, 4, op.bins)
        weights = np.exp(logits - logits.max(2, keepdims=True))
        sides = (weights * np.arange(op.bins)).sum(2) / weights.sum(2)
        step = np.array([level.stride / op.image[0], level.stride / op.image[1]])
        y, x = (rows + 0.5) * step[0], (columns + 0.5) * step[1]
        left, top, right, bottom = (sides * step[[1, 0, 1, 0]]).T
        boxes = np.stack([y - top, x - left, y + bottom, x + right], 1)
        parts.append(_rows(boxes, cls.reshape(-1, op.classes), op.score))
    return _joined(parts)


def _yolox(op: PostProcess, layers: Mapping[str, Array]) -> tuple[Array, Array]:
    parts = []
    for level in op.decoders:
        reg = _sized(layers, level.layers[0], 4)
        cls = _sized(layers, level.layers[1], op.classes)
        found = _sized(layers, level.layers[2], 1).reshape(-1, 1)
        height, width = reg.shape[:2]
        rows, columns = _cells(height, width)
        tx, ty, tw, th = reg.reshape(-1, 4).T
        y, x = (ty + rows) / height, (tx + columns) / width
        h, w = np.exp(th) / height, np.exp(tw) / width
        boxes = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], 1)
        scores = np.where(found >= op.score, cls.reshape(-1, op.classes) * found, -1)
        parts.append(_rows(boxes, scores, op.score))
    return _joined(parts)


def _yolov5(op: PostProcess, layers: Mapping[str, Array]) -> tuple[Array, Array]:
    parts = []
    for level in op.decoders:
        count = len(level.anchors)
        layer = _sized(layers, level.layers[0], count * (5 + op.classes))
        height, width = layer.shape[:2]
        rows, columns = _cells(height, width)
        values = layer.reshape(height * width, count, 5 + op.classes)
        values = 1 / (1 + np.exp(-values)) if op.logits else values
        for index, (wide, high) in enumerate(level.anchors):
            tx, ty, tw, th = values[:, index, :4].T
            y, x = (ty * 2 - 0.5 + rows) / height, (tx * 2 - 0.5 + columns) / width
            h, w = (2 * th) ** 2 * high / op.image[0], (2 * tw) ** 2 * wide / op.image[1]
            boxes = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], 1)
            found = values[:, index, 4:5]
            scores = np.where(found >= op.score, values[:, index, 5:] * found, -1)
            parts.append(_rows(boxes, scores, op.score))
    return _joined(parts)


_CANDIDATES = {"yolov8": _yolov8, "yolox": _yolox, "yolov5": _yolov5}


def _suppressed(boxes: Array, threshold: float, most: int) -> Array:
    """Keep the boxes `(n, 5)`, sorted by score, that no better one overlaps: the best `most`."""
    if not len(boxes):
        return np.zeros((0, BOX), np.float32)
    found = Detections(boxes[:, :4], boxes[:, 4], np.zeros(len(boxes), np.int64))
    kept = nms(found, threshold, most)
    return np.concatenate([kept.boxes, kept.scores[:, None]], axis=1).astype(np.float32)
