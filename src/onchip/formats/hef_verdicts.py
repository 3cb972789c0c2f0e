"""What is worth telling about a compiled `.hef` file before it goes to a board."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from onchip.formats.hailo_versions import spans, table
from onchip.formats.har import HarFile
from onchip.formats.hef import HefFile, HefGroup, HefPost, HefTensor
from onchip.formats.versions import minor
from onchip.spec import Verdict

SLACK = 0.01  # of a range; a sigmoid's ends are met but for a step or two
CEILING = 0.9  # a score that a good detector often passes
DFL = 64  # channels of four distributions of 16 bins
EIGHT = 255  # the largest code of 8 bits

# HailoRT 4.15 to 5.2 puts scores through a sigmoid itself in this kind of NMS, and in no other.
OWN_SIGMOID = "yolov5_seg"

# A chip in a file's name: hailo8l, h8l, h8, 10h ... A bare 8 says nothing, a bare 8L does.
_NAMED = re.compile(
    r"(?:^|[^a-z0-9])(?:h(?:ailo)?[-_]?(8l?|1[05][hml]|12l)|(8L|1[05][HhMmLl]|12L))(?:[^a-zA-Z0-9]|$)"
)


class Expected(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file should be, as far as that is known.

    `chip` is a device ("hailo8l"), `size` width and height. `wide` are ONNX nodes whose output was
    to have 16 bits, `end_nodes` those at which the network was cut.
    """

    chip: str = ""
    classes: int = 0
    size: tuple[int, int] | None = None
    wide: tuple[str, ...] = ()
    end_nodes: tuple[str, ...] = ()


class _Score(NamedTuple):
    """A tensor of class scores, and its stride where that is known."""

    stride: int
    tensor: HefTensor

    def __str__(self) -> str:
        return f"stride {self.stride}" if self.stride else self.tensor.name


def verdicts(
    file: HefFile, name: str = "", expected: Expected | None = None
) -> tuple[Verdict, ...]:
    """Judge a compiled file by itself, by its `name`, and by what is expected of it."""
    wanted = expected or Expected()
    return (
        *_whole(file),
        *_runtime(file),
        *_chip(file, wanted.chip.lower()),
        *_name(file, name),
        *(v for group in file.groups for v in _group(file, group, wanted)),
    )


def _whole(file: HefFile) -> Iterator[Verdict]:
    head = file.header
    if head.good is None:
        yield _error(
            "incomplete",
            f"the file is cut short: {head.size} of {head.claimed} bytes are here. HailoRT refuses "
            "it; copy or compile it again",
        )
    elif head.size > head.claimed:
        yield _error(
            "checksum",
            f"the file has {head.size - head.claimed} bytes more than its header says: HailoRT "
            "refuses it (status 91); copy or compile it again",
        )
    elif not head.good:
        yield _error(
            "checksum",
            f"its {head.checksum} does not fit: the file was altered after it was compiled. "
            "HailoRT refuses it (status 91); copy or compile it again",
        )
    if head.good is not None and not file.complete:
        yield _error(
            "incomplete",
            "the description in the file is damaged or absurd; what is told here may lack parts",
        )


def _runtime(file: HefFile) -> Iterator[Verdict]:
    """Which HailoRT loads the file; a file that was cut may have lost what says so."""
    if file.header.good is None and not file.extensions:
        return
    every = frozenset().union(*(r.adds for r in table().hailort))
    if strange := sorted(set(file.extensions) - every):
        yield _error(
            "unknown_extension",
            f"needs extension {', '.join(map(str, strange))}, which no HailoRT up to "
            f"{table().hailort[-1].version} has: a newer compiler made it; update HailoRT",
        )
        return
    strict = (file.sdk or file.compiler) if file.strict else ""
    loading = table().loading(file.header.form, file.extensions, file.arch, strict)
    firm = next(r for r in table().hailort if r.needs)
    if lacking := firm.needs - set(file.extensions):
        yield _error(
            "outdated",
            f"lacks extension {', '.join(f'{n} ({table().extension(n)})' for n in lacking)}: "
            f"HailoRT {minor(firm.version)} and later call it outdated and refuse it; compile the "
            f"network again with compiler {firm.dfc[0]} or later",
        )
    if strict:
        yield _warning(
            "strict_version",
            f"demands HailoRT {minor(strict)}, the compiler's own version, and no other: after any "
            "update of HailoRT it must be compiled again, unless the model script has "
            "hef_param(strict_runtime_versioning=False)",
        )
    made = ", ".join(r.version for r in table().with_compiler(file.compiler)) or "unknown"
    text = f"loads with HailoRT {spans(loading)}" if loading else "no known HailoRT loads it"
    yield Verdict(
        code="runtime_needed",
        message=f"{text}; its compiler, {file.compiler or 'unknown'}, came with {made}",
        level="info" if loading else "error",
    )


