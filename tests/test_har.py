"""Archives of Hailo's compiler: what they say is told, and nothing in them is followed or run."""

import gzip
import io
import json
import random
import re
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onchip.errors import InputError
from onchip.formats.har import BLOCK, HarFile, HarTensor, parse, read
from onchip.formats.hef_verdicts import Expected, archive
from onchip.formats.npz import Array, arrays
from onchip.formats.part import Part
from onchip.report.hef import har as shown
from test_hef import FILES

import hefs

NMS = {
    "nms_scores_th": 0.2, "nms_iou_th": 0.7, "image_dims": [640, 640], "max_proposals_per_class": 100,
    "classes": 80, "regression_length": 16,
    "bbox_decoders": [{"name": "d0", "stride": 8, "reg_layer": "conv1", "cls_layer": "conv2"}],
}  # fmt: skip
SCRIPT = "normalization1 = normalization([0, 0, 0], [255, 255, 255])\nchange_output_activation(conv2, sigmoid)\n"


def graph(activation: str = "sigmoid", size: int = 640) -> dict[str, Any]:
    """A network of an input, two ends, and the layers that stand for outputs."""
    cells = size // 8

    def layer(kind: str, shape: list[int], inputs: list[str], **more: Any) -> dict[str, Any]:
        return {"type": kind, "input": inputs, "output": [], "input_shapes": [[-1, *shape]],
                "output_shapes": [[-1, *shape]], "original_names": [], "params": {}, **more}  # fmt: skip

    return {
        "name": "net",
        "net_params": {"version": "1.0", "output_layers_order": ["net/conv2", "net/conv1"]},
        "layers": {
            "net/input_layer1": layer("input_layer", [size, size, 3], [], original_names=["images"]),
            "net/conv1": layer("conv", [cells, cells, 64], ["net/input_layer1"], original_names=["/cv2/Conv"],
                               params={"activation": "linear", "kernel_shape": [1, 1, 64, 64]}),
            "net/conv2": layer("conv", [cells, cells, 80], ["net/input_layer1"], original_names=["/cv3/Conv"],
                               params={"activation": activation}),
            "net/output_layer1": layer("output_layer", [cells, cells, 64], ["net/conv1"]),
            "net/output_layer2": layer("output_layer", [cells, cells, 80], ["net/conv2"]),
        },
    }  # fmt: skip


def npz(save: Callable[..., Any] = np.savez, **values: Any) -> bytes:
    file = io.BytesIO()
    save(file, **{name.replace("__", "/"): value for name, value in values.items()})
    return file.getvalue()


def quantized(weights: int = 8) -> bytes:
    return npz(
        **{
            "net__conv1__weight_bits:0": np.float32(weights),
            "net__conv1__output_activation_bits:0": np.float32(8),
            "net__conv1__kernel:0": np.zeros((1, 1, 64, 64), np.float32),
            "net__conv2__weight_bits:0": np.array([4.0]),
            "net__conv2__output_activation_bits:0": np.int64(16),
        }
    )


def files(state: str = "quantized_model", **more: bytes) -> dict[str, bytes]:
    metadata = {
        "state": state,
        "hn": "net.hn",
        "sdk_version": "3.31.0",
        "hw_arch": "hailo8l",
        "flags": {"a": [1]},
    }
    return {
        "net.metadata.json": json.dumps(metadata).encode(),
        "net.hn": json.dumps(graph()).encode(),
        "net.native.hn": json.dumps(graph("linear")).encode(),
        "net.npz": npz(**{"net__conv1__kernel:0": np.ones((1, 1, 64, 64), np.float32)}),
        "net.q.npz": quantized(),
        "net.alls": SCRIPT.encode(),
        "net.auto.alls": b"allocator_param(automatic_ddr=False)\n",
        "nms_config.json": json.dumps(NMS).encode(),
        **more,
    }


