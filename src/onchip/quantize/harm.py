"""What the rounding of a tensor does to the detections, foreseen from a few backward passes.

What counts is what a user sees: the scores of the places where something may be, and the edges of
their boxes. With `J` how those move with a tensor's values, and a random sign for each of them,
the gradient `g = J^T v` of their signed sum has `E[g_i^2] = (J^T J)_ii`. Rounding errors hardly
know of each other, so that what an error `d` of the tensor does is the sum of `g_i^2 d_i^2`: one
histogram of the tensor's values, in which each counts with its gradient's square, foretells the
harm of every scale that could be chosen.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onchip.graph.gradient import Backward, BackwardRunner, backward
from onchip.graph.read import Model
from onchip.graph.run import Array
from onchip.quantize.attention import best_scores
from onchip.quantize.influence import Influence, new_in
from onchip.quantize.observe import Maker
from onchip.quantize.plan import QuantPlan, TensorPlan
from onchip.quantize.regions import Regions
from onchip.several import each
from onchip.spec import HeadSpec
from onchip.vision.codes import real
from onchip.vision.decode import Indices, Level, boxes, levels, scores, sigmoid

CLEAR = 0.05  # places with lower scores do not count
BOX = 1.0  # what an edge that is off by its box's whole side counts, against a score off by one
STEP = 1e-2  # for differences of boxes, in raw values
STEEP = 1e15  # gradients whose squares float32 cannot sum up
POSITIONS = 20  # rows and columns sampled per map and image


def foreseen(
    model: Model, plan: QuantPlan, felt: Mapping[str, Influence]
) -> dict[str, float | None]:
    """Return the harm of each group of tensors that share a scale, by the group's name.

    None where the influence of one of its tensors is unknown.
    """
    groups = {t.name: t.group for t in plan.tensors}
    found: dict[str, float | None] = {}
    for tensor, harm in each_harm(model, plan, felt).items():
        before = found.get(groups[tensor], 0.0)
        found[groups[tensor]] = None if before is None or harm is None else before + harm
    return found


def each_harm(
    model: Model, plan: QuantPlan, felt: Mapping[str, Influence]
) -> dict[str, float | None]:
    """Return the harm of rounding each tensor, None where its influence is unknown.

    A tensor whose values came rounded from others of its group is not rounded again: left out.
    """
    groups: dict[str, list[TensorPlan]] = {}
    for tensor in plan.tensors:
        if tensor.rounded:
            groups.setdefault(tensor.group, []).append(tensor)
    found: dict[str, float | None] = {}
    for tensors in groups.values():
        first = new_in(model, [t.name for t in tensors])
        for t in (t for t in tensors if t.name in first):
            quant = plan.quant.with_bits(t.bits)
            found[t.name] = felt[t.name].harm(t.scale, t.zero, quant) if t.name in felt else None
    return found


@dataclass(frozen=True)
class Asked:
    """Which tensor's values are watched, where the gradient is taken, and what lies between."""

    values: str
    gradient: str
    reader: str = ""


def asked(model: Model, regions: Regions) -> list[Asked]:
    """Return what to ask of a network for every tensor that brings new values to its group.

    Before an activation the gradient is taken behind it: what a SiLU makes of an error far below
    zero is then known, however large the error is.
    """
    behind = {x.raw: x for x in regions.layers if x.activation and x.node in regions.integer}
    groups: dict[str, list[str]] = {}
    for tensor, group in regions.groups.items():
        groups.setdefault(group, []).append(tensor)
    new = {name for names in groups.values() for name in new_in(model, names)}
    found = []
    for name in (t for t in regions.tensors if t in new):
        layer = behind.get(name)
        if layer and layer.output != name:
            found.append(Asked(name, layer.output, layer.activation))
        else:
            found.append(Asked(name, name))
    return found


@dataclass(frozen=True)
class Wish:
    """An image, and a signed sum of what counts in it for each backward pass.

    Sums are given as cotangents of the head's outputs: where in each they are not zero, and what
    they are there.
    """

    make: Maker
    sums: tuple[Mapping[str, tuple[Indices, Array]], ...]

    @classmethod
    def of(cls, make: Maker, *sums: Mapping[str, Array]) -> "Wish":
        """The same of whole cotangents (see `cotangents`); sums of nothing are left out."""
        thin = [{n: (np.flatnonzero(v), v[v != 0]) for n, v in each.items()} for each in sums]
        return cls(make, tuple(t for t in thin if any(len(places) for places, _ in t.values())))


