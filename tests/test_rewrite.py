"""Networks rewritten so that they lose less: what changes, when, and that all else stays."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onchip.build import Options, build, cut_model, optimize, parse, planned_model
from onchip.errors import InputError
from onchip.graph.pixels import ULTRALYTICS
from onchip.graph.run import Runner
from onchip.quantize import rewrite
from onchip.quantize.plan import QuantPlan
from onchip.vision.preprocess import find_images

import graphs


def uneven(self: graphs.Net) -> list[str]:
    """A stem whose channels differ a hundredfold, and a depthwise convolution that evens them."""
    widths = np.geomspace(1, 100, 16)
    stem = self.silu(self.conv("images", 3, 16, 3, 2, name="stem"))
    weight, bias = self.nodes[0].input[1:]
    for number, tensor in enumerate(self.weights):
        if tensor.name in (weight, bias):
            values = numpy_helper.to_array(tensor)
            values = values * widths.reshape(-1, *[1] * (values.ndim - 1))
            self.weights[number] = numpy_helper.from_array(values.astype(np.float32), tensor.name)
    deep = self.const(self.random.normal(0, 0.3, (16, 1, 3, 3)) / widths[:, None, None, None])
    bias = self.const(self.random.normal(0, 0.3, 16))
    x = self.op("Conv", stem, deep, bias, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2],
                group=16, name="deep")  # fmt: skip
    x, maps = self.silu(x), []
    for count in (16, 8, 8):
        maps.append(x := self.silu(self.conv(x, count, 8, 3, 2)))
    return maps


SAID = Options(pixels=ULTRALYTICS)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(graphs.Net, "backbone", uneven)
    path = tmp_path / "uneven.onnx"
    onnx.save(graphs.yolov8(), path)
    return path


def test_a_wide_tensor_is_split(model: Path, photos: Path) -> None:
    images = find_images(photos)
    made = build(model, "cpu", images, options=replace(SAID, max_float=0))
    said = {v.code: v.message for v in made.manifest.verdicts}
    assert said["range_split"].startswith("stem was split into")
    network = planned_model(made)
    parts = [n.name for n in network.proto.graph.node if n.name.startswith("stem/")]
    assert 2 <= len(parts) <= rewrite.MOST_PARTS
    noise = made.manifest.input, network.noise(3)
    wanted, found = (Runner(m.bytes)(noise[1]) for m in (cut_model(made), network))
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3)


def test_what_the_user_raised_is_not_split(model: Path, photos: Path) -> None:
    images = find_images(photos)
    for options in (replace(SAID, keep_float=("stem",)), replace(SAID, int16=("stem",))):
        made = optimize(parse(model, "cpu", images, options=options), images, options=options)
        assert "range_split" not in {v.code for v in made.manifest.verdicts}


def test_a_part_is_raised_by_its_name(model: Path, photos: Path) -> None:
    images = find_images(photos)
    for options in (replace(SAID, keep_float=("stem/2",)), replace(SAID, int16=("deep/1",))):
        options = replace(options, max_float=0)
        made = optimize(parse(model, "cpu", images, options=options), images, options=options)
        plan = msgspec.json.decode(made.payload("plan"), type=QuantPlan)
        assert (*plan.floats, *plan.wide) == (*options.keep_float, *options.int16)


@pytest.mark.parametrize("name", ["stem/9", "stem/0", "head/1"])
def test_a_part_that_is_not_there_is_named(model: Path, photos: Path, name: str) -> None:
    images, options = find_images(photos), replace(SAID, keep_float=(name,), max_float=0)
    with pytest.raises(InputError, match=name) as caught:
        optimize(parse(model, "cpu", images, options=options), images, options=options)
    assert "such as" in caught.value.hint


def test_a_chip_that_quantizes_by_itself_is_given_the_network_as_it_is(
    model: Path, photos: Path
) -> None:
    images = find_images(photos)
    made = optimize(parse(model, "hailo8", images, options=SAID), images)
    assert "planned" not in made.payloads and planned_model(made).bytes == cut_model(made).bytes


def test_it_is_done_again_only_when_something_changed(model: Path, photos: Path) -> None:
    images = find_images(photos)
    first = build(model, "cpu", images, options=SAID)
    again = build(model, "cpu", images, options=SAID, older=first)
    assert [s.skipped for s in again.manifest.stages] == [True] * 3
    assert again.payloads.keys() == first.payloads.keys()


def test_what_is_not_the_same_network_is_taken_back(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, real = find_images(photos), rewrite.range_split.split

    def wrong(*given: object) -> object:
        made = real(*given)  # type: ignore[arg-type]
        proto = onnx.ModelProto.FromString(made.bytes)
        weight = next(t for t in proto.graph.initializer if t.name == "stem/1/1")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 3, weight.name))
        return made.changed(proto)

    monkeypatch.setattr(rewrite.range_split, "split", wrong)
    monkeypatch.setattr(rewrite, "WORTH", -1e9)  # whatever it costs
    made = optimize(parse(model, "cpu", images, options=SAID), images)
    assert "not_rewritten" in {v.code for v in made.manifest.verdicts}
    assert "planned" not in made.payloads
