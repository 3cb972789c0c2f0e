"""Where Hailo's compiler cuts a head, and how HailoRT or the chip turn its end into boxes.

The compiler takes a JSON file (`nms_postprocess`) with a meta architecture, thresholds, and one
decoder per level that names layers. The keys are those of the files of Hailo's model zoo; what each
architecture computes is read from HailoRT's own post-processing (4.23, net_flow/ops).
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from onchip.errors import InputError, UnsupportedError
from onchip.spec import HeadSpec, HeadTensor, Verdict

Engine = Literal["cpu", "nn_core"]
Named = Mapping[str, str]  # ONNX node to layer

# Chips for which the zoo decodes a family on the chip itself; it costs most of the speed.
ON_CHIP = {
    "yolov5": frozenset({"hailo8", "hailo8l"}),
    "yolov6": frozenset({"hailo8", "hailo8l", "hailo15h", "hailo10h"}),
    "ssd": frozenset({"hailo8", "hailo8l", "hailo15h", "hailo15l", "hailo10h"}),
}
COARSE_FIRST = frozenset({"yolov5", "yolov6", "yolox"})  # as the zoo lists their end nodes
ORDER = {"box": 0, "object": 1, "class": 2, "all": 3}
DIVISION = 8  # of the proposals that the chip suppresses at once, as in the zoo
WIDE = frozenset({"yolo26"})  # families whose ends the zoo gives 16 bits


class Decoder(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One level: the layers that it reads, by Hailo's names, and its anchors.

    Anchors are in pixels, or for "ssd" parts of the input.
    """

    name: str
    stride: int | None = None
    w: tuple[float, ...] = ()
    h: tuple[float, ...] = ()
    reg_layer: str | None = None
    cls_layer: str | None = None
    objectness_layer: str | None = None
    combined_layer: str | None = None
    encoded_layer: str | None = None


