"""Where a plan goes wrong, tensor by tensor: what each loses by itself, and what has added up.

Three graphs run on the same images: the float network, the plan, and the plan with every tensor's
codes made of the float network's values, so that each layer shows its own error alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from onchip.graph.read import Model
from onchip.graph.run import Array, Runner
from onchip.quantize import weights as rounding
from onchip.quantize.activations import function
from onchip.quantize.emit import emit
from onchip.quantize.plan import LayerPlan, QuantPlan, TensorPlan
from onchip.quantize.ranges import fit, rounded
from onchip.quantize.regions import MOVED, Regions, divide
from onchip.quantize.stats import Stats
from onchip.spec import HeadSpec

Tensors = Sequence[npt.NDArray[np.generic]]
FLOAT = "onchip_float/"  # before the names of the float network's tensors
NO_NOISE = 200.0  # dB
FELT = 0.01  # of a tensor's largest value, from which cutting one off counts
ALIVE = 0.05  # of a tensor's widest channel, from which a channel says something
KEEP = (1.0, 0.9, 0.75, 0.5, 0.35, 0.2, 0.1)  # of the whole range, in the search for a better one
LOOKED_AT = 1 << 16  # values of a tensor per image; of more every second or third row and column
FAINT = 1e-8  # of the power of a layer's largest channel: weights below say nothing
COUNTED = 1 << 14  # values per image that go into a histogram and the search for a range


@dataclass(frozen=True)
class Error:
    """How far a tensor is from the float network's: cosine, Euclidean distance, SQNR in dB."""

    cosine: float
    distance: float
    sqnr_db: float


@dataclass(frozen=True)
class Weights:
    """A layer's weights as planned, by the channel that lost most.

    `db` is its SQNR, `possible_db` what plain rounding on a scale of its own gives. `outlier` is
    the largest weight over the 99th percentile of its channel, `channel` where that is worst.
    `zero` are the channels without any weight but zero, in float or in codes.
    """

    db: float = NO_NOISE
    possible_db: float = NO_NOISE
    outlier: float = 1.0
    channel: int = 0
    zero: tuple[int, ...] = ()


@dataclass(frozen=True)
class LayerError:
    """One tensor that the chip rounds, and the layer that makes it.

    Errors are of what its reader makes of it: a SiLU does not care what lies far below zero.
    `own` is the error of this layer alone on the float network's values, `total` what has added up
    to here. `possible_db` is the own SQNR that the best range of its bits would give, `best` that
    range; `range_db` is the SQNR of the float values in the planned codes, `bias_db` that of the
    values with no error but the means of the channels that it moves, and that stay moved.
    `saturated` is the share of values beyond the codes, `ends` the shares on the lowest and on the
    highest code, `dead` the channels that vary in float and no longer in codes, `constant` those
    that do not vary in float, `shift` the mean error of the worst channel in steps. `seen` is a
    histogram of the float values.
    """

    node: str
    op: str
    tensor: str
    precision: str
    own: Error
    total: Error
    possible_db: float
    range_db: float
    bias_db: float
    best: tuple[float, float]
    low: float
    high: float
    code_low: float
    code_high: float
    saturated: float
    ends: tuple[float, float]
    dead: tuple[int, ...]
    constant: tuple[int, ...]
    channels: int
    shift: float
    weights: Weights = Weights()
    seen: Stats = field(default_factory=Stats, compare=False, repr=False)


