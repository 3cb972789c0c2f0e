"""Raise the fewest layers that bring the loss inside a budget, by measurement.

A layer is raised together with those that read it: a tensor stays in float only where both its
maker and its readers are. Sets are tried in the order in which their tensors suffer; the one that
brings the scores nearest for each layer that it costs is kept, until the loss is inside the budget;
then every layer that turns out not to be needed is lowered again. Where no set reaches the budget,
what is left are the layers without which more would be lost.
"""

from collections.abc import Callable

from onchip.quantize.precision import Precision, Search, candidates
from onchip.quantize.regions import Layer
from onchip.spec import Verdict

RESOLUTION = 0.3  # points: less than that is not worth a layer where the budget is out of reach
MOST = 12  # layers; a plan that needs more is better raised by hand, or the chip is wrong

Points = Callable[[bytes], float]  # a graph's loss


def choose_within(
    search: Search,
    points: Points,
    budget: float,
    unit: str,
    progress: Callable[[int], None] = lambda tried: None,
) -> Precision:
    """Return the plan with the fewest raised layers whose loss is inside the budget.

    Args:
        search: the plan, and what layers are tried on.
        points: measures the loss of a graph, in points.
        budget: the most points that may be lost.
        unit: what a point is, for the verdict.
        progress: called with the number of plans tried.
    """
    kept = dict.fromkeys(search.raised, f"kept in {search.precision} by the user")
    tried = 0

    def lost(nodes: dict[str, str]) -> float:
        nonlocal tried
        tried += 1
        progress(tried)
        return points(search.graph(search.plan_with(nodes)))

    first = loss = lost(kept)
    raised: dict[str, str] = {}
    while loss > budget and len(raised) < MOST:
        around = _best_step(search, kept | raised)
        if not around:
            break
        raised |= {x.node: "" for x in around}
        loss = lost(kept | raised)
    limit = max(budget, loss + RESOLUTION)
    for node in reversed(list(raised)):
        fewer = {n: "" for n in raised if n != node}
        if (without := lost(kept | fewer)) <= limit:
            raised, loss = fewer, without
    reason = f"raised: brings the loss from {first:.1f} to {loss:.1f} {unit}"
    plan = search.plan_with(kept | dict.fromkeys(raised, reason))
    return Precision(plan, search.loss(plan), (_verdict(raised, first, loss, budget, unit),))


def _best_step(search: Search, floats: dict[str, str]) -> tuple[Layer, ...]:
    """Return the set that brings the scores nearest, for each layer that it costs."""
    base = search.loss(search.plan_with(floats))
    best: tuple[Layer, ...] = ()
    most = 0.0
    for around in candidates(search, MOST - len(floats)):
        new = tuple(x for x in around if x.node not in floats)
        if not new:
            continue
        reached = search.loss(search.plan_with(floats | {x.node: "" for x in new}))
        if (gain := (base - reached) / len(new)) > most:
            best, most = new, gain
    return best


def _verdict(
    raised: dict[str, str], first: float, loss: float, budget: float, unit: str
) -> Verdict:
    names = ", ".join(raised) or "no layer"
    text = f"{len(raised)} layers raised ({names}): {first:.1f} to {loss:.1f} {unit}"
    if loss <= budget:
        return Verdict(code="precision_in_budget", message=f"{text}, inside {budget:g}")
    text += f"; the budget of {budget:g} is not reached by raising layers"
    return Verdict(code="budget_missed", message=text, level="warning")
