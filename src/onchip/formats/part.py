"""A part of an open file that is read like a file of its own."""

from typing import BinaryIO, NamedTuple


class Part(NamedTuple):
    """`size` bytes of an open file, from `start`."""

    file: BinaryIO
    start: int
    size: int

    def read(self, at: int, count: int) -> bytes:
        """Return at most `count` bytes from `at`; fewer at the part's end, none outside it."""
        if not 0 <= at < self.size:
            return b""
        self.file.seek(self.start + at)
        return self.file.read(min(count, self.size - at))


def printable(text: str | bytes) -> str:
    """A text as one plain line: it is shown on terminals, and a file may hold anything."""
    plain = text if isinstance(text, str) else text.decode(errors="replace")
    return "".join(c if c.isprintable() else "\ufffd" for c in plain)
