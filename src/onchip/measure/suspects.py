"""What may be wrong in a plan, each with the plan that would be right.

What a tensor must lose follows from its bits, what weights must lose from theirs. What is lost
beyond that is a suspicion, never a verdict: a plan may clip or round on purpose, since that is
better for the detections. Only the experiment tells (faults.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from onchip.graph.read import Model, groups_of
from onchip.measure.layers import LayerError, watching
from onchip.quantize import weights as rounding
from onchip.quantize.activations import function
from onchip.quantize.correct import bias_shift
from onchip.quantize.plan import LayerPlan, QuantPlan, TensorPlan
from onchip.quantize.ranges import fit, rounded
from onchip.quantize.regions import Regions, divide
from onchip.spec import HeadSpec

AVOIDABLE = 6.0  # dB beyond what the bits cost, from which something is suspected
CERTAIN = 1000.0  # dB of suspicion for what contradicts itself
OTHER = 2.0  # times the error of a range that fits, up to which another fits as well
LIKE = 2.0  # times a fitting scale, up to which another fits
RANGES = ("saturated", "score_ceiling", "coarse", "zero_point")
CLIPPED = ("saturated", "score_ceiling", "box_codes")  # what a plan may do on purpose
FLAT = 1.5  # times the median scale: weights whose channels differ less have one scale anyway
FITTED = 27.0  # dB that fitted weights would keep: they move on purpose; measured 21.6 and more
ASTRAY = 18.0  # dB that a scale off by eight loses: weights are known, and no fit goes so far
STRAY = 1.5  # steps that a weight's code may be off: rounding up or down, and a little more

Tensors = Sequence[npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Suspect:
    """A part of a plan that may be wrong: where, what, and the plan without that.

    `suspicion` is how many dB are lost beyond need. Without `repaired` there is no better plan of
    the same bits: only more bits would help.
    """

    node: str
    tensor: str
    code: str
    message: str
    suspicion: float
    repaired: QuantPlan | None


@dataclass(frozen=True)
class Case:
    """What suspects are drawn from."""

    model: Model
    head: HeadSpec
    plan: QuantPlan
    errors: Sequence[LayerError]
    inputs: Tensors

    @property
    def regions(self) -> Regions:
        """How the network divides as planned."""
        return divide(self.model, self.head, self.plan.quant, self.plan.floats)

    def tensor(self, name: str) -> TensorPlan:
        """The plan of one tensor."""
        return next(t for t in self.plan.tensors if t.name == name)


def suspects(case: Case) -> list[Suspect]:
    """Return all that may be wrong, the most suspicious first."""
    found = [
        *_contradictions(case),
        *_ranges(case),
        *_roles(case),
        *_weights(case),
        *_biases(case),
    ]
    return sorted(found, key=lambda s: -s.suspicion)


# ---- ranges ----


def _ranges(case: Case) -> Iterator[Suspect]:
    """Groups of tensors whose one range fits badly; the widest tensor speaks for its group."""
    for group in _groups(case).values():
        widest, first = group.widest, group.first
        gap = widest.possible_db - widest.range_db
        if gap > AVOIDABLE:
            code, message = _range_fault(case, widest, group.ends)
            if first is not widest:
                message += f" (of {widest.node}, which shares its scale)"
            repaired = _with_ends(case.plan, {first.tensor: group.ends})
            yield Suspect(first.node, first.tensor, code, message, gap, repaired)


@dataclass(frozen=True)
class _Group:
    """Tensors that share a scale: the first in the graph, the widest, a range that fits all."""

    first: LayerError
    widest: LayerError
    ends: tuple[float, float]


def _groups(case: Case) -> dict[str, _Group]:
    """The groups of tensors that share a scale, by the tensor that the group is named after."""
    members: dict[str, list[LayerError]] = {}
    for error in case.errors:
        members.setdefault(case.tensor(error.tensor).group, []).append(error)
    return {
        group: _Group(
            found[0],
            max(found, key=lambda e: max(-e.low, e.high)),
            (min(e.best[0] for e in found), max(e.best[1] for e in found)),
        )
        for group, found in members.items()
    }


def _with_ends(plan: QuantPlan, ends: Mapping[str, tuple[float, float]]) -> QuantPlan:
    """Return a plan whose named tensors, and what shares their scale, have these ranges."""
    groups = {t.group: ends[t.name] for t in plan.tensors if t.name in ends}

    def fitted(t: TensorPlan) -> TensorPlan:
        scale, zero = fit(*groups[t.group], plan.quant.with_bits(t.bits))
        return replace(t, scale=scale, zero=zero)

    tensors = tuple(fitted(t) if t.group in groups else t for t in plan.tensors)
    return replace(plan, tensors=tensors)


def together(plan: QuantPlan, found: Sequence[Suspect]) -> QuantPlan:
    """Return the plan with the tensors of several suspects repaired at once."""
    repaired: dict[str, TensorPlan] = {}
    for other in (s.repaired for s in found if s.repaired is not None):
        pairs = zip(plan.tensors, other.tensors, strict=True)
        repaired |= {new.name: new for old, new in pairs if new != old}
    return replace(plan, tensors=tuple(repaired.get(t.name, t) for t in plan.tensors))


def _range_fault(case: Case, error: LayerError, ends: tuple[float, float]) -> tuple[str, str]:
    """Return a code and a line for a range that does not fit: its scale, or only its zero."""
    plan = case.tensor(error.tensor)
    quant = case.plan.quant.with_bits(plan.bits)
    scale, zero = fit(*ends, quant)
    codes = f"codes from {error.code_low:.4g} to {error.code_high:.4g}"
    values = f"values from {error.low:.4g} to {error.high:.4g}"
    moved = min(max(round(quant.qmin - ends[0] / plan.scale), quant.qmin), quant.qmax)
    loss = _Loss(case, error)
    if loss(plan.scale, moved) < OTHER * loss(scale, zero):
        return "zero_point", (
            f"the zero point is off: {codes}, {values}; with the same step of {plan.scale:.3g} "
            "and another zero it fits"
        )
    if plan.scale > scale:
        return "coarse", f"the scale is too coarse: {codes}, {values}"
    text = f"the range is too short: {codes}, {values}; {error.saturated:.1%} are cut off"
    return ("score_ceiling" if error.tensor in _scores(case.head) else "saturated"), text


class _Loss:
    """What other codes would lose of a tensor, by the histogram of its values."""

    def __init__(self, case: Case, error: LayerError) -> None:
        self._seen = error.seen
        self._read = function(case.regions.reads.get(error.tensor, ""))
        self._quant = case.plan.quant.with_bits(case.tensor(error.tensor).bits)

    def __call__(self, scale: float, zero: int) -> float:
        values = self._seen.centers.astype(np.float32)
        error = self._read(rounded(values, scale, zero, self._quant)) - self._read(values)
        return float(self._seen.weights @ np.square(error))


def _scores(head: HeadSpec) -> set[str]:
    return {t.name for t in head.tensors if t.role in ("class", "object")}


def swaps(case: Case, found: Sequence[Suspect]) -> Iterator[Suspect]:
    """Pairs of suspected ranges that fit badly, and that would each fit the other tensor."""
    fitting = {g.first.tensor: fit(*g.ends, case.plan.quant)[0] for g in _groups(case).values()}
    ranged = [s for s in found if s.node and s.code in RANGES and s.tensor in fitting]
    for a, b in combinations(ranged, 2):
        first, second = case.tensor(a.tensor), case.tensor(b.tensor)
        as_is = [_ratio(case.tensor(s.tensor).scale, fitting[s.tensor]) for s in (a, b)]
        turned = [_ratio(first.scale, fitting[b.tensor]), _ratio(second.scale, fitting[a.tensor])]
        if max(turned) < LIKE and min(as_is) > LIKE:
            other = {
                first.group: {"scale": second.scale, "zero": second.zero},
                second.group: {"scale": first.scale, "zero": first.zero},
            }
            tensors = tuple(replace(t, **other.get(t.group, {})) for t in case.plan.tensors)
            message = f"its scale and that of {b.node} are exchanged: each fits the other"
            repaired = replace(case.plan, tensors=tensors)
            suspicion = a.suspicion + b.suspicion
            yield Suspect(a.node, a.tensor, "swapped", message, suspicion, repaired)


def _ratio(a: float, b: float) -> float:
    return max(a / b, b / a)


# ---- the head ----


def _roles(case: Case) -> Iterator[Suspect]:
    """Head tensors of one role whose ranges fit badly, and boxes that share one with scores."""
    parts = case.head.tensors
    scores = _scores(case.head)
    boxes = {t.name for t in parts if t.role in ("box", "all")} - scores
    errors = {e.tensor: e for e in case.errors if e.tensor in scores | boxes}
    shared = {
        n
        for a in boxes & errors.keys()
        for b in scores & errors.keys()
        if _one_range(case.tensor(a), case.tensor(b))
        for n in (a, b)
    }
    for names, code in ((shared, "shared_scale"), (scores, "score_ceiling"), (boxes, "box_codes")):
        bad = [errors[n] for n in names if n in errors]
        gap = max((e.possible_db - e.range_db for e in bad), default=0.0)
        if gap > AVOIDABLE and len(bad) > 1:
            repaired = _apart(case.plan, {e.tensor: e.best for e in bad})
            suspicion = CERTAIN if code == "shared_scale" else gap  # no plan does that on purpose
            yield Suspect("", "", code, _role_text(code, bad, case), suspicion, repaired)


def _one_range(a: TensorPlan, b: TensorPlan) -> bool:
    return a.group == b.group or (a.scale, a.zero) == (b.scale, b.zero)


def _apart(plan: QuantPlan, ends: Mapping[str, tuple[float, float]]) -> QuantPlan:
    """Return a plan in which each of these tensors has a range of its own."""

    def fitted(t: TensorPlan) -> TensorPlan:
        scale, zero = fit(*ends[t.name], plan.quant.with_bits(t.bits))
        return replace(t, scale=scale, zero=zero, group=t.name)

    return replace(plan, tensors=tuple(fitted(t) if t.name in ends else t for t in plan.tensors))


def _role_text(code: str, bad: Sequence[LayerError], case: Case) -> str:
    step = max(case.tensor(e.tensor).scale for e in bad)
    high, top = max(e.code_high for e in bad), max(e.high for e in bad)
    if code == "shared_scale":
        return (
            f"one scale over boxes and scores: the step of {step:.3g} that the boxes need rounds "
            "scores away; give each a tensor of its own (leave --end-nodes to onchip)"
        )
    if code == "box_codes":
        return (
            f"box collapse: the codes of the box tensors have steps of {step:.3g} and end at "
            f"{high:.3g}, their values at {top:.3g}"
        )
    if high >= top:
        return f"the codes of the score tensors are too coarse: steps of {step:.3g}"
    return (
        f"score ceiling: the codes of the score tensors end at {high:.2f}, the scores at {top:.2f}"
    )


# ---- weights and biases ----


def _weights(case: Case) -> Iterator[Suspect]:
    """Layers whose weights lose more than rounding on their own scales costs."""
    fitted = {x.node for x in case.plan.layers if x.codes}
    for node, error in _first(case).items():
        possible = min(error.weights.possible_db, FITTED if node in fitted else np.inf)
        gap = possible - error.weights.db
        if gap > AVOIDABLE:
            code, message = _weight_fault(case, error)
            scales = rounding.scales(_weight(case.model, node), case.plan.quant)
            plain = {"scales": tuple(float(v) for v in scales), "codes": b""}
            repaired = _with_layer(case.plan, node, plain)
            suspicion = CERTAIN if gap > ASTRAY else gap
            yield Suspect(node, error.tensor, code, message, suspicion, repaired)


def _first(case: Case) -> dict[str, LayerError]:
    """The first rounded tensor of each layer, in the graph's order."""
    found: dict[str, LayerError] = {}
    for error in case.errors:
        found.setdefault(error.node, error)
    return found


