"""The protobuf message inside a Hailo `.hef` file: the networks, their ends, what follows them.

Field numbers and enums are those of `hef.proto` in HailoRT's public sources, which are the same in
4.x and 5.x but for a few that 5.x added. Where a file can be read in several ways, this reads it as
HailoRT does: a network "flows" through operations if the extension HAILO_NET_FLOW says so, and on
chips built in layouts the layout of the lowest bitmap stands for all.
"""

import math
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from onchip.formats.protobuf import Value, Walk, double, single, text, uint, ulong

PostKind = Literal["yolov5", "yolox", "ssd", "iou", "yolov5_seg", "yolov8", "argmax", "softmax"]

NET_FLOW, MULTI_NETWORK = 13, 8  # extensions
MAX_DEPTH = 4  # muxes inside a mux
MAX_NETWORKS = 256  # HailoRT counts them in 8 bits
TENSOR, NOTE, OPERATION = 1200, 300, 1000  # about how many bytes one takes
WIDE = 4  # bytes of a letter, at most

# The order of a tensor's numbers on the host, by the compiler's code of that on the chip.
_ORDERS = {
    0: "NHWC", 1: "NHWC", 2: "NC", 3: "FCR", 4: "BAYER RGB", 5: "NHW", 6: "HAILO NMS BY CLASS",
    7: "F8CR", 8: "NHWC", 11: "YUY2", 13: "NHWC", 14: "NV12", 15: "NV21", 16: "I420",
}  # fmt: skip
# The same by the code of a pad, which is HailoRT's own.
_PAD_ORDERS = {
    1: "NHWC", 2: "NHWC", 3: "FCR", 4: "F8CR", 5: "NHW", 6: "NC", 7: "BAYER RGB",
    8: "12 BIT BAYER RGB", 10: "NHWC", 11: "NCHW", 12: "YUY2", 13: "NV12", 14: "NV21",
    15: "NV12", 16: "NV21",
}  # fmt: skip
_PLANES = {0: "NV12", 1: "NV21", 2: "I420"}
_ON_CHIP = 6  # NMS by the chip itself
_TYPES = {1: "uint8", 2: "uint16"}
_LOGIT_TYPES = {1: "uint8", 2: "uint16", 3: "float32"}
_BOX = 5  # numbers of a box: its sides and its score
_IOU = 10
_KINDS: Mapping[int, PostKind] = {
    7: "yolov5", 8: "yolox", 9: "ssd", _IOU: "iou", 11: "yolov5_seg", 12: "yolov8",
}  # fmt: skip
_DECODERS = {"yolov5": 4, "yolox": 3, "ssd": 9, "yolov5_seg": 3, "yolov8": 4}


class HefTensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of a network.

    `shape` is height, width, channels; of an NMS result it is classes, 5, boxes per class. `order`
    is what `hailortcli` prints. `original` are the nodes of the ONNX file that became this layer,
    the last one is its end. A value is `(code - zero) * scale`; one scale or zero stands for all
    channels. `low` and `high` are the calibrated range. `stream` names what carries the tensor from
    the chip, where that is another (a mux). `pad` is where a post-process takes it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    order: str
    original: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    zeros: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    network: int = 0
    context: int = 0
    transposed: bool = False
    stream: str = ""
    pad: int | None = None

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the largest value; that of its codes where no range was written."""
        if self.low or self.high:
            return self.low, self.high
        if not (self.scales and self.zeros) or self.dtype not in _TYPES.values():
            return None
        top = 255 if self.dtype == "uint8" else 65535
        return -self.zeros[0] * self.scales[0], (top - self.zeros[0]) * self.scales[0]


class HefDecoder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One level of a detector's head: the tensors it is made of, by name, in Hailo's terms.

    `anchors` are (width, height), in pixels for YOLO and parts of the image for SSD.
    """

    stride: int = 0
    reg: str = ""
    cls: str = ""
    obj: str = ""
    encoded: str = ""
    anchors: tuple[tuple[float, float], ...] = ()


