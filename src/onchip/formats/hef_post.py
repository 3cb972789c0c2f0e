"""What follows the chip, as the message of a `.hef` file describes it: NMS, argmax, softmax."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from onchip.formats.hef_values import BOX, TYPES, HefDecoder, HefPost, HefTensor, PostKind
from onchip.formats.protobuf import Value, Walk, double, text, uint

ROOM, NOTE = 1000, 300  # about how many bytes an operation takes, and a smaller thing
WIDE = 4  # bytes of a letter, at most

# The order of a tensor's numbers on the host, by the code of a pad.
PAD_ORDERS = {
    1: "NHWC", 2: "NHWC", 3: "FCR", 4: "F8CR", 5: "NHW", 6: "NC", 7: "BAYER RGB",
    8: "12 BIT BAYER RGB", 10: "NHWC", 11: "NCHW", 12: "YUY2", 13: "NV12", 14: "NV21",
    15: "NV12", 16: "NV21",
}  # fmt: skip
_IOU = 10
_KINDS: Mapping[int, PostKind] = {
    7: "yolov5", 8: "yolox", 9: "ssd", _IOU: "iou", 11: "yolov5_seg", 12: "yolov8",
}  # fmt: skip
_DECODERS = {"yolov5": 4, "yolox": 3, "ssd": 9, "yolov5_seg": 3, "yolov8": 4}


class Operation(NamedTuple):
    """A step of a network: the chip's, or one of those that follow on the host."""

    view: Value
    fields: Mapping[int, Value]


def operations(walk: Walk, view: Value) -> Iterator[Operation]:
    """Yield a network's operations: bytes, and what they hold (4 the chip's, 5 NMS, 6 logits)."""
    for found in walk.each(view, 8):
        if not walk.keep(ROOM):
            return
        yield Operation(found, walk.last(found, (1, 4, 5, 6)))


class Pads(NamedTuple):
    """The core's output at a pad, or at the other end of that pad's edge."""

    outputs: Mapping[int | None, HefTensor]
    edges: Mapping[int, int]

    def __call__(self, pad: Value | None) -> str:
        """Return the output's name, or nothing."""
        number = uint(pad)
        found = self.outputs.get(number) or self.outputs.get(self.edges.get(number, -1))
        return found.name if found else ""


def after(
    walk: Walk, operation: Operation, outputs: Sequence[HefTensor], edges: Mapping[int, int]
) -> tuple[HefPost, HefTensor]:
    """Read an operation on the host, and what it gives."""
    pads = Pads({t.pad: t for t in outputs if t.pad is not None}, edges)
    taken = (pads(walk.one(p, 1)) for p in walk.each(operation.view, 2) if walk.keep(NOTE))
    pad = walk.last(walk.one(operation.view, 3), (2, 3, 8))
    name, output = text(operation.fields.get(1)), text(pad.get(2))
    walk.keep(WIDE * (len(name) + len(output)))
    post = HefPost(
        kind="argmax",
        name=name,
        output=output,
        inputs=tuple(filter(None, taken)),
    )
    sources = [t for t in outputs if t.name in post.inputs]
    if 5 in operation.fields:
        post = _nms(walk, operation.fields[5], post, pads)
        return post, _boxes(post, sources)
    if uint(walk.one(operation.fields[6], 1)):
        post = replace(post, kind="softmax")
    return post, _logits(post, sources, uint(pad.get(3)), uint(pad.get(8)))


def _logits(post: HefPost, sources: Sequence[HefTensor], order: int, dtype: int) -> HefTensor:
    """What argmax or softmax gives: in the pad's order and type, or as HailoRT chooses."""
    source = sources[0] if sources else HefTensor(name="", shape=(0, 0, 0), dtype="", order="")
    argmax = post.kind == "argmax"
    chosen = source.order if not argmax or source.order == "NC" else "NHW"
    return HefTensor(
        name=post.output,
        shape=(*source.shape[:2], 1) if argmax else source.shape,
        dtype=TYPES.get(dtype) or (source.dtype if argmax else "float32"),
        order=PAD_ORDERS.get(order) or chosen,
        network=source.network,
    )


