"""Weights and values of every size, damaged ones, dead ones, photos that show nothing."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper

from onchip.build import optimize, parse
from onchip.errors import InputError
from onchip.graph.read import Model
from onchip.measure.calibration import Calibration
from onchip.quantize import solve, sound, weights
from onchip.quantize.plan import LayerPlan, QuantPlan, TensorPlan
from onchip.quantize.ranges import choose, fit, fits
from onchip.quantize.regions import Regions, layers
from onchip.quantize.stats import Stats
from onchip.spec import InputSpec, QuantSpec, Verdict

import graphs

TINY = float(np.finfo(np.float32).tiny)
SPECS = (
    QuantSpec(),
    QuantSpec(pair_limit=32767),
    QuantSpec(activation_signed=True, per_channel=False, weight_top=127),
    QuantSpec(barred_zero=128),
)
# denormals, zeros, usual ones, and as large as float32 gets
wild = st.one_of(
    st.just(0.0),
    st.floats(-(2.0**127), 2.0**127, width=32),
    st.floats(-(2.0**-120), 2.0**-120, width=32),
    st.floats(-4, 4, width=32),
)
kernels = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(1, 4), st.just(1), st.just(3)), elements=wild
)  # fmt: skip
samples = arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=wild)
specs = st.sampled_from(SPECS)


def assert_usable(scales: object) -> None:
    found = np.asarray(scales, np.float32)
    assert np.isfinite(found).all()
    assert (found >= TINY).all()


@given(kernels, specs, st.integers(0, 255))
def test_weights_of_any_size_have_scales_and_codes(
    values: np.ndarray, quant: QuantSpec, top: int
) -> None:
    largest = np.full(values.shape[1], top, np.float32)
    scales = weights.scales(values, quant, largest)
    assert_usable(scales)
    codes = weights.codes(values, scales, quant)
    assert codes.min() >= quant.weight_min
    assert codes.max() <= quant.weight_max


@given(wild, wild, specs)
def test_a_range_of_any_size_has_a_scale(a: float, b: float, quant: QuantSpec) -> None:
    low, high = min(a, b), max(a, b)
    scale, zero = fit(low, high, quant)
    assert_usable(scale)
    assert quant.qmin <= zero <= quant.qmax
    assert zero != quant.barred_zero
    assert_usable(scale * weights.FINEST)  # what a bias is coded in
    many = fits([(low, high), (0.0, 1.0)], quant)
    assert (float(many[0][0]), int(many[1][0])) == (pytest.approx(scale), zero)


@given(st.lists(samples, min_size=1, max_size=4), specs, st.sampled_from(["", "silu", "sigmoid"]))
def test_values_of_any_size_have_a_range(
    parts: list[np.ndarray], quant: QuantSpec, reader: str
) -> None:
    one, other = Stats(), Stats()
    for number, part in enumerate(parts):
        (one if number % 2 else other).add(part[:1], np.ones(part.shape[1]))
    one.merge(other)
    assert np.isfinite(one.mean).all()
    found = choose([one], reader, quant)
    assert_usable(found.scale)
    assert np.isfinite(found.sqnr_db)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_counted(value: float) -> None:
    with pytest.raises(InputError, match="an activation is NaN or infinite"):
        Stats().add(np.asarray([[1.0, value]], np.float32), np.ones(2))


@given(
    arrays.arrays(np.float32, 4, elements=st.floats(2.0**-33, 1e6, width=32)),
    arrays.arrays(np.float32, 4, elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(1e-15, 1e6),
    specs,
)
def test_with_room_the_bias_is_in_the_product_of_both_scales(
    scales: np.ndarray, bias: np.ndarray, step: float, quant: QuantSpec
) -> None:
    roomy = weights.with_room(scales, bias, step, quant)
    assert (roomy >= scales).all()
    codes, used = weights.coded_bias(bias, step, roomy)
    # kernels take the product for the bias's scale, whatever the graph says
    np.testing.assert_allclose(used, np.float32(step) * roomy, rtol=1e-5)
    assert (np.abs(codes * used.astype(float) - bias) <= used * 0.51 + 1e-6 * np.abs(bias)).all()


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-20, 1.0, 1e12, 1e18, 1e37])
@pytest.mark.parametrize("quant", SPECS[:3])
def test_weights_can_be_solved_for_inputs_of_any_size(size: float, quant: QuantSpec) -> None:
    random = np.random.default_rng(0)
    values = random.normal(0, 1, (4, 3, 1, 1)).astype(np.float32)
    values[0] = 0
    patches = random.normal(0, 1, (1, 64, 3)).astype(np.float32) * np.float32(size)
    tally = solve.Tally(1, 3, 4)
    missed = random.normal(0, 0.1, (1, 64, 4)).astype(np.float32) * np.float32(size)
    tally.add(patches, missed, np.ones(64))
    bias = np.asarray([0.5, 0.0, -3.0, 1e4])
    found = solve.solve(values, bias, tally.moments(), quant, step=max(size, 1e-9) / 255)
    assert_usable(found.scales)
    assert np.isfinite(found.bias).all()
    assert found.codes.min() >= quant.weight_min
    assert found.codes.max() <= quant.weight_max


# ---- what is said ----


def changed(change: Callable[[np.ndarray], None], index: int = 3, part: int = 1) -> Model:
    """A little detector of which one layer's weights (1) or bias (2) were changed."""
    proto = graphs.yolov8()
    node = [n for n in proto.graph.node if n.op_type == "Conv"][index]
    tensor = next(t for t in proto.graph.initializer if t.name == node.input[part])
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return Model(proto, "")


