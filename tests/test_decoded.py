"""The decode inside a file: the same boxes as ours, in the form that Frigate reads."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onchip.artifact import load
from onchip.dataset.samples import unlabelled
from onchip.errors import UnsupportedError
from onchip.graph import read
from onchip.graph.decoded import NAME, decoded, refuse_short, table, taking_bytes
from onchip.graph.pixels import ULTRALYTICS, input_spec
from onchip.graph.prove import Cut, CutProof, cut
from onchip.graph.run import Runner
from onchip.graph.split import split_ends
from onchip.spec import HeadSpec, HeadTensor, InputSpec
from onchip.verify import verify
from onchip.vision import decode
from onchip.vision.preprocess import find_images

import graphs
from conftest import Cli

SMALL = {"width": 96, "height": 64}


def cut_of(proto: onnx.ModelProto, folder: Path) -> tuple[Cut, InputSpec]:
    onnx.save(proto, folder / "model.onnx")
    found = split_ends(cut(read.read(folder / "model.onnx")))
    return found, input_spec(found.model, ULTRALYTICS)


def with_tail(found: Cut, spec: InputSpec) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(found.model.proto)
    decoded(proto, found.model, found.head, spec)
    return proto


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_the_file_decodes_as_onchip_does(name: str, tmp_path: Path) -> None:
    found, spec = cut_of(graphs.BUILDERS[name](**SMALL), tmp_path)
    proto, size = with_tail(found, spec), (spec.width, spec.height)
    onnx.checker.check_model(proto, full_check=True)
    assert [o.name for o in proto.graph.output] == [NAME]
    image, head = found.model.noise(3), table(found.head)
    made = Runner(proto.SerializeToString())(image)
    boxes, scores = decode.dense(found.head, Runner(found.model.bytes)(image), size)
    assert made[NAME].shape == (1, 4 + found.head.classes, len(boxes))
    np.testing.assert_allclose(made[NAME][0, 4:].T, scores, atol=1e-6)
    np.testing.assert_allclose(
        made[NAME][0, :4].T[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2, rtol=1e-4, atol=1e-3
    )
    ours = decode.dense(head, made, size)
    np.testing.assert_allclose(ours[0], boxes, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(ours[1], scores, atol=1e-6)


def test_boxes_that_the_network_decodes_itself(tmp_path: Path) -> None:
    """The one coding that no family here has: nothing is left to compute."""
    net = graphs.Net(**SMALL)
    onnx.save(net.model({"y": net.reshape("images", 1, 9, 2048)}), tmp_path / "m.onnx")
    model = read.read(tmp_path / "m.onnx")
    whole = [
        HeadTensor(name="y", node="end_y", role=role, stride=1.0, start=a, stop=b, activated=True)
        for role, a, b in (("box", 0, 4), ("class", 4, 9))
    ]
    head = HeadSpec(
        family="x", coding="xywh", scoring="class", labels=("a",) * 5, tensors=tuple(whole)
    )
    spec = input_spec(model, ULTRALYTICS)
    made = with_tail(Cut(model, head, CutProof(0, 0, 0, "raw")), spec)
    image = model.noise(1)
    found = Runner(made.SerializeToString())(image)[NAME]
    np.testing.assert_array_equal(found, image.reshape(1, 9, 2048))


def test_a_table_that_frigate_would_turn(tmp_path: Path) -> None:
    short, spec = cut_of(graphs.yolov8(classes=122, **SMALL), tmp_path)  # 126 boxes
    with pytest.raises(UnsupportedError, match="126 boxes of 126 numbers"):
        refuse_short(short.model, short.head, spec)
    enough, spec = cut_of(graphs.yolov8(classes=121, **SMALL), tmp_path)
    refuse_short(enough.model, enough.head, spec)


def test_mean_and_std_go_into_the_file(tmp_path: Path) -> None:
    found, spec = cut_of(graphs.yolov8(**SMALL), tmp_path)
    mean, std = (103.5, 116.3, 123.7), (57.4, 57.1, 58.4)
    proto = with_tail(found, spec)
    plain = Runner(proto.SerializeToString())
    taking_bytes(proto, InputSpec(name=spec.name, **SMALL, mean=mean, std=std))
    onnx.checker.check_model(proto, full_check=True)
    pixels = np.random.default_rng(0).integers(0, 256, spec.shape, np.uint8)
    shape = (1, 3, 1, 1)
    wanted = (pixels - np.reshape(mean, shape)) / np.reshape(std, shape)
    made = Runner(proto.SerializeToString())(pixels)[NAME]
    np.testing.assert_allclose(made, plain(wanted.astype(np.float32))[NAME], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("name", "target"), [("ssd", "cpu"), ("nanodet", "openvino")])
def test_the_layout_goes_through_every_verb(name: str, target: str, photos: Path, cli: Cli) -> None:
    onnx.save(graphs.BUILDERS[name](**SMALL), cli.folder / "m.onnx")
    common = ("build", "m.onnx", "-t", target, "-c", photos)
    cli(*common, "--layout", "frigate", "--mean", "1,2,3", "-o", "f.onchip")
    cli(*common, "--mean", "1,2,3", "-o", "plain.onchip")
    made, plain = load(cli.folder / "f.onchip"), load(cli.folder / "plain.onchip")
    assert made.manifest.layout == "frigate"
    assert made.manifest.program_input is not None
    assert made.manifest.program_input.dtype == "uint8"
    assert made.manifest.program_head == table(made.manifest.head)
    data = unlabelled(find_images(photos), ())
    rows, before = (verify(a, data, labelled=False).rows for a in (made, plain))
    assert [r.stage for r in rows] == ["original", "cut", "plan", "compiled"]
    assert abs(rows[-1].parity.matched - before[-1].parity.matched) < 0.05
    for verb in (("detect", photos), ("inspect",), ("bench", "-c", photos, "--seconds", "0.2")):
        cli(verb[0], "f.onchip", *verb[1:])


def test_the_stages_one_by_one_keep_the_layout(tiny: Path, photos: Path, cli: Cli) -> None:
    cli("parse", tiny, "--layout", "frigate", "-o", "t.onchip")
    cli("optimize", "t.onchip", "-c", photos)
    cli("compile", "t.onchip")
    head = load(cli.folder / "t.onchip").manifest.program_head
    assert head is not None and head.coding == "xywh"


def test_a_chip_that_frigate_does_not_know(tiny: Path, photos: Path, cli: Cli) -> None:
    lines = cli(
        "build", tiny, "-t", "rv1106", "-c", photos, "--layout", "frigate", code=3
    ).stderr.splitlines()
    assert lines[0] == "error: Frigate has no detector that runs a file for rv1106"
