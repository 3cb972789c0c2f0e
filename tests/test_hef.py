"""Hailo's compiled files: all that they say is told, as an independent decoder reads it."""

import hashlib
import json
import os
import random
import re
import struct
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onchip.errors import InputError
from onchip.formats.hailo_versions import spans, table
from onchip.formats.hef import HefFile, HefTensor, parse, read
from onchip.formats.hef_verdicts import Expected, verdicts
from onchip.formats.protobuf import Walk
from onchip.formats.versions import number
from onchip.report.hef import hef as shown
from onchip.report.parse_hef import parse_hef

import hefs
from hef_decoders import ROOT, Named, Wire, message, repaired, told, wire
from hefs import Group, Layer, Logits, Nms

IMAGE = Layer("input_layer1", (640, 640, 3), original=("images",))


def head(
    score_low: float = 0.0, score_high: float = 1.0, classes: int = 80, **more: Any
) -> dict[str, Any]:
    """The outputs and NMS of a YOLOv8 of two strides."""
    outputs, decoders = [], []
    for level, stride in enumerate((8, 16)):
        cells = 640 // stride
        node = f"/model.22/cv%d.{level}/cv%d.{level}.2/Conv"
        outputs += [
            Layer(f"conv{10 * level + 1}", (cells, cells, 64), scales=(0.1,), zeros=(97.0,), low=-9.7,
                  high=15.8, original=(node % (2, 2),)),
            Layer(f"conv{10 * level + 2}", (cells, cells, classes), scales=(1 / 255,), low=score_low,
                  high=score_high, original=(node % (3, 3), f"sigmoid{level}")),
        ]  # fmt: skip
        decoders.append({"stride": stride, "reg": outputs[-2].name, "cls": outputs[-1].name})
    nms = Nms("yolov8", classes=classes, decoders=decoders, **more)
    return {"name": "net", "inputs": [IMAGE], "outputs": outputs, "nms": nms}


def yolov5(
    kind: str = "yolov5", low: float = 0.0, high: float = 1.0, **more: Any
) -> dict[str, Any]:
    sizes = {"w": [10, 16, 33], "h": [13, 30, 23]}
    masks = {"proto": (32, 4, "proto1")} if kind == "yolov5_seg" else {}
    channels = 3 * (5 + 80 + (32 if masks else 0))
    outputs = [Layer("conv1", (80, 80, channels), low=low, high=high)]
    outputs += [Layer("proto1", (160, 160, 32))] if masks else []
    nms = Nms(kind, decoders=[{"stride": 8, "encoded": "conv1", **sizes}], **masks, **more)
    return {"name": "net", "inputs": [IMAGE], "outputs": outputs, "nms": nms}


def yolox() -> dict[str, Any]:
    outputs = [Layer(n, (80, 80, c), high=1) for n, c in (("reg", 4), ("obj", 1), ("cls", 80))]
    nms = Nms("yolox", decoders=[{"stride": 8, "reg": "reg", "cls": "cls", "obj": "obj"}])
    return {"name": "net", "inputs": [IMAGE], "outputs": outputs, "nms": nms}


def ssd() -> dict[str, Any]:
    outputs = [Layer("box", (19, 19, 12)), Layer("cls", (19, 19, 273), high=1)]
    decoders = [{"reg": "box", "cls": "cls", "h": [0.1, 0.25, 0.1], "w": [0.1, 0.25, 0.5]}]
    nms = Nms("ssd", classes=91, background=0, image=(300, 300), decoders=decoders)
    return {
        "name": "net",
        "inputs": [Layer("input_layer1", (300, 300, 3))],
        "outputs": outputs,
        "nms": nms,
    }


ON_CHIP = Layer("nms1", (80, 5, 20), format=hefs.ON_CHIP, nms={2: 80, 3: 20, 4: 8, 7: 2})
IOU: dict[str, Any] = {"name": "net", "inputs": [IMAGE], "outputs": [ON_CHIP], "nms": Nms("iou")}
PLANES = Layer(
    "image", (480, 640, 3), kind=hefs.PLANES, planes=0,
    parts=(Layer("y", (480, 640, 1), original=("images",)), Layer("uv", (240, 320, 2), original=("images",))),
)  # fmt: skip
MUX = Layer(
    "mux1", (1, 1, 90), kind=hefs.MUX,
    parts=(Layer("fc1", (1, 1, 10), format=hefs.NC),
           Layer("mux2", (1, 1, 80), kind=hefs.MUX, parts=(Layer("fc2", (1, 1, 80), format=hefs.NC),))),
)  # fmt: skip
CHANNELS = Layer("conv1", (4, 4, 3), scales=(0.1, 0.2, 0.4), zeros=(1.0, 2.0, 3.0), high=9, bits=16)


def several() -> dict[str, Any]:
    """Two networks in one, of which each has an input and an output."""
    pair = [
        Layer(f"{what}{n}", (8, 8, n + 1), network=n) for n in range(2) for what in ("in", "out")
    ]
    return {"name": "net", "inputs": pair[::2], "outputs": pair[1::2], "networks": ["left", "right"],
            "optional": [8]}  # fmt: skip


def contexts() -> dict[str, Any]:
    made = head()
    between = Layer("conv5", (40, 40, 64), connection=hefs.INTERMEDIATE, context=1)
    last = [Layer(**{**vars(o), "context": 2}) for o in made["outputs"]]
    return {**made, "outputs": last, "others": [between, Layer("conv6", (8, 8, 8), connection=hefs.DDR)],
            "contexts": 3}  # fmt: skip


FILES: Mapping[str, dict[str, Any]] = {
    "version 0": {**head(), "version": 0, "arch": "hailo8l"},
    "version 1": {**head(), "version": 1, "ccws": b"payload"},
    "version 2": {**head(), "version": 2, "ccws": b"payload"},
    "version 3": {**head(), "version": 3, "ccws": b"payload", "padding": 77, "additional": b"more"},
    "yolov5": yolov5(),
    "yolov5 boxes only": yolov5(boxes_only=True),
    "yolov5_seg": yolov5("yolov5_seg", -9, 9),
    "yolov8 boxes only": head(boxes_only=True),
    "yolox": yolox(),
    "ssd": ssd(),
    "iou": IOU,
    "on chip": {"inputs": [IMAGE], "outputs": [ON_CHIP], "net_flow": False},
    "fused": {
        "inputs": [IMAGE], "net_flow": False,
        "outputs": [Layer(f"part{n}", (40, 5, 20), format=hefs.ON_CHIP, nms={2: 40, 3: 20, 4: 8, 7: 1},
                          whole="net/nms1") for n in range(2)],
    },
    "argmax": {"inputs": [IMAGE], "outputs": [Layer("conv1", (8, 8, 21))], "logits": Logits("argmax", "conv1")},
    "softmax": {"inputs": [IMAGE], "outputs": [Layer("fc1", (1, 1, 10), format=hefs.NHWC)],
                "logits": Logits("softmax", "fc1")},
    "planes": {"inputs": [PLANES], "outputs": [CHANNELS]},
    "mux": {"inputs": [IMAGE], "outputs": [MUX]},
    "no net flow": {"inputs": [IMAGE], "outputs": [CHANNELS], "net_flow": False, "arch": "hailo8l"},
    "several networks": several(),
    "several groups": {"groups": [Group("b", [IMAGE], [CHANNELS]), Group("a", [IMAGE], [MUX])]},
    "contexts": contexts(),
    "layouts and contexts": {**contexts(), "arch": "hailo8l"},
    "transposed": {"inputs": [IMAGE], "outputs": [Layer("conv1", (2, 4, 8), transposed=True)]},
    "hailo15": {**head(), "arch": "hailo15h", "version": 3, "sdk": "5.1.0", "sdk_numbers": (5, 1, 0)},
    "resources": {"inputs": [IMAGE], "outputs": [CHANNELS], "external": [(0, 9, "words.txt")]},
}  # fmt: skip