def packed(members: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def codes(raw: bytes, **expected: Any) -> dict[str, str]:
    return {
        v.code: f"{v.level}: {v.message}"
        for v in archive(parse(raw, "x.har"), Expected(**expected))
    }


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_is_told(kind: int, pack: Callable[[bytes], bytes]) -> None:
    file = parse(pack(packed(files(), kind)), "x.har")
    assert (file.name, file.state, file.stage) == ("net", "quantized_model", "quantized")
    assert (file.compiler, file.arch, file.complete, file.hef) == ("3.31.0", "hailo8l", True, None)
    assert file.inputs == (
        HarTensor(name="net/input_layer1", shape=(640, 640, 3), original=("images",)),
    )
    assert file.outputs == (
        HarTensor(
            name="net/conv2",
            shape=(80, 80, 80),
            original=("/cv3/Conv",),
            activation="sigmoid",
            bits=16,
        ),
        HarTensor(
            name="net/conv1",
            shape=(80, 80, 64),
            original=("/cv2/Conv",),
            activation="linear",
            bits=8,
        ),
    )
    assert file.layers == {"input_layer": 1, "conv": 2, "output_layer": 2}
    assert (
        file.script == SCRIPT.rstrip()
        and file.nms is not None
        and file.nms.layers("cls_layer") == ("conv2",)
    )
    native, small = file.parameters
    assert (native.file, native.arrays, native.numbers, native.bits) == ("net.npz", 1, 4096, {})
    assert (small.arrays, small.numbers, small.bits) == (5, 4100, {"a8_w8": 1, "a16_w4": 1})
    assert set(file.files) == set(files()) and file.files["net.alls"] == len(SCRIPT)


def test_a_compiled_archive_holds_its_hef() -> None:
    raw = packed(files("compiled_model", **{"net.hef": hefs.build(**FILES["version 3"])}))
    file = parse(raw, "x.har")
    assert file.hef is not None and file.hef.header.good and file.hef.groups[0].name == "net"
    assert {"thresholds_baked", "runtime_needed", "wrong_chip"} <= set(codes(raw, chip="hailo8l"))
    broken = parse(packed(files(**{"net.hef": b"\x01HEF"})), "x.har")
    assert broken.hef is None and broken.complete


def test_long_names() -> None:
    name = "a" * 180 + "/" + "b" * 90
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert name in parse(packed({**files(), name: b"x"}, kind), "x").files
    assert (
        "a" * 90 + "/" + "b" * 90
        in parse(
            packed({**files(), "a" * 90 + "/" + "b" * 90: b"x"}, tarfile.USTAR_FORMAT), "x"
        ).files
    )


def test_the_order_of_outputs_may_be_missing() -> None:
    made = graph()
    del made["net_params"]
    file = parse(packed({**files(), "net.hn": json.dumps(made).encode()}), "x")
    assert [t.name for t in file.outputs] == ["net/conv1", "net/conv2"]


def test_verdicts() -> None:
    assert codes(packed(files()), chip="hailo8l", classes=80, size=(640, 640)) == {}
    linear = packed({**files(), "net.hn": json.dumps(graph("linear")).encode()})
    assert codes(linear)["missing_sigmoid"] == (
        "error: net/conv2, which the NMS takes for scores, has no activation, and HailoRT applies none: add "
        "change_output_activation(conv2, sigmoid) to the model script and optimize again"
    )
    found = codes(packed(files()), chip="hailo8", classes=3, size=(320, 320))
    assert found["wrong_chip"].startswith("error: saved for hailo8l, not for hailo8")
    assert found["wrong_classes"] == "error: its NMS configuration has 80 classes, not 3"
    assert found["wrong_size"] == "error: takes images of 640x640, not 320x320"
    assert (
        codes(packed(files("hailo_model")))["not_quantized"]
        == "info: parsed: nothing is in integers yet"
    )


def test_what_users_read(tmp_path: Path) -> None:
    path = tmp_path / "net.har"
    path.write_bytes(packed(files()))
    text = shown(path).text
    assert (
        re.sub(r", [\d.]+ [kM]B$", "", text, flags=re.MULTILINE)
        == f"""\
{path}: Hailo archive of net, quantized
  compiler 3.31.0
  chip    hailo8l
  input   net/input_layer1 [640, 640, 3], ends images
  output  net/conv2 [80, 80, 80] sigmoid, 16 bits, ends /cv3/Conv
  output  net/conv1 [80, 80, 64] linear, 8 bits, ends /cv2/Conv
  layers  2 conv, 2 output_layer, 1 input_layer
  params  net.npz: 1 arrays, 4096 numbers
  params  net.q.npz: 5 arrays, 4100 numbers; 1 layers a16_w4, 1 layers a8_w8
  nms     80 classes, score 0.2, IoU 0.7
  script  normalization1 = normalization([0, 0, 0], [255, 255, 255])
  script  change_output_activation(conv2, sigmoid)
  file    net.metadata.json
  file    net.hn
  file    net.native.hn
  file    net.npz
  file    net.q.npz
  file    net.alls
  file    net.auto.alls
  file    nms_config.json"""
    )


def test_json(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "net.har").write_bytes(
        packed(files("compiled_model", **{"net.hef": hefs.build(**FILES["version 2"])}))
    )
    told = json.loads(cli("inspect", "net.har", "--json").stdout)
    assert told["format"] == "har" and len(told["digest"]) == 64
    assert (
        told["inputs"][0].items()
        >= {"name": "net/input_layer1", "shape": [640, 640, 3], "dtype": "float32"}.items()
    )
    assert (
        told["outputs"][0].items()
        >= {"name": "net/conv2", "dtype": "int16", "activation": "sigmoid"}.items()
    )
    assert told["hef"]["parse_hef"].startswith("Architecture HEF was compiled for")
    assert told["verdicts"][0].keys() == {"code", "level", "message"}


# Parameters


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_without_expanding_or_unpickling(save: Callable[..., Any]) -> None:
    raw = npz(save, a=np.zeros((3, 4), np.float16), b=np.arange(5), c=np.array([{"x": 1}], object),
              d=np.array(True), e=np.zeros(0))  # fmt: skip
    found = list(arrays(Part(io.BytesIO(b"--" + raw), 2, len(raw))))
    assert found == [
        Array("a", (3, 4), "float16"),
        Array("b", (5,), "int64", (0.0, 1.0, 2.0, 3.0, 4.0)),
        Array("d", (), "bool", (1.0,)),
        Array("e", (0,), "float64"),
    ]


@pytest.mark.parametrize(
    "text",
    ["{'descr': '<f4', 'fortran_order': False, 'shape': ()] }", "{'descr': '|O', 'fortran_order': False, 'shape': (), }",
     "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }", "{'shape': (99999999999,)}", "{" * 60, "__import__('os')"],
)  # fmt: skip
def test_headers_of_anything_but_numbers_are_left_out(text: str) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a.npy", b"\x93NUMPY\1\0v\0" + text.encode().ljust(117) + b"\n" + bytes(64))
    assert list(arrays(Part(file, 0, len(file.getvalue())))) == []


def test_a_bomb_of_arrays_is_not_set_off() -> None:
    """A gigabyte of zeros in a megabyte: only the first bytes are looked at."""
    file = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 28,)}
    )  # type: ignore[no-untyped-call]
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as entry,
    ):
        entry.write(header.getvalue())
        for _ in range(1 << 6):
            entry.write(bytes(1 << 20))
    raw = packed(files(**{"net.fpo.npz": file.getvalue()}))
    assert peak(raw) < 4 * len(raw) + (1 << 22)
    assert parse(raw, "x").parameters[2].numbers == 1 << 28


