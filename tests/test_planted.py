"""Faults planted in builds of real models: the first guess names each, and sound builds none.

`benchmarks/planted.py` plants all of them and prints the table; here is what a few minutes allow.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from msgspec.structs import replace
from onnx import numpy_helper

from onchip.analyze import Analysis, analyze
from onchip.artifact import Artifact
from onchip.build import Options, compile_, cut_model, optimize, parse, planned_model
from onchip.dataset import samples
from onchip.dataset.samples import Dataset, Sample
from onchip.graph.read import load
from onchip.measure.proof import Gate
from onchip.quantize.plan import LayerPlan, QuantPlan, TensorPlan
from onchip.quantize.recipe import RECIPES, Recipe
from onchip.spec import HeadTensor, InputSpec
from onchip.verify import verify
from onchip.vision.preprocess import read_image

MODELS = ("yolov8n", "yolov5n", "nanodet_m", "yolox_nano")
CALIBRATION = 32  # images
LOOKED_AT = 32


@dataclass(frozen=True)
class Planted:
    """A build with a fault in it, what names it, and the layers or tensors to which it belongs."""

    made: Artifact
    codes: tuple[str, ...]
    places: tuple[str, ...] = ()
    data: Dataset | None = None

    def named_by(self, found: Analysis) -> bool:
        """Whether the first guess is right, in its kind and in its place."""
        return found.code in self.codes and (not self.places or found.place in self.places)


@dataclass
class Bench:
    """Sound builds, made once each, and the images that they are made and judged with."""

    folder: Path
    scratch: Path
    split: str = "train"  # whose images the builds are judged with; of train those never calibrated
    recipe: Recipe = RECIPES["balanced"]
    _made: dict[tuple[str, str], Artifact] = field(default_factory=dict)

    @property
    def calibration(self) -> list[Path]:
        """The photos that the builds are calibrated with."""
        return _photos(self.folder)[:CALIBRATION]

    @property
    def data(self) -> Dataset:
        """Labelled photos that no build has seen."""
        whole = samples.load(self.folder / "coco" / "data.yaml", self.split)
        unseen = whole.samples[64:] if self.split == "train" else whole.samples
        return Dataset(unseen[:LOOKED_AT], whole.labels)

    def model(self, name: str) -> Path:
        """The ONNX file of a model."""
        return self.folder / "models" / f"{name}.onnx"

    def sound(self, name: str, target: str = "cpu") -> Artifact:
        """A build without a fault."""
        if (name, target) not in self._made:
            made = self.planned(parse(self.model(name), target, self.calibration))
            made = compile_(made, self.calibration) if target == "cpu" else made
            self._made[name, target] = made
        return self._made[name, target]

    def planned(
        self, begun: Artifact, photos: Sequence[Path] = (), options: Options | None = None
    ) -> Artifact:
        """A parsed build with its plan."""
        chosen = dataclasses.replace(options or Options(), recipe=self.recipe)
        return optimize(begun, photos or self.calibration, options=chosen)

    def calibrated(self, name: str, photos: Sequence[Path], target: str = "cpu") -> Artifact:
        """A build that was calibrated on other photos."""
        return self.planned(self.sound(name, target), photos)

    def altered(self, name: str, change: Callable[[npt.NDArray[np.uint8]], object]) -> list[Path]:
        """The calibration photos after a change, as files of their own."""
        folder = self.scratch / name
        folder.mkdir(exist_ok=True)
        found = []
        for path in self.calibration[:16]:
            found.append(folder / f"{path.stem}.png")
            if not found[-1].exists():
                cv2.imwrite(str(found[-1]), np.asarray(change(read_image(path)), np.uint8))
        return found


@cache
def _photos(folder: Path) -> list[Path]:
    return sorted((folder / "coco" / "images" / "train2017").glob("*.jpg"))


# ---- what a build is made of ----


def plan_of(made: Artifact) -> QuantPlan:
    """The plan of a build."""
    return msgspec.json.decode(made.payload("plan"), type=QuantPlan)


def with_plan(made: Artifact, plan: QuantPlan) -> Artifact:
    """The same build with another plan, not compiled."""
    rest = {n: d for n, d in made.payloads.items() if n != "program"}
    kept = {n: r for n, r in made.manifest.payloads.items() if n != "program"}
    begun = Artifact(replace(made.manifest, payloads=kept, program_input=None), rest)
    return begun.with_payloads({"plan": ("plan.json", msgspec.json.encode(plan))})


def tensors(made: Artifact, names: Sequence[str], change: Callable[[TensorPlan], TensorPlan],
            groups: bool = True) -> Artifact:  # fmt: skip
    """The same build with the codes of some tensors changed, and of those that share theirs."""
    plan = plan_of(made)
    wanted = {t.group for t in plan.tensors if t.name in names} if groups else set()
    changed = tuple(change(t) if t.group in wanted or t.name in names else t for t in plan.tensors)
    return with_plan(made, replace(plan, tensors=changed))


def layer(made: Artifact, node: str, change: Callable[[LayerPlan], LayerPlan]) -> Artifact:
    """The same build with one layer planned otherwise."""
    plan = plan_of(made)
    changed = tuple(change(x) if x.node == node else x for x in plan.layers)
    return with_plan(made, replace(plan, layers=changed))


def graph(made: Artifact, payload: str, change: Callable[[onnx.ModelProto], None]) -> Artifact:
    """The same build with one of its networks changed."""
    proto = onnx.ModelProto.FromString(made.payload(payload))
    change(proto)
    return made.with_payloads({payload: (f"{payload}.onnx", proto.SerializeToString())})


def constant(
    proto: onnx.ModelProto, node: str, place: int, change: Callable[[npt.NDArray[np.float32]], None]
) -> None:
    """Change a constant that a node reads."""
    name = next(n for n in proto.graph.node if n.name == node).input[place]
    held = next(t for t in proto.graph.initializer if t.name == name)
    values = numpy_helper.to_array(held).copy()
    change(values)
    held.CopyFrom(numpy_helper.from_array(values, name))


def head(made: Artifact, **fields: object) -> Artifact:
    """The same build whose end is read otherwise."""
    return Artifact(
        replace(made.manifest, head=replace(made.manifest.head, **fields)), made.payloads
    )


def head_parts(made: Artifact, change: Callable[[HeadTensor], HeadTensor]) -> Artifact:
    """The same with every part of the head changed."""
    return head(made, tensors=tuple(change(t) for t in made.manifest.head.tensors))


def pixels(made: Artifact, **fields: object) -> Artifact:
    """The same build that prepares its pixels otherwise, and its compiled file as well."""
    manifest = made.manifest
    spec = replace(manifest.input, **fields)
    assert isinstance(spec, InputSpec)
    program = manifest.program_input
    if program is not None:
        program = replace(program, color=spec.color, letterbox=spec.letterbox, pad=spec.pad)
    return Artifact(replace(manifest, input=spec, program_input=program), made.payloads)


def layers(made: Artifact) -> list[tuple[str, str]]:
    """(layer, output tensor) of every layer whose output has a range of its own, in order."""
    from onchip.quantize.regions import divide

    model, plan = planned_model(made), plan_of(made)
    own = [t.group for t in plan.tensors if t.rounded]
    single = {g for g in own if own.count(g) == 1}
    regions = divide(model, made.manifest.head, plan.quant, plan.floats)
    cut = {n.name for n in cut_model(made).proto.graph.node}
    return [
        (x.node, x.output)
        for x in regions.layers
        if x.output in single
        and x.output not in made.manifest.head.outputs
        and not x.depthwise
        and x.node in regions.integer
        and x.node in cut
    ]


def at(made: Artifact, part: float) -> tuple[str, str]:
    """The layer at so much of the network's depth."""
    found = layers(made)
    return found[int(part * (len(found) - 1))]


