"""What a Rockchip `.rknn` file says about itself, read without any vendor software.

The layout was found by looking at files: of format 1 (rknn-toolkit 1.7), 2 (rknn-toolkit2 1.3 and
1.4), 6 (1.5.2 to 2.5.0) and 0x1004 (the small chips RV1103 and RV1106). Formats 3 to 5 are taken
to be like 2 and 6, which agree. All numbers are little-endian:

    0   "RKNN" and four zero bytes
    8   u64, the format's version
    16  u64 N, the payload's length; the payload begins at 24 (rknn-toolkit) or 64 (rknn-toolkit2)
    64  a FlatBuffer with the identifier "RKNN" (not rknn-toolkit); in 0x1004 it lies further back
    ... at the payload's end: u64 J, and J bytes of JSON: names, shapes and types

The FlatBuffer's root holds texts; one of them is a Python dict with mean, std and the ranges that
the quantizer chose. Nothing in a file is trusted: every offset is checked, nothing is executed.
"""

import ast
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from onchip.errors import InputError
from onchip.formats.flatbuffer import Table, number, part
from onchip.formats.part import printable

MAGIC = b"RKNN\0\0\0\0"
MINI = 0x1004
HEADERS = (64, 24)  # bytes before the payload
MAX_NOTES = 1 << 18  # characters of a Python dict; a real one has about 400 per tensor
MAX_GUESSES = 8  # places where the small chips' FlatBuffer may begin

# Which slot of the FlatBuffer's root table holds which text.
_SLOTS = {
    "notes": 3, "toolkit": 7, "platform": 8, "framework": 9, "custom": 11,
    "inputs": 12, "outputs": 13,
}  # fmt: skip
SLOTS: Mapping[int, Mapping[str, int]] = {
    **dict.fromkeys(range(1, 7), _SLOTS),
    MINI: {"notes": 3, "toolkit": 5, "platform": 6, "framework": 7, "custom": 8},
}

_PREFIX = "VSI_NN_TYPE_"  # of the types that rknn-toolkit names

_ORDERS: Mapping[int | None, str] = {0: "nchw", 1: "nhwc"}

# Wide enough for any tensor, and no more than other programs read from JSON.
_Int = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]

T = TypeVar("T")


class RknnTensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of a compiled network.

    `layout` is the order of `shape`, "nchw" or "nhwc", or "" where it is not four numbers or the
    file does not say. The network sees `(pixel - mean) / std`; a single number stands for all
    channels, and outputs have none. A value is `(code - zero) * scale`; both are None for floats,
    and where the file does not say.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float | None = None
    zero: int | None = None


class RknnFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A compiled network, as far as its file describes it. What it does not say is empty.

    `complete` is False where the end of the file, or what it said, was lost.
    """

    version: int
    platforms: tuple[str, ...]
    toolkit: str
    compiler: str
    custom_string: str
    framework: str
    inputs: tuple[RknnTensor, ...]
    outputs: tuple[RknnTensor, ...]
    complete: bool = True


class _Type(Struct):
    """The type of a tensor in the closing JSON. rknn-toolkit says scale and zero here.

    `fl` counts the binary places of numbers whose scale is a power of two.
    """

    vx_type: str = ""
    fl: int | None = None
    scale: float | None = None
    zero_point: _Int | None = None


class _Tensor(Struct):
    url: str
    size: tuple[_Int, ...]
    tensor_id: int
    dtype: _Type


class _Link(Struct):
    left: str
    left_tensor_id: int
    right: str
    right_tensor_id: int


class _Tail(Struct):
    """What is of use in the closing JSON."""

    norm_tensor: list[_Tensor]
    graph: list[_Link]
    target_platform: tuple[str, ...] = ()
    version: str = ""
    ori_network_platform: str = ""
    input_fmt: int | None = None
    output_fmt: int | None = None
    mean_value: tuple[float, ...] = ()
    std_value: tuple[float, ...] = ()


class _Attribute(Struct):
    """What the notes say about a tensor."""

    shape: tuple[_Int, ...] = ()
    layout: str = ""
    idx: int = 0
    is_output: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class _Range(Struct):
    """How the notes say that a tensor was quantized."""

    qtype: str = ""
    min: tuple[float, ...] = ()
    max: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    zero_point: tuple[_Int, ...] = ()


class _Notes(Struct):
    attrs: dict[str, _Attribute] = {}
    quant_tab: dict[str, _Range] = {}


class _Declared(Struct):
    """How the runtime passes a tensor unless told otherwise."""

    dtype: str = ""


class _Root(NamedTuple):
    """The FlatBuffer's root, understood as far as possible."""

    texts: Mapping[str, str]
    notes: _Notes
    declared: Mapping[str, _Declared]


