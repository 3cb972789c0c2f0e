"""`onchip analyze` against faults that were planted: the layer or the cause is named first."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from onchip.analyze import Analysis, analyze
from onchip.artifact import Artifact, save
from onchip.build import Options, build, cut_model, optimize, parse
from onchip.dataset import samples
from onchip.demo.scenes import write
from onchip.measure.faults import Fault
from onchip.measure.layers import Error, LayerError, Weights, layer_errors
from onchip.quantize.plan import LayerPlan, QuantPlan, TensorPlan
from onchip.quantize.recipe import PLAIN
from onchip.quantize.stats import Stats
from onchip.report import layers as report
from onchip.spec import InputSpec
from onchip.vision.preprocess import find_images, prepare, read_image

from conftest import Cli

Change = Callable[[Artifact], Artifact]
MODEL = Path(__file__).parents[1] / "src" / "onchip" / "demo" / "detector.onnx"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of the demo, with their true boxes."""
    folder = tmp_path_factory.mktemp("scenes")
    write(folder, 16, 800_000, "train")
    write(folder, 16, 900_000, "val")
    return folder


@pytest.fixture(scope="module")
def sound(scenes: Path) -> Artifact:
    """The demo detector, planned for the chip family whose arithmetic is the simplest."""
    photos = find_images(scenes / "images" / "train")
    return optimize(parse(MODEL, "rk3588", photos), photos)


@pytest.fixture(scope="module")
def data(scenes: Path) -> samples.Dataset:
    return samples.load(scenes / "data.yaml")


def plan_of(made: Artifact) -> QuantPlan:
    return msgspec.json.decode(made.payload("plan"), type=QuantPlan)


def with_plan(made: Artifact, plan: QuantPlan) -> Artifact:
    return made.with_payloads({"plan": ("plan.json", msgspec.json.encode(plan))})


def tensors(made: Artifact, group: str, change: Callable[[TensorPlan], TensorPlan]) -> Artifact:
    plan = plan_of(made)
    changed = tuple(change(t) if t.group == group else t for t in plan.tensors)
    return with_plan(made, replace(plan, tensors=changed))


def layer(made: Artifact, node: str, change: Callable[[LayerPlan], LayerPlan]) -> Artifact:
    plan = plan_of(made)
    changed = tuple(change(x) if x.node == node else x for x in plan.layers)
    return with_plan(made, replace(plan, layers=changed))


def pixels(made: Artifact, **fields: object) -> Artifact:
    spec = replace(made.manifest.input, **fields)
    assert isinstance(spec, InputSpec)
    return Artifact(replace(made.manifest, input=spec), made.payloads)


def activations(made: Artifact) -> list[tuple[str, str]]:
    """(layer, tensor) of every tensor that has a range of its own, in the graph's order."""
    model = cut_model(made)
    own = [t.name for t in plan_of(made).tensors if t.rounded and t.group == t.name]
    found = []
    for name in own:
        node = model.producers.get(name)
        if node is not None and node.op_type == "Mul":  # the end of a SiLU
            raw = next(n for n in node.input if not n.endswith("Sigmoid_output_0"))
            found.append((model.producers[raw].name, name))
    return found


def head(made: Artifact, role: str) -> tuple[str, str]:
    tensor = next(t for t in made.manifest.head.tensors if t.role == role)
    return tensor.node, tensor.name


def look(made: Artifact, data: samples.Dataset) -> Analysis:
    return analyze(made, data, labelled=True)


def test_a_sound_plan_has_no_cause(sound: Artifact, data: samples.Dataset) -> None:
    found = look(sound, data)
    assert not found.causes
    assert found.agreement > 0.9
    assert not found.code
    assert all(f.win < 0.03 for f in found.faults)


def test_a_scale_that_is_too_coarse(sound: Artifact, data: samples.Dataset) -> None:
    node, tensor = activations(sound)[3]
    found = look(tensors(sound, tensor, lambda t: replace(t, scale=t.scale * 16)), data)
    assert (found.faults[0].node, found.faults[0].code) == (node, "coarse")
    assert "too coarse" in found.first


def test_a_range_that_is_too_short(sound: Artifact, data: samples.Dataset) -> None:
    node, tensor = activations(sound)[5]
    found = look(tensors(sound, tensor, lambda t: replace(t, scale=t.scale / 8)), data)
    assert (found.faults[0].node, found.faults[0].code) == (node, "saturated")


def test_a_wrong_zero_point(sound: Artifact, data: samples.Dataset) -> None:
    node, tensor = activations(sound)[4]
    found = look(tensors(sound, tensor, lambda t: replace(t, zero=240)), data)
    assert (found.place, found.code) == (node, "zero_point")


def test_a_clipped_head(sound: Artifact, data: samples.Dataset) -> None:
    node, tensor = head(sound, "class")
    found = look(tensors(sound, tensor, lambda t: replace(t, scale=t.scale / 4)), data)
    assert "score ceiling" in found.first or (found.faults[0].node, found.faults[0].code) == (
        node,
        "score_ceiling",
    )


