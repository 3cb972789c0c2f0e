"""What a Hailo archive (`.har`) says about itself, read without any vendor software.

It is a tar archive, gzipped or not, that the Dataflow Compiler saves after each stage. In it are
`<net>.metadata.json` (the stage, the compiler's version, the name of the graph's file), the graph
(`.hn`, JSON), parameters (`.npz`: `.fpo.` after full-precision optimization, `.q.` quantized; newer
compilers write `.hdf5`, which is only listed), the model script (`.alls`), the NMS configuration
(JSON), and in the end the `.hef`. The names were gathered from public programs that read such
archives; no archive of Hailo's was here.

Nothing is extracted, followed, executed or unpickled: a name in an archive is only a name.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple, TypeVar

import msgspec
import xxhash
from msgspec import Struct

from onchip.errors import InputError
from onchip.formats import hef
from onchip.formats.hef import HefFile
from onchip.formats.npz import Array, arrays
from onchip.formats.part import Part, printable

BLOCK = 512  # bytes; a tar archive is made of them
MAX_FILES = 4096
MAX_NAME = 4096
MAX_TEXT = 1 << 18  # bytes of a model script
MAX_KEYS = 30_000  # of the graph, and more in a large one
MAX_LIST = 1 << 14  # bytes of a list that is decoded
MAX_ENDS = 256
GZIP = b"\x1f\x8b"
EXPANDS = 20  # how many times larger a gzipped archive may become
SPARE = 1 << 20
CHUNK = 1 << 20

STATES = {
    "hailo_model": "parsed",
    "fp_optimized_model": "optimized in full precision",
    "quantized_model": "quantized",
    "compiled_model": "compiled",
}

_NOTHING = msgspec.Raw(b'""')

T = TypeVar("T")


class HarTensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input, or a layer that the network ends with.

    `shape` is height, width, channels. `original` are the ONNX nodes that became the layer.
    `bits` is how many its output has, where it is quantized.
    """

    name: str
    shape: tuple[int, ...]
    original: tuple[str, ...] = ()
    activation: str = ""
    bits: int = 0


class HarNms(Struct, frozen=True, kw_only=True):
    """The NMS configuration: thresholds, the network's size (height, width), and its layers."""

    nms_scores_th: float
    nms_iou_th: float = 0.0
    classes: int = 0
    max_proposals_per_class: int = 0
    image_dims: tuple[int, ...] = ()
    bbox_decoders: tuple[dict[str, object], ...] = ()

    def layers(self, key: str) -> tuple[str, ...]:
        """The layers that decoders name as their "cls_layer", "encoded_layer" and so on."""
        found = (d.get(key) for d in self.bbox_decoders)
        return tuple(name for name in found if isinstance(name, str))


class HarParameters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of parameters: how many arrays and numbers it has, and a digest of it.

    `bits` counts the layers by precision: {"a8_w8": 63}; only quantized ones have any.
    """

    file: str
    arrays: int
    numbers: int
    digest: str
    bits: dict[str, int] = {}


class HarFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An archive, as far as it describes itself. What it does not say is empty.

    `state` is the stage after which it was saved. `layers` counts them by type. `script` is the
    model script, `files` everything inside with its size in bytes.
    """

    name: str
    state: str
    compiler: str
    arch: str
    inputs: tuple[HarTensor, ...]
    outputs: tuple[HarTensor, ...]
    layers: dict[str, int]
    parameters: tuple[HarParameters, ...]
    script: str
    nms: HarNms | None
    files: dict[str, int]
    hef: HefFile | None = None
    complete: bool = True

    @property
    def stage(self) -> str:
        """The stage in words."""
        return STATES.get(self.state, self.state or "of an unknown stage")


class _Params(Struct):
    activation: msgspec.Raw = _NOTHING


class _Layer(Struct):
    """A layer of the graph; lists are decoded where they are wanted, the rest is left out."""

    type: str = ""
    input: msgspec.Raw = _NOTHING
    input_shapes: msgspec.Raw = _NOTHING
    output_shapes: msgspec.Raw = _NOTHING
    original_names: msgspec.Raw = _NOTHING
    params: msgspec.Raw = _NOTHING