def read(path: Path) -> RknnFile:
    """Read a `.rknn` file.

    Raises:
        InputError: the file cannot be read, is not an RKNN file, or nothing in it can be told.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file", "give a .rknn file")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}", "check the path") from error
    return parse(data, str(path))


def parse(data: bytes, name: str) -> RknnFile:
    """Read the bytes of a `.rknn` file; `name` is what messages call it.

    Raises:
        InputError: not an RKNN file, a format that is not known, or nothing can be told.
    """
    if len(data) < 24 or not data.startswith(MAGIC):
        raise InputError(
            f"{name} is not an RKNN file: it does not begin with an RKNN header",
            "give a file that rknn-toolkit exported; encrypted files cannot be read",
        )
    version = number(data, 8, 8)
    if version not in SLOTS:
        raise InputError(
            f"{name} has RKNN format {version}, which onchip does not know",
            "known are 1 to 6 and 4100; build the network again with rknn-toolkit2 1.5.2 or later",
        )
    tail, root = _tail(data), _root(data, version)
    file = _file(version, tail, root)
    if tail is None and not (file.toolkit or file.platforms or file.inputs or file.outputs):
        raise InputError(
            f"{name} is cut short or damaged: nothing can be told from its {len(data)} bytes",
            "copy or export the file again",
        )
    return file


def _file(version: int, tail: _Tail | None, root: _Root) -> RknnFile:
    texts, said = root.texts, tail or _Tail([], [])
    toolkit, _, compiler = texts.get("toolkit", "").partition("(compiler version: ")
    platforms = said.target_platform or (texts.get("platform", ""),)
    return RknnFile(
        version=version,
        platforms=tuple(printable(p) for p in platforms if p),
        toolkit=printable(said.version or toolkit),
        compiler=printable(compiler.removesuffix(")")),
        custom_string=texts.get("custom", ""),
        framework=printable(texts.get("framework", "") or said.ori_network_platform),
        inputs=_ends(tail, root, "input"),
        outputs=_ends(tail, root, "output"),
        complete=tail is not None,
    )


def _tail(data: bytes) -> _Tail | None:
    """The JSON at the end, or None where it is missing, damaged, or contradicts itself."""
    for header in HEADERS:
        try:
            start = header + number(data, 16, 8)
            text = part(data, start + 8, number(data, start, 8))
            tail = msgspec.json.decode(text, type=_Tail)
        except (IndexError, ValueError, RecursionError):
            continue
        known = {t.tensor_id for t in tail.norm_tensor}
        if all(link.right_tensor_id in known for link in tail.graph if _outside(link)):
            return tail
    return None


def _outside(link: _Link) -> bool:
    """Whether a link leads to a tensor outside the network: an input or an output."""
    return link.right == "norm_tensor"


def _root(data: bytes, version: int) -> _Root:
    """The texts of the FlatBuffer's root; all are empty where it cannot be found."""
    texts: Mapping[str, str] = {}
    for start in _starts(data, version):
        texts = {name: _text(data, start, slot) for name, slot in SLOTS[version].items()}
        if any(texts.values()):
            break
    kind = dict[str, _Declared]
    declared = (_json(texts.get(which, ""), kind) or {} for which in ("inputs", "outputs"))
    return _Root(
        texts, _notes(texts.get("notes", "")), {k: v for d in declared for k, v in d.items()}
    )


def _starts(data: bytes, version: int) -> list[int]:
    """Where the FlatBuffer may begin: four bytes before its identifier."""
    if version != MINI:
        return [64] if data[68:72] == MAGIC[:4] else []
    starts: list[int] = []
    found = data.find(MAGIC[:4], 68)
    while found >= 0 and len(starts) < MAX_GUESSES:
        starts.append(found - 4)
        found = data.find(MAGIC[:4], found + 4)
    return starts


