"""What is worth telling about a `.tflite` file before it goes to a chip."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from onchip.formats.one_scale import one_scale
from onchip.formats.tflite import EDGE_TPU, ETHOS_U, TfliteFile, TfliteOperator, TfliteTensor
from onchip.formats.tflite_npus import ENDS, Npu, npus, placed
from onchip.spec import Verdict

FLOATS = frozenset({"float16", "float32", "float64", "bfloat16"})
CLAIMS = re.compile(r"int8|uint8|int16|integer|quant|edgetpu|vela", re.IGNORECASE)  # of a name
TARGETS = {"tflite": "", "edgetpu": EDGE_TPU, "ethosu": ETHOS_U}
_COMPILERS = {EDGE_TPU: "edgetpu_compiler", ETHOS_U: "Vela"}


def verdicts(file: TfliteFile, name: str = "", chip: str = "") -> tuple[Verdict, ...]:
    """Judge a file of that name, for a target such as "edgetpu" or "ethos-u55-128" where given."""
    return (
        *_incomplete(file),
        *_chip(file, chip),
        *_compiled(file),
        *_float(file, name, bool(_families(chip))),
        *_dynamic(file),
        *_per_tensor(file),
        *_left(file, chip),
        *one_scale(_pixels(file), tuple(_source(file, n) for n in file.outputs if n >= 0)),
        *_graphs(file),
    )


def floating(file: TfliteFile) -> tuple[TfliteOperator, ...]:
    """Return the operators that compute in float, less those that only turn codes into floats."""
    found = []
    for one in file.operators:
        tensors = file.shown((*one.inputs, *one.outputs))
        if one.op not in ENDS and any(_is_float(t) for t in tensors):
            found.append(one)
    return tuple(found)


def _is_float(tensor: TfliteTensor) -> bool:
    return tensor.dtype in FLOATS and not tensor.constant


def _incomplete(file: TfliteFile) -> Iterator[Verdict]:
    if not file.complete:
        text = "the file is cut short: weights are missing at its end; copy or export it again"
        yield Verdict(code="incomplete", message=text, level="error")


def _families(chip: str) -> dict[str, Npu]:
    """The families of NPUs that a target means; "ethosu" is all of Arm's."""
    chip = chip.lower()
    return {
        n: x
        for n, x in npus().items()
        if chip and (n.startswith(chip) or any(chip.startswith(own) for own in x.names))
    }


def _chip(file: TfliteFile, chip: str) -> Iterator[Verdict]:
    """Whether it is compiled for what it is meant for."""
    if not chip:
        return
    family = next(iter(_families(chip)), "")
    target = "edgetpu" if family == "edgetpu" else "ethosu" if family else chip
    if target not in TARGETS:
        text = f"a .tflite file is for {', '.join(TARGETS)}, not for {chip}"
        yield Verdict(code="wrong_chip", message=text, level="error")
    elif file.compiled != TARGETS[target]:
        made = _COMPILERS.get(file.compiled, "")
        wanted = _COMPILERS.get(TARGETS[target], "")
        text = (
            f"{made} compiled it: it runs there only" if made else f"{wanted} has yet to compile it"
        )
        text += f", and not on {chip}" if made else f" for {chip}"
        yield Verdict(code="wrong_chip", message=text, level="error")
    elif file.accelerator and chip not in ("ethosu", file.accelerator):
        text = f"Vela compiled it for {file.accelerator}, not for {chip}"
        yield Verdict(code="wrong_chip", message=text, level="error")


def _compiled(file: TfliteFile) -> Iterator[Verdict]:
    if not file.compiled:
        return
    parts = [o.op for o in file.operators if o.op == file.compiled]
    left = [o.op for o in file.operators if o.op != file.compiled]
    where = file.accelerator or ("the Edge TPU" if file.compiled == EDGE_TPU else "Ethos-U")
    text = (
        f"{_COMPILERS[file.compiled]} compiled it for {where}: {_count(len(parts), 'part')} there"
    )
    text += f", {_count(len(left), 'operator')} on the processor: {_several(left)}" if left else ""
    yield Verdict(code="compiled", message=text, level="warning" if len(parts) > 1 else "info")