def made(name: str) -> bytes:
    return hefs.build(**FILES[name])


def codes(data: bytes, name: str = "", **expected: Any) -> dict[str, str]:
    found = verdicts(parse(data, "x.hef"), name, Expected(**expected))
    return {v.code: f"{v.level}: {v.message}" for v in found}


def ours(file: HefFile) -> dict[str, Any]:
    """The same of what onchip reads."""

    def tensor(t: HefTensor) -> dict[str, Any]:
        keys = ("name", "shape", "original", "dtype", "scales", "zeros", "low", "high")
        return {k: getattr(t, k) for k in keys}

    def post(p: Any) -> dict[str, Any]:
        found = {k: getattr(p, k) for k in ("name", "output", "inputs", "kind")}
        if p.kind in ("argmax", "softmax"):
            return found
        keys = ("score", "iou", "most", "classes", "background", "boxes_only")
        found |= {k: getattr(p, k) for k in keys}
        if p.kind != "iou":
            pads = ("reg", "cls", "obj", "encoded")
            found["image"] = p.image
            found["decoders"] = [
                {k: getattr(d, k) for k in pads if getattr(d, k)} for d in p.decoders
            ]
        return found | ({"regression_length": p.regression_length} if p.kind == "yolov8" else {})

    return {
        "arch": file.arch, "created": file.created, "compiler": file.compiler,
        "format_version": file.format_version, "extensions": list(file.extensions),
        "optional": list(file.optional), "resources": list(file.resources),
        "groups": [{
            "name": g.name, "bottleneck": g.bottleneck, "latency": g.latency, "contexts": g.contexts,
            "inputs": [tensor(t) for t in g.inputs],
            "raw": [tensor(t) for t in g.raw] if file.complete else None,
            "post": [post(p) for p in g.post],
        } for g in file.groups],
    }  # fmt: skip


def same_fields(data: bytes, inside: Mapping[int, Any]) -> int:
    """Compare every field of a message, and of those in it, in order; return how many they were."""
    walk = Walk(1 << 30)
    mine = [
        (n, bytes(v) if isinstance(v, memoryview) else v) for n, v in walk.fields(memoryview(data))
    ]
    theirs = [(n, data) for n, _, data in wire(data)]
    assert mine == theirs
    assert not walk.cut
    return len(mine) + sum(
        same_fields(d, inside[n]) for n, d in theirs if n in inside and isinstance(d, bytes)
    )


# Real files


def test_every_field_of_the_real_files_equals_protobufs_own_reader(data: Path) -> None:
    whole = message((data / "hef" / "hand_landmark_lite_8L.hef").read_bytes())
    cut = repaired(message((data / "hef" / "yolov8n_truncated.hef").read_bytes()), ROOT)
    assert same_fields(whole, ROOT) > 400
    assert same_fields(cut, ROOT) > 6000


@pytest.mark.parametrize("name", ["hand_landmark_lite_8L.hef", "yolov8n_truncated.hef"])
def test_what_real_files_tell_equals_protobufs_own_reader(data: Path, name: str) -> None:
    raw = (data / "hef" / name).read_bytes()
    root = Wire(repaired(message(raw), ROOT))
    assert ours(parse(raw, name)) == told(root)


@pytest.mark.parametrize("name", FILES)
def test_what_made_files_tell_equals_protobufs_own_reader(name: str) -> None:
    raw = made(name)
    assert same_fields(message(raw), ROOT) > 30
    assert ours(parse(raw, name)) == told(Wire(message(raw)))


HAND = """\
hand_landmark_lite_8L.hef: HEF, header 2, for HAILO8, 2.5 MB
  compiler 3.31.0, 2025-03-27
  checksum XXH3-64 good
  network hand_landmark_lite: 1 context
          simulated: latency 4.29 ms, bottleneck 2697 per second (not throughput)
  input   hand_landmark_lite/input_layer1 uint8[224, 224, 3] NHWC, scale 1, zero 0, range 0 to 255
  output  hand_landmark_lite/fc4 uint8[1, 1, 1] NC, scale 0.003922, zero 0, range 0 to 1, ends Sigmoid
  output  hand_landmark_lite/fc3 uint8[1, 1, 63] NC, scale 0.0005417, zero 96, range -0.052 to 0.08613, ends const_fold_opt__503/BiasAdd
  output  hand_landmark_lite/fc2 uint8[1, 1, 1] NC, scale 0.003922, zero 0, range 0 to 1, ends Sigmoid_1
  output  hand_landmark_lite/fc1 uint8[1, 1, 63] NC, scale 1.145, zero 63, range -72.14 to 219.9, ends const_fold_opt__501/BiasAdd
  needs   ABBALE, PADDED_DDR_BUFFERS, PERIPH_CALCULATION_IN_HAILORT, KO_RUN_ASAP
  loads   with HailoRT 4.20 to 4.23

as hailortcli parse-hef prints it:
Architecture HEF was compiled for: HAILO8
Network group name: hand_landmark_lite, Single Context
    Network name: hand_landmark_lite/hand_landmark_lite
        VStream infos:
            Input  hand_landmark_lite/input_layer1 UINT8, NHWC(224x224x3)
            Output hand_landmark_lite/fc4 UINT8, NC(1)
            Output hand_landmark_lite/fc3 UINT8, NC(63)
            Output hand_landmark_lite/fc2 UINT8, NC(1)
            Output hand_landmark_lite/fc1 UINT8, NC(63)

error: compiled for HAILO8, which runs on hailo8, not for hailo8l: HailoRT refuses it (status 93); compile the network again for that chip
warning: its name says hailo8l, but it was compiled for HAILO8: hailo8l refuses it
note: loads with HailoRT 4.20 to 4.23; its compiler, 3.31.0, came with 4.21.0
note: the compiler's bottleneck figure (2697 per second) is of the chip's slowest part, in simulation. It is not throughput: it leaves out contexts, transfers and the host; measure with onchip bench"""