def _chip(file: HefFile, chip: str) -> Iterator[Verdict]:
    found = table().arch_of(file.arch)
    if found is None:
        yield _warning("unknown_chip", f"compiled for an unknown chip, of code {file.arch}")
    elif chip and chip not in found.devices:
        runs = (
            f"which runs on {', '.join(found.devices)}" if found.devices else "which no chip runs"
        )
        yield _error(
            "wrong_chip",
            f"compiled for {found.prints}, {runs}, not for {chip}: HailoRT refuses it (status 93); "
            "compile the network again for that chip",
        )
    elif chip in found.slower:
        yield _warning(
            "slower_chip",
            f"compiled for {found.prints}: it runs on {chip}, but slower than a file compiled for "
            "that",
        )


def _name(file: HefFile, name: str) -> Iterator[Verdict]:
    """Files are renamed, copied, and downloaded from lists that err."""
    found = table().arch_of(file.arch)
    said = _NAMED.search(name)
    if found is None or said is None:
        return
    device = "hailo" + (said.group(1) or said.group(2)).lower()
    if device not in found.devices:
        yield _warning(
            "name_lies",
            f"its name says {device}, but it was compiled for {found.prints}: {device} refuses it",
        )


def _group(file: HefFile, group: HefGroup, wanted: Expected) -> Iterator[Verdict]:
    yield from _size(group, wanted)
    yield from _classes(group, wanted)
    yield from _sigmoid(group)
    yield from _ceiling(group)
    yield from _geometry(group)
    yield from _bits(group, wanted)
    yield from _cut(file, group, wanted)
    yield from _speed(group, file.complete)
    yield from _thresholds(group)


def _size(group: HefGroup, wanted: Expected) -> Iterator[Verdict]:
    for tensor in group.inputs:
        if wanted.size and len(group.inputs) == 1 and tensor.shape[1::-1] != wanted.size:
            width, height = tensor.shape[1::-1]
            yield _error(
                "wrong_size",
                f"takes images of {width}x{height}, not {wanted.size[0]}x{wanted.size[1]}: compile "
                "again from a model of that size",
            )


def _classes(group: HefGroup, wanted: Expected) -> Iterator[Verdict]:
    for post in group.post:
        if not post.classes:
            continue
        visible = post.classes - (post.background is not None)
        if wanted.classes and visible != wanted.classes:
            yield _error(
                "wrong_classes",
                f"its NMS knows {visible} classes, not {wanted.classes}: set classes in the NMS "
                "configuration and compile again",
            )
        yield from _channels(group, post)
    if wanted.classes and not group.post and not group.missing:
        yield from _raw_classes(group, wanted.classes)


def _raw_classes(group: HefGroup, classes: int) -> Iterator[Verdict]:
    """Without NMS: the score tensors, where they can be told; else any that is wide enough."""
    widths = {t.shape[-1] for t in group.raw}
    scores = {score.tensor.shape[-1] for score in _scores(group)}
    if widths and (classes not in scores if scores else max(widths) < classes):
        yield _error(
            "wrong_classes",
            f"no output has {classes} classes; their channels are "
            f"{', '.join(map(str, sorted(widths)))}",
        )


def _channels(group: HefGroup, post: HefPost) -> Iterator[Verdict]:
    """The NMS's own number of classes against the channels that it is fed."""
    tensors = {t.name: t for t in group.raw}
    masks = post.proto[0] if post.proto else 0
    for decoder in post.decoders:
        boxes = len(decoder.anchors) or 1
        if decoder.encoded:
            name, needs = decoder.encoded, boxes * (5 + post.classes + masks)
        else:
            name, needs = decoder.cls, boxes * post.classes
        if name in tensors and tensors[name].shape[-1] != needs:
            yield _error(
                "wrong_classes",
                f"its NMS knows {post.classes} classes, for which {name} would have {needs} "
                f"channels; it has {tensors[name].shape[-1]}: the NMS configuration is of another "
                "model",
            )
            return


