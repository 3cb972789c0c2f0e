"""Frigate's side: what is written for it, what is said of a user's own, and what is served to it.

Where FRIGATE_SRC names a checkout of Frigate, and FRIGATE_PYTHON a Python with its libraries, Frigate's
own code judges all of it; without, those tests are skipped.
"""

import copy
import dataclasses
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from msgspec.structs import replace

from onchip.artifact import Artifact, load, save
from onchip.detect.detector import Detector
from onchip.detections import Detections
from onchip.device.frigate import check, config, serve
from onchip.device.frigate.setup import parse
from onchip.device.frigate.versions import table, version
from onchip.errors import DeviceError, InputError, UnsupportedError
from onchip.vision.preprocess import read_image

import hefs
from conftest import Cli

GOOD = """\
mqtt: {enabled: false}
cameras:
  door:
    ffmpeg: {inputs: [{path: 'rtsp://{FRIGATE_USER}:{FRIGATE_PASSWORD}@10.0.0.5/s', roles: [detect]}]}
    detect: {width: 640, height: 360}
"""
HAILO = GOOD + "detectors: {h: {type: hailo8l, device: PCIe}}\n"
MODEL = "model: {path: /config/best.hef, width: 640, height: 640, labelmap_path: /config/l.txt}\n"
SEED = """\
database: {path: /data/db/frigate.db}
cameras:
  bedroom:
    ffmpeg: {inputs: [{path: 'rtsp://admin:123456@192.168.31.100:554/stream1&channel=1', roles: [record, detect]}]}
objects: {track: [person, cat]}
detectors:
  hailo8l:
    type: hailo8l
    device: PCIe
    model: {path: /config/model_cache/h8l_cache/ssd_mobilenet_v1.hef}
model: {width: 300, height: 300, input_tensor: nhwc, input_pixel_format: bgr, model_type: ssd}
"""


# What is written


@pytest.fixture(scope="module")
def raw(built: Path) -> Artifact:
    """The little detector, which ends at its raw head."""
    return load(built)