def _text(data: bytes, start: int, slot: int) -> str:
    """The text in a slot of the root table; "" where it is missing, or an offset leads outside."""
    try:
        return Table.root(data, start).text(slot)
    except (IndexError, UnicodeDecodeError):
        return ""


def _notes(text: str) -> _Notes:
    """The Python dict, read as a literal; empty where it is anything but that."""
    if len(text) > MAX_NOTES:
        return _Notes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes in the text: not ours
            return msgspec.convert(ast.literal_eval(text), _Notes)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _Notes()


def _json(text: str, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError):
        return None


def _ends(tail: _Tail | None, root: _Root, side: str) -> tuple[RknnTensor, ...]:
    """The network's inputs or outputs, in order."""
    attributes = root.notes.attrs
    if tail is None:
        named = [(n, a) for n, a in attributes.items() if a.is_output == (side == "output")]
        named.sort(key=lambda pair: pair[1].idx)
        return tuple(_from_notes(n, a.shape, root, "", side) for n, a in named)
    tensors = {t.tensor_id: t for t in tail.norm_tensor}
    links = [link for link in tail.graph if _outside(link) and link.left == side]
    links.sort(key=lambda link: link.left_tensor_id)
    found = [tensors[link.right_tensor_id] for link in links]
    if any(t.dtype.vx_type.startswith(_PREFIX) for t in found):
        return tuple(_from_tail(t, tail, side, alone=len(found) == 1) for t in found)
    return tuple(
        _from_notes(t.url, t.size, root, t.dtype.vx_type or "float16", side) for t in found
    )


def _from_tail(tensor: _Tensor, tail: _Tail, side: str, alone: bool) -> RknnTensor:
    """A tensor of rknn-toolkit, which writes shapes backwards: width before height, batch last.

    Its mean and std are one list for all inputs, so they are told of a single input only.
    """
    kind = tensor.dtype
    pixels = side == "input"
    order = _ORDERS.get(tail.input_fmt if pixels else tail.output_fmt, "")
    scale, zero = kind.scale, kind.zero_point
    if scale is None and kind.fl is not None and abs(kind.fl) < 64:
        scale, zero = 2.0**-kind.fl, 0
    return RknnTensor(
        name=printable(tensor.url),
        shape=tensor.size[::-1],
        dtype=printable(kind.vx_type.removeprefix(_PREFIX).lower()),
        layout=order if len(tensor.size) == 4 else "",
        mean=tail.mean_value if pixels and alone else (),
        std=tail.std_value if pixels and alone else (),
        scale=scale,
        zero=zero,
    )


def _from_notes(
    name: str, shape: tuple[int, ...], root: _Root, dtype: str, side: str
) -> RknnTensor:
    said = root.notes.attrs.get(name, _Attribute())
    declared = root.declared.get(name, _Declared())
    dtype = declared.dtype or dtype
    scale, zero = _affine(root.notes.quant_tab.get(name, _Range()), dtype)
    pixels = side == "input"
    return RknnTensor(
        name=printable(name),
        shape=shape,
        dtype=printable(dtype),
        layout=printable(said.layout.lower()) if len(shape) == 4 else "",
        mean=_finite(said.mean or ()) if pixels else (),
        std=_finite(said.std or ()) if pixels else (),
        scale=scale,
        zero=zero,
    )


def _affine(range_: _Range, dtype: str) -> tuple[float | None, int | None]:
    """Scale and zero of a tensor: as written, or of the 255 steps from its min to its max.

    The toolkit's own quantizer leaves them out. It widens the range to hold 0 (seen in the outputs
    of its simulator). Of other kinds of numbers than int8 only what is written is told.
    """
    if len(range_.scale) == len(range_.zero_point) == 1:
        scale, zero = range_.scale[0], range_.zero_point[0]
        return (scale, zero) if math.isfinite(scale) else (None, None)
    asymmetric = range_.qtype.startswith("asym") and dtype == "int8"
    if not asymmetric or len(range_.min) != 1 or len(range_.max) != 1:
        return None, None
    low, high = min(range_.min[0], 0.0), max(range_.max[0], 0.0)
    scale = (high - low) / 255
    if not (0 < scale < math.inf):
        return None, None
    return scale, round(-128 - low / scale)


def _finite(values: tuple[float, ...]) -> tuple[float, ...]:
    return values if all(map(math.isfinite, values)) else ()