def influences(
    model: Model, questions: Sequence[Asked], wishes: Iterable[Wish]
) -> tuple[dict[str, Influence], dict[str, str]]:
    """Return the influence of each tensor, and of the others why it is unknown.

    Args:
        model: the float network, cut at its head.
        questions: the tensors.
        wishes: images, and what counts in them; a few are enough.
    """
    made = backward(model, [q.gradient for q in questions])
    known = [q for q in questions if q.gradient in made.gradients]
    if not known:
        return {}, {q.values: made.unknown[q.gradient] for q in questions}
    watch = _Watch(model, made, known)
    found = {q.values: Influence(q.reader, p) for q, p in zip(known, watch.places, strict=True)}

    for passes in each(watch, wishes, workers=1, ahead=2):  # two at once would take too much memory
        for results in passes:
            pairs = zip(results[::2], results[1::2], strict=True)
            for influence, (values, gradient) in zip(found.values(), pairs, strict=True):
                influence.add(_by_channel(values), _by_channel(gradient))
    unknown = {q.values: made.unknown[q.gradient] for q in questions if q not in known}
    return found, unknown


class _Watch:
    """Runs a network forwards and back on one input."""

    def __init__(self, model: Model, made: Backward, known: Sequence[Asked]) -> None:
        self._shapes = {o.name: model.shapes[o.name] for o in model.outputs}
        self._names, self.places = _sampled(model, made, known)
        self._backward = BackwardRunner(made, threads=0)

    def __call__(self, wish: Wish) -> list[Sequence[Array]]:
        """Return what each backward pass gives: each tensor's values and gradient in turn."""
        tensor = wish.make() if wish.sums else None
        return [] if tensor is None else list(self._passes(tensor, wish))

    def _passes(self, tensor: npt.NDArray[np.generic], wish: Wish) -> Iterator[Sequence[Array]]:
        for given in wish.sums:
            whole = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}
            for name, (places, values) in given.items():
                whole[name].ravel()[places] = values
            found = self._backward(tensor, whole)
            results = [found[name] for name in self._names]
            if not all(float(np.abs(g).max(initial=0)) < STEEP for g in results[1::2]):
                return  # the image tells nothing
            yield results


def _by_channel(values: Array) -> Array:
    if values.ndim == 4:
        return values[0].reshape(values.shape[1], -1)
    return values.reshape(1, -1)


