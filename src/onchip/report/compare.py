"""What differs between two compiled files, field by field, the gravest first."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from onchip.artifact import Artifact, load
from onchip.errors import InputError, UnsupportedError
from onchip.formats import har as har_file
from onchip.formats import hef as hef_file
from onchip.formats import rknn as rknn_file
from onchip.formats.hailo_versions import table
from onchip.formats.har import HarFile
from onchip.formats.hef import HefFile, HefGroup, HefTensor
from onchip.formats.rknn import RknnFile, RknnTensor
from onchip.report.hef import is_har, is_hef
from onchip.report.inspect import is_artifact, is_rknn

Facts = Mapping[str, object]  # by field; None is what a file does not say

BYTES, SHAPE = "bytes", "shape of "
MANY = 4  # values that are shown

# Which formats can be compared.
_PAIRS = {(k, k) for k in ("hef", "har", "rknn", "onchip")} | {
    (a, b)
    for one, other in (("hef", "har"), ("hef", "onchip"), ("har", "onchip"), ("rknn", "onchip"))
    for a, b in ((one, other), (other, one))
}

# The gravest first: what a file is for and gives, how it rounds, and only then how it was made.
_ORDER = (
    "chip", "complete", "state", "classes", "labels", "family", "size of", "type of", "image of",
    "input", "after", "score", "IoU", "boxes", "background", "end nodes", "outputs", "shape of",
    "activation of", "mean of", "std of", "bits of", "scale of", "zero of", "range of",
    "output bits", "precision", "layers of", "contexts", "layouts", "options", "script", "source",
    "compiler", "toolkit", "tools", "onchip", "extensions", "header", "format", "note", "created",
    "payload", "values", BYTES,
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One field in which two files differ; None is what a file does not have."""

    field: str
    a: object
    b: object


@dataclass(frozen=True)
class Comparison:
    """Two files, of which formats, in how many fields they were compared, and what differs."""

    formats: tuple[str, str]
    compared: int
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


def compare(a: Path, b: Path) -> Comparison:
    """Compare two files. Those of one format are compared in all, .hef and .har in what both say.

    Raises:
        InputError: a file cannot be read.
        UnsupportedError: they cannot be compared.
    """
    first, second = _kind(a), _kind(b)
    if (first, second) not in _PAIRS:
        raise UnsupportedError(
            f"a .{first} and a .{second} file have nothing in common to compare",
            "compare two of one format, .hef with .har, or a compiled file with its .onchip",
        )
    one, other = _facts(a, first, second), _facts(b, second, first)
    fields = sorted(dict.fromkeys([*one, *other]), key=_rank)
    if {first, second} in ({"hef", "har"}, {"onchip", "har"}):
        fields = [f for f in fields if None not in (one.get(f), other.get(f))]
    if first != second:
        fields = [f for f in fields if f != BYTES]
    gone = {_owner(f) for f in fields if f.startswith(SHAPE) and (f in one) != (f in other)}
    differences = tuple(
        Difference(f, one.get(f), other.get(f))
        for f in fields
        if not _same(one.get(f), other.get(f)) and (f.startswith(SHAPE) or _owner(f) not in gone)
    )
    return Comparison((first, second), len(fields), differences)


def _same(a: object, b: object) -> bool:
    """Whether two values are equal; what is not a number is equal to itself."""
    return a == b or repr(a) == repr(b)


def _owner(field: str) -> str:
    """The tensor that a field is of."""
    return field.partition(" of ")[2]


def _rank(field: str) -> int:
    """Where a field is shown: the first of `_ORDER` that it begins with, else the end."""
    return next((n for n, start in enumerate(_ORDER) if field.startswith(start)), len(_ORDER))


def _kind(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path} is not a file", "give two compiled files or artifacts")
    for kind, test in (
        ("hef", is_hef), ("har", is_har), ("rknn", is_rknn), ("onchip", is_artifact),
    ):  # fmt: skip
        if test(path):
            return kind
    raise UnsupportedError(
        f"{path} is neither compiled nor an artifact",
        "onchip diff compares .hef, .har, .rknn and .onchip files",
    )


