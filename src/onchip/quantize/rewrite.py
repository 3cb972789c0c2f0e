"""Rewrite a float network into one that computes the same and loses less in few bits.

What is done is exact, and is proven to be: scale is moved between channels (equalize.py), and
tensors whose channels are of very different widths get several scales (range_split.py), each where
a few images show that it helps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.quantize import equalize, range_split
from onchip.quantize.emit import emit
from onchip.quantize.observe import Maker, observe
from onchip.quantize.plan import make_plan
from onchip.quantize.probes import Probes
from onchip.quantize.range_split import Chain
from onchip.quantize.ranges import Choice, remembering
from onchip.quantize.regions import divide
from onchip.quantize.stats import Stats
from onchip.spec import HeadSpec, InputSpec, QuantSpec, Verdict

STRENGTH = 0.5  # how far towards equal channels; measured: all the way costs the weights too much
COARSE = 50.0  # a split is tried where steps are so many times too coarse, squared, on average
ENOUGH = 4.0  # and into as few parts as bring that below
MOST_PARTS = 4
MOST_CHAINS = 6  # are tried
MOST_MISSES = 2  # in a row: what comes then is less coarse still
WORTH = 0.03  # of the loss must go
SAME = 1e-3  # of the largest value that the head gives: more apart is not the same network


@dataclass(frozen=True)
class Rewriting:
    """A network being rewritten, and the few images that decide."""

    model: Model
    head: HeadSpec
    spec: InputSpec
    quant: QuantSpec
    probes: Probes
    floats: tuple[str, ...] = ()  # layers that stay in float anyway
    whole: tuple[str, ...] = ()  # layers that are not to be split
    equalizes: bool = True
    splits: bool = True

    def seen(self, model: Model, known: Mapping[str, Stats] | None = None) -> dict[str, Stats]:
        """Watch a network on the probes; tensors that are known already are not watched again."""
        known = known or {}
        regions = divide(model, self.head, self.quant, self.floats)
        new = tuple(t for t in regions.watched if t not in known or t in self.head.outputs)
        makers = (_given(t) for t in self.probes.inputs)
        return {**known, **observe(model, self.head, replace(regions, watched=new), makers)}

    @cached_property
    def first(self) -> dict[str, Stats]:
        """What is seen of the network as it was given."""
        return self.seen(self.model)

    @cached_property
    def choice(self) -> Choice:
        """Decides ranges, each once."""
        return remembering()

    def loss(self, model: Model, seen: Mapping[str, Stats]) -> float:
        """How far a network's scores stray once it is quantized."""
        regions = divide(model, self.head, self.quant, self.floats)
        plan = make_plan(
            model,
            regions,
            seen,
            self.quant,
            self.spec,
            images=len(self.probes.inputs),
            choice=self.choice,
        )
        return self.probes.loss(emit(model, regions, plan).SerializeToString())


def _given(tensor: npt.NDArray[np.generic]) -> Maker:
    return lambda: tensor


def rewritten(work: Rewriting) -> tuple[Model, tuple[Verdict, ...]]:
    """Return the network to make a plan of, and what was done; it may be the same."""
    if not work.probes.inputs:
        return work.model, ()
    model, said = _equalized(work) if work.equalizes else (work.model, ())
    model, more = _split(work, model) if work.splits else (model, ())
    if model is not work.model and (apart := _apart(work, model)) > SAME:
        text = f"rewriting the network was taken back: its results were {apart:.2g} apart"
        return work.model, (Verdict(code="not_rewritten", message=text, level="warning"),)
    return model, (*said, *more)


def _equalized(work: Rewriting) -> tuple[Model, tuple[Verdict, ...]]:
    found = equalize.channels(work.model)
    free = {int(n) for ids in found.classes.values() for n in ids} - {equalize.PINNED}
    if not free:
        return work.model, ()
    regions = divide(work.model, work.head, work.quant, work.floats)
    by = equalize.factors(found, regions, work.first, STRENGTH)
    if (by == 1).all():
        return work.model, ()
    text = f"the scale of {int((by != 1).sum())} channels was moved into the layers that read them"
    return equalize.scaled(work.model, found, by), (Verdict(code="equalized", message=text),)


def _split(work: Rewriting, model: Model) -> tuple[Model, tuple[Verdict, ...]]:
    chains = [c for c in range_split.chains(model) if c.node not in work.whole]
    if not chains:
        return model, ()
    seen = work.first if model is work.model else work.seen(model)
    widths = _widths(work, model, chains, seen)
    coarse = {c.node: range_split.coarseness(widths[c.node], 1) for c in chains}
    tried = sorted((c.node for c in chains if coarse[c.node] >= COARSE), key=lambda n: -coarse[n])
    loss, said, misses = (work.loss(model, seen) if tried else 0.0), [], 0
    for node in tried[:MOST_CHAINS]:
        chain = next(c for c in chains if c.node == node)
        groups = range_split.parts(widths[node], _count(widths[node]))
        trial = range_split.split(model, chain, groups)
        now = work.seen(trial, seen)
        reached = work.loss(trial, now)
        misses = 0 if reached < loss * (1 - WORTH) else misses + 1
        if misses == MOST_MISSES:
            break
        if misses:
            continue
        text = (
            f"{node} was split into {len(groups)} layers with a scale each: "
            f"the score error falls from {loss:.1%} to {reached:.1%}"
        )
        said.append(Verdict(code="range_split", message=text))
        model, loss, seen = trial, reached, now
        chains = range_split.chains(model)
    return model, tuple(said)


def _count(widths: range_split.Floats) -> int:
    counts = range(2, min(MOST_PARTS, len(widths)) + 1)
    return next((n for n in counts if range_split.coarseness(widths, n) <= ENOUGH), counts[-1])


def _widths(
    work: Rewriting, model: Model, chains: Sequence[Chain], seen: Mapping[str, Stats]
) -> dict[str, range_split.Floats]:
    """Return how wide each channel is that a chain's first layer makes, by layer."""
    layers = {x.node: x for x in divide(model, work.head, work.quant, work.floats).layers}
    found = {}
    for chain in chains:
        layer = layers[chain.node]
        stats = seen.get(layer.output) or seen[layer.raw]
        found[chain.node] = (np.maximum(stats.high, 0) - np.minimum(stats.low, 0)).astype(float)
    return found


def _apart(work: Rewriting, model: Model) -> float:
    """Return how far two networks' results are apart, as a part of the largest."""
    run, noise, few = Runner(model.bytes), work.model.noise(7), work.probes.first(2)
    pairs = [(noise, Runner(work.model.bytes)(noise)), *zip(few.inputs, few.wanted, strict=True)]
    most = 0.0
    for tensor, wanted in pairs:
        found = run(tensor)
        for name, values in wanted.items():
            apart = float(np.abs(values - found[name]).max())
            part = apart / max(float(np.abs(values).max()), 1e-6)
            most = max(most, part if np.isfinite(part) else np.inf)
    return most