def _sigmoid(group: HefGroup) -> Iterator[Verdict]:
    """Scores must come out of the chip as scores, where HailoRT goes on with them."""
    own = any(p.kind == OWN_SIGMOID for p in group.post)
    lost = any("nms" in name for name in group.missing)
    if not (any(p.decoders for p in group.post) or lost):
        return
    for score in _scores(group):
        if (span := score.tensor.range) is None:
            continue
        low, high = span
        inside = low >= -SLACK and high <= 1 + SLACK
        if own and inside:
            yield _error(
                "double_sigmoid",
                f"scores at {score} lie in {low:.3g} to {high:.3g}, so the chip has put them "
                "through a sigmoid; in this NMS HailoRT does so again, and no score falls below "
                "0.5: leave change_output_activation(sigmoid) away",
            )
            return
        if not own and not inside:
            yield _error(
                "missing_sigmoid",
                f"scores at {score} reach from {low:.3g} to {high:.3g}: they never passed a "
                "sigmoid, and the NMS in HailoRT applies none; add "
                f"change_output_activation({score.tensor.name.rpartition('/')[2]}, sigmoid) to the "
                "model script and compile again",
            )
            return


def _ceiling(group: HefGroup) -> Iterator[Verdict]:
    """A score above the calibrated range cannot be written."""
    if any(p.kind == OWN_SIGMOID for p in group.post):
        return
    scores = [
        (score, span[1])
        for score in _scores(group)
        if (span := score.tensor.range) and span[0] >= -SLACK and span[1] < 1 - SLACK
    ]
    if not scores:
        return
    lowest, highest = min(high for _, high in scores), max(high for _, high in scores)
    threshold = max((p.score for p in group.post), default=0.0)
    levels = ", ".join(f"{high:.3g} ({score})" for score, high in scores)
    blind = lowest <= threshold
    # photos in which no small, or no large, object is to be seen leave one level blind
    grave = highest <= threshold and len(scores) == len(list(_scores(group)))
    yield Verdict(
        code="score_ceiling",
        message=f"no score above {levels} can ever come out: calibration saw none"
        + (f"; with the threshold of {threshold:g} that level finds nothing" if blind else "")
        + ("" if lowest >= CEILING else "; calibrate with photos that show every class well"),
        level="error" if grave else "info" if lowest >= CEILING else "warning",
    )


def _scores(group: HefGroup) -> list[_Score]:
    """The tensors that hold class scores: as the NMS names them, or as their grids suggest."""
    tensors = {t.name: t for t in group.raw}
    named = [
        (d.stride, n) for p in group.post for d in p.decoders for n in (d.cls, d.obj, d.encoded)
    ]
    if any(n in tensors for _, n in named):
        return [_Score(stride, tensors[n]) for stride, n in named if n in tensors]
    if group.post:
        return []
    found = []
    for tensor in group.raw:
        grid = [t for t in group.raw if t.shape[:2] == tensor.shape[:2]]
        if len(grid) == 2 and tensor.shape[-1] != DFL and DFL in {t.shape[-1] for t in grid}:
            found.append(_Score(_stride(group, tensor), tensor))
    return found


def _stride(group: HefGroup, tensor: HefTensor) -> int:
    tall = group.inputs[0].shape[0] if len(group.inputs) == 1 else 0
    cells = tensor.shape[0]
    return tall // cells if cells and tall % cells == 0 else 0


def _geometry(group: HefGroup) -> Iterator[Verdict]:
    """NMS decodes boxes as parts of the image size that its configuration gives."""
    tensors = {t.name: t for t in group.raw}
    for post in group.post:
        for decoder in post.decoders:
            tensor = tensors.get(decoder.cls or decoder.encoded)
            if tensor is None or not decoder.stride or not all(post.image):
                continue
            size = (tensor.shape[0] * decoder.stride, tensor.shape[1] * decoder.stride)
            if size != post.image:
                yield _error(
                    "wrong_size",
                    f"its NMS decodes boxes for an image of {post.image[1]}x{post.image[0]}, but "
                    f"at stride {decoder.stride} the grid of {tensor.name} covers "
                    f"{size[1]}x{size[0]}: boxes will be misplaced; set image_dims in the NMS "
                    "configuration",
                )
                return