def _facts(path: Path, kind: str, other: str) -> Facts:
    """What a file says, of an artifact what its program says where that is compared."""
    if kind == "hef":
        return {**_hef(hef_file.read(path)), BYTES: _digest(path)}
    if kind == "har":
        return {**_har(har_file.read(path)), BYTES: _digest(path)}
    if kind == "rknn":
        return {**_rknn(rknn_file.read(path)), BYTES: _digest(path)}
    made = load(path)
    return _artifact(made) if other == "onchip" else _program(made, path, other)


def _program(made: Artifact, path: Path, kind: str) -> Facts:
    """The facts of the program in an artifact, which must be of the other file's format."""
    program = made.payload("program")
    if kind in ("hef", "har") and program.startswith(hef_file.MAGIC):
        return _hef(hef_file.parse(program, f"the program of {path}"))
    if kind == "rknn" and program.startswith(rknn_file.MAGIC):
        return _rknn(rknn_file.parse(program, f"the program of {path}"))
    raise UnsupportedError(
        f"the program in {path}, for {made.manifest.target}, is no .{kind} file",
        "compare it with a file of its own format, or with another .onchip",
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Each format's fields. Those of the same name mean the same, whatever the format.


def _hef(file: HefFile) -> Facts:
    arch = table().arch_of(file.arch)
    found: dict[str, object] = {
        "chip": arch.devices[0] if arch and arch.devices else file.arch,
        "complete": file.complete,
        "compiler": file.compiler or None,
        "extensions": [table().extension(e) for e in sorted(file.extensions)],
        "header": file.header.form,
        "payload": file.payload or None,
        "created": file.created,
    }
    for group in file.groups:
        where = f" in {group.name}" if len(file.groups) > 1 else ""
        found |= {f"{field}{where}": value for field, value in _network(group).items()}
    return found


def _network(group: HefGroup) -> Facts:
    found: dict[str, object] = {
        "outputs": [_short(t.name) for t in group.outputs],
        "contexts": group.contexts,
        "layouts": group.layouts,
        "end nodes": _nodes([t.original for t in group.raw]),
    }
    found |= {f"size of {_short(t.name)}": t.shape for t in group.inputs}
    found |= {f"type of {_short(t.name)}": t.dtype for t in group.inputs}
    for post in group.post:
        found |= {
            "classes": post.classes or None,
            "after the chip": post.kind,
            "score threshold": post.score,
            "IoU threshold": post.iou,
            "boxes of a class": post.most,
            "image of the NMS": post.image,
            "background": post.background,
        }
    for tensor in group.raw:
        place = _place(tensor, found)
        found |= {f"{say} of {place}": take(tensor) for say, take in _TENSOR.items()}
    return found


_TENSOR: Mapping[str, Callable[[HefTensor], object]] = {
    "shape": lambda t: t.shape,
    "bits": lambda t: t.dtype,
    "scale": lambda t: t.scales,
    "zero": lambda t: t.zeros,
    "range": lambda t: t.range,
}


def _har(file: HarFile) -> Facts:
    found: dict[str, object] = {
        "chip": file.arch.lower() or None,
        "complete": file.complete,
        "state": file.state,
        "classes": file.nms.classes if file.nms else None,
    }
    found |= {f"size of {_short(t.name)}": t.shape for t in file.inputs}
    if file.nms:
        found["score threshold"] = file.nms.nms_scores_th
        found["IoU threshold"] = file.nms.nms_iou_th
        found["boxes of a class"] = file.nms.max_proposals_per_class or None
        found["image of the NMS"] = file.nms.image_dims or None
    for tensor in file.outputs:
        place = tensor.original[-1] if tensor.original else _short(tensor.name)
        found[f"shape of {place}"] = tensor.shape
        found[f"activation of {place}"] = tensor.activation or None
        found[f"output bits of {place}"] = tensor.bits or None
    found["end nodes"] = _nodes([t.original for t in file.outputs])
    found |= {f"layers of {kind}": n for kind, n in sorted(file.layers.items())}
    for part in file.parameters:
        found |= {f"precision in {part.file}": part.bits, f"values in {part.file}": part.digest}
    return found | {"compiler": file.compiler or None, "script": file.script or None}


def _rknn(file: RknnFile) -> Facts:
    found: dict[str, object] = {
        "chip": ", ".join(file.platforms).lower() or None,
        "complete": file.complete,
    }
    for tensor in (*file.inputs, *file.outputs):
        found |= {f"shape of {tensor.name}": tensor.shape, f"bits of {tensor.name}": tensor.dtype}
    for tensor in file.inputs:
        found |= {f"mean of {tensor.name}": tensor.mean, f"std of {tensor.name}": tensor.std}
    for tensor in (*file.inputs, *file.outputs):
        found |= {f"scale of {tensor.name}": _affine(tensor)}
    return found | {
        "compiler": file.compiler or None,
        "toolkit": file.toolkit or None,
        "format": file.version,
        "note": file.custom_string or None,
    }


def _affine(tensor: RknnTensor) -> object:
    return None if tensor.scale is None else (tensor.scale, tensor.zero)


def _artifact(made: Artifact) -> Facts:
    manifest = made.manifest
    return {
        "chip": manifest.target,
        "classes": manifest.head.classes,
        "labels": manifest.head.labels,
        "family": manifest.head.family,
        "input": manifest.input.describe(),
        "input of the program": manifest.program_input and manifest.program_input.describe(),
        "end nodes": sorted(manifest.head.end_nodes),
        "options": manifest.options,
        "source": manifest.source_sha256,
        "tools": manifest.tools,
        "onchip": manifest.onchip,
        **{f"payload {n}": p.sha256 for n, p in sorted(manifest.payloads.items())},
    }


def _short(name: str) -> str:
    """A layer's name without its network's, which says nothing of the layer."""
    return name.rpartition("/")[2]


def _place(tensor: HefTensor, taken: Facts) -> str:
    """What a tensor is called: by its ONNX node, since builds number layers anew."""
    node = tensor.original[-1] if tensor.original else ""
    return _short(tensor.name) if not node or f"{SHAPE}{node}" in taken else node


def _nodes(originals: Sequence[Sequence[str]]) -> object:
    return sorted(names[-1] for names in originals if names) or None


# Shown


def as_text(found: Comparison, a: Path, b: Path) -> str:
    """Say what differs, one line each."""
    shared = "" if found.formats[0] == found.formats[1] else " that both have"
    if found.equal:
        return f"{a} and {b} are alike in all {found.compared} fields{shared}"
    count = len(found.differences)
    lines = [f"{a} and {b} differ in {count} of {found.compared} fields{shared}"]
    width = max(len(d.field) for d in found.differences)
    for d in found.differences:
        one, other = _shown(_own(d.a, d.b)), _shown(_own(d.b, d.a))
        if one == other:  # they differ in what is not shown
            one, other = repr(d.a)[:200], repr(d.b)[:200]
        lines.append(f"  {d.field:<{width}}  {one}  |  {other}")
    return "\n".join(lines)


def as_data(found: Comparison, a: Path, b: Path) -> dict[str, object]:
    """The same as JSON-ready data."""
    return {
        "equal": found.equal,
        "a": str(a),
        "b": str(b),
        "formats": list(found.formats),
        "compared": found.compared,
        "differences": [
            {"field": d.field, "a": msgspec.to_builtins(d.a), "b": msgspec.to_builtins(d.b)}
            for d in found.differences
        ],
    }


def _own(value: object, other: object) -> object:
    """Of two long lists of names only what the other has not."""
    if not (isinstance(value, list) and isinstance(other, list)) or len(value) <= MANY:
        return value
    return [v for v in value if v not in other]


def _shown(value: object) -> str:
    if value is None or value in ("", [], ()):
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        texts = [_shown(v) for v in value[:MANY]]
        return ", ".join(texts) + (f", … ({len(value)})" if len(value) > MANY else "")
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items()) or "-"
    text = " / ".join(str(value).splitlines())
    return text if len(text) <= 60 else text[:24] + "…"
