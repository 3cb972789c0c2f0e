"""Reads a HEF for the runtime's stand-in, apart from every other reader.

Statuses are those of HailoRT 4.23: 13 no such file, 91 damaged, 92 not for this version.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from hailo_standin.ops import Decoder, PostProcess

MAGIC = 0x01484546
NET_FLOW, PERIPHERY, EXTENSIONS = 13, 26, 30
NHWC, NC, NHW, BY_CLASS = 1, 6, 5, 22  # formats as HailoRT's enumeration numbers them
NOT_IMPLEMENTED, INVALID_HEF, CORRUPTED, NOT_SUPPORTED = 7, 26, 91, 92
Fields = dict[int, list[Any]]


class Refused(Exception):  # noqa: N818 - carries a status of HailoRT's
    """The file is none that the runtime takes."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Stream:
    """What goes into a chip or comes out of it. `shape` is height, width, channels."""

    name: str
    shape: tuple[int, int, int]
    order: int
    bits: int
    scale: float
    zero: float
    low: float
    high: float
    scales: tuple[float, ...]
    zeros: tuple[float, ...]
    original: tuple[str, ...]
    pad: int


@dataclass(frozen=True)
class Program:
    """One network of a file."""

    name: str
    arch: int
    inputs: tuple[Stream, ...]
    layers: tuple[Stream, ...]  # what leaves the chip
    post: PostProcess | None
    post_name: str
    contexts: int
    fps: float
    ccws: bytes


def read(data: bytes) -> tuple[Program, ...]:
    """Return the networks of a file."""
    message, ccws = _unsealed(data)
    try:
        return _programs(_fields(message), ccws)
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise Refused(INVALID_HEF, f"Failed parsing the HEF: {error!r}") from error


def _unsealed(data: bytes) -> tuple[bytes, bytes]:
    if len(data) < 12 or struct.unpack(">I", data[:4])[0] != MAGIC:
        raise Refused(NOT_SUPPORTED, "HEF magic does not match")
    version, size = struct.unpack(">II", data[4:12])
    head = {0: 32, 1: 28, 2: 44, 3: 56}.get(version)
    if head is None:
        raise Refused(NOT_SUPPORTED, f"Unsupported hef version {version}")
    body, at = data[head:], 0
    if version == 0:
        good, ccws = hashlib.md5(body).digest() == data[16:32], 0
    elif version == 1:
        check, ccws = struct.unpack(">IQ", data[12:24])
        good = zlib.crc32(body) == check
    elif version == 2:
        check, ccws = struct.unpack(">QQ", data[12:28])
        good = xxhash.xxh3_64_intdigest(body) == check
    else:
        check, whole, at = struct.unpack(">QQI", data[12:32])
        ccws = whole - at
        good = xxhash.xxh3_64_intdigest(body) == check
    if not good or len(body) < size + at + ccws:
        raise Refused(CORRUPTED, "HEF file is corrupted")
    return body[:size], body[size + at : size + at + ccws]


def _fields(data: bytes) -> Fields:
    """Return a message's fields by number: numbers, or bytes."""
    found: Fields = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        value: Any
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            size = {1: 8, 5: 4}[kind]
            (value,) = struct.unpack("<d" if kind == 1 else "<f", data[at : at + size])
            at += size
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _one(fields: Fields, *path: int, default: Any = 0) -> Any:
    """Return the first value at a path of fields, all but the last of them messages."""
    for number in path[:-1]:
        fields = _fields(fields[number][0]) if number in fields else {}
    return fields.get(path[-1], [default])[0]


def _text(fields: Fields, *path: int) -> str:
    return str(_one(fields, *path, default=b"").decode())


def _programs(hef: Fields, ccws: bytes) -> tuple[Program, ...]:
    extensions = {_one(_fields(e), 1) for e in hef.get(5, [])}
    if any(e >= EXTENSIONS for e in extensions):
        raise Refused(NOT_SUPPORTED, "Failed to parse HEF: it has unsupported extensions")
    if PERIPHERY not in extensions:
        raise Refused(NOT_SUPPORTED, "The HEF is outdated")
    arch = _one(hef, 1, 1)
    ccws = ccws or _one(hef, 3, default=b"")  # where the oldest files have them
    return tuple(_program(_fields(g), arch, ccws, NET_FLOW in extensions) for g in hef.get(2, []))


