"""Rockchip files: what they say is told exactly, and nothing that they hold can do harm."""

import json
import struct
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onchip.errors import InputError
from onchip.formats.rknn import MAX_NOTES, MINI, SLOTS, RknnFile, RknnTensor, parse, read
from onchip.formats.rknn_verdicts import verdicts

Shape = tuple[int, ...]
IMAGE = (1, 3, 640, 640)


def flatbuffer(texts: dict[int, bytes]) -> bytes:
    """A FlatBuffer whose root holds texts at some slots of 22."""
    slots, strings = 22, b""
    vtable = struct.pack("<HH", 4 + 2 * slots, 4 + 4 * slots)
    root = struct.pack("<i", len(vtable))  # the vtable lies right before the root
    end = 4 + 4 * slots
    for slot in range(slots):
        here = 4 + 4 * slot
        vtable += struct.pack("<H", here if slot in texts else 0)
        root += struct.pack("<I", end + len(strings) - here)
        if slot in texts:
            strings += struct.pack("<I", len(texts[slot])) + texts[slot]
    root = struct.pack("<i", len(vtable)) + root[4:]
    return struct.pack("<I", 8 + len(vtable)) + b"RKNN" + vtable + root + strings


def container(version: int, payload: bytes, tail: bytes) -> bytes:
    header = 24 if version == 1 else 64
    start = (b"RKNN\0\0\0\0" + struct.pack("<QQ", version, len(payload))).ljust(header, b"\0")
    return start + payload + struct.pack("<Q", len(tail)) + tail


def made(
    shapes: dict[str, Shape],
    *,
    version: int = 6,
    image: Shape = IMAGE,
    dtype: str = "int8",
    mean: float = 0,
    std: float = 255,
    high: float = 1.0,
    notes: str = "",
    platform: str = "rk3588",
) -> bytes:
    """A small file of rknn-toolkit2: one image in, and some outputs of 0 to `high`."""
    quantized = dtype == "int8"
    attrs: dict[str, object] = {
        "images": {"idx": 0, "shape": list(image), "layout": "nchw", "is_output": False,
                   "mean": [mean] * 3, "std": [std] * 3}
    }  # fmt: skip
    ranges: dict[str, object] = {}
    for number, (name, shape) in enumerate(shapes.items()):
        attrs[name] = {"idx": number, "shape": list(shape), "layout": "nchw", "is_output": True}
        if quantized:
            ranges[name] = {
                "qtype": "asym",
                "min": [0.0],
                "max": [high],
                "scale": [],
                "zero_point": [],
            }
    told = {
        "notes": notes or repr({"attrs": attrs, "quant_tab": ranges}),
        "toolkit": "2.5.0(compiler version: 2.5.0 (74ea630ce@2026-09-29T14:54:20))",
        "platform": platform,
        "framework": "ONNX",
        "custom": "made by a test",
        "inputs": json.dumps({"images": {"dtype": dtype, "layout": "NHWC"}}),
        "outputs": json.dumps({name: {"dtype": dtype, "layout": "NCHW"} for name in shapes}),
    }
    buffer = flatbuffer({slot: told[name].encode() for name, slot in SLOTS[version].items()})
    payload = b"\1" * 300 + buffer if version == MINI else buffer
    return container(version, payload, tail_of({"images": image, **shapes}, dtype, platform))


def tail_of(shapes: dict[str, Shape], dtype: str, platform: str) -> bytes:
    kind = {"vx_type": "" if dtype == "float16" else dtype}
    norm = [
        {"tensor_id": n, "url": name, "size": shape, "dtype": kind}
        for n, (name, shape) in enumerate(shapes.items())
    ]
    graph = [
        {"left": "output" if n else "input", "left_tensor_id": max(n - 1, 0),
         "right": "norm_tensor", "right_tensor_id": n}
        for n in range(len(shapes))
    ]  # fmt: skip
    told = {"norm_tensor": norm, "graph": graph, "target_platform": [platform], "version": "2.5.0"}
    return json.dumps(told).encode()


UNCUT: dict[str, Shape] = {"output0": (1, 84, 8400)}
SMALL = made(UNCUT)


def codes(data: bytes, chip: str | None = None) -> dict[str, str]:
    return {v.code: f"{v.level}: {v.message}" for v in verdicts(parse(data, "x.rknn"), chip)}


