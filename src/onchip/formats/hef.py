"""What a Hailo `.hef` file says about itself, read without any vendor software.

The layout is that of HailoRT's public sources. A header, all of it big-endian, begins with the
magic, the header's version, and the length of a protobuf message; its rest differs by version:

    0    u32 unused, MD5 of the message                                        (until HailoRT 4.17)
    1a   u32 length of the payload, MD5 of all that follows                    (HailoRT 4.17 alone)
    1    u32 CRC-32 of all that follows, u64 payload, u32 unused               (from 4.18)
    2    u64 XXH3-64 of all that follows, u64 payload, 16 bytes unused         (from 4.20)
    3    u64 XXH3-64, u64 payload with padding, u32 padding, u64 more, u64 XXH3-64 of the message
         or 0, u64 unused                                                      (from 4.21)

The message describes the networks (see `hef_message`), the payload is what the chip is configured
with. A header's length and its checksum say whether the file is whole; what a cut file still holds
is told all the same. Nothing in a file is trusted.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import xxhash
from msgspec import Struct

from onchip.errors import InputError
from onchip.formats.hailo_versions import table
from onchip.formats.hef_message import MULTI_NETWORK, NET_FLOW, Features, group
from onchip.formats.hef_values import HefDecoder, HefGroup, HefPost, HefTensor
from onchip.formats.part import Part
from onchip.formats.protobuf import Fields, Value, Walk, text, uint, ulong

__all__ = [
    "MAGIC", "HefDecoder", "HefFile", "HefGroup", "HefHeader", "HefPost", "HefTensor",
    "parse", "read", "within",
]  # fmt: skip

MAGIC = b"\x01HEF"
CHUNK = 1 << 20  # bytes read at once
EXTENSION, NETWORK = 200, 4000  # about how many bytes one takes

Checksum = Literal["MD5", "CRC-32", "XXH3-64"]

# Before extensions there were flags: the field of the flag, and the extension that says the same.
_FLAGS = {1: 0, 2: 1, 3: 2, 4: 4, 5: 5, 6: 6, 7: 3}


class HefHeader(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the header says, and whether it is true.

    `form` is the version, or "1a". `size` is what the file has, `claimed` what it should have
    (bytes). `good` says whether the checksum fits, and is None where the file was cut.
    """

    form: str
    size: int
    claimed: int
    message: int
    payload: int
    checksum: Checksum
    stored: str
    good: bool | None


class HefFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A compiled file, as far as it describes itself. What it does not say is empty.

    `arch` is the code of what it was compiled for, `created` milliseconds since 1970, `compiler`
    the Dataflow Compiler's version; `sdk` is the same in the form that HailoRT 5 compares, written
    by compilers of 5.x only. `resources` are further files inside. `payload` digests what the chip
    is configured with (version 0 keeps that in the message, and has none). `complete` is False
    where something was lost.
    """

    header: HefHeader
    arch: int
    compiler: str
    created: int
    groups: tuple[HefGroup, ...]
    extensions: tuple[int, ...]
    optional: tuple[int, ...] = ()
    resources: tuple[str, ...] = ()
    sdk: str = ""
    format_version: int = 0
    payload: str = ""
    complete: bool = True

    @property
    def strict(self) -> bool:
        """Whether only HailoRT of the compiler's own major and minor version loads it."""
        return 35 in self.extensions


class _Sum(Protocol):
    """A checksum under way."""

    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


_SUMS: Mapping[Checksum, Callable[[], _Sum]] = {
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
    "CRC-32": _Crc32,
    "XXH3-64": xxhash.xxh3_64,
}


class _Layout(NamedTuple):
    """Where the parts of a file lie. `whole` is the message's own checksum, or nothing."""

    form: str
    length: int  # of the header
    message: int
    payload: int
    more: int
    checksum: Checksum
    stored: str
    whole: str = ""

    @property
    def claimed(self) -> int:
        return self.length + self.message + self.payload + self.more


