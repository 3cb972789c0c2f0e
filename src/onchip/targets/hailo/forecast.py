"""How fast a network will be on a Hailo chip, and whether it fits as a whole: forecast, not known.

Fitted by benchmarks/hailo_forecast.py on the detectors that Hailo's public model zoo lists with
speeds; every figure comes with how often, or how far off, it would have been on networks that were
left out of the fit. The zoo does not say on which host its speeds were taken.
"""

import math
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from onchip.graph.cost import cost
from onchip.graph.read import Model
from onchip.spec import Verdict
from onchip.targets.hailo.names import predicted

DIGITS = "0123456789"
FEW = 5  # networks: of fewer nothing can be told


class Network(Struct, frozen=True, kw_only=True):
    """What a forecast goes by: giga-operations, millions of weights, convolutions, attention.

    An operation is a multiplication or an addition, as in the zoo's tables; depthwise convolutions
    do not count among `convolutions`.
    """

    operations: float
    weights: float
    convolutions: int
    attention: bool
    largest: float  # megabytes of the largest tensor, in 8 bits


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Networks of at most so many weights (millions) and convolutions are one context.

    Those with attention are not, where the rule leaves them out. `one` and `several` are how often
    it is right when it says so, among `networks`.
    """

    weights: float
    convolutions: int
    attention: bool
    one: tuple[int, int]  # right, of how many
    several: tuple[int, int]


class Speed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """FPS is exp(base) times powers of operations, weights and convolutions, and of "one context".

    Nine in ten of the zoo's networks lie between `low` and `high` times that.
    """

    base: float
    operations: float
    weights: float
    convolutions: float
    one: float
    low: float
    high: float


class Chip(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was fitted for one chip: on how many networks, and the least and largest of them."""

    source: str
    networks: int
    operations: tuple[float, float]
    weights: tuple[float, float]
    rule: Rule
    batch1: Speed
    batch8: Speed


class Forecast(Struct, frozen=True, kw_only=True):
    """Whether the network is one context, and the range of FPS with 1 and 8 pictures at a time.

    `right` says how often such an answer was right, of how many; `chip` is None where nothing is
    known, or the network is smaller or larger than all that the fit knows.
    """

    network: Network
    chip: Chip | None = None
    one: bool = False
    right: tuple[int, int] = (0, 0)
    batch1: tuple[float, float] = (0.0, 0.0)
    batch8: tuple[float, float] = (0.0, 0.0)

    @property
    def telling(self) -> bool:
        """Whether the answer on contexts was right often enough to be worth saying."""
        right, of = self.right
        return of >= FEW and right > of / 2

    def lines(self) -> tuple[str, ...]:
        """The forecast for people; never a figure without its range."""
        net = self.network
        size = (
            f"network: {net.operations:.3g} G operations, {net.weights:.3g} M weights "
            f"({net.weights:.3g} MB in 8 bits), {net.convolutions} convolutions, largest tensor "
            f"{net.largest:.2g} MB"
        )
        if self.chip is None:
            return (
                size,
                "contexts and speed: unknown, Hailo publishes none of such a network here",
            )
        contexts = "1 or several: too few such networks in Hailo's zoo to tell"
        if self.telling:
            said = "1" if self.one else "several"
            contexts = f"{said} (right for {self.right[0]} of {self.right[1]} in Hailo's zoo)"
        return (
            size,
            f"contexts: {contexts}",
            f"FPS, one at a time: {_range(self.batch1)}; eight at a time: {_range(self.batch8)} "
            f"(nine in ten of {self.chip.networks} networks of the zoo lie within)",
            f"after figures of Hailo's own, {self.chip.source}; a slow host gives less",
        )


def _range(values: tuple[float, float]) -> str:
    return " to ".join(f"{v:.2g}" if v < 100 else f"{round(v, -1):.0f}" for v in values)


@cache
def _chips() -> dict[str, Chip]:
    data = files("onchip.targets.hailo").joinpath("forecast.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, Chip])


def measured(model: Model) -> Network:
    """Count what a forecast goes by in a cut graph."""
    names = predicted(model)
    nodes = model.proto.graph.node
    made = [math.prod(model.shapes.get(t, ())) for n in nodes for t in n.output]
    counted = cost(model)
    return Network(
        operations=counted.operations,
        weights=counted.weights,
        convolutions=len({n for n in names.values() if n.rstrip(DIGITS) in ("conv", "deconv")}),
        attention=any(n.op_type == "MatMul" for n in nodes),
        largest=max(made, default=0) / 1e6,
    )


def forecast(network: Network, chip: str) -> Forecast:
    """Forecast contexts and speed on a chip ("hailo8", "hailo8l", ...)."""
    known = _chips().get(chip)
    if known is None or not (
        known.operations[0] <= network.operations <= known.operations[1]
        and known.weights[0] <= network.weights <= known.weights[1]
    ):
        return Forecast(network=network)
    one = fits(network, known.rule)
    return Forecast(
        network=network,
        chip=known,
        one=one,
        right=known.rule.one if one else known.rule.several,
        batch1=fps(network, known.batch1, one=one),
        batch8=fps(network, known.batch8, one=one),
    )


def fits(network: Network, rule: Rule) -> bool:
    """Whether the rule says that a network is one context."""
    small = network.weights <= rule.weights and network.convolutions <= rule.convolutions
    return small and (rule.attention or not network.attention)


def fps(network: Network, speed: Speed, *, one: bool) -> tuple[float, float]:
    """Return the range of FPS in which nine in ten lie."""
    log = (
        speed.base
        + speed.operations * math.log(network.operations)
        + speed.weights * math.log(network.weights)
        + speed.convolutions * math.log(max(network.convolutions, 1))
        + speed.one * one
    )
    return math.exp(log) * speed.low, math.exp(log) * speed.high


def verdicts(found: Forecast) -> tuple[Verdict, ...]:
    """Say what to expect where the network is cut into several contexts."""
    if found.one or not found.telling:
        return ()
    text = (
        "the network is probably cut into several contexts, which the chip loads in turn: run it "
        "with several pictures at once, and trust no FPS that ignores the loading"
    )
    return (Verdict(code="contexts", message=text),)
