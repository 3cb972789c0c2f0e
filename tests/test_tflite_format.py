"""TFLite files: what they say is told exactly, and nothing that they hold can do harm."""

import io
import json
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip(
    "ai_edge_litert", reason="LiteRT is not installed: pip install 'onchip[tflite]'"
)

from onchip.errors import InputError
from onchip.formats.flatbuffer import Table
from onchip.formats.tflite import TfliteFile, TfliteTensor, parse, read
from onchip.formats.tflite_npus import RULES, npus, placed
from onchip.formats.tflite_verdicts import verdicts

from conftest import Cli
from tflites import Network

ZIP_NAMES = {"metadata.json": json.dumps({"names": {"1": "dog", "0": "cat"}}).encode()}


def network(dtype: str = "int8", scale: float | None = 0.1, **more: object) -> Network:
    """An image, a convolution, a sigmoid, and a product."""
    net = Network()
    image = net.tensor(
        "image", (1, 64, 64, 3), dtype, scale, -128 if dtype == "int8" else 0, **more
    )  # type: ignore[arg-type]
    kind = "int8" if dtype != "float32" else dtype
    weights = np.ones((8, 3, 3, 3), kind)
    scales = None if dtype == "float32" else [0.01 * (n + 1) for n in range(8)]
    w = net.tensor("weights", weights.shape, kind, scales, value=weights)
    bias_type = "float32" if dtype == "float32" else "int32"
    b = net.tensor(
        "bias", (8,), bias_type, None if scales is None else 0.001, value=np.zeros(8, bias_type)
    )
    found = [net.tensor(n, (1, 32, 32, 8), dtype, scale) for n in ("conv", "unit", "out")]
    net.add("CONV_2D", [image, w, b], found[:1], "Conv2D", padding=0, strideW=2, strideH=2)
    net.add("LOGISTIC", found[:1], found[1:2])
    net.add("MUL", found[:2], found[2:], "Mul")
    net.inputs, net.outputs = [image], [found[2]]
    return net


