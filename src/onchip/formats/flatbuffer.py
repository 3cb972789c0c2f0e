"""FlatBuffers read without a schema's generated code, from bytes that may hold anything.

A FlatBuffer begins with the root table's offset. A table begins with the signed distance back to
its vtable, which holds its own size, the table's size, and where in the table each slot lies. Every
offset is checked before it is followed, and how many tables and numbers may be kept is bounded.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


def number(data: bytes, at: int, size: int, signed: bool = False) -> int:
    """Return a little-endian integer. Raises IndexError where it is not all there."""
    return int.from_bytes(part(data, at, size), "little", signed=signed)


def part(data: bytes, at: int, size: int) -> bytes:
    """Return some bytes. Raises IndexError where they are not all there."""
    if not 0 <= at <= at + size <= len(data):
        raise IndexError(at)
    return data[at : at + size]


@dataclass
class Allowance:
    """How many tables may be listed, and how many numbers and letters kept, of one file.

    Offsets may lead many times to one place, so a small file could claim to be a huge one.
    """

    tables: int = 1 << 16
    values: int = 1 << 20

    def spend(self, tables: int, values: int) -> None:
        """Take some away. Raises IndexError where there are not so many left."""
        self.tables -= tables
        self.values -= values
        if self.tables < 0 or self.values < 0:
            raise IndexError("the file claims to hold more than it can")


@dataclass(frozen=True)
class Table:
    """A table, by slots. What is missing has its default; IndexError where an offset leads out."""

    data: bytes
    place: int
    allowance: Allowance = field(default_factory=Allowance)

    @classmethod
    def root(cls, data: bytes, start: int = 0) -> "Table":
        """The root table of a FlatBuffer that begins at `start`, with an allowance by its size."""
        most = Allowance()
        most.tables = min(most.tables, 256 + len(data) // 16)  # a table takes that much
        return cls(data, start + number(data, start, 4), most)

    def _field(self, slot: int) -> int:
        """Where a slot's value lies; 0 where it is missing."""
        vtable = self.place - number(self.data, self.place, 4, signed=True)
        entry = 4 + 2 * slot
        if entry + 2 > number(self.data, vtable, 2):
            return 0
        offset = number(self.data, vtable + entry, 2)
        return self.place + offset if offset else 0

    def _far(self, slot: int) -> int:
        """Where a slot's offset leads; 0 where it is missing."""
        at = self._field(slot)
        return at + number(self.data, at, 4) if at else 0

    def integer(self, slot: int, size: int, default: int = 0, signed: bool = True) -> int:
        """Return an integer of so many bytes."""
        at = self._field(slot)
        return number(self.data, at, size, signed) if at else default

    def text(self, slot: int) -> str:
        """Return a text, "" where there is none. Raises UnicodeDecodeError as well."""
        return self.content(slot).decode()

    def content(self, slot: int) -> bytes:
        """Return a vector of bytes."""
        at, count = self.extent(slot)
        self.allowance.spend(0, count // 8)
        return part(self.data, at, count)

    def extent(self, slot: int) -> tuple[int, int]:
        """Return where a vector's elements begin, and how many there are."""
        at = self._far(slot)
        return (at + 4, number(self.data, at, 4)) if at else (0, 0)

    def numbers(self, slot: int, kind: str = "i") -> tuple[int, ...]:
        """Return a vector of integers; `kind` is `struct`'s letter."""
        at, count = self.extent(slot)
        self.allowance.spend(0, count)
        return struct.unpack(
            f"<{count}{kind}", part(self.data, at, count * struct.calcsize(f"<{kind}"))
        )

    def array(self, slot: int, dtype: str) -> npt.NDArray[np.generic]:
        """Return a vector as a view of the file; `dtype` is numpy's, such as "<f4"."""
        at, count = self.extent(slot)
        self.allowance.spend(0, count // 64)  # it is looked through, and nothing is kept
        size = np.dtype(dtype).itemsize
        return np.frombuffer(part(self.data, at, count * size), dtype)

    def table(self, slot: int) -> "Table | None":
        """Return the table that a slot leads to."""
        at = self._far(slot)
        return Table(self.data, at, self.allowance) if at else None

    def tables(self, slot: int) -> "Iterator[Table]":
        """Return a vector's tables, one by one."""
        count = self.extent(slot)[1]
        self.allowance.spend(count, 0)
        for index in range(count):
            yield self.nth(slot, index)

    def nth(self, slot: int, index: int) -> "Table":
        """Return one of a vector's tables."""
        at, count = self.extent(slot)
        if not 0 <= index < count:
            raise IndexError(index)
        at += 4 * index
        return Table(self.data, at + number(self.data, at, 4), self.allowance)
