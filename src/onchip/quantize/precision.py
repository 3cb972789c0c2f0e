"""Raise the few layers without which the network no longer sees: to float, or to 16 bits.

Most networks need none. Where the quantized scores stray too far from the float ones, the tensors
that fare worst in 8 bits are tried one by one: the layers that make and read one are raised, the
network is run, and what gains most is kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onchip.graph.read import Model
from onchip.graph.run import Array, Runner
from onchip.quantize.emit import emit
from onchip.quantize.influence import Influence
from onchip.quantize.plan import QuantPlan, make_plan
from onchip.quantize.regions import Layer, divide
from onchip.quantize.stats import Stats
from onchip.spec import HeadSpec, InputSpec, Verdict
from onchip.vision import decode

GATE = 0.25  # of the float scores' sum; sound builds stay below half of it
CLEAR = 0.1  # scores below this do not count
TRIALS = 10

Tensors = Sequence[npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Precision:
    """The plan, how far its scores are from the float ones, and what was done about it."""

    plan: QuantPlan
    loss: float
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True)
class Search:
    """What stays the same while layers are raised."""

    model: Model
    head: HeadSpec
    spec: InputSpec
    seen: Mapping[str, Stats]
    plan: QuantPlan
    probes: Tensors
    wanted: Sequence[Mapping[str, Array]]
    felt: Mapping[str, Influence] = field(default_factory=dict)
    finished: Callable[[QuantPlan], QuantPlan] = lambda plan: plan  # what comes after the search

    @classmethod
    def begin(
        cls,
        model: Model,
        head: HeadSpec,
        spec: InputSpec,
        seen: Mapping[str, Stats],
        plan: QuantPlan,
        probes: Tensors,
        felt: Mapping[str, Influence] | None = None,
        finished: Callable[[QuantPlan], QuantPlan] = lambda plan: plan,
    ) -> "Search":
        """Run the float network on the probes, once."""
        run = Runner(model.bytes)
        wanted = [run(t) for t in probes]
        return cls(model, head, spec, seen, plan, probes, wanted, felt or {}, finished)

    @property
    def to_float(self) -> bool:
        """Whether a raised layer computes in float; else its output gets 16 bits."""
        return self.plan.quant.raised[:1] != ("int16",)

    @property
    def raised(self) -> tuple[str, ...]:
        """The nodes of the layers that are raised already."""
        return self.plan.floats if self.to_float else self.plan.wide

    @property
    def precision(self) -> str:
        """What a layer is raised to, for people."""
        return "float" if self.to_float else "16 bits"

    def plan_with(self, raised: Mapping[str, str]) -> QuantPlan:
        """The plan with layers raised, given as node to reason."""
        floats = tuple(raised) if self.to_float else self.plan.floats
        regions = divide(self.model, self.head, self.plan.quant, floats)
        return make_plan(
            self.model,
            regions,
            self.seen,
            self.plan.quant,
            self.spec,
            images=self.plan.images,
            reasons=raised,
            wide=self.plan.wide if self.to_float else tuple(raised),
            felt=self.felt,
        )

    def graph(self, plan: QuantPlan) -> bytes:
        """The plan, finished, as a graph that takes float inputs."""
        plan = self.finished(plan)
        regions = divide(self.model, self.head, plan.quant, plan.floats)
        return bytes(emit(self.model, regions, plan).SerializeToString())

    def loss(self, plan: QuantPlan) -> float:
        """How far the plan's scores are from the float network's."""
        return _loss(self.model, self.head, self.spec, plan, self.probes, self.wanted)


def fidelity_loss(
    model: Model, head: HeadSpec, spec: InputSpec, plan: QuantPlan, probes: Tensors
) -> float:
    """Return how far a plan's scores are from the float network's on some inputs."""
    run = Runner(model.bytes)
    return _loss(model, head, spec, plan, probes, [run(t) for t in probes])


def _loss(
    model: Model,
    head: HeadSpec,
    spec: InputSpec,
    plan: QuantPlan,
    probes: Tensors,
    wanted: Sequence[Mapping[str, Array]],
) -> float:
    regions = divide(model, head, plan.quant, plan.floats)
    run = Runner(emit(model, regions, plan).SerializeToString())
    size = (spec.width, spec.height)
    return score_loss(head, size, wanted, [run(t) for t in probes])


def choose_precision(search: Search, limit: int = 3) -> Precision:
    """Return the plan, with at most `limit` more layers raised if it strays too far."""
    plan = search.plan
    loss = search.loss(plan)
    if loss <= GATE or not limit:
        return Precision(plan, loss, warning(loss))
    before = dict.fromkeys(search.raised, f"kept in {search.precision} by the user")
    best, best_loss = before, loss
    for layers in candidates(search, limit):
        nodes = before | {x.node: "" for x in layers}
        trial = search.plan_with(nodes)
        if (reached := search.loss(trial)) < best_loss:
            best, best_loss = nodes, reached
        if best_loss <= GATE:
            break
    raised = [n for n in best if n not in before]
    if not raised:
        return Precision(plan, loss, warning(loss))
    won = f"the score error falls from {loss:.0%} to {best_loss:.0%}"
    chosen = search.plan_with(before | dict.fromkeys(raised, f"in {search.precision}: {won}"))
    code = "layers_in_float" if search.to_float else "layers_in_16_bits"
    verdict = Verdict(code=code, message=f"{', '.join(raised)} stay in {search.precision}: {won}")
    return Precision(chosen, best_loss, (verdict, *warning(best_loss)))


def warning(loss: float) -> tuple[Verdict, ...]:
    if loss <= GATE:
        return ()
    text = f"the quantized scores stray {loss:.0%} from the float ones: run onchip verify"
    return (Verdict(code="scores_stray", message=text, level="warning"),)


def score_loss(
    head: HeadSpec,
    size: tuple[int, int],
    wanted: Sequence[Mapping[str, Array]],
    found: Sequence[Mapping[str, Array]],
) -> float:
    """Return the sum of score differences as a part of the sum of scores, clear ones only."""
    error = total = 0.0
    for first, second in zip(wanted, found, strict=True):
        a, b = _scores(head, first, size), _scores(head, second, size)
        clear = np.maximum(a, b) >= CLEAR
        error += float(np.abs(a - b)[clear].sum())
        total += float(a[clear].sum())
    return error / total if total else 0.0


def _scores(head: HeadSpec, tensors: Mapping[str, Array], size: tuple[int, int]) -> Array:
    levels = decode.levels(head, tensors, size)
    return np.concatenate([decode.scores(level).ravel() for level in levels])


def candidates(search: Search, limit: int) -> Iterator[tuple[Layer, ...]]:
    """Yield sets of at most `limit` layers around the tensors that suffer most in few bits."""
    regions = divide(search.model, search.head, search.plan.quant, search.plan.floats)
    layers = {x.node: x for x in regions.layers if x.node in regions.integer}
    harms = {c.group: c.harm for c in search.plan.contests}

    def suffers(layer: Layer) -> tuple[float, float]:
        groups = {regions.groups[t] for t in (layer.raw, layer.output) if t in regions.groups}
        return sum(harms.get(g, 0.0) for g in groups), _imbalance(search.seen, layer)

    ranked = sorted(layers.values(), key=suffers, reverse=True)
    for layer in ranked[:TRIALS]:
        around = (layer, *_readers(search.model, layer, layers))
        if len(around) <= limit:
            yield around


def _imbalance(seen: Mapping[str, Stats], layer: Layer) -> float:
    """How many times wider the tensor is than the median of its channels."""
    stats = seen.get(layer.output) or seen.get(layer.raw)
    if stats is None:
        return 0.0
    widths = (stats.high - stats.low).astype(np.float64)
    return float((stats.high.max() - stats.low.min()) / max(float(np.median(widths)), 1e-9))


def _readers(model: Model, layer: Layer, layers: Mapping[str, Layer]) -> list[Layer]:
    """The layers that read a layer's output, through nodes that only move values."""
    found: dict[str, Layer] = {}
    stack, done = [layer.output], set()
    while stack:
        for node in model.consumers.get(stack.pop(), []):
            if node.name in layers:
                found[node.name] = layers[node.name]
            elif node.name not in done and node.op_type in ("Concat", "Split", "MaxPool", "Resize"):
                done.add(node.name)
                stack.extend(node.output)
    return list(found.values())
