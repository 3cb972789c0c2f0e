"""The quantization plan: every scale, zero point and precision, before anything is built."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from onchip.graph.read import Model
from onchip.graph.run import Array
from onchip.quantize import weights as rounding
from onchip.quantize.compete import Contest, decide
from onchip.quantize.correct import bias_shift, by_channel
from onchip.quantize.influence import Influence
from onchip.quantize.ranges import Choice, Range, choose, fit, limits, rounded
from onchip.quantize.regions import Layer, Regions
from onchip.quantize.stats import Stats
from onchip.several import each
from onchip.spec import InputSpec, QuantSpec

HEADROOM = 1.25  # over the highest value that calibration saw in a channel
NO_KERNEL = "no integer kernel on this target"


class TensorPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor's codes: `value = (code - zero) * scale`."""

    name: str
    scale: float
    zero: int
    sqnr_db: float
    group: str  # the tensor whose range it shares; its own name where it has one of its own
    bits: int = 8
    rounded: bool = True  # False inside a layer that the chip fuses: the scale is for its compiler

    def coded(self, values: Array, quant: QuantSpec) -> Array:
        """What is left of values after they were turned into this tensor's codes and back."""
        return rounded(values, self.scale, self.zero, quant.with_bits(self.bits))

    def limits(self, quant: QuantSpec) -> tuple[float, float]:
        """The lowest and highest value that has a code."""
        return limits(self.scale, self.zero, quant.with_bits(self.bits))


class LayerPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer's precision, with the weight scales (per output channel) and bias correction.

    `codes` are its weights where they are not simply rounded to the nearest: a byte each, in the
    order of the float ones.
    """

    node: str
    precision: str  # "int8", "int16" (its output; weights stay in 8 bits) or a float
    reason: str
    scales: tuple[float, ...] = ()
    bias_shift: tuple[float, ...] = ()  # is taken from the float bias
    codes: bytes = b""

    def coded(self, weights: Array, quant: QuantSpec) -> npt.NDArray[np.int8]:
        """Return the layer's weights `(out, in, ...)` as codes."""
        if self.codes:
            return np.frombuffer(self.codes, np.int8).reshape(weights.shape)
        return rounding.codes(weights, np.asarray(self.scales, np.float32), quant)

    def rounded(self, weights: Array, quant: QuantSpec) -> npt.NDArray[np.float32]:
        """Return what the layer's codes stand for, in the shape of `weights`."""
        scales = np.asarray(self.scales, np.float32).reshape((-1,) + (1,) * (weights.ndim - 1))
        return np.asarray(self.coded(weights, quant) * scales, np.float32)


