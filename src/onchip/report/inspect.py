"""What a file is, from the file alone."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

import msgspec

from onchip.artifact import Artifact
from onchip.errors import OnchipError, UnsupportedError
from onchip.formats import rknn as rknn_file
from onchip.formats import tflite as tflite_file
from onchip.formats.rknn import RknnTensor
from onchip.formats.rknn_verdicts import verdicts as rknn_verdicts
from onchip.graph import read
from onchip.graph.clean import clean
from onchip.graph.pixels import convention, declared, input_spec
from onchip.graph.prove import Cut, cut
from onchip.graph.read import Model, TensorInfo
from onchip.quantize.plan import QuantPlan
from onchip.report import data as as_data
from onchip.report import text as as_text
from onchip.spec import Verdict, short


@dataclass(frozen=True)
class Inspection:
    """The same finding as text, as JSON-ready data, and layer by layer."""

    text: str
    data: dict[str, object]
    layers: str


def is_artifact(path: Path) -> bool:
    """Whether a file claims to be an artifact, by its name or its first bytes."""
    return path.suffix == ".onchip" or (path.is_file() and is_zipfile(path))


def is_rknn(path: Path) -> bool:
    """Whether a file claims to be compiled for Rockchip, by its name or its first bytes."""
    if path.suffix == ".rknn":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(rknn_file.MAGIC)) == rknn_file.MAGIC
    except OSError:
        return False


def is_tflite(path: Path) -> bool:
    """Whether a file claims to be TensorFlow Lite's, by its name or its first bytes."""
    if path.suffix == ".tflite":
        return True
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == tflite_file.MAGIC
    except OSError:
        return False


def artifact(made: Artifact, path: Path, *, log: bool = False) -> Inspection:
    """Show an artifact; as its layers the compiler's log, if that is asked for."""
    manifest = made.manifest
    layers = ""
    if "plan" in made.payloads:
        layers = msgspec.json.decode(made.payloads["plan"], type=QuantPlan).describe()
    if "table" in made.payloads:
        layers += "\n\nthe compiler's own table; cycles are its estimates, nothing was measured\n"
        layers += made.payloads["table"].decode(errors="replace")
    if log:
        layers = made.payloads.get("log", b"the artifact has no log").decode(errors="replace")
    data = {
        "format": "onchip",
        "digest": manifest.source_sha256,
        "target": manifest.target,
        "source": manifest.source,
        "layout": manifest.layout,
        "head": msgspec.to_builtins(manifest.head),
        "input": msgspec.to_builtins(manifest.input),
        "inputs": [{"name": manifest.input.name, "shape": manifest.input.shape,
                    "dtype": (manifest.program_input or manifest.input).dtype}],
        "outputs": [{"name": n, "shape": [], "dtype": "float32"} for n in manifest.head.outputs],
        "stages": [{"name": s.name, "seconds": s.seconds} for s in manifest.stages],
        "tools": manifest.tools,
        "verdicts": [as_data.verdict(v) for v in manifest.verdicts],
    }  # fmt: skip
    return Inspection(as_text.artifact(made, str(path)), data, layers)


