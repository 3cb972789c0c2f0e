"""A .tflite file as text, as JSON, and operator by operator."""

import hashlib
from collections import Counter
from pathlib import Path

import msgspec

from onchip.formats.tflite import TfliteFile, TfliteOperator, TfliteTensor, read
from onchip.formats.tflite_npus import Placement, npus, placed
from onchip.formats.tflite_verdicts import verdicts
from onchip.report import data as as_data
from onchip.report import text as as_text
from onchip.report.inspect import Inspection

MOST = 20  # operators that are listed as left


def tflite(path: Path, chip: str = "") -> Inspection:
    """Show a .tflite file, what NPUs would run of it, and what is wrong with it.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    file = read(path)
    judged = verdicts(file, path.name, chip)
    places = {name: placed(file, name) for name in npus()}
    counts = Counter(o.op for o in file.operators)
    labels = ", ".join(file.labels[:6]) + (", …" if len(file.labels) > 6 else "")
    lines = [
        f"{path}: TFLite, {len(file.operators)} operators, {len(file.tensors)} tensors, "
        f"{as_text.size(path.stat().st_size)}",
        *([f"  written {_written(file)}"] if _written(file) else []),
        *(f"  input   {_tensor(t)}" for t in file.shown(file.inputs)),
        *(f"  output  {_tensor(t)}" for t in file.shown(file.outputs)),
        f"  inside  {_inside(file)}",
        *([f"  classes {len(file.labels)} ({labels})"] if labels else []),
        "  nodes   " + ", ".join(f"{count} {op}" for op, count in counts.most_common(12)),
        *([] if file.compiled else [f"  on NPUs {_shares(places)}"]),
    ]
    data = {
        "format": "tflite",
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "inputs": [msgspec.to_builtins(t) for t in file.shown(file.inputs)],
        "outputs": [msgspec.to_builtins(t) for t in file.shown(file.outputs)],
        "operators": dict(counts.most_common()),
        "labels": list(file.labels),
        "description": file.description,
        "runtime": file.runtime,
        "compiled": file.compiled,
        "accelerator": file.accelerator,
        "complete": file.complete,
        "npus": {name: _placement(p) for name, p in places.items()},
        "verdicts": [as_data.verdict(v) for v in judged],
    }
    text = "\n".join([*lines, *as_text.verdicts(judged)])
    return Inspection(text, data, _layers(file, places))


def _written(file: TfliteFile) -> str:
    runtime = f"for TensorFlow Lite {file.runtime} or later" if file.runtime else ""
    return ", ".join(x for x in (file.description, runtime) if x)


def _tensor(tensor: TfliteTensor) -> str:
    shape = tensor.signature if tensor.dynamic else tensor.shape
    text = f"{tensor.name} {tensor.dtype}[{', '.join(map(str, shape))}]"
    if tensor.channels > 1:
        return f"{text}, {tensor.channels} scales from {tensor.scale:.4g} on axis {tensor.axis}"
    if tensor.scale is not None:
        text += f", scale {tensor.scale:.4g}, zero {tensor.zero}"
    return text


def _inside(file: TfliteFile) -> str:
    """The types of feature maps, and of constants that are quantized or floats."""
    made = {n for o in file.operators for n in o.outputs if n >= 0}
    maps = Counter(file.tensors[n].dtype for n in made)
    kept = Counter(t.dtype for t in file.tensors if t.constant and (t.channels or not t.values))
    return "; ".join(
        f"{what} " + ", ".join(f"{kind} ({count})" for kind, count in found.most_common())
        for what, found in (("computes", maps), ("constants", kept))
        if found
    )


def _shares(places: dict[str, Placement]) -> str:
    return ", ".join(f"{p.npu.title} {p.on_npu} of {p.count}" for p in places.values())


def _placement(found: Placement) -> dict[str, object]:
    left = [{"op": x.op, "name": x.name, "reason": x.why} for x in found.left[:MOST]]
    return {"operators": found.count, "on_npu": found.on_npu, "left": left}


def _layers(file: TfliteFile, places: dict[str, Placement]) -> str:
    """Every operator, what it reads and gives, and which NPUs leave it."""
    left = {name: {x.number: x.why for x in p.left} for name, p in places.items()}
    return "\n".join(
        _layer(file, operator)
        + "".join(f"; not {name}: {why[number]}" for name, why in left.items() if number in why)
        for number, operator in enumerate(file.operators)
    )


def _layer(file: TfliteFile, operator: TfliteOperator) -> str:
    outputs = ", ".join(_tensor(t) for t in file.shown(operator.outputs))
    return f"{operator.op} v{operator.version}  -> {outputs}"