class HefPost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What HailoRT does with a network's outputs on the host.

    `most` bounds the boxes of a class, `image` is height and width, `background` the class that is
    left out. With `boxes_only` nothing is suppressed. `scale_factors` and `box_order` are SSD's.
    """

    kind: PostKind
    name: str
    output: str
    inputs: tuple[str, ...] = ()
    classes: int = 0
    most: int = 0
    score: float = 0.0
    iou: float = 0.0
    background: int | None = None
    boxes_only: bool = False
    image: tuple[int, int] = (0, 0)
    decoders: tuple[HefDecoder, ...] = ()
    regression_length: int = 0
    division: int = 0
    scale_factors: tuple[int, int] = (0, 0)
    box_order: tuple[int, int, int, int] = (0, 0, 0, 0)
    mask: float = 0.0
    proto: tuple[int, int, str] | None = None  # count, stride, layer


class HefGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network of a file.

    `outputs` are what HailoRT hands over, in its order; `raw` what leaves the chip. `missing` are
    outputs that the file names and does not describe: their description was lost. `bottleneck` is
    how often per second the slowest part of the chip could run, and `latency` (seconds) comes from
    the compiler's simulation; neither counts loading contexts, nor the host. `layouts` are bitmaps
    of clusters, `operations` are counted by the 5.x compilers.
    """

    name: str
    networks: tuple[str, ...]
    contexts: int
    inputs: tuple[HefTensor, ...]
    outputs: tuple[HefTensor, ...]
    raw: tuple[HefTensor, ...]
    post: tuple[HefPost, ...] = ()
    layouts: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    bottleneck: float = 0.0
    latency: float = 0.0
    operations: int = 0


class Features(NamedTuple):
    """How the networks of a file are to be read. A `flow` of None is to be guessed."""

    flow: bool | None
    several: bool
    layouts: bool


class _Ends(NamedTuple):
    """The boundary of a core: what goes in, what comes out, and what several outputs become."""

    inputs: list[HefTensor]
    outputs: list[HefTensor]
    fused: dict[str, HefTensor]  # by the name of the output that is part of it


def group(walk: Walk, view: Value, features: Features) -> HefGroup:
    """Read one network."""
    operations = list(_operations(walk, view))
    cores = [o for o in operations if 4 in o.fields]
    flow = bool(cores) if features.flow is None else features.flow
    top = cores[0].fields[4] if flow and cores else view
    layouts = sorted(_layouts(walk, top), key=lambda pair: pair[0]) if features.layouts else []
    core = layouts[0][1] if layouts else top
    about = walk.last(_one(walk, core, 1), (3, 4, 6, 8))
    ends = _ends(walk, core, bool(about.get(3)))
    if flow and cores and walk.cut:
        _from_pads(walk, cores[0], ends, _streams(walk, view, core))
    edges = dict(_edges(walk, view))
    after = [o for o in operations if flow and (5 in o.fields or 6 in o.fields)]
    posts = [_post(walk, o, ends.outputs, edges) for o in after if walk.keep(TENSOR)]
    outputs, missing = _outputs(ends, posts, _order(walk, view, core, bool(layouts), flow))
    name = _name(walk, view)
    return HefGroup(
        name=name,
        networks=_networks(walk, view, core, name, features),
        contexts=sum(1 for _ in walk.each(core, 3)),
        inputs=tuple(ends.inputs),
        outputs=outputs,
        raw=tuple(ends.outputs),
        post=tuple(post for post, _ in posts),
        layouts=_bitmaps(walk, view, top),
        missing=missing,
        bottleneck=double(about.get(4)),
        latency=double(about.get(6)),
        operations=ulong(about.get(8)),
    )


class _Operation(NamedTuple):
    view: Value
    fields: Mapping[int, Value]


def _operations(walk: Walk, view: Value) -> Iterator[_Operation]:
    for found in walk.each(view, 8):
        if not walk.keep(OPERATION):
            return
        yield _Operation(found, walk.last(found, (1, 4, 5, 6)))


def _one(walk: Walk, view: Value | None, number: int) -> Value | None:
    return walk.last(view, (number,)).get(number)


def _layouts(walk: Walk, core: Value) -> Iterator[tuple[int, Value]]:
    """Yield each layout's bitmap and its own core."""
    for found in walk.each(core, 7):
        fields = walk.last(found, (1, 2))
        if 1 in fields and walk.keep(NOTE):
            yield uint(_one(walk, fields.get(2), 1)), fields[1]