def role(made: Artifact, *wanted: str) -> list[str]:
    """The head's tensors of a role."""
    return [t.name for t in made.manifest.head.tensors if t.role in wanted]


def nodes(made: Artifact, names: Sequence[str]) -> tuple[str, ...]:
    """The layers that make some of the head's tensors."""
    return tuple(t.node for t in made.manifest.head.tensors if t.name in names)


# ---- faults ----

Fault = Callable[[Bench, str], Planted]
KINDS: dict[str, tuple[Fault, tuple[str, ...]]] = {}


def kind(name: str, *models: str) -> Callable[[Fault], Fault]:
    """Enter a fault into the table, with the models in which it is planted."""

    def enter(fault: Fault) -> Fault:
        KINDS[name] = (fault, models or MODELS)
        return fault

    return enter


def weights(
    made: Artifact, node: str, change: Callable[[npt.NDArray[np.float32]], None]
) -> Artifact:
    """With a layer's weights changed, in the network that the plan is of."""
    payload = "planned" if "planned" in made.payloads else "cut"
    return graph(made, payload, lambda proto: constant(proto, node, 1, change))


@kind("range too short", "yolov8n", "nanodet_m", "yolox_nano")
def short(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, tensor = at(made, 0.3)
    wrong = tensors(made, [tensor], lambda t: replace(t, scale=t.scale / 8))
    return Planted(wrong, ("saturated",), (node,))


@kind("scale too coarse", "yolov5n", "yolox_nano", "nanodet_m")
def coarse(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, tensor = at(made, 0.5)
    wrong = tensors(made, [tensor], lambda t: replace(t, scale=t.scale * 16))
    return Planted(wrong, ("coarse",), (node,))


@kind("zero point off", "yolov8n", "yolov5n", "nanodet_m")
def zero(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, tensor = at(made, 0.4)
    wrong = tensors(made, [tensor], lambda t: replace(t, zero=210 if t.zero < 128 else 40))
    return Planted(wrong, ("zero_point",), (node,))


@kind("scales of two tensors swapped", "yolov5n", "yolox_nano")
def swapped(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    found = {t.name: t for t in plan_of(made).tensors}
    own = [t for t in layers(made) if found[t[1]].rounded]
    early = own[: len(own) // 2]
    (a, first), (b, second) = (
        max(early, key=lambda x: found[x[1]].scale),
        min(early, key=lambda x: found[x[1]].scale),
    )
    other = {first: found[second], second: found[first]}
    wrong = tensors(
        made,
        [first, second],
        lambda t: replace(t, scale=other[t.name].scale, zero=other[t.name].zero),
        groups=False,
    )
    return Planted(wrong, ("swapped",), (a, b))


@kind("scores clipped", "yolox_nano", "yolov8n", "nanodet_m")
def clipped(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    names = role(made, "class", "object")
    wrong = tensors(made, names, lambda t: replace(t, scale=t.scale / 4))
    return Planted(wrong, ("score_ceiling",), ("", *nodes(made, names)))


@kind("one scale over boxes and scores", "yolov8n")
def shared(bench: Bench, model: str) -> Planted:
    last = load(bench.model(model)).proto.graph.node[-1].name  # where both are joined
    photos = bench.calibration
    options = Options(end_nodes=(last,))
    made = bench.planned(parse(bench.model(model), "cpu", photos, options=options), photos, options)
    return Planted(made, ("shared_scale",))


@kind("boxes on the scores' scale", "yolov5n")
def joined(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    plan, parts = plan_of(made), made.manifest.head.tensors
    boxes = {t.stride: t.name for t in parts if t.role == "box"}
    group = {t.name: boxes[t.stride] for t in parts}
    wide = max((t for t in plan.tensors if t.name in group), key=lambda t: t.scale)

    def same(t: TensorPlan) -> TensorPlan:
        return replace(t, scale=wide.scale * 2, zero=128, group=group[t.name])

    wrong = tensors(made, list(group), same, groups=False)
    return Planted(wrong, ("shared_scale",))


@kind("boxes collapse", "yolov8n", "nanodet_m")
def collapse(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    names = role(made, "box")
    wrong = tensors(made, names, lambda t: replace(t, scale=t.scale * 24))
    return Planted(wrong, ("box_codes", "coarse"), ("", *nodes(made, names)))


@kind("activation's parts rounded", "yolov5n", "yolox_nano")
def inner(bench: Bench, model: str) -> Planted:
    made = bench.sound(model, "rk3588")
    plan = plan_of(made)
    wrong = with_plan(
        made, replace(plan, tensors=tuple(replace(t, rounded=True) for t in plan.tensors))
    )
    return Planted(wrong, ("inner_rounding",))


@kind("16 bits lost", "yolox_nano", "yolov8n")
def bits_lost(bench: Bench, model: str) -> Planted:
    sound = bench.sound(model)
    node, _ = at(sound, 0.0)
    made = bench.planned(sound, options=Options(int16=(node,)))
    known = {t.name: t for t in plan_of(made).tensors}
    wide = {n for n, t in known.items() if t.bits == 16}

    def less(t: TensorPlan) -> TensorPlan:
        # the top eight bits of its codes
        return replace(t, bits=8, scale=t.scale * 256, zero=t.zero // 256)

    return Planted(tensors(made, sorted(wide), less, groups=False), ("lost_bits",), (node,))


@kind("one channel's weights on a wrong scale", "nanodet_m", "yolov5n", "yolox_nano")
def one_weight_scale(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, _ = at(made, 0.2)

    def off(x: LayerPlan) -> LayerPlan:
        worst = int(np.argmax(x.scales))
        scales = tuple(s / 10 if i == worst else s for i, s in enumerate(x.scales))
        return replace(x, scales=scales, codes=b"")

    return Planted(layer(made, node, off), ("weights",), (node,))


@kind("a layer's weights on a wrong scale", "yolox_nano", "yolov8n")
def weight_scales(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, _ = at(made, 0.6)
    wrong = layer(
        made, node, lambda x: replace(x, scales=tuple(s * 12 for s in x.scales), codes=b"")
    )
    return Planted(wrong, ("weights",), (node,))


@kind("one weight scale for all channels", "yolov5n", "nanodet_m")
def per_tensor(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    known = {x.node: x for x in plan_of(made).layers}
    node = max(layers(made), key=lambda x: _spread(known[x[0]].scales))[0]

    def one(x: LayerPlan) -> LayerPlan:
        return replace(x, scales=(max(x.scales),) * len(x.scales), codes=b"")

    return Planted(layer(made, node, one), ("per_tensor",), (node,))


def _spread(scales: tuple[float, ...]) -> float:
    return max(scales) / max(float(np.median(scales)), 1e-9) if scales else 0.0


@kind("channels' weights rounded to nothing", "yolox_nano", "nanodet_m", "yolov8n")
def dead(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, _ = at(made, 0.5)

    def kill(x: LayerPlan) -> LayerPlan:
        scales = tuple(s * 1e4 if i % 3 == 0 else s for i, s in enumerate(x.scales))
        return replace(x, scales=scales, codes=b"")

    return Planted(layer(made, node, kill), ("weights", "dead"), (node,))


@kind("bias correction wrong", "yolox_nano", "yolov5n", "nanodet_m")
def bias(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, tensor = at(made, 0.3)
    step = next(t.scale for t in plan_of(made).tensors if t.name == tensor)
    wrong = layer(
        made,
        node,
        lambda x: replace(
            x, bias_shift=tuple(v + 20 * step for v in x.bias_shift or (0.0,) * len(x.scales))
        ),
    )
    return Planted(wrong, ("bias",), (node,))


@kind("a channel's weights zeroed in the network", "nanodet_m", "yolov8n", "yolox_nano")
def zeroed(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, _ = at(made, 0.3)

    def clear(values: npt.NDArray[np.float32]) -> None:
        values[np.argsort(-np.abs(values).reshape(len(values), -1).sum(axis=1))[:3]] = 0

    wrong = weights(made, node, clear)
    return Planted(wrong, ("network",), (node,))


@kind("a layer's bias lost in the network", "yolox_nano", "yolov5n")
def bias_lost(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, _ = at(made, 0.2)
    wrong = graph(made, "cut", lambda proto: constant(proto, node, 2, lambda v: v.fill(0)))
    return Planted(wrong, ("network",), (node,))


@kind("a weight's code flipped in the compiled file", "nanodet_m", "yolox_nano")
def flipped(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, _ = at(made, 0.1)

    def flip(proto: onnx.ModelProto) -> None:
        held = next(t for t in proto.graph.initializer if t.name == f"{node}/weight/codes")
        codes = numpy_helper.to_array(held).copy()
        codes.reshape(-1)[:: max(1, codes.size // 8)] ^= 0x40
        held.CopyFrom(numpy_helper.from_array(codes, held.name))

    return Planted(graph(made, "program", flip), ("program",))


@kind("colours swapped", "yolov8n", "yolov5n", "nanodet_m", "yolox_nano")
def colours(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    other = {"rgb": "bgr", "bgr": "rgb"}[made.manifest.input.color]
    return Planted(pixels(made, color=other), ("preprocessing",))


@kind("wrong mean", "yolov8n", "yolox_nano")
def mean(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    wrong = (0.0,) * 3 if any(made.manifest.input.mean) else (128.0,) * 3
    return Planted(pixels(made, mean=wrong), ("preprocessing",))


@kind("not divided by 255", "yolov5n", "nanodet_m")
def divided(bench: Bench, model: str) -> Planted:
    return Planted(pixels(bench.sound(model), std=(1.0,) * 3), ("preprocessing",))


@kind("divided by 255 where bytes are wanted", "yolox_nano")
def divided_twice(bench: Bench, model: str) -> Planted:
    return Planted(pixels(bench.sound(model), std=(255.0,) * 3), ("preprocessing",))


@kind("stretched in place of letterbox", "yolov8n", "yolov5n")
def stretched(bench: Bench, model: str) -> Planted:
    return Planted(pixels(bench.sound(model), letterbox="stretch"), ("preprocessing",))


@kind("placed in the corner instead of the middle", "yolov8n", "yolov5n")
def corner(bench: Bench, model: str) -> Planted:
    return Planted(pixels(bench.sound(model), letterbox="topleft"), ("preprocessing",))


@kind("black around the image instead of grey", "yolov5n")
def padded(bench: Bench, model: str) -> Planted:
    return Planted(pixels(bench.sound(model), pad=0), ("preprocessing",))


@kind("calibrated on black images with the time in a corner", "yolox_nano", "yolov5n")
def black(bench: Bench, model: str) -> Planted:
    def stamped(image: npt.NDArray[np.uint8]) -> object:  # images of one colour are left out
        return cv2.putText(image * 0, "03:14", (8, 24), 0, 0.6, (255, 255, 255))

    return Planted(bench.calibrated(model, bench.altered("black", stamped)), ("stale_ranges",))


@kind("calibrated on dark images", "yolov8n", "nanodet_m")
def dark(bench: Bench, model: str) -> Planted:
    photos = bench.altered("dark", lambda image: image // 16)
    return Planted(bench.calibrated(model, photos), ("stale_ranges",))


@kind("plan of another training", "yolov8n", "yolov5n")
def trained(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    random = np.random.default_rng(0)

    def train(proto: onnx.ModelProto) -> None:
        for held in proto.graph.initializer:
            values = numpy_helper.to_array(held)
            if values.ndim == 4:
                factors = np.exp(random.normal(0, 0.5, (len(values), 1, 1, 1)))
                made_ = (values * factors).astype(np.float32)
                held.CopyFrom(numpy_helper.from_array(made_, held.name))

    other = bench.planned(graph(made, "cut", train))
    return Planted(with_plan(made, plan_of(other)), ("stale_ranges",))


@kind("calibrated on one image", "yolox_nano", "yolov5n")
def few(bench: Bench, model: str) -> Planted:
    photos = bench.altered("plain", lambda image: image // 3 + 20)[:1]
    return Planted(bench.calibrated(model, photos), ("few_images",))


@kind("a sigmoid missing in the reading", "yolov8n", "nanodet_m", "yolox_nano")
def no_sigmoid(bench: Bench, model: str) -> Planted:
    made = head_parts(
        bench.sound(model),
        lambda t: replace(t, activated=not t.activated if t.role != "box" else t.activated),
    )
    return Planted(made, ("reading",))


@kind("anchors of another network", "yolov5n")
def anchors(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    wrong = tuple(
        tuple((w * 0.5, h * 1.7) for w, h in level) for level in made.manifest.head.anchors
    )
    return Planted(head(made, anchors=wrong), ("reading",))


@kind("levels swapped", "yolov5n", "nanodet_m")
def levels(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    turned = dict(zip(made.manifest.head.strides, made.manifest.head.strides[::-1], strict=True))
    return Planted(head_parts(made, lambda t: replace(t, stride=turned[t.stride])), ("reading",))


@kind("points in the corner instead of the centre", "yolov8n", "yolox_nano")
def offset(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    return Planted(head(made, offset=0.5 - made.manifest.head.offset), ("reading",))


@kind("labels shifted by one", "yolov8n", "nanodet_m")
def labels(bench: Bench, model: str) -> Planted:
    made, data = bench.sound(model), bench.data
    moved = tuple(
        Sample(s.path, s.boxes, tuple((c + 1) % len(data.labels) for c in s.classes))
        for s in data.samples
    )
    return Planted(made, ("labels",), data=Dataset(moved, data.labels))


@kind("compiled file of another plan", "yolox_nano", "yolov8n")
def stale(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    photos = _photos(bench.folder)[40:60]
    other = compile_(bench.calibrated(model, photos), photos)
    wrong = made.with_payloads({"program": ("program.onnx", other.payload("program"))})
    return Planted(wrong, ("program",))


# What follows was decided on before the diagnosis was written, and planted when it was done.


@kind("a channel's weights negated in the network", "yolov8n", "nanodet_m")
def negated(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, _ = at(made, 0.4)

    def turn(values: npt.NDArray[np.float32]) -> None:
        values[int(np.abs(values).reshape(len(values), -1).sum(axis=1).argmax())] *= -1

    wrong = weights(made, node, turn)
    return Planted(wrong, ("network",), (node,))


@kind("a layer's channels in another order", "yolov5n", "yolox_nano")
def rolled(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, _ = at(made, 0.5)

    def roll(values: npt.NDArray[np.float32]) -> None:
        values[:] = np.roll(values, 1, axis=0)

    wrong = weights(made, node, roll)
    return Planted(wrong, ("network",), (node,))


@kind("one channel's bias correction wrong", "yolox_nano", "yolov5n")
def one_bias(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    node, tensor = at(made, 0.4)
    step = next(t.scale for t in plan_of(made).tensors if t.name == tensor)

    def off(x: LayerPlan) -> LayerPlan:
        shift = list(x.bias_shift or (0.0,) * len(x.scales))
        shift[int(np.argmax(x.scales))] -= 60 * step  # upwards, where no SiLU hides it
        return replace(x, bias_shift=tuple(shift))

    return Planted(layer(made, node, off), ("bias",), (node,))


@kind("one level's boxes clipped", "yolov8n", "nanodet_m")
def one_level(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    name = role(made, "box")[1]
    wrong = tensors(made, [name], lambda t: replace(t, scale=t.scale / 4))
    return Planted(wrong, ("saturated", "box_codes"), ("", *nodes(made, [name])))


@kind("the scores' zero point off", "yolov8n", "yolox_nano")
def zero_scores(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    names = role(made, "class")
    wrong = tensors(made, names, lambda t: replace(t, zero=min(t.zero + 70, 255)))
    return Planted(wrong, ("zero_point", "score_ceiling"), ("", *nodes(made, names)))


@kind("mean of another training", "nanodet_m", "yolov5n")
def other_mean(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    if any(made.manifest.input.mean):
        return Planted(pixels(made, mean=(0.0,) * 3, std=(255.0,) * 3), ("preprocessing",))
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    return Planted(pixels(made, mean=mean, std=std), ("preprocessing",))


@kind("calibrated on grey noise", "yolov8n", "yolox_nano")
def noise(bench: Bench, model: str) -> Planted:
    random = np.random.default_rng(0)
    photos = bench.altered("noise", lambda image: 120 + random.integers(0, 16, image.shape))
    return Planted(bench.calibrated(model, photos), ("stale_ranges",))


@kind("labels in reverse order", "yolov5n", "yolox_nano")
def reverse(bench: Bench, model: str) -> Planted:
    made, data = bench.sound(model), bench.data
    turned = tuple(
        Sample(s.path, s.boxes, tuple(len(data.labels) - 1 - c for c in s.classes))
        for s in data.samples
    )
    return Planted(made, ("labels",), data=Dataset(turned, data.labels))


@kind("strides twice as large", "yolov8n", "nanodet_m")
def strides(bench: Bench, model: str) -> Planted:
    made = head_parts(bench.sound(model), lambda t: replace(t, stride=t.stride * 2))
    return Planted(made, ("reading",))


@kind("compiled for the other colour order", "yolov5n", "yolox_nano")
def program_colours(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    spec = made.manifest.program_input
    assert spec is not None
    other = replace(spec, color={"rgb": "bgr", "bgr": "rgb"}[spec.color])
    wrong = Artifact(replace(made.manifest, program_input=other), made.payloads)
    return Planted(wrong, ("program",))


@kind("a join's scale too coarse", "yolov5n", "yolov8n")
def joint(bench: Bench, model: str) -> Planted:
    made = bench.sound(model)
    plan = plan_of(made)
    groups = [t.group for t in plan.tensors if t.rounded]
    widest = max(dict.fromkeys(groups), key=groups.count)
    members = [t.name for t in plan.tensors if t.group == widest]
    wrong = tensors(made, members, lambda t: replace(t, scale=t.scale * 12))
    model_ = planned_model(made)
    makers = {n for t in members if t in model_.producers for n in _makers(made, t)}
    return Planted(wrong, ("coarse",), tuple(makers))


def _makers(made: Artifact, tensor: str) -> list[str]:
    """The node that makes a tensor, and the layer that it belongs to."""
    from onchip.quantize.regions import layers as every

    model = planned_model(made)
    node = model.producers[tensor].name
    return [node, *(x.node for x in every(model) if node in x.members)]


def look(planted: Planted, bench: Bench) -> Analysis:
    """What `onchip analyze` finds."""
    return analyze(planted.made, planted.data or bench.data, labelled=True)


# ---- tests ----


@pytest.fixture(scope="module")
def bench(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Sound builds of the real models."""
    return Bench(data, tmp_path_factory.mktemp("planted"), recipe=RECIPES["fast"])


THIN = {  # what is planted where here: in the two models that are quick, what needs no other build
    "nanodet_m": (
        "bias correction wrong",
        "a channel's weights zeroed in the network",
        "a weight's code flipped in the compiled file",
    ),
    "yolox_nano": (
        "a layer's bias lost in the network",
        "points in the corner instead of the centre",
        "labels in reverse order",
    ),
}


def test_the_thin_list_is_of_the_table() -> None:
    assert all(m in KINDS[k][1] for m, names in THIN.items() for k in names)
    assert len(KINDS) >= 24


@pytest.mark.data
@pytest.mark.parametrize(("name", "model"), [(k, m) for m, ks in THIN.items() for k in ks])
def test_a_planted_fault_is_named_first(name: str, model: str, bench: Bench) -> None:
    planted = KINDS[name][0](bench, model)
    found = look(planted, bench)
    assert planted.named_by(found), f"{found.code} at {found.place}: {found.first}"


@pytest.mark.data
@pytest.mark.parametrize("model", THIN)
def test_a_sound_build_has_no_fault(model: str, bench: Bench) -> None:
    found = analyze(bench.sound(model), bench.data, labelled=True)
    assert not found.code, found.first


@pytest.mark.data
@pytest.mark.parametrize("name", ["scores clipped", "levels swapped"])
def test_the_proof_names_the_same(name: str, bench: Bench) -> None:
    planted = KINDS[name][0](bench, "nanodet_m")
    proof = verify(planted.made, bench.data, labelled=True, gate=Gate(min_match=1.0))
    assert proof.causes[0].code in planted.codes