# Real files


def test_version_6(data: Path) -> None:
    file = read(data / "rknn" / "yolov8n_rk3566.rknn")
    names = ["318", "onnx::ReduceSum_326", "331", "338", "onnx::ReduceSum_346", "350", "357",
             "onnx::ReduceSum_365", "369"]  # fmt: skip
    assert file.version == 6 and file.complete
    assert file.platforms == ("rk3566",)
    assert file.toolkit == "1.5.2+b642f30c"
    assert file.compiler == "1.5.2 (c6b7b351a@2023-08-23T07:39:01)"
    assert file.framework == "ONNX" and file.custom_string == ""
    assert file.inputs == (
        RknnTensor(name="images", shape=IMAGE, dtype="int8", layout="nchw", mean=(0, 0, 0),
                   std=(255, 255, 255), scale=1 / 255, zero=-128),
    )  # fmt: skip
    assert [t.name for t in file.outputs] == names
    assert [t.shape for t in file.outputs] == [
        (1, c, n, n) for n in (80, 40, 20) for c in (64, 80, 1)
    ]
    assert {t.dtype for t in file.outputs} == {"int8"}
    assert {t.layout for t in file.outputs} == {"nchw"}
    assert {(t.mean, t.std) for t in file.outputs} == {((), ())}
    steps = [0.1176588, 0.0031035, 0.0031728, 0.0937474, 0.0035944, 0.0036267, 0.0830356,
             0.0038742, 0.0039216]  # fmt: skip
    assert [t.scale for t in file.outputs] == pytest.approx(steps, rel=1e-4)
    assert [t.zero for t in file.outputs] == [-58, -128, -128, -45, -128, -128, -34, -128, -128]


def test_version_1(data: Path) -> None:
    file = read(data / "rknn" / "mnist_rv1126.rknn")
    assert file == RknnFile(
        version=1,
        platforms=("RV1126",),
        toolkit="1.7.0",
        compiler="",
        custom_string="",
        framework="caffe",
        inputs=(
            RknnTensor(name="input_11", shape=(1, 1, 28, 28), dtype="uint8", layout="nchw",
                       mean=(0.0,), std=(1.0,), scale=1.0, zero=0),
        ),
        outputs=(
            RknnTensor(name="Sigmoid_Sigmoid_14/out0_0", shape=(1, 10), dtype="uint8", layout="",
                       scale=0.003921568859368563, zero=0),
        ),
    )  # fmt: skip


def test_verdicts_of_real_files(data: Path) -> None:
    found = verdicts(read(data / "rknn" / "yolov8n_rk3566.rknn"), "rk3568")
    assert [(v.code, v.message) for v in found] == [
        (
            "runtime_needed",
            "needs librknnrt >= 1.5.2; the same version as the toolkit, 1.5.2, is best",
        )
    ]
    found = verdicts(read(data / "rknn" / "mnist_rv1126.rknn"), "rk3588")
    assert [(v.code, v.message) for v in found] == [
        (
            "wrong_chip",
            "compiled for RV1126, not for rk3588: compile the network again for that chip",
        ),
        (
            "runtime_needed",
            "needs librknn_runtime; the same version as the toolkit, 1.7.0, is best",
        ),
    ]


def test_truncated_real_file_tells_what_it_can(data: Path) -> None:
    whole = (data / "rknn" / "yolov8n_rk3566.rknn").read_bytes()
    for size in (len(whole) - 1, len(whole) - 3540, 100_000, 6000):
        file = parse(whole[:size], "x.rknn")
        assert not file.complete
        assert msgspec.structs.replace(file, complete=True) == parse(whole, "x.rknn")
    assert verdicts(parse(whole[:6000], "x.rknn"))[0].code == "incomplete"
    file = parse(whole[:2000], "x.rknn")  # here the texts end in the middle
    assert file.platforms == ("rk3566",) and file.toolkit == "1.5.2+b642f30c"
    assert file.inputs == ()


def test_every_short_piece_of_a_real_file(data: Path) -> None:
    for name in ("yolov8n_rk3566.rknn", "mnist_rv1126.rknn"):
        whole = (data / "rknn" / name).read_bytes()
        for size in [
            *range(300),
            *range(300, 12_000, 97),
            *range(len(whole) - 4000, len(whole), 97),
        ]:
            harmless(whole[:size])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 255)), max_size=12))