def _bitmaps(walk: Walk, *places: Value) -> tuple[int, ...]:
    """The layouts, also those of which only the bitmap is there; a cut one has none."""
    found = {bitmap for place in places for bitmap, _ in _layouts(walk, place)}
    return tuple(sorted(found - {0}))


def _name(walk: Walk, view: Value) -> str:
    """The network's name, as HailoRT takes it: from the first layout, where there are any."""
    first = next(walk.each(view, 7), None)
    inner = view if first is None else _one(walk, first, 1)
    return text(_one(walk, _one(walk, inner, 1), 1))


def _networks(
    walk: Walk, view: Value, core: Value, name: str, features: Features
) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    if features.several:
        first = next(walk.each(view, 7), None)
        found = walk.texts(core, 6) or walk.texts(_one(walk, first, 1), 6)
    found = (found or (name,))[:MAX_NETWORKS]
    return tuple(f"{name}/{n}" for n in found if walk.keep(WIDE * (len(name) + len(n))))


def _streams(walk: Walk, view: Value, core: Value) -> tuple[str, ...]:
    """The names of the core's own outputs."""
    first = next(walk.each(view, 7), None)
    return walk.texts(core, 4) + walk.texts(_one(walk, first, 1), 4)


def _order(walk: Walk, view: Value, core: Value, layouts: bool, flow: bool) -> tuple[str, ...]:
    """The order of the outputs; where it is written changed over the years."""
    fused = _one(walk, core, 5)
    if _one(walk, fused, 1):
        return walk.texts(fused, 2)
    places = [core, view] if layouts and not flow else [view]
    for place in places:
        if found := walk.texts(place, 4):
            return found
    last = deque(walk.each(core, 3), maxlen=1)
    return walk.texts(_one(walk, last[0], 3), 5) if last else ()


# A core's boundary


def _ends(walk: Walk, core: Value, transposed: bool) -> _Ends:
    ends = _Ends([], [], {})
    fused = {
        tensor.name: tensor
        for layer in walk.each(_one(walk, core, 5), 3)
        if (tensor := _fused(walk, layer)) and walk.keep(TENSOR)
    }
    for index, context in enumerate(walk.each(core, 3)):
        for edge in walk.each(_one(walk, context, 3), 2):
            fields = walk.last(edge, (1, 2, 3, 4, 5, 6, 7, 8))
            if uint(_one(walk, fields.get(5), 3)):
                continue  # it passes between contexts, not to the host
            pad = uint(fields[7]) if 7 in fields else None
            place = _Place(uint(fields.get(6)), index, pad, transposed)
            into = ends.outputs if uint(fields.get(1)) else ends.inputs
            into.extend(_boundary(walk, fields, place))
            if fused and into is ends.outputs and into:
                _note_fused(walk, fields.get(3), fused, ends)
    return ends


class _Place(NamedTuple):
    """Where a tensor was found."""

    network: int = 0
    context: int = 0
    pad: int | None = None
    transposed: bool = False


def _boundary(walk: Walk, fields: Mapping[int, Value], place: _Place) -> Iterator[HefTensor]:
    """Yield what an edge layer carries: a layer, a mux's parts, or an image of several planes."""
    kind = uint(fields.get(2))
    if kind == 0:
        yield from _layer(walk, fields.get(3), place)
    elif kind == 1:
        yield from _mux(walk, fields.get(4), place, MAX_DEPTH)
    elif kind == 2:
        yield from _planes(walk, fields.get(8), place)


def _layer(walk: Walk, view: Value | None, place: _Place, stream: str = "") -> Iterator[HefTensor]:
    fields = walk.last(view, (1, 2, 3, 6))
    name = text(fields.get(1))
    if not _room(walk, name):
        return
    base = walk.last(fields.get(2), (1, 3, 5, 7, 11, 12))
    code = uint(base.get(7))
    shape = (uint(base.get(1)), uint(base.get(3)), uint(base.get(5)))
    dtype = _TYPES.get(uint(base.get(12)), "")
    turned = place.transposed or bool(fields.get(6))
    if turned and _ORDERS.get(code) != "NC":
        shape = (shape[1], shape[0], shape[2])
    if code == _ON_CHIP:
        shape, dtype = _on_chip(walk, _one(walk, base.get(11), 1)), "float32"
    yield _quantized(
        walk,
        fields.get(3),
        HefTensor(
            name=name,
            shape=shape,
            dtype=dtype,
            order=_ORDERS.get(code, f"format {code}"),
            original=walk.texts(view, 5),
            network=place.network,
            context=place.context,
            transposed=turned,
            stream=stream,
            pad=place.pad,
        ),
    )


