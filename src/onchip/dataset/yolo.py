"""YOLO label files: one line per box, `class cx cy w h`, in parts of the image.

A line with more points than one box is a polygon, `class x1 y1 x2 y2 x3 y3 …`; its box is the
one around it, as for Ultralytics' detectors. Source of the format: Ultralytics' data set guide.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from onchip.errors import InputError
from onchip.writing import write_whole

SLACK = 1e-3  # how far past the image's edge a value may lie by rounding
MAX_BYTES = 4 << 20
MAX_CLASSES = 10_000  # where nothing says how many there are
Values = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """One true box: its class, and centre x, centre y, width, height in parts of the image."""

    index: int
    box: Values

    @property
    def corners(self) -> Values:
        """Left, top, right and bottom, in parts of the image."""
        x, y, w, h = self.box
        return (x - w / 2, y - h / 2, x + w / 2, y + h / 2)


@dataclass(frozen=True)
class Row:
    """One line of a label file. `label` is None where it cannot be read; `fault` is a code.

    Faults: "text" (not numbers), "fields" (too few, or neither a box nor a polygon), "class" (not
    a class that exists), "range" (outside the image), "size" (no width or no height).
    """

    number: int  # from one
    line: str
    label: Label | None
    fault: str = ""
    why: str = ""
    hint: str = ""


def parse(text: str, classes: int | None = None) -> tuple[Row, ...]:
    """Read all lines that are not blank; `classes` is how many there are, if that is known.

    >>> parse("0 0.5 0.5 0.2 0.1")[0].label
    Label(index=0, box=(0.5, 0.5, 0.2, 0.1))
    >>> parse("0 320 240 64 48")[0].fault
    'range'
    """
    lines = enumerate(text.splitlines(), 1)
    return tuple(_row(number, line, classes) for number, line in lines if line.strip())


def _row(number: int, line: str, classes: int | None) -> Row:
    def wrong(fault: str, why: str, hint: str, label: Label | None = None) -> Row:
        return Row(number, line, label, fault, why, hint)

    allowed = "allowed: class cx cy w h"
    fields = line.split()
    try:
        kind, values = float(fields[0]), [float(f) for f in fields[1:]]
    except ValueError:
        return wrong("text", f"is not a label: {line[:80]!r}", allowed)
    if not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
        return wrong("fields", f"has {len(fields)} fields", f"{allowed}, or a polygon")
    if not all(map(math.isfinite, (kind, *values))):
        return wrong("text", f"is not a label: {line[:80]!r}", allowed)
    label = Label(int(kind), _box(values))
    if kind != int(kind) or not 0 <= kind < (MAX_CLASSES if classes is None else classes):
        count = f"but there are {classes} classes" if classes is not None else "which is no class"
        most = f"allowed are 0 to {classes - 1}" if classes else "allowed are whole numbers from 0"
        hint = f"{most}; is data.yaml the one of this dataset?"
        return wrong("class", f"has class {fields[0]}, {count}", hint, label)
    if not all(-SLACK <= v <= 1 + SLACK for v in (*values, *label.box)):
        hint = "boxes are parts of the image, 0 to 1; were pixels written?"
        return wrong("range", f"is out of range: {line[:80]!r}", hint, label)
    if label.box[2] <= 0 or label.box[3] <= 0:
        return wrong("size", f"has no width or no height: {line[:80]!r}", allowed, label)
    return Row(number, line, label)


def _box(values: list[float]) -> Values:
    if len(values) == 4:
        return (values[0], values[1], values[2], values[3])
    x, y = values[::2], values[1::2]
    left, top, right, bottom = min(x), min(y), max(x), max(y)
    return ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def polygon(line: str) -> tuple[float, ...]:
    """Return the points of a line that is a polygon, x and y in turn; nothing where it is none.

    >>> polygon("1 0.1 0.2 0.5 0.2 0.5 0.6")
    (0.1, 0.2, 0.5, 0.2, 0.5, 0.6)
    >>> polygon("1 0.5 0.5 0.2 0.2")
    ()
    """
    fields = line.split()
    if len(fields) < 7 or len(fields) % 2 == 0:
        return ()
    try:
        return tuple(float(f) for f in fields[1:])
    except ValueError:
        return ()


def text(label: Label) -> str:
    """Return the line of a box, fine to a thousandth of a pixel in any photo.

    >>> text(Label(3, (0.5, 0.25, 1.0, 0.125)))
    '3 0.5 0.25 1 0.125'
    """
    return " ".join([str(label.index), *(f"{v:.8f}".rstrip("0").rstrip(".") for v in label.box)])


def place(image: Path) -> Path:
    """Return where an image's labels stand: `images/` becomes `labels/`, the suffix `.txt`.

    >>> place(Path("set/images/val/a.jpg")).as_posix()
    'set/labels/val/a.txt'
    >>> place(Path("photos/a.jpg")).as_posix()
    'photos/a.txt'
    """
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read(path: Path, classes: int | None = None) -> tuple[Row, ...] | None:
    """Read a label file; None where there is none, which is not the same as one without a box.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        if path.is_fifo():  # reading it would wait for ever
            raise OSError(0, "it is no file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read the labels {path}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is too large for labels", f"allowed are {MAX_BYTES >> 20} MiB")
    try:
        return parse(data.decode("utf-8-sig"), classes)
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read the labels {path}: not text ({error})") from error


def encode(rows: Iterable[Row | Label]) -> bytes:
    """Return the bytes of a label file."""
    lines = [row.line.strip() if isinstance(row, Row) else text(row) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def write(path: Path, rows: Iterable[Row | Label]) -> None:
    """Write a label file whole: rows that were read keep their own line, labels get a new one.

    Raises:
        InputError: it cannot be written; the old one is still there.
    """
    write_whole(path, encode(rows))