def archive(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return made.getvalue()


SMALL = network().written(archive(ZIP_NAMES))


def codes(file: TfliteFile | bytes, name: str = "", chip: str = "") -> dict[str, str]:
    file = file if isinstance(file, TfliteFile) else parse(file, "x.tflite")
    return {v.code: f"{v.level}: {v.message}" for v in verdicts(file, name, chip)}


# Real files


@pytest.mark.data
def test_a_real_file(data: Path) -> None:
    file = read(data / "tflite" / "yolov8n_integer_quant.tflite")
    assert (len(file.operators), len(file.tensors), file.subgraphs) == (256, 412, 1)
    assert file.description == "MLIR Converted." and file.runtime == "2.3.0" and file.complete
    assert file.shown(file.inputs) == (
        TfliteTensor(name="serving_default_images:0", shape=(1, 640, 640, 3), dtype="float32"),
    )
    assert len(file.labels) == 80 and file.labels[:2] == ("person", "bicycle")
    first = next(o for o in file.operators if o.op == "CONV_2D")
    image, weights, bias = file.shown(first.inputs)
    assert (image.dtype, weights.dtype, bias.dtype) == ("int8", "int8", "int32")
    assert weights.constant and weights.channels == 1 and weights.shape == (16, 3, 3, 3)
    assert first.options == {
        "padding": 1, "stride_w": 2, "stride_h": 2, "activation": 0, "dilation_w": 1, "dilation_h": 1,
    }  # fmt: skip
    order = next(o for o in file.operators if o.op == "TRANSPOSE")
    assert sorted(file.tensors[order.inputs[1]].values) == list(range(4))
    assert [placed(file, n).on_npu for n in ("ethosu55", "ethosu85", "edgetpu")] == [254, 254, 241]
    assert codes(file, "yolov8n_integer_quant.tflite", "edgetpu") == {
        "per_tensor": "info: 64 layers have one scale for all channels of their weights: a scale for each "
        "channel costs nothing and is more accurate",
        "wrong_chip": "error: edgetpu_compiler has yet to compile it for edgetpu",
        "float_ends": "info: it takes or gives floats: what turns them into codes stays on the processor",
        "left_edgetpu": "warning: the Edge TPU would run 241 of 256 operators; the first it leaves is SOFTMAX "
        "model_18/tf.nn.softmax/wa/model.22/dfl/Softmax (it is not of one row of at most 16000), and what follows",
    }


@pytest.mark.data
def test_a_name_that_lies(data: Path) -> None:
    file = read(data / "tflite" / "yolov8n_int8.tflite")
    assert codes(file, "yolov8n_int8.tflite") == {
        "name_lies": "warning: its name says int8, but 252 of 252 operators compute in float: only its "
        "weights are int8; an NPU for integers runs none of them: export with integer activations",
        "per_tensor": "info: 62 layers have one scale for all channels of their weights: a scale for each "
        "channel costs nothing and is more accurate",
    }
    assert codes(file, "yolov8n_int8.tflite", "ethosu")["name_lies"].startswith("error: ")
    assert all(placed(file, n).on_npu == 0 for n in npus())


@pytest.mark.data
def test_every_short_piece_of_a_real_file(data: Path) -> None:
    whole = (data / "tflite" / "yolov8n_integer_quant.tflite").read_bytes()
    for size in [*range(0, 300, 7), *range(300, len(whole), 60_101)]:
        harmless(whole[:size])


# Files made here


def test_reads_a_made_file() -> None:
    file = parse(SMALL, "x.tflite")
    assert [(o.op, o.version, o.custom) for o in file.operators] == [
        ("CONV_2D", 1, False), ("LOGISTIC", 1, False), ("MUL", 1, False),
    ]  # fmt: skip
    image, weights = file.tensors[:2]
    assert image == TfliteTensor(
        name="image", shape=(1, 64, 64, 3), dtype="int8", channels=1,
        scale=pytest.approx(0.1), zero=-128,
    )  # fmt: skip
    assert (weights.channels, weights.scale, weights.constant) == (8, pytest.approx(0.01), True)
    assert file.labels == ("cat", "dog") and file.description == "made by a test"
    assert all(placed(file, n).left == () for n in npus())
    assert codes(file) == {}
    assert msgspec.json.decode(msgspec.json.encode(file), type=TfliteFile) == file


def test_weights_behind_the_flatbuffer() -> None:
    """As in files above 2 GiB, which say where they lie."""
    for offset, size, complete in ((16, 32, True), (16, 1 << 40, False), (1 << 40, 1, False)):
        net = network()
        net.buffers[1].data, net.buffers[1].offset, net.buffers[1].size = None, offset, size
        file = harmless(net.written())
        assert file is not None and file.complete == complete
        assert ("incomplete" in codes(file)) != complete


def test_other_lists_of_names_and_metadata() -> None:
    net = network()
    net.metadata["min_runtime_version"] = b"2.14.0\0\0\0\0"
    file = parse(net.written(archive({"labels.txt": b"one\ntwo words\n\n"})), "x.tflite")
    assert file.labels == ("one", "two words") and file.runtime == "2.14.0"
    for files in ({"metadata.json": b"{"}, {"a.bin": b"x"}, {"labels.txt": b"x" * (2 << 20)}):
        assert parse(network().written(archive(files)), "x.tflite").labels == ()


def test_every_rule_has_a_name_and_every_name_a_rule() -> None:
    named = {r for n in npus().values() for rs in (n.rules, *n.operators.values()) for r in rs}
    assert named == set(RULES)


@pytest.mark.parametrize(
    ("chip", "level"),
    [
        ("tflite", ""),
        ("edgetpu", "error"),
        ("ethosu", "error"),
        ("ethos-u55-128", "error"),
        ("rk3588", "error"),
    ],
)
def test_what_it_is_meant_for(chip: str, level: str) -> None:
    assert codes(SMALL, chip=chip).get("wrong_chip", "").startswith(level)


def compiled(op: str, word: int = 0) -> bytes:
    net = network("float32", None)
    stream = np.frombuffer(b"COP1" + struct.pack("<III", 0x100001, word, 0) + bytes(16), np.uint8)
    commands = net.tensor("commands", stream.shape, "uint8", None, value=stream)
    net.operators.clear()
    net.add("QUANTIZE", [0], [3])
    net.add(op, [commands, 3], [5])
    return net.written()


def test_compiled_files_are_recognised() -> None:
    file = parse(compiled("edgetpu-custom-op"), "x.tflite")
    assert file.compiled == "edgetpu-custom-op" and not file.accelerator
    assert codes(file, chip="edgetpu")["compiled"] == (
        "info: edgetpu_compiler compiled it for the Edge TPU: 1 part there, 1 operator on the processor: QUANTIZE"
    )
    assert "wrong_chip" in codes(file, chip="ethosu")
    file = parse(compiled("ethos-u", 0x20001119), "x.tflite")
    assert file.accelerator == "ethos-u85-512"
    assert "wrong_chip" not in codes(file, chip="ethosu") | codes(file, chip="ethos-u85-512")
    assert codes(file, chip="ethos-u55-128")["wrong_chip"] == (
        "error: Vela compiled it for ethos-u85-512, not for ethos-u55-128"
    )


def test_sizes_that_may_change() -> None:
    file = parse(network(signature=(1, -1, -1, 3)).written(), "x.tflite")
    assert "image" in codes(file)["dynamic"] and placed(file, "ethosu55").on_npu == 2
    assert "dynamic" not in codes(network(signature=(-1, 64, 64, 3)).written())


def test_boxes_and_scores_of_one_scale() -> None:
    """Also where the codes are turned into floats at the end."""
    net = Network()
    image = net.tensor("image", (1, 640, 640, 3))
    codes_ = net.tensor("codes", (1, 84, 8400), scale=2.56)
    floats = net.tensor("floats", (1, 84, 8400), "float32", None)
    net.add("CEIL", [image], [codes_])
    net.add("DEQUANTIZE", [codes_], [floats])
    net.inputs, net.outputs = [image], [floats]
    assert codes(net.written())["one_scale"].startswith(
        "error: output codes: one scale over boxes and scores: step 2.56, no score can be seen"
    )


def test_what_follows_is_left_too() -> None:
    """By the Edge TPU; floats at the beginning do not count, and other branches go on."""
    net = Network()
    names = ("a", "b", "c", "d", "e")
    floats = net.tensor("floats", (1, 8, 8, 8), "float32", None)
    a, b, c, d, e = (net.tensor(n, (1, 8, 8, 8)) for n in names)
    net.add("QUANTIZE", [floats], [a])
    net.add("LOGISTIC", [a], [b])
    net.add("CEIL", [b], [c])
    net.add("LOGISTIC", [c], [d])
    net.add("TANH", [b], [e])
    net.inputs, net.outputs = [floats], [d, e]
    file = parse(net.written(), "x.tflite")
    assert [(x.name, x.why) for x in placed(file, "edgetpu").left] == [
        ("a", "floats is float32"),
        ("c", "it has no such operator"),
        ("d", "it follows one that is left"),
    ]
    assert [x.name for x in placed(file, "ethosu55").left] == ["a", "c"]


# The command line


TEXT = """small_quant.tflite: TFLite, 3 operators, 6 tensors, 1.5 kB
  written made by a test
  input   image int8[1, 64, 64, 3], scale 0.1, zero -128
  output  out int8[1, 32, 32, 8], scale 0.1, zero 0
  inside  computes int8 (3); constants int8 (1), int32 (1)
  classes 2 (cat, dog)
  nodes   1 CONV_2D, 1 LOGISTIC, 1 MUL
  on NPUs Ethos-U55 or U65 3 of 3, Ethos-U85 3 of 3, Edge TPU 3 of 3"""


def test_inspect(cli: Cli) -> None:
    (cli.folder / "small_quant.tflite").write_bytes(SMALL)
    assert cli("inspect", "small_quant.tflite").stdout.strip() == TEXT
    told = json.loads(cli("inspect", "small_quant.tflite", "--json", "-t", "edgetpu").stdout)
    assert told["format"] == "tflite" and told["operators"] == {
        "CONV_2D": 1,
        "LOGISTIC": 1,
        "MUL": 1,
    }
    assert told["npus"]["edgetpu"] == {"operators": 3, "on_npu": 3, "left": []}
    assert [v["code"] for v in told["verdicts"]] == ["wrong_chip"]
    assert told["labels"] == ["cat", "dog"] and told["inputs"][0]["shape"] == [1, 64, 64, 3]
    layers = cli("inspect", "small_quant.tflite", "--layers").stdout
    assert "CONV_2D v1  -> conv int8[1, 32, 32, 8], scale 0.1, zero 0" in layers
    (cli.folder / "other").write_bytes(SMALL)  # told by its bytes, though a zip archive is behind
    assert "TFLite, 3 operators" in cli("inspect", "other").stdout
    for junk in (b"", b"junk", SMALL[:40]):
        (cli.folder / "bad.tflite").write_bytes(junk)
        said = cli("inspect", "bad.tflite", code=2)
        assert said.stderr.startswith("error: bad.tflite is ") and not said.stdout


# Damage and malice


def harmless(data: bytes) -> TfliteFile | None:
    """Parse, place, judge and write as JSON. Only InputError may come out, with a hint, and fast."""
    start = time.perf_counter()
    try:
        file = parse(data, "x.tflite")
        texts = [v.message for v in verdicts(file, "x_int8.tflite", "ethosu")]
        texts += [placed(file, name).describe() for name in npus()]
    except InputError as error:
        return None if error.hint else pytest.fail("no hint")
    finally:
        assert time.perf_counter() - start < 5
    assert msgspec.json.encode(file) and "".join(texts).encode()
    assert all(t.name.isprintable() or not t.name for t in file.tensors)
    return file


def changed(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    copy = bytearray(data)
    for place, value in changes:
        copy[place % len(copy)] = value
    return bytes(copy)


def test_all_truncations() -> None:
    for size in range(len(SMALL)):
        harmless(SMALL[:size])


@settings(max_examples=400, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(8, len(SMALL)), st.integers(0, 255)), max_size=20),
    size=st.integers(0, len(SMALL)),
)
def test_mutated(changes: list[tuple[int, int]], size: int) -> None:
    harmless(changed(SMALL, changes))
    harmless(changed(SMALL, changes)[:size])