CUT = """\
yolov8n_truncated.hef: HEF, header 0, for HAILO8L, 2.9 MB
  compiler 3.27.0, 2025-02-11
  checksum MD5 not to be checked, the file is cut
  network yolov8n: 2 contexts, or more, layouts 51, 204
          simulated: latency 6.84 ms, bottleneck 1016 per second (not throughput)
  input   yolov8n/input_layer1 uint8[640, 640, 3] NHWC, scale 1, zero 0, range 0 to 255
  output  yolov8n/conv41 uint8[80, 80, 64] NHWC, scale 0.09301, zero 97, range -9.022 to 14.7
  output  yolov8n/conv42 uint8[80, 80, 10] NHWC, scale 0.00387, zero 0, range 0 to 0.9868
  output  yolov8n/conv52 uint8[40, 40, 64] NHWC, scale 0.08617, zero 92, range -7.928 to 14.05
  output  yolov8n/conv53 uint8[40, 40, 10] NHWC, scale 0.003854, zero 0, range 0 to 0.9827
  output  yolov8n/conv62 uint8[20, 20, 64] NHWC, scale 0.08729, zero 75, range -6.547 to 15.71
  output  yolov8n/conv63 uint8[20, 20, 10] NHWC, scale 0.003806, zero 0, range 0 to 0.9704
  output  yolov8n/yolov8_nms_postprocess: its description was lost

HailoRT refuses this file; of what is left, hailortcli parse-hef would print:
Architecture HEF was compiled for: HAILO8L
Network group name: yolov8n, Multi Context - Number of contexts: 2
    Network name: yolov8n/yolov8n
        VStream infos:
            Input  yolov8n/input_layer1 UINT8, NHWC(640x640x3)
            Output yolov8n/conv41 UINT8, NHWC(80x80x64)
            Output yolov8n/conv42 UINT8, NHWC(80x80x10)
            Output yolov8n/conv52 UINT8, NHWC(40x40x64)
            Output yolov8n/conv53 UINT8, NHWC(40x40x10)
            Output yolov8n/conv62 UINT8, NHWC(20x20x64)
            Output yolov8n/conv63 UINT8, NHWC(20x20x10)

error: the file is cut short: 2883584 of 10453761 bytes are here. HailoRT refuses it; copy or compile it again
warning: yolov8n did not fit on the chip at once: it runs in at least 2 contexts, and each batch loads them anew; run with a batch above 1, or use a smaller model
note: no score above 0.987 (stride 8), 0.983 (stride 16), 0.97 (stride 32) can ever come out: calibration saw none
note: the compiler's bottleneck figure (1016 per second) is of the chip's slowest part, in simulation. It is not throughput: it leaves out contexts, transfers and the host; measure with onchip bench"""


@pytest.mark.parametrize(
    ("name", "chip", "text"),
    [("hand_landmark_lite_8L.hef", "hailo8l", HAND), ("yolov8n_truncated.hef", "", CUT)],
)
def test_what_users_read_of_real_files(data: Path, name: str, chip: str, text: str) -> None:
    found = shown(data / "hef" / name, Expected(chip=chip))
    assert found.text == text.replace(name, str(data / "hef" / name), 1)


def test_the_real_files_headers(data: Path) -> None:
    whole = read(data / "hef" / "hand_landmark_lite_8L.hef")
    assert msgspec.to_builtins(whole.header) == {
        "form": "2", "size": 2470618, "claimed": 2470618, "message": 1162382, "payload": 1308192,
        "checksum": "XXH3-64", "stored": "b496df3f84ec8926", "good": True,
    }  # fmt: skip
    cut = read(data / "hef" / "yolov8n_truncated.hef")
    assert (cut.header.form, cut.header.claimed, cut.header.good) == ("0", 10453761, None)
    assert not cut.complete and whole.complete


def test_a_real_file_that_is_cut_tells_of_its_network_until_the_network_itself_is_cut(
    data: Path,
) -> None:
    """The mapping, half of the message, lies behind the networks and before the extensions."""
    raw = (data / "hef" / "hand_landmark_lite_8L.hef").read_bytes()
    whole = parse(raw, "x.hef")
    for size in (len(raw) - 1, 1_162_425, 1_000_000, 44 + 9592):
        file = parse(raw[:size], "x.hef")
        assert not file.complete and file.groups == whole.groups
        assert (file.arch, file.compiler, file.created) == (1, "3.31.0", 1743076477974)
    few = parse(raw[: 44 + 4000], "x.hef")
    assert few.groups[0].name == "hand_landmark_lite" and few.compiler == "3.31.0"


def test_a_changed_real_file_is_seen(data: Path) -> None:
    raw = bytearray((data / "hef" / "hand_landmark_lite_8L.hef").read_bytes())
    raw[-1] ^= 1
    assert codes(bytes(raw))["checksum"].startswith("error: its XXH3-64 does not fit")


# Hailo's own description of the format