def put(at: object, value: float) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[at] = value

    return change


@pytest.mark.parametrize(
    ("value", "part", "text"),
    [
        (np.nan, 1, "1 of 576 weights of Conv_10 are NaN (c10)"),
        (-np.inf, 1, "1 of 576 weights of Conv_10 are infinite (c10)"),
        (np.inf, 2, "1 of 8 weights of Conv_10 are infinite (c11)"),
    ],
)
def test_a_damaged_weight_is_named(value: float, part: int, text: str) -> None:
    first = (0,) * (4 if part == 1 else 1)
    with pytest.raises(InputError) as error:
        sound.check_weights(changed(put(first, value), part=part))
    assert str(error.value) == text


def test_a_mask_of_an_attention_may_be_infinite() -> None:
    net = graphs.Net()
    x = net.conv("images", 3, 4)
    mask = net.const(np.full((1, 4, 1, 1), -np.inf))
    seen = net.op("Where", net.const(np.ones((1, 4, 1, 1)), bool), x, mask)
    sound.check_weights(Model(net.model({"y": seen}), ""))


def said(model: Model) -> list[str]:
    return [v.message for v in sound.weights_said(layers(model), model)]


def test_faint_weights_are_named() -> None:
    assert said(changed(put((), 1.0))) == []
    assert said(changed(put(slice(0, 2), 1e-20))) == []  # a batch norm that has shut two channels
    assert said(changed(put((), 1e-40))) == [
        "weights of Conv_10 reach no further than 1.0e-40: they were taken as zero"
    ]


def test_weights_that_are_codes_already_are_named() -> None:
    net = graphs.Net()
    random = np.random.default_rng(0)
    codes = random.integers(-127, 128, (4, 64, 3, 3)) * random.random((4, 1, 1, 1))
    x = net.conv("images", 3, 64)
    y = net.op("Conv", x, net.const(codes), name="coded", kernel_shape=[3, 3])
    assert said(Model(net.model({"y": y}), "")) == [
        "the weights are codes of 8 bits already, in float: what was lost by that is in the float "
        "network, and no figure here shows it"
    ]
    other = net.op("Conv", x, net.const(random.normal(size=(4, 64, 3, 3))), kernel_shape=[3, 3])
    assert said(Model(net.model({"y": y, "z": other}), "")) == []


