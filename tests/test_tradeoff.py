"""What raising layers would win, foreseen."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from onchip.artifact import Artifact
from onchip.build import Options, optimize, parse
from onchip.quantize.plan import QuantPlan
from onchip.quantize.recipe import recipe

from conftest import DEMO


def plan_of(parsed: Artifact, photos: Sequence[Path], **options: object) -> QuantPlan:
    made = optimize(parsed, photos, options=Options(max_float=0, **options))  # type: ignore[arg-type]
    return msgspec.json.decode(made.payload("plan"), type=QuantPlan)


@pytest.mark.parametrize("target", ["cpu", "rk3588", "tflite"])
def test_more_layers_cost_more_and_leave_less(target: str, scenes: list[Path]) -> None:
    plan = plan_of(parse(DEMO, target, scenes), scenes)
    steps = plan.raising
    assert steps and all(0 < s.cost <= 1 and 0 <= s.error < 1 for s in steps)
    for before, after in pairwise(steps):
        assert set(before.layers) < set(after.layers)
        assert before.cost < after.cost and before.error > after.error
    assert {n for s in steps for n in s.layers} <= {x.node for x in plan.layers}


def test_what_is_foreseen_comes_true(scenes: list[Path]) -> None:
    # raised as foreseen, the tensors that remain do the harm that was said to remain
    begun = parse(DEMO, "rk3588", scenes)
    plain = recipe("balanced,-weights,-equalize,-split")
    plan = plan_of(begun, scenes, recipe=plain)
    whole = sum(c.harm for c in plan.contests)
    for step in (plan.raising[0], plan.raising[-1]):
        raised = plan_of(begun, scenes, recipe=plain, keep_float=step.layers)
        assert set(raised.floats) == set(step.layers)
        left = sum(c.harm for c in raised.contests)
        assert left < whole
        # groups that lose a member get a better range, so that it may be less than foreseen
        assert (left / whole) ** 0.5 <= step.error * 1.1


def test_a_plan_without_gradients_foresees_nothing(parsed: Artifact, scenes: list[Path]) -> None:
    assert not plan_of(parsed, scenes, recipe=recipe("fast")).raising
