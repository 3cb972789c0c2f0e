"""What a `.tflite` file says of itself, read without TensorFlow, LiteRT or any vendor's software.

The file is a FlatBuffer with the identifier "TFL3", and its slots are those of the public schema.
Behind it there may be a zip archive with the names of the classes. Nothing in a file is trusted:
every offset is checked, and how much of it is kept is bounded.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from onchip.errors import InputError
from onchip.formats.flatbuffer import Table, number, part
from onchip.formats.part import printable
from onchip.zips import DAMAGED

MAGIC = b"TFL3"  # at byte 4
EDGE_TPU = "edgetpu-custom-op"  # what Coral's compiler leaves of a network
ETHOS_U = "ethos-u"  # what Vela leaves of it
MOST_BYTES = 2 << 30  # of a file
MOST_VALUES = 64  # of a constant that is kept: axes, sizes, paddings
MOST_TEXT = 1 << 20  # bytes of a list of names
CUSTOM = "CUSTOM"
_LARGE_CODES = 127  # the old, single byte for an operator then says: look at the new one
_FAMILIES = {0: "u55", 1: "u65", 2: "u85"}
_SUBGRAPH = {"tensors": 0, "inputs": 1, "outputs": 2, "operators": 3}


class TfliteTensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor. A value is `(code - zero) * scale`.

    `channels` counts the scales: 0 where it is not quantized, 1 where all of it has one; of several
    `scale` and `zero` are the smallest, along `axis`. `signature` is the shape with -1 for what may
    change, where that is not empty. `values` are those of a small constant of whole numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False
    signature: tuple[int, ...] = ()
    channels: int = 0
    scale: float | None = None
    zero: int | None = None
    axis: int = 0
    values: tuple[int, ...] = ()

    @property
    def dynamic(self) -> bool:
        """Whether a dimension other than the first may change."""
        return any(n < 0 for n in self.signature[1:])


class TfliteOperator(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One operator: its name, tensors by number (-1 is none), and those options that matter."""

    op: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, int] = {}
    custom: bool = False


class TfliteFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network, as its first subgraph; `subgraphs` counts them all.

    `complete` is False where weights are missing at the file's end. `runtime` is the oldest
    TensorFlow Lite that runs it, where the file says so. `accelerator` is the Ethos-U that Vela
    compiled it for, such as "ethos-u55-128".
    """

    description: str
    runtime: str
    tensors: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraphs: int
    labels: tuple[str, ...]
    accelerator: str = ""
    complete: bool = True

    def shown(self, numbers: Sequence[int]) -> tuple[TfliteTensor, ...]:
        """The tensors of some numbers; -1 is none."""
        return tuple(self.tensors[n] for n in numbers if n >= 0)

    @property
    def compiled(self) -> str:
        """The custom operator of a chip's compiler, "" where none has been at it."""
        return next((o.op for o in self.operators if o.op in (EDGE_TPU, ETHOS_U)), "")


class _Words(Struct):
    types: tuple[str, ...]
    operators: tuple[str, ...]
    options: dict[str, dict[str, tuple[int, ...]]]


class _Names(Struct):
    """Ultralytics' own description of an export."""

    names: dict[int, str] | list[str] = []


@cache
def _words() -> _Words:
    data = files("onchip.formats").joinpath("tflite.toml").read_bytes()
    return msgspec.toml.decode(data, type=_Words, strict=False)


def read(path: Path) -> TfliteFile:
    """Read a `.tflite` file.

    Raises:
        InputError: it cannot be read, is no such file, or is damaged.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file", "give a .tflite file")
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is larger than a .tflite file can be (2 GiB)")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}", "check the path") from error
    return parse(data, str(path))


def parse(data: bytes, name: str) -> TfliteFile:
    """Read the bytes of a `.tflite` file; `name` is what messages call it.

    Raises:
        InputError: it is no such file, or damaged.
    """
    if data[4:8] != MAGIC:
        raise InputError(
            f"{name} is not a TFLite file: it has no TFL3 at its beginning",
            "give a file that TensorFlow, LiteRT, Vela or edgetpu_compiler wrote",
        )
    try:
        return _file(data)
    except (IndexError, UnicodeDecodeError, MemoryError) as error:
        raise InputError(
            f"{name} is cut short or damaged: an offset leads out of its {len(data)} bytes",
            "copy or export it again",
        ) from error


def _file(data: bytes) -> TfliteFile:
    model = Table.root(data)
    graph = model.nth(2, 0)
    whole = [True]
    codes = tuple(_code(c) for c in model.tables(1))
    tensors = tuple(_tensor(model, t, whole) for t in graph.tables(_SUBGRAPH["tensors"]))
    operators = tuple(_operator(o, codes) for o in graph.tables(_SUBGRAPH["operators"]))
    inputs, outputs = (graph.numbers(_SUBGRAPH[side]) for side in ("inputs", "outputs"))
    for numbers in (inputs, outputs, *((*o.inputs, *o.outputs) for o in operators)):
        if any(not -1 <= n < len(tensors) for n in numbers):
            raise IndexError("no such tensor")
    return TfliteFile(
        description=printable(model.text(3)),
        runtime=_metadata(model, "min_runtime_version"),
        tensors=tensors,
        operators=operators,
        inputs=inputs,
        outputs=outputs,
        subgraphs=model.extent(2)[1],
        labels=_labels(data),
        accelerator=_accelerator(model, graph, operators),
        complete=whole[0],
    )


def _code(table: Table) -> tuple[str, int, bool]:
    """An operator's name and version, and whether it is a custom one."""
    old, new = table.integer(0, 1), table.integer(3, 4)
    code, known = (new if old >= _LARGE_CODES else old or new), _words().operators
    name = known[code] if 0 <= code < len(known) else f"operator {code}"
    if name == CUSTOM:
        return printable(table.text(1)) or CUSTOM, table.integer(2, 4, 1), True
    return name, table.integer(2, 4, 1), False