def _float(file: TfliteFile, name: str, npu: bool) -> Iterator[Verdict]:
    found = floating(file)
    if not found:
        ends = file.shown((*file.inputs, *file.outputs))
        if file.operators and any(_is_float(t) for t in ends):
            text = "it takes or gives floats: what turns them into codes stays on the processor"
            yield Verdict(code="float_ends", message=text)
        return
    stem = Path(name).name
    weights = {t.dtype for t in file.tensors if t.constant and t.dtype in ("int8", "uint8")}
    claim = CLAIMS.search(stem) if len(found) * 2 > len(file.operators) else None
    text = f"its name says {claim.group()}, but " if claim else ""
    text += f"{len(found)} of {_count(len(file.operators), 'operator')} compute in float"
    text += f": only its weights are {', '.join(sorted(weights))}" if weights else ""
    text += "; an NPU for integers runs none of them: export with integer activations"
    level: Literal["info", "warning", "error"] = "warning" if claim or weights else "info"
    yield Verdict(
        code="name_lies" if claim else "float_model", message=text, level="error" if npu else level
    )


def _dynamic(file: TfliteFile) -> Iterator[Verdict]:
    changing = [t.name for t in file.tensors if t.dynamic]
    if changing:
        yield Verdict(
            code="dynamic",
            message=f"{_count(len(changing), 'tensor')} may change their size (shape_signature of "
            f"{changing[0]}): Vela leaves what reads them to the processor, and so does LiteRT's "
            "XNNPACK; export with a fixed size",
            level="warning",
        )


def _per_tensor(file: TfliteFile) -> Iterator[Verdict]:
    """Convolutions whose channels share a scale, though every runtime takes one for each."""
    weights = (
        file.tensors[o.inputs[1]]
        for o in file.operators
        if o.op in ("CONV_2D", "DEPTHWISE_CONV_2D") and len(o.inputs) > 1 and o.inputs[1] >= 0
    )
    found = [t for t in weights if t.channels == 1 and len(t.shape) == 4 and max(t.shape) > 1]
    if found:
        text = f"{_count(len(found), 'layer')} have one scale for all channels of their weights: "
        text += "a scale for each channel costs nothing and is more accurate"
        yield Verdict(code="per_tensor", message=text)


def _left(file: TfliteFile, chip: str) -> Iterator[Verdict]:
    """What each family of NPUs would leave; a warning for the one that is meant."""
    meant = _families(chip)
    for family in npus():
        found = placed(file, family)
        if found.first is None or file.compiled or (chip and family not in meant):
            continue
        if not found.on_npu and not meant and floating(file):
            continue  # that all of it is in float is told already
        grave = family in meant and found.first.op not in ENDS
        level: Literal["info", "warning"] = "warning" if grave else "info"
        yield Verdict(code=f"left_{family}", message=found.describe(), level=level)


def _graphs(file: TfliteFile) -> Iterator[Verdict]:
    if file.subgraphs > 1:
        text = f"it has {file.subgraphs} subgraphs; only the first was looked at"
        yield Verdict(code="subgraphs", message=text)


def _source(file: TfliteFile, number: int) -> TfliteTensor:
    """An output, or the codes that were turned into its floats."""
    makers = (o for o in file.operators if number in o.outputs and o.op == "DEQUANTIZE")
    codes = next((o.inputs[0] for o in makers if o.inputs and o.inputs[0] >= 0), number)
    return file.tensors[codes]


def _pixels(file: TfliteFile) -> tuple[int, int] | None:
    """Height and width of the only image that the network takes."""
    images = [t.shape for t in file.shown(file.inputs) if len(t.shape) == 4]
    if len(images) != 1 or min(images[0]) < 1:
        return None
    _, a, b, c = images[0]
    return (a, b) if c == 3 else (b, c)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _several(names: list[str]) -> str:
    kinds = list(dict.fromkeys(names))
    return ", ".join(kinds[:6]) + (", …" if len(kinds) > 6 else "")
