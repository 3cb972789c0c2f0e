"""What raising layers would win, foreseen: from one look at all tensors to loss against cost.

The harm of each tensor is known before any plan is run (see harm.py), and which layers must be
raised for a tensor not to be rounded is known from the graph: those that make it and read it where
layers are raised to float, the one that makes it where they get 16 bits. Sets are taken in the
order of what they win for each layer that they cost.
"""

from collections.abc import Mapping, Sequence

from onchip.graph.cost import products
from onchip.graph.read import Model
from onchip.quantize.harm import each_harm
from onchip.quantize.influence import Influence
from onchip.quantize.plan import QuantPlan, Raising
from onchip.quantize.regions import Regions

MOST = 12  # layers; a plan that needs more is better raised by hand, or the chip is wrong
LEAST = 0.01  # of the whole harm; what wins less is not worth a layer

Nodes = frozenset[str]


class Tradeoff:
    """Which tensors a set of raised layers frees of rounding, and the harm that goes with them.

    Args:
        model: the float network.
        regions: how it divides where nothing is raised but what the user raised.
        plan: the plan made with those.
        felt: what errors in tensors do to the detections.
        to_float: whether layers are raised to float; else their outputs get 16 bits.
    """

    def __init__(
        self,
        model: Model,
        regions: Regions,
        plan: QuantPlan,
        felt: Mapping[str, Influence],
        to_float: bool,
    ) -> None:
        known = each_harm(model, plan, felt).items()
        self._harm = {t: h for t, h in known if h is not None}
        freed = _freed_by_float if to_float else _freed_by_width
        self._frees = freed(model, regions)
        self._costs = {x.node: products(model.producers[x.raw], model) for x in regions.layers}
        self._whole = max(sum(self._costs.values()), 1)

    def sets(self) -> list[tuple[str, ...]]:
        """Return the sets that free a tensor, what wins most for each layer first."""
        wins = {nodes: self._won(nodes) / len(nodes) for nodes in self._frees}
        return [tuple(sorted(n)) for n in sorted(wins, key=lambda n: -wins[n]) if wins[n] > 0]

    def steps(self, most: int = MOST) -> tuple[Raising, ...]:
        """Return ever larger sets of raised layers, each with the one before inside it."""
        whole = sum(self._harm.values())
        raised: tuple[str, ...] = ()
        found: list[Raising] = []
        won = 0.0
        while whole > 0:
            best = max(self._frees, key=lambda n: self._worth(n, raised, won), default=frozenset())
            new = tuple(sorted(best - set(raised)))
            now = self._won({*raised, *new})
            if not new or len(raised) + len(new) > most or now - won < LEAST * whole * len(new):
                break
            raised, won = (*raised, *new), now
            cost = sum(self._costs.get(n, 0) for n in raised) / self._whole
            left = max(0.0, 1 - won / whole) ** 0.5
            found.append(Raising(layers=raised, cost=round(cost, 6), error=round(left, 6)))
        return tuple(found)

    def _worth(self, nodes: Nodes, raised: Sequence[str], won: float) -> float:
        new = nodes - set(raised)
        return (self._won({*raised, *new}) - won) / len(new) if new else 0.0

    def _won(self, nodes: Nodes | set[str]) -> float:
        free = {t for needed, tensors in self._frees.items() if needed <= nodes for t in tensors}
        return sum(self._harm.get(t, 0.0) for t in free)


def _freed_by_float(model: Model, regions: Regions) -> dict[Nodes, set[str]]:
    """Return the tensors that only weighted layers touch, by the set of those."""
    owners = {member: x.node for x in regions.layers for member in x.members}
    found: dict[Nodes, set[str]] = {}
    for tensor in regions.tensors:
        made = model.producers.get(tensor)
        touching = [*([made] if made is not None else []), *model.consumers.get(tensor, [])]
        nodes = frozenset(n.name for n in touching if n.name in regions.integer)
        if nodes and nodes <= owners.keys():
            found.setdefault(frozenset(owners[n] for n in nodes), set()).add(tensor)
    return found


def _freed_by_width(model: Model, regions: Regions) -> dict[Nodes, set[str]]:
    """Return what shares a scale with what a layer makes, by the layer."""
    members: dict[str, set[str]] = {}
    for tensor, group in regions.groups.items():
        members.setdefault(group, set()).add(tensor)
    found = {}
    for layer in regions.layers:
        made = {regions.groups[t] for t in (layer.raw, layer.output) if t in regions.groups}
        if made and layer.node in regions.integer:
            found[frozenset([layer.node])] = set().union(*(members[g] for g in made))
    return found