def _program(group: Fields, arch: int, ccws: bytes, net_flow: bool) -> Program:
    core, ops = group, [_fields(o) for o in group.get(8, [])]
    if net_flow:
        core = _fields(next(o[4][0] for o in ops if 4 in o))
        if not core.get(3) and 7 in core:
            core = _fields(_fields(core[7][0])[1][0])
    elif not core.get(3) and 7 in core:
        core = _fields(_fields(core[7][0])[1][0])
    metadata = _fields(core[1][0])
    contexts = [_fields(c) for c in core.get(3, [])]
    edges = [_fields(e) for c in contexts for e in _fields(c[3][0]).get(2, [])]
    boundary = [e for e in edges if _one(e, 5, 3) == 0]
    inputs = tuple(_stream(e) for e in boundary if _one(e, 1) == 0)
    layers = {s.name: s for s in (_stream(e) for e in boundary if _one(e, 1) == 1)}
    post, post_name = _post(ops, {s.pad: s.name for s in layers.values()})
    order = [n.decode() for n in core.get(4, [])]
    ordered = tuple(layers[n] for n in order if n in layers) or tuple(layers.values())
    return Program(
        _text(metadata, 1), arch, inputs, ordered, post, post_name, len(contexts),
        _one(metadata, 4, default=0.0), ccws,
    )  # fmt: skip


def _stream(edge: Fields) -> Stream:
    if _one(edge, 2) != 0:
        raise Refused(NOT_IMPLEMENTED, "the stand-in takes no mux and no planes")
    info = _fields(edge[3][0])
    base, numeric = _fields(info[2][0]), _fields(info[3][0])
    order = {2: NC, 5: NHW}.get(_one(base, 7), NHWC)
    packed = [numeric.get(n, [b""])[0] for n in (6, 5)]
    scales, zeros = (struct.unpack(f"<{len(p) // 8}d", p) for p in packed)
    scale, zero, low, high = (_one(numeric, n, default=0.0) for n in (2, 1, 3, 4))
    return Stream(
        _text(info, 1),
        (_one(base, 1), _one(base, 3), _one(base, 5)),
        order,
        8 * _one(base, 12),
        scale,
        zero,
        low,
        high,
        scales,
        zeros,
        tuple(n.decode() for n in info.get(5, [])),
        _one(edge, 7),
    )


def _post(ops: Sequence[Fields], pads: dict[int, str]) -> tuple[PostProcess | None, str]:
    op = next((o for o in ops if 5 in o), None)
    if op is None:
        if any(6 in o for o in ops):
            raise Refused(NOT_IMPLEMENTED, "the stand-in computes no argmax and no softmax")
        return None, ""
    nms = _fields(op[5][0])
    kinds = {7: "yolov5", 8: "yolox", 12: "yolov8"}
    number = next((n for n in kinds if n in nms), 0)
    if not number or _one(nms, 13):
        raise Refused(NOT_IMPLEMENTED, "the stand-in does not compute this post-process")
    kind, inner = kinds[number], _fields(nms[number][0])
    decoders = inner.get(3 if kind == "yolox" else 4, [])
    found = PostProcess(
        kind,
        _one(nms, 4),
        (_one(inner, 1), _one(inner, 2)),
        tuple(_decoder(kind, _fields(d), pads) for d in decoders),
        _one(nms, 1),
        _one(nms, 2),
        _one(nms, 3),
        _one(inner, 5, default=16) if kind == "yolov8" else 16,
    )
    return found, _text(op, 3, 2)


def _decoder(kind: str, d: Fields, pads: dict[int, str]) -> Decoder:
    if kind == "yolov5":
        high, wide = (_numbers(d.get(n, [b""])[0]) for n in (2, 3))
        return Decoder((pads[_one(d, 5)],), _one(d, 4), tuple(zip(wide, high, strict=True)))
    count = 3 if kind == "yolox" else 2
    return Decoder(tuple(pads[_one(d, 2 + i)] for i in range(count)), _one(d, 1))


def _numbers(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found
