"""Layouts and custom operations: another form of the graph, the same boxes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onchip.artifact import load
from onchip.build import Options, build
from onchip.dataset.samples import unlabelled
from onchip.errors import InputError, UnsupportedError
from onchip.graph import read
from onchip.graph.layout import called, laid_out, named_back, understood
from onchip.graph.prove import Cut, cut, input_size
from onchip.graph.run import Runner
from onchip.graph.split import split_ends
from onchip.verify import verify
from onchip.vision import decode
from onchip.vision.preprocess import find_images

import graphs
from conftest import Cli


def cut_of(proto: onnx.ModelProto, folder: Path) -> Cut:
    onnx.save(proto, folder / "model.onnx")
    return split_ends(cut(read.read(folder / "model.onnx")))


WANTED = {
    "yolov8": [(64, "box"), (5, "class"), (1, "")] * 3,
    "yolov10": [(64, "box"), (5, "class"), (1, "")] * 3,
    "rknn-fork": [(64, "box"), (5, "class"), (1, "")] * 3,
    "yolov6": [(4, "box"), (5, "class"), (1, "")] * 3,
    "yolov6-dfl": [(68, "box"), (5, "class"), (1, "")] * 3,
    "yolov5": [(30, "all")] * 3,
    "yolov5-raw": [(30, "all")] * 3,
    "yolox": [(10, "box")] * 3,
}


@pytest.mark.parametrize("name", WANTED)
def test_zoo_outputs_give_the_same_boxes(name: str, tmp_path: Path) -> None:
    plain = cut_of(graphs.BUILDERS[name](width=96, height=64), tmp_path)
    zoo = laid_out(plain, "zoo")
    size = input_size(plain.model)
    roles = {t.name: t.role for t in reversed(zoo.head.tensors)}
    outputs = zoo.model.outputs
    assert [(o.shape[1], roles.get(o.name, "")) for o in outputs] == WANTED[name]
    grids = [(size[1] // s, size[0] // s) for s in (8, 16, 32) for _ in range(len(outputs) // 3)]
    assert [o.shape[2:] for o in outputs] == grids
    onnx.checker.check_model(zoo.model.proto)
    image = plain.model.noise(3)
    first, second = Runner(plain.model.bytes)(image), Runner(zoo.model.bytes)(image)
    boxes, scores = decode.dense(plain.head, first, size)
    np.testing.assert_allclose(decode.dense(zoo.head, second, size)[1], scores, atol=1e-6)
    np.testing.assert_allclose(decode.dense(zoo.head, second, size)[0], boxes, rtol=1e-4, atol=1e-3)
    a, b = (
        decode.decode(x.head, t, size, confidence=0.3) for x, t in ((plain, first), (zoo, second))
    )
    assert len(a) and len(a) == len(b)
    for output in outputs:
        if output.name.endswith("/sum"):
            whole = second[output.name.removesuffix("sum") + "scores"].sum(1, keepdims=True)
            np.testing.assert_allclose(second[output.name], np.clip(whole, 0, 1), atol=1e-6)


@pytest.mark.parametrize("name", ["nanodet", "damo", "ssd", "rtdetr", "yolo26"])
def test_a_family_without_a_demo(name: str, tmp_path: Path) -> None:
    plain = cut_of(graphs.BUILDERS[name](), tmp_path)
    assert laid_out(plain, "onchip") is plain
    with pytest.raises(UnsupportedError, match="no demo that reads a") as refused:
        laid_out(plain, "zoo")
    assert "yolov5, yolov6, yolov8, yolox" in refused.value.hint


@pytest.mark.parametrize("name", ["yolov8", "yolov5", "yolox"])
def test_a_layout_goes_through_every_verb(name: str, photos: Path, cli: Cli) -> None:
    onnx.save(graphs.BUILDERS[name](), cli.folder / "m.onnx")
    done = cli("build", "m.onnx", "-c", photos, "--layout", "zoo", "-o", "z.onchip")
    assert ("share one scale" in done.stdout) == (name == "yolox")
    data = unlabelled(find_images(photos), ())
    rows = verify(load(cli.folder / "z.onchip"), data, labelled=False).rows
    assert [r.stage for r in rows] == ["original", "cut", "plan", "compiled"]
    assert rows[1].parity.matched == rows[0].parity.matched
    assert cli("detect", "z.onchip", photos).stdout
    again = cli("build", "m.onnx", "-c", photos, "-o", "z.onchip", "--json").stdout
    assert '"skipped": true' not in again


def renamed(proto: onnx.ModelProto, op: str, name: str, count: int = 100) -> onnx.ModelProto:
    for node in [n for n in proto.graph.node if n.op_type == op][:count]:
        node.op_type = name
    return proto


def test_custom_operations_are_read_and_named_back(tmp_path: Path) -> None:
    onnx.save(renamed(graphs.yolov8(), "Sigmoid", "cstSigmoid", 1), tmp_path / "m.onnx")
    model = understood(read.load(tmp_path / "m.onnx"), {"cstSigmoid": "Sigmoid"})
    assert called(model) == {"Sigmoid_2": "cstSigmoid"}
    ops = [n.op_type for n in model.proto.graph.node]
    assert ops == [n.op_type for n in graphs.yolov8().graph.node]
    back = [n.op_type for n in named_back(model.proto, called(model)).graph.node]
    assert back.count("cstSigmoid") == 1 and back.count("Sigmoid") == ops.count("Sigmoid") - 1


def test_custom_operations_in_a_domain_of_their_own(tmp_path: Path) -> None:
    proto = renamed(graphs.yolov8(), "Sigmoid", "Mine", 2)
    for node in proto.graph.node:
        node.domain = "my.ops" if node.op_type == "Mine" else ""
        node.name = "" if node.op_type == "Mine" else node.name
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    onnx.save(proto, tmp_path / "m.onnx")
    model = understood(read.load(tmp_path / "m.onnx"), {"Mine": "Sigmoid"})
    assert len(called(model)) == 2
    assert cut(model).head.family == "yolov8"


def test_custom_operations_survive_to_the_artifact(photos: Path, tmp_path: Path) -> None:
    onnx.save(renamed(graphs.yolov8(), "Sigmoid", "cstSigmoid"), tmp_path / "m.onnx")
    options = Options(custom_ops={"cstSigmoid": "Sigmoid"})
    made = build(tmp_path / "m.onnx", "cpu", find_images(photos), options=options)
    model = read.Model(read.parse(made.payload("cut"), ""), "")
    assert set(called(model).values()) == {"cstSigmoid"}
    assert all(n.op_type != "cstSigmoid" for n in model.proto.graph.node)


def test_an_operation_that_nobody_knows(photos: Path, cli: Cli) -> None:
    onnx.save(renamed(graphs.yolov8(), "Softmax", "cstSoftmax"), cli.folder / "m.onnx")
    lines = cli("build", "m.onnx", "-c", photos, code=3).stderr.splitlines()
    assert lines[0] == (
        "error: the model has an operation that is not ONNX's: cstSoftmax (nodes: 1)"
    )
    assert "--custom-op cstSoftmax=" in lines[1] and len(lines) == 2
    cli("build", "m.onnx", "-c", photos, "--custom-op", "cstSoftmax=Softmax", "-o", "a.onchip")
    assert "program" in load(cli.folder / "a.onchip").payloads
    wrong = cli("build", "m.onnx", "-c", photos, "--custom-op", "cstSoftmax", code=2).stderr
    assert "write --custom-op NAME=" in wrong
    wrong = cli("build", "m.onnx", "-c", photos, "--custom-op", "cstSoftmax=Sofmax", code=3).stderr
    assert "not ONNX's: Sofmax" in wrong


def test_a_custom_operation_that_is_not_there(tiny: Path) -> None:
    with pytest.raises(InputError, match="no operation cstSoftmax"):
        understood(read.load(tiny), {"cstSoftmax": "Softmax"})