@pytest.fixture(scope="session")
def proto(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Hailo's hef.proto, compiled; skipped where HAILORT_SRC names no checkout of HailoRT."""
    source = Path(os.environ.get("HAILORT_SRC", "")) / "hailort" / "libhailort" / "hef.proto"
    if not source.is_file():
        pytest.skip("HAILORT_SRC names no checkout of HailoRT's public sources")
    protoc = pytest.importorskip(
        "grpc_tools.protoc", reason="hef.proto is compiled by grpcio-tools"
    )
    folder = tmp_path_factory.mktemp("proto")
    assert protoc.main(["protoc", f"-I{source.parent}", f"--python_out={folder}", source.name]) == 0
    sys.path.insert(0, str(folder))
    try:
        import hef_pb2
    finally:
        sys.path.remove(str(folder))
    return hef_pb2


def named(proto: ModuleType, data: bytes) -> Named:
    root = proto.ProtoHEFHef()
    root.ParseFromString(data)
    return Named(root)


@pytest.mark.parametrize("name", ["hand_landmark_lite_8L.hef", "yolov8n_truncated.hef"])
def test_what_real_files_tell_equals_hailos_own_proto(
    data: Path, proto: ModuleType, name: str
) -> None:
    raw = (data / "hef" / name).read_bytes()
    root = named(proto, repaired(message(raw), ROOT))
    assert ours(parse(raw, name)) == told(root)


@pytest.mark.parametrize("name", FILES)
def test_made_files_are_what_hailos_own_proto_describes(proto: ModuleType, name: str) -> None:
    raw = made(name)
    root = named(proto, message(raw))
    assert ours(parse(raw, name)) == told(root)
    if name != "hailo15":  # whose version numbers only the proto of 5.x has
        before = root.message.ByteSize()
        root.message.DiscardUnknownFields()
        assert root.message.ByteSize() == before


def test_the_table_of_versions_equals_hailos_sources() -> None:
    source = Path(os.environ.get("HAILORT_SRC", "")) / "hailort"
    if not (source / "CMakeLists.txt").is_file():
        pytest.skip("HAILORT_SRC names no checkout of HailoRT's public sources")
    numbers = dict(
        re.findall(
            r"HAILORT_(MAJOR|MINOR|REVISION)_VERSION +(\d+)", every(source, "CMakeLists.txt")
        )
    )
    version = ".".join(numbers[n] for n in ("MAJOR", "MINOR", "REVISION"))
    near = [r for r in table().hailort if number(r.version)[:2] == number(version)[:2]]
    release = next((r for r in near if r.version == version), near[-1])
    enum = re.search(r"enum ProtoHEFExtensionType \{(.*?)\}", every(source, "hef.proto"), re.DOTALL)
    assert enum is not None
    types = {n: int(v, 0) for n, v in re.findall(r"(\w+) = (\w+);", enum.group(1))}
    text = every(source, "hef_internal.hpp") + every(source, "hef.cpp")
    known = re.search(r"SUPPORTED_EXTENSIONS = \{(.*?)\};", text, re.DOTALL)
    assert known is not None
    assert {
        types[n] for n in re.findall(r"^\s+([A-Z]\w+),?", known.group(1), re.MULTILINE)
    } == table().known(release)
    if number(version) >= (4, 15):  # some had other names before
        assert table().extensions.items() >= {(v, n) for n, v in types.items() if v < 99}
    headers = {n for n in "0123" if f"HEADER_VERSION_{n}" in text} or {"0"}
    assert {h[0] for h in release.headers} == headers
    assert bool(release.needs) == ("this HEF is outdated" in text)


def every(source: Path, name: str) -> str:
    return "\n".join(p.read_text(errors="replace") for p in sorted(source.rglob(name)))


WORDS = (
    "Network group name: ", "Multi Context - Number of contexts: ", "Single Context",
    "Network name: ", "VStream infos:", "Input  ", "Output ", "Operation:", "HAILO NMS BY CLASS",
    "HAILO NMS WITH BYTE MASK", "(number of classes: ", ", maximum bounding boxes per class: ",
    ", maximum bounding boxes total: ", ", maximum frame size: ", "BAYER RGB", "F8CR", "YUY2", "I420",
    "Op {}, Name: {}, {}, Image height: {:d}, Image width: {:d}", "{} Op, Name: {}",
    "Score threshold: {:.3f}, IoU threshold: {:.2f}, Classes: {}", ", Max bboxes per class: {}",
    ", Max bboxes total: {}", ", Background removal index: {}", "{}, Mask threshold: {:.2f}",
    "Centers scales factor: {}", "Bbox dimension scale factor: {}", "Normalize boxes: {}",
    "YOLOv5-Post-Process", "YOLOv5Bbox-Only-Post-Process", "YOLOv5Seg-Post-Process",
    "YOLOV8-Post-Process", "YOLOv8Bbox-Only-Post-Process", "YOLOX-Post-Process", "SSD-Post-Process",
    "IoU-Post-Process", "Argmax-Post-Process", "Softmax-Post-Process", "YOLOV5SEG",
    "UNKNOWN ARCHITECTURE",
)  # fmt: skip


def test_the_words_of_parse_hef_are_hailos() -> None:
    """What the golden texts above are made of is in HailoRT's sources, in this spelling."""
    source = Path(os.environ.get("HAILORT_SRC", "")) / "hailort"
    if not (source / "libhailort" / "src" / "net_flow").is_dir():
        pytest.skip("HAILORT_SRC names no checkout of HailoRT's public sources")
    text = "\n".join(every(source / "libhailort", name) for name in ("*.cpp", "*.hpp"))
    text = text.replace('"\n        "', "")  # long literals are broken
    assert [w for w in WORDS if w not in text] == []
    assert "Architecture HEF was compiled for: " in text or "HEF Compatible for: " in text


# The headers


@pytest.mark.parametrize(
    ("name", "form", "checksum"),
    [("version 0", "0", "MD5"), ("version 1", "1", "CRC-32"), ("version 2", "2", "XXH3-64"), ("version 3", "3", "XXH3-64")],
)  # fmt: skip
def test_every_header(name: str, form: str, checksum: str) -> None:
    raw = made(name)
    file = parse(raw, "x.hef")
    assert (file.header.form, file.header.checksum, file.header.good) == (form, checksum, True)
    assert file.header.claimed == len(raw) and file.complete
    assert not {"checksum", "incomplete"} & set(codes(raw))
    longer, changed = codes(raw + b"\0"), codes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert "1 bytes more than its header says" in longer["checksum"]
    assert f"its {checksum} does not fit" in changed["checksum"]
    shorter = codes(raw[:-1])
    assert shorter["incomplete"].startswith(
        f"error: the file is cut short: {len(raw) - 1} of {len(raw)}"
    )


def test_the_first_form_of_version_1_is_told_from_the_second() -> None:
    """HailoRT 4.17 kept the MD5 of version 0, and no release after it reads that."""
    body = message(made("version 1"))
    for ccws in (b"", b"payload"):
        rest = body + ccws
        head = struct.pack(">IIII", hefs.MAGIC, 1, len(body), len(ccws))
        raw = head + hashlib.md5(rest).digest() + rest
        file = parse(raw, "x.hef")
        assert (file.header.form, file.header.good, file.groups[0].name) == ("1a", True, "net")
        assert "loads with HailoRT 4.17;" in codes(raw)["runtime_needed"]
        cut = parse(raw[:-1], "x.hef")
        assert (cut.header.form, cut.header.good, cut.groups[0].name) == ("1a", None, "net")


def test_the_message_of_version_3_may_have_a_checksum_of_its_own() -> None:
    raw = bytearray(made("version 3"))
    raw[40:48] = struct.pack(">Q", xxhash.xxh3_64_intdigest(message(raw)))
    assert parse(bytes(raw), "x.hef").header.good
    raw[47] ^= 1
    assert parse(bytes(raw), "x.hef").header.good is False


def test_the_payload_is_digested_by_itself() -> None:
    one, other = (hefs.build(**head(), ccws=c) for c in (b"a" * 99, b"b" * 99))
    assert parse(one, "x").payload != parse(other, "x").payload
    assert (
        parse(one, "x").payload
        == parse(hefs.build(**head(), ccws=b"a" * 99, timestamp=1), "x").payload
    )
    assert parse(made("version 0"), "x").payload == ""


# The words of parse-hef

NMS_LINES = """\
            Operation:
                Op YOLOV8
                Name: YOLOV8-Post-Process
                Score threshold: 0.200
                IoU threshold: 0.70
                Classes: 80
                Max bboxes per class: 100
                Image height: 640
                Image width: 640"""
YOLO_OUT = "FLOAT32, HAILO NMS BY CLASS(number of classes: 80, maximum bounding boxes per class: 100, maximum frame size: 160320)"
IN = "Input  net/input_layer1 UINT8, NHWC(640x640x3)"


def printed(name: str) -> list[str]:
    return parse_hef(parse(made(name), name)).splitlines()


@pytest.mark.parametrize("name", ["version 0", "version 1", "version 2", "version 3"])
def test_parse_hef_of_a_yolov8(name: str) -> None:
    arch = "HAILO8L" if name == "version 0" else "HAILO8"
    assert printed(name) == [
        f"Architecture HEF was compiled for: {arch}",
        "Network group name: net, Single Context",
        "    Network name: net/net",
        "        VStream infos:",
        f"            {IN}",
        f"            Output net/nms_postprocess {YOLO_OUT}",
        *NMS_LINES.splitlines(),
    ]


def test_parse_hef_in_the_words_of_5() -> None:
    assert printed("hailo15")[:3] == [
        "HEF Compatible for: HAILO15H, HAILO10H",
        "HEF Compiler Version: 5.1.0",
        "Network group name: net, Single Context",
    ]
    assert printed("hailo15")[-9:] == NMS_LINES.splitlines()


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("yolov5", [YOLO_OUT, "Op YOLOV5", "Name: YOLOv5-Post-Process", "Score threshold: 0.200", "IoU threshold: 0.70",
                    "Classes: 80", "Max bboxes per class: 100", "Image height: 640", "Image width: 640"]),
        ("yolov5 boxes only", ["FLOAT32, NHWC(1x19200x85)", "Op YOLOV5", "Name: YOLOv5Bbox-Only-Post-Process",
                               "Classes: 80", "Image height: 640", "Image width: 640"]),
        ("yolov8 boxes only", ["FLOAT32, NHWC(1x8000x84)", "Op YOLOV8", "Name: YOLOv8Bbox-Only-Post-Process",
                               "Classes: 80", "Image height: 640", "Image width: 640"]),
        ("yolov5_seg", ["FLOAT32, HAILO NMS WITH BYTE MASK(number of classes: 80, maximum bounding boxes total: 8000, "
                        "maximum frame size: 1123202)", "Op YOLOV5SEG", "Name: YOLOv5Seg-Post-Process",
                        "Score threshold: 0.200", "IoU threshold: 0.70", "Classes: 80", "Max bboxes total: 8000",
                        "Image height: 640", "Image width: 640", "Mask threshold: 0.50"]),
        ("yolox", [YOLO_OUT, "Op YOLOX", "Name: YOLOX-Post-Process", "Score threshold: 0.200", "IoU threshold: 0.70",
                   "Classes: 80", "Max bboxes per class: 100", "Image height: 640", "Image width: 640"]),
        ("ssd", ["FLOAT32, HAILO NMS BY CLASS(number of classes: 90, maximum bounding boxes per class: 100, "
                 "maximum frame size: 180360)", "Op SSD", "Name: SSD-Post-Process", "Score threshold: 0.200",
                 "IoU threshold: 0.70", "Classes: 91", "Max bboxes per class: 100", "Background removal index: 0",
                 "Image height: 300", "Image width: 300", "Centers scales factor: 10",
                 "Bbox dimension scale factor: 5", "Normalize boxes: false"]),
        ("iou", [YOLO_OUT, "Op IOU", "Name: IoU-Post-Process", "Score threshold: 0.200", "IoU threshold: 0.70",
                 "Classes: 80", "Max bboxes per class: 100"]),
        ("argmax", ["UINT8, NHW(8x8)", "ARGMAX Op", "Name: Argmax-Post-Process"]),
        ("softmax", ["FLOAT32, NHWC(1x1x10)", "SOFTMAX Op", "Name: Softmax-Post-Process"]),
    ],
)  # fmt: skip
def test_parse_hef_of_every_operation(name: str, lines: list[str]) -> None:
    output, *operation = lines
    said = printed(name)
    post = FILES[name].get("nms") or FILES[name]["logits"]
    place = said.index(f"            Output net/{post.name} {output}")
    assert said[place + 1] == "            Operation:"
    assert said[place + 2 :] == [f"                {line}" for line in operation]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("on chip", [f"            {IN}", "            Output net/nms1 FLOAT32, HAILO NMS BY CLASS(number of classes: 80, "
                     "maximum bounding boxes per class: 40, maximum frame size: 64320)"]),
        ("fused", [f"            {IN}", "            Output net/nms1 FLOAT32, HAILO NMS BY CLASS(number of classes: 40, "
                   "maximum bounding boxes per class: 20, maximum frame size: 16160)"]),
        ("planes", ["            Input  net/image AUTO, NV12(480x640x3)", "            Output net/conv1 UINT16, NHWC(4x4x3)"]),
        ("mux", [f"            {IN}", "            Output net/fc1 UINT8, NC(10)", "            Output net/fc2 UINT8, NC(80)"]),
        ("no net flow", [f"            {IN}", "            Output net/conv1 UINT16, NHWC(4x4x3)"]),
        ("transposed", [f"            {IN}", "            Output net/conv1 UINT8, NHWC(4x2x8)"]),
    ],
)  # fmt: skip
def test_parse_hef_of_what_has_no_operation(name: str, lines: list[str]) -> None:
    assert printed(name)[1:] == [
        "Network group name: net, Single Context", "    Network name: net/net", "        VStream infos:", *lines,
    ]  # fmt: skip


