"""Reading, cleaning, recognising, cutting and proving: every family, every kind of export."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper, version_converter

from onchip.errors import InputError, OnchipError, UnsupportedError
from onchip.graph.clean import clean
from onchip.graph.original import original
from onchip.graph.prove import BOX_TOLERANCE, SCORE_TOLERANCE, Cut, cut
from onchip.graph.read import Model, load, read
from onchip.graph.run import Runner
from onchip.graph.split import split_ends
from onchip.vision.decode import dense

import graphs

EXPECTED = {  # family, coding, scoring, bins, end nodes per level
    "yolov5": ("yolov5", "anchor", "object", 1, 1),
    "yolov5-raw": ("yolov5", "anchor", "object", 1, 1),
    "yolov6": ("yolov6", "ltrb", "class", 1, 2),
    "yolov6-dfl": ("yolov6", "dfl", "class", 17, 2),
    "yolov8": ("yolov8", "dfl", "class", 16, 2),
    "yolov10": ("yolov8", "dfl", "class", 16, 2),
    "yolo26": ("yolo26", "ltrb", "class", 1, 2),
    "yolov8-nms": ("yolov8", "dfl", "class", 16, 2),
    "yolox": ("yolox", "exp", "object", 1, 3),
    "yolox-decoded": ("yolox", "exp", "object", 1, 3),
    "nanodet": ("nanodet", "dfl", "class", 8, 1),
    "damo": ("damo-yolo", "dfl", "class", 17, 2),
    "ssd": ("ssd", "prior", "softmax", 1, 2),
    "rtdetr": ("rtdetr", "query", "class", 1, 2),
    "rtdetr-apart": ("rtdetr", "query", "class", 1, 2),
    "rknn-fork": ("yolov8", "dfl", "class", 16, 2),
}


def cut_of(proto: onnx.ModelProto, folder: Path, **more: object) -> Cut:
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return cut(clean(read(path)).model, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_recognises_and_proves_every_family(name: str, tmp_path: Path) -> None:
    found = cut_of(graphs.BUILDERS[name](), tmp_path)
    family, coding, scoring, bins, per_level = EXPECTED[name]
    head = found.head
    assert (head.family, head.coding, head.scoring, head.reg_max) == (family, coding, scoring, bins)
    assert head.classes == 5
    assert head.strides == ((1.0,) if coding == "query" else (8.0, 16.0, 32.0))
    assert len(head.end_nodes) == per_level * len(head.strides)
    assert found.proof.box_px <= BOX_TOLERANCE
    assert found.proof.score <= SCORE_TOLERANCE
    assert [o.name for o in found.model.outputs] == list(head.outputs)


def test_reads_labels_and_anchors(tmp_path: Path) -> None:
    head = cut_of(graphs.yolov5(), tmp_path).head
    assert head.labels == ("kind0", "kind1", "kind2", "kind3", "kind4")
    assert head.anchors == tuple(
        tuple((float(w), float(h)) for w, h in level) for level in graphs.ANCHORS
    )


def test_end_nodes_of_a_yolov8_are_its_six_convolutions(tmp_path: Path) -> None:
    assert cut_of(graphs.yolov8(), tmp_path).head.end_nodes == tuple(
        f"/model.22/cv{kind}.{level}/cv{kind}.{level}.2/Conv"
        for level in range(3)
        for kind in (2, 3)
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(["yolov5", "yolov6", "yolov8", "yolox", "nanodet", "damo", "ssd"]),
    classes=st.integers(1, 12),
    columns=st.integers(1, 4),
    rows=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_any_size_and_number_of_classes(
    name: str,
    classes: int,
    columns: int,
    rows: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if classes in (1, 4) and name in ("nanodet", "ssd"):
        classes += 1
    size = {"width": 32 * columns, "height": 32 * rows, "seed": seed}
    found = cut_of(graphs.BUILDERS[name](classes=classes, **size), tmp_path_factory.mktemp("any"))
    assert found.proof.passed
    assert found.head.classes == classes
    assert found.head.coding == EXPECTED[name][1]


def test_as_many_classes_as_rows(tmp_path: Path) -> None:
    found = cut_of(graphs.nanodet(classes=12, width=32, height=96), tmp_path)
    assert found.head.classes == 12


@pytest.mark.parametrize(
    ("made", "family"),
    [
        (graphs.end_to_end(1, classes=1), "yolo26"),  # (1, k, 6) is a box, a score and a class
        (graphs.end_to_end(16, classes=1), "yolov8"),
        (graphs.with_nms(1), "yolov8"),
        (graphs.rknn_fork(classes=7), "yolov8"),  # maps 12 cells wide
        (graphs.yolov6(classes=1), "yolov6"),
    ],
)
def test_six_values_are_no_objectness(made: onnx.ModelProto, family: str, tmp_path: Path) -> None:
    assert cut_of(made, tmp_path).head.family == family


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 15, 17, 19, 21])
def test_opsets(opset: int, tmp_path: Path) -> None:
    made = graphs.yolov5(opset=opset)
    assert cut_of(made, tmp_path).proof.passed


def test_newer_opsets_of_a_yolov8(tmp_path: Path) -> None:
    for opset in (18, 20, 21):
        assert cut_of(
            version_converter.convert_version(graphs.yolov8(), opset), tmp_path
        ).proof.passed


def test_half_precision(tmp_path: Path) -> None:
    made = graphs.yolov8()
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for value in [*made.graph.input, *made.graph.output, *made.graph.value_info]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    found = cut_of(made, tmp_path)
    assert found.proof.passed
    assert found.model.inputs[0].dtype == "float32"


def test_initializers_as_inputs(tmp_path: Path) -> None:
    made = graphs.nanodet()
    for tensor in made.graph.initializer:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        made.graph.input.append(value)
    assert cut_of(made, tmp_path).proof.passed


def test_dynamic_axes_need_a_size(tmp_path: Path) -> None:
    made = graphs.yolox()
    shape = made.graph.input[0].type.tensor_type.shape
    for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
        shape.dim[axis].dim_param = name
    path = tmp_path / "dynamic.onnx"
    onnx.save(made, path)
    with pytest.raises(InputError, match="no fixed height and width"):
        read(path)
    assert read(path, (96, 64)).inputs[0].shape == (1, 3, 64, 96)


def test_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(graphs.yolov8(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert cut(clean(read(path)).model).proof.passed
    digest = load(path).digest
    weights = bytearray((tmp_path / "w.bin").read_bytes())
    weights[40] ^= 255
    (tmp_path / "w.bin").write_bytes(weights)
    assert load(path).digest != digest
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputError, match="weights in another file"):
        load(path)


def test_clean_folds_and_computes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(graphs.yolov8(), path)
    before = read(path)
    cleaned = clean(before)
    kinds = {n.op_type for n in cleaned.model.proto.graph.node}
    assert "BatchNormalization" not in kinds
    assert cleaned.difference < 1e-5
    noise = before.noise(3)
    for a, b in zip(
        Runner(before.bytes).run(noise), Runner(cleaned.model.bytes).run(noise), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_split_ends_is_exact(tmp_path: Path) -> None:
    found = cut_of(graphs.nanodet(), tmp_path)
    split = split_ends(found)
    assert len(split.head.outputs) == 2 * len(found.head.outputs)
    noise = found.model.noise(1)
    size = (96, 64)
    whole = dense(found.head, Runner(found.model.bytes)(noise), size)
    parts = dense(split.head, Runner(split.model.bytes)(noise), size)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["yolov8", "yolov8-nms", "yolo26", "yolox", "nanodet", "ssd", "rknn-fork"]
)
def test_the_original_reads_through_its_own_output(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(graphs.BUILDERS[name](), path)
    whole = read(path)
    found = cut(clean(whole).model)
    own = original(whole, found.model, found.head, whole.noise(5))
    boxes, scores = own(whole.noise(7))
    mine = dense(found.head, Runner(found.model.bytes)(whole.noise(7)), (96, 64))
    assert own.selected == (name in ("yolo26", "yolov8-nms"))
    if not own.selected:
        # anchors may come in another order
        np.testing.assert_allclose(np.sort(scores, 0), np.sort(mine[1], 0), atol=1e-4)
        np.testing.assert_allclose(np.sort(boxes, 0), np.sort(mine[0], 0), atol=0.01)


def test_unknown_head_says_what_it_saw(tmp_path: Path) -> None:
    net = graphs.Net()
    maps = net.backbone()
    made = net.model({"odd": net.conv(maps[0], 8, 7, name="odd_end")})
    with pytest.raises(UnsupportedError, match="odd_end") as caught:
        cut_of(made, tmp_path)
    assert "--end-nodes" in caught.value.hint


def test_end_nodes_go_on_where_recognition_stops(tmp_path: Path) -> None:
    made = graphs.yolov8()
    nodes = [n for n in graphs_ends(made) if "cv" in n]
    found = cut_of(made, tmp_path, end_nodes=nodes)
    assert found.proof.passed
    decoded = cut_of(made, tmp_path, end_nodes=[made.graph.node[-2].name])
    assert decoded.head.coding == "xywh"
    with pytest.raises(UnsupportedError, match="no node nothing"):
        cut_of(made, tmp_path, end_nodes=["nothing"])


def graphs_ends(made: onnx.ModelProto) -> list[str]:
    return [n.name for n in made.graph.node if n.name.endswith("2/Conv")]


@pytest.mark.parametrize(
    ("made", "text"),
    [(graphs.classifier, "as a classifier's"), (graphs.no_boxes, "no head that onchip knows")],
)
def test_not_a_detector(made: object, text: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=text):
        cut_of(made(), tmp_path)  # type: ignore[operator]


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    made = graphs.yolov8()
    onnx.helper.set_model_props(made, {"task": "pose"})
    with pytest.raises(UnsupportedError, match="pose estimation"):
        cut_of(made, tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"not a model at all", "not a readable ONNX file|no ONNX graph"),
        (b"PK\x03\x04" + bytes(60), "not a readable ONNX file|no ONNX graph"),
    ],
)
def test_files_that_are_no_models(content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=text):
        load(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("yolov8n", "yolov8"),
        ("yolov5n", "yolov5"),
        ("yolox_nano", "yolox"),
        ("nanodet_m", "nanodet"),
    ],
)
def test_real_models(name: str, family: str, data: Path) -> None:
    model: Model = clean(read(data / "models" / f"{name}.onnx")).model
    found = cut(model)
    assert found.head.family == family
    assert found.head.classes == 80
    assert found.proof.passed


def test_fuzzed_models_end_in_one_clear_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = graphs.yolov8(classes=2, bins=4).SerializeToString()
    random = np.random.default_rng(0)
    path = tmp_path / "fuzz.onnx"
    passed = 0
    for round_ in range(120):
        if round_ % 3 == 0:
            broken = data[: int(random.integers(1, len(data)))]
        else:
            changed = bytearray(data)
            for place in random.integers(0, len(data), 1 + round_ % 5):
                changed[place] = int(random.integers(256))
            broken = bytes(changed)
        path.write_bytes(broken)
        try:
            cut(clean(read(path)).model)
            passed += 1
        except OnchipError:
            continue
    assert passed < 120
    assert capfd.readouterr().out == ""  # results alone belong on stdout


@pytest.mark.parametrize("twice", [True, False])
def test_a_focus_becomes_one_convolution(twice: bool, tmp_path: Path) -> None:
    net = graphs.Net(width=32, height=32)
    ends = 1 << 40
    quarters = []
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        at = ([[row], [ends], [2], [2]], [[column], [ends], [3], [2]])
        if not twice:
            at = ([[row, column], [ends, ends], [2, 3], [2, 2]],)
        quarter = "images"
        for window in at:
            quarter = net.op("Slice", quarter, *(net.const(w, np.int64) for w in window))
        quarters.append(quarter)
    made = net.conv(net.op("Concat", *quarters, axis=1), 12, 8, 3)
    path = tmp_path / "m.onnx"
    onnx.save(net.model({"map": made}), path)
    found = clean(read(path))
    assert [n.op_type for n in found.model.proto.graph.node] == ["Conv"]
    assert found.difference < 1e-5
