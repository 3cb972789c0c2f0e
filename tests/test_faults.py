"""One wrong range among many doubtful ones is found by repairing ever fewer of them together."""

import math

import pytest
from msgspec.structs import replace

from onchip.measure.faults import Fault, Near, halved, ranked
from onchip.measure.suspects import Suspect, together
from onchip.quantize.plan import QuantPlan, TensorPlan
from onchip.spec import QuantSpec

MANY = 37
WRONG, RIGHT, MENDED = 8.0, 1.0, 1.1  # scales


def scales(plan: QuantPlan) -> dict[str, float]:
    return {t.name: t.scale for t in plan.tensors}


def plan_with(wrong: int) -> QuantPlan:
    made = tuple(
        TensorPlan(
            name=f"t{i}",
            scale=WRONG if i == wrong else RIGHT,
            zero=0,
            sqnr_db=30.0,
            group=f"t{i}",
        )
        for i in range(MANY)
    )
    return QuantPlan(quant=QuantSpec(), images=8, tensors=made, layers=())


def doubted_in(plan: QuantPlan, code: str = "saturated") -> list[Suspect]:
    """Every tensor, each with the plan in which it alone has another scale."""

    def mended(name: str) -> QuantPlan:
        changed = (replace(t, scale=MENDED) if t.name == name else t for t in plan.tensors)
        return replace(plan, tensors=tuple(changed))

    return [Suspect(f"n{t.name}", t.name, code, "", 20.0, mended(t.name)) for t in plan.tensors]


@pytest.mark.parametrize("wrong", [0, 1, 17, MANY - 1])
def test_the_one_wrong_range_is_found(wrong: int) -> None:
    plan, asked = plan_with(wrong), []

    def near(tried: QuantPlan) -> Near:
        asked.append(tried)
        lost = sum(math.log2(s / RIGHT) for s in scales(tried).values())
        return Near(0.9, -lost)

    (found,) = halved(near, plan, doubted_in(plan))
    assert found.tensor == f"t{wrong}"
    assert len(asked) <= 2 * math.ceil(math.log2(MANY))


def test_what_is_no_range_of_one_tensor_is_not_halved() -> None:
    plan = plan_with(3)

    def never(tried: QuantPlan) -> Near:
        raise AssertionError("nothing is to be tried")

    assert halved(never, plan, []) == []
    assert halved(never, plan, doubted_in(plan, "bias")) == []
    assert [s.tensor for s in halved(never, plan, doubted_in(plan)[:1])] == ["t0"]


def test_repaired_together_is_each_repair_and_nothing_else() -> None:
    plan = plan_with(3)
    found = doubted_in(plan)
    both = scales(together(plan, [found[3], found[7]]))
    assert both == {**scales(plan), "t3": MENDED, "t7": MENDED}
    assert together(plan, []) == plan


def fault(code: str, win: float, win_db: float, node: str = "Conv_1") -> Fault:
    return Fault(node, "", code, "", win, win_db)


@pytest.mark.parametrize(
    ("found", "first"),
    [
        ([fault("saturated", 0.03, 2.0), fault("bits", 0.2, 9.0)], "saturated"),
        ([fault("stale_ranges", 0.2, 8.0, ""), fault("bias", 0.15, 6.0)], "bias"),
        ([fault("stale_ranges", 0.2, 8.0, ""), fault("bias", 0.0, 0.6)], "stale_ranges"),
        ([fault("saturated", 0.033, 0.5), fault("coarse", 0.04, 0.2)], "coarse"),
        ([fault("saturated", 0.3, 9.0), fault("coarse", 0.04, 0.2)], "saturated"),
        # the repair of what contradicts itself is told though it wins nothing
        ([fault("weights", -0.02, -0.3)], "weights"),
    ],
)
def test_which_fault_is_named_first(found: list[Fault], first: str) -> None:
    order = ranked(found)
    assert order[0].code == first
    assert sorted(map(repr, order)) == sorted(map(repr, found))


def test_without_faults_none_is_named() -> None:
    assert ranked([]) == ()