def test_parse_hef_of_several_networks_and_groups() -> None:
    assert printed("several networks")[2:] == [
        "    Network name: net/left", "        VStream infos:", "            Input  net/in0 UINT8, NHWC(8x8x1)",
        "            Output net/out0 UINT8, NHWC(8x8x1)",
        "    Network name: net/right", "        VStream infos:", "            Input  net/in1 UINT8, NHWC(8x8x2)",
        "            Output net/out1 UINT8, NHWC(8x8x2)",
    ]  # fmt: skip
    assert [x for x in printed("several groups") if "group" in x] == [
        "Network group name: a, Single Context", "Network group name: b, Single Context",
    ]  # fmt: skip
    for name in ("contexts", "layouts and contexts"):
        assert printed(name)[1] == "Network group name: net, Multi Context - Number of contexts: 3"


def test_outputs_are_in_the_order_that_the_file_gives() -> None:
    outputs = [Layer(n, (4, 4, 3)) for n in ("a", "b", "c")]
    raw = hefs.build(inputs=[IMAGE], outputs=outputs, sorted_outputs=["net/c", "net/a", "net/b"])
    assert [t.name for t in parse(raw, "x").groups[0].outputs] == ["net/c", "net/a", "net/b"]
    assert [t.name for t in parse(raw, "x").groups[0].raw] == ["net/a", "net/b", "net/c"]