class _Order(Struct, frozen=True):
    output_layers_order: tuple[str, ...] = ()


class _Graph(Struct):
    name: str = ""
    layers: dict[str, msgspec.Raw] = {}
    net_params: _Order = _Order()


class _About(Struct):
    """What is of use in the metadata; texts, if all is well."""

    state: msgspec.Raw = _NOTHING
    hn: msgspec.Raw = _NOTHING
    sdk_version: msgspec.Raw = _NOTHING
    hw_arch: msgspec.Raw = _NOTHING


class _Member(NamedTuple):
    """A file inside the archive. `room` is how much of it may be read at once."""

    part: Part
    cut: bool
    room: int

    def all(self) -> bytes:
        """Its content, or nothing where that is absurdly large."""
        return self.part.read(0, self.part.size) if self.part.size <= self.room else b""


def read(path: Path) -> HarFile:
    """Read a `.har` file.

    Raises:
        InputError: it cannot be read, is no Hailo archive, or would grow without measure.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file", "give a .har file")
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}", "check the path") from error


def parse(data: bytes, name: str) -> HarFile:
    """Read the bytes of a `.har` file; `name` is what messages call it.

    Raises:
        InputError: as `read`.
    """
    return _read(BytesIO(data), len(data), name)


def _read(file: BinaryIO, size: int, name: str) -> HarFile:
    if file.read(len(GZIP)) == GZIP:
        with TemporaryFile() as plain:
            cut = _expand(file, size, plain, name)
            return _archive(Part(plain, 0, plain.seek(0, 2)), size, cut, name)
    return _archive(Part(file, 0, size), size, False, name)


def _archive(whole: Part, size: int, cut: bool, name: str) -> HarFile:
    """Read a tar archive; `size` is what it has on disk."""
    start = whole.read(0, BLOCK)
    if not _is_header(start):
        other = "an HTTP archive, which is JSON" if start.lstrip().startswith(b"{") else "no tar"
        raise InputError(
            f"{name} is not a Hailo archive: it is {other}",
            "give a .har file that Hailo's Dataflow Compiler saved",
        )
    members = _members(whole, 2 * size + SPARE, name)
    return _file(members, cut or any(m.cut for m in members.values()), name)


def _expand(file: BinaryIO, size: int, plain: BinaryIO, name: str) -> bool:
    """Unpack a gzipped archive; return whether its end is missing."""
    file.seek(0)
    stream, left = zlib.decompressobj(31), EXPANDS * size + SPARE
    try:
        while not stream.eof and (packed := stream.unconsumed_tail or file.read(CHUNK)):
            data = stream.decompress(packed, CHUNK)
            left -= len(data)
            if left < 0:
                raise InputError(
                    f"{name} would grow to more than {EXPANDS} times its size: it is no Hailo "
                    "archive",
                    "give a .har file that Hailo's Dataflow Compiler saved",
                )
            plain.write(data)
    except zlib.error as error:
        raise InputError(
            f"{name} is a damaged gzip file: {error}", "copy or save it again"
        ) from error
    return not stream.eof


# The tar archive


def _is_header(block: bytes) -> bool:
    """Whether a block is a file's header: its bytes add up to what it says."""
    if len(block) < BLOCK:
        return False
    return sum(block[:148]) + 8 * 32 + sum(block[156:]) == _octal(block[148:156])


