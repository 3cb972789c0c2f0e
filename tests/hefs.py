"""Small `.hef` files made in code, as Hailo's compiler lays them out: every header, every post-process.

    hefs.build(arch="hailo8l", name="yolov8n", inputs=[Layer("input_layer1", (640, 640, 3))],
               outputs=[Layer("conv41", (80, 80, 64), high=12), Layer("conv42", (80, 80, 80), high=1)],
               nms=Nms("yolov8", decoders=[{"stride": 8, "reg": "conv41", "cls": "conv42"}]),
               ccws=b"anything at all")

`proto` makes the protobuf message alone, `seal` puts any message behind a header with its checksum.
Names of layers are written as `<network>/<layer>`, as the compiler does.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import xxhash

MAGIC = 0x01484546
ARCHS = {
    "hailo8": 1, "hailo8l": 3, "hailo15m": 4, "hailo10h": 103, "hailo15l": 6, "hailo15h": 103, "mars": 108,
}  # fmt: skip
PARTIAL = {"hailo8l": (51, 204), "hailo15m": (1,)}  # cluster bitmaps of the chips built in layouts
INFO, MUX, PLANES = 0, 1, 2
BOUNDARY, INTERMEDIATE, DDR, CACHE = 0, 1, 2, 3
NHWC, NHCW, NC, NHW, ON_CHIP, RGB888, YUY2, YYUV, YYVU, YYYYUV = 0, 1, 2, 5, 6, 8, 11, 14, 15, 16
NET_FLOW, PERIPHERY, MULTI_CONTEXT = 13, 26, 4
POST_PROCESS = {"yolov5": 14, "yolox": 15, "ssd": 16, "iou": 17, "yolov5_seg": 24, "yolov8": 27, "argmax": 21, "softmax": 22}  # fmt: skip
NMS_FIELD = {"yolov5": 7, "yolox": 8, "ssd": 9, "iou": 10, "yolov5_seg": 11, "yolov8": 12}


@dataclass(frozen=True)
class Layer:
    """An input, an output, or (with a `connection` but BOUNDARY) what passes between contexts.

    `shape` is height, width, channels. One scale or zero stands for all channels. `low` and `high`
    are the calibrated range; a `high` of None is what the scale and the zero give. `parts` are the
    planes of an image, or the layers that a mux joins. `nms` describes on-chip NMS: the fields of
    its message by number; `whole` names the result of which it is only a part.
    """

    name: str
    shape: tuple[int, int, int]
    scales: tuple[float, ...] = (1.0,)
    zeros: tuple[float, ...] = (0.0,)
    low: float = 0.0
    high: float | None = None
    bits: int = 8
    format: int | None = None
    original: tuple[str, ...] = ()
    kind: int = INFO
    parts: tuple["Layer", ...] = ()
    planes: int = 0
    connection: int = BOUNDARY
    context: int = 0
    network: int = 0
    padded: tuple[int, int, int] | None = None
    transposed: bool = False
    nms: Mapping[int, int] | None = None
    whole: str = ""
    index: int = 0  # of the shared memory, so that no two layers are alike


@dataclass(frozen=True)
class Nms:
    """Boxes decoded and suppressed by HailoRT. `decoders` name layers: see `_decoder`."""

    kind: str
    name: str = "nms_postprocess"
    classes: int = 80
    most: int = 100
    score: float = 0.2
    iou: float = 0.7
    image: tuple[float, float] = (640.0, 640.0)
    decoders: Sequence[Mapping[str, Any]] = ()
    regression_length: int = 16
    division: int = 0
    background: int | None = None
    boxes_only: bool = False
    mask: float = 0.5
    proto: tuple[int, int, str] | None = None  # number, stride, layer
    scale_factors: tuple[int, int] = (10, 5)
    order: tuple[int, int, int, int] = (0, 1, 2, 3)


@dataclass(frozen=True)
class Logits:
    """Argmax or softmax computed by HailoRT over one layer."""

    kind: str
    layer: str
    name: str = "logits"


@dataclass(frozen=True)
class Group:
    """A network of the file, where it has several."""

    name: str
    inputs: Sequence[Layer]
    outputs: Sequence[Layer]
    nms: Nms | None = None
    logits: Logits | None = None
    others: Sequence[Layer] = ()
    contexts: int = 1
    networks: Sequence[str] = ()
    sorted_outputs: Sequence[str] | None = None
    fps: float = 1000.0
    latency: float = 0.005


# Protobuf, as it lies in a file


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def number(index: int, value: int, always: bool = False) -> bytes:
    return varint(index << 3) + varint(value) if value or always else b""


def text(index: int, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(index << 3 | 2) + varint(len(data)) + data


def texts(index: int, values: Sequence[str | bytes]) -> bytes:
    return b"".join(text(index, v) for v in values)


def double(index: int, value: float) -> bytes:
    return varint(index << 3 | 1) + struct.pack("<d", value) if value else b""


def single(index: int, value: float) -> bytes:
    return varint(index << 3 | 5) + struct.pack("<f", value) if value else b""


def packed(index: int, values: Sequence[float], kind: str = "d") -> bytes:
    return text(index, struct.pack(f"<{len(values)}{kind}", *values)) if values else b""


def packed_numbers(index: int, values: Sequence[int]) -> bytes:
    return text(index, b"".join(map(varint, values))) if values else b""


# The file


def build(
    *,
    version: int = 2,
    arch: str | int = "hailo8",
    name: str = "net",
    inputs: Sequence[Layer] = (),
    outputs: Sequence[Layer] = (),
    nms: Nms | None = None,
    logits: Logits | None = None,
    ccws: bytes = b"",
    sdk: str = "3.33.1",
    extensions: Sequence[int] | None = None,
    contexts: int = 1,
    padding: int = 0,
    additional: bytes = b"",
    groups: Sequence[Group] = (),
    **more: Any,
) -> bytes:
    """A whole file. `groups` stand for the network where there are several; `more` goes to `proto`.

    `ccws` is the payload: any bytes (in version 0 they lie in the message's mapping). `padding` and
    `additional` are of version 3.
    """
    group = Group(name, inputs, outputs, nms, logits, contexts=contexts,
                  **{k: more.pop(k) for k in ("others", "networks", "sorted_outputs", "fps", "latency") if k in more})  # fmt: skip
    if version == 0:
        more.setdefault("mapping", ccws)
        ccws = b""
    message = proto(arch=arch, groups=groups or [group], sdk=sdk, extensions=extensions, **more)
    return seal(message, version=version, ccws=ccws, padding=padding, additional=additional)


def seal(
    message: bytes,
    *,
    version: int = 2,
    ccws: bytes = b"",
    padding: int = 0,
    additional: bytes = b"",
) -> bytes:
    """A message behind the header of a version, with its right checksum."""
    start = struct.pack(">III", MAGIC, version, len(message))
    body = message if version == 0 else message + bytes(padding) + ccws + additional
    if version == 0:
        return start + struct.pack(">I", 0) + hashlib.md5(body).digest() + body
    if version == 1:
        return start + struct.pack(">IQI", zlib.crc32(body), len(ccws), 0) + body
    check = xxhash.xxh3_64_intdigest(body)
    if version == 2:
        return start + struct.pack(">QQQQ", check, len(ccws), 0, 0) + body
    sizes = (len(ccws) + padding, padding, len(additional))
    return start + struct.pack(">QQIQQQ", check, *sizes, 0, 0) + body


def proto(
    *,
    arch: str | int = "hailo8",
    groups: Sequence[Group],
    sdk: str = "3.33.1",
    extensions: Sequence[int] | None = None,
    optional: Sequence[int] = (),
    net_flow: bool = True,
    partial: Sequence[int] | None = None,
    mapping: bytes = b"",
    timestamp: int = 1_743_076_477_974,
    format_version: int = 5,
    sdk_numbers: tuple[int, int, int] | None = None,
    external: Sequence[tuple[int, int, str]] = (),
) -> bytes:
    """The message of a file. `extensions` of None are those that its networks need.

    `partial` are the cluster bitmaps of the layouts (two on a Hailo-8L). `sdk_numbers` is how the
    5.x compilers repeat their version.
    """
    if partial is None:
        partial = PARTIAL.get(str(arch), ())
    if extensions is None:
        extensions = _needed(groups, net_flow)
    header = (
        number(1, ARCHS[arch] if isinstance(arch, str) else arch)
        + number(2, timestamp)
        + text(3, sdk)
        + number(4, format_version)
    )
    if sdk_numbers:
        header += text(5, b"".join(number(i + 1, n) for i, n in enumerate(sdk_numbers)))
    resources = [number(1, at) + number(2, size) + text(3, what) for at, size, what in external]
    return (
        text(1, header)
        + texts(2, [_group(g, net_flow, partial) for g in groups])
        + (text(3, mapping) if mapping else b"")
        + texts(5, [number(1, e) + text(2, f"extension {e}") for e in extensions])
        + texts(6, [number(1, e) + text(2, f"extension {e}") for e in optional])
        + texts(7, resources)
    )


def _needed(groups: Sequence[Group], net_flow: bool) -> list[int]:
    found = {0, 3, PERIPHERY}
    if net_flow:
        found.add(NET_FLOW)
    for g in groups:
        found |= {POST_PROCESS[x.kind] for x in (g.nms, g.logits) if x}
        if g.contexts > 1:
            found.add(MULTI_CONTEXT)
    return sorted(found)


def _group(g: Group, net_flow: bool, partial: Sequence[int]) -> bytes:
    """A network: as ops where `net_flow`, else as the files before it, with the core alone."""
    meta = text(1, g.name) + double(4, g.fps) + number(5, 2) + double(6, g.latency)
    contexts = [_context(g, index) for index in range(g.contexts)]
    names = [f"{g.name}/{o.name}" for o in g.outputs]
    core = text(1, meta) + texts(3, contexts) + texts(4, names) + _fused(g)
    core += texts(6, g.networks or [g.name])
    if not net_flow:
        if not partial:
            return core
        layouts = texts(7, [text(1, core) + text(2, number(1, bitmap)) for bitmap in partial])
        return text(1, text(1, g.name)) + layouts
    post = g.nms or g.logits
    finals = g.sorted_outputs or ([f"{g.name}/{post.name}"] if post else names)
    if partial:  # a shallow copy of each layout, then the layouts themselves in the operation
        shallow = text(1, meta) + texts(4, names) + texts(6, g.networks or [g.name])
        copies = texts(7, [text(1, shallow) + text(2, number(1, bitmap)) for bitmap in partial])
        layouts = texts(7, [text(1, core) + text(2, number(1, bitmap)) for bitmap in partial])
        inner = text(1, b"") + texts(4, finals) + layouts
        return (
            texts(4, finals)
            + copies
            + texts(8, _ops(g, inner))
            + texts(9, _edges(g))
            + text(10, g.name)
        )
    return (
        text(1, meta)
        + texts(4, finals)
        + texts(6, g.networks or [g.name])
        + texts(8, _ops(g, core))
        + texts(9, _edges(g))
        + text(10, g.name)
    )


# Pads: the core's inputs are 0 …, its outputs 100 …, a post-process's inputs 200 …, its output 300.


def _taken(g: Group) -> list[Layer]:
    """The core's outputs that a post-process takes."""
    if g.logits:
        return [o for o in g.outputs if o.name == g.logits.layer]
    return list(g.outputs) if g.nms else []


def _ops(g: Group, core: bytes) -> list[bytes]:
    inputs = [_pad(i, g.name, x, 2) for i, x in enumerate(g.inputs)]
    outputs = [_pad(100 + i, g.name, x, 2) for i, x in enumerate(g.outputs)]
    found = [text(1, "core_op") + texts(2, inputs) + texts(3, outputs) + text(4, core)]
    taken = _taken(g)
    pads = [_pad(200 + g.outputs.index(x), g.name, x, 1) for x in taken]
    if g.nms:
        shape = number(1, g.nms.classes) + number(2, g.nms.most) + number(3, 5) + number(4, 1)
        out = number(1, 300) + text(2, f"{g.name}/{g.nms.name}") + number(3, 9) + text(7, shape)
        found.append(
            text(1, f"{g.name}/{g.nms.name}") + texts(2, pads) + text(3, out) + text(5, _nms(g))
        )
    if g.logits:
        h, w, c = taken[0].shape
        argmax = g.logits.kind == "argmax"
        shape = _shape((h, w, 1 if argmax else c))
        order = 5 if argmax else 1
        out = number(1, 300) + text(2, f"{g.name}/{g.logits.name}") + number(3, order) + text(6, shape) + number(8, argmax)  # fmt: skip
        kind = number(1, 0 if argmax else 1)
        found.append(
            text(1, f"{g.name}/{g.logits.name}") + texts(2, pads) + text(3, out) + text(6, kind)
        )
    return found


def _edges(g: Group) -> list[bytes]:
    places = [g.outputs.index(x) for x in _taken(g)]
    return [number(1, 100 + at) + number(2, 200 + at) for at in places]


def _pad(index: int, group: str, x: Layer, order: int) -> bytes:
    return (
        number(1, index)
        + text(2, f"{group}/{x.name}")
        + number(3, order)
        + text(5, _numeric(x))
        + text(6, _shape(x.shape))
        + number(8, x.bits // 8)
    )


def _shape(shape: tuple[int, int, int]) -> bytes:
    h, w, c = shape
    return number(1, h) + number(2, h) + number(3, w) + number(4, w) + number(5, c) + number(6, c)


def _nms(g: Group) -> bytes:
    n = g.nms
    assert n is not None
    pad = {o.name: 100 + i for i, o in enumerate(g.outputs)}  # the core's pads, not its own
    size = double(1, n.image[0]) + double(2, n.image[1])
    decoders = [_decoder(n.kind, d, pad) for d in n.decoders]
    inner = {
        "yolov5": size + number(3, n.division) + texts(4, decoders),
        "yolox": size + texts(3, decoders),
        "ssd": size
        + number(3, n.scale_factors[0])
        + number(4, n.scale_factors[1])
        + b"".join(number(5 + i, v) for i, v in enumerate(n.order))
        + texts(9, decoders),
        "iou": b"",
        "yolov5_seg": size + texts(3, decoders) + _protos(g) + double(5, n.mask),
        "yolov8": size
        + number(3, n.division)
        + texts(4, decoders)
        + number(5, n.regression_length),
    }[n.kind]
    return (
        double(1, n.score)
        + double(2, n.iou)
        + number(3, n.most)
        + number(4, n.classes)
        + number(5, n.background is not None)
        + number(6, n.background or 0)
        + text(NMS_FIELD[n.kind], inner)
        + number(13, n.boxes_only)
    )


def _protos(g: Group) -> bytes:
    assert g.nms is not None
    if g.nms.proto is None:
        return b""
    count, stride, layer = g.nms.proto
    return text(4, number(1, count) + number(2, stride) + text(3, f"{g.name}/{layer}"))


def _decoder(kind: str, d: Mapping[str, Any], pad: Mapping[str, int]) -> bytes:
    """One level: stride, reg, cls (yolov8); and obj (yolox); h, w, encoded (yolov5); h, w (ssd)."""
    if kind in ("yolov5", "yolov5_seg"):
        anchors = packed_numbers(2, d["h"]) + packed_numbers(3, d["w"])
        return anchors + number(4, d["stride"]) + number(5, pad[d["encoded"]])
    if kind == "ssd":
        anchors = packed(1, d["h"], "f") + packed(2, d["w"], "f")
        return anchors + number(3, pad[d["reg"]]) + number(4, pad[d["cls"]])
    found = number(1, d["stride"]) + number(2, pad[d["reg"]]) + number(3, pad[d["cls"]])
    return found + (number(4, pad[d["obj"]]) if "obj" in d else b"")


def _context(g: Group, index: int) -> bytes:
    edges = [
        _edge(x, direction, pad, g.name)
        for direction, pad, x in [
            *((0, i, x) for i, x in enumerate(g.inputs)),
            *((1, 100 + i, x) for i, x in enumerate(g.outputs)),
            *((0, -1, x) for x in g.others),
        ]
        if x.context == index
    ]
    last = index == g.contexts - 1
    names = [f"{g.name}/{o.name}" for o in g.outputs] if last else []
    meta = text(1, f"{g.name}_context_{index}") + texts(2, edges) + texts(5, names)
    return number(1, index) + text(3, meta)


def _edge(x: Layer, direction: int, pad: int, group: str) -> bytes:
    inner, at = _any(x, group)
    switch = number(1, x.context) + number(3, x.connection) + number(6, 0xFFFFFFFF) + number(9, -1)
    return (
        number(1, direction)
        + number(2, x.kind)
        + text(at, inner)
        + text(5, switch)
        + number(6, x.network)
        + (number(7, pad, always=True) if pad >= 0 else b"")
    )


def _any(x: Layer, group: str) -> tuple[bytes, int]:
    """A layer's message and the field of an edge that holds it; inside a mux they are 1, 2, 3."""
    name = f"{group}/{x.name}"
    inside = {3: 1, 4: 2, 8: 3}
    parts = [text(inside[at], inner) for inner, at in (_any(p, group) for p in x.parts)]
    h, w, c = x.shape
    if x.kind == PLANES:
        return text(1, name) + number(2, x.planes) + texts(3, parts) + number(4, h) + number(5, w) + number(6, c), 8  # fmt: skip
    base = text(2, _base(x))
    if x.kind == MUX:
        data = text(3, number(1, len(parts)))
        return text(1, name) + base + data + text(4, name) + texts(5, parts) + texts(
            6, x.original
        ), 4
    numeric = text(3, _numeric(x))
    return text(1, name) + base + numeric + text(4, name) + texts(5, x.original) + number(
        6, x.transposed
    ), 3


def _base(x: Layer) -> bytes:
    kind = x.format if x.format is not None else NHCW
    h, w, c = x.shape
    ph, pw, pc = x.padded or x.shape
    nms = b""
    if x.nms is not None:
        nms = text(11, text(1, _on_chip(x)))
    return (
        number(1, h) + number(2, ph) + number(3, w) + number(4, pw) + number(5, c) + number(6, pc)
        + number(7, kind) + number(8, x.index) + number(9, w * c) + number(10, h) + nms
        + number(12, x.bits // 8)
    )  # fmt: skip


def _on_chip(x: Layer) -> bytes:
    found = b"".join(number(i, v) for i, v in (x.nms or {}).items())
    return found + (number(5, 1) + text(6, text(3, x.whole)) if x.whole else b"")


def _fused(g: Group) -> bytes:
    """What NMS results on the chip become of those that are only parts."""
    wholes = {o.whole: o for o in g.outputs if o.whole}
    if not wholes:
        return b""
    layers = [
        text(1, _any(replace(o, name=name.partition("/")[2], whole=""), g.name)[0])
        + text(3, _on_chip(replace(o, whole="")))
        for name, o in wholes.items()
    ]
    return text(5, number(1, 1) + texts(2, list(wholes)) + texts(3, layers))


def _numeric(x: Layer) -> bytes:
    count = x.shape[2]
    scales = x.scales if len(x.scales) > 1 else x.scales * count
    zeros = x.zeros if len(x.zeros) > 1 else x.zeros * count
    high = x.high if x.high is not None else ((1 << x.bits) - 1 - zeros[0]) * scales[0]
    first = single(1, zeros[0]) + single(2, scales[0]) + single(3, x.low) + single(4, high)
    return first + packed(5, zeros) + packed(6, scales)
