"""The arrays in a `.npz` file by name, shape and type, without unpickling or expanding any of them.

A `.npz` is a zip archive of `.npy` files. Its list of files lies at the end: the closing record
(22 bytes and a comment) says where. Each `.npy` begins with a short header; only that is read, and
the values of an array of a few numbers.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from onchip.formats.part import Part

MAX_ARRAYS = 20_000
MAX_COMMENT = 1 << 16
HEAD = 1024  # bytes of a .npy file that are looked at
FEW = 8  # values that are read

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
    file = BytesIO(start)
    try:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(file, max_header_size=HEAD)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    if dtype.hasobject or any(not 0 <= n < 1 << 31 for n in shape):
        return None
    values: tuple[float, ...] = ()
    count = int(np.prod(shape, dtype=float))
    if count <= FEW and dtype.kind in "iufb":
        rest = file.read(count * dtype.itemsize)
        if len(rest) == count * dtype.itemsize:
            values = tuple(float(v) for v in np.frombuffer(rest, dtype))
    return Array(name.removesuffix(".npy"), tuple(map(int, shape)), str(dtype), values)