class Fields(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON file's keys, in the zoo's words."""

    nms_scores_th: float
    nms_iou_th: float
    image_dims: tuple[int, int]  # height, width
    max_proposals_per_class: int
    classes: int
    regression_length: int | None = None
    number_of_detection_heads: int | None = None
    centers_scale_factor: int | None = None
    bbox_dimensions_scale_factor: int | None = None
    background_removal: bool | None = None
    background_removal_index: int | None = None
    input_division_factor: int | None = None
    bbox_decoders: tuple[Decoder, ...]


class NmsConfig(Struct, frozen=True, kw_only=True):
    """How the compiled network makes boxes of its end, and where."""

    meta_arch: str
    engine: Engine
    fields: Fields

    def json(self) -> str:
        """The text of the file that the model script names."""
        data = msgspec.json.encode(self.fields)
        return msgspec.json.format(data, indent=2).decode() + "\n"


class Support(Struct, frozen=True, kw_only=True):
    """Which meta architecture a head has, and where it can be decoded; or why it has none."""

    meta_arch: str = ""
    engines: tuple[Engine, ...] = ()
    reason: str = ""


def end_nodes(head: HeadSpec) -> tuple[str, ...]:
    """Return the nodes at which the compiler stops, in the order of Hailo's zoo.

    That is box, objectness, class of each level: the finest first, but for YOLOv5, v6 and YOLOX;
    and for YOLO26 the boxes of all levels before the classes.
    """
    strides = head.strides[::-1] if head.family in COARSE_FIRST else head.strides
    parts = [t for s in strides for t in sorted(head.level(s), key=_role)]
    if head.family in WIDE:
        parts.sort(key=_role)
    return tuple(dict.fromkeys(t.node for t in parts))


def _role(tensor: HeadTensor) -> int:
    return ORDER[tensor.role]


def sigmoids(head: HeadSpec) -> tuple[str, ...]:
    """Return the end nodes that need a sigmoid in the compiled network.

    HailoRT applies none to detections: it takes scores as they come. The zoo's own YOLOX and YOLOv6
    end after the sigmoid; ours end at the convolution before it, so that the script adds it.
    Distances, and YOLO26's logits of 16 bits, stay as they are. In NanoDet's layer of classes and
    distances the compiler has to find the classes by itself.
    """
    if head.coding in ("query", "xywh") or head.scoring == "softmax" or head.family in WIDE:
        return ()
    wanted = {"all"} if head.coding == "anchor" else {"class", "object"}
    shared = {t.node for t in head.tensors if t.role == "box"}
    nodes = [t.node for t in head.tensors if t.role in wanted and not t.activated]
    mine = [n for n in nodes if n not in shared]
    return tuple(n for n in end_nodes(head) if n in mine)


def activated(head: HeadSpec) -> HeadSpec:
    """Return how the compiled network's raw end reads: after the sigmoids of `sigmoids`."""
    nodes = sigmoids(head)
    tensors = tuple(replace(t, activated=True) if t.node in nodes else t for t in head.tensors)
    return replace(head, tensors=tensors)


def support(head: HeadSpec, chip: str) -> Support:
    """Return what decodes a head on a chip ("hailo8", "hailo8l", ...), or why nothing does."""
    meta, reason = _meta_arch(head)
    if reason:
        return Support(reason=reason)
    engines: list[Engine] = [] if meta == "yolov6" else ["cpu"]
    if chip in ON_CHIP.get(meta, ()):
        engines.append("nn_core")
    if not engines:
        return Support(reason=f"Hailo decodes {meta} on the chip only, and not on {chip}")
    return Support(meta_arch=meta, engines=tuple(engines))


def _meta_arch(head: HeadSpec) -> tuple[str, str]:
    """Return the meta architecture, and else why there is none."""
    if head.coding == "dfl":
        return _of_distributions(head)
    if head.coding == "anchor":
        return "yolov5", ""
    if head.coding == "exp":
        return "yolox", ""
    if head.coding == "ltrb" and head.family == "yolov6" and head.scoring == "class":
        return "yolov6", ""
    if head.coding == "prior":
        return _of_priors(head)
    return "", f"Hailo's runtime decodes no {head.family} head: onchip decodes its raw tensors"


def _of_distributions(head: HeadSpec) -> tuple[str, str]:
    if head.offset != 0.5:
        return "", "HailoRT takes a cell's centre for its point, and this head its corner"
    if head.scoring != "class":
        return "", "HailoRT knows no distributions with objectness"
    joined = [t for t in head.tensors if t.role == "class" and t.start]
    if joined:
        return (
            "",
            f"in {joined[0].node} the boxes come before the classes, HailoRT wants them after",
        )
    return "yolov8", ""


def _of_priors(head: HeadSpec) -> tuple[str, str]:
    centre_x, centre_y, wide, high = head.variances
    if head.scoring == "softmax":
        return "", "HailoRT applies no softmax over the classes of an SSD head"
    if head.order != "yxhw":
        return "", "HailoRT reads the boxes of an SSD head as y, x, h, w, and these are x, y, w, h"
    if head.offset != 0.5:
        return "", "HailoRT takes a cell's centre for its point, and this head another"
    if centre_x != centre_y or wide != high or not all(v and _whole(1 / v) for v in head.variances):
        return "", "HailoRT takes one whole factor for centres and one for sizes"
    if head.background > 0:
        return "", "the background class is neither the first nor absent"
    return "ssd", ""


def _whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-3


def config(
    head: HeadSpec,
    size: tuple[int, int],
    layers: Named,
    *,
    chip: str,
    engine: Engine = "cpu",
    score: float = 0.2,
    iou: float = 0.7,
    most: int = 100,
) -> NmsConfig:
    """Return how a head's boxes are to be made and suppressed.

    Args:
        head: the head of the cut network.
        size: width and height of its input.
        layers: ONNX node to Hailo's layer; a node that is not in it is left to the compiler, which
            finds it by itself where the zoo leaves it empty.
        chip: for which chip.
        engine: the host's CPU or the chip.
        score: the least score, which can be set again at run time; `iou` and `most` (boxes per
            class) as well.

    Raises:
        InputError: a threshold that makes no sense.
        UnsupportedError: the head cannot be decoded there; the text says why.
    """
    _refuse_odd(score, iou, most)
    known = support(head, chip)
    if engine not in known.engines:
        raise UnsupportedError(
            known.reason or f"Hailo decodes {known.meta_arch} heads not on {_place(engine)} here",
            "take -O nms=none: onchip decodes the raw tensors"
            if not known.engines
            else f"allowed for {chip}: -O nms={', '.join(known.engines)}, or none",
        )
    fields = Fields(
        nms_scores_th=score,
        nms_iou_th=iou,
        image_dims=(size[1], size[0]),
        max_proposals_per_class=most,
        classes=head.classes,
        bbox_decoders=tuple(_decoders(head, known.meta_arch, size, layers)),
        input_division_factor=DIVISION if (known.meta_arch, engine) == NN_YOLOV5 else None,
    )
    special = _special(head, known.meta_arch)
    return NmsConfig(meta_arch=known.meta_arch, engine=engine, fields=replace(fields, **special))


NN_YOLOV5 = ("yolov5", "nn_core")


def _place(engine: str) -> str:
    return "the chip" if engine == "nn_core" else "the host's CPU"


def _refuse_odd(score: float, iou: float, most: int) -> None:
    if not 0 <= score <= 1 or not 0 < iou <= 1 or not 1 <= most <= 65535:
        raise InputError(
            f"-O score={score:g} -O iou={iou:g} -O most={most} make no sense",
            "score is 0 to 1, iou above 0 to 1, most at least 1",
        )


def _special(head: HeadSpec, meta_arch: str) -> dict[str, object]:
    """The keys that only one architecture has."""
    if meta_arch == "yolov8":
        return {"regression_length": head.reg_max, "background_removal": False}
    if meta_arch == "yolov5":
        return {"background_removal": False}
    if meta_arch == "yolox":
        return {"number_of_detection_heads": len(head.strides)}
    if meta_arch == "ssd":
        removed = head.background == 0
        return {
            "classes": head.classes + removed,
            "centers_scale_factor": round(1 / head.variances[0]),
            "bbox_dimensions_scale_factor": round(1 / head.variances[2]),
            "background_removal": removed,
            "background_removal_index": 0,
        }
    return {}


def _decoders(
    head: HeadSpec, meta_arch: str, size: tuple[int, int], layers: Named
) -> list[Decoder]:
    """One decoder per level, the finest first."""
    found = []
    for index, stride in enumerate(head.strides):
        names: dict[str, str] = {t.role: layers.get(t.node, "") for t in head.level(stride)}
        pixels = round(stride)
        if meta_arch in ("yolov5", "ssd"):
            found.append(_with_anchors(meta_arch, pixels, names, head.anchors[index], size))
        elif meta_arch == "yolov8" and _joined(head):
            name = f"bbox_decoder{index + 1}"
            found.append(Decoder(name=name, stride=pixels, combined_layer=names["box"]))
        else:
            found.append(_apart(meta_arch, pixels, names))
    return found


def _with_anchors(
    meta_arch: str,
    pixels: int,
    names: Mapping[str, str],
    anchors: tuple[tuple[float, float], ...],
    size: tuple[int, int],
) -> Decoder:
    if meta_arch == "yolov5":
        layer = names["all"]
        w, h = (tuple(round(a[i]) for a in anchors) for i in (0, 1))
        return Decoder(name=_numbered(layer, pixels), w=w, h=h, stride=pixels, encoded_layer=layer)
    width, height = (tuple(round(a[i] / size[i], 8) for a in anchors) for i in (0, 1))
    return Decoder(
        name=_numbered(names["box"], pixels),
        w=width,
        h=height,
        reg_layer=names["box"],
        cls_layer=names["class"],
    )


def _apart(meta_arch: str, pixels: int, names: Mapping[str, str]) -> Decoder:
    called = {"yolov6": f"fused_bbox_decoder_{pixels}", "yolox": f"bbox_decoder_{pixels}"}
    return Decoder(
        name=called.get(meta_arch) or _numbered(names["box"], pixels),
        stride=pixels,
        reg_layer=names["box"],
        cls_layer=names["class"],
        objectness_layer=names.get("object"),
    )


def _numbered(layer: str, pixels: int) -> str:
    """A decoder's name in the zoo has the number of its box layer."""
    digits = layer.lstrip("abcdefghijklmnopqrstuvwxyz_")
    return f"bbox_decoder{digits or pixels}"


def verdicts(head: HeadSpec, chip: str, engine: str) -> tuple[Verdict, ...]:
    """Say what decoding there costs or loses; `engine` is "cpu", "nn_core" or "none"."""
    found = []
    if head.coding == "anchor" and engine != "none":
        odd = [v for level in head.anchors for a in level for v in a if not _whole(v)]
        if odd:
            text = (
                f"a HEF keeps anchors as whole pixels: {len(odd)} of this head's are rounded, "
                f"{odd[0]:g} to {round(odd[0])}; -O nms=none keeps them"
            )
            found.append(Verdict(code="anchors_rounded", message=text, level="warning"))
    if engine == "nn_core":
        text = "boxes on the chip cost most of the speed: the zoo's YOLOv5xs falls from 1139 to 100"
        found.append(Verdict(code="nms_on_chip", message=f"{text} FPS", level="warning"))
    if engine != "none" and _joined(head):
        text = (
            "boxes and classes share one layer: the compiler has to split it and to add the sigmoid"
            " of the classes, as for the zoo's NanoDet; check with onchip inspect that their range "
            "is 0 to 1"
        )
        found.append(Verdict(code="combined_layer", message=text, level="warning"))
    if not support(head, chip).engines:
        found.append(Verdict(code="no_nms", message=support(head, chip).reason))
    return tuple(found)


def _joined(head: HeadSpec) -> bool:
    boxes = {t.node for t in head.tensors if t.role == "box"}
    return any(t.node in boxes for t in head.tensors if t.role == "class")
