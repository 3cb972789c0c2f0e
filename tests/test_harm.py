"""What rounding does to the detections: foreseen, and then done."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from onchip.graph.clean import clean
from onchip.graph.prove import Cut, cut
from onchip.graph.read import read
from onchip.graph.run import Array, Runner
from onchip.graph.split import split_ends
from onchip.quantize.compete import USUAL, Judge, candidates, compete, decide, expected
from onchip.quantize.emit import emit
from onchip.quantize.harm import Wish, asked, cotangents, done, foreseen, influences
from onchip.quantize.influence import Influence
from onchip.quantize.observe import Maker, observe
from onchip.quantize.plan import QuantPlan, make_plan
from onchip.quantize.ranges import choose, fit, limits, rounded
from onchip.quantize.regions import Regions, divide
from onchip.quantize.settle import settle
from onchip.quantize.stats import Stats
from onchip.spec import InputSpec, QuantSpec
from onchip.targets.cpu import Cpu

import graphs

SPEC = InputSpec(name="images", width=96, height=64)
SIZE = (96, 64)
HEADS = ["yolov5", "yolov8", "yolo26", "yolox", "nanodet", "ssd", "rtdetr"]


def whole(name: str, folder: Path) -> Cut:
    path = folder / "m.onnx"
    onnx.save(graphs.BUILDERS[name](), path)
    return split_ends(cut(clean(read(path)).model))


@pytest.mark.parametrize("name", HEADS)
def test_a_cotangent_foretells_how_far_scores_and_edges_move(name: str, tmp_path: Path) -> None:
    found = whole(name, tmp_path)
    tensors = Runner(found.model.bytes)(found.model.noise(3))
    random = np.random.default_rng(1)
    step = {n: random.normal(0, 1e-3, t.shape).astype(np.float32) for n, t in tensors.items()}
    wanted = done(found.head, SIZE, tensors, {n: t + step[n] for n, t in tensors.items()})
    draws = []
    for _ in range(60):
        given = cotangents(found.head, tensors, SIZE, random)
        draws.append(sum(float((g * step[n]).sum()) for n, g in given.items()))
    assert np.mean(np.square(draws)) == pytest.approx(wanted, rel=0.6)  # 3 sigma of 60 squares


def together(felt: Influence, ends: tuple[float, float]) -> float:
    low, high = (np.asarray([end]) for end in ends)
    return float(felt.together(low, high)[0])


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def wishes(found: Cut, inputs: Sequence[Array], draws: int = 1) -> list[Wish]:
    run, random = Runner(found.model.bytes), np.random.default_rng(0)
    return [
        Wish.of(
            lambda x=x: x, *(cotangents(found.head, run(x), SIZE, random) for _ in range(draws))
        )
        for x in inputs
    ]


def planned(
    found: Cut, quant: QuantSpec, makers: list[Maker]
) -> tuple[Regions, dict[str, Stats], QuantPlan]:
    regions = divide(found.model, found.head, quant)
    seen = observe(found.model, found.head, regions, makers)
    plan = make_plan(found.model, regions, seen, quant, SPEC, images=len(makers))
    return regions, seen, plan


@pytest.mark.parametrize("name", ["yolov8", "yolox"])
def test_the_order_of_harms_is_that_of_the_truth(name: str, tmp_path: Path) -> None:
    found, quant = whole(name, tmp_path), replace(Cpu.quant, pair_limit=0)
    inputs = [found.model.noise(seed) for seed in range(6)]
    makers = [lambda x=x: x for x in inputs]
    regions, _, plan = planned(found, quant, makers)
    felt, unknown = influences(
        found.model, asked(found.model, regions), wishes(found, inputs, draws=2)
    )
    assert not unknown
    harms = foreseen(found.model, plan, felt)
    assert harms.keys() == set(regions.groups.values())
    run = Runner(found.model.bytes)
    wanted = [run(x) for x in inputs]
    truth = {}
    for group in harms:
        alone = replace(plan, layers=(), tensors=tuple(t for t in plan.tensors if t.group == group))
        rounded_one = Runner(emit(found.model, regions, alone).SerializeToString())
        truth[group] = sum(
            done(found.head, SIZE, w, rounded_one(x)) for w, x in zip(wanted, inputs, strict=True)
        )
    agreement = rank_correlation([harms[g] or 0 for g in harms], [truth[g] for g in harms])
    assert agreement >= 0.8
    # and not only the order: the sum of all is right to a factor
    assert 0.3 < 6 * sum(h for h in harms.values() if h) / sum(truth.values()) < 3


@pytest.mark.parametrize("name", ["yolov5", "nanodet"])
def test_ranges_that_compete_do_no_more_harm_than_the_usual_ones(name: str, tmp_path: Path) -> None:
    found, quant = whole(name, tmp_path), replace(Cpu.quant, pair_limit=0)
    inputs = [found.model.noise(seed) for seed in range(8)]
    makers = [lambda x=x: x for x in inputs]
    regions, seen, plan = planned(found, quant, makers)
    felt, _ = influences(found.model, asked(found.model, regions), wishes(found, inputs))
    groups: dict[str, list[str]] = {}
    for tensor, group in regions.groups.items():
        groups.setdefault(group, []).append(tensor)
    decided = {
        group: decide(found.model, group, names, seen, felt, "", quant)
        for group, names in groups.items()
        if not {"images"} & set(names)
    }
    assert all(d is None or d[1].group == group for group, d in decided.items())
    ranges = {group: d[0] for group, d in decided.items() if d is not None}
    assert len(ranges) > len(groups) / 2
    tensors = tuple(
        replace(t, scale=ranges[t.group].scale, zero=ranges[t.group].zero)
        if t.group in ranges
        else t
        for t in plan.tensors
    )
    before = foreseen(found.model, plan, felt)
    after = foreseen(found.model, replace(plan, tensors=tensors), felt)
    assert sum(after[g] or 0 for g in ranges) < 1.02 * sum(before[g] or 0 for g in ranges)


def test_a_tensor_behind_an_unknown_operator_is_unknown(tmp_path: Path) -> None:
    found = whole("yolov8", tmp_path)
    proto = onnx.ModelProto()
    proto.CopyFrom(found.model.proto)
    first = next(n for n in proto.graph.node if n.op_type == "Sigmoid")
    first.op_type = "Erf"
    model = found.model.changed(proto)
    regions = divide(model, found.head, Cpu.quant)
    felt, unknown = influences(model, asked(model, regions), wishes(found, [model.noise(0)]))
    assert set(unknown.values()) == {f"no rule for Erf ({first.name})"}
    assert felt and not felt.keys() & unknown.keys()
    seen = observe(model, found.head, regions, [lambda: model.noise(0)])
    plan = make_plan(model, regions, seen, Cpu.quant, SPEC, images=1)
    assert None in foreseen(model, plan, felt).values()


def test_the_harm_of_a_scale_is_that_of_every_value_by_its_gradient() -> None:
    random = np.random.default_rng(2)
    values = random.normal(0, 3, (4, 500)).astype(np.float32)
    gradient = random.normal(0, 1, (4, 500)).astype(np.float32)
    first = Influence(places=2.0)
    first.add(values[:, :200], gradient[:, :200])
    first.add(values[:, 200:], gradient[:, 200:])
    quant = QuantSpec()
    for ends in ((-10.0, 10.0), (-4.0, 6.0)):
        pair = fit(*ends, quant)
        errors = rounded(values, *pair, quant) - values
        wanted = float((gradient**2 * errors**2).sum())
        found = first.harm(*pair, quant) - together(first, limits(*pair, quant))
        assert found == pytest.approx(wanted, rel=0.05)
    assert first.power == pytest.approx(2 * (gradient**2).sum(axis=1), rel=1e-5)


def sampled(
    seed: int, spread: float, signed: bool, images: int = 6
) -> tuple[Stats, Influence, np.ndarray]:
    """What is seen and felt of a tensor with heavy tails."""
    random = np.random.default_rng(seed)
    seen, felt, everything = Stats(), Influence(), []
    for _ in range(images):
        values = (random.standard_t(3, (4, 300)) * spread).astype(np.float32)
        values = values if signed else np.abs(values)
        gradient = random.normal(0, 1, values.shape).astype(np.float32)
        everything.append(values)
        seen.add(values, np.ones(300))
        felt.add(values, gradient if signed else np.abs(gradient))
    return seen, felt, np.concatenate(everything, axis=1)


def test_what_is_cut_off_everywhere_alike_costs_more() -> None:
    quant = QuantSpec()
    found = []
    for signed in (True, False):
        _, felt, values = sampled(3, 1.0, signed)
        whole_range = fit(float(values.min()), float(values.max()), quant)
        assert together(felt, limits(*whole_range, quant)) == 0
        found.append(felt.harm(*fit(-2.0, 2.0, quant), quant))
    assert found[1] > 5 * found[0]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 99),
    st.floats(1e-3, 1e3),
    st.booleans(),
    st.sampled_from(["", "silu", "sigmoid", "relu", "leakyrelu:0.1"]),
    st.booleans(),
)
def test_no_candidate_beats_the_winner(
    seed: int, spread: float, signed: bool, reader: str, codes: bool
) -> None:
    quant = QuantSpec(activation_signed=codes)
    seen, felt, _ = sampled(seed, spread, signed)
    felt.reader = reader
    judge = Judge.of([seen], [felt], quant)
    chosen, contest = compete("t", [seen], [felt], reader, quant)
    assert judge([chosen.limits(quant)])[0] == pytest.approx(contest.harm, rel=1e-3, abs=1e-12)
    usual = choose([seen], reader, quant)
    assert contest.harm <= judge([usual.limits(quant)])[0] * (1 + 1e-5) + 1e-12
    assert contest.margin >= 0
    assert contest.low <= 0 <= contest.high
    if reader == "sigmoid":
        assert contest.high >= 2.9
    assert contest.winner in {*candidates([seen], (-1.0, 1.0), reader, quant), "least harm"}


def test_without_anything_felt_the_usual_rule_wins() -> None:
    seen, _, _ = sampled(1, 1.0, True)
    chosen, contest = compete("t", [seen], [Influence()], "silu", QuantSpec())
    usual = choose([seen], "silu", QuantSpec())
    assert contest.winner == USUAL and contest.runner_up == ""
    assert chosen.scale == pytest.approx(usual.scale, rel=1e-3)
    assert chosen.sqnr_db == pytest.approx(usual.sqnr_db, abs=2)  # it counts coarser


def test_values_that_were_felt_in_no_image_count_as_those_of_their_size() -> None:
    random = np.random.default_rng(0)
    seen, felt = Stats(), Influence()
    values = random.normal(0, 1, (2, 2000)).astype(np.float32)
    felt.add(values, 0.1 + np.abs(values))  # the larger, the more it counts
    values[0, :20] = 6.0  # seen once, in an image that was not carried back
    seen.add(values, np.ones(2000))
    others, counts = expected(seen, felt)
    assert counts.sum() == pytest.approx(felt.each[1].sum())
    each = counts / seen.weights
    assert each[np.abs(others) > 5].min() > 2 * each[np.abs(others) < 1].mean()


def test_constant_and_dead_tensors_have_a_range() -> None:
    for value in (0.0, 2.5, -1.0):
        seen, felt = Stats(), Influence()
        values = np.full((3, 50), value, np.float32)
        seen.add(values, np.ones(50))
        felt.add(values, np.zeros_like(values))
        chosen, contest = compete("t", [seen], [felt], "", QuantSpec())
        assert np.isfinite([chosen.scale, chosen.sqnr_db, contest.harm, contest.margin]).all()
        assert rounded(values, chosen.scale, chosen.zero, QuantSpec()) == pytest.approx(
            values, abs=0.02
        )


def test_the_network_itself_settles_between_plans(tmp_path: Path) -> None:
    found = whole("yolov8", tmp_path)
    regions = divide(found.model, found.head, Cpu.quant)
    inputs = [found.model.noise(seed) for seed in range(3)]
    seen = observe(found.model, found.head, regions, [lambda x=x: x for x in inputs])
    good = make_plan(found.model, regions, seen, Cpu.quant, SPEC, images=3)
    narrow = tuple(
        replace(t, scale=t.scale / 4) if t.name == regions.layers[2].output else t
        for t in good.tensors
    )
    plans = {"narrow": replace(good, tensors=narrow), "good": good}
    name, harms = settle(found.model, found.head, plans, inputs)
    assert name == "good" and 0 < harms["good"] < harms["narrow"]