def _weight(model: Model, node: str) -> npt.NDArray[np.float32]:
    maker = next(n for n in model.proto.graph.node if n.name == node)
    return np.asarray(model.constants[maker.input[1]], np.float32)


def _layer(case: Case, node: str) -> LayerPlan:
    return next(x for x in case.plan.layers if x.node == node)


def _with_layer(plan: QuantPlan, node: str, fields: Mapping[str, object]) -> QuantPlan:
    layers = tuple(replace(x, **fields) if x.node == node else x for x in plan.layers)
    return replace(plan, layers=layers)


def _weight_fault(case: Case, error: LayerError) -> tuple[str, str]:
    """Return a code and a line: codes astray, one scale for all channels, or a wrong scale."""
    layer, values = _layer(case, error.node), _weight(case.model, error.node)
    scales = np.asarray(layer.scales, np.float32).reshape((-1,) + (1,) * (values.ndim - 1))
    quant = case.plan.quant
    codes = np.clip(values / scales, quant.weight_min, quant.weight_max)
    off = np.abs(layer.coded(values, quant) - codes)
    worst = f"the worst channel keeps {error.weights.db:.1f} dB where "
    worst += f"{error.weights.possible_db:.1f} are possible"
    if layer.codes and off.max() > STRAY:
        count = int(np.count_nonzero(off > STRAY))
        return "weight_codes", f"{count} weights have codes of other values: {worst}"
    fitting = rounding.scales(values, quant)
    if quant.per_channel and np.ptp(scales) == 0 and fitting.max() > FLAT * np.median(fitting):
        return "per_tensor", f"one weight scale for all channels: {worst}"
    lost = f"; {len(error.weights.zero)} channels have no weight left" * bool(error.weights.zero)
    return "weights", f"the weights' scale does not fit: {worst}{lost}"