def test_dead_channels(sound: Artifact, data: samples.Dataset) -> None:
    node, _ = activations(sound)[6]

    def kill(x: LayerPlan) -> LayerPlan:
        scales = tuple(s * 1e4 if i % 3 == 0 else s for i, s in enumerate(x.scales))
        return replace(x, scales=scales, codes=b"")

    found = look(layer(sound, node, kill), data)
    assert (found.faults[0].node, found.faults[0].code) == (node, "weights")
    assert "channels have no weight left" in found.first


def test_weights_of_one_scale(sound: Artifact, data: samples.Dataset) -> None:
    node, _ = activations(sound)[2]
    found = look(
        layer(
            sound,
            node,
            lambda x: replace(x, scales=(max(x.scales) * 12,) * len(x.scales), codes=b""),
        ),
        data,
    )
    assert (found.place, found.code) in ((node, "per_tensor"), (node, "weights"))


def test_a_wrong_bias(sound: Artifact, data: samples.Dataset) -> None:
    node, _ = activations(sound)[7]
    found = look(
        layer(sound, node, lambda x: replace(x, bias_shift=tuple(v + 1 for v in x.bias_shift))),
        data,
    )
    assert (found.faults[0].node, found.faults[0].code) == (node, "bias")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"color": "bgr"}, "rgb instead of bgr"),
        ({"mean": (128.0,) * 3, "std": (128.0,) * 3}, "mean 0 std 255 instead of mean 128 std 128"),
        ({"std": (1.0,) * 3}, "mean 0 std 255 instead of mean 0 std 1"),
    ],
)
def test_wrong_pixels(
    sound: Artifact, data: samples.Dataset, fields: dict[str, object], named: str
) -> None:
    found = look(pixels(sound, **fields), data)
    assert found.causes[0].code == "preprocessing"
    assert named in found.first


def test_one_scale_over_boxes_and_scores(scenes: Path, data: samples.Dataset) -> None:
    photos = find_images(scenes / "images" / "train")
    last = cut_end(MODEL)
    options = Options(end_nodes=(last,), recipe=PLAIN)
    made = optimize(parse(MODEL, "rk3588", photos, options=options), photos, options=options)
    assert look(made, data).causes[0].code == "shared_scale"


def cut_end(model: Path) -> str:
    """The last node of a model: after its decoding, where boxes and scores are joined."""
    from onchip.graph.read import load

    return load(model).proto.graph.node[-1].name