def _boxes(post: HefPost, sources: Sequence[HefTensor]) -> HefTensor:
    """What NMS gives: boxes by class, with masks, or all boxes where nothing is suppressed."""
    classes = max(post.classes - (post.background is not None), 0)
    shape, order = (classes, BOX, post.most), "HAILO NMS BY CLASS"
    if post.kind == "yolov5_seg":
        order = "HAILO NMS WITH BYTE MASK"
    elif post.boxes_only:
        anchors = {d.encoded: len(d.anchors) for d in post.decoders}
        cells = [t.shape[0] * t.shape[1] * anchors.get(t.name, 1) for t in sources]
        v8 = post.kind == "yolov8"
        shape = (1, sum(cells) // (2 if v8 else 1), (4 if v8 else BOX) + post.classes)
        order = "NHWC"
    network = sources[0].network if sources else 0
    return HefTensor(name=post.output, shape=shape, dtype="float32", order=order, network=network)


def _nms(walk: Walk, view: Value, post: HefPost, pads: Pads) -> HefPost:
    fields = walk.last(view, (1, 2, 3, 4, 5, 6, 13, *_KINDS))
    which = next((n for n in _KINDS if n in fields), _IOU)
    post = replace(
        post,
        kind=_KINDS[which],
        score=double(fields.get(1)),
        iou=double(fields.get(2)),
        most=uint(fields.get(3)),
        classes=uint(fields.get(4)),
        background=uint(fields.get(6)) if fields.get(5) else None,
        boxes_only=bool(fields.get(13)),
    )
    return post if which == _IOU else _head(walk, fields.get(which), post, pads)


def _head(walk: Walk, view: Value | None, post: HefPost, pads: Pads) -> HefPost:
    """Read what the kinds of NMS differ in; each has its own message with its own numbers."""
    about = walk.last(view, range(1, 9))
    found = (
        _decoder(walk, d, post.kind, pads)
        for d in walk.each(view, _DECODERS[post.kind])
        if walk.keep(NOTE)
    )
    post = replace(post, image=(_whole(about.get(1)), _whole(about.get(2))), decoders=tuple(found))
    third, fourth = uint(about.get(3)), uint(about.get(4))
    if post.kind == "ssd":
        y, x, h, w = (uint(about.get(n)) for n in (5, 6, 7, 8))
        return replace(post, scale_factors=(third, fourth), box_order=(y, x, h, w))
    if post.kind == "yolov5_seg":
        proto = walk.last(about.get(4), (1, 2, 3))
        masks = (uint(proto.get(1)), uint(proto.get(2)), text(proto.get(3))) if proto else None
        return replace(post, mask=double(about.get(5)), proto=masks)
    if post.kind == "yolov8":
        return replace(post, division=third, regression_length=uint(about.get(5)))
    return replace(post, division=third) if post.kind == "yolov5" else post


def _whole(value: Value | None) -> int:
    """A size that is written as a double."""
    number = double(value)
    return int(number) if math.isfinite(number) and 0 <= number < 1 << 31 else 0


def _decoder(walk: Walk, view: Value, kind: PostKind, pads: Pads) -> HefDecoder:
    fields = walk.last(view, (1, 2, 3, 4, 5))
    anchors: Iterable[tuple[float, float]]
    if kind in ("yolov5", "yolov5_seg"):
        anchors = zip(walk.integers(view, 3), walk.integers(view, 2), strict=False)
        stride, encoded = uint(fields.get(4)), pads(fields.get(5))
        return HefDecoder(stride=stride, encoded=encoded, anchors=tuple(anchors))
    if kind == "ssd":
        widths, heights = walk.numbers(view, 2, "f"), walk.numbers(view, 1, "f")
        room = walk.keep(120 * len(widths))
        anchors = zip(widths, heights, strict=False) if room else ()
        reg, cls = pads(fields.get(3)), pads(fields.get(4))
        return HefDecoder(reg=reg, cls=cls, anchors=tuple(anchors))
    return HefDecoder(
        stride=uint(fields.get(1)),
        reg=pads(fields.get(2)),
        cls=pads(fields.get(3)),
        obj=pads(fields.get(4)) if kind == "yolox" else "",
    )