def _biases(case: Case) -> Iterator[Suspect]:
    """Layers whose channels' means are off by more than rounding makes noise."""
    first = _first(case)  # what follows in a layer clips on purpose
    integer = {x.node for x in case.plan.layers if x.scales}
    gaps = {n: e.possible_db - e.bias_db for n, e in first.items() if n in integer}
    moved = {n: (first[n], gap) for n, gap in gaps.items() if gap > AVOIDABLE}
    found = _layers_of(case, set(moved))
    means = _means(case, {data for data, _ in found.values()})
    for node, (error, gap) in moved.items():
        data, groups = found[node]
        weight, layer = _weight(case.model, node), _layer(case, node)
        if weight.ndim != 4 or len(means[data]) != weight.shape[1] * groups:
            continue
        shift = bias_shift(weight, layer.rounded(weight, case.plan.quant), means[data])
        message = (
            f"the bias is off: a channel's mean moves by {error.shift:.1f} steps, which is not "
            "what rounding its weights does"
        )
        fields = {"bias_shift": tuple(float(v) for v in shift)}
        repaired = _with_layer(case.plan, node, fields)
        yield Suspect(node, error.tensor, "bias", message, gap, repaired)


def _layers_of(case: Case, wanted: set[str]) -> dict[str, tuple[str, int]]:
    """The tensor that each layer reads, and its groups."""
    nodes = {n.name: n for n in case.model.proto.graph.node if n.name in wanted}
    return {k: (n.input[0], groups_of(n)) for k, n in nodes.items()}