def _operator(table: Table, codes: Sequence[tuple[str, int, bool]]) -> TfliteOperator:
    op, version, custom = codes[table.integer(0, 4, signed=False)]
    said = None if custom else table.table(4)
    slots = _words().options.get(op, {})
    return TfliteOperator(
        op=op,
        version=version,
        custom=custom,
        inputs=table.numbers(1),
        outputs=table.numbers(2),
        options={n: _option(said, slot) for n, slot in slots.items()},
    )


def _option(table: Table | None, slot: tuple[int, ...]) -> int:
    place, size, *default = slot
    least = default[0] if default else 0
    return least if table is None else table.integer(place, size, least)


def _tensor(model: Table, table: Table, whole: list[bool]) -> TfliteTensor:
    code, types = table.integer(1, 1), _words().types
    dtype = types[code] if 0 <= code < len(types) else f"type {code}"
    start, size = _buffer(model, table.integer(2, 4, signed=False))
    if start + size > len(model.data):
        start, size, whole[0] = 0, 0, False
    scale, zero, channels, axis = _affine(table.table(4))
    return TfliteTensor(
        name=printable(table.text(3)),
        shape=table.numbers(0),
        dtype=dtype,
        constant=start > 0,
        signature=table.numbers(7),
        channels=channels,
        scale=scale,
        zero=zero,
        axis=axis,
        values=_values(model, dtype, start, size),
    )


def _buffer(model: Table, index: int) -> tuple[int, int]:
    """Where a constant's bytes lie and how many they are; (0, 0) where there are none.

    In files above 2 GiB they lie behind the FlatBuffer, and two numbers say where.
    """
    if not index:
        return 0, 0
    buffer = model.nth(4, index)
    outside = buffer.integer(1, 8, signed=False)
    if outside > 1:
        return outside, buffer.integer(2, 8, signed=False)
    start, size = buffer.extent(0)
    return (start, size) if size else (0, 0)


def _affine(table: Table | None) -> tuple[float | None, int | None, int, int]:
    """Scale, zero, how many scales there are, and along which axis."""
    if table is None:
        return None, None, 0, 0
    scales, zeros = table.array(2, "<f4"), table.array(3, "<i8")
    if not scales.size:
        return None, None, 0, 0
    scale = float(scales.min())
    zero = int(zeros.min()) if zeros.size else 0
    return (scale if np.isfinite(scale) else 0.0), zero, int(scales.size), table.integer(6, 4)


def _values(model: Table, dtype: str, start: int, size: int) -> tuple[int, ...]:
    width = {"int32": 4, "int64": 8}.get(dtype, 0)
    if not start or not width or not 0 < size <= width * MOST_VALUES:
        return ()
    model.allowance.spend(0, size // width)
    return tuple(np.frombuffer(part(model.data, start, size - size % width), f"<i{width}").tolist())


def _accelerator(model: Table, graph: Table, operators: Sequence[TfliteOperator]) -> str:
    """The Ethos-U of Vela's commands: their second word is the chip's own register of its kind.

    Its highest four bits are the family, its lowest four how many products are summed at once, as
    a power of two; seen in files for each of the eleven chips.
    """
    first = next((o.inputs[0] for o in operators if o.op == ETHOS_U and o.inputs), -1)
    if first < 0:
        return ""
    start, size = _buffer(model, graph.nth(0, first).integer(2, 4, signed=False))
    if size < 12 or part(model.data, start, 4) != b"COP1":
        return ""
    word = number(model.data, start + 8, 4)
    family = _FAMILIES.get(word >> 28, "")
    return f"ethos-{family}-{1 << (word & 15)}" if family else ""


def _metadata(model: Table, name: str) -> str:
    """A text among the file's metadata, padded with zero bytes."""
    for entry in model.tables(6):
        if entry.text(0) == name:
            start, size = _buffer(model, entry.integer(1, 4, signed=False))
            text = part(model.data, start, min(size, MOST_VALUES))
            return printable(text.rstrip(b"\0"))
    return ""


def _labels(data: bytes) -> tuple[str, ...]:
    """The names of the classes, of the archive behind the network, where there is one."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [i for i in archive.infolist()[:MOST_VALUES] if i.file_size <= MOST_TEXT]
            for found in names:
                with archive.open(found) as file:
                    labels = _names(found.filename, file.read(MOST_TEXT + 1))
                if labels:
                    return tuple(printable(x) for x in labels)
    except (OSError, *DAMAGED):
        pass
    return ()


def _names(file: str, text: bytes) -> Sequence[str]:
    """Ultralytics writes JSON with `names`, TensorFlow's own tools a name on each line."""
    if len(text) > MOST_TEXT:
        return ()
    if file.endswith(".json"):
        try:
            names = msgspec.json.decode(text, type=_Names, strict=False).names
        except (msgspec.MsgspecError, RecursionError):
            return ()
        return [names[n] for n in sorted(names)] if isinstance(names, Mapping) else names
    if file.endswith(".txt"):
        return [x.strip() for x in text.decode(errors="replace").splitlines() if x.strip()]
    return ()