@settings(max_examples=400, deadline=None)
@given(place=st.integers(0, len(SMALL) // 2 - 8), value=st.integers(0, (1 << 64) - 1))
def test_hostile_offsets(place: int, value: int) -> None:
    copy = bytearray(SMALL)
    for size in (2, 4, 8):
        copy[2 * place : 2 * place + size] = (value >> (64 - 8 * size)).to_bytes(size, "little")
        harmless(bytes(copy))


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=400))
def test_noise(payload: bytes) -> None:
    harmless(payload)
    harmless(payload[:4] + b"TFL3" + payload[4:])


@pytest.mark.data
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 120_000), st.integers(0, 255)), min_size=1, max_size=30
    )
)
def test_mutated_real_file(changes: list[tuple[int, int]], data: Path) -> None:
    whole = (data / "tflite" / "yolov8n_integer_quant.tflite").read_bytes()
    harmless(changed(whole, changes))
    harmless(changed(whole, [(-place, value) for place, value in changes]))


def wide(count: int) -> bytes:
    """A file that claims `count` tensors, all of which are one and the same."""
    net = network()
    data = bytearray(net.written())
    model = Table.root(bytes(data))
    graph = model.nth(2, 0)
    first = graph.nth(0, 0)
    field = graph.extent(0)[0] - 4  # where the vector of tensors begins: it goes to the end instead
    pointer = next(
        at for at in range(graph.place, graph.place + 64, 4)
        if at + struct.unpack_from("<I", data, at)[0] == field
    )  # fmt: skip
    start = len(data)
    struct.pack_into("<I", data, pointer, start - pointer)
    data += struct.pack("<I", count)
    for n in range(count):
        data += struct.pack("<I", (first.place - (start + 4 + 4 * n)) & 0xFFFFFFFF)
    return bytes(data)