def _quantized(walk: Walk, numeric: Value | None, tensor: HefTensor) -> HefTensor:
    fields = walk.last(numeric, (1, 2, 3, 4))
    return replace(
        tensor,
        scales=_alike(walk, walk.numbers(numeric, 6, "d")) or (single(fields.get(2)),),
        zeros=_alike(walk, walk.numbers(numeric, 5, "d")) or (single(fields.get(1)),),
        low=single(fields.get(3)),
        high=single(fields.get(4)),
    )


def _alike(walk: Walk, values: Sequence[float]) -> tuple[float, ...]:
    """The values, or only one where all are alike."""
    if values and values.count(values[0]) == len(values):
        return (values[0] + 0.0,)  # which makes 0 of -0
    return tuple(v + 0.0 for v in values) if walk.keep(32 * len(values)) else ()


def _on_chip(walk: Walk, nms: Value | None) -> tuple[int, int, int]:
    fields = walk.last(nms, (2, 3, 7))
    return uint(fields.get(2)), _BOX, uint(fields.get(3)) * (uint(fields.get(7)) or 1)


def _mux(walk: Walk, view: Value | None, place: _Place, depth: int) -> Iterator[HefTensor]:
    name = text(_one(walk, view, 1))
    if not depth:
        walk.cut = True
        return
    for part in walk.each(view, 5):
        fields = walk.last(part, (1, 2))
        if 2 in fields:
            inner = _mux(walk, fields[2], place, depth - 1)
            yield from (replace(tensor, stream=name) for tensor in inner)
        else:
            yield from _layer(walk, fields.get(1), place, stream=name)


def _planes(walk: Walk, view: Value | None, place: _Place) -> Iterator[HefTensor]:
    """An image whose planes travel apart; HailoRT leaves its type open ("auto")."""
    fields = walk.last(view, (1, 2, 4, 5, 6))
    planes = [
        tensor
        for plane in walk.each(view, 3)
        for tensor in _layer(walk, _one(walk, plane, 1), place)
    ]
    name = text(fields.get(1))
    if _room(walk, name):
        yield HefTensor(
            name=name,
            shape=(uint(fields.get(4)), uint(fields.get(5)), uint(fields.get(6))),
            dtype="auto",
            order=_PLANES.get(uint(fields.get(2)), ""),
            original=tuple(dict.fromkeys(n for p in planes for n in p.original)),
            network=place.network,
            context=place.context,
            pad=place.pad,
        )


def _fused(walk: Walk, view: Value) -> HefTensor | None:
    """An NMS result that the chip makes in several outputs, by groups of classes."""
    fields = walk.last(view, (1, 3))
    layers = list(_layer(walk, fields.get(1), _Place()))
    if not layers:
        return None
    return replace(layers[0], shape=_on_chip(walk, fields.get(3)), dtype="float32")


def _note_fused(
    walk: Walk, view: Value | None, fused: Mapping[str, HefTensor], ends: _Ends
) -> None:
    """Remember that the last output is only a part of another."""
    nms = _one(walk, _one(walk, _one(walk, view, 2), 11), 1)
    about = walk.last(nms, (5, 6))
    whole = text(_one(walk, about.get(6), 3))
    if about.get(5) and whole in fused:
        ends.fused[ends.outputs[-1].name] = fused[whole]


# Pads, operations, and the order of outputs


def _edges(walk: Walk, view: Value) -> Iterator[tuple[int, int]]:
    """Yield pairs of pads: where an operation takes its input, and the core's output there."""
    for edge in walk.each(view, 9):
        if not walk.keep(NOTE):
            return
        fields = walk.last(edge, (1, 2))
        yield uint(fields.get(2)), uint(fields.get(1))


def _from_pads(walk: Walk, core: _Operation, ends: _Ends, known: Container[str]) -> None:
    """Add what only the core's pads tell, of a file whose contexts were lost.

    A pad's name is its layer's and a number: "net/conv41_97".
    """
    for number, into in ((2, ends.inputs), (3, ends.outputs)):
        have = {t.pad for t in into} | {t.name for t in into}
        for view in walk.each(core.view, number):
            fields = walk.last(view, (1, 2, 3, 5, 6, 8))
            full = text(fields.get(2))
            short, _, tail = full.rpartition("_")
            name = short if tail.isdigit() and short in known else full
            if uint(fields.get(1)) in have or name in have or not _room(walk, full):
                continue
            into.append(_pad_tensor(walk, fields, name))


