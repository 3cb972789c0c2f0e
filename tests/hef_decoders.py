"""Two decoders of Hailo's files that share nothing with onchip's, and what a file says by them."""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet

import hefs


class Wire:
    """A message as google.protobuf reads it with no description at all: numbers and bytes."""

    def __init__(self, data: bytes) -> None:
        self.fields = wire(data)

    def all(self, index: int) -> list[Any]:
        return [data for number, _, data in self.fields if number == index]

    def messages(self, index: int) -> list["Wire"]:
        return [Wire(data) for data in self.all(index)]

    def texts(self, index: int) -> list[str]:
        return [data.decode() for data in self.all(index)]

    def whole(self, index: int) -> int:
        return self.all(index)[-1] if self.all(index) else 0

    def double(self, index: int) -> float:
        return struct.unpack("<d", struct.pack("<Q", self.whole(index)))[0]

    def single(self, index: int) -> float:
        return struct.unpack("<f", struct.pack("<I", self.whole(index)))[0]

    def numbers(self, index: int, kind: str) -> list[float]:
        size = struct.calcsize(kind)
        return [
            n
            for data in self.all(index)
            for (n,) in struct.iter_unpack("<" + kind, data[: len(data) // size * size])
        ]


def wire(data: bytes) -> list[tuple[int, int, Any]]:
    message = Empty()
    message.ParseFromString(data)
    return [(f.field_number, f.wire_type, f.data) for f in UnknownFieldSet(message)]


class Named:
    """A message as the code reads it that protoc makes of Hailo's own hef.proto."""

    def __init__(self, message: Any) -> None:
        self.message = message

    def _value(self, index: int) -> Any:
        return getattr(self.message, self.message.DESCRIPTOR.fields_by_number[index].name)

    def messages(self, index: int) -> list["Named"]:
        name = self.message.DESCRIPTOR.fields_by_number[index].name
        value = getattr(self.message, name)
        if hasattr(value, "DESCRIPTOR"):
            return [Named(value)] if self.message.HasField(name) else []
        return [Named(m) for m in value]

    def texts(self, index: int) -> list[str]:
        value = self._value(index)
        return ([value] if value else []) if isinstance(value, str) else list(value)

    def whole(self, index: int) -> int:
        return int(self._value(index))

    def double(self, index: int) -> float:
        return float(self._value(index))

    single = double

    def numbers(self, index: int, kind: str) -> list[float]:
        return list(self._value(index))


def one(message: Any, *path: int) -> Any:
    """The last message at the end of a path of fields, or None."""
    for index in path:
        found = message.messages(index) if message else []
        message = found[-1] if found else None
    return message


def alike(values: list[float], other: float) -> tuple[float, ...]:
    values = values or [other]
    return (values[0],) if len(set(values)) == 1 else tuple(values)


def told(root: Any) -> dict[str, Any]:
    """What a file says, field by field, walking by the numbers of hef.proto."""
    about = one(root, 1)
    return {
        "arch": about.whole(1),
        "created": about.whole(2),
        "compiler": "".join(about.texts(3)),
        "format_version": about.whole(4),
        "extensions": [e.whole(1) for e in root.messages(5)],
        "optional": [e.whole(1) for e in root.messages(6)],
        "resources": [t for r in root.messages(7) for t in r.texts(3)],
        "groups": [
            told_group(g, about.whole(1) in (3, 4), bool(root.messages(5)))
            for g in root.messages(2)
        ],
    }


def told_group(group: Any, layouts: bool, whole: bool) -> dict[str, Any]:
    ops = group.messages(8)
    cores = [c for op in ops for c in op.messages(4)]
    core = cores[0] if cores else group
    if layouts:
        core = min(core.messages(7), key=lambda p: one(p, 2).whole(1) if one(p, 2) else 0).messages(
            1
        )[0]
    edges = [e for c in core.messages(3) for m in c.messages(3) for e in m.messages(2)]
    boundary = [e for e in edges if not (one(e, 5) and one(e, 5).whole(3))]
    return {
        "name": "".join(one(one(group, 7, 1) or group, 1).texts(1)),
        "bottleneck": one(core, 1).double(4),
        "latency": one(core, 1).double(6),
        "contexts": len(core.messages(3)),
        "inputs": [x for e in boundary if not e.whole(1) for x in told_edge(e)],
        "raw": [x for e in boundary if e.whole(1) for x in told_edge(e)] if whole else None,
        "post": [told_post(op, group) for op in ops if op.messages(5) or op.messages(6)],
    }  # fmt: skip


def told_edge(edge: Any) -> Iterator[dict[str, Any]]:
    if edge.whole(2) == 0:
        yield told_layer(one(edge, 3))
    elif edge.whole(2) == 1:
        yield from told_mux(one(edge, 4))
    else:
        planes = one(edge, 8)
        layers = [told_layer(one(p, 1)) for p in planes.messages(3)]
        yield {
            "name": planes.texts(1)[0], "shape": tuple(planes.whole(n) for n in (4, 5, 6)),
            "original": tuple(dict.fromkeys(n for x in layers for n in x["original"])),
            "dtype": "auto", "scales": (), "zeros": (), "low": 0, "high": 0,
        }  # fmt: skip


def told_mux(mux: Any) -> Iterator[dict[str, Any]]:
    for part in mux.messages(5):
        if part.messages(2):
            yield from told_mux(one(part, 2))
        else:
            yield told_layer(one(part, 1))


def told_layer(layer: Any) -> dict[str, Any]:
    base, numeric = one(layer, 2), one(layer, 3)
    shape: tuple[int, ...] = tuple(base.whole(n) for n in (1, 3, 5))
    dtype = {1: "uint8", 2: "uint16"}[base.whole(12)]
    if layer.whole(6):
        shape = (shape[1], shape[0], shape[2])
    if base.whole(7) == 6:
        nms = one(base, 11, 1)
        shape, dtype = (nms.whole(2), 5, nms.whole(3) * (nms.whole(7) or 1)), "float32"
    return {
        "name": layer.texts(1)[0], "shape": shape, "original": tuple(layer.texts(5)), "dtype": dtype,
        "scales": alike(numeric.numbers(6, "d"), numeric.single(2)),
        "zeros": alike(numeric.numbers(5, "d"), numeric.single(1)),
        "low": numeric.single(3), "high": numeric.single(4),
    }  # fmt: skip


KINDS = {7: "yolov5", 8: "yolox", 9: "ssd", 10: "iou", 11: "yolov5_seg", 12: "yolov8"}


def told_post(op: Any, group: Any) -> dict[str, Any]:
    links = {e.whole(2): e.whole(1) for e in group.messages(9)}
    core = next(o for o in group.messages(8) if o.messages(4))
    names = {p.whole(1): "".join(p.texts(2)) for p in core.messages(3)}
    found: dict[str, Any] = {"name": op.texts(1)[0], "output": one(op, 3).texts(2)[0],
                             "inputs": tuple(names[links[p.whole(1)]] for p in op.messages(2))}  # fmt: skip
    if not op.messages(5):
        return {**found, "kind": ("argmax", "softmax")[one(op, 6).whole(1)]}
    nms = one(op, 5)
    number = next(n for n in KINDS if nms.messages(n))
    inner = one(nms, number)
    found |= {
        "kind": KINDS[number], "score": nms.double(1), "iou": nms.double(2), "most": nms.whole(3),
        "classes": nms.whole(4), "background": nms.whole(6) if nms.whole(5) else None,
        "boxes_only": bool(nms.whole(13)),
    }  # fmt: skip
    if number == 10:
        return found
    found["image"] = (inner.double(1), inner.double(2))
    place = {7: 4, 8: 3, 9: 9, 11: 3, 12: 4}[number]
    pads = {7: {"encoded": 5}, 11: {"encoded": 5}, 9: {"reg": 3, "cls": 4},
            12: {"reg": 2, "cls": 3}, 8: {"reg": 2, "cls": 3, "obj": 4}}[number]  # fmt: skip
    found["decoders"] = [
        {what: names[d.whole(at)] for what, at in pads.items()} for d in inner.messages(place)
    ]
    if number == 12:
        found["regression_length"] = inner.whole(5)
    return found


def message(data: bytes) -> bytes:
    """A file's message."""
    version, size = struct.unpack(">II", data[4:12])
    start = {0: 32, 1: 28, 2: 44, 3: 56}[version]
    return data[start : start + size]


# What messages a message holds, by field: every one of hef.proto on the way to what is told.
INFO_OF: dict[int, Any] = {2: {11: {1: {6: {}}}, 13: {}}, 3: {}}
MUX_OF: dict[int, Any] = {2: INFO_OF[2], 3: {}}
MUX_OF[5] = {1: INFO_OF, 2: MUX_OF, 3: {3: {1: INFO_OF}}}
ACTIONS: dict[int, Any] = {1: {n: {} for n in range(2, 8)}, 2: {n: {} for n in range(2, 19)}}
CORE: dict[int, Any] = {
    1: {7: {}}, 2: {1: ACTIONS}, 5: {3: {1: INFO_OF, 3: {6: {}}}},
    3: {2: ACTIONS, 3: {2: {3: INFO_OF, 4: MUX_OF, 5: {8: {}}, 8: {3: {1: INFO_OF}}}, 3: {2: {}},
                        4: {1: {}}, 6: {}}},
}  # fmt: skip
CORE[7] = {1: CORE, 2: {}}
PAD: dict[int, Any] = {5: {}, 6: {}, 7: {}}
NMS_OF: dict[int, Any] = {
    7: {4: {}},
    8: {3: {}},
    9: {9: {}},
    10: {},
    11: {3: {}, 4: {}},
    12: {4: {}},
}
GROUP: dict[int, Any] = {**CORE, 8: {2: PAD, 3: PAD, 4: CORE, 5: NMS_OF, 6: {}}, 9: {}}
ROOT: dict[int, Any] = {1: {5: {}}, 2: GROUP, 4: {}, 5: {}, 6: {}, 7: {}}


def repaired(data: bytes, inside: Mapping[int, Any]) -> bytes:
    """The whole part of a message that was cut: its last fields are shortened, or dropped."""
    at, out = 0, b""
    while at < len(data):
        start = at
        key, at = varint(data, at)
        if key & 7 == 2:
            size, at = varint(data, at)
            if at + size > len(data):
                inner = inside.get(key >> 3)
                return out + (
                    hefs.text(key >> 3, repaired(data[at:], inner)) if inner is not None else b""
                )
            at += size
        else:
            at = varint(data, at)[1] if key & 7 == 0 else at + (8 if key & 7 == 1 else 4)
        out += data[start:at]
    return out


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
