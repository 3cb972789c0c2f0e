"""Raise the few layers without which the network no longer sees: to float, or to 16 bits.

Most networks need none. Where the quantized scores stray too far from the float ones, the sets of
layers that are foreseen to win most are tried one by one, and what gains most is kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from onchip.graph.read import Model
from onchip.quantize.emit import emit
from onchip.quantize.influence import Influence
from onchip.quantize.plan import QuantPlan, make_plan
from onchip.quantize.probes import Probes
from onchip.quantize.regions import divide
from onchip.quantize.stats import Stats
from onchip.quantize.tradeoff import Tradeoff
from onchip.quantize.tune import Tuned
from onchip.spec import InputSpec, Verdict

GATE = 0.25  # of the float scores' sum; sound builds stay below half of it
TRIALS = 10

Felt = Mapping[str, Influence]


@dataclass(frozen=True)
class Precision:
    """The plan, how far its scores are from the float ones, and what was done about it.

    `tuned` is the plan with weights fitted to it, where that was done already.
    """

    plan: QuantPlan
    loss: float
    verdicts: tuple[Verdict, ...] = ()
    tuned: Tuned | None = None


@dataclass(frozen=True)
class Search:
    """What stays the same while layers are raised.

    `felt` decides ranges, where the recipe has that; `feel` tells what errors in each tensor do to
    the detections, which takes a while. `fit` is what is done to a plan after the search.
    """

    model: Model
    spec: InputSpec
    seen: Mapping[str, Stats]
    plan: QuantPlan
    probes: Probes
    felt: Felt
    feel: Callable[[], Felt]
    fit: Callable[[QuantPlan], Tuned]

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

    @cached_property
    def tradeoff(self) -> Tradeoff:
        """What raising layers is foreseen to win."""
        regions = divide(self.model, self.probes.head, self.plan.quant, self.plan.floats)
        return Tradeoff(self.model, regions, self.plan, self.feel(), self.to_float)

    def plan_with(self, raised: Mapping[str, str]) -> QuantPlan:
        """The plan with layers raised, given as node to reason."""
        floats = tuple(raised) if self.to_float else self.plan.floats
        regions = divide(self.model, self.probes.head, self.plan.quant, floats)
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
        """A plan as a graph that takes float inputs."""
        regions = divide(self.model, self.probes.head, plan.quant, plan.floats)
        return bytes(emit(self.model, regions, plan).SerializeToString())

    def loss(self, plan: QuantPlan) -> float:
        """How far the plan's scores are from the float network's."""
        return self.probes.loss(self.graph(plan))


def choose_precision(search: Search, limit: int = 3) -> Precision:
    """Return the plan, with at most `limit` more layers raised if it strays too far."""
    plan = search.plan
    loss = search.loss(plan)
    if loss <= GATE or not limit:
        return Precision(plan, loss, warning(loss))
    before = dict.fromkeys(search.raised, f"kept in {search.precision} by the user")
    best, best_loss = before, loss
    for nodes in [s for s in search.tradeoff.sets() if len(s) <= limit][:TRIALS]:
        trial = before | dict.fromkeys(nodes, "")
        if (reached := search.loss(search.plan_with(trial))) < best_loss:
            best, best_loss = trial, reached
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
    """What to say of a plan that strays as far as this."""
    if loss <= GATE:
        return ()
    text = f"the quantized scores stray {loss:.0%} from the float ones: run onchip verify"
    return (Verdict(code="scores_stray", message=text, level="warning"),)
