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
from onchip.spec import HeadSpec

Tensors = Sequence[npt.NDArray[np.generic]]
FLOAT = "onchip_float/"  # before the names of the float network's tensors
NO_NOISE = 200.0  # dB
FELT = 0.01  # of a tensor's largest value, from which cutting one off counts
ALIVE = 0.05  # of a tensor's widest channel, from which a channel says something
KEEP = (1.0, 0.9, 0.75, 0.5, 0.35, 0.2, 0.1)  # of the whole range, in the search for a better one


@dataclass(frozen=True)
class Error:
    """How far a tensor is from the float network's: cosine, Euclidean distance, SQNR in dB."""

    cosine: float
    distance: float
    sqnr_db: float


@dataclass(frozen=True)
class LayerError:
    """One tensor that the chip rounds, and the layer that makes it.

    Errors are of what its reader makes of it: a SiLU does not care what lies far below zero.
    `own` is the error of this layer alone on the float network's values, `total` what has added up
    to here. `possible_db` is the own SQNR that the best range of its bits would give. `saturated`
    is the share of values beyond the codes, `dead` the channels that vary in float and no longer in
    codes, `shift` the mean error of the worst channel in steps. `weight_db` is the SQNR of the
    layer's weights, `weight_possible_db` what plain rounding gives; `outlier` is the largest weight
    over the 99th percentile, in the worst channel.
    """

    node: str
    op: str
    tensor: str
    precision: str
    own: Error
    total: Error
    possible_db: float
    low: float
    high: float
    code_low: float
    code_high: float
    saturated: float
    dead: tuple[int, ...]
    shift: float
    weight_db: float = NO_NOISE
    weight_possible_db: float = NO_NOISE
    outlier: float = 1.0

    @property
    def avoidable_db(self) -> float:
        """How much of the own SQNR a better range or better weights would give back."""
        return max(self.possible_db - self.own.sqnr_db, self.weight_possible_db - self.weight_db, 0)


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
    sums = {name: _Sum(tensor, plan, reads[name]) for name, tensor in planned.items()}
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
        self._total = _with_outputs(quantized, names)
        alone = _alone(model.proto, quantized)
        self._own = _with_outputs(
            alone, [f"{FLOAT}{n}" for n in names] + [f"{n}/float" for n in names]
        )

    def __call__(self, tensor: npt.NDArray[np.generic]) -> "list[tuple[str, Array, Array, Array]]":
        """Return (name, float value, own value before rounding, value in the plan)."""
        both, total = self._own.run(tensor), self._total.run(tensor)
        count = len(self._names)
        return list(zip(self._names, both[:count], both[count:], total, strict=True))


def _with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> Runner:
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
    images: int = 0
    power: float = 0.0
    own: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    total: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    beyond: float = 0.0
    count: int = 0
    low: float = np.inf
    high: float = -np.inf
    best: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(KEEP)))
    shift: npt.NDArray[np.float64] | None = None
    spread: npt.NDArray[np.float64] | None = None
    code_spread: npt.NDArray[np.float64] | None = None

    def add(self, golden: Array, own: Array, total: Array) -> None:
        """Take in one image."""
        quant = self.plan.quant.with_bits(self.tensor.bits)
        coded = self.tensor.coded(own, quant)
        wanted, got = self.read(golden), self.read(coded)
        self.images += 1
        self.power += float(np.vdot(wanted, wanted))
        self.own += _products(wanted, got)
        self.total += _products(wanted, self.read(total))
        low, high = self.tensor.limits(quant)
        step = self.tensor.scale
        cut = (golden < low - step) | (golden > high + step)
        felt = np.abs(got - wanted) > FELT * float(np.abs(wanted).max())
        self.beyond += float(np.count_nonzero(cut & felt))
        self.count += golden.size
        self.low = min(self.low, float(golden.min()))
        self.high = max(self.high, float(golden.max()))
        for index, keep in enumerate(KEEP):
            scale, zero = fit(self.low * keep, self.high * keep, quant)
            error = self.read(rounded(golden, scale, zero, quant)) - wanted
            self.best[index] += float(np.vdot(error, error))
        self._channels(np.asarray(wanted), np.asarray(got))

    def _channels(
        self, golden: npt.NDArray[np.floating], rounded: npt.NDArray[np.floating]
    ) -> None:
        axis = golden.shape[1] if golden.ndim > 1 else 1
        a, b = (np.reshape(v, (axis, -1)) for v in (golden[0], rounded[0]))
        shift, spread, codes = (b - a).mean(axis=1), np.ptp(a, axis=1), np.ptp(b, axis=1)
        self.shift = shift if self.shift is None else self.shift + shift
        self.spread = spread if self.spread is None else np.maximum(self.spread, spread)
        self.code_spread = (
            codes if self.code_spread is None else np.maximum(self.code_spread, codes)
        )

    def error(self, products: npt.NDArray[np.float64]) -> Error:
        """Sum up one comparison."""
        dot, norm, noise = products
        cosine = dot / max(np.sqrt(self.power * norm), 1e-30)
        return Error(
            cosine=float(min(cosine, 1.0)),
            distance=float(np.sqrt(noise / max(self.images, 1))),
            sqnr_db=_db(self.power, noise),
        )


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
    layer = layers.get(node)
    assert seen.shift is not None and seen.spread is not None and seen.code_spread is not None
    dead = (seen.spread > ALIVE * seen.spread.max()) & (seen.code_spread == 0)
    low, high = seen.tensor.limits(plan.quant)
    weight_db, possible, outlier = _weights(node, model, layer, plan)
    return LayerError(
        node=node,
        op=next((n.op_type for n in model.proto.graph.node if n.name == node), producer.op_type),
        tensor=name,
        precision="int8" if layer is None else layer.precision,
        own=seen.error(seen.own),
        total=seen.error(seen.total),
        possible_db=_db(seen.power, float(seen.best.min())),
        low=seen.low,
        high=seen.high,
        code_low=low,
        code_high=high,
        saturated=seen.beyond / max(seen.count, 1),
        dead=tuple(int(c) for c in np.flatnonzero(dead)),
        shift=float(np.abs(seen.shift).max() / seen.images / seen.tensor.scale),
        weight_db=weight_db,
        weight_possible_db=possible,
        outlier=outlier,
    )


def _weights(
    node: str, model: Model, layer: LayerPlan | None, plan: QuantPlan
) -> tuple[float, float, float]:
    """SQNR of the weights as planned, the SQNR of plain rounding, and the worst outlier."""
    if layer is None or not layer.scales:
        return NO_NOISE, NO_NOISE, 1.0
    maker = next(n for n in model.proto.graph.node if n.name == node)
    values = np.asarray(model.constants[maker.input[1]], np.float32)
    rows = np.abs(rounding.rows(values))
    usual = np.maximum(np.percentile(rows, 99, axis=1), 1e-20)
    outlier = float((rows.max(axis=1) / usual).max())
    found = []
    for scales in (np.asarray(layer.scales, np.float32), rounding.scales(values, plan.quant)):
        shape = (-1,) + (1,) * (values.ndim - 1)
        error = rounding.codes(values, scales, plan.quant) * scales.reshape(shape) - values
        each = (error.reshape(len(values), -1) ** 2).sum(axis=1)
        power = (values.reshape(len(values), -1) ** 2).sum(axis=1)
        # the worst channel: a channel that is lost is lost, however good the others are
        found.append(min(_db(p, n) for p, n in zip(power.tolist(), each.tolist(), strict=True)))
    return found[0], found[1], outlier