def test_a_scale_for_each_channel_is_told() -> None:
    (tensor,) = parse(made("planes"), "x").groups[0].outputs
    assert (tensor.scales, tensor.zeros) == ((0.1, 0.2, 0.4), (1.0, 2.0, 3.0))


# Verdicts


def test_a_sound_file_gets_no_warning() -> None:
    assert set(codes(hefs.build(**head(), arch="hailo8l"), "yolov8n_8L.hef", chip="hailo8l", classes=80, size=(640, 640))) == {
        "runtime_needed", "bottleneck_not_fps", "thresholds_baked",
    }  # fmt: skip


def test_missing_sigmoid() -> None:
    found = codes(hefs.build(**head(-12.5, 3.25)))
    assert found["missing_sigmoid"] == (
        "error: scores at stride 8 reach from -12.5 to 3.25: they never passed a sigmoid, and the NMS in HailoRT applies "
        "none; add change_output_activation(conv2, sigmoid) to the model script and compile again"
    )
    assert "missing_sigmoid" in codes(hefs.build(**yolov5(low=-5, high=5)))
    assert "missing_sigmoid" not in codes(made("yolov5_seg"))  # HailoRT applies it there
    raw = {**head(-12.5, 3.25), "nms": None}
    assert "missing_sigmoid" not in codes(hefs.build(**raw))  # the program decodes, and knows


def test_double_sigmoid() -> None:
    assert "no score falls below 0.5" in codes(hefs.build(**yolov5("yolov5_seg")))["double_sigmoid"]
    assert "double_sigmoid" not in codes(made("yolov5"))


def test_score_ceiling() -> None:
    assert codes(hefs.build(**head(0, 0.8355)))["score_ceiling"] == (
        "warning: no score above 0.836 (stride 8), 0.836 (stride 16) can ever come out: calibration saw none; calibrate "
        "with photos that show every class well"
    )
    assert codes(hefs.build(**head(0, 0.95)))["score_ceiling"].startswith(
        "info: no score above 0.95 (stride 8)"
    )
    assert (
        "with the threshold of 0.2 that level finds nothing"
        in codes(hefs.build(**head(0, 0.15)))["score_ceiling"]
    )
    assert codes(hefs.build(**head(0, 0.15)))["score_ceiling"].startswith("error")
    assert "score_ceiling" not in codes(hefs.build(**head(0, 0.998)))


def test_wrong_classes() -> None:
    raw = hefs.build(**head(classes=3))
    assert "its NMS knows 3 classes, not 80" in codes(raw, classes=80)["wrong_classes"]
    assert "wrong_classes" not in codes(raw, classes=3)
    stale = hefs.build(**{**head(classes=3), "nms": head()["nms"]})
    assert codes(stale)["wrong_classes"] == (
        "error: its NMS knows 80 classes, for which net/conv2 would have 80 channels; it has 3: the NMS configuration is "
        "of another model"
    )
    cut = hefs.build(**{**head(classes=3), "nms": None})
    assert (
        codes(cut, classes=80)["wrong_classes"]
        == "error: no output has 80 classes; their channels are 3, 64"
    )
    assert "wrong_classes" not in codes(cut, classes=3)
    assert "wrong_classes" not in codes(made("ssd"), classes=90)
    joined = [
        Layer("conv1", (40, 40, 112)),
        Layer("conv2", (20, 20, 112)),
    ]  # boxes and scores in one
    assert "wrong_classes" not in codes(hefs.build(inputs=[IMAGE], outputs=joined), classes=80)
    assert "wrong_classes" in codes(hefs.build(inputs=[IMAGE], outputs=joined), classes=365)


def test_wrong_size() -> None:
    found = codes(made("version 2"), size=(320, 256))
    assert found["wrong_size"].startswith("error: takes images of 640x640, not 320x256")
    found = codes(hefs.build(**head(image=(320.0, 640.0))))
    assert found["wrong_size"] == (
        "error: its NMS decodes boxes for an image of 640x320, but at stride 8 the grid of net/conv1 covers 640x640: boxes "
        "will be misplaced; set image_dims in the NMS configuration"
    ).replace("net/conv1", "net/conv2")


@pytest.mark.parametrize(
    ("arch", "chip", "code"),
    [("hailo8", "hailo8", None), ("hailo8", "hailo8l", "wrong_chip"), ("hailo8l", "hailo8", "slower_chip"),
     ("hailo8l", "HAILO8L", None), ("hailo15h", "hailo10h", None), ("hailo15m", "hailo15h", "slower_chip"),
     ("hailo10h", "hailo8", "wrong_chip"), ("hailo15l", "hailo15h", "wrong_chip"), (0, "hailo8", "wrong_chip"),
     (77, "hailo8", "unknown_chip")],
)  # fmt: skip
def test_chips(arch: str | int, chip: str, code: str | None) -> None:
    found = codes(hefs.build(**head(), arch=arch), chip=chip)
    assert {c for c in found if c.endswith("_chip")} == ({code} if code else set())


@pytest.mark.parametrize(
    ("name", "lies"),
    [("hand_8L.hef", True), ("yolov8n_h8l.hef", True), ("yolov8n-hailo8l.hef", True), ("yolov8n.hailo10h.hef", True),
     ("yolov8n_h8.hef", False), ("yolov8l.hef", False), ("yolov8.hef", False), ("best_8.hef", False), ("8l.hef", False),
     ("yolov8n_hailo-8.hef", False)],
)  # fmt: skip
def test_names_lie(name: str, lies: bool) -> None:
    assert ("name_lies" in codes(made("version 2"), name)) == lies


def test_outdated_unknown_and_strict() -> None:
    old = codes(hefs.build(**head(), extensions=[0, 13, 27]))
    assert old["outdated"].startswith(
        "error: lacks extension 26 (PERIPH_CALCULATION_IN_HAILORT): HailoRT 4.21 and later"
    )
    assert old["runtime_needed"].startswith("info: loads with HailoRT 4.20;")
    new = codes(hefs.build(**head(), extensions=[13, 26, 99]))
    assert new["unknown_extension"].startswith(
        "error: needs extension 99, which no HailoRT up to 5.2.0 has"
    )
    raw = hefs.build(
        **head(),
        arch="hailo15h",
        version=3,
        sdk="5.1.0",
        sdk_numbers=(5, 1, 0),
        extensions=[13, 26, 27, 35],
    )
    assert codes(raw)["strict_version"].startswith(
        "warning: demands HailoRT 5.1, the compiler's own version"
    )
    assert codes(raw)["runtime_needed"].startswith(
        "info: loads with HailoRT 5.1; its compiler, 5.1.0, came with 5.1.1"
    )
    none = codes(hefs.build(**head(), version=3, extensions=[13, 27]))
    assert none["runtime_needed"].startswith("error: no known HailoRT loads it")