def layer_errors(
    model: Model,
    head: HeadSpec,
    plan: QuantPlan,
    inputs: Tensors,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[LayerError, ...]:
    """Return the error of every rounded tensor, in the order of the graph.

    Args:
        model: the cut float graph.
        head: its end.
        plan: the decision to look into.
        inputs: prepared float inputs; a handful is enough.
        progress: called with the number of inputs done.
    """
    regions = divide(model, head, plan.quant, plan.floats)
    planned = {t.name: t for t in plan.tensors if t.rounded and _is_new(t.name, model)}
    reads = {n: function(regions.reads.get(n, "")) for n in planned}
    sums = {
        name: _Sum(tensor, plan, reads[name], whole=name in head.outputs)
        for name, tensor in planned.items()
    }
    run = _Run(model, regions, plan, list(planned))
    for done, tensor in enumerate(inputs, 1):
        for name, golden, own, total in run(tensor):
            sums[name].add(golden, own, total)
        progress(done)
    makers = {m: x.node for x in regions.layers for m in x.members}
    layers = {x.node: x for x in plan.layers}
    return tuple(_error(n, s, model, makers, layers, plan) for n, s in sums.items())


def _is_new(tensor: str, model: Model) -> bool:
    node = model.producers.get(tensor)
    return node is not None and (node.op_type not in MOVED or node.op_type == "Concat")


class _Run:
    """Runs the three graphs."""

    def __init__(
        self, model: Model, regions: Regions, plan: QuantPlan, names: Sequence[str]
    ) -> None:
        quantized = emit(model, regions, plan)
        self._names = names
        self._total = watching(quantized, names)
        alone = _alone(model.proto, quantized)
        self._own = watching(alone, [f"{FLOAT}{n}" for n in names] + [f"{n}/float" for n in names])

    def __call__(self, tensor: npt.NDArray[np.generic]) -> "list[tuple[str, Array, Array, Array]]":
        """Return (name, float value, own value before rounding, value in the plan)."""
        both, total = self._own.run(tensor), self._total.run(tensor)
        count = len(self._names)
        return list(zip(self._names, both[:count], both[count:], total, strict=True))


def watching(proto: onnx.ModelProto, names: Sequence[str]) -> Runner:
    """Return a graph ready to run, as it is written, with these tensors as its outputs."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    del made.graph.output[:]
    made.graph.output.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names
    )
    return Runner(made.SerializeToString(), optimize=False)


def _alone(model: onnx.ModelProto, quantized: onnx.ModelProto) -> onnx.ModelProto:
    """Return the quantized graph with every rounded tensor made of the float graph's value."""
    made = onnx.ModelProto()
    made.CopyFrom(quantized)
    inputs = {v.name for v in model.graph.input}
    fixed = {t.name for t in model.graph.initializer}
    kept = inputs | fixed
    floats = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{FLOAT}{node.name}"
        for index, name in enumerate(copy.input):
            copy.input[index] = name if name in kept or not name else f"{FLOAT}{name}"
        for index, name in enumerate(copy.output):
            copy.output[index] = f"{FLOAT}{name}"
        floats.append(copy)
    known = {o for n in floats for o in n.output}
    for node in made.graph.node:
        source = f"{FLOAT}{node.input[0].removesuffix('/float')}" if node.input else ""
        if node.op_type == "QuantizeLinear" and source in known:
            node.input[0] = source
    have = {t.name for t in made.graph.initializer}
    made.graph.initializer.extend(t for t in model.graph.initializer if t.name not in have)
    nodes = [*floats, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


@dataclass
class _Sum:
    """Folds what is compared of one tensor, image by image."""

    tensor: TensorPlan
    plan: QuantPlan
    read: Callable[[Array], npt.NDArray[np.floating]]  # what makes something of it
    whole: bool = False  # nothing is left out: what a head says is in few places
    share: float = 1.0  # of its values that are looked at
    images: int = 0
    power: float = 0.0
    own: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    total: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    ranged: float = 0.0
    beyond: float = 0.0
    ends: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    count: int = 0
    low: float = np.inf
    high: float = -np.inf
    samples: list[Array] = field(default_factory=list)
    channels: "_Channels | None" = None
    seen: Stats = field(default_factory=Stats)

    def add(self, golden: Array, own: Array, total: Array) -> None:
        """Take in one image."""
        self.low = min(self.low, float(golden.min()))
        self.high = max(self.high, float(golden.max()))
        golden, own, total = (self._sampled(v) for v in (golden, own, total))
        quant = self.plan.quant.with_bits(self.tensor.bits)
        coded = self.tensor.coded(own, quant)
        wanted, got = self.read(golden), self.read(coded)
        ranged = self.read(self.tensor.coded(golden, quant)) - wanted
        self.images += 1
        self.power += float(np.vdot(wanted, wanted))
        self.own += _products(wanted, got)
        self.total += _products(wanted, self.read(total))
        self.ranged += float(np.vdot(ranged, ranged))
        low, high = self.tensor.limits(quant)
        step = self.tensor.scale
        cut = (golden < low - step) | (golden > high + step)
        felt = np.abs(got - wanted) > FELT * float(np.abs(wanted).max())
        self.beyond += float(np.count_nonzero(cut & felt))
        at_ends = np.count_nonzero(coded <= low), np.count_nonzero(coded >= high)
        self.ends += np.asarray(at_ends, np.float64)
        self.count += golden.size
        if self.channels is None:
            self.channels = _Channels(golden.shape[1] if golden.ndim > 1 else 1)
        self.channels.add(golden, wanted, self.read(own), got, self.read(total))
        step_by = 1 if self.whole else max(1, golden.size // COUNTED)
        self.samples.append(golden.reshape(-1)[::step_by].copy())
        self.seen.add(self.samples[-1][None], np.ones(len(self.samples[-1])))

    def _sampled(self, values: Array) -> Array:
        if values.ndim != 4 or self.whole:
            return values
        step = max(1, round((values.size / LOOKED_AT) ** 0.5))
        self.share = 1 / step**2
        return values[:, :, ::step, ::step]

    def error(self, products: npt.NDArray[np.float64]) -> Error:
        """Sum up one comparison."""
        dot, norm, noise = products
        cosine = dot / max(np.sqrt(self.power * norm), 1e-30)
        return Error(
            cosine=float(min(cosine, 1.0)),
            distance=float(np.sqrt(noise / self.share / max(self.images, 1))),
            sqnr_db=_db(self.power, noise),
        )

    def best(self) -> tuple[tuple[float, float], float]:
        """The range that loses least, and the SQNR that it gives."""
        quant = self.plan.quant.with_bits(self.tensor.bits)
        values = np.concatenate(self.samples)
        wanted = self.read(values)
        trials = []
        for keep in KEEP:
            ends = (self.low * keep, self.high * keep)
            error = self.read(rounded(values, *fit(*ends, quant), quant)) - wanted
            trials.append((float(np.vdot(error, error)), ends))
        noise, best = min(trials)
        return best, _db(float(np.vdot(wanted, wanted)), noise)


class _Channels:
    """What is told of each channel of one tensor: means, and how far its values spread."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.places = 0  # per channel
        self.moved = np.zeros(count)  # sum of errors, in codes
        self.drawn = np.zeros(count)  # and before rounding
        self.stayed = np.zeros(count)  # of the quantized graph, rounded
        self.spread = np.zeros(count)  # of what is read
        self.code_spread = np.zeros(count)
        self._low = np.full(count, np.inf)
        self._high = np.full(count, -np.inf)

    def add(
        self,
        golden: npt.NDArray[np.floating],
        wanted: npt.NDArray[np.floating],
        own: npt.NDArray[np.floating],
        got: npt.NDArray[np.floating],
        total: npt.NDArray[np.floating],
    ) -> None:
        """Take in one image: the float values, what is read of them, and of ours."""
        taken = (golden, wanted, own, got, total)
        g, a, o, b, t = (np.reshape(v[0], (self.count, -1)) for v in taken)
        self.places += a.shape[1]
        self.moved += (b - a).sum(axis=1)
        self.drawn += (o - a).sum(axis=1)
        self.stayed += (t - a).sum(axis=1)
        self.spread = np.maximum(self.spread, np.ptp(a, axis=1))
        self.code_spread = np.maximum(self.code_spread, np.ptp(b, axis=1))
        self._low = np.minimum(self._low, g.min(axis=1))
        self._high = np.maximum(self._high, g.max(axis=1))

    @property
    def dead(self) -> tuple[int, ...]:
        """Channels that vary in float and never leave one code."""
        found = (self.spread > ALIVE * self.spread.max()) & (self.code_spread == 0)
        return tuple(int(c) for c in np.flatnonzero(found))

    @property
    def constant(self) -> tuple[int, ...]:
        """Channels that do not vary in float either."""
        width = self._high - self._low
        return tuple(int(c) for c in np.flatnonzero(width <= 1e-6 * max(width.max(), 1e-30)))

    @property
    def shift(self) -> float:
        """The largest mean error of a channel."""
        return float(np.abs(self.moved).max() / max(self.places, 1))

    @property
    def drawn_power(self) -> float:
        """The power of the means' errors before rounding, as far as they are there in the end.

        A fitted bias is off by itself where it makes up for what was lost before it.
        """
        least = np.minimum(np.abs(self.drawn), np.abs(self.stayed))
        left = np.where(self.drawn * self.stayed > 0, least, 0.0)
        return float(np.square(left).sum() / max(self.places, 1))


def _products(
    golden: npt.NDArray[np.floating], found: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """The products of two tensors that cosine, distance and SQNR are made of."""
    error = found - golden
    return np.asarray([np.vdot(golden, found), np.vdot(found, found), np.vdot(error, error)])


def _db(power: float, noise: float) -> float:
    return min(10 * float(np.log10(max(power, 1e-20) / max(noise, 1e-20))), NO_NOISE)


def _error(
    name: str,
    seen: _Sum,
    model: Model,
    makers: Mapping[str, str],
    layers: Mapping[str, LayerPlan],
    plan: QuantPlan,
) -> LayerError:
    producer = model.producers[name]
    node = makers.get(producer.name, producer.name)
    layer, channels = layers.get(node), seen.channels
    assert channels is not None
    low, high = seen.tensor.limits(plan.quant)
    best, possible = seen.best()
    return LayerError(
        node=node,
        op=next((n.op_type for n in model.proto.graph.node if n.name == node), producer.op_type),
        tensor=name,
        precision="int8" if layer is None else layer.precision,
        own=seen.error(seen.own),
        total=seen.error(seen.total),
        possible_db=possible,
        range_db=_db(seen.power, seen.ranged),
        bias_db=_db(seen.power, channels.drawn_power),
        best=best,
        low=seen.low,
        high=seen.high,
        code_low=low,
        code_high=high,
        saturated=seen.beyond / max(seen.count, 1),
        ends=(float(seen.ends[0]) / seen.count, float(seen.ends[1]) / seen.count),
        dead=channels.dead,
        constant=channels.constant,
        channels=channels.count,
        shift=channels.shift / seen.tensor.scale,
        weights=_weights(node, model, layer, plan),
        seen=seen.seen,
    )


def _weights(node: str, model: Model, layer: LayerPlan | None, plan: QuantPlan) -> Weights:
    if layer is None or not layer.scales:
        return Weights()
    maker = next(n for n in model.proto.graph.node if n.name == node)
    values = np.asarray(model.constants[maker.input[1]], np.float32)
    rows = np.abs(rounding.rows(values))
    usual = np.percentile(rows, 99, axis=1)
    outliers = np.divide(rows.max(axis=1), usual, out=np.ones(len(rows)), where=usual > 1e-20)
    planned = layer.rounded(values, plan.quant)
    plain = rounding.scales(values, plan.quant).reshape((-1,) + (1,) * (values.ndim - 1))
    nearest = rounding.codes(values, plain, plan.quant) * plain
    lost = ~planned.reshape(len(values), -1).any(axis=1)
    kept, possible = _kept(values, planned, np.asarray(nearest, np.float32))
    return Weights(
        db=kept,
        possible_db=possible,
        outlier=float(outliers.max()),
        channel=int(outliers.argmax()),
        zero=tuple(int(c) for c in np.flatnonzero(lost)),
    )


def _kept(values: Array, planned: Array, nearest: Array) -> tuple[float, float]:
    """SQNR of the channel that lost most as planned, and what plain rounding keeps of it.

    A channel that is lost is lost, however good the others are.
    """
    flat, *found = (
        v.reshape(len(values), -1).astype(np.float64) for v in (values, planned, nearest)
    )
    power = np.square(flat).sum(axis=1)
    told = np.flatnonzero(power > FAINT * power.max(initial=0.0))  # one without has nothing to lose
    if not len(told):
        return NO_NOISE, NO_NOISE
    kept = [
        [_db(float(power[c]), float(np.square(made[c] - flat[c]).sum())) for c in told]
        for made in found
    ]
    _, own, best = max((b - a, -a, b) for a, b in zip(*kept, strict=True))
    return -own, best