@pytest.fixture(scope="module")
def plain(tiny: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The little detector, as Frigate reads it."""
    path = tmp_path_factory.mktemp("plain") / "tiny.onchip"
    Cli(path.parent)("build", tiny, "-c", photos, "--layout", "frigate", "-o", path)
    return load(path)


def layer(name: str, channels: int, side: int = 80) -> hefs.Layer:
    return hefs.Layer(name, (side, side, channels), high=1.0)


def a_hef(
    arch: str = "hailo8l", *, nms: bool = True, sdk: str = "3.31.0", classes: int = 80
) -> bytes:
    ends = [layer("conv41", 64), layer("conv42", classes)]
    decoders = [{"stride": 8, "reg": "conv41", "cls": "conv42"}]
    wanted = hefs.Nms("yolov8", classes=classes, decoders=decoders) if nms else None
    image = [hefs.Layer("input_layer1", (640, 640, 3))]
    return hefs.build(arch=arch, name="best", inputs=image, outputs=ends, nms=wanted, sdk=sdk)


def hailo(raw: Artifact, **given: Any) -> Artifact:
    """The same as a Hailo build would be, with HailoRT's NMS."""
    spec = replace(raw.manifest.input, dtype="uint8", layout="nhwc", width=640, height=640)
    return raw.with_payloads(
        {"program": ("program.hef", a_hef(classes=5, **given))},
        target="hailo8l",
        program_input=spec,
        program_head=raw.manifest.head.found("best/nms_postprocess"),
    )


def test_config_for_the_cpu(plain: Artifact) -> None:
    made = config.config(plain, "tiny.onchip")
    assert made.findings == ()
    assert sorted(made.files) == ["tiny.labels.txt", "tiny.onnx"]
    assert made.files["tiny.onnx"] == plain.payload("program")
    assert made.files["tiny.labels.txt"] == b"0 kind0\n1 kind1\n2 kind2\n3 kind3\n4 kind4\n"
    assert (
        made.yaml
        == """\
# For Frigate 0.17, from tiny.onchip (yolov8 for cpu); onchip 0.1.0.
# Put tiny.labels.txt and tiny.onnx into a folder "onchip" beside Frigate's
# config.yml, and what follows into config.yml, in place of its detectors: and model:

detectors:
  onchip:
    type: onnx
    device: CPU  # or AUTO: whatever accelerator the image knows

model:  # at the root: Frigate ignores a model under detectors
  path: /config/onchip/tiny.onnx
  labelmap_path: /config/onchip/tiny.labels.txt  # else Frigate takes COCO's names, in another order
  model_type: yolo-generic  # how Frigate reads the outputs
  width: 96  # of the model's input
  height: 64
  input_tensor: nchw
  input_pixel_format: rgb
  input_dtype: int  # pixels as they are

# There is no "person", which is all that Frigate tracks unless told otherwise:
# objects:
#   track: ["kind0", "kind1", "kind2", "kind3", "kind4"]
"""
    )


def test_config_for_a_hailo(raw: Artifact) -> None:
    made = config.config(hailo(raw), "best of all.onchip", frigate="0.18")
    assert made.detector == "hailo8l" and made.findings == ()
    assert made.yaml.startswith(
        """\
# For Frigate 0.18, from best of all.onchip (yolov8 for hailo8l); onchip 0.1.0.
# Put tiny.hef and tiny.labels.txt into a folder "onchip" beside Frigate's
# config.yml, and what follows into config.yml, in place of its detectors: and model:
# docker-compose.yml needs:
#   devices:
#     - /dev/hailo0:/dev/hailo0
# The image of Frigate 0.18 holds HailoRT 4.21.0: the driver on the host
# must be of the very same version. onchip doctor says which it is.

detectors:
  onchip:
    type: hailo8l
    device: PCIe

model:  # at the root: Frigate ignores a model under detectors
  path: /config/onchip/tiny.hef
"""
    )
    assert (
        "  width: 640  # of the model's input\n  height: 640\n  input_tensor: nhwc\n" in made.yaml
    )


def test_config_for_a_server(raw: Artifact) -> None:
    made = config.config(raw, "tiny.onchip", endpoint="ipc:///run/x/y")
    assert made.detector == "zmq" and list(made.files) == ["tiny.labels.txt"]
    assert made.yaml.startswith(
        """\
# For Frigate 0.17, from tiny.onchip (yolov8 for cpu); onchip 0.1.0.
# Put tiny.labels.txt into a folder "onchip" beside Frigate's
# config.yml, and what follows into config.yml, in place of its detectors: and model:
# docker-compose.yml needs:
#   volumes:
#     - /run/x:/run/x  # where the two meet
# Frigate cannot read the outputs of this file: it ends at the raw yolov8 head.
# onchip looks at the frames, outside of Frigate. Start it first:
#   onchip frigate serve tiny.onchip --endpoint ipc:///run/x/y

detectors:
  onchip:
    type: zmq
    endpoint: "ipc:///run/x/y"
    request_timeout_ms: 1000  # longer than one look takes, in the worst case
"""
    )
    values = yaml.safe_load(made.yaml)["model"]
    assert (values["width"], values["height"]) == (96, 96)  # onchip letterboxes, Frigate stretches


def test_config_says_what_cannot_be(plain: Artifact, raw: Artifact) -> None:
    with pytest.raises(UnsupportedError, match="raw yolov8 head"):
        config.config(raw, "x.onchip", detector="onnx")
    with pytest.raises(UnsupportedError, match=r"rknn cannot run a file for cpu"):
        config.config(plain, "x.onchip", detector="rknn")
    with pytest.raises(UnsupportedError, match=r"Frigate 0\.15 cannot run this model with onnx"):
        config.config(plain, "x.onchip", detector="onnx", frigate="0.15")
    with pytest.raises(UnsupportedError, match=r"0\.16 cannot run this model with zmq"):
        config.config(raw, "x.onchip", frigate="0.16")
    with pytest.raises(InputError, match="no detector 'hailo9'"):
        config.config(plain, "x.onchip", detector="hailo9")
    with pytest.raises(InputError, match=r"nothing is known of Frigate 0\.9"):
        config.config(plain, "x.onchip", frigate="0.9")


def test_config_warns_of_a_compiler_that_is_too_new(raw: Artifact) -> None:
    made = config.config(hailo(raw, arch="hailo15h"), "x.onchip")
    assert "wrong_chip" in {f.code for f in made.findings}


# What is said of a user's own


def codes(text: str, folder: Path = Path("/nowhere"), frigate: str = "") -> dict[str, str]:
    return {f.code: f.level for f in check.judge(parse(text, "it", folder, frigate), None)}


def test_a_good_one_has_nothing_wrong(tmp_path: Path) -> None:
    assert codes(HAILO + MODEL) == {}
    assert check.describe(()) == "nothing wrong was found"


def test_the_seeds_own(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(SEED)
    found = check.check(tmp_path / "config.yml")
    assert [(f.level, f.code) for f in found] == [
        ("error", "no_mqtt"),
        ("error", "nested_model"),
        ("error", "no_path"),
    ]
    text = check.describe(found)
    assert "Frigate ignores a model here since 0.15" in text
    assert "model: {path: /config/model_cache/h8l_cache/ssd_mobilenet_v1.hef}" in text
    assert "hailo8l loads yolov6n.hef (ssd_mobilenet_v1.hef in 0.15), which is downloaded" in text


WRONG: Mapping[str, tuple[str, str]] = {
    "no mqtt": (HAILO.replace("mqtt: {enabled: false}\n", "") + MODEL, "no_mqtt"),
    "mqtt without host": (HAILO.replace("{enabled: false}", "{topic_prefix: a}") + MODEL, "no_mqtt"),
    "no cameras": ("mqtt: {enabled: false}\ndetectors: {h: {type: hailo8l}}\n" + MODEL, "no_cameras"),
    "camera without stream": (HAILO.replace("inputs: [", "output_args: [") + MODEL, "no_ffmpeg"),
    "empty camera": (HAILO + "  # more\n" + MODEL.replace("model", "camera_groups: {}\nmodel", 1)
                     .replace("camera_groups", "cameras_two"), "unknown_key"),
    "unknown section": (HAILO + MODEL + "detector: {}\n", "unknown_key"),
    "unknown key of a camera": (HAILO.replace("    detect:", "    detects:") + MODEL, "unknown_key"),
    "unknown key of the model": (HAILO + MODEL.replace("width", "widht"), "unknown_key"),
    "key of a later version": ("version: 0.16-0\n" + HAILO + MODEL + "profiles: {}\n", "unknown_key"),
    "nested model": (HAILO.replace("PCIe", "PCIe, model: {path: /a.hef}") + MODEL, "nested_model"),
    "mixed": (HAILO.replace("}}\n", "}, c: {type: edgetpu}}\n") + MODEL, "mixed"),
    "detector without type": (HAILO.replace("type: hailo8l, ", "") + MODEL, "detector_type"),
    "detector of a later version": ("version: 0.16-0\n" + HAILO.replace("hailo8l", "zmq") + MODEL, "detector_type"),
    "misspelt detector": (HAILO.replace("type: hailo8l", "type: hailo8") + MODEL, "detector_type"),
    "misspelt key of a detector": (HAILO.replace("device", "devise") + MODEL, "ignored_key"),
    "no path": (HAILO + MODEL.replace("path: /config/best.hef, ", ""), "no_path"),
    "no model at all": (HAILO, "no_path"),
    "file of another kind": (HAILO + MODEL.replace("best.hef", "best.onnx"), "file"),
    "model type unknown": (HAILO + MODEL.replace("width", "model_type: yolov8, width"), "model_type"),
    "model type that the detector has not": (
        HAILO.replace("hailo8l", "edgetpu") + MODEL.replace("hef", "tflite, model_type: yolox"), "model_type"),
    "yolo-generic before 0.16": (
        "version: 0.15-1\n" + HAILO + MODEL.replace("width", "model_type: yolo-generic, width"), "model_type"),
    "onnx of 0.14": ("version: 0.14\n" + HAILO.replace("hailo8l", "onnx") + MODEL.replace("hef", "onnx"), "model_type"),
    "tensor unknown": (HAILO + MODEL.replace("width", "input_tensor: chw, width"), "input_tensor"),
    "planes for a Hailo": (HAILO + MODEL.replace("width", "input_tensor: nchw, width"), "input_tensor"),
    "floats for a Hailo": (HAILO + MODEL.replace("width", "input_dtype: float, width"), "input_dtype"),
    "dtype unknown": (HAILO + MODEL.replace("width", "input_dtype: uint8, width"), "input_dtype"),
    "dtype before 0.15": ("version: 0.14\n" + GOOD + "detectors: {c: {type: cpu}}\nmodel: {input_dtype: int}\n", "unknown_key"),
    "colours unknown": (HAILO + MODEL.replace("width", "input_pixel_format: RGB, width"), "input_pixel_format"),
    "bgr to the server": (
        GOOD + "detectors: {z: {type: zmq}}\nmodel: {path: a, input_pixel_format: bgr}\n", "input_pixel_format"),
    "floats to the server": (GOOD + "detectors: {z: {type: zmq}}\nmodel: {path: a, input_dtype: float}\n", "input_dtype"),
    "the server without a name": (GOOD + "detectors: {z: {type: zmq}}\nmodel: {width: 640}\n", "no_path"),
    "size as text": (HAILO + MODEL.replace("width: 640", "width: big"), "input_size"),
    "preset that is none": (
        HAILO.replace("hailo8l", "rknn") + MODEL.replace("/config/best.hef", "yolov8n"), "preset"),
    "onnx to rknn": (
        HAILO.replace("hailo8l", "rknn") + MODEL.replace("best.hef", "best.onnx, model_type: yolo-generic"), "converted"),
    "variables as in a shell": (HAILO.replace("{FRIGATE_USER}", "${FRIGATE_USER}") + MODEL, "placeholder"),
    "variables of other names": (HAILO.replace("{FRIGATE_USER}", "{CAM_USER}") + MODEL, "placeholder"),
    "variable not closed": (HAILO.replace("{FRIGATE_USER}", "{FRIGATE_USER") + MODEL, "placeholder"),
    "variable in the path": (HAILO + MODEL.replace("/config/best.hef", "'{FRIGATE_M}.hef'"), "placeholder"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_each_mistake_is_named(name: str) -> None:
    text, code = WRONG[name]
    found = check.judge(parse(text, "it", Path("/nowhere")), None)
    assert code in {f.code for f in found}, found
    assert all(f.cause and f.cure for f in found)


@pytest.mark.parametrize(
    "text",
    ["", "a", "- a", "a: b: c", "a: 1\na: 2", "mqtt: [", "{" * 5000, "a: !!python/name:os.system", "\t- a"],
)  # fmt: skip
def test_what_is_no_configuration(text: str, cli: Cli) -> None:
    (cli.folder / "config.yml").write_text(text)
    assert "error: " in cli("frigate", "check", "config.yml", code=2).stderr


def test_files_that_cannot_be_read(cli: Cli) -> None:
    cli("frigate", "check", "missing.yml", code=2)
    cli("frigate", "check", ".", code=2)
    (cli.folder / "config.yml").write_text(HAILO + MODEL)
    for name, data in {
        "a.hef": b"no",
        "a.rknn": b"no",
        "a.onnx": b"no",
        "a.tflite": b"no",
        "a.txt": b"",
    }.items():
        (cli.folder / name).write_bytes(data)
        cli("frigate", "check", "config.yml", name, code=2)
    cli("frigate", "check", "config.yml", "--frigate", "1.0", code=2)


def with_model(
    folder: Path, text: str, name: str, data: bytes | Path, **given: str
) -> dict[str, str]:
    (folder / "config.yml").write_text(text)
    if isinstance(data, bytes):
        (folder / name).write_bytes(data)
        data = folder / name
    return {f.code: f.cause for f in check.check(folder / "config.yml", data, **given)}


def test_hefs(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("\n".join(f"kind{i}" for i in range(80)))
    text = HAILO + MODEL.replace("}", ", labelmap: {0: person}}")
    try_hef = lambda **given: with_model(tmp_path, text, "best.hef", a_hef(**given))  # noqa: E731
    assert try_hef() == {}
    assert "without HailoRT's NMS: Frigate then finds nothing" in try_hef(nms=False)["no_nms"]
    assert "hailo15h" in try_hef(arch="hailo10h")["wrong_chip"]
    assert "names 80 classes, the model has 5" in try_hef(classes=5)["labelmap"]
    small = HAILO + MODEL.replace("640, height: 640", "320, height: 320")
    assert (
        "takes 640x640, this says 320x320"
        in with_model(tmp_path, small, "best.hef", a_hef())["input_size"]
    )
    found = with_model(tmp_path, text, "best.hef", a_hef("hailo8"), chip="hailo8l")
    assert found["wrong_chip"] == "it was compiled for hailo8, not hailo8l"


@pytest.mark.data
def test_real_files(data: Path, tmp_path: Path) -> None:
    def tried(kind: str, model: Path, keys: str) -> dict[str, str]:
        text = f"{GOOD}detectors: {{d: {{type: {kind}}}}}\nmodel: {{path: /config/{model.name}, {keys}}}\n"
        return with_model(tmp_path, text, "", model)

    models = data / "models"
    size = "width: 640, height: 640, labelmap_path: /labelmap/coco-80.txt"
    floats = f"input_tensor: nchw, input_dtype: float, {size}"
    assert tried("onnx", models / "yolov8n.onnx", f"model_type: yolo-generic, {floats}") == {}
    found = tried("onnx", models / "yolov8n.onnx", "model_type: yolo-generic")
    assert set(found) == {"input_size", "input_tensor", "input_dtype", "labelmap"}
    found = tried("onnx", models / "yolov5n.onnx", f"model_type: yolo-generic, {floats}")
    assert "takes the objectness for the score of class 0" in found["outputs"]
    found = tried("openvino", models / "nanodet_m.onnx", "model_type: yolo-generic, input_tensor: nchw, "
                  "input_dtype: float_denorm, width: 416, height: 416")  # fmt: skip
    assert "ends in 6 outputs" in found["outputs"]
    found = tried(
        "rknn", data / "rknn" / "yolov8n_rk3566.rknn", f"model_type: yolo-generic, {size}"
    )
    assert "ends in 9 outputs" in found["outputs"]
    found = tried("rknn", data / "rknn" / "mnist_rv1126.rknn", "model_type: yolo-generic")
    assert found["wrong_chip"] == "it was compiled for rv1126, which rknn does not run"
    found = tried(
        "edgetpu", data / "tflite" / "yolov8n_integer_quant.tflite", "model_type: yolo-generic"
    )
    assert found["outputs"] == "it was not compiled for the Edge TPU"
    found = tried("hailo8l", data / "hef" / "hand_landmark_lite_8L.hef", "width: 224, height: 224")
    assert "ends in 4 raw outputs" in found["no_nms"] and "hailort" not in found
    text = "version: 0.15-1\n" + HAILO + "model: {path: /config/a.hef, width: 224, height: 224}\n"
    found = with_model(tmp_path, text, "", data / "hef" / "hand_landmark_lite_8L.hef")
    assert (
        "HailoRT 4.20.1, 4.21.0, 4.22.0, 4.23.0 loads it: Frigate 0.15 has 4.19.0"
        in found["hailort"]
    )
    found = tried("hailo8l", data / "hef" / "yolov8n_truncated.hef", size)
    assert "ends in 6 raw outputs" in found["no_nms"]


def test_outputs_of_other_exports(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    def tried(*shapes: tuple[int, ...]) -> dict[str, str]:
        image = helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, 640, 640))
        ends = [
            helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, s)
            for i, s in enumerate(shapes)
        ]
        nodes = [helper.make_node("Identity", ["images"], [e.name]) for e in ends]
        graph = helper.make_graph(nodes, "g", [image], ends)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        text = (
            f"{GOOD}detectors: {{d: {{type: onnx}}}}\nmodel: {{path: /config/a.onnx, width: 640, height: 640, "
            "model_type: yolo-generic, input_tensor: nchw, input_dtype: float, labelmap_path: /config/l.txt}\n"
        )
        return with_model(tmp_path, text, "a.onnx", model.SerializeToString())

    assert onnx and tried((1, 84, 8400)) == {} == tried((1, 8400, 6 + 4)) == tried((1, 5, 8400))
    assert "end-to-end export" in tried((1, 300, 6))["outputs"]
    grids = [(1, 255, 80, 80), (1, 255, 40, 40), (1, 255, 20, 20)]
    assert tried(*grids) == {}
    few = [(1, 30, *s[2:]) for s in grids]
    assert "these would have 5" in tried(*few)["outputs"]
    assert "ends in 2 outputs" in tried((1, 8400, 4), (1, 8400, 80))["outputs"]


def test_an_artifact_against_a_configuration(
    plain: Artifact, raw: Artifact, tmp_path: Path
) -> None:
    made = config.config(plain, "tiny.onchip")
    save(plain, tmp_path / "tiny.onchip")
    save(raw, tmp_path / "raw.onchip")
    tried = lambda text, name="tiny.onchip": with_model(tmp_path, text, "", tmp_path / name)  # noqa: E731
    track = "objects: {track: [kind0]}\n"
    assert tried(GOOD + track + made.yaml) == {}
    assert "no person" in tried(GOOD + made.yaml)["unknown_object"]
    assert (
        "no cat, dog"
        in tried(GOOD + "objects: {track: [dog, kind1, cat]}\n" + made.yaml)["unknown_object"]
    )
    wrong = made.yaml.replace("rgb", "bgr").replace("nchw", "nhwc").replace("96", "128")
    assert set(tried(GOOD + track + wrong)) == {"input_size", "input_tensor", "input_pixel_format"}
    assert "raw yolov8 head" in tried(GOOD + track + made.yaml, "raw.onchip")["outputs"]
    served = config.config(raw, "raw.onchip").yaml
    assert tried(GOOD + track + served, "raw.onchip") == {}


def test_from_the_command_line(built: Path, cli: Cli) -> None:
    done = cli("frigate", "config", built, "-o", "out", "--json")
    made = json.loads(done.stdout)
    assert sorted(made) == ["detector", "files", "findings", "frigate", "yaml"]
    assert {Path(f).name for f in made["files"]} == {"tiny.labels.txt", "frigate.yml"}
    (cli.folder / "config.yml").write_text(GOOD + (cli.folder / "out" / "frigate.yml").read_text())
    found = json.loads(cli("frigate", "check", "config.yml", built, "--json").stdout)
    assert found["passed"] and [f["code"] for f in found["findings"]] == ["unknown_object"]
    (cli.folder / "config.yml").write_text(SEED)
    assert (
        "error: detectors.hailo8l.model: " in cli("frigate", "check", "config.yml", code=1).stdout
    )
    assert "check" in cli("frigate").stdout
    cli("frigate", "config", built, "--detector", "onnx", code=3)
    cli("frigate", "serve", built, "--endpoint", "udp://1.2.3.4:5", code=2)


def test_the_table_is_whole() -> None:
    every = table()
    assert list(every.versions) == ["0.14", "0.15", "0.16", "0.17", "0.18"]
    assert {t for v in every.versions.values() for t in v.types} == set(every.detectors)
    assert version("v0.17.2-beta1") is every.versions["0.17"]
    for known in every.versions.values():
        assert {m for t in known.types.values() for m in t} <= set(known.model_type)


JUNK: list[object] = [
    None, True, 0, -1, 2.5, "", "a", "{FRIGATE_", [], [1], [[]], {}, {1: 2}, {"a": {"b": []}}, [{}], "x" * 999, "/config/" + "x" * 999, "/config/\0",
]  # fmt: skip


def places(node: object, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, by the keys that lead there."""
    yield way
    if isinstance(node, dict):
        for key, value in node.items():
            yield from places(value, (*way, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from places(value, (*way, number))


def test_no_junk_anywhere_is_a_traceback(plain: Artifact, tmp_path: Path) -> None:
    from onchip.device.frigate.network import program

    made = config.config(plain, "tiny.onchip").yaml
    (tmp_path / "onchip").mkdir()
    (tmp_path / "onchip" / "tiny.labels.txt").write_text("0 kind0\n")
    texts = [GOOD + "objects: {track: [kind0], filters: {kind0: {min_score: 0.5}}}\n" + made]
    texts += [HAILO + MODEL.replace("}", ", labelmap: {0: a}}"), SEED]
    net = program(plain, "tiny.onchip")
    for text in texts:
        whole = parse(text, "it", tmp_path)
        for way in list(places(whole.data))[1:]:
            for junk in JUNK:
                document: Any = copy.deepcopy(whole.data)
                inside = document
                for key in way[:-1]:
                    inside = inside[key]
                inside[way[-1]] = junk
                for known in (None, net):
                    setup = dataclasses.replace(whole, data=document)
                    check.describe(check.judge(setup, known))


# What is served


zmq = pytest.importorskip("zmq", reason="pyzmq is not installed: pip install 'onchip[frigate]'")


class Chip:
    """Sees one box in the middle of everything, unless it is told to fail."""

    def __init__(self) -> None:
        self.opened = 0
        self.fails = 0
        self.seen: list[tuple[int, ...]] = []

    def open(self) -> Any:
        self.opened += 1
        return self

    def close(self) -> None:
        pass

    def __call__(self, image: Any) -> Detections:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("cable")
        self.seen.append(image.shape)
        height, width = image.shape[:2]
        box = [width / 4, height / 4, width / 2, height / 2]
        return Detections(np.array([box, box]), np.array([0.5, 0.75]), np.array([1, 2]))


@contextmanager
def serving(
    look: Callable[..., Any], endpoint: str, tell: Any = None
) -> Iterator[Callable[..., Any]]:
    """Serve on a thread; gives what sends a message and returns the answer."""
    over = threading.Event()
    with serve.serve(endpoint) as run:
        thread = threading.Thread(
            target=run, args=(look, over.is_set, tell or (lambda f: None), 0.0)
        )
        thread.start()
        try:
            with zmq.Context() as context:
                yield lambda *parts: ask(context, endpoint, *parts)
        finally:
            over.set()
            thread.join(30)
            assert not thread.is_alive()


def ask(context: Any, endpoint: str, *parts: bytes) -> list[bytes]:
    with context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, 30_000)
        socket.connect(endpoint)
        socket.send_multipart(parts)
        return list(socket.recv_multipart())


def header(**values: object) -> bytes:
    return json.dumps(values).encode()


def a_frame(height: int = 48, width: int = 64) -> tuple[bytes, bytes]:
    return header(shape=[1, height, width, 3], dtype="uint8", model_type="ssd"), bytes(
        height * width * 3
    )


def rows_of(answer: list[bytes]) -> Any:
    told = json.loads(answer[0])
    assert told["shape"] == [20, 6] and told["dtype"] == "float32"
    return np.frombuffer(answer[1], np.float32).reshape(20, 6)


BAD: list[tuple[bytes, ...]] = [
    (b"",), (b"{",), (b"null",), (b"[]",), (b"\xff\xfe",), (b"[" * 4000,), (b"x" * 100_000,),
    (header(shape="big", dtype="uint8"), b""),
    (header(shape=[1, 4, 4, 3]), bytes(48)),
    (header(shape=[1, 4, 4, 3], dtype="float32"), bytes(192)),
    (header(shape=[1, 4, 4, 3], dtype="object"), bytes(48)),
    (header(shape=[1, 4, 4, 3], dtype="uint8"),),
    (header(shape=[1, 4, 4, 3], dtype="uint8"), bytes(47)),
    (header(shape=[1, 4, 4, 3], dtype="uint8"), bytes(48), b"more"),
    (header(shape=[1, 10**9, 10**9, 3], dtype="uint8"), bytes(48)),
    (header(shape=[1, 10**400, 4, 3], dtype="uint8"), bytes(48)),
    (header(shape=[1, -4, -4, 3], dtype="uint8"), bytes(48)),
    (header(shape=[1, 0, 4, 3], dtype="uint8"), b""),
    (header(shape=[6, 4], dtype="uint8"), bytes(24)),
    (header(shape=[1] * 9, dtype="uint8"), b"a"),
    (header(model_request="yes"),),
    tuple([b"{}"] * 500),
]  # fmt: skip


def test_a_frame_and_a_model(tmp_path: Path) -> None:
    chip = Chip()
    with serve.Eyes(chip.open) as eyes, serving(eyes, f"ipc://{tmp_path}/x/s") as send:
        asked = json.loads(send(header(model_request=True, model_name="a.hef"))[0])
        assert asked == {"model_available": True, "model_loaded": True}
        pushed = json.loads(
            send(header(model_data=True, model_name="../../a"), bytes(10_000_000))[0]
        )
        assert pushed == {"model_saved": True, "model_loaded": True}
        found = rows_of(send(*a_frame()))
        assert found[0].tolist() == [2, 0.75, 0.25, 0.25, 0.5, 0.5]
        assert found[1, :2].tolist() == [1, 0.5] and not found[2:].any()
        planes = header(shape=[1, 3, 48, 64], dtype="uint8")
        assert rows_of(send(planes, bytes(48 * 64 * 3)))[0, 1] == 0.75
    assert chip.seen == [(48, 64, 3), (48, 64, 3)]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []  # what was sent is nowhere


def test_colours_arrive_as_onchip_has_them() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 1] = (1, 2, 3)
    for data, shape in ((pixels, (1, 2, 2, 3)), (pixels.transpose(2, 0, 1), (1, 3, 2, 2))):
        image = serve.frame(shape, "uint8", [np.ascontiguousarray(data).tobytes()])
        assert image[0, 1].tolist() == [3, 2, 1] and not image[1].any()


def test_nothing_malformed_stops_it(tmp_path: Path) -> None:
    chip = Chip()
    with serve.Eyes(chip.open) as eyes, serving(eyes, f"ipc://{tmp_path}/s") as send:
        for message in BAD:
            answer = send(*message)
            assert not rows_of(answer).any() and json.loads(answer[0])["error"], message
        assert rows_of(send(*a_frame())).any()
    assert chip.opened == 1 and len(chip.seen) == 1


def test_clients_that_misbehave(tmp_path: Path) -> None:
    import socket as sockets

    endpoint = f"ipc://{tmp_path}/s"
    with serve.Eyes(Chip().open) as eyes, serving(eyes, endpoint) as send, zmq.Context() as context:
        for kind in (zmq.DEALER, zmq.PUB, zmq.PUSH):  # speak another pattern
            with context.socket(kind) as client:
                client.setsockopt(zmq.LINGER, 0)
                client.setsockopt(zmq.SNDTIMEO, 1000)
                client.connect(endpoint)
                with suppress(zmq.Again):
                    client.send_multipart([b"a", b"b"])
        for _ in range(20):  # ask, and leave before the answer
            with context.socket(zmq.REQ) as client:
                client.setsockopt(zmq.LINGER, 0)
                client.connect(endpoint)
                client.send_multipart(a_frame())
        for data in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" + bytes(8) + b"\x7f"):
            with sockets.socket(sockets.AF_UNIX) as client:  # no ZeroMQ at all
                client.connect(f"{tmp_path}/s")
                client.sendall(data)
        assert rows_of(send(*a_frame())).any()


def test_a_message_that_is_too_large_is_cut_off(tmp_path: Path) -> None:
    with (
        serve.Eyes(Chip().open) as eyes,
        serving(eyes, f"ipc://{tmp_path}/s") as send,
        zmq.Context() as context,
    ):
        with context.socket(zmq.REQ) as client:
            client.setsockopt(zmq.LINGER, 0)
            client.setsockopt(zmq.RCVTIMEO, 500)
            client.connect(f"ipc://{tmp_path}/s")
            client.send_multipart([header(model_data=True), bytes(serve.MOST_BYTES + 1)])
            with pytest.raises(zmq.Again):
                client.recv_multipart()
        assert rows_of(send(*a_frame())).any()


def test_a_chip_that_fails_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "WAITS", (0.0, 60.0))
    chip, told = Chip(), []
    with serve.Eyes(chip.open) as eyes, serving(eyes, f"ipc://{tmp_path}/s", told.append) as send:
        chip.fails = 2
        answers = [send(*a_frame()) for _ in range(3)]
    assert [rows_of(a).any() for a in answers] == [False, False, True]
    assert json.loads(answers[0][0])["error"] == "looking failed: RuntimeError: cable"
    assert chip.opened == 3
    lines = [f.line() for f in told]
    assert any("1 not looked at (looking failed: RuntimeError: cable)" in line for line in lines)


def test_it_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(serve.time, "monotonic", lambda: now[0])
    chip = Chip()
    eyes = serve.Eyes(chip.open)
    chip.fails = 10**6
    image, tries = np.zeros((8, 8, 3), np.uint8), []
    for _ in range(300):
        before = chip.fails
        with pytest.raises(Exception, match=r"chip failed|cable"):
            eyes(image)
        tries += [now[0] - 100] if chip.fails < before else []
        now[0] += 1
    assert tries == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_a_chip_that_is_not_there_is_said_at_once() -> None:
    def opened() -> Any:
        raise DeviceError("no chip")

    with pytest.raises(DeviceError, match="no chip"):
        serve.Eyes(opened)


def test_two_cannot_serve_one_place(tmp_path: Path) -> None:
    place = f"ipc://{tmp_path}/s"
    with serve.serve(place), pytest.raises(InputError, match="another onchip is at work"):
        serve.serve(place).__enter__()
    with pytest.raises(InputError, match="cannot listen"):
        serve.serve(f"ipc://{tmp_path}/{'x' * 200}").__enter__()


@pytest.mark.parametrize(
    "endpoint", ["", "ipc://", "ipc://x", "tcp://", "tcp://a", "tcp://a:b", "udp://1:2", "x"]
)
def test_endpoints_that_cannot_be(endpoint: str) -> None:
    with pytest.raises(InputError):
        serve.beyond(endpoint)


def test_which_endpoints_others_reach() -> None:
    near = ["ipc:///tmp/x", "tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1"]
    far = ["tcp://*:1", "tcp://0.0.0.0:1", "tcp://[::]:1", "tcp://10.0.0.5:1", "tcp://eth0:1"]
    assert [serve.beyond(e) for e in near + far] == [False] * 4 + [True] * 5


def test_ctrl_c_ends_the_verb(built: Path, tmp_path: Path) -> None:
    import signal
    import sys

    command = [
        sys.executable,
        "-m",
        "onchip",
        "frigate",
        "serve",
        str(built),
        "--endpoint",
        f"ipc://{tmp_path}/s",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Serving tiny.onchip at ipc://")
        with zmq.Context() as context:
            assert rows_of(ask(context, f"ipc://{tmp_path}/s", *a_frame())).shape == (20, 6)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


# Frigate's own judgement


@pytest.fixture(scope="session")
def frigate() -> Callable[[Path, list[dict[str, object]]], list[dict[str, Any]]]:
    """Frigate's own code: gives its answers to orders (see frigate_child.py)."""
    source = os.environ.get("FRIGATE_SRC")
    if not source:
        pytest.skip(
            "FRIGATE_SRC names no checkout of Frigate, and FRIGATE_PYTHON no Python with its libraries"
        )
    python = os.environ.get("FRIGATE_PYTHON", "python3")

    def run(folder: Path, orders: list[dict[str, object]]) -> list[dict[str, Any]]:
        child = Path(__file__).with_name("frigate_child.py")
        done = subprocess.run(
            [python, str(child), str(folder)],
            input=json.dumps(orders),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_frigate_accepts_what_is_written(
    plain: Artifact, raw: Artifact, tmp_path: Path, frigate: Any
) -> None:
    from onchip.targets.target import get

    made = [
        config.config(plain, "a.onchip", detector=d, frigate="0.18") for d in get("cpu").frigate
    ]
    made += [
        config.config(raw, "a.onchip", frigate="0.18"),
        config.config(hailo(raw), "a.onchip", frigate="0.18"),
    ]
    for written in made:
        config.write(written, tmp_path)
    answers = frigate(
        tmp_path,
        [{"parse": GOOD.replace("{FRIGATE_USER}:{FRIGATE_PASSWORD}@", "") + m.yaml} for m in made],
    )
    for written, answer in zip(made, answers, strict=True):
        assert answer["ok"], answer
        assert answer["type"] == written.detector and answer["labels"]["4"] == "kind4"
        said = yaml.safe_load(written.yaml)["model"]
        assert {k: answer["model"][k] for k in said} == said


@pytest.mark.data
def test_frigate_accepts_a_rockchips(
    raw: Artifact, data: Path, tmp_path: Path, frigate: Any
) -> None:
    program = (data / "rknn" / "yolov8n_rk3566.rknn").read_bytes()
    spec = replace(raw.manifest.input, dtype="uint8", layout="nhwc")
    files = {"program": ("program.rknn", program)}
    artifact = raw.with_payloads(files, target="rk3566", program_input=spec, layout="frigate")
    made = config.config(artifact, "best.onchip", frigate="0.18")
    config.write(made, tmp_path)
    plainly = GOOD.replace("{FRIGATE_USER}:{FRIGATE_PASSWORD}@", "")
    (answer,) = frigate(tmp_path, [{"parse": plainly + made.yaml}])
    assert answer["ok"] and answer["type"] == made.detector == "rknn"
    assert answer["model"]["path"] == "/config/onchip/tiny.rknn"
    assert (
        "# Frigate 0.18" not in made.yaml
        and "stable-rk" in made.yaml
        and "librknnrt 2.3.2" in made.yaml
    )


# what Frigate refuses when it starts; the rest it takes, and fails later or sees nothing
REFUSED = {"no_mqtt", "no_cameras", "no_ffmpeg", "unknown_key"}
OTHERS = {"mqtt without host", "key of a later version", "dtype before 0.15", "onnx of 0.14"}


def test_frigate_refuses_what_check_says_it_refuses(tmp_path: Path, frigate: Any) -> None:
    words = ("unknown", "size as text", "colours", "misspelt detector")
    wrong = {
        name: code in REFUSED or any(w in name for w in words)
        for name, (_, code) in WRONG.items()
        if name not in OTHERS and "version" not in name
    }
    (tmp_path / "l.txt").write_text("person\n")
    texts = [
        WRONG[n][0]
        .replace("{FRIGATE_USER}:{FRIGATE_PASSWORD}@", "")
        .replace("/config/l.txt", "/labelmap.txt")
        for n in wrong
    ]
    answers = frigate(tmp_path, [{"parse": t} for t in texts])
    missed = {
        n: a.get("error")
        for (n, refused), a in zip(wrong.items(), answers, strict=True)
        if refused and a["ok"]
    }
    assert not missed
    surprising = {
        n: a["error"]
        for (n, refused), a in zip(wrong.items(), answers, strict=True)
        if not refused and not a["ok"]
    }
    allowed = ("variable", "no such", "detector without type")
    assert not [n for n in surprising if not n.startswith(allowed)], surprising


def test_frigates_own_detector_sees_what_detect_sees(
    built: Path, raw: Artifact, photos: Path, tmp_path: Path, frigate: Any
) -> None:
    agree(built, sorted(photos.glob("*.png")), (96, 96), tmp_path, frigate)


@pytest.mark.data
def test_frigates_own_detector_on_real_photos(data: Path, tmp_path: Path, frigate: Any) -> None:
    Cli(tmp_path)(
        "build",
        data / "models" / "yolov8n.onnx",
        "-c",
        data / "coco" / "images" / "train2017",
        "-o",
        "n.onchip",
    )
    photos = sorted((data / "coco" / "images" / "val2017").glob("*.jpg"))[:16]
    agree(tmp_path / "n.onchip", photos, (640, 640), tmp_path, frigate, least=50)


def agree(
    artifact: Path,
    photos: list[Path],
    size: tuple[int, int],
    folder: Path,
    frigate: Any,
    least: int = 0,
) -> None:
    """Frigate's zmq detector, unmodified, gives the boxes of `onchip detect` on the same pixels."""
    count = 0
    endpoint = f"ipc://{folder}/zmq/s"
    made = config.config(
        load(artifact), artifact.name, detector="zmq", frigate="0.18", endpoint=endpoint
    )
    config.write(made, folder)
    images = [cv2.resize(read_image(p), size) for p in photos]
    frames = []
    for number, image in enumerate(images):
        np.save(folder / f"{number}.npy", np.ascontiguousarray(image[:, :, ::-1]))
        frames.append(str(folder / f"{number}.npy"))
    detector = Detector(artifact, confidence=serve.LIMITS.confidence)
    text = GOOD.replace("{FRIGATE_USER}:{FRIGATE_PASSWORD}@", "") + made.yaml.replace(
        "_ms: 1000", "_ms: 60000"
    )
    with detector, serve.Eyes(lambda: detector) as eyes, serving(eyes, endpoint):  # type: ignore[arg-type, return-value]
        (answer,) = frigate(folder, [{"zmq": text, "frames": frames}])
        assert answer["ok"], answer
        for image, rows in zip(images, answer["rows"], strict=True):
            ours = detector(image)[:20]
            seen = [r for r in rows if r[1] > 0]
            count += len(seen)
            assert len(seen) == len(ours)
            scale = np.array([*size, *size])
            for row, (box, score, kind) in zip(seen, ours, strict=True):
                assert row[0] == kind and row[1] == pytest.approx(score, abs=1e-6)
                top_left = np.array([row[3], row[2], row[5], row[4]]) * scale
                assert np.abs(top_left - box).max() < 0.01
    assert count >= least
    print(f"{count} boxes of {len(photos)} photos are the same")