def read(path: Path) -> HefFile:
    """Read a `.hef` file.

    Raises:
        InputError: the file cannot be read, is not a HEF, or nothing in it can be told.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file", "give a .hef file")
        with path.open("rb") as file:
            return within(Part(file, 0, path.stat().st_size), str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}", "check the path") from error


def parse(data: bytes, name: str) -> HefFile:
    """Read the bytes of a `.hef` file; `name` is what messages call it.

    Raises:
        InputError: not a HEF, a header that is not known, or nothing can be told.
    """
    return within(Part(BytesIO(data), 0, len(data)), name)


def within(part: Part, name: str) -> HefFile:
    """Read a HEF that is a part of another file.

    Raises:
        InputError: as `parse`.
    """
    size = part.size
    layout = _layout(part.read(0, 56), size, name)
    message = part.read(layout.length, layout.message)
    total, inner = _SUMS[layout.checksum](), xxhash.xxh3_64(message)
    payload = xxhash.xxh3_64()
    total.update(message)
    for at in range(layout.length + len(message), size, CHUNK):
        chunk = part.read(at, CHUNK)
        total.update(chunk)
        payload.update(chunk)
    good = total.hexdigest() == layout.stored and size == layout.claimed
    if layout.whole and layout.whole != inner.hexdigest():
        good = False
    header = HefHeader(
        form=layout.form,
        size=size,
        claimed=layout.claimed,
        message=layout.message,
        payload=layout.payload,
        checksum=layout.checksum,
        stored=layout.stored,
        good=None if size < layout.claimed else good,
    )
    digest = payload.hexdigest() if layout.payload and header.good is not None else ""
    found = _message(memoryview(message), header, digest)
    if not (found.groups or found.compiler):
        raise InputError(
            f"{name} is cut short or damaged: nothing can be told from its {size} bytes",
            "copy or compile the file again",
        )
    return found


def _layout(start: bytes, size: int, name: str) -> _Layout:
    """Read a header."""
    if not start.startswith(MAGIC):
        raise InputError(
            f"{name} is not a HEF: it does not begin with Hailo's magic",
            "give a file that Hailo's Dataflow Compiler made",
        )
    if len(start) < 12:
        raise _short(name, size)
    version, message = struct.unpack(">II", start[4:12])
    layouts = {0: _version_0, 1: _version_1, 2: _version_2, 3: _version_3}
    if version not in layouts:
        raise InputError(
            f"{name} has HEF header version {version}, which onchip does not know",
            "known are 0 to 3; compile the network again, or update onchip",
        )
    try:
        return layouts[version](start, message, size)
    except struct.error:
        raise _short(name, size) from None


def _short(name: str, size: int) -> InputError:
    return InputError(
        f"{name} is cut short: its header is not whole in {size} bytes",
        "copy or compile the file again",
    )


def _version_0(start: bytes, message: int, size: int) -> _Layout:
    (stored,) = struct.unpack_from(">16s", start, 16)
    return _Layout("0", 32, message, 0, 0, "MD5", stored.hex())


def _version_1(start: bytes, message: int, size: int) -> _Layout:
    """Version 1 was written in two ways; a file's length tells them apart."""
    crc, payload, _ = struct.unpack_from(">IQI", start, 12)
    plain = _Layout("1", 28, message, payload, 0, "CRC-32", f"{crc:08x}")
    if len(start) < 32:
        return plain
    payload, stored = struct.unpack_from(">I16s", start, 12)
    first = _Layout("1a", 32, message, payload, 0, "MD5", stored.hex())
    if size in (plain.claimed, first.claimed):
        return first if size == first.claimed else plain
    return plain if start[28] == 0x0A else first  # a message begins with its header, field 1


def _version_2(start: bytes, message: int, size: int) -> _Layout:
    check, payload, _, _ = struct.unpack_from(">QQQQ", start, 12)
    return _Layout("2", 44, message, payload, 0, "XXH3-64", f"{check:016x}")


def _version_3(start: bytes, message: int, size: int) -> _Layout:
    check, payload, _, more, whole, _ = struct.unpack_from(">QQIQQQ", start, 12)
    inner = f"{whole:016x}" if whole else ""
    return _Layout("3", 56, message, payload, more, "XXH3-64", f"{check:016x}", inner)


def _message(message: memoryview, header: HefHeader, payload: str) -> HefFile:
    walk = Walk(len(message))
    walk.cut = len(message) < header.message
    top = walk.last(message, (1, 4))
    about = walk.last(top.get(1), (1, 2, 3, 4, 5))
    extensions = _extensions(walk, message, top, about)
    optional = tuple(_types(walk, message, 6))
    arch, sdk = uint(about.get(1)), _sdk(walk, about)
    found = table().arch_of(arch)
    lost = walk.cut and not extensions
    features = Features(
        flow=None if lost else NET_FLOW in extensions,
        several=MULTI_NETWORK in optional,
        layouts=found is not None and found.layouts,
    )
    views = (view for view in walk.each(message, 2) if walk.keep(NETWORK))
    groups = tuple(group(walk, view, features) for view in views)
    return HefFile(
        header=header,
        arch=arch,
        compiler=text(about.get(3)) or sdk,
        sdk=sdk,
        created=ulong(about.get(2)),
        groups=groups,
        extensions=extensions,
        optional=optional,
        resources=tuple(_resources(walk, message)),
        format_version=ulong(about.get(4)),
        payload=payload,
        complete=header.good is not None and not walk.cut,
    )


def _extensions(walk: Walk, message: Value, top: Fields, about: Fields) -> tuple[int, ...]:
    """The extensions of a file; of one from before there were any, what its flags say."""
    if ulong(about.get(4)):
        return tuple(_types(walk, message, 5))
    flags = walk.last(top.get(4), _FLAGS)
    return tuple(sorted(_FLAGS[n] for n, value in flags.items() if value))


def _types(walk: Walk, message: Value, number: int) -> Iterator[int]:
    for view in walk.each(message, number):
        if not walk.keep(EXTENSION):
            return
        yield uint(walk.last(view, (1,)).get(1))


def _sdk(walk: Walk, about: Fields) -> str:
    numbers = walk.last(about.get(5), (1, 2, 3))
    return ".".join(str(uint(numbers.get(n))) for n in (1, 2, 3)) if numbers else ""


def _resources(walk: Walk, message: Value) -> Iterator[str]:
    for view in walk.each(message, 7):
        name = text(walk.last(view, (3,)).get(3))
        if not walk.keep(EXTENSION + 4 * len(name)):
            return
        yield name