def _means(case: Case, tensors: set[str]) -> dict[str, npt.NDArray[np.float64]]:
    """The mean of each channel of some tensors of the float network."""
    inside = [t for t in tensors if t in case.model.producers]
    entry = case.model.inputs[0].name
    run = watching(case.model.proto, inside).run if inside else lambda tensor: ()
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for tensor in case.inputs:
        found = {**dict(zip(inside, run(tensor), strict=True)), entry: tensor}
        for name in tensors:
            axes = (0, *range(2, found[name].ndim))
            sums[name] = sums.get(name, 0.0) + found[name].mean(axis=axes, dtype=np.float64)
    return {name: value / len(case.inputs) for name, value in sums.items()}


# ---- what contradicts itself ----


def _contradictions(case: Case) -> Iterator[Suspect]:
    """What the plan says in one place and does otherwise in another."""
    yield from _inner_rounding(case)
    yield from _lost_bits(case)


def _inner_rounding(case: Case) -> Iterator[Suspect]:
    """Tensors that are rounded inside a layer that the chip computes in one piece."""
    fused = set(case.regions.fused)
    inside = [t.name for t in case.plan.tensors if t.rounded and t.name in fused]
    if not inside:
        return
    tensors = tuple(replace(t, rounded=t.name not in fused) for t in case.plan.tensors)
    node = case.model.producers[inside[0]].name
    message = (
        f"{len(inside)} tensors are rounded between a layer and its activation ({node} and on), "
        "which this chip computes in one piece"
    )
    repaired = replace(case.plan, tensors=tensors)
    yield Suspect(
        node if len(inside) == 1 else "", inside[0], "inner_rounding", message, CERTAIN, repaired
    )


def _lost_bits(case: Case) -> Iterator[Suspect]:
    """Layers that are to have 16 bits, and whose output has fewer."""
    wide = {x.node for x in case.plan.layers if x.precision == "int16"}
    made = {t: x.node for x in case.regions.layers if x.node in wide for t in (x.raw, x.output)}
    errors = {e.tensor: e for e in case.errors}
    lost = [t for t in case.plan.tensors if t.name in made and t.bits < 16 and t.name in errors]
    for node in dict.fromkeys(made[t.name] for t in lost):
        mine = {t.name for t in lost if made[t.name] == node}
        tensors = tuple(replace(t, bits=16) if t.name in mine else t for t in case.plan.tensors)
        ends = {n: (errors[n].low, errors[n].high) for n in mine}
        repaired = _apart(replace(case.plan, tensors=tensors), ends)
        message = "the plan gives it 16 bits, and its output has 8"
        yield Suspect(node, sorted(mine)[0], "lost_bits", message, CERTAIN, repaired)
