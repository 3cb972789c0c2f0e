"""What Hailo's files are, from the files alone: `.hef` and `.har`."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from onchip.artifact import Artifact
from onchip.errors import InputError
from onchip.formats import har as har_file
from onchip.formats import hef as hef_file
from onchip.formats.hailo_versions import HailoRT, spans, table
from onchip.formats.har import HarFile, HarTensor
from onchip.formats.hef import MAGIC, HefFile, HefGroup, HefPost, HefTensor
from onchip.formats.hef_verdicts import Expected
from onchip.formats.hef_verdicts import archive as har_verdicts
from onchip.formats.hef_verdicts import verdicts as hef_verdicts
from onchip.quantize.plan import QuantPlan
from onchip.report import data as as_data
from onchip.report import text as as_text
from onchip.report.inspect import Inspection
from onchip.report.parse_hef import parse_hef
from onchip.spec import Verdict, short

TAR = b"ustar"  # at 257
SCRIPT_LINES = 12


def is_hef(path: Path) -> bool:
    """Whether a file claims to be compiled for Hailo, by its name or its first bytes."""
    return path.suffix == ".hef" or _start(path).startswith(MAGIC)


def is_har(path: Path) -> bool:
    """Whether a file claims to be an archive of Hailo's compiler, by its name or first bytes."""
    return path.suffix == ".har" or _start(path)[257:262] == TAR


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(har_file.BLOCK)
    except (OSError, ValueError):
        return b""


def expected(made: Artifact) -> Expected:
    """What a compiled file must be to be that of an artifact."""
    manifest = made.manifest
    wide: tuple[str, ...] = ()
    if "plan" in made.payloads:
        wide = msgspec.json.decode(made.payloads["plan"], type=QuantPlan).wide
    return Expected(
        chip=manifest.target,
        classes=manifest.head.classes,
        size=(manifest.input.width, manifest.input.height),
        wide=wide,
        end_nodes=manifest.head.end_nodes,
    )


def hef(path: Path, wanted: Expected | None = None) -> Inspection:
    """Show a file compiled for Hailo, and what is wrong with it.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    found = hef_file.read(path)
    judged = hef_verdicts(found, path.name, wanted)
    data = {"format": "hef", "digest": _digest(path), **_hef_data(found, judged)}
    size = as_text.size(path.stat().st_size)
    lines = [f"{path}: HEF, header {found.header.form}, for {_device(found)}, {size}"]
    text = "\n".join([*lines, *_hef_lines(found), "", *_parsed(found), *_judged(judged)])
    return Inspection(text, data, "\n".join(_channels(found)))


def har(path: Path, wanted: Expected | None = None) -> Inspection:
    """Show an archive of Hailo's compiler, and what is wrong with it.

    Raises:
        InputError: it cannot be read, or is no such archive.
    """
    found = har_file.read(path)
    judged = har_verdicts(found, wanted)
    data = {
        "format": "har",
        "digest": _digest(path),
        **msgspec.to_builtins(found),
        "inputs": [_har_data(t) for t in found.inputs],
        "outputs": [_har_data(t) for t in found.outputs],
        "hef": _hef_data(found.hef, ()) if found.hef else None,
        "verdicts": [as_data.verdict(v) for v in judged],
    }
    size = as_text.size(path.stat().st_size)
    lines = [f"{path}: Hailo archive of {found.name or 'a network'}, {found.stage}, {size}"]
    layers = found.script or "the archive has no model script"
    return Inspection("\n".join([*lines, *_har_lines(found), *_judged(judged)]), data, layers)


def with_program(shown: Inspection, made: Artifact) -> Inspection:
    """Add to an artifact what its own HEF says, judged by the artifact's manifest."""
    program = made.payloads.get("program", b"")
    if not program.startswith(MAGIC):
        return shown
    try:
        found = hef_file.parse(program, "its program")
    except InputError as error:
        judged: tuple[Verdict, ...] = (
            Verdict(code="incomplete", message=str(error), level="error"),
        )
        data = {**shown.data, "verdicts": _joined(shown.data["verdicts"], judged)}
        return Inspection("\n".join([shown.text, *_judged(judged)]), data, shown.layers)
    judged = hef_verdicts(found, "", expected(made))
    data = {**shown.data, "verdicts": _joined(shown.data["verdicts"], judged)}
    data["program"] = _hef_data(found, judged)
    lines = [f"its program: HEF, header {found.header.form}, for {_device(found)}"]
    text = "\n".join([shown.text, "", *lines, *_hef_lines(found), *_judged(judged)])
    return Inspection(text, data, shown.layers)


