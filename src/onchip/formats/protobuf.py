"""The wire form of protobuf, as far as a reader of Hailo's files needs it.

A message is a row of fields. Each begins with a varint that holds its number and its kind; then
come another varint (0), 8 bytes (1), a length and so many bytes (2), or 4 bytes (5). A message
inside another is such bytes. Nothing is copied on the way. What a message may cost is bounded by
its own size, whatever it claims.
"""

import struct
import sys
from array import array
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Literal

from onchip.formats.part import printable

Value = int | memoryview  # a varint or fixed number as it lies there, or the bytes of a field
Fields = Mapping[int, Value]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT = 10  # bytes
SPARE_FIELDS, MOST_FIELDS = 20_000, 1_000_000  # looked at: without regard to the size, and ever
SPARE_BYTES = 1 << 18  # kept, without regard to the size
NUMBER = 120  # about how many bytes a whole number takes, and what is made of it
MAX_TEXT = 1024  # bytes of a name; HailoRT itself refuses more than 128


class Walk:
    """A way through a message of `size` bytes.

    `cut` says that something was lost: the message ended within a field, is no protobuf, or held
    more than a message of its size can mean.
    """

    def __init__(self, size: int) -> None:
        self.cut = False
        self._fields = min(SPARE_FIELDS + size // 16, MOST_FIELDS)
        self._bytes = SPARE_BYTES + size // 2

    def keep(self, cost: int) -> bool:
        """Whether there is room for something of about `cost` bytes; the room is then taken."""
        if cost > self._bytes:
            self.cut = True
            return False
        self._bytes -= cost
        return True

    def fields(self, view: memoryview) -> Iterator[tuple[int, Value]]:
        """Yield each field's number and value, as far as they can be read."""
        at, end = 0, len(view)
        while at < end:
            self._fields -= 1
            key, at = _varint(view, at)
            if self._fields < 0 or at < 0 or key < 8:
                break
            value: Value
            kind = key & 7
            if kind == VARINT:
                value, at = _varint(view, at)
                if at < 0:
                    break
            elif kind == BYTES:
                size, at = _varint(view, at)
                if at < 0:
                    break
                value = view[at : at + size]
                at += size
                self.cut |= at > end
            elif kind in (FIXED64, FIXED32):
                size = 8 if kind == FIXED64 else 4
                if at + size > end:
                    break
                value = int.from_bytes(view[at : at + size], "little")
                at += size
            else:
                break
            yield key >> 3, value
        else:
            return
        self.cut = True

    def last(self, view: Value | None, numbers: Container[int]) -> Fields:
        """Return the wanted fields that occur at most once; of several the last counts."""
        if not isinstance(view, memoryview):
            return {}
        return {number: value for number, value in self.fields(view) if number in numbers}

    def one(self, view: Value | None, number: int) -> Value | None:
        """Return one field that occurs at most once, or None."""
        return self.last(view, (number,)).get(number)

    def each(self, view: Value | None, number: int) -> Iterator[Value]:
        """Yield every value of a repeated field."""
        if isinstance(view, memoryview):
            for found, value in self.fields(view):
                if found == number:
                    yield value

    def texts(self, view: Value | None, number: int) -> tuple[str, ...]:
        """Return a repeated text."""
        found = []
        for value in self.each(view, number):
            found.append(text(value))
            if not self.keep(80 + 4 * len(found[-1])):
                break
        return tuple(found)

    def numbers(self, view: Value | None, number: int, kind: Literal["d", "f"]) -> "array[float]":
        """Return repeated doubles (kind "d") or singles ("f"), packed or not."""
        found: array[float] = array(kind)
        size = found.itemsize
        for value in self.each(view, number):
            if isinstance(value, memoryview):
                found.frombytes(value[: len(value) // size * size])
            else:
                found.frombytes((value % (1 << 8 * size)).to_bytes(size, "little"))
        if sys.byteorder == "big":
            found.byteswap()
        return found

    def integers(self, view: Value | None, number: int) -> tuple[int, ...]:
        """Return repeated varints, packed or not."""
        found: list[int] = []
        for value in self.each(view, number):
            at, packed = 0, value if isinstance(value, memoryview) else memoryview(b"")
            if isinstance(value, int) and self.keep(NUMBER):
                found.append(uint(value))
            while 0 <= at < len(packed) and self.keep(NUMBER):
                one, at = _varint(packed, at)
                found.append(uint(one))
        return tuple(found)


def _varint(view: Sequence[int], at: int) -> tuple[int, int]:
    """Return a varint and where it ends; the end is -1 where it has none."""
    number, end = 0, min(at + MAX_VARINT, len(view))
    for shift, place in enumerate(range(at, end)):
        byte = view[place]
        number |= (byte & 127) << 7 * shift
        if byte < 128:
            return number & 0xFFFFFFFFFFFFFFFF, place + 1
    return 0, -1


def text(value: Value | None) -> str:
    """Return a text as one plain line, or nothing."""
    return printable(bytes(value[:MAX_TEXT])) if isinstance(value, memoryview) else ""


def uint(value: Value | None) -> int:
    """Return an unsigned number of 32 bits, or 0."""
    return value & 0xFFFFFFFF if isinstance(value, int) else 0


def ulong(value: Value | None) -> int:
    """Return an unsigned number of 64 bits, or 0."""
    return value if isinstance(value, int) else 0


def double(value: Value | None) -> float:
    """Return a number of 8 bytes, or 0."""
    return float(struct.unpack("<d", ulong(value).to_bytes(8, "little"))[0])


def single(value: Value | None) -> float:
    """Return a number of 4 bytes, or 0."""
    return float(struct.unpack("<f", uint(value).to_bytes(4, "little"))[0])
