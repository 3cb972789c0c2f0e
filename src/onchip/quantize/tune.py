"""Give every integer layer the weights that make up for what is rounded, layer after layer.

A layer gets new weights when all before it have theirs: they fit what the layer will really read,
errors of everything above included (see solve.py; walk.py brings the samples). A second round would
find nothing new: what a layer reads depends on those before it only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from msgspec.structs import replace

from onchip.errors import InputError
from onchip.graph.read import Model
from onchip.quantize import solve
from onchip.quantize.emit import emit
from onchip.quantize.observe import Maker
from onchip.quantize.plan import HEADROOM, LayerPlan, QuantPlan
from onchip.quantize.regions import Layer, Regions
from onchip.quantize.walk import Codes, Places, Sampled, Sampler, Walk
from onchip.several import each
from onchip.spec import HeadSpec, QuantSpec

Floats = npt.NDArray[np.floating]

ROWS = 1024  # samples that are summed at once
SHARDS = 2  # of the images, summed side by side: the same however many work


@dataclass(frozen=True)
class Effort:
    """How much is spent on it, and how; the defaults are what did best on four detectors."""

    places: int = 64  # per image and map
    ridge: float = solve.RIDGE
    damping: float = solve.DAMPING
    moves: bool = True  # weights make up for the error from above
    compensates: bool = True  # and take up each other's rounding
    searches: bool = True  # scales are searched
    seed: int = 0


@dataclass(frozen=True)
class Gain:
    """What a layer won: its mean squared error as a part of its output's mean square."""

    node: str
    before: float  # weights as planned, rounded to the nearest
    after: float


@dataclass(frozen=True)
class Tuned:
    """A plan whose integer layers have the codes that lose least together, and what each won."""

    plan: QuantPlan
    gains: tuple[Gain, ...]


def tune(
    model: Model,
    head: HeadSpec,
    regions: Regions,
    plan: QuantPlan,
    images: Sequence[Maker],
    *,
    effort: Effort | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Tuned:
    """Return the plan with weights that make up for what it rounds.

    Layers in float, transposed convolutions and matrix products keep what they have.

    Args:
        model: the float network, cut at its head.
        head: tells where in an image objects are; those places count most.
        regions: how it divides on the chip, as the plan was made with.
        plan: the scales of its tensors, and of the weights as they would be without this.
        images: makers of one input each, or of None for one that is left out.
        effort: how much to spend.
        workers: how many images are in flight.
        progress: called with the number of steps done, and of all.

    Raises:
        InputError: no image can be read, or a weight or an activation is NaN or infinite.
    """
    effort = effort or Effort()
    layers = [_Tunable(x, model, plan) for x in regions.layers if _can(x, model, regions, plan)]
    if not layers:
        return Tuned(plan, ())
    found, gains = _each(model, head, layers, plan, regions, images, effort, workers, progress)
    return Tuned(_with_codes(plan, layers, found), gains)


def _each(
    model: Model,
    head: HeadSpec,
    layers: Sequence["_Tunable"],
    plan: QuantPlan,
    regions: Regions,
    images: Sequence[Maker],
    effort: Effort,
    workers: int,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, solve.Solved], tuple[Gain, ...]]:
    """Solve layer after layer."""
    total = len(images) + len(layers)  # a step is an image seen, or a layer tuned
    walk = Walk(emit(model, regions, plan), [x.layer.data for x in layers], workers)
    seen = _look(model, head, layers, images, effort, walk, workers, lambda n: progress(n, total))
    found: dict[str, solve.Solved] = {}
    gains = []
    for number, layer in enumerate(layers):
        codes = walk.take(layer.layer.data)
        moments, power = layer.moments(codes, seen, workers)
        largest = layer.largest(codes, plan.quant)
        solved = layer.solved(moments, plan.quant, largest, effort)
        walk.accept(layer.node, solved.codes, solved.scales, solved.bias, layer.step)
        before = layer.error_before(moments)
        for sampled in seen:
            del sampled.values[layer.layer.raw]  # nobody else wants them
        found[layer.node] = solved
        gains.append(Gain(layer.node, before / power, float(solved.error.sum()) / power))
        progress(len(images) + number + 1, total)
    return found, tuple(gains)