def _joined(said: object, judged: Iterable[Verdict]) -> list[object]:
    return [*(said if isinstance(said, list) else []), *map(as_data.verdict, judged)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _judged(found: Sequence[Verdict]) -> list[str]:
    return ["", *as_text.verdicts(found)] if found else []


# A compiled file


def _hef_data(found: HefFile, judged: Iterable[Verdict]) -> dict[str, object]:
    return {
        "inputs": [_tensor_data(t) for g in found.groups for t in g.inputs],
        "outputs": [_tensor_data(t) for g in found.groups for t in g.outputs],
        "arch": _device(found),
        "compiler": found.compiler,
        "created": _when(found),
        "header": msgspec.to_builtins(found.header),
        "networks": [msgspec.to_builtins(g) for g in found.groups],
        "extensions": [table().extension(e) for e in found.extensions],
        "optional_extensions": [table().extension(e) for e in found.optional],
        "resources": list(found.resources),
        "hailort": [r.version for r in _loading(found)],
        "parse_hef": parse_hef(found),
        "complete": found.complete,
        "verdicts": [as_data.verdict(v) for v in judged],
    }


def _tensor_data(tensor: HefTensor) -> dict[str, object]:
    span = tensor.range
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "order": tensor.order,
        "original": list(tensor.original),
        "scales": list(tensor.scales),
        "zeros": list(tensor.zeros),
        "range": list(span) if span else None,
    }


def _device(found: HefFile) -> str:
    arch = table().arch_of(found.arch)
    return arch.prints if arch else f"an unknown chip ({found.arch})"


def _when(found: HefFile) -> str:
    try:
        return datetime.fromtimestamp(found.created / 1000, UTC).isoformat(" ", "seconds")
    except (OverflowError, OSError, ValueError):
        return ""


def _loading(found: HefFile) -> tuple[HailoRT, ...]:
    strict = (found.sdk or found.compiler) if found.strict else ""
    return table().loading(found.header.form, found.extensions, found.arch, strict)


def _hef_lines(found: HefFile) -> list[str]:
    good = {True: "good", False: "wrong", None: "not to be checked, the file is cut"}
    names = ", ".join(map(table().extension, found.extensions))
    lines = [
        f"  compiler {found.compiler or 'unknown'}, {_when(found)[:10] or 'at an unknown time'}",
        f"  checksum {found.header.checksum} {good[found.header.good]}",
    ]
    for group in found.groups:
        lines += _group_lines(group, found.complete)
    lines += [f"  needs   {names}"] if names else []
    lines += [f"  inside  {', '.join(found.resources)}"] if found.resources else []
    if loading := spans(_loading(found)) if found.extensions else "":
        lines.append(f"  loads   with HailoRT {loading}")
    return lines


def _group_lines(group: HefGroup, complete: bool) -> list[str]:
    count = f"{group.contexts} context{'s' if group.contexts != 1 else ''}"
    least = "" if complete else ", or more"
    layouts = f", layouts {', '.join(map(str, group.layouts))}" if group.layouts else ""
    lines = [f"  network {group.name}: {count}{least}{layouts}"]
    if group.bottleneck:
        lines.append(
            f"          simulated: latency {1000 * group.latency:.3g} ms, bottleneck "
            f"{group.bottleneck:.0f} per second (not throughput)"
        )
    taken = {name for p in group.post for name in p.inputs}
    lines += [f"  input   {_tensor(t)}" for t in group.inputs]
    lines += [f"  output  {_output(t)}" for t in group.outputs]
    lines += [f"  output  {name}: its description was lost" for name in group.missing]
    lines += [f"  tensor  {_output(t)}" for t in group.raw if t.name in taken]
    lines += [f"  then    {_post(p)}" for p in group.post]
    return lines


