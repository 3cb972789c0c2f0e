"""A compiled file in the words of `hailortcli parse-hef FILE`, with its spaces.

The words are those of HailoRT's public sources: of 4.23 for Hailo-8 and 8L, of 5.2 for the others.
"""

import struct

from onchip.formats.hailo_versions import table
from onchip.formats.hef import HefFile, HefGroup, HefPost, HefTensor

TAB = "    "
MAX_LINES = 5000
MASKED = 38  # bytes of a detection with a mask, on a machine of 64 bits
_NAMES = {
    "yolov5": "YOLOv5-Post-Process",
    "yolox": "YOLOX-Post-Process",
    "ssd": "SSD-Post-Process",
    "iou": "IoU-Post-Process",
    "yolov5_seg": "YOLOv5Seg-Post-Process",
    "yolov8": "YOLOV8-Post-Process",
    "argmax": "Argmax-Post-Process",
    "softmax": "Softmax-Post-Process",
}
_BOXES_ONLY = {"yolov5": "YOLOv5Bbox-Only-Post-Process", "yolov8": "YOLOv8Bbox-Only-Post-Process"}


def parse_hef(file: HefFile) -> str:
    """Return what `hailortcli parse-hef` prints."""
    lines = _arch(file)
    for group in sorted(file.groups, key=lambda g: g.name.encode()):
        contexts = (
            f"Multi Context - Number of contexts: {group.contexts}"
            if group.contexts > 1
            else "Single Context"
        )
        lines.append(f"Network group name: {group.name}, {contexts}")
        for number, network in enumerate(group.networks):
            lines.append(f"{TAB}Network name: {network}")
            lines += _network(group, number, network)
            if len(lines) > MAX_LINES:  # nobody's network
                return "\n".join([*lines[:MAX_LINES], "…"])
    return "\n".join(lines)


def _arch(file: HefFile) -> list[str]:
    arch = table().arch_of(file.arch)
    if arch is None or arch.line < 5:
        prints = arch.prints if arch else "UNKNOWN ARCHITECTURE"
        return [f"Architecture HEF was compiled for: {prints}"]
    lines = [f"HEF Compatible for: {', '.join(d.upper() for d in arch.devices)}"]
    return [*lines, f"HEF Compiler Version: {file.sdk}"] if file.sdk not in ("", "0.0.0") else lines


def _network(group: HefGroup, number: int, network: str) -> list[str]:
    every = network == f"{group.name}/{group.name}"  # a network of the file's own name is all
    made = {p.output: p for p in group.post}
    lines = [f"{TAB * 2}VStream infos:"]
    for tensor in group.inputs:
        if every or tensor.network == number:
            lines.append(f"{TAB * 3}Input  {tensor.name} {_shape(tensor, None)}")
    for tensor in group.outputs:
        if every or tensor.network == number or tensor.name in made:
            lines.append(f"{TAB * 3}Output {tensor.name} {_shape(tensor, made.get(tensor.name))}")
    if group.post:  # of several, HailoRT describes the last
        lines.append(f"{TAB * 3}Operation:")
        lines += [f"{TAB * 4}{part}" for part in _operation(group.post[-1])]
    return lines


def _shape(tensor: HefTensor, post: HefPost | None) -> str:
    text = f"{tensor.dtype.upper()}, {tensor.order}"
    first, second, third = (*tensor.shape, 0, 0, 0)[:3]
    if tensor.order == "HAILO NMS BY CLASS":
        size = first * (1 + 5 * third) * 4 & 0xFFFFFFFF
        return (
            f"{text}(number of classes: {first}, maximum bounding boxes per class: {third}, "
            f"maximum frame size: {size})"
        )
    if tensor.order == "HAILO NMS WITH BYTE MASK" and post is not None:
        total = post.classes * post.most & 0xFFFFFFFF
        size = 2 + total * MASKED + post.image[0] * post.image[1] * 2 & 0xFFFFFFFF
        return (
            f"{text}(number of classes: {first}, maximum bounding boxes total: {total}, "
            f"maximum frame size: {size})"
        )
    if tensor.order == "NC":
        return f"{text}({third})"
    if tensor.order == "NHW":
        return f"{text}({first}x{second})"
    return f"{text}({first}x{second}x{third})"


def _operation(post: HefPost) -> list[str]:
    """The parts of an operation's description; HailoRT breaks the line at each comma."""
    kind = post.kind.upper().replace("_", "")
    if post.kind in ("argmax", "softmax"):
        return [f"{kind} Op", f"Name: {_NAMES[post.kind]}"]
    only = post.boxes_only and post.kind in _BOXES_ONLY
    name = _BOXES_ONLY[post.kind] if only else _NAMES[post.kind]
    lines = [f"Op {kind}", f"Name: {name}"]
    lines += [f"Classes: {post.classes}"] if only else _limits(post)
    if post.kind != "iou":
        lines += [f"Image height: {post.image[0]}", f"Image width: {post.image[1]}"]
    if post.kind == "ssd":
        lines += [
            f"Centers scales factor: {post.scale_factors[0]}",
            f"Bbox dimension scale factor: {post.scale_factors[1]}",
            "Normalize boxes: false",
        ]
    if post.kind == "yolov5_seg":
        lines.append(f"Mask threshold: {_single(post.mask):.2f}")
    return lines


def _limits(post: HefPost) -> list[str]:
    lines = [
        f"Score threshold: {_single(post.score):.3f}",
        f"IoU threshold: {_single(post.iou):.2f}",
        f"Classes: {post.classes}",
    ]
    if post.kind == "yolov5_seg":
        lines.append(f"Max bboxes total: {post.classes * post.most & 0xFFFFFFFF}")
    else:
        lines.append(f"Max bboxes per class: {post.most}")
    if post.background is not None:
        lines.append(f"Background removal index: {post.background}")
    return lines


def _single(value: float) -> float:
    """A number as HailoRT keeps it, in 32 bits."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