def _room(walk: Walk, name: str) -> bool:
    return walk.keep(TENSOR + WIDE * len(name))


def _pad_tensor(walk: Walk, fields: Mapping[int, Value], name: str) -> HefTensor:
    shape = walk.last(fields.get(6), (1, 3, 5))
    tensor = HefTensor(
        name=name,
        shape=(uint(shape.get(1)), uint(shape.get(3)), uint(shape.get(5))),
        dtype=_TYPES.get(uint(fields.get(8)), ""),
        order=_PAD_ORDERS.get(uint(fields.get(3)), ""),
        pad=uint(fields.get(1)),
    )
    return _quantized(walk, fields.get(5), tensor)


class _Pads(NamedTuple):
    """The core's output at a pad, or at the other end of that pad's edge."""

    outputs: Mapping[int | None, HefTensor]
    edges: Mapping[int, int]

    def __call__(self, pad: Value | None) -> str:
        """Return the output's name, or nothing."""
        number = uint(pad)
        found = self.outputs.get(number) or self.outputs.get(self.edges.get(number, -1))
        return found.name if found else ""


def _post(
    walk: Walk, operation: _Operation, outputs: Sequence[HefTensor], edges: Mapping[int, int]
) -> tuple[HefPost, HefTensor]:
    """Read an operation on the host, and what it gives."""
    pads = _Pads({t.pad: t for t in outputs if t.pad is not None}, edges)
    taken = (pads(_one(walk, p, 1)) for p in walk.each(operation.view, 2) if walk.keep(NOTE))
    pad = walk.last(_one(walk, operation.view, 3), (2, 3, 8))
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
    if uint(_one(walk, operation.fields[6], 1)):
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
        dtype=_LOGIT_TYPES.get(dtype) or (source.dtype if argmax else "float32"),
        order=_PAD_ORDERS.get(order) or chosen,
        network=source.network,
    )


def _boxes(post: HefPost, sources: Sequence[HefTensor]) -> HefTensor:
    """What NMS gives: boxes by class, with masks, or all boxes where nothing is suppressed."""
    classes = max(post.classes - (post.background is not None), 0)
    shape, order = (classes, _BOX, post.most), "HAILO NMS BY CLASS"
    if post.kind == "yolov5_seg":
        order = "HAILO NMS WITH BYTE MASK"
    elif post.boxes_only:
        anchors = {d.encoded: len(d.anchors) for d in post.decoders}
        cells = [t.shape[0] * t.shape[1] * anchors.get(t.name, 1) for t in sources]
        v8 = post.kind == "yolov8"
        shape = (1, sum(cells) // (2 if v8 else 1), (4 if v8 else _BOX) + post.classes)
        order = "NHWC"
    network = sources[0].network if sources else 0
    return HefTensor(name=post.output, shape=shape, dtype="float32", order=order, network=network)


def _nms(walk: Walk, view: Value, post: HefPost, pads: _Pads) -> HefPost:
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


def _head(walk: Walk, view: Value | None, post: HefPost, pads: _Pads) -> HefPost:
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


def _decoder(walk: Walk, view: Value, kind: PostKind, pads: _Pads) -> HefDecoder:
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


def _outputs(
    ends: _Ends, posts: Sequence[tuple[HefPost, HefTensor]], order: Sequence[str]
) -> tuple[tuple[HefTensor, ...], tuple[str, ...]]:
    """What HailoRT hands over, in its order; and what it would, had nothing been lost."""
    taken = {name for post, _ in posts for name in post.inputs}
    left = [ends.fused.get(t.name, t) for t in ends.outputs if t.name not in taken]
    found = {t.name: t for t in [*left, *(result for _, result in posts)]}
    rank = {name: place for place, name in reversed(list(enumerate(order)))}
    outputs = sorted(found.values(), key=lambda t: rank.get(t.name, len(order)))
    return tuple(outputs), tuple(dict.fromkeys(n for n in order if n not in found))