def test_demoted() -> None:
    raw = head()
    node = "/model.22/cv2.0/cv2.0.2/Conv"
    assert codes(hefs.build(**raw), wide=(node,))["demoted"].startswith(
        "warning: net/conv1 was to have 16 bits and has 8;"
    )
    wide = [Layer(**{**vars(o), "bits": 16}) for o in raw["outputs"]]
    assert "demoted" not in codes(hefs.build(**{**raw, "outputs": wide}), wide=(node,))
    stale = [Layer(**{**vars(o), "zeros": (18000.0,)}) for o in raw["outputs"]]
    found = codes(hefs.build(**{**raw, "outputs": stale}))["demoted"]
    assert found.startswith(
        "error: net/conv1, net/conv2, net/conv11 and 1 more was to have 16 bits and has 8: their zero"
    )


def test_other_end_nodes() -> None:
    found = codes(
        made("version 2"), end_nodes=("/model.22/cv2.0/cv2.0.2/Conv", "/model.22/Concat_3")
    )
    assert found["wrong_end_nodes"].startswith("warning: /model.22/Concat_3 is not among the nodes")


def test_contexts_thresholds_and_the_bottleneck() -> None:
    found = codes(made("contexts"))
    assert "it runs in 3 contexts" in found["multi_context"]
    assert found["thresholds_baked"].startswith(
        "info: score threshold 0.2 and IoU threshold 0.7 are written in"
    )
    assert (
        "(1000 per second)" in found["bottleneck_not_fps"]
        and "It is not throughput" in found["bottleneck_not_fps"]
    )
    assert "thresholds_baked" not in codes(made("yolov8 boxes only"))
    assert "fps" not in json.dumps(msgspec.to_builtins(parse(made("version 2"), "x"))).lower()


# Hostile files


def harmless(raw: bytes) -> HefFile | None:
    """Read anything at all: it is told of, or one InputError with a hint says what is wrong."""
    try:
        file = parse(raw, "x.hef")
    except InputError:
        return None
    assert json.dumps(msgspec.to_builtins(file), default=str)
    assert parse_hef(file)
    verdicts(
        file, "x_8L.hef", Expected(chip="hailo8l", classes=80, size=(640, 640), end_nodes=("a",))
    )
    return file


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "is not a HEF"),
        (b"RKNN", "is not a HEF"),
        (b"\x01HEF", "its header is not whole in 4 bytes"),
        (b"\x01HEF" + bytes(20), "its header is not whole in 24 bytes"),
        (b"\x01HEF\0\0\0\x07" + bytes(60), "header version 7, which onchip does not know"),
        (b"\x01HEF" + bytes(60), "nothing can be told"),
        (b"\x01HEF\0\0\0\0\xff\xff\xff\xff" + bytes(60), "nothing can be told"),
    ],
)
def test_what_is_no_hef(raw: bytes, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)) as caught:
        parse(raw, "x.hef")
    assert caught.value.hint and "\n" not in str(caught.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.hef", tmp_path, Path("a\0b")):
        with pytest.raises(InputError):
            read(path)


def test_every_short_piece() -> None:
    raw = made("layouts and contexts")
    for size in [*range(200), *range(200, len(raw), 61)]:
        file = harmless(raw[:size])
        if file is not None:
            assert file.header.good is None and not file.complete


def test_every_byte_changed() -> None:
    raw = hefs.build(inputs=[Layer("a", (8, 8, 1))], outputs=[Layer("b", (4, 4, 1))], nms=None)
    for place in range(len(raw)):
        for value in (0, 0x7F, 0xFF, raw[place] ^ 1):
            harmless(raw[:place] + bytes([value]) + raw[place + 1 :])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(FILES)), st.randoms(use_true_random=False))
def test_mutations(name: str, random: random.Random) -> None:
    raw = bytearray(made(name))
    for _ in range(random.randint(1, 12)):
        place = random.randrange(len(raw))
        match random.randrange(4):
            case 0:
                raw[place] = random.randrange(256)
            case 1:
                del raw[place : place + random.randrange(40)]
            case 2:
                raw[place:place] = random.randbytes(random.randrange(9))
            case 3:
                raw[place : place + 5] = b"\xff" * 5
        if len(raw) < 60:
            break
    harmless(bytes(raw))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([0, 1, 2, 3]))
def test_random_messages(body: bytes, version: int) -> None:
    harmless(hefs.seal(body, version=version))


def nested(depth: int, *path: int) -> bytes:
    inner = b""
    for level in range(depth):
        inner = hefs.text(path[level % len(path)], inner)
    return inner


