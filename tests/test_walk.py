"""Walking through a quantized network, and tuning it on the way, against the network as a whole."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onchip.build import cut_model, parse
from onchip.errors import InputError
from onchip.graph.read import Model
from onchip.graph.run import Runner, session
from onchip.quantize import weights as rounding
from onchip.quantize.emit import emit
from onchip.quantize.observe import observe
from onchip.quantize.plan import QuantPlan, make_plan
from onchip.quantize.regions import Regions, divide
from onchip.quantize.tune import Effort, Tuned, Window, tune
from onchip.quantize.walk import Places, Sampler, Walk, choose_places, coded_bias
from onchip.spec import HeadSpec
from onchip.targets import target as targets
from onchip.vision.preprocess import prepare, read_image

import graphs


@dataclass(frozen=True)
class Net:
    """A quantized detector with a few images."""

    model: Model
    head: HeadSpec
    regions: Regions
    plan: QuantPlan
    images: list[np.ndarray]

    @property
    def qdq(self) -> onnx.ModelProto:
        return emit(self.model, self.regions, self.plan)

    @property
    def read(self) -> list[str]:
        """What the integer layers read, in the graph's order."""
        return [x.data for x in self.regions.layers if x.node in self.regions.integer]

    def tuned(self, workers: int = 2, **effort: object) -> Tuned:
        makers = [lambda i=i: i for i in self.images]
        spent = Effort(**effort)  # type: ignore[arg-type]
        return tune(
            self.model, self.head, self.regions, self.plan, makers, effort=spent, workers=workers
        )

    def error(self, model: Model, plan: QuantPlan) -> float:
        """The mean squared error of the heads as a part of their mean square."""
        whole = Runner(self.model.bytes)
        made = Runner(emit(model, self.regions, plan).SerializeToString())
        error = power = 0.0
        for image in self.images:
            wanted, found = whole(image), made(image)
            error += sum(float(((wanted[n] - found[n]) ** 2).mean()) for n in wanted)
            power += sum(float((wanted[n] ** 2).mean()) for n in wanted)
        return error / power


def network(
    proto: onnx.ModelProto,
    folder: Path,
    chip: str,
    floats: int | None = None,
    wide: int | None = None,
) -> Net:
    """Quantize a detector; of its layers one may stay in float, and one get 16 bits."""
    path = folder / "m.onnx"
    onnx.save(proto, path)
    artifact = parse(path, "cpu", ())
    model, spec, head = cut_model(artifact), artifact.manifest.input, artifact.manifest.head
    quant = targets.get(chip).quant
    regions = divide(model, head, quant)
    kept = () if floats is None else (regions.layers[floats].node,)
    more = () if wide is None else (regions.layers[wide].node,)
    random = np.random.default_rng(1)
    images = [random.random(spec.shape, dtype=np.float32) for _ in range(5)]
    seen = observe(model, head, regions, [lambda i=i: i for i in images])
    regions = divide(model, head, quant, kept)
    reasons = dict.fromkeys(kept, "kept in float")
    plan = make_plan(model, regions, seen, quant, spec, images=5, reasons=reasons, wide=more)
    return Net(model, head, regions, plan, images)


PLACEMENTS = {
    "cpu": ("cpu", None, None),
    "a stem in float": ("cpu", 0, None),
    "rockchip": ("rk3588", None, None),
    "tflite": ("tflite", 2, None),
    "hailo, one wide": ("hailo8", None, 2),
}


@pytest.fixture(params=PLACEMENTS)
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Net:
    chip, floats, wide = PLACEMENTS[request.param]
    return network(graphs.yolov8(), tmp_path, chip, floats, wide)


def codes_of(qdq: onnx.ModelProto, tensors: list[str], image: np.ndarray) -> list[np.ndarray]:
    """The codes of some tensors when the network runs as a whole."""
    proto = onnx.ModelProto()
    proto.CopyFrom(qdq)
    zeros = {t.name: t.data_type for t in proto.graph.initializer}
    del proto.graph.output[:]
    for name in tensors:
        kind = zeros[f"{name}/zero"]
        proto.graph.output.append(helper.make_tensor_value_info(f"{name}/codes", kind, None))
    run = session(proto.SerializeToString(), 1)
    return list(run.run(None, {proto.graph.input[0].name: image}))


def test_a_walk_meets_the_codes_of_the_whole_network(net: Net) -> None:
    tensors = net.read
    walk = Walk(net.qdq, tensors)
    walk.begin([walk.enter(i) for i in net.images])
    unique = list(dict.fromkeys(tensors))
    wanted = [dict(zip(unique, codes_of(net.qdq, unique, i), strict=True)) for i in net.images]
    most = 0
    for name in tensors:
        for found, whole in zip(walk.take(name), wanted, strict=True):
            np.testing.assert_array_equal(found, whole[name])
        most = max(most, walk.held_bytes)
    assert walk.held_bytes == 0  # nothing is kept that nobody reads
    everything = sum(array.nbytes for each in wanted for array in each.values())
    assert most < everything