def test_mutated_real_files(changes: list[tuple[int, int]], data: Path) -> None:
    whole = (data / "rknn" / "yolov8n_rk3566.rknn").read_bytes()
    for base in ((data / "rknn" / "mnist_rv1126.rknn").read_bytes(), whole[:5000] + whole[-3540:]):
        harmless(changed(base, changes))


# Files made here


def test_reads_a_made_file() -> None:
    file = parse(SMALL, "x.rknn")
    assert file == RknnFile(
        version=6,
        platforms=("rk3588",),
        toolkit="2.5.0",
        compiler="2.5.0 (74ea630ce@2026-09-29T14:54:20)",
        custom_string="made by a test",
        framework="ONNX",
        inputs=(
            RknnTensor(name="images", shape=IMAGE, dtype="int8", layout="nchw",
                       mean=(0, 0, 0), std=(255, 255, 255)),
        ),
        outputs=(
            RknnTensor(name="output0", shape=(1, 84, 8400), dtype="int8", layout="",
                       scale=1 / 255, zero=-128),
        ),
    )  # fmt: skip
    assert parse(SMALL + b"more", "x.rknn") == file
    assert msgspec.json.decode(msgspec.json.encode(file), type=RknnFile) == file


@pytest.mark.parametrize("version", [2, 6, MINI])
def test_versions_agree(version: int) -> None:
    file = parse(made(UNCUT, version=version), "x.rknn")
    assert file.version == version
    assert msgspec.structs.replace(file, version=6) == parse(SMALL, "x.rknn")


def test_range_holds_zero() -> None:
    """As the vendor's simulator: outputs of 5.04 to 5.2344 come in steps of 5.2344 / 255."""
    text = repr({"quant_tab": {"y": {"qtype": "asym", "min": [5.04], "max": [5.2344]}}})
    tensor = parse(made({"y": (1, 8, 32, 32)}, notes=text), "x.rknn").outputs[0]
    assert (tensor.scale, tensor.zero) == (5.2344 / 255, -128)


@pytest.mark.parametrize(
    "range_",
    [
        {"qtype": "dfp", "min": [0.0], "max": [1.0]},
        {"qtype": "asym", "min": [0.0], "max": [0.0]},
        {"qtype": "asym", "min": [0.0, 0.0], "max": [1.0, 2.0]},
        {"qtype": "asym", "min": [], "max": []},
    ],
)
def test_scales_that_cannot_be_told(range_: dict[str, object]) -> None:
    text = repr({"quant_tab": {"y": range_}})
    tensor = parse(made({"y": (1, 8, 32, 32)}, notes=text), "x.rknn").outputs[0]
    assert (tensor.scale, tensor.zero) == (None, None)


def test_power_of_two_scales_of_version_1() -> None:
    kind = {"vx_type": "VSI_NN_TYPE_INT8", "fl": 7}
    tail = {
        "norm_tensor": [{"tensor_id": 3, "url": "x", "size": [3, 224, 200, 1], "dtype": kind}],
        "graph": [{"left": "input", "left_tensor_id": 0, "right": "norm_tensor", "right_tensor_id": 3}],
        "input_fmt": 1, "mean_value": [127.5], "std_value": [127.5],
    }  # fmt: skip
    file = parse(container(1, b"weights", json.dumps(tail).encode()), "x.rknn")
    assert file.inputs == (
        RknnTensor(name="x", shape=(1, 200, 224, 3), dtype="int8", layout="nhwc", mean=(127.5,),
                   std=(127.5,), scale=1 / 128, zero=0),
    )  # fmt: skip


# Verdicts