START = hefs.text(1, hefs.number(1, 1) + hefs.text(3, "3.31.0") + hefs.number(4, 5))
MANY = 60_000
BOMBS: Mapping[str, Callable[[], bytes]] = {
    "empty extensions": lambda: hefs.text(5, b"") * MANY,
    "empty networks": lambda: hefs.text(2, b"") * MANY,
    "empty resources": lambda: hefs.text(7, b"") * MANY,
    "contexts": lambda: hefs.text(2, hefs.text(3, b"") * MANY),
    "edges": lambda: hefs.text(2, hefs.text(3, hefs.text(3, hefs.text(2, hefs.text(3, b"")) * MANY))),
    "outputs": lambda: hefs.text(2, hefs.text(3, hefs.text(3, hefs.text(2, hefs.number(1, 1)) * MANY))),
    "operations": lambda: hefs.text(5, hefs.number(1, 13)) + hefs.text(2, hefs.text(8, hefs.text(4, b"") + hefs.text(5, b"")) * MANY),
    "pads": lambda: hefs.text(5, hefs.number(1, 13)) + hefs.text(2, hefs.text(8, hefs.text(4, b"") + hefs.text(2, b"") * MANY)),
    "links": lambda: hefs.text(2, hefs.text(9, hefs.number(1, 1)) * MANY),
    "layouts": lambda: hefs.text(2, hefs.text(7, hefs.text(1, b"")) * MANY),
    "names": lambda: hefs.text(2, hefs.text(4, "ab") * MANY),
    "names of networks": lambda: hefs.text(6, hefs.number(1, 8)) + hefs.text(2, hefs.text(1, hefs.text(1, "😀" * 250)) + hefs.text(6, "ab") * MANY),
    "wide names": lambda: hefs.text(2, hefs.text(3, hefs.text(3, hefs.text(2, hefs.text(3, hefs.text(1, "😀".encode() + b"\xff" * 900))) * 300))),
    "long name": lambda: hefs.text(2, hefs.text(1, hefs.text(1, "é" * (4 * MANY)))),
    "scales": lambda: hefs.text(2, hefs.text(3, hefs.text(3, hefs.text(2, hefs.text(3, hefs.text(3, hefs.packed(6, range(1, MANY)))))))),
    "loose scales": lambda: hefs.text(2, hefs.text(3, hefs.text(3, hefs.text(2, hefs.text(3, hefs.text(3, b"".join(hefs.double(6, n) for n in range(1, MANY)))))))),
    "anchors": lambda: hefs.text(5, hefs.number(1, 13)) + hefs.text(2, hefs.text(8, hefs.text(4, b"")) + hefs.text(8, hefs.text(5, hefs.text(7, hefs.text(4, hefs.packed_numbers(2, [1] * 8 * MANY) + hefs.packed_numbers(3, [1] * 8 * MANY)))))),
    "originals": lambda: hefs.text(2, hefs.text(3, hefs.text(3, hefs.text(2, hefs.text(3, hefs.text(5, "") * MANY))))),
    "muxes in muxes": lambda: hefs.text(2, hefs.text(3, hefs.text(3, hefs.text(2, hefs.number(2, 1) + hefs.text(4, nested(20_000, 2, 5)))))),
    "networks in networks": lambda: hefs.text(2, nested(20_000, 1, 7)),
    "numbers without end": lambda: b"\xff" * (4 * MANY),
    "small fields": lambda: b"\x40\x01" * (4 * MANY),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_memory_stays_below_four_times_the_file(name: str) -> None:
    raw = hefs.seal(START + BOMBS[name]())
    tracemalloc.start()
    try:
        with suppress(InputError):
            parse(raw, "x.hef")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(raw), f"{peak / len(raw):.1f} times"
    file = harmless(raw)
    assert file is None or file.compiler == "3.31.0"


def test_absurd_claims_cost_nothing() -> None:
    """Lengths and counts that no file can have."""
    huge = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
    for body in (
        b"\x12" + huge,
        b"\x0a" + huge,
        b"\x08" + huge,
        b"\x12\x04\x1a\xff\xff\x7f",
        b"\x0b\x0c",
        b"\x00\x00",
    ):
        harmless(hefs.seal(START + body))
    for version, rest in ((1, ">IQI"), (2, ">QQQQ"), (3, ">QQIQQQ")):
        fields = [(1 << 8 * struct.calcsize(f">{c}")) - 1 for c in rest[1:]]
        raw = (
            struct.pack(">III", hefs.MAGIC, version, 0xFFFFFFFF)
            + struct.pack(rest, *fields)
            + START
        )
        file = harmless(raw)
        assert file is not None and file.header.good is None and file.compiler == "3.31.0"


def test_names_are_printed_as_one_line() -> None:
    raw = hefs.build(name="a\x1b[31m\nb", inputs=[IMAGE], outputs=[CHANNELS])
    assert parse(raw, "x").groups[0].name == "a�[31m�b"


# The command line


def test_json_has_the_keys_of_every_inspection(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "net.hef").write_bytes(made("version 3"))
    told_of = json.loads(cli("inspect", "net.hef", "--json", "-t", "hailo8l").stdout)
    assert told_of["format"] == "hef"
    assert told_of["digest"] == hashlib.sha256(made("version 3")).hexdigest()
    assert (
        told_of["inputs"][0].items()
        >= {"name": "net/input_layer1", "shape": [640, 640, 3], "dtype": "uint8"}.items()
    )
    assert (
        told_of["outputs"][0].items()
        >= {"name": "net/nms_postprocess", "shape": [80, 5, 100], "dtype": "float32"}.items()
    )
    assert {"code": "wrong_chip", "level": "error"}.items() <= told_of["verdicts"][1].items()
    assert told_of["parse_hef"].startswith("Architecture HEF was compiled for: HAILO8\n")
    assert told_of["hailort"] == ["4.21.0", "4.22.0", "4.23.0"]
    assert told_of["extensions"][-1] == "HAILO_NET_FLOW_YOLOV8_NMS"
    assert told_of["networks"][0]["post"][0]["decoders"][0] == {
        "stride": 8, "reg": "net/conv1", "cls": "net/conv2", "obj": "", "encoded": "", "anchors": [],
    }  # fmt: skip


def test_a_file_is_known_by_its_first_bytes(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(made("version 2"))
    assert "HEF, header 2, for HAILO8" in cli("inspect", "net.bin").stdout
    (tmp_path / "no.hef").write_bytes(b"nothing")
    done = cli("inspect", "no.hef", code=2)
    assert done.stderr.startswith(
        "error: no.hef is not a HEF: it does not begin with Hailo's magic\n"
    )


def test_layers_lists_every_channel(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "net.hef").write_bytes(made("planes"))
    said = cli("inspect", "net.hef", "--layers").stdout
    assert "scale 0.1 to 0.4 by channel, zero 1 to 3 by channel" in said
    assert "net/conv1  from nodes unknown\n  scales (0.1, 0.2, 0.4)\n  zeros  (1, 2, 3)" in said


# The table of versions


def test_the_table_knows_what_belongs_together() -> None:
    assert [r.version for r in table().with_compiler("3.31.0")] == ["4.21.0"]
    assert [r.version for r in table().with_compiler("3.27")] == ["4.17.1", "4.18.0"]
    assert [r.version for r in table().with_compiler("9")] == []
    assert table().devices() == (
        "hailo8",
        "hailo8l",
        "hailo15m",
        "hailo15h",
        "hailo10h",
        "hailo15l",
        "hailo12l",
    )
    eight = table().arch_of(3)
    assert eight is not None and eight.line == 4 and eight.devices == ("hailo8l", "hailo8")
    assert (
        table().extension(26) == "PERIPH_CALCULATION_IN_HAILORT" and table().extension(999) == "999"
    )


def test_the_table_is_in_order_and_says_each_thing_once() -> None:
    versions = [number(r.version) for r in table().hailort]
    assert versions == sorted(set(versions))
    added = [e for r in table().hailort for e in r.adds]
    assert len(added) == len(set(added)) and set(added) <= set(table().extensions)
    assert len({a.code for a in table().arch}) == len(table().arch)


def test_what_loads_a_file() -> None:
    assert spans(table().loading("2", [26], 1)) == "4.20 to 4.23"
    assert spans(table().loading("0", [13], 3)) == "4.12 to 4.20"
    assert spans(table().loading("0", [26], 103)) == "4.14 to 4.21 and 5.0.0 to 5.2"
    assert spans(table().loading("3", [26, 33], 103)) == "5.0.1 to 5.2"
    assert spans(table().loading("1a", [26], 1)) == "4.17"
    assert spans(table().loading("3", [99], 1)) == ""


def test_the_page_shows_what_is_printed() -> None:
    page = (Path(__file__).parents[1] / "docs" / "inspect.md").read_text()
    for text in (HAND, CUT):
        assert text in page
    codes_told = set(re.findall(r"`([a-z_]+)`", page))
    source = (
        Path(__file__).parents[1] / "src" / "onchip" / "formats" / "hef_verdicts.py"
    ).read_text()
    given = set(re.findall(r'(?:_error|_warning)\(\s*"([a-z_]+)"', source)) | set(
        re.findall(r'code="([a-z_]+)"', source)
    )
    assert given <= codes_told