class Raising(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Layers that could be raised together, and what is foreseen of it.

    `cost` is their part of the network's multiplications, `error` the part that would be left of
    what the rounding of all tensors does to the detections.
    """

    layers: tuple[str, ...]
    cost: float
    error: float


class QuantPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network becomes integers on one chip, and why.

    `contests` tell who won the range of each group of tensors, where rules competed for it;
    `raising` what would be won by raising layers, ever more of them.
    """

    quant: QuantSpec
    images: int
    tensors: tuple[TensorPlan, ...]
    layers: tuple[LayerPlan, ...]
    contests: tuple[Contest, ...] = ()
    raising: tuple[Raising, ...] = ()

    @property
    def floats(self) -> tuple[str, ...]:
        """Nodes of the layers that stay in float."""
        return tuple(x.node for x in self.layers if not x.precision.startswith("int"))

    @property
    def wide(self) -> tuple[str, ...]:
        """Nodes of the layers whose output has 16 bits."""
        return tuple(x.node for x in self.layers if x.precision == "int16")

    def explained(self, reasons: Mapping[str, str]) -> "QuantPlan":
        """The plan with other reasons for its layers' precision, by node."""
        layers = (replace(x, reason=reasons.get(x.node, x.reason)) for x in self.layers)
        return replace(self, layers=tuple(layers))

    def describe(self) -> str:
        """The plan as text: one line per layer and per tensor."""
        lines = [f"calibrated on {self.images} images, {self.quant.bits}-bit codes", ""]
        width = max((len(x.node) for x in self.layers), default=4)
        lines += [f"{x.node:<{width}}  {x.precision:<8} {x.reason}".rstrip() for x in self.layers]
        width = max((len(t.name) for t in self.tensors), default=4)
        lines += ["", f"{'tensor':<{width}}  {'scale':>10}  zero  {'SQNR dB':>8}  range"]
        won = {c.group: c.describe() for c in self.contests}
        lines += [
            f"{t.name:<{width}}  {t.scale:>10.3g}  {t.zero:>4}  {t.sqnr_db:>8.1f}  "
            f"{f'that of {t.group}' if t.group != t.name else won.get(t.name, '')}".rstrip()
            for t in self.tensors
        ]
        return "\n".join(lines)


def make_plan(
    model: Model,
    regions: Regions,
    seen: Mapping[str, Stats],
    quant: QuantSpec,
    spec: InputSpec,
    *,
    images: int,
    reasons: Mapping[str, str] | None = None,
    wide: Sequence[str] = (),
    felt: Mapping[str, Influence] | None = None,
    choice: Choice = choose,
) -> QuantPlan:
    """Decide scales, zero points and bias corrections.

    Args:
        model: the cut graph.
        regions: how it divides on the chip.
        seen: what was observed of its tensors.
        quant: the chip's arithmetic.
        spec: the input; one with uniform pixels is coded by the pixels themselves.
        images: how many images were observed.
        reasons: why a layer stays in float, by node.
        wide: nodes of the layers whose output gets 16 bits.
        felt: what errors in tensors do to the detections. Where it is known, rules compete for a
            range by that; elsewhere the least power of the error decides.
        choice: decides it.
    """
    sixteen = _sixteen(regions, wide)
    ranges, contests = _ranges(model, regions, seen, quant, spec, sixteen, felt or {}, choice)
    tensors = tuple(
        TensorPlan(
            name=t,
            scale=ranges[regions.groups[t]].scale,
            zero=ranges[regions.groups[t]].zero,
            sqnr_db=ranges[regions.groups[t]].sqnr_db,
            group=regions.groups[t],
            bits=16 if regions.groups[t] in sixteen else quant.bits,
        )
        for t in regions.tensors
    )
    tensors += _fused(regions, seen, quant, choice)
    planned = {t.name: t for t in tensors}

    def layer(x: Layer) -> LayerPlan:
        if x.node not in regions.integer:
            why = (reasons or {}).get(x.node, NO_KERNEL)
            return LayerPlan(node=x.node, precision=_float(quant), reason=why)
        why = (reasons or {}).get(x.node, "")
        return _layer_plan(x, model, seen, quant, planned.get(x.data), why, x.node in wide)

    layers = tuple(each(layer, regions.layers))
    return QuantPlan(quant=quant, images=images, tensors=tensors, layers=layers, contests=contests)


def _float(quant: QuantSpec) -> str:
    return next((p for p in quant.raised if p.startswith("float")), "float32")


def _sixteen(regions: Regions, wide: Sequence[str]) -> frozenset[str]:
    """The groups of tensors that get 16 bits: what the wide layers make."""
    made = {t for x in regions.layers if x.node in wide for t in (x.raw, x.output)}
    return frozenset(regions.groups[t] for t in made if t in regions.groups)


def _fused(
    regions: Regions, seen: Mapping[str, Stats], quant: QuantSpec, choice: Choice
) -> tuple[TensorPlan, ...]:
    """Scales for what is not rounded."""
    found = {t: choice([seen[t]], regions.reads.get(t, ""), quant) for t in regions.fused}
    return tuple(
        TensorPlan(name=t, scale=r.scale, zero=r.zero, sqnr_db=r.sqnr_db, group=t, rounded=False)
        for t, r in found.items()
    )


def _ranges(
    model: Model,
    regions: Regions,
    seen: Mapping[str, Stats],
    quant: QuantSpec,
    spec: InputSpec,
    sixteen: frozenset[str],
    felt: Mapping[str, Influence],
    choice: Choice,
) -> tuple[dict[str, Range], tuple[Contest, ...]]:
    """Return the range of each group of tensors, and how those were won that were contested."""
    members: dict[str, list[str]] = {}
    for tensor, root in regions.groups.items():
        members.setdefault(root, []).append(tensor)
    eight, more = quant, quant.with_bits(16)

    def one(root: str) -> tuple[Range, Contest | None]:
        names, bits = members[root], more if root in sixteen else eight
        reads = {regions.reads.get(n, "") for n in names}
        reader = reads.pop() if len(reads) == 1 else ""
        if spec.name in names and spec.uniform:
            return _pixels(spec, bits), None
        if all(_is_unit(model, n) for n in names):
            return Range(*_unit(bits), 0.0), None
        if (won := decide(model, root, names, seen, felt, reader, bits)) is not None:
            return won
        stats = [seen[n] for n in names if n in seen] or _sources(model, seen, names)
        return choice(stats, reader, bits), None

    found = dict(zip(members, each(one, members), strict=True))
    contests = tuple(contest for _, contest in found.values() if contest is not None)
    return {root: each for root, (each, _) in found.items()}, contests


def _pixels(spec: InputSpec, quant: QuantSpec) -> Range:
    return Range(1.0 / spec.std[0], quant.qmin, 99.0)


def _unit(quant: QuantSpec) -> tuple[float, int]:
    return (quant.unit_step, quant.qmin) if quant.unit_step else fit(0.0, 1.0, quant)


def _is_unit(model: Model, tensor: str) -> bool:
    """Whether a tensor is 0 to 1 by what makes it: a sigmoid, or a clip to that."""
    node = model.producers.get(tensor)
    if node is None or node.op_type != "Clip":
        return node is not None and node.op_type == "Sigmoid"
    return [model.constants.get(n) for n in node.input[1:]] == [0, 1]


def _sources(model: Model, seen: Mapping[str, Stats], names: Sequence[str]) -> list[Stats]:
    """What is known of tensors that only move values: the tensors that they come from."""
    found: dict[str, Stats] = {}
    stack, done = list(names), set()
    while stack:
        name = stack.pop()
        if name in done:
            continue
        done.add(name)
        if name in seen:
            found[name] = seen[name]
        elif name in model.producers:
            stack.extend(n for n in model.producers[name].input if n not in model.constants)
    return list(found.values())


def _layer_plan(
    layer: Layer,
    model: Model,
    seen: Mapping[str, Stats],
    quant: QuantSpec,
    data: TensorPlan | None,
    reason: str,
    wide: bool,
) -> LayerPlan:
    weight = np.asarray(model.constants[model.producers[layer.raw].input[1]], np.float32)
    largest = None
    if data is not None:
        high = by_channel(model, seen, layer.data, lambda s: s.high)
        known = high is not None and data.bits == quant.bits
        largest = _largest_codes(high, data, quant) if known and high is not None else None
    scales = rounding.scales(weight, quant, largest)
    if data is not None and data.bits == quant.bits:
        scales = rounding.with_room(scales, _bias(layer, model), data.scale, quant)
    codes = rounding.codes(weight, scales, quant)
    rounded = codes * scales.reshape((-1,) + (1,) * (weight.ndim - 1))
    means = by_channel(model, seen, layer.data, lambda s: s.mean)
    shift: tuple[float, ...] = ()
    if means is not None and weight.ndim == 4:
        shift = tuple(float(v) for v in bias_shift(weight, rounded, means))
    return LayerPlan(
        node=layer.node,
        precision="int16" if wide else "int8",
        reason=reason or ("" if shift else "bias not corrected: its input's means are not known"),
        scales=tuple(float(v) for v in scales),
        bias_shift=shift,
    )


def _bias(layer: Layer, model: Model) -> Array:
    """The float bias of a layer, `(out,)` or one zero."""
    names = model.producers[layer.raw].input[2:]
    return np.asarray(model.constants[names[0]] if names and names[0] else [0.0], np.float32)


def _largest_codes(
    high: npt.NDArray[np.floating], data: TensorPlan, quant: QuantSpec
) -> npt.NDArray[np.float32]:
    """Return the largest code that each channel will reach, with room for what was not seen."""
    reach = np.maximum(high, 0) * HEADROOM / data.scale + data.zero - quant.qmin
    return np.clip(reach, 0, quant.qmax - quant.qmin).astype(np.float32)