def _bits(group: HefGroup, wanted: Expected) -> Iterator[Verdict]:
    """Outputs that were to have 16 bits, and have 8."""
    narrow = [t for t in group.raw if t.dtype == "uint8"]
    asked = [t.name for t in narrow if set(t.original) & set(wanted.wide)]
    stale = [t.name for t in narrow if any(z > EIGHT for z in t.zeros)]
    if asked or stale:
        why = "" if asked else ": their zero points are still of 16 bits, so every value is wrong"
        yield Verdict(
            code="demoted",
            message=f"{_few(asked or stale)} was to have 16 bits and has 8{why}; use "
            "quantization_param(output_layerN, precision_mode=a16_w16), and look for the "
            "compiler's warning",
            level="warning" if asked else "error",
        )


def _cut(file: HefFile, group: HefGroup, wanted: Expected) -> Iterator[Verdict]:
    ends = {name for t in group.raw for name in t.original}
    lacking = [n for n in wanted.end_nodes if n not in ends]
    if ends and lacking and file.complete:
        yield _warning(
            "wrong_end_nodes",
            f"{_few(lacking)} is not among the nodes that became its outputs: it was compiled from "
            "another model, or cut elsewhere",
        )


def _speed(group: HefGroup, complete: bool) -> Iterator[Verdict]:
    if group.contexts > 1:
        count = f"{group.contexts}" if complete else f"at least {group.contexts}"
        yield _warning(
            "multi_context",
            f"{group.name} did not fit on the chip at once: it runs in {count} contexts, and each "
            "batch loads them anew; run with a batch above 1, or use a smaller model",
        )
    if group.bottleneck:
        yield Verdict(
            code="bottleneck_not_fps",
            message=f"the compiler's bottleneck figure ({group.bottleneck:.0f} per second) is of "
            "the chip's slowest part, in simulation. It is not throughput: it leaves out contexts, "
            "transfers and the host; measure with onchip bench",
        )


def _thresholds(group: HefGroup) -> Iterator[Verdict]:
    for post in group.post:
        if post.boxes_only or post.kind in ("argmax", "softmax"):
            continue
        yield Verdict(
            code="thresholds_baked",
            message=f"score threshold {post.score:.3g} and IoU threshold {post.iou:.3g} are "
            "written in, and boxes below are lost; they are defaults that a program can set again "
            "(set_nms_score_threshold), to 0.001 for measuring mAP",
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _error(code: str, message: str) -> Verdict:
    return Verdict(code=code, message=message, level="error")


def _warning(code: str, message: str) -> Verdict:
    return Verdict(code=code, message=message, level="warning")


def archive(file: HarFile, expected: Expected | None = None) -> tuple[Verdict, ...]:
    """Judge an archive of the compiler, and the compiled file in it."""
    wanted = expected or Expected()
    return (
        *_archive(file, wanted),
        *_unscored(file),
        *(verdicts(file.hef, expected=wanted) if file.hef else ()),
    )


def _archive(file: HarFile, wanted: Expected) -> Iterator[Verdict]:
    if not file.complete:
        yield _error("incomplete", "the archive is cut short or damaged; copy or save it again")
    if wanted.chip and file.arch and file.arch.lower() != wanted.chip.lower():
        yield _error(
            "wrong_chip",
            f"saved for {file.arch}, not for {wanted.chip}: compile it with "
            f"ClientRunner(har=…, hw_arch={wanted.chip!r})",
        )
    for tensor in file.inputs:
        if wanted.size and len(file.inputs) == 1 and tensor.shape[1::-1] != wanted.size:
            yield _error(
                "wrong_size",
                f"takes images of {'x'.join(map(str, tensor.shape[1::-1]))}, not "
                f"{wanted.size[0]}x{wanted.size[1]}",
            )
    if wanted.classes and file.nms and file.nms.classes != wanted.classes:
        yield _error(
            "wrong_classes",
            f"its NMS configuration has {file.nms.classes} classes, not {wanted.classes}",
        )
    if file.state in ("hailo_model", "fp_optimized_model"):
        yield Verdict(code="not_quantized", message=f"{file.stage}: nothing is in integers yet")


def _unscored(file: HarFile) -> Iterator[Verdict]:
    """Class layers that the NMS takes as scores, and that no sigmoid has made scores."""
    if file.nms is None:
        return
    ends = {t.name.rpartition("/")[2]: t for t in file.outputs}
    for name in file.nms.layers("cls_layer"):
        end = ends.get(name.rpartition("/")[2])
        if end is not None and end.activation == "linear":
            yield _error(
                "missing_sigmoid",
                f"{end.name}, which the NMS takes for scores, has no activation, and HailoRT "
                f"applies none: add change_output_activation({name}, sigmoid) to the model script "
                "and optimize again",
            )
            return