def seen_as(rows: object) -> Stats:
    values = np.asarray(rows, np.float32)
    stats = Stats()
    stats.add(values, np.ones(values.shape[1]))
    return stats


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[1, 2], [0, 3]], ""),
        ([[2, 2], [0, 3]], "1 channel of Conv_0 without any change on the calibration images: training has shut them, or the images do not show what they look for"),
        ([[2, 2], [0, 0]], "Conv_0 gives the same for every place of every calibration image: what is behind sees nothing of them"),
        ([[1e-30, 2e-30], [0, 1e-42]], "values of Conv_0 stay below 1e-20: they were taken as zero"),
    ],
)  # fmt: skip
def test_values_that_never_change_are_named(rows: object, text: str) -> None:
    model = changed(put((), 1.0))
    first = layers(model)[0]
    regions = Regions((first,), frozenset(), (), (), {}, {}, (), {})
    found = sound.activations_said(regions, {first.raw: seen_as(rows)})
    assert " ".join(v.message for v in found) == text


def plan(**fields: object) -> QuantPlan:
    tensor = TensorPlan(name="t", scale=0.1, zero=0, sqnr_db=9.0, group="t")
    layer = LayerPlan(node="Conv_0", precision="float16", reason="", scales=(0.1,))
    whole = {"tensors": (tensor,), "layers": (layer,), **fields}
    return QuantPlan(quant=QuantSpec(), images=1, **whole)  # type: ignore[arg-type]


def test_float16_that_overflows_is_named() -> None:
    first = layers(changed(put((), 1.0)))[0]
    regions = Regions((first,), frozenset(), (), (), {}, {}, (), {})
    assert sound.half_said(plan(), regions, {first.raw: seen_as([[1, 60000]])}) == ()
    found = sound.half_said(plan(), regions, {first.raw: seen_as([[1, 70000]])})
    assert [v.message for v in found] == [
        "Conv_0 reach past 65504, where float16 ends: they overflow on the chip"
    ]


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-40, float("nan"), float("inf"), 1e39])
def test_a_plan_that_no_chip_can_use_is_refused(scale: float) -> None:
    sound.check_plan(plan())
    tensor = TensorPlan(name="t", scale=scale, zero=0, sqnr_db=9.0, group="t")
    layer = LayerPlan(node="n", precision="int8", reason="", scales=(1.0, scale))
    for damaged in (plan(tensors=(tensor,)), plan(layers=(layer,))):
        with pytest.raises(InputError):
            sound.check_plan(damaged)
    moved = LayerPlan(node="n", precision="int8", reason="", bias_shift=(float("nan"),))
    with pytest.raises(InputError, match="the bias of n is NaN or infinite"):
        sound.check_plan(plan(layers=(moved,)))


def test_the_first_tensor_without_numbers_is_found() -> None:
    good, large = np.ones(3, np.float32), np.full(9, 3e38, np.float32)  # whose sum overflows
    assert sound.first_unsound({"a": good, "b": large}) == ""
    assert sound.first_unsound({"a": good, "b": np.asarray([1, np.nan])}) == "b"
    assert sound.first_unsound({"a": np.asarray([np.inf, -np.inf]), "b": good}) == "a"


# ---- photos ----


def photo(folder: Path, name: str, pixels: np.ndarray) -> Path:
    path = folder / name
    cv2.imwrite(str(path), pixels)
    return path


def codes_of(found: tuple[Verdict, ...]) -> list[str]:
    return [v.code for v in found]


def calibration(paths: list[Path]) -> Calibration:
    spec = InputSpec(name="images", width=96, height=64)
    return Calibration(paths, [p.read_bytes() if p.exists() else b"" for p in paths], spec)