def _can(layer: Layer, model: Model, regions: Regions, plan: QuantPlan) -> bool:
    """Whether a layer is an integer convolution over maps of known size."""
    node = model.producers[layer.raw]
    fields = {a.name: a for a in node.attribute}
    padded = fields["auto_pad"].s if "auto_pad" in fields else b"NOTSET"
    return (
        layer.op == "Conv"
        and layer.node in regions.integer
        and layer.node not in plan.floats
        and any(t.name == layer.data and t.rounded for t in plan.tensors)
        and padded in (b"NOTSET", b"")
        and len(model.shapes.get(layer.raw, ())) == 4
        and all(model.shapes[layer.raw])
        and len(model.shapes.get(layer.data, ())) == 4
    )


def _look(
    model: Model,
    head: HeadSpec,
    layers: Sequence["_Tunable"],
    images: Sequence[Maker],
    effort: Effort,
    walk: Walk,
    workers: int,
    progress: Callable[[int], None],
) -> list[Sampled]:
    """Run the float network on every image, and bring each to the start of the walk."""
    names = [x.layer.raw for x in layers]
    sampler = Sampler(model, head, names, effort.places, effort.seed, workers)
    done = 0

    def one(number: int) -> tuple[Sampled, list[Codes]] | None:
        nonlocal done
        tensor = images[number]()
        found = None if tensor is None else (sampler(number, tensor), walk.enter(tensor))
        done += 1
        progress(done)
        return found

    seen = [x for x in each(one, range(len(images)), workers) if x is not None]
    if not seen:
        raise InputError("none of the images can be read", "name a folder of photos: -c photos/")
    walk.begin([codes for _, codes in seen])
    return [sampled for sampled, _ in seen]