def test_own_errors_do_not_add_up_and_totals_do(sound: Artifact, scenes: Path) -> None:
    spec = sound.manifest.input
    inputs = [prepare(read_image(p), spec)[0] for p in find_images(scenes / "images" / "val")[:2]]
    errors = layer_errors(cut_model(sound), sound.manifest.head, plan_of(sound), inputs)
    assert {e.precision for e in errors} == {"int8"}
    late = errors[len(errors) // 2 :]
    assert np.mean([e.own.sqnr_db for e in late]) > np.mean([e.total.sqnr_db for e in late]) + 3
    for error in errors:
        if (
            error.tensor not in sound.manifest.head.outputs
        ):  # a head is cut off where nobody feels it
            assert 0.9 < error.own.cosine <= 1
        assert error.own.distance >= 0


def test_a_raised_layer_makes_no_error_of_its_own(sound: Artifact, scenes: Path) -> None:
    photos = find_images(scenes / "images" / "train")
    node, tensor = activations(sound)[0]
    made = optimize(sound, photos, options=Options(keep_float=(node,)))
    spec = made.manifest.input
    inputs = [prepare(read_image(p), spec)[0] for p in photos[:1]]
    errors = layer_errors(cut_model(made), made.manifest.head, plan_of(made), inputs)
    assert next(x for x in plan_of(made).layers if x.node == node).precision != "int8"
    kept = [e for e in errors if e.tensor == tensor]
    assert all(e.weights.db == 200.0 for e in kept)


def test_sixteen_bits_are_looked_at_as_sixteen(scenes: Path) -> None:
    photos = find_images(scenes / "images" / "train")
    made = optimize(parse(MODEL, "cpu", photos), photos, options=Options(int16=("/stem*",)))
    inputs = [prepare(read_image(p), made.manifest.input)[0] for p in photos[:2]]
    errors = layer_errors(cut_model(made), made.manifest.head, plan_of(made), inputs)
    bits = {t.name: t.bits for t in plan_of(made).tensors}
    wide = [e for e in errors if bits[e.tensor] == 16]
    assert {e.node for e in wide} == {"/stem/stem.0/stem.0.0/Conv", "/stem/stem.1/stem.1.0/Conv"}
    assert all(e.possible_db > 60 and e.own.sqnr_db > 20 and e.saturated < 0.01 for e in wide)
    assert all(e.code_low <= 0 < e.code_high for e in wide)


def test_text_json_and_page(sound: Artifact, scenes: Path, cli: Cli) -> None:
    save(sound, cli.folder / "a.onchip")
    done = cli(
        "analyze", "a.onchip", "-c", scenes / "images" / "val", "--images", 8, "--report", "a.html"
    )
    assert done.stdout.startswith("first: ")
    assert "own cos" in done.stdout and "the worst of" not in done.stdout.splitlines()[0]
    found = json.loads(
        cli("analyze", "a.onchip", "--data", scenes / "data.yaml", "--images", 8, "--json").stdout
    )
    assert found["layers"][0]["own"].keys() == {"cosine", "distance", "sqnr_db"}
    page = (cli.folder / "a.html").read_text()
    assert page.count("<rect") == len(found["layers"])
    assert "<polyline" in page and "http" not in page


def an_error(node: str, **fields: object) -> LayerError:
    """What is told of one layer, sound but for `fields`."""
    seen = Stats()
    seen.add(np.linspace(-0.25, 4, 500, dtype=np.float32)[None], np.ones(500))
    known: dict[str, object] = {
        "node": node,
        "op": "Conv",
        "tensor": f"{node}/out",
        "precision": "int8",
        "own": Error(0.9991, 5.4, 27.4),
        "total": Error(0.9985, 7.8, 25.04),
        "seen": seen,
        "possible_db": 32.5,
        "range_db": 31.6,
        "bias_db": 40.0,
        "best": (-0.25, 4.0),
        "low": -0.25,
        "high": 4.0,
        "code_low": -0.25,
        "code_high": 4.1,
        "saturated": 0.0,
        "ends": (0.25, 0.0),
        "dead": (),
        "constant": (),
        "channels": 8,
        "shift": 0.1,
    }
    return LayerError(**{**known, **fields})  # type: ignore[arg-type]


def an_analysis() -> Analysis:
    """Two layers, one of which is wrong."""
    weights = Weights(db=38.0, possible_db=40.0, outlier=7.25, channel=3, zero=(5,))
    clipped = {"code_high": 1.0, "saturated": 0.124, "ends": (0.25, 0.131)}
    errors = (
        an_error("/a/Conv", weights=weights, constant=(2, 5)),
        an_error("/b/Conv", **clipped, own=Error(0.8, 90.0, 5.3)),
    )
    text = (
        "the range is too short: codes from -0.25 to 1, values from -0.25 to 4; 12.4% are cut off"
    )
    faults = (
        Fault("/b/Conv", "/b/Conv/out", "saturated", text, 0.21, 8.04),
        Fault("/a/Conv", "/a/Conv/out", "bits", "27.4 dB are what its bits give", 0.0, 0.6),
    )
    return Analysis("rk3588", 8, 0.6912, errors, faults, ())


def test_the_text_of_a_report() -> None:
    assert report.text(an_analysis()) == (
        "first: /b/Conv: the range is too short: codes from -0.25 to 1, values from -0.25 to 4; "
        "12.4% are cut off (repaired: boxes and scores +8.0 dB, agreement +21.0%)\n"
        "  also: /a/Conv: 27.4 dB are what its bits give (repaired: boxes and scores +0.6 dB, "
        "agreement +0.0%)\n"
        "\n"
        "layer      op  own cos  own dB  total cos  total dB  cut off  at ends  dead  outlier\n"
        "/a/Conv  Conv  0.99910    27.4    0.99850      25.0                     2/8      7.2\n"
        "/b/Conv  Conv  0.80000     5.3    0.99850      25.0    12.4%    13.1%\n"
        "8 images; the plan agrees 69.1% with the float network"
    )


def test_the_data_of_a_report() -> None:
    found = json.loads(json.dumps(report.data(an_analysis())))
    assert (found["code"], found["layer"]) == ("saturated", "/b/Conv")
    first, second = found["layers"]
    assert first["constant_channels"] == [2, 5]
    assert first["zero_weight_channels"] == [5]
    assert (first["weight_outlier"], first["weight_outlier_channel"]) == (7.25, 3)
    assert second["at_ends"] == [0.25, 0.131]
    bars = second["histogram"]
    assert (bars["low"], bars["high"]) == (-0.25, 4.0)
    assert sum(bars["parts"]) == pytest.approx(1, abs=1e-4)


def test_the_page_draws_values_and_their_range(sound: Artifact) -> None:
    page = report.page(sound, an_analysis())
    assert page.count("<figure>") == 2
    assert page.count('class="codes"') == 2
    # -0.25 to 4 is 320 wide, so that the codes up to 1 end at 94
    assert 'd="M0.0 0V72H94.1V0z"' in page
    assert "values -0.25 to 4, codes -0.25 to 1; 13.1% at the ends" in page


def test_it_needs_a_plan(tiny: Path, photos: Path, cli: Cli) -> None:
    cli("parse", tiny, "-c", photos, "-o", "a.onchip")
    assert "no plan yet" in cli("analyze", "a.onchip", "-c", photos, code=2).stderr


def test_every_target_is_analyzed(tiny: Path, photos: Path) -> None:
    made = build(tiny, "cpu", find_images(photos))
    some = samples.unlabelled(find_images(photos), made.manifest.head.labels)
    found = analyze(made, some, labelled=False)
    assert report.data(found)["target"] == "cpu"
