"""What onchip says and writes of a Hailo build before any of Hailo's software runs.

The numbers of layers, keys and commands in here are facts of Hailo's public model zoo; whole networks
are held against it in test_hailo_zoo.py.
"""

import csv
import math
import re
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from onchip.errors import InputError, UnsupportedError
from onchip.formats import hef
from onchip.graph.clean import clean
from onchip.graph.prove import cut
from onchip.graph.read import Model, cut_at, read
from onchip.graph.split import split_ends
from onchip.spec import HeadSpec, HeadTensor, InputSpec
from onchip.targets.hailo import forecast, names, nms, ops
from onchip.targets.hailo.commands import COMMANDS, parsed
from onchip.targets.hailo.options import HailoOptions
from onchip.targets.hailo.script import Effort, Script, effective, engine, script

import graphs

SLOW = [HealthCheck.too_slow]  # a busy machine is no fault
CHIPS = ("hailo8", "hailo8l", "hailo10h", "hailo15h", "hailo15m", "hailo15l")
SPEC = InputSpec(name="images", width=96, height=64)
KEYS = {"nms_scores_th", "nms_iou_th", "image_dims", "max_proposals_per_class", "classes"} | {
    "bbox_decoders"
}


def modeled(proto: onnx.ModelProto) -> Model:
    return Model(proto, "0" * 64, "net")


def cut_of(proto: onnx.ModelProto, tmp_path: Path) -> tuple[Model, HeadSpec]:
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    found = cut(clean(read(path)).model)
    return found.model, found.head


def head_of(coding: str, roles: str, **more: object) -> HeadSpec:
    """A head of two levels with one tensor per role, each by its own node."""
    kinds = {"b": "box", "o": "object", "c": "class", "a": "all"}
    tensors = tuple(
        HeadTensor(name=f"{r}{s}", node=f"n{r}{s}", role=kinds[r], stride=s, start=0, stop=8)
        for s in (8, 16)
        for r in roles
    )
    values = {"family": "any", "scoring": "class", "labels": ("a", "b"), **more}
    return HeadSpec(coding=coding, tensors=tensors, **values)  # type: ignore[arg-type]


# --- names ---------------------------------------------------------------------------------


def branches(before: int, *, depthwise: bool = False, first: str = "box") -> dict[str, str]:
    """Two branches of three convolutions after so many in a row, and Hailo's names for them."""
    net = graphs.Net(width=8, height=8)
    x = "images"
    for number in range(before):
        x = net.silu(net.conv(x, 4 if number else 3, 4, name=f"row{number}"))
    order = ("box", "class") if first == "box" else ("class", "box")
    ends = {}
    for branch in order:
        y = x
        for number in range(3):
            if depthwise and branch == "class" and number < 2:
                weight = net.const(np.ones((4, 1, 1, 1)))
                y = net.silu(net.op("Conv", y, weight, name=f"dw{number}", group=4))
            y = net.conv(y, 4, 4, name=f"{branch}{number}")
            y = y if number == 2 else net.silu(y)
        ends[branch] = y
    return names.predicted(modeled(net.model(ends, {})))


def numbers(found: dict[str, str], branch: str) -> list[int]:
    return [int(found[f"{branch}{n}"].removeprefix("conv")) for n in range(3)]


def test_two_branches_are_numbered_in_turn() -> None:
    """As YOLOv8n's last level: boxes end at conv62, classes at conv63, of 57 before."""
    found = branches(57)
    assert numbers(found, "box") == [58, 60, 62]
    assert numbers(found, "class") == [59, 61, 63]


def test_past_99_a_branch_comes_as_a_whole() -> None:
    """As YOLOv8l's last level, conv100 and conv103: "conv100" is before "conv99" as text."""
    found = branches(97)
    assert numbers(found, "box") == [98, 99, 100]
    assert numbers(found, "class") == [101, 102, 103]


def test_a_branch_with_depthwise_convolutions_comes_last() -> None:
    """As YOLO11n's last level, conv77 and conv80, of 74 before."""
    found = branches(74, depthwise=True)
    assert numbers(found, "box") == [75, 76, 77]
    assert numbers(found, "class") == [78, 79, 80]
    assert found["dw0"] == "dw1" and found["dw1"] == "dw2"


def test_the_order_of_the_file_decides_between_equals() -> None:
    found = branches(57, first="class")
    assert numbers(found, "class") == [58, 60, 62]


def test_an_activation_is_part_of_its_layer() -> None:
    found = branches(3)
    model = {name for name in found if name.startswith(("Mul", "Sigmoid"))}
    assert {found[n] for n in model} == {f"conv{n}" for n in (1, 2, 3, 4, 5, 6, 7)}
    assert not any(n.startswith("Sigmoid") for n in model)  # it is the SiLU's own


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("yolov8n", [41, 42, 52, 53, 62, 63]),
        ("yolov5n", [60, 54, 47]),
        ("yolox_nano", [82, 83, 80, 69, 70, 67, 55, 56, 53]),
    ],
)
def test_names_of_real_networks(data: Path, name: str, wanted: list[int]) -> None:
    """The first two are the zoo's own numbers; it has no YOLOX with depthwise convolutions."""
    found = cut(clean(read(data / "models" / f"{name}.onnx")).model)
    layers = names.predicted(found.model)
    assert [layers[n] for n in nms.end_nodes(found.head)] == [f"conv{n}" for n in wanted]
    learned = [n.name for n in found.model.proto.graph.node if n.op_type == "Conv"]
    assert set(learned) <= layers.keys()
    assert len({layers[n] for n in learned}) == len(learned)