RUNTIME = "info: needs librknnrt >= 1.5.2; the same version as the toolkit, 2.5.0, is best"
INCOMPLETE = (
    "warning: the file is cut short or damaged: its closing description is missing; do not put it "
    "on a board, copy or export it again"
)
MEAN = (
    "warning: mean 128 and std 128 give the network -1 to 1, but its outputs look like YOLO, which "
    "wants 0 to 1: mean 0 and std 255"
)
BLIND = (
    "error: output output0: one scale over boxes and scores: step 2.56, no score can be seen; cut "
    "the network before its boxes and scores are joined"
)
COARSE = (
    "warning: output output0: one scale over boxes and scores: step 0.0392, scores are too coarse "
    "to rank boxes; cut the network before its boxes and scores are joined"
)
GRIDS: dict[str, Shape] = {
    f"{c}@{n}": (1, c, n, n) for n in (80, 40, 20) for c in (64, 80)
}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (made(GRIDS), {}),
        (made(UNCUT, mean=128, std=128, high=653.9), {"mean_std": MEAN, "one_scale": BLIND}),
        (made({"output0": (1, 25200, 85)}, high=653.9), {"one_scale": BLIND}),
        (made(UNCUT, high=10.0), {"one_scale": COARSE}),
        (made(UNCUT, high=1.0), {}),
        (made({"boxes": (1, 4, 8400), "scores": (1, 80, 8400)}, high=653.9), {}),
        (made({"boxes": (1, 8400, 5), "scores": (1, 8400)}, high=653.9), {}),
        (made({"boxes": (1, 64, 8400), "scores": (1, 80, 8400)}, high=653.9), {}),
        (made(GRIDS, mean=128, std=127.5), {"mean_std": MEAN.replace("std 128", "std 127.5")}),
        (made({str(n): (1, 255, n, n) for n in (80, 40, 20)}, mean=128, std=128), {"mean_std": MEAN}),
        # SCRFD's faces want -1 to 1, and a classifier is no detector
        (made({f"{c}@{n}": (1, c, n, n) for n in (80, 40, 20) for c in (2, 8)}, mean=128, std=128), {}),
        (made({"scores": (1, 1000)}, mean=128, std=128, high=30.0), {}),
        (
            made(UNCUT, dtype="float16"),
            {"float_model": "info: inputs and outputs are float16: nothing is quantized, but perhaps weights"},
        ),
        (made(GRIDS)[:-1], {"incomplete": INCOMPLETE}),
    ],
)  # fmt: skip
def test_verdicts(data: bytes, wanted: dict[str, str]) -> None:
    assert codes(data) == {"runtime_needed": RUNTIME, **wanted}


@pytest.mark.parametrize(
    ("platform", "chip", "wrong"),
    [
        ("rk3588", "RK3588", False),
        ("rk3588", "rk3588s", False),
        ("rk3566", "rk3568", False),
        ("rk3588", "rk3576", True),
        ("rv1103", "rv1106", False),
        ("rv1103", "rv1103b", True),
    ],
)
def test_chips(platform: str, chip: str, wrong: bool) -> None:
    found = codes(made(UNCUT, platform=platform), chip)
    assert ("wrong_chip" in found) == wrong
    if wrong:
        text = f"error: compiled for {platform}, not for {chip}: compile the network again for that chip"
        assert found["wrong_chip"] == text


def test_small_chips_have_a_runtime_of_their_own() -> None:
    text = "info: needs librknnmrt; the same version as the toolkit, 2.5.0, is best"
    assert codes(made(UNCUT, version=MINI, platform="rv1106"))["runtime_needed"] == text


# Damage and malice


def harmless(data: bytes) -> RknnFile | None:
    """Parse, judge and write as JSON. Only InputError may come out, with a hint, and fast."""
    start = time.perf_counter()
    try:
        file = parse(data, "x.rknn")
    except InputError as error:
        return None if error.hint else pytest.fail("no hint")
    finally:
        assert time.perf_counter() - start < 2
    text = " ".join(v.message for v in verdicts(file, "rk3588"))
    assert msgspec.json.encode(file) and text.encode()
    assert all(t.name.isprintable() or not t.name for t in (*file.inputs, *file.outputs))
    return file


