"""Recipes: what they are made of, and what each algorithm does by itself."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from onchip.artifact import Artifact
from onchip.build import Options, optimize, parse, planned_model
from onchip.errors import InputError
from onchip.quantize.plan import QuantPlan
from onchip.quantize.recipe import ALGORITHMS, PLAIN, RECIPES, recipe

from conftest import DEMO


def made(parsed: Artifact, scenes: Sequence[Path], text: str) -> tuple[QuantPlan, set[str]]:
    found = optimize(parsed, scenes, options=Options(recipe=recipe(text)))
    said = {v.code for v in found.manifest.verdicts}
    return msgspec.json.decode(found.payload("plan"), type=QuantPlan), said


def test_a_recipe_is_a_name_or_a_list() -> None:
    assert recipe("best") == RECIPES["best"]
    assert recipe("balanced,-weights").algorithms == ("equalize", "split", "ranges")
    assert recipe("ranges,split").algorithms == ("split", "ranges")
    assert recipe("fast,settle").algorithms == ("equalize", "split", "settle")
    assert recipe("best,-settle").felt == RECIPES["best"].felt
    for wrong in ("bets", "balanced,-weight", "", "balanced,", "-"):
        with pytest.raises(InputError, match="there is no recipe or algorithm"):
            recipe(wrong)


def test_every_recipe_has_more_than_the_one_before() -> None:
    sets = [set(RECIPES[n].algorithms) for n in ("fast", "balanced", "best")]
    assert sets[0] < sets[1] < sets[2] == set(ALGORITHMS)


def test_each_algorithm_does_its_part_alone(parsed: Artifact, scenes: list[Path]) -> None:
    plain, said = made(parsed, scenes, "equalize")
    assert not plain.contests and not any(x.codes for x in plain.layers)
    ranged, said = made(parsed, scenes, "ranges")
    assert ranged.contests and "ranges_contested" in said
    assert not any(x.codes for x in ranged.layers)
    fitted, said = made(parsed, scenes, "weights")
    assert all(x.codes for x in fitted.layers) and "weights_fitted" in said
    assert fitted.tensors == plain.tensors and not fitted.contests
    both, _ = made(parsed, scenes, "ranges,weights")
    assert both.contests == ranged.contests and both.tensors == ranged.tensors


def test_a_contest_names_its_group_and_its_winner(parsed: Artifact, scenes: list[Path]) -> None:
    plan, _ = made(parsed, scenes, "ranges")
    tensors = {t.name: t for t in plan.tensors}
    for contest in plan.contests:
        low, high = tensors[contest.group].limits(plan.quant)
        assert (low, high) == pytest.approx((contest.low, contest.high), rel=1e-5)
        assert contest.winner != contest.runner_up and contest.margin >= 0 and contest.harm >= 0
        assert contest.describe() in plan.describe()


def test_another_recipe_is_another_plan_and_the_same_one_is_not_made_again(
    parsed: Artifact, scenes: list[Path]
) -> None:
    first = optimize(parsed, scenes, options=Options(recipe=RECIPES["fast"]))
    again = optimize(parsed, scenes, options=Options(recipe=RECIPES["fast"]), older=first)
    assert again.payloads == first.payloads
    other = optimize(parsed, scenes, older=first)
    assert other.manifest.stages[1].key != first.manifest.stages[1].key
    assert other.manifest.stages[1].notes["recipe"].startswith("balanced: ")
    assert planned_model(other).bytes


def test_best_keeps_the_better_of_two_plans(parsed: Artifact, scenes: list[Path]) -> None:
    plan, said = made(parsed, scenes, "best")
    assert any(x.codes for x in plan.layers) == ("weights_fitted" in said)
    assert len(said & {"weights_fitted", "weights_not_fitted"}) == 1


def test_a_chip_whose_compiler_quantizes_gets_none(scenes: list[Path]) -> None:
    begun = parse(DEMO, "hailo8l", scenes)
    plan, _ = made(begun, scenes, "best")
    assert not plan.contests and not any(x.codes for x in plan.layers)
    made_of = optimize(begun, scenes).manifest.stages[1].notes["recipe"]
    assert made_of == PLAIN.describe()