@pytest.mark.data
def test_names_in_a_file_that_the_compiler_made(data: Path) -> None:
    """A YOLOv8n of 10 classes for Hailo-8L, compiled by someone else: boxes have 64 channels."""
    found = cut(clean(read(data / "models" / "yolov8n.onnx")).model)
    layers = names.predicted(found.model)
    mine = {(t.stride, t.role == "box"): layers[t.node] for t in found.head.tensors}
    compiled = hef.read(data / "hef" / "yolov8n_truncated.hef").groups[0].outputs
    theirs = {
        (640 / t.shape[0], t.shape[2] == 64): t.name.removeprefix("yolov8n/") for t in compiled
    }
    assert len(theirs) == 6
    assert mine == theirs


def hn(**layers: dict[str, object]) -> dict[str, object]:
    return {"name": "net", "layers": {f"net/{k}": v for k, v in layers.items()}}


HN = hn(
    input_layer1={"type": "input_layer", "original_names": ["images"], "output": ["net/conv1"]},
    conv1={"type": "conv", "original_names": ["/0/Conv", "/0/act/Sigmoid", "/0/act/Mul"]},
    conv_feature_splitter1={"type": "feature_splitter", "original_names": ["/1/Conv", "/1/Split"]},
    conv2={"type": "conv", "original_names": ["/1/Conv"]},
    output_layer1={
        "type": "output_layer",
        "original_names": ["/1/Conv"],
        "input": ["net/conv2"],
    },
)


def test_names_from_the_compiler() -> None:
    found = names.derived(HN)
    assert found["/0/act/Mul"] == "conv1"
    assert found["/1/Conv"] == "conv2"  # what computes it, not what repeats its name
    assert found["/1/Split"] == "conv_feature_splitter1"
    assert "images" not in found


@pytest.mark.parametrize("order", [["net/output_layer1"], ["net/conv2"], []])
def test_ends_from_the_compiler(order: list[str]) -> None:
    assert names.ends({**HN, "net_params": {"output_layers_order": order}}) == ("conv2",)


