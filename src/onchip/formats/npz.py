"""The arrays in a `.npz` file by name, shape and type, without unpickling or expanding any of them.

A `.npz` is a zip archive of `.npy` files. Its list of files lies at the end: the closing record
(22 bytes and a comment) says where. Each `.npy` begins with a short header; only that is read, and
the values of an array of a few numbers.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from onchip.formats.part import Part

MAX_ARRAYS = 20_000
MAX_COMMENT = 1 << 16
HEAD = 1024  # bytes of a .npy file that are looked at
FEW = 8  # values that are read

# The magic, the version, the header's length, and a Python dict on one line: plain numbers only.
_HEADER = re.compile(
    rb"\x93NUMPY[\1-\3]\0..(?:..)?\{'descr': '(?P<kind>[<>|](?:[iu][1248]|f[248]|b1))', "
    rb"'fortran_order': (?:True|False), 'shape': \((?P<shape>(?:\d{1,9},? ?){0,8})\),? ?\} *\n",
    re.DOTALL,
)

_CLOSING, _ENTRY, _LOCAL = b"PK\5\6", b"PK\1\2", b"PK\3\4"


class Array(NamedTuple):
    """One array. `values` are those of an array of a few numbers, else none."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: tuple[float, ...] = ()


def arrays(part: Part) -> Iterator[Array]:
    """Yield the arrays of a `.npz` file, as far as they can be read."""
    for name, at, packed in _entries(part):
        if name.endswith(".npy") and (found := _array(name, _start(part, at, packed))):
            yield found


def _entries(part: Part) -> Iterator[tuple[str, int, bool]]:
    """Yield each file's name, where it lies, and whether it is compressed."""
    tail = part.size - min(part.size, 22 + MAX_COMMENT)
    end = part.read(tail, 22 + MAX_COMMENT)
    place = end.rfind(_CLOSING)
    if place < 0 or len(end) - place < 22:
        return
    count, _, at = struct.unpack_from("<HII", end, place + 10)
    for _ in range(min(count, MAX_ARRAYS)):
        entry = part.read(at, 46)
        if len(entry) < 46 or entry[:4] != _ENTRY:
            return
        method, names, extra, comment = struct.unpack_from("<H16xHHH", entry, 10)
        (local,) = struct.unpack_from("<I", entry, 42)
        name = part.read(at + 46, min(names, HEAD)).decode(errors="replace")
        if method in (0, 8):
            yield name, local, method == 8
        at += 46 + names + extra + comment


def _start(part: Part, at: int, packed: bool) -> bytes:
    """The first bytes of a file in the archive."""
    local = part.read(at, 30)
    if len(local) < 30 or local[:4] != _LOCAL:
        return b""
    names, extra = struct.unpack_from("<HH", local, 26)
    data = part.read(at + 30 + names + extra, HEAD)
    if not packed:
        return data
    try:
        return zlib.decompressobj(-15).decompress(data, HEAD)
    except zlib.error:
        return b""


def _array(name: str, start: bytes) -> Array | None:
    """Read a `.npy` header; objects, which would have to be unpickled, are left out."""
    found = _HEADER.match(start)
    if found is None:
        return None
    kind, shape = found["kind"].decode(), tuple(int(n) for n in re.findall(rb"\d+", found["shape"]))
    dtype = np.dtype(kind)
    values: tuple[float, ...] = ()
    if math.prod(shape) <= FEW:
        rest = start[found.end() :][: math.prod(shape) * dtype.itemsize]
        if len(rest) == math.prod(shape) * dtype.itemsize:
            values = tuple(float(v) for v in np.frombuffer(rest, dtype))
    return Array(name.removesuffix(".npy"), shape, str(dtype), values)