class _Tunable:
    """An integer convolution: its window, its weights, and how its input is coded."""

    def __init__(self, layer: Layer, model: Model, plan: QuantPlan) -> None:
        self.layer, self.node = layer, layer.node
        node = model.producers[layer.raw]
        self.weights = np.asarray(model.constants[node.input[1]], np.float32)
        named = len(node.input) > 2 and bool(node.input[2])
        self.bias = np.zeros(len(self.weights))
        if named:
            self.bias = np.asarray(model.constants[node.input[2]], np.float64)
        data = next(t for t in plan.tensors if t.name == layer.data)
        self.step, self.zero, self._bits = data.scale, data.zero, data.bits
        self.planned: LayerPlan = next(x for x in plan.layers if x.node == layer.node)
        self._window = Window.of(node, self.weights.shape, model.shapes[layer.data])
        rows, columns = model.shapes[layer.raw][2:]
        self._size = (rows, columns)
        self._held = solve.columns(self.weights, self._window.groups)

    def moments(
        self, codes: Sequence[Codes], seen: Sequence[Sampled], workers: int
    ) -> tuple[solve.Moments, float]:
        """Return the moments of the layer over all images, and the mean square of its output."""
        groups, k, out = self._held.shape
        bias = self.bias.reshape(groups, 1, out).astype(np.float32)
        places = [s.places[self._size] for s in seen]
        together = max(1, ROWS // max(1, len(places[0].index)))
        numbers = range(len(seen))

        def shard(first: int) -> tuple[solve.Tally, float, float]:
            tally, power, total = solve.Tally(groups, k, out), 0.0, 0.0
            mine = numbers[first::SHARDS]
            for start in range(0, len(mine), together):
                part = mine[start : start + together]
                each = (
                    self._window.patches(codes[i], places[i], self.step, self.zero) for i in part
                )
                patches = np.concatenate(list(each), axis=1)
                wanted = np.concatenate([seen[i].values[self.layer.raw] for i in part])
                weights = np.concatenate([places[i].weights for i in part])
                by_group = wanted.reshape(len(wanted), groups, out).transpose(1, 0, 2)
                tally.add(patches, by_group - patches @ self._held - bias, weights)
                power += float(weights @ (wanted * wanted).sum(axis=1))
                total += float(weights.sum())
            return tally, power, total

        (tally, power, total), *others = each(shard, range(SHARDS), workers)
        for other in others:
            tally.merge(other[0])
            power, total = power + other[1], total + other[2]
        return tally.moments(), max(power / max(total, 1e-30), 1e-30)

    def largest(self, codes: Sequence[Codes], quant: QuantSpec) -> Floats | None:
        """Return the largest code of each input channel, with room for what was not seen."""
        if not quant.pair_limit or self._bits != quant.bits:
            return None
        high = np.max([c.max(axis=(0, 2, 3)) for c in codes], axis=0).astype(np.float32)
        reach = np.maximum(high - self.zero, 0) * HEADROOM + self.zero - quant.qmin
        return np.clip(reach, 0, quant.qmax - quant.qmin)

    def solved(
        self, moments: solve.Moments, quant: QuantSpec, largest: Floats | None, effort: Effort
    ) -> solve.Solved:
        """Return its new weights."""
        return solve.solve(
            self.weights,
            self.bias,
            moments,
            quant,
            largest=largest,
            step=self.step if self._bits == quant.bits else 0.0,
            ridge=effort.ridge,
            damping=effort.damping,
            moves=effort.moves,
            compensates=effort.compensates,
            searches=effort.searches,
        )

    def error_before(self, moments: solve.Moments) -> float:
        """Return the mean squared error of the weights as they were planned."""
        scales = np.asarray(self.planned.scales, np.float32)
        shape = (-1,) + (1,) * (self.weights.ndim - 1)
        off = np.rint(self.weights / scales.reshape(shape)) * scales.reshape(shape) - self.weights
        groups = self._window.groups
        shift = -np.asarray(self.planned.bias_shift or np.zeros(len(scales))).reshape(groups, 1, -1)
        delta = np.concatenate([solve.columns(off, groups), shift], axis=1)
        return float(solve.error(moments, delta).sum())


@dataclass(frozen=True)
class Window:
    """What a convolution reads for each value that it makes."""

    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    before: tuple[int, int]  # padding above and at the left
    dilations: tuple[int, int]
    size: tuple[int, int]  # of the input: rows, columns
    columns: int  # of the output

    @classmethod
    def of(cls, node: onnx.NodeProto, weights: tuple[int, ...], data: tuple[int, ...]) -> "Window":
        """The window of a Conv node, whose weights and input have these shapes."""
        fields = {a.name: a for a in node.attribute}

        def pair(name: str, otherwise: int) -> tuple[int, int]:
            found = tuple(fields[name].ints) if name in fields else (otherwise, otherwise)
            return int(found[0]), int(found[1])

        pads = tuple(fields["pads"].ints) if "pads" in fields else (0, 0, 0, 0)
        strides, dilations = pair("strides", 1), pair("dilations", 1)
        reach = (weights[3] - 1) * dilations[1] + 1
        return cls(
            groups=fields["group"].i if "group" in fields else 1,
            kernel=(weights[2], weights[3]),
            strides=strides,
            before=(int(pads[0]), int(pads[1])),
            dilations=dilations,
            size=(data[2], data[3]),
            columns=(data[3] + int(pads[1]) + int(pads[3]) - reach) // strides[1] + 1,
        )

    def patches(self, codes: Codes, places: Places, step: float, zero: int) -> Floats:
        """Return the values that are read for some places, `(groups, n, k)`.

        Args:
            codes: the whole input, `(1, channels, rows, columns)`.
            places: of the output.
            step: the scale of the codes.
            zero: the code of zero, which also stands around the input.
        """
        index, outside = self._index(places.index)
        flat = codes.reshape(codes.shape[1], -1)
        taken = flat.take(index.ravel(), axis=1).reshape(len(flat), *index.shape)
        taken[:, outside] = zero
        grouped = taken.reshape(self.groups, -1, *index.shape).transpose(0, 2, 3, 1)
        values = grouped.astype(np.float32, order="C")
        values -= np.float32(zero)
        values *= np.float32(step)
        return values.reshape(self.groups, len(index), -1)

    def _index(
        self, places: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return where in a map each value lies, `(n, kernel)`, and whether it is outside."""
        rows = self._along(0, places // self.columns)[:, :, None]
        columns = self._along(1, places % self.columns)[:, None, :]
        outside = (rows < 0) | (rows >= self.size[0]) | (columns < 0) | (columns >= self.size[1])
        index = np.where(outside, 0, rows * self.size[1] + columns)
        return index.reshape(len(places), -1), outside.reshape(len(places), -1)

    def _along(self, axis: int, at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        steps = np.arange(self.kernel[axis]) * self.dilations[axis]
        return (at * self.strides[axis] - self.before[axis])[:, None] + steps


def _with_codes(
    plan: QuantPlan, tuned: Sequence["_Tunable"], found: dict[str, solve.Solved]
) -> QuantPlan:
    biases = {x.node: x.bias for x in tuned}
    layers = tuple(
        replace(
            x,
            scales=tuple(found[x.node].scales.tolist()),
            bias_shift=tuple((biases[x.node] - found[x.node].bias).tolist()),
            codes=found[x.node].codes.tobytes(),
        )
        if x.node in found
        else x
        for x in plan.layers
    )
    return replace(plan, layers=layers)