def test_what_comes_later_is_made_with_the_new_weights(net: Net) -> None:
    tensors = net.read
    walk = Walk(net.qdq, tensors)
    walk.begin([walk.enter(i) for i in net.images])
    changed, held = net.qdq, {t.name: t for t in net.qdq.graph.initializer}
    stored = {t.name: t for t in changed.graph.initializer}
    layers = [x for x in net.regions.layers if x.node in net.regions.integer]
    found = {}
    for layer in layers:
        found[layer.data] = walk.take(layer.data)
        codes = -numpy_helper.to_array(held[f"{layer.node}/weight/codes"])
        scales = numpy_helper.to_array(held[f"{layer.node}/weight/scale"]) * 1.1
        bias, step = np.linspace(-0.1, 0.1, len(codes)), walk.step(layer.data)[0]
        walk.accept(layer.node, codes, scales, bias, step)
        bias_codes, bias_scales = coded_bias(bias, step, scales)
        parts = (("weight/codes", codes), ("weight/scale", scales.astype(np.float32)))
        parts += (("bias/codes", bias_codes), ("bias/scale", bias_scales))
        for part, array in parts:
            name = f"{layer.node}/{part}"
            stored[name].CopyFrom(numpy_helper.from_array(array, name))
    unique = list(dict.fromkeys(tensors))
    for number, image in enumerate(net.images):
        for name, whole in zip(unique, codes_of(changed, unique, image), strict=True):
            np.testing.assert_array_equal(found[name][number], whole)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2]),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.sampled_from([1, 2, 4]),
)
def test_patches_are_what_a_convolution_reads(
    kernel_rows: int, kernel_columns: int, stride: int, pads: list[int], groups: int
) -> None:
    random = np.random.default_rng(0)
    weights = random.normal(size=(8, 4 // groups, kernel_rows, kernel_columns)).astype(np.float32)
    codes = random.integers(0, 256, (1, 4, 11, 13)).astype(np.uint8)
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        pads=pads,
        strides=[stride, stride],
        group=groups,
        dilations=[2, 1],
    )
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, codes.shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    held = [numpy_helper.from_array(weights, "w")]
    graph = helper.make_graph([node], "one", [info], [out], held)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (wanted,) = Runner(proto.SerializeToString()).run((codes.astype(np.float32) - 100) * 0.1)
    window = Window.of(node, weights.shape, codes.shape)
    index = random.permutation(wanted.shape[2] * wanted.shape[3])[:20]
    places = Places(index, np.ones(len(index), np.float32))
    patches = window.patches(codes, places, 0.1, 100)
    flat = rounding.rows(weights).reshape(groups, 8 // groups, -1).transpose(0, 2, 1)
    found = (patches @ flat).transpose(0, 2, 1).reshape(8, -1)
    np.testing.assert_allclose(found, wanted.reshape(8, -1)[:, index], rtol=1e-3, atol=1e-2)


def test_weighted_means_over_chosen_places_are_those_of_the_map() -> None:
    random = np.random.default_rng(0)
    importance = np.full(4000, 0.01)
    importance[700:720] = random.uniform(0.3, 1, 20)  # an object
    values = random.normal(size=4000) + 5 * (importance > 0.1)
    wanted = float(importance @ values) / 4000
    draws = [choose_places(importance, 100, np.random.default_rng(seed)) for seed in range(200)]
    means = [float(d.weights @ values[d.index]) for d in draws]
    assert abs(np.mean(means) - wanted) < 4 * np.std(means) / np.sqrt(len(means))
    assert np.std(means) < 0.15 * abs(wanted)
    assert np.mean([(importance[d.index] > 0.1).mean() for d in draws]) > 0.1  # of 0.5 % of the map
    whole = choose_places(importance[:60], 100, random)
    np.testing.assert_array_equal(whole.index, np.arange(60))
    assert float(whole.weights.sum()) == pytest.approx(float(importance[:60].mean()))


def test_samples_are_what_the_float_network_makes(tmp_path: Path) -> None:
    net = network(graphs.yolov8(), tmp_path, "cpu")
    names = [x.raw for x in net.regions.layers]
    sampler = Sampler(net.model, net.head, names, 30, 0, 1)
    proto = onnx.ModelProto()
    proto.CopyFrom(net.model.proto)
    del proto.graph.output[:]
    proto.graph.output.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names
    )
    run = Runner(proto.SerializeToString())
    for number, image in enumerate(net.images):  # the arrays are used again: no image leaks
        sampled, whole = sampler(number, image), run(image)
        for name in names:
            flat = whole[name].reshape(whole[name].shape[1], -1)
            index = sampled.places[whole[name].shape[2:]].index
            np.testing.assert_allclose(sampled.values[name], flat[:, index].T, atol=1e-4)


def test_a_tuned_network_lies_on_its_grid_and_is_nearer_to_the_float_one(net: Net) -> None:
    made = net.tuned()
    before, after = net.error(net.model, net.plan), net.error(net.model, made.plan)
    assert after < before * 1.001  # of random weights most is lost in the tensors, not in these
    assert sum(g.after for g in made.gains) < sum(g.before for g in made.gains)
    assert all(g.after < g.before * 1.1 for g in made.gains)  # codes are chosen one by one
    planned = {x.node: x for x in made.plan.layers}
    tuned = {g.node for g in made.gains}
    for node in tuned:
        weights = net.model.constants[net.model.producers[planned_raw(net, node)].input[1]]
        codes = planned[node].coded(weights, net.plan.quant)
        assert codes.shape == weights.shape
        assert net.plan.quant.weight_min <= codes.min() <= codes.max() <= net.plan.quant.weight_max
    assert msgspec.json.decode(msgspec.json.encode(made.plan), type=QuantPlan) == made.plan
    untouched = [x for x in net.plan.layers if x.node not in tuned]
    assert all(planned[x.node] == x for x in untouched)
    assert {x.node for x in untouched} == set(net.plan.floats)


def planned_raw(net: Net, node: str) -> str:
    return next(x.raw for x in net.regions.layers if x.node == node)


def test_it_is_the_same_every_time_however_many_work_on_it(tmp_path: Path) -> None:
    net = network(graphs.yolov8(), tmp_path, "cpu")
    first, second = net.tuned(workers=1), net.tuned(workers=3)
    assert first.plan == second.plan
    assert first.plan != net.tuned(seed=1, places=20).plan


def test_each_part_can_be_left_out(tmp_path: Path) -> None:
    net = network(graphs.yolov8(), tmp_path, "rk3588")
    sums = [
        sum(g.after for g in net.tuned(**off).gains)  # type: ignore[arg-type]
        for off in ({}, {"moves": False}, {"moves": False, "compensates": False, "searches": False})
    ]
    assert max(sums[:2]) < sums[2]


def test_layers_that_it_cannot_tune_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backbone(self: graphs.Net) -> list[str]:
        x, maps = self.silu(self.conv("images", 3, 8, 3, 4)), []
        weight = self.const(self.random.normal(0, 0.2, (8, 8, 2, 2)))
        x = self.op("ConvTranspose", x, weight, self.const(np.zeros(8)), strides=[2, 2], name="up")
        x = self.silu(self.conv(x, 8, 8, 3, 2, name="after"))
        for _ in range(3):
            maps.append(x := self.silu(self.conv(x, 8, 8, 3, 2)))
        return maps

    monkeypatch.setattr(graphs.Net, "backbone", backbone)
    net = network(graphs.yolov8(), tmp_path, "rk3588")
    made = net.tuned()
    tuned = {g.node for g in made.gains}
    assert "up" not in tuned and "after" in tuned
    assert net.error(net.model, made.plan) < net.error(net.model, net.plan)


def test_one_image_is_enough_and_none_is_refused(tmp_path: Path) -> None:
    net = network(graphs.yolov8(), tmp_path, "cpu")
    told: list[tuple[int, int]] = []
    arguments = (net.model, net.head, net.regions, net.plan)
    made = tune(
        *arguments,
        [lambda: None, lambda: net.images[0]],
        progress=lambda done, of: told.append((done, of)),
    )
    assert made.gains and told[-1][0] == told[-1][1] == 2 + len(made.gains)
    assert np.isfinite(net.error(net.model, made.plan))
    for images in ([lambda: None], []):
        with pytest.raises(InputError, match="none of the images can be read"):
            tune(*arguments, images)
    dark = [lambda: np.zeros_like(net.images[0])] * 2
    assert np.isfinite(net.error(net.model, tune(*arguments, dark).plan))
    damaged = np.full_like(net.images[0], np.nan)
    with pytest.raises(InputError, match="an activation is not a number"):
        tune(*arguments, [lambda: damaged])


@pytest.mark.data
@pytest.mark.parametrize("chip", ["cpu", "rk3588"])
def test_a_real_detector_comes_nearer_to_what_it_was(data: Path, chip: str) -> None:
    photos = sorted((data / "coco/images/train2017").glob("*.jpg"))
    artifact = parse(data / "models/nanodet_m.onnx", chip, photos[:4])
    model, spec, head = cut_model(artifact), artifact.manifest.input, artifact.manifest.head
    images = [prepare(read_image(p), spec)[0] for p in photos[:10]]
    quant = targets.get(chip).quant
    regions = divide(model, head, quant)
    seen = observe(model, head, regions, [lambda i=i: i for i in images])
    plan = make_plan(model, regions, seen, quant, spec, images=10)
    net = Net(model, head, regions, plan, images)
    made = net.tuned()
    others = [prepare(read_image(p), spec)[0] for p in photos[-8:]]
    held_out = Net(model, head, regions, plan, others)
    before, after = held_out.error(model, plan), held_out.error(model, made.plan)
    assert after < 0.97 * before