def _tensor(tensor: HefTensor) -> str:
    text = f"{tensor.name} {tensor.dtype}[{', '.join(map(str, tensor.shape))}] {tensor.order}"
    if tensor.scales:
        text += f", scale {_spread(tensor.scales)}, zero {_spread(tensor.zeros)}"
    if tensor.range:
        low, high = tensor.range
        text += f", range {low:.4g} to {high:.4g}"
    return text + (f", on {tensor.stream}" if tensor.stream else "")


def _output(tensor: HefTensor) -> str:
    """An output with its end node."""
    return _tensor(tensor) + (f", ends {tensor.original[-1]}" if tensor.original else "")


def _spread(values: Sequence[float]) -> str:
    """One number, or from where to where those of the channels go."""
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g} by channel"


def _post(post: HefPost) -> str:
    if post.kind in ("argmax", "softmax"):
        return f"{post.kind} of {', '.join(post.inputs)}"
    text = f"{post.kind} NMS: {post.classes} classes, score {post.score:g}, IoU {post.iou:g}"
    text += f", at most {post.most} of a class"
    if post.boxes_only:
        text = f"{post.kind} boxes of {post.classes} classes, nothing suppressed"
    if post.background is not None:
        text += f", class {post.background} left out"
    if any(post.image):
        text += f", image {post.image[1]}x{post.image[0]}"
    strides = [d.stride for d in post.decoders if d.stride]
    return text + (f", strides {', '.join(map(str, strides))}" if strides else "")


def _parsed(found: HefFile) -> list[str]:
    if found.complete and found.header.good:
        head = "as hailortcli parse-hef prints it:"
    else:
        head = "HailoRT refuses this file; of what is left, hailortcli parse-hef would print:"
    return [head, parse_hef(found)]


def _channels(found: HefFile) -> Iterable[str]:
    """Every scale and zero of tensors that have one for each channel."""
    for group in found.groups:
        for tensor in (*group.inputs, *group.raw):
            yield f"{tensor.name}  from {', '.join(tensor.original) or 'nodes unknown'}"
            yield f"  scales {short(tensor.scales)}"
            yield f"  zeros  {short(tensor.zeros)}"


# An archive


def _har_data(tensor: HarTensor) -> dict[str, object]:
    dtype = f"int{tensor.bits}" if tensor.bits else "float32"
    return {**msgspec.to_builtins(tensor), "dtype": dtype}


def _har_lines(found: HarFile) -> list[str]:
    kinds = sorted(found.layers.items(), key=lambda pair: -pair[1])
    lines = [f"  compiler {found.compiler or 'unknown'}"]
    lines += [f"  chip    {found.arch}"] if found.arch else []
    lines += [f"  input   {_end(t)}" for t in found.inputs]
    lines += [f"  output  {_end(t)}" for t in found.outputs]
    lines += ["  layers  " + ", ".join(f"{n} {kind}" for kind, n in kinds[:12])] if kinds else []
    for part in found.parameters:
        bits = ", ".join(f"{n} layers {kind}" for kind, n in sorted(part.bits.items()))
        lines.append(
            f"  params  {part.file}: {part.arrays} arrays, {part.numbers} numbers"
            + (f"; {bits}" if bits else "")
        )
    if found.nms:
        lines.append(
            f"  nms     {found.nms.classes} classes, score {found.nms.nms_scores_th:g}, "
            f"IoU {found.nms.nms_iou_th:g}"
        )
    script = found.script.splitlines()
    lines += [f"  script  {line}" for line in script[:SCRIPT_LINES]]
    more = len(script) - SCRIPT_LINES
    lines += [f"  script  … {more} more lines (--layers)"] if more > 0 else []
    lines += [f"  file    {name}, {as_text.size(size)}" for name, size in found.files.items()]
    if found.hef:
        lines.append(f"  its HEF, for {_device(found.hef)}:")
        lines += [f"  {line}" for line in _hef_lines(found.hef)]
    return lines


def _end(tensor: HarTensor) -> str:
    text = f"{tensor.name} [{', '.join(map(str, tensor.shape))}]"
    text += f" {tensor.activation}" if tensor.activation else ""
    text += f", {tensor.bits} bits" if tensor.bits else ""
    return text + (f", ends {tensor.original[-1]}" if tensor.original else "")