def _sampled(model: Model, made: Backward, known: Sequence[Asked]) -> tuple[list[str], list[float]]:
    """Give the graph a sample of each tensor and of its gradient as outputs.

    Returns the names of both in turn, and how many places each of a sample stands for.
    """
    graph = made.proto.graph
    outputs: dict[tuple[str, bool], str] = {}
    names, places = [], []
    for question in known:
        shape = model.shapes.get(question.values, ())
        steps = [max(1, n // POSITIONS) for n in shape[2:]] if len(shape) == 4 else []
        if question.values in {o.name for o in model.outputs}:
            steps = []
        sampled = max(steps, default=1) > 1
        for name in (question.values, made.gradients[question.gradient]):
            output = outputs.get((name, sampled), "")
            if not output:
                output = f"onchip_sample_{len(outputs)}" if sampled else name
                outputs[name, sampled] = output
                graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
                if sampled:
                    # of single cells: it keeps ONNX Runtime's blocked layout, a Slice would not
                    fields = {"kernel_shape": [1, 1], "strides": steps}
                    graph.node.append(helper.make_node("MaxPool", [name], [output], **fields))
            names.append(output)
        pairs = zip(shape[2:], steps, strict=True) if sampled else ()
        places.append(float(np.prod([n / -(-n // step) for n, step in pairs])))
    return names, places


# ---- what is wanted of the head ----


def cotangents(
    head: HeadSpec,
    tensors: Mapping[str, Array],
    size: tuple[int, int],
    random: np.random.Generator,
) -> dict[str, Array]:
    """Return a signed sum of what counts as the cotangent of each head output.

    Counted are, of each place whose best score is at least `CLEAR`, the scores and the four edges
    of the box as parts of its sides, the latter as sure as the place is.
    """
    given = {name: np.zeros_like(tensors[name]) for name in head.outputs}
    forward, back = levels(head, tensors, size), levels(head, given, size)
    for level, into in zip(forward, back, strict=True):  # `into` are views of `given`
        best = best_scores(level)
        chosen = np.flatnonzero(best >= CLEAR)
        if len(chosen):
            _score_part(level, into, chosen, random)
            _box_part(level, into, chosen, best[chosen] * BOX, random)
    return given


def _signs(random: np.random.Generator, *shape: int) -> Array:
    return random.integers(0, 2, shape).astype(np.float32) * 2 - 1


def _score_part(level: Level, into: Level, chosen: Indices, random: np.random.Generator) -> None:
    """Write how each raw value moves the signed sum of the scores."""
    raw = real(level.classes[:, chosen])
    signs = _signs(random, *raw.shape)
    if level.head.background >= 0:
        signs[level.head.background] = 0
    if level.head.scoring == "softmax":
        unit = np.exp(raw - raw.max(axis=0))
        unit /= unit.sum(axis=0)
        into.classes[:, chosen] = unit * (signs - (signs * unit).sum(axis=0))  # type: ignore[index]
        return
    unit, slope = _unit(raw, level.activated)
    if level.object is not None and into.object is not None:
        sure, sure_slope = _unit(real(level.object[:, chosen]), level.activated)
        into.object[:, chosen] = (signs * unit).sum(axis=0) * sure_slope  # type: ignore[index]
        slope = slope * sure
    into.classes[:, chosen] = signs * slope  # type: ignore[index]


def _unit(raw: Array, activated: bool) -> tuple[Array, Array]:
    """A probability and how it moves with its raw value."""
    unit = raw if activated else sigmoid(raw)
    return unit, np.ones_like(raw) if activated else unit * (1 - unit)


def _box_part(
    level: Level, into: Level, chosen: Indices, weights: Array, random: np.random.Generator
) -> None:
    """Write how each raw value moves the signed sum of the edges, by differences."""
    raw = real(level.box[:, chosen])
    base = boxes([level], [chosen])
    scale = _signs(random, len(chosen), 4) * weights[:, None] / _sides(base) / STEP
    whole = real(level.box).copy()
    for channel in range(len(raw)):
        whole[channel, chosen] += STEP
        moved = boxes([replace(level, box=whole)], [chosen]) - base
        whole[channel, chosen] = raw[channel]
        into.box[channel, chosen] = (moved * scale).sum(axis=1)  # type: ignore[index]


def done(
    head: HeadSpec,
    size: tuple[int, int],
    wanted: Mapping[str, Array],
    found: Mapping[str, Array],
) -> float:
    """Return what was in fact done to the detections of one image, in the units of `foreseen`.

    Args:
        head: how to read the tensors.
        size: width and height of the input in pixels.
        wanted: the head tensors of the float network.
        found: those of the quantized one.
    """
    total = 0.0
    for first, second in zip(levels(head, wanted, size), levels(head, found, size), strict=True):
        chosen = np.flatnonzero(best_scores(first) >= CLEAR)
        total += sum(moved(first, second, chosen))
    return total if np.isfinite(total) else float("inf")


def moved(first: Level, second: Level, chosen: Indices) -> tuple[float, float]:
    """Return the sums of the squares of how scores moved at some places, and edges of boxes.

    Edges count as parts of their sides, at most one, and as sure as the place is.
    """
    wanted, found = scores(first, chosen), scores(second, chosen)
    old, new = boxes([first], [chosen]), boxes([second], [chosen])
    parts = np.clip((new - old) / _sides(old), -1, 1) * (wanted.max(axis=0) * BOX)[:, None]
    squares = (np.square(v, dtype=np.float64).sum() for v in (found - wanted, parts))
    in_scores, in_boxes = squares
    return float(in_scores), float(in_boxes)


def _sides(found: Array) -> Array:
    """The side along which each edge of boxes `(n, 4)` moves, at least a pixel."""
    return np.tile(np.maximum(np.abs(found[:, 2:] - found[:, :2]), 1.0), 2)