def test_a_list_of_arrays_that_lies() -> None:
    raw = bytearray(npz(a=np.arange(3)))
    end = raw.rindex(b"PK\5\6")
    for place, value in (
        (10, b"\xff\xff"),
        (16, b"\xff\xff\xff\xff"),
        (16, b"\0\0\0\0"),
        (8, b"\xff" * 14),
    ):
        lie = raw.copy()
        lie[end + place : end + place + len(value)] = value
        assert len(list(arrays(Part(io.BytesIO(lie), 0, len(lie))))) <= 1
    assert list(arrays(Part(io.BytesIO(b""), 0, 0))) == []


# Hostile archives


def peak(raw: bytes) -> int:
    tracemalloc.start()
    try:
        harmless(raw)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def harmless(raw: bytes) -> HarFile | None:
    try:
        file = parse(raw, "x.har")
    except InputError:
        return None
    assert json.dumps(msgspec.to_builtins(file), default=str)
    archive(file, Expected(chip="hailo8l", classes=80, size=(640, 640)))
    return file


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "is not a Hailo archive: it is no tar"),
        (b'{"log": {}}', "it is an HTTP archive, which is JSON"),
        (b"x" * 2000, "it is no tar"),
        (b"\x1f\x8b" + b"x" * 100, "is a damaged gzip file"),
        (gzip.compress(b"x" * 2000, mtime=0), "it is no tar"),
        (packed({"a.txt": b"hello"}), "it holds neither metadata nor a graph"),
        (
            packed({"net.metadata.json": b"[]", "net.hn": b"{}"}),
            "it holds neither metadata nor a graph",
        ),
        (packed(files())[:600], "or they were cut off"),
        (packed({f"{n}": b"" for n in range(5000)}), "holds more than 4096 files"),
    ],
)
def test_what_is_no_archive(raw: bytes, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)) as caught:
        parse(raw, "x.har")
    assert caught.value.hint and "\n" not in str(caught.value)


def test_two_files_of_one_name() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for data in (b"one", b"two"):
            info = tarfile.TarInfo("net.hn")
            info.size = 3
            made.addfile(info, io.BytesIO(data))
    with pytest.raises(InputError, match=r"holds two files called net\.hn"):
        parse(file.getvalue(), "x.har")