def rknn(path: Path, chip: str = "") -> Inspection:
    """Show a file compiled for Rockchip, and what is wrong with it.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    found = rknn_file.read(path)
    judged = rknn_verdicts(found, chip or None)
    where = ", ".join(found.platforms) or "an unknown chip"
    lines = [
        f"{path}: RKNN, format {found.version:#x}, for {where}, {as_text.size(path.stat().st_size)}"
    ]
    lines += [f"  toolkit {found.toolkit or 'unknown'}"]
    lines += [f"  compiler {found.compiler}"] if found.compiler else []
    lines += [f"  note    {found.custom_string}"] if found.custom_string else []
    lines += [f"  input   {_compiled(t)}" for t in found.inputs]
    lines += [f"  output  {_compiled(t)}" for t in found.outputs]
    data = {
        "format": "rknn",
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        **msgspec.to_builtins(found),
        "verdicts": [as_data.verdict(v) for v in judged],
    }
    text = "\n".join([*lines, *as_text.verdicts(judged)])
    layers = "the layers of a .rknn file are not readable; onchip inspect FILE.onchip has them"
    return Inspection(text, data, layers)


def _compiled(tensor: RknnTensor) -> str:
    shape = ", ".join(map(str, tensor.shape))
    text = f"{tensor.name} {tensor.dtype}[{shape}] {tensor.layout}".rstrip()
    if tensor.mean:
        text += f", mean {short(tensor.mean)}, std {short(tensor.std)}"
    if tensor.scale is not None:
        text += f", scale {tensor.scale:.4g}, zero {tensor.zero}"
    return text


def model(path: Path, size: tuple[int, int] | None) -> Inspection:
    """Show an ONNX model: what it takes and gives, and how its head reads.

    Raises:
        InputError: not an ONNX file.
    """
    raw = read.load(path)
    verdicts, found = _head(raw, size)
    counts = Counter(n.op_type for n in raw.proto.graph.node)
    lines = [
        f"{path}: ONNX, opset {raw.opset}, {len(raw.proto.graph.node)} nodes, "
        f"{as_text.size(path.stat().st_size)}",
        *(f"  input   {_tensor(i)}" for i in raw.inputs),
        *(f"  output  {_tensor(o)}" for o in raw.outputs),
        "  nodes   " + ", ".join(f"{count} {op}" for op, count in counts.most_common(12)),
    ]
    data: dict[str, object] = {
        "format": "onnx",
        "digest": raw.digest,
        "opset": raw.opset,
        "inputs": [_data(i) for i in raw.inputs],
        "outputs": [_data(o) for o in raw.outputs],
        "metadata": raw.metadata,
    }
    if found is not None:
        spec = input_spec(found.model, declared(raw).over(convention(found.head)))
        lines += _head_lines(found, spec.describe(), declared(raw).complete)
        data["head"] = msgspec.to_builtins(found.head)
        data["end_nodes"] = found.head.end_nodes
        data["input"] = msgspec.to_builtins(spec)
    data["verdicts"] = [as_data.verdict(v) for v in verdicts]
    layers = "\n".join(
        f"{n.name or '-'}  {n.op_type}  -> {', '.join(n.output)}" for n in raw.proto.graph.node
    )
    return Inspection("\n".join([*lines, *as_text.verdicts(verdicts)]), data, layers)


def _head(raw: Model, size: tuple[int, int] | None) -> tuple[list[Verdict], Cut | None]:
    try:
        return [], cut(clean(read.prepared(raw, size)).model)
    except UnsupportedError as error:
        return [Verdict(code="head_unknown", message=str(error), level="warning")], None
    except OnchipError as error:
        text = f"{error} ({error.hint})" if error.hint else str(error)
        return [Verdict(code="not_ready", message=text, level="warning")], None


def _head_lines(found: Cut, pixels: str, said: bool) -> list[str]:
    head = found.head
    labels = ", ".join(head.labels[:6]) + (", …" if len(head.labels) > 6 else "")
    lines = [
        f"  head    {head.family}: {head.coding} boxes, {head.classes} classes ({labels})",
        f"  strides {', '.join(f'{s:g}' for s in head.strides)}"
        + (f"; {head.reg_max} bins per side" if head.reg_max > 1 else ""),
        f"  cut at  {', '.join(head.end_nodes)}",
        f"  proof   {found.proof.describe()}",
        f"  pixels  {pixels}" + ("" if said else " (assumed; the model does not say)"),
    ]
    if head.anchors:
        sizes = (f"{w:.4g}x{h:.4g}" for level in head.anchors for w, h in level)
        lines.insert(2, f"  anchors {', '.join(sizes)}")
    return lines


def _tensor(info: TensorInfo) -> str:
    return f"{info.name} {info.dtype}[{', '.join(str(n or '?') for n in info.shape)}]"


def _data(info: TensorInfo) -> dict[str, object]:
    return {"name": info.name, "shape": list(info.shape), "dtype": info.dtype}