def test_where_the_names_differ() -> None:
    real = names.derived(HN)
    assert names.differences({"/0/Conv": "conv1", "/1/Conv": "conv7", "gone": "conv9"}, real) == (
        "/1/Conv is conv2, not conv7 as foretold",
    )


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"layers": []},
        {"layers": {"a": 1}},
        {"layers": {"a": {"original_names": "x"}}},
        {"layers": {"a": {"original_names": [1]}}},
    ],
)
def test_no_description(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match="HN"):
        names.derived(bad)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda x: (
        st.lists(x, max_size=3)
        | st.dictionaries(
            st.sampled_from(["layers", "type", "input", "original_names", "net_params"]),
            x,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(derandomize=True, max_examples=300, deadline=None, suppress_health_check=SLOW)
@given(st.dictionaries(st.sampled_from(["layers", "net_params", "name"]), JSON, max_size=3))
def test_any_description(bad: dict[str, object]) -> None:
    """It is read, or refused in one clear line; nothing else is raised."""
    for read_it in (names.derived, names.ends):
        with suppress(InputError):
            read_it(bad)


# --- the end of the network ----------------------------------------------------------------


def test_end_nodes_in_the_zoos_order() -> None:
    assert nms.end_nodes(head_of("dfl", "bc", family="yolov8")) == ("nb8", "nc8", "nb16", "nc16")
    assert nms.end_nodes(head_of("ltrb", "bc", family="yolo26")) == ("nb8", "nb16", "nc8", "nc16")
    yolox = head_of("exp", "boc", family="yolox", scoring="object")
    assert nms.end_nodes(yolox) == ("nb16", "no16", "nc16", "nb8", "no8", "nc8")
    assert nms.end_nodes(head_of("anchor", "a", family="yolov5")) == ("na16", "na8")


@pytest.mark.data
def test_families_whose_coarsest_level_comes_first(data: Path) -> None:
    """In the zoo's table: the later a node was exported, the coarser its level."""
    table = data.parent / "references" / "hailo_networks.csv"
    if not table.is_file():
        pytest.skip(f"the table of the zoo's networks is not here ({table})")
    falling = {}
    with table.open() as file:
        for row in csv.DictReader(file):
            numbers = [int(n) for n in re.findall(r"Conv_(\d+)", row["end_nodes"])]
            if len(numbers) > 2:
                falling[row["network"]] = numbers == sorted(numbers, reverse=True)
    yolox = [v for k, v in falling.items() if k.startswith("yolox")]
    yolov5 = {k: v for k, v in falling.items() if k.startswith(("yolov5", "yolov7"))}
    assert len(yolox) == 4 and all(yolox)
    assert falling["yolov6n_0.2.1"] and not falling["yolov9c"] and not falling["nanodet_repvgg"]
    assert [k for k, v in yolov5.items() if not v] == ["yolov5m_wo_spp_nv12_fhd"]
    assert len(yolov5) > 20


def test_where_a_sigmoid_is_needed() -> None:
    assert nms.sigmoids(head_of("dfl", "bc")) == ("nc8", "nc16")
    assert nms.sigmoids(head_of("ltrb", "bc", family="yolo26")) == ()
    assert nms.sigmoids(head_of("prior", "bc", scoring="softmax")) == ()
    yolox = head_of("exp", "boc", family="yolox", scoring="object")
    assert set(nms.sigmoids(yolox)) == {"no8", "nc8", "no16", "nc16"}
    whole = head_of("anchor", "a", family="yolov5", scoring="object")
    assert nms.sigmoids(whole) == ("na16", "na8")
    assert all(t.activated for t in nms.activated(whole).tensors)
    assert [t.activated for t in nms.activated(head_of("dfl", "bc")).tensors] == [False, True] * 2
    assert nms.sigmoids(nms.activated(whole)) == ()


FAMILIES = {
    "yolov8": (
        "yolov8",
        KEYS | {"regression_length", "background_removal"},
        {"name", "stride", "reg_layer", "cls_layer"},
    ),
    "nanodet": (
        "yolov8",
        KEYS | {"regression_length", "background_removal"},
        {"name", "stride", "combined_layer"},
    ),
    "yolov5": (
        "yolov5",
        KEYS | {"background_removal"},
        {"name", "stride", "w", "h", "encoded_layer"},
    ),
    "yolox": (
        "yolox",
        KEYS | {"number_of_detection_heads"},
        {"name", "stride", "reg_layer", "cls_layer", "objectness_layer"},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_of_the_zoos_files(family: str, tmp_path: Path) -> None:
    meta, keys, decoder = FAMILIES[family]
    model, head = cut_of(getattr(graphs, family)(), tmp_path)
    layers = names.predicted(model)
    made = nms.config(head, (96, 64), layers, chip="hailo8l", score=0.25, iou=0.6, most=80)
    assert (made.meta_arch, made.engine) == (meta, "cpu")
    written = msgspec.json.decode(made.json())
    assert written.keys() == keys
    assert written["image_dims"] == [64, 96]
    assert (written["nms_scores_th"], written["nms_iou_th"]) == (0.25, 0.6)
    assert (written["max_proposals_per_class"], written["classes"]) == (80, 5)
    assert len(written["bbox_decoders"]) == 3
    for level in written["bbox_decoders"]:
        assert level.keys() == decoder
        assert all(v in layers.values() for k, v in level.items() if k.endswith("_layer"))


def test_boxes_and_classes_of_one_layer_are_given_apart(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(graphs.nanodet(), path)
    found = split_ends(cut(clean(read(path)).model))
    layers = names.predicted(found.model)
    made = nms.config(found.head, (96, 64), layers, chip="hailo8")
    assert all(d.reg_layer and d.cls_layer for d in made.fields.bbox_decoders)
    assert len(nms.sigmoids(found.head)) == 3
    assert not nms.verdicts(found.head, "hailo8", "cpu")


def test_boxes_and_classes_of_one_layer(tmp_path: Path) -> None:
    _, head = cut_of(graphs.nanodet(), tmp_path)
    assert nms.sigmoids(head) == ()
    assert [v.code for v in nms.verdicts(head, "hailo8", "cpu")] == ["combined_layer"]
    swapped = [replace(t, start=8) if t.role == "class" else t for t in head.tensors]
    assert (
        "come before the classes"
        in nms.support(replace(head, tensors=tuple(swapped)), "hailo8").reason
    )


def test_a_whole_file() -> None:
    layers = {"nb8": "conv41", "nc8": "conv42", "nb16": "conv52", "nc16": "conv53"}
    head = head_of("dfl", "bc", family="yolov8", reg_max=16)
    assert nms.config(head, (640, 640), layers, chip="hailo8").json() == (
        """\
{
  "nms_scores_th": 0.2,
  "nms_iou_th": 0.7,
  "image_dims": [
    640,
    640
  ],
  "max_proposals_per_class": 100,
  "classes": 2,
  "regression_length": 16,
  "background_removal": false,
  "bbox_decoders": [
    {
      "name": "bbox_decoder41",
      "stride": 8,
      "reg_layer": "conv41",
      "cls_layer": "conv42"
    },
    {
      "name": "bbox_decoder52",
      "stride": 16,
      "reg_layer": "conv52",
      "cls_layer": "conv53"
    }
  ]
}
"""
    )


def test_layers_that_the_compiler_shall_find() -> None:
    """The zoo's files for YOLOv12 leave the names empty, and number decoders by stride."""
    made = nms.config(head_of("dfl", "bc", reg_max=16), (640, 640), {}, chip="hailo15h")
    first = made.fields.bbox_decoders[0]
    assert (first.name, first.reg_layer, first.cls_layer) == ("bbox_decoder8", "", "")


SSD = {"order": "yxhw", "variances": (0.1, 0.1, 0.2, 0.2), "anchors": (((30.0, 60.0),),) * 2}


def test_priors_are_parts_of_the_input() -> None:
    head = head_of("prior", "bc", family="ssd", background=0, **SSD)
    made = nms.config(head, (300, 600), {"nb8": "conv13", "nc8": "conv14"}, chip="hailo8")
    written = msgspec.json.decode(made.json())
    assert written["bbox_decoders"][0] == {
        "name": "bbox_decoder13",
        "w": [0.1],
        "h": [0.1],
        "reg_layer": "conv13",
        "cls_layer": "conv14",
    }
    assert written["classes"] == 3  # the background counts, and is the first
    assert (written["background_removal"], written["background_removal_index"]) == (True, 0)
    assert (written["centers_scale_factor"], written["bbox_dimensions_scale_factor"]) == (10, 5)


def test_yolov6_is_decoded_on_the_chip_only() -> None:
    head = head_of("ltrb", "bc", family="yolov6")
    assert nms.support(head, "hailo8").engines == ("nn_core",)
    assert not nms.support(head, "hailo15l").engines
    made = nms.config(head, (640, 640), {}, chip="hailo8", engine="nn_core")
    assert made.meta_arch == "yolov6"
    assert msgspec.json.decode(made.json()).keys() == KEYS
    assert made.fields.bbox_decoders[0].name == "fused_bbox_decoder_8"


def test_yolov5_on_the_chip() -> None:
    head = head_of("anchor", "a", scoring="object", anchors=(((10.0, 13.0),), ((30.4, 61.0),)))
    made = nms.config(head, (640, 640), {}, chip="hailo8l", engine="nn_core")
    assert made.fields.input_division_factor == 8
    with pytest.raises(UnsupportedError, match="not on the chip") as error:
        nms.config(head, (640, 640), {}, chip="hailo10h", engine="nn_core")
    assert error.value.hint == "allowed for hailo10h: -O nms=cpu, or none"


def test_anchors_are_whole_pixels() -> None:
    head = head_of("anchor", "a", scoring="object", anchors=(((10.0, 13.0),), ((30.6, 61.0),)))
    assert nms.config(head, (640, 640), {}, chip="hailo8").fields.bbox_decoders[1].w == (31,)
    found = [v for v in nms.verdicts(head, "hailo8", "cpu") if v.code == "anchors_rounded"]
    assert [v.message for v in found] == [
        "a HEF keeps anchors as whole pixels: 1 of this head's are rounded, 30.6 to 31; "
        "-O nms=none keeps them"
    ]
    assert not nms.verdicts(head, "hailo8", "none")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (head_of("ltrb", "bc", family="yolo26"), "decodes no yolo26 head"),
        (head_of("query", "bc", family="rtdetr"), "decodes no rtdetr head"),
        (head_of("dfl", "bc", family="damo-yolo", offset=0.0), "this head its corner"),
        (head_of("prior", "bc", scoring="softmax"), "no softmax"),
        (head_of("prior", "bc", **{**SSD, "order": "xywh"}), "these are x, y, w, h"),
        (head_of("prior", "bc", **{**SSD, "variances": (0.1, 0.2, 0.2, 0.2)}), "one whole factor"),
        (head_of("prior", "bc", **{**SSD, "variances": (0.0, 0.0, 0.2, 0.2)}), "one whole factor"),
    ],
)
def test_heads_that_hailo_does_not_decode(head: HeadSpec, reason: str) -> None:
    for chip in CHIPS:
        assert not nms.support(head, chip).meta_arch
        assert reason in nms.support(head, chip).reason
    with pytest.raises(UnsupportedError, match=reason) as error:
        nms.config(head, (640, 640), {}, chip="hailo8")
    assert error.value.hint == "take -O nms=none: onchip decodes the raw tensors"


@pytest.mark.parametrize("bad", [{"score": 1.5}, {"iou": 0.0}, {"most": 0}, {"score": math.nan}])
def test_thresholds_that_make_no_sense(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="make no sense"):
        nms.config(head_of("dfl", "bc"), (640, 640), {}, chip="hailo8", **bad)  # type: ignore[arg-type]


# --- the script ----------------------------------------------------------------------------

LAYERS = {"nb8": "conv41", "nc8": "conv42", "nb16": "conv52", "nc16": "conv53", "mid": "conv7"}
EFFORT = Effort(asked=2, level=2, calibset=1500)


def written(
    head: HeadSpec, options: HailoOptions | None = None, effort: Effort = EFFORT, **more: object
) -> Script:
    values = {"chip": "hailo8l", "spec": InputSpec(name="images", width=640, height=640), **more}
    return script(head, values.pop("spec"), options or HailoOptions(), effort, **values)  # type: ignore[arg-type]


def test_the_script_of_a_yolov8() -> None:
    made = written(head_of("dfl", "bc", family="yolov8"), parameters=3_200_000)
    assert made.text(LAYERS) == (
        "normalization1 = normalization([0.0, 0.0, 0.0], [255.0, 255.0, 255.0])\n"
        "change_output_activation(conv42, sigmoid)\n"
        "change_output_activation(conv53, sigmoid)\n"
        "model_optimization_config(calibration, batch_size=8, calibset_size=1500)\n"
        "model_optimization_flavor(optimization_level=2, compression_level=0)\n"
        'nms_postprocess("nms_config.json", meta_arch=yolov8, engine=cpu)\n'
        "allocator_param(width_splitter_defuse=disabled)\n"
    )


def test_the_script_of_a_yolov5() -> None:
    head = head_of("anchor", "a", family="yolov5", scoring="object")
    text = written(head, parameters=21_000_000).text({}, "/tmp/x/nms.json")
    assert "change_output_activation(sigmoid)\n" in text
    assert "calibration, batch_size=2" in text
    assert 'nms_postprocess("/tmp/x/nms.json", meta_arch=yolov5, engine=cpu)\n' in text


def test_the_script_of_a_yolox() -> None:
    """The zoo's yolox_s_leaky: trained on BGR pixels as they are, fed RGB."""
    head = head_of("exp", "boc", family="yolox", scoring="object")
    spec = replace(SPEC, color="bgr", std=(1.0, 1.0, 1.0), letterbox="topleft")
    layers = {"nb8": "conv55", "nc8": "conv54", "no8": "conv56", "nb16": "a", "nc16": "b"}
    made = written(head, HailoOptions(rgb=True), spec=spec)
    lines = made.text({**layers, "no16": "c"}).splitlines()
    assert lines[0] == "input_conversion = input_conversion(bgr_to_rgb)"
    assert lines[1:5] == [f"change_output_activation({n}, sigmoid)" for n in ["c", "b"]] + [
        "change_output_activation(conv56, sigmoid)",
        "change_output_activation(conv54, sigmoid)",
    ]
    assert lines[-1] == 'nms_postprocess("nms_config.json", meta_arch=yolox, engine=cpu)'


def test_yolo26_ends_in_16_bits_and_raw() -> None:
    made = written(head_of("ltrb", "bc", family="yolo26"))
    assert made.text(LAYERS).splitlines()[-2:] == [
        "quantization_param([conv41, conv52, conv42, conv53], precision_mode=a16_w16)",
        "quantization_param({output_layer*}, precision_mode=a16_w16)",
    ]
    assert "sigmoid" not in made.text(LAYERS)


def test_everything_that_can_be_asked_for() -> None:
    options = HailoOptions(
        nms="none", performance="max", utilization=0.9, contexts="single", fps=30, batch=8,
        rgb=True, finetune="on",
    )  # fmt: skip
    spec = replace(SPEC, color="bgr", mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395))
    effort = Effort(asked=0, level=0, calibset=128, finetune="on")
    made = written(head_of("dfl", "bc"), options, effort, spec=spec, wide=["mid"])
    assert made.text(LAYERS) == (
        "normalization1 = normalization([103.53, 116.28, 123.675], [57.375, 57.12, 58.395])\n"
        "input_conversion = input_conversion(bgr_to_rgb)\n"
        "change_output_activation(conv42, sigmoid)\n"
        "change_output_activation(conv53, sigmoid)\n"
        "model_optimization_config(calibration, batch_size=8, calibset_size=128)\n"
        "model_optimization_flavor(optimization_level=0, compression_level=0)\n"
        "post_quantization_optimization(finetune, policy=enabled, dataset_size=128, batch_size=8)\n"
        "quantization_param(conv7, precision_mode=a16_w16)\n"
        "performance_param(compiler_optimization_level=max)\n"
        "performance_param(optimize_for_batch=8)\n"
        "performance_param(fps=30)\n"
        "resources_param(max_control_utilization=0.9, max_compute_utilization=0.9, "
        "max_compute_16bit_utilization=0.9, max_memory_utilization=0.9, "
        "max_input_aligner_utilization=0.9, max_apu_utilization=0.9)\n"
        "context_switch_param(mode=disabled)\n"
    )
    assert all(c.verb in COMMANDS for c in made.commands)


def test_pixels_as_they_are_need_no_normalization() -> None:
    spec = replace(SPEC, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert "normalization" not in written(head_of("dfl", "bc"), spec=spec).text(LAYERS)


def test_boxes_and_scores_have_one_type_where_hailo_decodes_them() -> None:
    """HailoRT refuses boxes of 16 bits beside scores of 8."""
    head = head_of("dfl", "bc")
    wide = written(head, wide=["nb8"]).text(LAYERS)
    assert "quantization_param([conv41, conv42, conv52, conv53], precision_mode=a16_w16)" in wide
    assert "{output_layer*}" in wide
    raw = written(head, HailoOptions(nms="none"), wide=["nb8"]).text(LAYERS)
    assert "quantization_param(conv41, precision_mode=a16_w16)" in raw
    assert "{output_layer*}" not in raw


def test_a_layer_without_a_name() -> None:
    made = written(head_of("dfl", "bc"), wide=["gone", "mid"])
    assert "quantization_param(conv7, precision_mode=a16_w16)" in made.text(LAYERS)
    assert made.missing(LAYERS) == ("gone",)
    with pytest.raises(UnsupportedError, match="no layer of its own for nc8, which gives scores"):
        made.text({"mid": "conv7"})


def test_where_boxes_are_made() -> None:
    yolov8, yolo26 = head_of("dfl", "bc"), head_of("ltrb", "bc", family="yolo26")
    assert engine(HailoOptions(), yolov8, "hailo8") == "cpu"
    assert engine(HailoOptions(), yolo26, "hailo8") is None
    assert engine(HailoOptions(nms="none"), yolov8, "hailo8") is None
    with pytest.raises(UnsupportedError, match="nms=nn_core is not for this head on hailo8") as bad:
        engine(HailoOptions(nms="nn_core"), yolov8, "hailo8")
    assert bad.value.hint == "allowed are cpu, none"


@pytest.mark.parametrize(
    ("photos", "gpu", "asked", "level", "codes"),
    [
        (1500, True, None, 2, []),
        (128, True, None, 1, ["level", "no_finetune"]),
        (1500, False, None, 0, ["level", "no_finetune"]),
        (128, True, 2, 1, ["level_reduced", "no_finetune"]),
        (1500, False, 2, 0, ["level_reduced", "no_finetune"]),
        (1500, True, 4, 4, []),
        (10, False, 0, 0, ["level", "no_finetune", "few_photos"]),
        (0, True, None, 1, ["level", "no_finetune", "no_photos"]),
    ],
)
def test_the_level_that_is_really_used(
    photos: int, gpu: bool, asked: int | None, level: int, codes: list[str]
) -> None:
    found = effective(HailoOptions(), photos, gpu=gpu, asked=asked)
    assert (found.level, found.calibset) == (level, photos)
    assert [v.code for v in found.verdicts] == codes
    assert found.asked == (level if asked is None else asked)  # what a user names is not changed


def test_why_a_level_is_reduced() -> None:
    (found, *_) = effective(HailoOptions(), 128, gpu=False, asked=2).verdicts
    assert found.message == (
        "the compiler will reduce level 2 to 0, since there is no free NVIDIA GPU and there are "
        "128 photos, not 1024: leave -O level away, or force what level 2 does with -O finetune=on"
    )


def test_forced_fine_tuning_and_compression() -> None:
    options = HailoOptions(finetune="on", compression=1)
    found = effective(options, 128, gpu=False)
    assert (found.compression, found.finetune) == (0, "on")
    assert [v.code for v in found.verdicts] == ["level", "compression_reduced", "finetune_slow"]
    assert effective(options, 2000, gpu=True).compression == 1


def test_own_lines() -> None:
    extra = (
        "# of the zoo\n"
        "post_quantization_optimization(finetune, policy=enabled, loss_types = [ce,l2rel])\n"
        "\n"
        "allocator_param( timeout = 25m )  # minutes\n"
        "a, b = defuse(net/conv1, 2)\n"
        "quantization_param({conv[0-9]*}, bias_mode=single_scale_decomposition)\n"
        "context_0.place(2, [conv1, conv2])\n"
    )
    effort = Effort(asked=1, level=1, calibset=9, finetune="on")
    made = written(head_of("dfl", "bc"), effort=effort, extra=extra, wide=["mid"])
    assert made.text(LAYERS).splitlines()[-6:] == [
        'nms_postprocess("nms_config.json", meta_arch=yolov8, engine=cpu)',
        "post_quantization_optimization(finetune, policy=enabled, loss_types=[ce, l2rel])",
        "allocator_param(timeout=25m)",
        "a, b = defuse(net/conv1, 2)",
        "quantization_param({conv[0-9]*}, bias_mode=single_scale_decomposition)",
        "context_0.place(2, [conv1, conv2])",
    ]
    assert made.text(LAYERS).count("finetune") == 1
    assert [v.message for v in made.verdicts] == [
        "your script's post_quantization_optimization takes the place of onchip's: "
        "post_quantization_optimization(finetune, policy=enabled, dataset_size=9, batch_size=8)"
    ]
    assert "quantization_param(conv7, precision_mode=a16_w16)" in made.text(LAYERS)


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ("nms_postproces('x')", "nms_postproces", "did you mean nms_postprocess?"),
        ("frobnicate(1)", "have not: frobnicate", "see Hailo's own guide"),
        ("resize(", "is no command", "a whole command per line"),
        ("place(1) place(2)", "does not read at", "double quotes"),
        ("place(conv1 conv2)", "lacks a comma before 'conv2'", "add it"),
        ("place([conv1)", "opens a list and does not close it", "add ]"),
        ("place([[1]])", "a list inside a list", "one by one"),
        ("place(a=)", "lacks a value before its end", "fill it in"),
        ("place(,)", "lacks a value before ','", "fill it in"),
        ("place([1]=2)", "gives [1] a value", "NAME=VALUE"),
        ("place(a;b)", "does not read at ';'", "double quotes"),
        ("place(" + "1," * 10_001 + ")", "has 20009 characters", "at most 20000"),
    ],
)
def test_lines_that_do_not_read(line: str, said: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        list(parsed(f"\n{line}"))
    assert str(error.value).startswith("line 2 of your model script")
    assert said in str(error.value)
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("normalization([0],[1])", "--mean and --std"),
        ('nms_postprocess("a.json", yolov8)', "-O nms="),
        ("model_optimization_flavor(optimization_level=2)", "-O level="),
        ("model_optimization_config(calibration, batch_size=2)", "takes 64 photos"),
    ],
)
def test_lines_that_contradict_the_options(line: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        written(head_of("dfl", "bc"), extra=line)
    assert hint in error.value.hint


WORDS = st.sampled_from([*"[](){},=#\"' \t", "place", "conv1", "a.b", "1", "-2e5", "{x*}", "é"])


@settings(derandomize=True, max_examples=600, deadline=None, suppress_health_check=SLOW)
@given(st.lists(WORDS, max_size=14).map("".join) | st.text(max_size=40))
def test_any_line(text: str) -> None:
    """It is refused, or it reads, and then what is written of it reads as the same."""
    for line in (text, f"place({text})"):
        with suppress(InputError):
            found = list(parsed(line))
            assert list(parsed("\n".join(c.text({}) for c in found))) == found


# --- operations ----------------------------------------------------------------------------


def made_of(op: str, **fields: object) -> Model:
    net = graphs.Net(width=16, height=16)
    x = net.conv("images", 3, 4)
    extra = [net.const([1], np.int64)] if op in ("ReduceSum", "TopK") else []
    count = {"TopK": 2}.get(op, 1)
    inputs = [x, x] if op in ("Concat", "MatMul") else [x, *extra]
    y = net.op(op, *inputs, outputs=count, **fields)
    return modeled(net.model({"out": y[0] if count > 1 else y}, {}))


def test_every_entry_is_an_operation_of_onnx() -> None:
    known = {s.name for s in onnx.defs.get_all_schemas_with_history()}
    assert set(ops.operations()) <= known
    for op, entry in ops.operations().items():
        assert entry.limit or entry.has != "limits", op
        assert entry.cure or entry.has != "no", op
        assert set(entry.source.split(", ")) <= {"zoo", "logs", "tests"}, op
        assert set(entry.chips) <= set(CHIPS), op


@pytest.mark.parametrize(
    ("op", "fields", "why"),
    [
        ("TopK", {}, "TopK): Hailo's compiler has it not; it selects the best boxes: cut the head"),
        ("Abs", {}, "has it not"),
        ("Cos", {}, "not known whether Hailo's compiler has it; try it, or cut the network"),
        ("Concat", {"axis": 0}, "refuses those over the batch"),
        ("Concat", {"axis": -4}, "refuses those over the batch"),
        ("ReduceSum", {"keepdims": 0}, "refuses those without keepdims"),
        ("ReduceMax", {"axes": [2]}, "refuses those over the axes 2"),
    ],
)
def test_operations_that_hailo_has_not(op: str, fields: dict[str, object], why: str) -> None:
    found = ops.unsupported(made_of(op, **fields), "hailo8")
    assert [f.op for f in found] == [op]
    assert why in found[0].describe()
    assert found[0].known is (op != "Cos")


@pytest.mark.parametrize("family", ["yolov8", "yolov5", "yolox", "yolov6", "nanodet"])
def test_heads_end_before_what_hailo_has_not(family: str, tmp_path: Path) -> None:
    model, _ = cut_of(getattr(graphs, family)(), tmp_path)
    assert ops.unsupported(model, "hailo8l") == ()


def test_an_operation_of_another_domain_is_unknown() -> None:
    model = made_of("Relu")
    model.proto.graph.node[-1].domain = "com.acme"
    assert [f.known for f in ops.unsupported(model, "hailo8")] == [False]


def test_limits_that_differ_by_chip() -> None:
    model = made_of("MatMul")
    assert [v.message for v in ops.limited(model, "hailo8l")] == [
        "MatMul (nodes: 1): of two tensors (attention) in 8 bits only, which costs accuracy"
    ]
    assert ops.limited(model, "hailo15h") == ()


# --- forecast ------------------------------------------------------------------------------


def test_what_a_forecast_goes_by() -> None:
    net = graphs.Net(width=16, height=8)
    x = net.silu(net.conv("images", 3, 4, k=3))
    depthwise = net.op("Conv", x, net.const(np.ones((4, 1, 3, 3))), group=4, pads=[1] * 4)
    wide = net.op("ConvTranspose", depthwise, net.const(np.ones((4, 2, 2, 2))), strides=[2, 2])
    found = forecast.measured(modeled(net.model({"out": net.conv(wide, 2, 5)}, {})))
    products = 8 * 16 * (4 * 3 * 9 + 4 * 9 + 4 * 2 * 4) + 16 * 32 * 5 * 2
    assert found.operations == pytest.approx(2 * products / 1e9)
    assert found.weights == pytest.approx((4 * 27 + 4 + 4 * 9 + 4 * 2 * 4 + 5 * 2 + 5) / 1e6)
    assert (found.convolutions, found.attention) == (3, False)
    assert found.largest == pytest.approx(16 * 32 * 5 / 1e6)


YOLOV8N = forecast.Network(
    operations=8.74, weights=3.15, convolutions=63, attention=False, largest=1.64
)


def test_a_forecast_for_people() -> None:
    lines = forecast.forecast(YOLOV8N, "hailo8").lines()
    assert lines == (
        "network: 8.74 G operations, 3.15 M weights (3.15 MB in 8 bits), 63 convolutions, "
        "largest tensor 1.6 MB",
        "contexts: 1 (right for 17 of 20 in Hailo's zoo)",
        "FPS, one at a time: 320 to 1970; eight at a time: 440 to 1620 "
        "(nine in ten of 53 networks of the zoo lie within)",
        "after figures of Hailo's own, compiler 3.33.1 (zoo v2.18); a slow host gives less",
    )


def test_several_contexts_are_foretold() -> None:
    attentive = replace(YOLOV8N, attention=True)
    found = forecast.forecast(attentive, "hailo8")
    assert not found.one
    assert "contexts: several" in found.lines()[1]
    assert [v.code for v in forecast.verdicts(found)] == ["contexts"]
    assert not forecast.verdicts(forecast.forecast(YOLOV8N, "hailo8"))


def test_what_is_not_known_is_not_forecast() -> None:
    tiny = replace(YOLOV8N, operations=0.01)
    for network, chip in ((YOLOV8N, "hailo15m"), (tiny, "hailo8"), (YOLOV8N, "other")):
        found = forecast.forecast(network, chip)
        assert found.lines()[1].startswith("contexts and speed: unknown")
        assert not forecast.verdicts(found)
    unsure = forecast.forecast(replace(YOLOV8N, weights=2.4), "hailo15l")
    assert unsure.lines()[1].startswith("contexts: 1 or several")


@pytest.mark.data
@pytest.mark.parametrize("chip", ["hailo8", "hailo8l", "hailo10h", "hailo15h", "hailo15l"])
def test_nine_in_ten_lie_within(data: Path, chip: str) -> None:
    """The committed constants against the figures that Hailo publishes (YOLOv8, 10, 11, 26)."""
    table = data.parent / "references" / "hailo_bench.csv"
    if not table.is_file():
        pytest.skip(f"the zoo's figures are not here ({table})")
    counts = {"yolov8n": 63, "yolov8s": 63, "yolov8m": 83, "yolov8l": 103, "yolov8x": 103} | {
        "yolov11n": 80, "yolov11s": 80, "yolov11m": 105, "yolov11l": 165, "yolov11x": 165,
        "yolov10n": 69, "yolov10s": 69, "yolov10b": 89, "yolov10x": 109,
        "yolo26n": 94, "yolo26s": 94, "yolo26m": 104,
    }  # fmt: skip
    wanted = "v2.18" if chip in ("hailo8", "hailo8l") else "HEAD(c83fc03,v5.2.0)"
    within, total, told = 0, 0, 0
    with table.open() as file:
        for row in csv.DictReader(file):
            if (row["source"], row["arch"]) != (wanted, chip) or row["model"] not in counts:
                continue
            network = forecast.Network(
                operations=float(row["ops_g"]),
                weights=float(row["params_m"]),
                convolutions=counts[row["model"]],
                attention=not row["model"].startswith("yolov8"),
                largest=0,
            )
            found = forecast.forecast(network, chip)
            one = math.isclose(float(row["fps_b1"]), float(row["fps_b8"]), rel_tol=0.02)
            told += found.one == one
            for column, (low, high) in (("fps_b1", found.batch1), ("fps_b8", found.batch8)):
                total += 1
                within += low <= float(row[column]) <= high
    assert total >= 16
    assert within >= 0.85 * total
    assert told == total // 2


@settings(derandomize=True, max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(st.integers(1, 30), st.integers(0, 2**16))
def test_any_graph_has_names(count: int, seed: int) -> None:
    """Whatever is wired to whatever: names are unique per layer, and numbered without a gap."""
    random = np.random.default_rng(seed)
    net = graphs.Net(width=8, height=8)
    tensors = [net.conv("images", 3, 4)]
    for _ in range(count):
        x, y = (tensors[i] for i in random.integers(0, len(tensors), 2))
        made = random.integers(4)
        tensors.append(
            net.conv(x, 4, 4) if made < 2 else net.silu(x) if made == 2 else net.op("Add", x, y)
        )
    model = cut_at(modeled(net.model({"out": tensors[-1]}, {})), (tensors[-1],))
    found = names.predicted(model)
    convs = [n.name for n in model.proto.graph.node if n.op_type == "Conv"]
    assert sorted(int(found[n].removeprefix("conv")) for n in convs) == [*range(1, len(convs) + 1)]
