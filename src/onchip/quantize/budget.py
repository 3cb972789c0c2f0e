"""Raise the fewest layers that bring the loss inside a budget, by measurement.

What raising would win is foreseen for every tensor at once, which gives ever larger sets of layers
(see tradeoff.py). The smallest that keeps the budget is found by halving, each measured on photos;
then every layer that turns out not to be needed is lowered again. Where no set reaches the budget,
what is left are the layers without which more would be lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from onchip.quantize.plan import QuantPlan
from onchip.quantize.precision import Precision, Search
from onchip.quantize.tune import Tuned
from onchip.spec import Verdict

RESOLUTION = 0.3  # points: less than that is not worth a layer where the budget is out of reach

Points = Callable[[bytes], float]  # a graph's loss


class _Measured:
    """Plans with layers raised, and what each loses; each is made once."""

    def __init__(self, search: Search, points: Points, progress: Callable[[int], None]) -> None:
        self._search, self._points, self._progress = search, points, progress
        self._kept = dict.fromkeys(search.raised, f"kept in {search.precision} by the user")
        self._made: dict[frozenset[str], tuple[QuantPlan, Tuned, float]] = {}

    def made(self, nodes: Sequence[str]) -> tuple[QuantPlan, Tuned, float]:
        """The plan with these raised, the same with fitted weights, and the points it loses."""
        known = frozenset(nodes)
        if known not in self._made:
            plan = self._search.plan_with(self._kept | dict.fromkeys(nodes, ""))
            tuned = self._search.fit(plan)
            lost = self._points(self._search.graph(tuned.plan))
            self._made[known] = plan, tuned, lost
            self._progress(len(self._made))
        return self._made[known]

    def lost(self, nodes: Sequence[str]) -> float:
        """The points that it loses."""
        return self.made(nodes)[2]


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
    measured = _Measured(search, points, progress)
    first = measured.lost(())
    raised = () if first <= budget else _fewest(measured, search, budget)
    limit = max(budget, measured.lost(raised) + RESOLUTION)
    for node in reversed(raised):
        fewer = tuple(n for n in raised if n != node)
        if measured.lost(fewer) <= limit:
            raised = fewer
    plan, tuned, loss = measured.made(raised)
    why = dict.fromkeys(raised, f"raised: brings the loss from {first:.1f} to {loss:.1f} {unit}")
    plan, tuned = plan.explained(why), replace(tuned, plan=tuned.plan.explained(why))
    said = _verdict(raised, first, loss, budget, unit)
    return Precision(plan, search.loss(plan), (said,), tuned)


def _fewest(measured: _Measured, search: Search, budget: float) -> tuple[str, ...]:
    """Return the smallest set that keeps the budget, or the largest where none does."""
    sets = [s.layers for s in search.tradeoff.steps()]
    if not sets or measured.lost(sets[-1]) > budget:
        return sets[-1] if sets else ()
    low, high = -1, len(sets) - 1  # the first does not keep it, the last does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if measured.lost(sets[middle]) <= budget else (middle, high)
    return sets[high]


def _verdict(raised: Sequence[str], first: float, loss: float, budget: float, unit: str) -> Verdict:
    names = ", ".join(raised) or "no layer"
    text = f"{len(raised)} layers raised ({names}): {first:.1f} to {loss:.1f} {unit}"
    if loss <= budget:
        return Verdict(code="precision_in_budget", message=f"{text}, inside {budget:g}")
    text += f"; the budget of {budget:g} is not reached by raising layers"
    return Verdict(code="budget_missed", message=text, level="warning")