def test_a_gzip_bomb_is_refused() -> None:
    bomb = gzip.compress(packed(files()) + bytes(200 << 20))
    with pytest.raises(InputError, match="would grow to more than 20 times its size"):
        parse(bomb, "x.har")
    assert peak(bomb) < 4 * len(bomb) + (1 << 22)


def test_names_that_lead_outside_are_only_names(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, data in files().items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
        for name, kind, link in (("../up.hn", tarfile.REGTYPE, ""), ("/etc/x", tarfile.REGTYPE, ""),
                                 ("l", tarfile.SYMTYPE, "/etc/passwd"), ("h", tarfile.LNKTYPE, "net.hn"),
                                 ("d", tarfile.DIRTYPE, ""), ("c", tarfile.CHRTYPE, ""), ("f", tarfile.FIFOTYPE, "")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            made.addfile(info)
    told = parse(file.getvalue(), "x.har")
    assert set(told.files) - set(files()) == {"../up.hn", "/etc/x"}
    assert told.name == "net" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_short_piece(pack: Callable[[bytes], bytes]) -> None:
    raw = pack(packed(files()))
    for size in range(0, len(raw), 211):
        file = harmless(raw[:size])
        if file is not None and size < len(raw.rstrip(b"\0")) - BLOCK:
            assert not file.complete
    assert codes(packed(files())[:12000])["incomplete"].startswith(
        "error: the archive is cut short"
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.booleans(), st.randoms(use_true_random=False))
def test_mutations(zipped: bool, random: random.Random) -> None:
    raw = bytearray(packed(files()))
    for _ in range(random.randint(1, 10)):
        place = random.randrange(len(raw))
        raw[place : place + random.randrange(4)] = random.randbytes(random.randrange(4))
    harmless(gzip.compress(bytes(raw), 1, mtime=0) if zipped else bytes(raw))


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from(
        ["net.hn", "net.metadata.json", "nms_config.json", "net.q.npz", "net.hef", "net.alls"]
    ),
)
def test_members_of_anything(data: bytes, name: str) -> None:
    harmless(packed({**files(), name: data}))


DEEP = 100_000
BOMBS: Mapping[str, dict[str, bytes]] = {
    "nested lists": {"net.hn": b'{"layers": ' + b"[" * DEEP + b"]" * DEEP + b"}"},
    "nested layers": {"net.hn": b'{"layers": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}"},
    "some layers": {"net.hn": b'{"layers": {' + b",".join(b'"%d":{}' % n for n in range(29_000)) + b"}}"},
    "many layers": {"net.hn": b'{"layers": {' + b",".join(b'"%d":{}' % n for n in range(DEEP)) + b"}}"},
    "many shapes": {"net.hn": b'{"layers": {"a": {"type": "input_layer", "output_shapes": [' + b",".join([b"[1]"] * DEEP) + b"]}}}"},
    "huge numbers": {"net.hn": b'{"layers": {"a": {"type": "input_layer", "output_shapes": [[' + b"9" * DEEP + b"]]}}}"},
    "long script": {"net.alls": b"a\n" * DEEP},
    "many decoders": {"nms_config.json": b'{"nms_scores_th": 1, "bbox_decoders": [' + b",".join([b"{}"] * DEEP) + b"]}"},
    "long names": {"net.metadata.json": b'{"state": "' + "é".encode() * DEEP + b'"}'},
    "many arrays": {"net.q.npz": b"PK\1\2" * DEEP + b"PK\5\6" + b"\0" * 6 + b"\xff\xff" + b"\0" * 10},
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    raw = packed({**files(), **BOMBS[name]})
    assert peak(raw) < 4 * len(raw) + (1 << 22)


def test_absurd_sizes() -> None:
    raw = bytearray(packed(files()))
    for size in (
        b"77777777777\0",
        b"\x80" + b"\xff" * 11,
        b"-0000000001\0",
        b"zzzzzzzzzzz\0",
        b"\xff" * 12,
    ):
        lie = raw.copy()
        lie[124:136] = size
        lie[148:156] = b"%06o\0 " % (sum(lie[:148]) + 8 * 32 + sum(lie[156:512]))
        file = harmless(bytes(lie))
        assert file is None or not file.complete


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.har", tmp_path, Path("a\0b")):
        with pytest.raises(InputError):
            read(path)


def test_a_truncated_gzip_tells_what_it_can() -> None:
    raw = gzip.compress(packed(files()))
    file = parse(raw[: len(raw) - 20], "x.har")
    assert not file.complete and file.state == "quantized_model"
    with pytest.raises(InputError, match="is not a Hailo archive"):
        parse(zlib.compress(packed(files())), "x.har")