def changed(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    copy = bytearray(data)
    for place, value in changes:
        copy[place % len(copy)] = value
    return bytes(copy)


def test_all_truncations() -> None:
    kept = [bool(harmless(SMALL[:size])) for size in range(len(SMALL))]
    assert kept == sorted(kept)  # a longer piece never tells less
    assert kept[-1] and not any(kept[:72])


def test_truncated_keeps_all_but_the_tail() -> None:
    whole, piece = parse(SMALL, "x.rknn"), parse(SMALL[:-300], "x.rknn")
    assert piece == msgspec.structs.replace(whole, complete=False)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is not an RKNN file: it does not begin with an RKNN header"),
        (b"RKNN", "is not an RKNN file"),
        (b"PK\3\4" + bytes(100), "is not an RKNN file"),
        (
            SMALL[:8] + struct.pack("<Q", 7) + SMALL[16:],
            "has RKNN format 7, which onchip does not know",
        ),
        (SMALL[:200], "is cut short or damaged: nothing can be told from its 200 bytes"),
    ],
)
def test_refusals(data: bytes, text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        parse(data, "x.rknn")
    assert error.value.hint


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.rknn", Path("/dev/null"), Path("a\0b")):
        with pytest.raises(InputError):
            read(path)


@pytest.mark.parametrize(
    "notes",
    [
        "[" * MAX_NOTES,
        "-" * (MAX_NOTES - 1) + "1",
        "1" + "+1" * (MAX_NOTES // 2 - 1),
        "(1," * 90 + ")" * 90,
        "[" + "1," * (MAX_NOTES // 2 - 2) + "]",
        "{" + "{}:1," * 9 + "}",
        "9" * 10_000,
        "{'attrs': __import__('os').abort()}",
        "{'attrs': {'images': {'shape': [9**9**9]}}}",
        "{'attrs': {'images': {'mean': [1e999], 'shape': ['a']}}}",
        "{'quant_tab': {'output0': {'scale': [1e999], 'zero_point': [" + "9" * 99 + "]}}}",
        "{'quant_tab': {'output0': {'qtype': 'asym', 'min': [-1e308], 'max': [1e308]}}}",
        "{'attrs': {'\\ud800\\x1b[2J': {'is_output': True}}}",
        "'\\d' " * 100,
        "\0",
        "x" * (MAX_NOTES + 1),
    ],
)
def test_hostile_notes(notes: str) -> None:
    data = made(UNCUT, notes=notes)
    file = harmless(data)
    assert file is not None and file.outputs[0].scale is None
    assert harmless(data[:-1]) is not None


@pytest.mark.parametrize(
    "tail",
    [
        b"[" * 1_000_000,
        b'{"x":' * 200_000,
        b'{"norm_tensor":[],"graph":[],"nodes":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
        b'{"norm_tensor":[],"graph":[],"version":"\xff\xfe"}',
        b"null",
        b"",
        json.dumps({"norm_tensor": [{"tensor_id": 0, "url": "x", "size": [10**30], "dtype": {}}], "graph": []}).encode(),
        json.dumps({"norm_tensor": [], "graph": [{"left": "input", "left_tensor_id": 0, "right": "norm_tensor", "right_tensor_id": 5}]}).encode(),
    ],
)  # fmt: skip
def test_hostile_tails(tail: bytes) -> None:
    buffer = SMALL[64 : 64 + struct.unpack_from("<Q", SMALL, 16)[0]]
    file = harmless(container(6, buffer, tail))
    assert file is not None and not file.complete and file.outputs
    assert harmless(container(1, b"weights", tail)) is None


def test_many_false_beginnings() -> None:
    assert harmless(container(MINI, b"RKNN" * 500_000, b"")) is None


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from([16, 64, *range(72, 300, 2)]), value=st.integers(0, (1 << 64) - 1))
def test_hostile_offsets(place: int, value: int) -> None:
    copy = bytearray(SMALL)
    for size in (2, 4, 8):
        copy[place : place + size] = (value >> (64 - 8 * size)).to_bytes(size, "little")
        harmless(bytes(copy))
        harmless(bytes(copy[:-1]))


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(8, len(SMALL)), st.integers(0, 255)), max_size=20),
    size=st.integers(0, len(SMALL)),
)
def test_mutated(changes: list[tuple[int, int]], size: int) -> None:
    harmless(changed(SMALL, changes))
    harmless(changed(SMALL, changes)[:size])


@settings(max_examples=300, deadline=None)
@given(
    version=st.sampled_from([1, 2, 6, MINI]),
    payload=st.binary(max_size=300),
    length=st.one_of(st.integers(0, 400), st.integers(0, (1 << 64) - 1)),
)
def test_noise(version: int, payload: bytes, length: int) -> None:
    harmless(payload)
    start = b"RKNN\0\0\0\0" + struct.pack("<QQ", version, length)
    harmless(start + payload)
    harmless(start.ljust(68, b"\0") + b"RKNN" + payload)