def test_photos_of_one_colour_are_left_out(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    black = np.zeros((60, 80, 3), np.uint8)
    dark = random.integers(0, 4, black.shape, np.uint8)  # a lid on the lens: nothing but noise
    scene = random.integers(0, 255, black.shape, np.uint8)
    paths = [
        photo(tmp_path, "black.png", black),
        photo(tmp_path, "dark.png", dark),
        photo(tmp_path, "scene.png", scene),
    ]
    found = calibration(paths)
    assert [make() is None for make in found.makers] == [True, True, False]
    assert found.used() == 1
    assert [v.message for v in found.verdicts()] == [
        f"2 calibration images were left out; the first: {paths[0]} is of one colour: it shows nothing",
        "only 1 calibration image: ranges may not cover what the camera will see",
    ]
    nothing = calibration(paths[:2])
    assert not any(make() for make in nothing.makers)
    with pytest.raises(InputError, match="none of the 2 calibration images can be used"):
        nothing.used()


def test_one_photo_many_times_is_one_photo(tmp_path: Path) -> None:
    scene = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    found = calibration([photo(tmp_path, f"{n}.png", scene) for n in range(20)])
    assert [v.message for v in found.verdicts()] == [
        "only 1 calibration image: ranges may not cover what the camera will see",
        "20 calibration images are 1 and copies of it: a copy tells nothing new",
    ]


# ---- whole builds ----


def build_with(tmp_path: Path, model: Model, images: list[Path]) -> tuple[list[str], QuantPlan]:
    """Parse and optimize; the plan must read again, which it does not with NaN in it."""
    import msgspec

    path = tmp_path / "model.onnx"
    onnx.save(model.proto, path)
    made = optimize(parse(path, "cpu", images), images)
    found = msgspec.json.decode(made.payload("plan"), type=QuantPlan)
    sound.check_plan(found)
    return [v.code for v in made.manifest.verdicts], found


@pytest.mark.parametrize(
    ("change", "part", "code"),
    [
        (put(0, 0.0), 1, "dead_channels"),
        (put((), 0.0), 1, "still_layers"),
        (put((), 1e-40), 1, "tiny_weights"),
        (put(0, 1e25), 1, ""),
        (put(0, 1e30), 2, ""),
    ],
)
def test_dead_and_wild_layers_are_planned(
    tmp_path: Path, photos: Path, change: Callable[[np.ndarray], None], part: int, code: str
) -> None:
    found, _ = build_with(tmp_path, changed(change, 1, part), sorted(photos.glob("*.png")))
    assert not code or code in found


def test_a_damaged_network_is_refused_before_its_head_is_looked_for(
    tmp_path: Path, photos: Path
) -> None:
    with pytest.raises(InputError, match="weights of Conv_10 are NaN"):
        build_with(tmp_path, changed(put((0, 0), np.nan)), sorted(photos.glob("*.png")))


def test_a_shut_channel_keeps_its_bias(tmp_path: Path, photos: Path) -> None:
    """As batch norms leave it: next to no weights, and a bias that float32 has no trouble with."""
    model = changed(put(0, 1e-12), 1)
    _, found = build_with(tmp_path, model, sorted(photos.glob("*.png")))
    node = [n for n in model.proto.graph.node if n.op_type == "Conv"][1]
    layer = next(x for x in found.layers if x.node == node.name)
    step = next(t.scale for t in found.tensors if t.name == node.input[0])
    bias = float(model.constants[node.input[2]][0])
    assert abs(bias) / (step * layer.scales[0]) < weights.BIAS_LIMIT


def test_photos_that_make_no_numbers_are_left_out(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    paths = []
    for number in range(6):
        low = 200 if number >= 4 else 0  # the last two are bright
        pixels = random.integers(low, low + 56, (64, 96, 3), np.uint8)
        paths.append(photo(tmp_path, f"{number}.png", pixels))
    found, planned = build_with(tmp_path, not_on_bright_ones(0.5), paths)
    assert planned.images == 4
    assert "images_unreadable" in found


def not_on_bright_ones(limit: float) -> Model:
    """A detector that gives NaN on photos whose mean is above `limit`: a square root below zero."""
    proto = graphs.yolov8()
    graph = proto.graph
    make = onnx.helper.make_node
    graph.initializer.append(numpy_helper.from_array(np.float32(limit), "limit"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    first = next(n for n in graph.node if "images" in n.input)
    first.input[0] = "checked"
    before = [
        make("ReduceMean", ["images"], ["mean"], "mean", keepdims=1),
        make("Sub", ["limit", "mean"], ["below"], "below"),
        make("Sqrt", ["below"], ["root"], "root"),
        make("Mul", ["root", "nothing"], ["zero"], "zero"),
        make("Add", ["images", "zero"], ["checked"], "checked"),
    ]
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return Model(proto, "")