def _octal(text: bytes) -> int:
    """A number as tar writes it; -1 where it is none. Large ones are binary."""
    if text[:1] == b"\x80":
        return int.from_bytes(text[1:], "big")
    try:
        return int(text.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1


def _members(whole: Part, room: int, name: str) -> Mapping[str, _Member]:
    """Every plain file of the archive; links, folders and devices are passed over."""
    at, long = 0, ""
    found: dict[str, _Member] = {}
    for _ in range(MAX_FILES):
        block = whole.read(at, BLOCK)
        if block and not block.strip(b"\0"):
            return found  # the end is blocks of zeros
        count, kind = _octal(block[124:136]), block[156:157]
        if not _is_header(block) or count < 0:
            found[""] = _Member(whole, cut=True, room=0)
            return found
        at += BLOCK
        if kind in (b"L", b"x"):
            long = _long(kind, whole.read(at, min(count, MAX_NAME))) or long
        else:
            known = long or _plain(block)
            if kind in (b"0", b"\0", b"7"):
                if known in found:
                    raise InputError(
                        f"{name} holds two files called {known}", "save the archive again"
                    )
                there = max(0, min(count, whole.size - at))
                part = Part(whole.file, whole.start + at, there)
                found[known] = _Member(part, cut=there < count, room=room)
            long = ""
        at += -(-count // BLOCK) * BLOCK
    raise InputError(
        f"{name} holds more than {MAX_FILES} files: it is no Hailo archive",
        "give a .har file that Hailo's Dataflow Compiler saved",
    )


def _plain(block: bytes) -> str:
    """A file's name in its own header, of at most 255 characters."""
    name, prefix = block[:100], block[345:500] if block[257:262] == b"ustar" else b""
    return printable(b"/".join(p.split(b"\0")[0] for p in (prefix, name) if p.strip(b"\0")))


def _long(kind: bytes, data: bytes) -> str:
    """A longer name, in a block of its own: the name alone, or among "length key=value" lines."""
    if kind == b"L":
        return printable(data.split(b"\0")[0])
    for line in data.split(b"\n"):
        if line.partition(b" ")[2].startswith(b"path="):
            return printable(line.partition(b"path=")[2])
    return ""


# What is in it


def _file(members: Mapping[str, _Member], cut: bool, name: str) -> HarFile:
    about = _metadata(members)
    graph = _graph(members, about["hn"])
    if not (any(about.values()) or graph.layers):
        raise InputError(
            f"{name} is not a Hailo archive: it holds neither metadata nor a graph"
            + (", or they were cut off" if cut else ""),
            "give a .har file that Hailo's Dataflow Compiler saved",
        )
    parameters, bits = _parameters(members)
    kinds, starts, ends = _survey(graph)
    return HarFile(
        name=printable(graph.name.encode()),
        state=about["state"],
        compiler=about["sdk_version"],
        arch=about["hw_arch"],
        inputs=tuple(_tensor(n, graph, bits) for n in starts),
        outputs=tuple(_tensor(n, graph, bits) for n in ends),
        layers=kinds,
        parameters=parameters,
        script=_script(members),
        nms=_nms(members),
        files={n: m.part.size for n, m in members.items() if n},
        hef=_hef(members),
        complete=not cut,
    )


def _of(members: Mapping[str, _Member], *endings: str) -> Iterator[tuple[str, _Member]]:
    """Yield the files whose names end so, except those that were cut."""
    for name, member in members.items():
        if name.endswith(endings) and not member.cut:
            yield name, member


def _json(data: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError):
        return None


def _metadata(members: Mapping[str, _Member]) -> dict[str, str]:
    found = _About()
    for _, member in _of(members, ".metadata.json"):
        found = _json(member.all(), _About) or found
    return {
        name: printable((_json(bytes(getattr(found, name)), str) or "").encode())
        for name in _About.__struct_fields__
    }


def _graph(members: Mapping[str, _Member], wanted: str) -> _Graph:
    """The graph that the metadata names, else the only one that is neither native nor float."""
    names = [n for n, _ in _of(members, ".hn")]
    plain = [n for n in names if not n.endswith((".native.hn", ".fp.hn"))]
    for name in [n for n in (wanted, *plain, *names) if n in names][:1]:
        data = members[name].all()
        if data.count(b":") <= MAX_KEYS + len(data) // 64:
            return _json(data, _Graph) or _Graph()
    return _Graph()


def _survey(graph: _Graph) -> tuple[dict[str, int], list[str], list[str]]:
    """Count the layers by type, and name those that the network begins and ends with, in order.

    An output layer only stands for the layer before it.
    """
    kinds: Counter[str] = Counter()
    starts: list[str] = []
    ends = [n for n in graph.net_params.output_layers_order if n in graph.layers][:MAX_ENDS]
    ordered = bool(ends)
    for name in graph.layers:
        layer = _layer(graph, name)
        kinds[printable(layer.type.encode())] += 1
        if layer.type == "input_layer" and len(starts) < MAX_ENDS:
            starts.append(name)
        if layer.type == "output_layer" and not ordered and len(ends) < MAX_ENDS:
            ends += [n for n in _list(layer.input, tuple[str, ...]) if n in graph.layers]
    return dict(kinds), starts, ends


def _layer(graph: _Graph, name: str) -> _Layer:
    return _json(bytes(graph.layers[name]), _Layer) or _Layer()


def _list(raw: msgspec.Raw, kind: type[tuple[T, ...]]) -> tuple[T, ...]:
    data = bytes(raw)
    return (_json(data, kind) or ()) if len(data) <= MAX_LIST else ()


def _tensor(name: str, graph: _Graph, bits: Mapping[str, int]) -> HarTensor:
    layer = _layer(graph, name)
    shapes = tuple[tuple[int, ...], ...]
    found = _list(layer.output_shapes, shapes) or _list(layer.input_shapes, shapes) or ((),)
    params = _json(bytes(layer.params), _Params) or _Params()
    activation = _json(bytes(params.activation), str) or ""
    return HarTensor(
        name=printable(name.encode()),
        shape=found[0][1:] if len(found[0]) > 1 else found[0],
        original=tuple(printable(n.encode()) for n in _list(layer.original_names, tuple[str, ...])),
        activation=printable(activation.encode()),
        bits=bits.get(name, 0),
    )


def _parameters(
    members: Mapping[str, _Member],
) -> tuple[tuple[HarParameters, ...], dict[str, int]]:
    """Each file of parameters, and how many bits the outputs of quantized layers have."""
    found: list[HarParameters] = []
    outputs: dict[str, int] = {}
    for name, member in _of(members, ".npz"):
        count, numbers, weights, here = 0, 0, {}, {}
        for array in arrays(member.part):
            count, numbers = count + 1, numbers + _count(array)
            layer, _, what = array.name.partition(":")[0].rpartition("/")
            if len(array.values) == 1 and what == "output_activation_bits":
                here[layer] = int(array.values[0])
            elif len(array.values) == 1 and what == "weight_bits":
                weights[layer] = int(array.values[0])
        both = Counter(f"a{here[n]}_w{weights[n]}" for n in weights if n in here)
        found.append(
            HarParameters(
                file=name,
                arrays=count,
                numbers=numbers,
                digest=_digest(member.part),
                bits=dict(both),
            )
        )
        outputs |= here
    return tuple(found), outputs


def _count(array: Array) -> int:
    total = 1
    for n in array.shape:
        total *= n
    return min(total, 1 << 53)


def _digest(part: Part) -> str:
    digest = xxhash.xxh3_64()
    for at in range(0, part.size, SPARE):
        digest.update(part.read(at, SPARE))
    return digest.hexdigest()


def _script(members: Mapping[str, _Member]) -> str:
    """The model script that the user gave; the compiler's own record of it is another file."""
    for name, member in _of(members, ".alls"):
        if not name.endswith(".auto.alls"):
            lines = member.part.read(0, MAX_TEXT).splitlines()
            return "\n".join(printable(line) for line in lines)
    return ""


def _nms(members: Mapping[str, _Member]) -> HarNms | None:
    for name, member in _of(members, ".json"):
        if name.endswith(".metadata.json") or member.part.size > MAX_TEXT:
            continue
        if found := _json(member.all(), HarNms):
            return found
    return None


def _hef(members: Mapping[str, _Member]) -> HefFile | None:
    for name, member in _of(members, ".hef"):
        if member.part.size <= member.room:
            try:
                return hef.within(member.part, name)
            except InputError:
                return None
    return None