def test_a_small_file_that_claims_to_be_huge() -> None:
    """Offsets of four bytes cannot lead back: what leads out is refused before it is kept."""
    data = wide(300_000)
    tracemalloc.start()
    assert harmless(data) is None
    assert tracemalloc.get_traced_memory()[1] < 8 * len(data)
    tracemalloc.stop()


def same(count: int) -> bytes:
    """A file whose vector of operators leads `count` times to one operator that follows it."""
    data = bytearray(network().written())
    graph = Table.root(bytes(data)).nth(2, 0)
    one = graph.nth(3, 0)
    vtable = one.place - struct.unpack_from("<i", data, one.place)[0]
    pointer = next(
        at for at in range(graph.place, graph.place + 64, 4)
        if at + struct.unpack_from("<I", data, at)[0] == graph.extent(3)[0] - 4
    )  # fmt: skip
    start, end = len(data), len(data) + 4 + 4 * count
    struct.pack_into("<I", data, pointer, start - pointer)
    data += struct.pack("<I", count)
    data += b"".join(struct.pack("<I", end - (start + 4 + 4 * n)) for n in range(count))
    copy = bytearray(bytes(data[one.place : one.place + 64]))
    struct.pack_into("<i", copy, 0, end - vtable)
    return bytes(data + copy + bytes(64))


def test_one_operator_that_is_listed_over_and_over() -> None:
    data = same(400_000)
    tracemalloc.start()
    assert harmless(data) is None
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.tflite", Path("/dev/null"), Path("a\0b")):
        with pytest.raises(InputError):
            read(path)
