"""The quantizer's maths, by properties, and its graph against its own plan."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from msgspec.structs import replace

from onchip.graph.clean import clean
from onchip.graph.prove import Cut, cut
from onchip.graph.read import read
from onchip.graph.run import Runner
from onchip.graph.split import split_ends
from onchip.quantize import weights
from onchip.quantize.activations import function
from onchip.quantize.emit import emit
from onchip.quantize.observe import observe
from onchip.quantize.plan import QuantPlan, make_plan
from onchip.quantize.ranges import POWER, choose, fit
from onchip.quantize.regions import divide
from onchip.quantize.stats import Stats
from onchip.spec import InputSpec, QuantSpec
from onchip.targets.cpu import Cpu, CpuSession

import graphs

floats32 = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.booleans())
def test_a_fitted_range_holds_zero_and_covers_both_ends(a: float, b: float, signed: bool) -> None:
    quant = QuantSpec(activation_signed=signed)
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale, zero = fit(low, high, quant)
    assert quant.qmin <= zero <= quant.qmax
    assert (quant.qmin - zero) * scale <= low + scale
    assert (quant.qmax - zero) * scale >= high - scale


samples = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=floats32
)


@given(st.lists(samples, min_size=1, max_size=6), st.integers(0, 5))
def test_statistics_of_shards_merge_to_those_of_one_pass(parts: list[np.ndarray], at: int) -> None:
    parts = [p[:1] for p in parts]
    one, left, right = Stats(), Stats(), Stats()
    for number, part in enumerate(parts):
        weight = np.linspace(0.5, 1.5, part.shape[1])
        one.add(part, weight)
        (left if number < at else right).add(part, weight)
    left.merge(right)
    assert left.samples == one.samples
    np.testing.assert_allclose(left.total, one.total, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(left.low, one.low)
    np.testing.assert_array_equal(left.high, one.high)
    np.testing.assert_allclose(left.counts.sum(), one.counts.sum(), rtol=1e-9)
    merged_mean = float(left.centers @ left.weights)
    assert abs(merged_mean - float(one.centers @ one.weights)) <= 2 ** (left.exponent + 2)


@given(samples)
def test_a_histogram_knows_its_values_to_a_bin(values: np.ndarray) -> None:
    stats = Stats()
    stats.add(values, np.ones(values.shape[1]))
    nearest = np.abs(stats.centers[None] - values.reshape(-1, 1)).min(axis=1)
    assert nearest.max() <= 2.0**stats.exponent


@pytest.mark.parametrize("reader", ["", "silu", "sigmoid"])
def test_the_chosen_range_beats_the_whole_range(reader: str) -> None:
    random = np.random.default_rng(0)
    values = random.normal(0, 1, (8, 4000)).astype(np.float32)
    values[0, 0] = 12.0  # one outlier
    stats = Stats()
    stats.add(values, np.ones(4000))
    quant = QuantSpec()
    chosen = choose([stats], reader, quant)
    f = function(reader)

    def loss(scale: float, zero: int) -> float:
        codes = np.clip(np.rint(values / scale) + zero, quant.qmin, quant.qmax)
        return float((np.abs(f((codes - zero) * scale) - f(values)) ** POWER).mean())

    whole = fit(float(values.min()), float(values.max()), quant)
    assert loss(chosen.scale, chosen.zero) <= 1.01 * loss(*whole)
    if reader == "sigmoid":  # the upper end of a score is never cut
        assert chosen.limits(quant)[1] >= 11.9


weight_arrays = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(2, 6), st.just(3), st.just(3)), elements=st.floats(-4, 4, width=32)
)  # fmt: skip


@given(weight_arrays, st.integers(0, 255))
def test_no_pair_of_products_overflows_sixteen_bits(values: np.ndarray, top: int) -> None:
    quant = QuantSpec(pair_limit=32767)
    largest = np.full(values.shape[1], top, np.float32)
    scale = weights.scales(values, quant, largest)
    codes = weights.codes(values, scale, quant)
    flat = weights.rows(codes.astype(np.float32))
    if flat.shape[1] % 2:
        flat = np.pad(flat, ((0, 0), (0, 1)))
    pairs = flat.reshape(len(flat), -1, 2)
    assert (np.maximum(pairs, 0).sum(2) * top).max() <= 32767
    assert (np.maximum(-pairs, 0).sum(2) * top).max() <= 32767


@given(weight_arrays)
def test_rounded_weights_stay_within_half_a_step(values: np.ndarray) -> None:
    quant = QuantSpec()
    scale = weights.scales(values, quant)
    error = np.abs(weights.codes(values, scale, quant) * scale[:, None, None, None] - values)
    assert (error <= scale[:, None, None, None] * 0.5001 + 1e-9).all()


SPEC = InputSpec(name="images", width=96, height=64)


def planned(
    proto: onnx.ModelProto, folder: Path, quant: QuantSpec, **more: object
) -> tuple[Cut, QuantPlan]:
    path = folder / "m.onnx"
    onnx.save(proto, path)
    found = split_ends(cut(clean(read(path)).model))
    regions = divide(found.model, found.head, quant, **more)  # type: ignore[arg-type]
    inputs = [found.model.noise(seed) for seed in range(6)]
    seen = observe(found.model, found.head, regions, [lambda x=x: x for x in inputs])
    return found, make_plan(found.model, regions, seen, quant, SPEC, images=6)


@pytest.mark.parametrize(
    "name", ["yolov5", "yolov8", "yolo26", "yolox", "nanodet", "ssd", "rtdetr"]
)
def test_every_head_quantizes_and_its_kernels_agree_with_its_plan(
    name: str, tmp_path: Path
) -> None:
    found, plan = planned(graphs.BUILDERS[name](), tmp_path, Cpu.quant)
    regions = divide(found.model, found.head, plan.quant, plan.floats)
    data = emit(found.model, regions, plan).SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(data))
    noise = found.model.noise(9)
    wanted, kernels = Runner(found.model.bytes)(noise), CpuSession(data)(noise)
    emulated = Runner(data, optimize=False)(noise)
    for tensor, values in wanted.items():
        spread = float(values.max() - values.min())
        assert np.abs(emulated[tensor] - values).max() < 0.2 * spread + 0.05
        assert np.abs(kernels[tensor] - emulated[tensor]).max() < 0.05 * spread + 0.02
    assert "calibrated on 6 images" in plan.describe()


def test_a_relu_stays_where_it_shares_a_scale_with_what_is_negative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backbone(net: graphs.Net) -> list[str]:
        x, maps = net.conv("images", 3, 8, 3, 4), []
        for _ in range(3):
            parts = [net.op("Relu", net.conv(x, 8, 4, 3, 2)), net.conv(x, 8, 4, 3, 2)]
            maps.append(x := net.op("Concat", *parts, axis=1))
        return maps

    monkeypatch.setattr(graphs.Net, "backbone", backbone)
    found, plan = planned(graphs.yolov8(), tmp_path, Cpu.quant)
    regions = divide(found.model, found.head, plan.quant, plan.floats)
    noise = found.model.noise(9)
    emulated = Runner(emit(found.model, regions, plan).SerializeToString())(noise)
    for tensor, values in Runner(found.model.bytes)(noise).items():
        assert np.corrcoef(emulated[tensor].ravel(), values.ravel())[0, 1] > 0.99


def test_what_stays_in_float_is_computed_in_float() -> None:
    """ONNX Runtime quantizes the weights of a convolution between codes, unless it is told not to."""
    net = graphs.Net(seed=4)
    step, zero = net.const(1 / 16), net.const(128, np.uint8)
    weight = net.random.normal(0, 0.1, (4, 3, 3, 3))
    weight[:, 0, 0, 0] = 30.0  # beside which eight bits leave nothing of the others
    entry = net.op("DequantizeLinear", net.op("QuantizeLinear", "images", step, zero), step, zero)
    conv = net.op("Conv", entry, net.const(weight), net.const(np.zeros(4)), kernel_shape=[3, 3])
    codes = net.op("QuantizeLinear", conv, step, zero)
    end = net.op("DequantizeLinear", codes, step, zero)
    data = net.model({"end": end}).SerializeToString()
    noise = np.random.default_rng(1).uniform(-0.2, 0.2, (1, 3, net.height, net.width))
    tensor = noise.astype(np.float32)
    as_written, found = Runner(data, optimize=False).run(tensor)[0], Runner(data).run(tensor)[0]
    assert np.abs(as_written - found).max() <= 1 / 16
    (ran,) = CpuSession(data)(tensor).values()
    assert np.abs(as_written - ran).max() <= 1 / 16


def test_boxes_and_scores_have_a_scale_each(tmp_path: Path) -> None:
    found, plan = planned(graphs.nanodet(), tmp_path, Cpu.quant)
    groups = {t.name: t.group for t in plan.tensors}
    roles: dict[str, set[str]] = {}
    for tensor in found.head.tensors:
        roles.setdefault(groups[tensor.name], set()).add(tensor.role)
    assert all(len(r) == 1 for r in roles.values())


def test_a_layer_kept_in_float_is_float(tmp_path: Path) -> None:
    found, plan = planned(graphs.yolov8(), tmp_path, Cpu.quant)
    first = plan.layers[0].node
    regions = divide(found.model, found.head, Cpu.quant, [first])
    assert first not in regions.integer
    graph = emit(found.model, regions, replace(plan, layers=tuple(
        replace(x, precision="float32") if x.node == first else x for x in plan.layers
    ))).graph  # fmt: skip
    node = next(n for n in graph.node if n.name == first)
    assert not any(
        n.op_type == "DequantizeLinear" and node.input[1] in n.output for n in graph.node
    )


def test_memory_is_flat_in_the_number_of_images(tmp_path: Path) -> None:
    found, _ = planned(graphs.yolov8(), tmp_path, Cpu.quant)
    regions = divide(found.model, found.head, Cpu.quant)
    alive = [0, 0]  # now, and at most

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive[0] -= 1

    def make() -> np.ndarray:
        alive[0] += 1
        alive[1] = max(alive)
        return found.model.noise(1).view(Counted)

    observe(found.model, found.head, regions, [make] * 40)
    assert alive[1] <= 8


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100))
def test_shards_give_the_plan_of_one_pass(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    path = folder / "m.onnx"
    onnx.save(graphs.yolov8(seed=seed), path)
    found = cut(clean(read(path)).model)
    regions = divide(found.model, found.head, Cpu.quant)
    inputs = [found.model.noise(i) for i in range(4)]
    plans = []
    for workers in (1, 2):
        seen = observe(
            found.model, found.head, regions, [lambda x=x: x for x in inputs], workers=workers
        )
        plans.append(make_plan(found.model, regions, seen, Cpu.quant, SPEC, images=4))
    for a, b in zip(plans[0].tensors, plans[1].tensors, strict=True):
        assert a.zero == pytest.approx(b.zero, abs=2)
        assert a.scale == pytest.approx(b.scale, rel=0.02)
