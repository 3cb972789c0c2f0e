"""The Edge TPU: what its compiler is given is real; the compiler and the chip are stand-ins."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip(
    "ai_edge_litert", reason="LiteRT is not installed: pip install 'onchip[tflite]'"
)

from onchip.artifact import Artifact, load, save
from onchip.build import Options, build, compile_
from onchip.dataset.samples import unlabelled
from onchip.detect.detector import Detector
from onchip.device.frigate.config import config
from onchip.errors import DeviceError, InputError, ToolError, UnsupportedError
from onchip.formats import tflite as tflite_file
from onchip.formats.tflite_npus import placed
from onchip.targets import target as targets
from onchip.targets.edgetpu import chip, compiler, frigate, runtime
from onchip.targets.edgetpu.chip import Edgetpu
from onchip.testing import TargetContract
from onchip.verify import verify
from onchip.vision.preprocess import find_images, prepare, read_image

import graphs
from conftest import Cli
from test_frigate_decode import its_own, python  # noqa: F401 - a fixture

STANDINS = Path(__file__).parent / "standins" / "edgetpu"


@pytest.fixture
def coral(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The compiler, played by its stand-in; a test steers it by EDGETPU_STANDIN."""
    place = tmp_path / "bin"
    place.mkdir()
    script = place / compiler.TOOL
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STANDINS / "compiler.py"}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(compiler, "found", lambda: str(script))
    return monkeypatch


@pytest.fixture
def chips(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """libedgetpu and a chip on USB, played by their stand-in."""
    from ai_edge_litert import interpreter

    monkeypatch.syspath_prepend(str(STANDINS))
    import edgetpu_runtime

    edgetpu_runtime.Delegate.opened.clear()
    monkeypatch.setattr(interpreter, "load_delegate", edgetpu_runtime.Delegate)
    monkeypatch.setattr(interpreter, "Interpreter", edgetpu_runtime.Interpreter)
    monkeypatch.setattr(runtime, "library", lambda: True)
    return monkeypatch


@pytest.mark.usefixtures("coral", "chips")
class TestEdgetpu(TargetContract):
    target = Edgetpu()


def made(tiny: Path, photos: Path, **options: str) -> Artifact:
    return build(tiny, "edgetpu", find_images(photos), options=Options(target=options))


def codes(artifact: Artifact) -> dict[str, str]:
    """What is said of the compiling, by code."""
    planned = artifact.manifest.told["optimize"]
    return {v.code: v.message for v in artifact.manifest.verdicts if v.code not in planned}


# The compiler


@pytest.mark.usefixtures("coral")
def test_what_the_compiler_says_is_kept(tiny: Path, photos: Path) -> None:
    artifact = made(tiny, photos)
    given = tflite_file.parse(artifact.payload("litert"), "")
    stage = artifact.stage("compile")
    assert stage is not None and artifact.manifest.tools["edgetpu_compiler"] == "16.0.384591198"
    notes = {k: v for k, v in stage.notes.items() if not k.startswith("seconds")}
    assert (
        notes.pop("on the Edge TPU")
        == f"{len(given.operators)} of {len(given.operators)} operators"
    )
    assert notes == {
        "weights on the chip": "2.91MiB",
        "room left": "4.21MiB",
        "weights sent each time": "0.00B",
    }
    program = tflite_file.parse(artifact.payload("program"), "")
    assert program.compiled == "edgetpu-custom-op" and len(program.operators) == 1
    found = placed(given, "edgetpu")
    assert found.on_npu == found.count > 10  # nothing that is not documented is handed over
    assert "Compilation succeeded!" in artifact.payload("log").decode()
    assert not codes(artifact)


def test_a_machine_without_the_compiler_prepares(
    tiny: Path, photos: Path, coral: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with coral.context() as away:
        away.setattr(compiler, "found", lambda: "")
        begun = made(tiny, photos)
        assert Edgetpu().version() == ""
    assert set(codes(begun)) == {"unfinished", "foreseen"}
    assert "program" not in begun.payloads
    with pytest.raises(InputError):
        Edgetpu().open(begun)
    save(begun, tmp_path / "a.onchip")
    whole = compile_(load(tmp_path / "a.onchip"))
    assert whole.payload("litert") == begun.payload("litert")
    assert "unfinished" not in codes(whole) and "program" in whole.payloads
    rows = verify(begun, unlabelled(find_images(photos), ()), labelled=False).rows
    assert [r.stage for r in rows] == ["original", "cut", "plan", "litert"]
    assert rows[-1].parity.matched > 0.9


def test_operators_on_the_processor_are_refused(
    tiny: Path, photos: Path, coral: pytest.MonkeyPatch
) -> None:
    coral.setenv("EDGETPU_STANDIN", "leaves=LOGISTIC")
    with pytest.raises(UnsupportedError, match=r"left to the processor: \d+ LOGISTIC"):
        made(tiny, photos)
    artifact = made(tiny, photos, fallback="true")
    assert "LOGISTIC (operation not supported)" in codes(artifact)["fallback"]
    stage = artifact.stage("compile")
    assert stage is not None and " of " in stage.notes["on the Edge TPU"]


@pytest.mark.parametrize(
    ("how", "text", "hint"),
    [
        ("crash", "it died of SIGABRT", ""),
        ("internal", "it left with exit code 1", "too large for it"),
        ("timeout", "it left with exit code 1", "-O timeout=3600"),
        ("nofile", "wrote no file", ""),
        ("hang", "it hung: no end after 2 s", ""),
    ],
)
def test_a_compiler_that_fails(
    how: str, text: str, hint: str, tiny: Path, photos: Path, coral: pytest.MonkeyPatch
) -> None:
    coral.setenv("EDGETPU_STANDIN", how)
    coral.setattr(compiler, "PATIENCE", 1)
    with pytest.raises(ToolError, match=text) as error:
        made(tiny, photos, timeout="1")
    assert hint in error.value.hint and "Edge TPU Compiler version" in error.value.log


def test_what_is_slow_is_told(tiny: Path, photos: Path, coral: pytest.MonkeyPatch) -> None:
    coral.setenv("EDGETPU_STANDIN", "streams")
    assert codes(made(tiny, photos))["streamed"].startswith("1.25MiB of weights do not fit")
    coral.setenv("EDGETPU_STANDIN", "parts")
    assert "in 3 parts" in codes(made(tiny, photos))["subgraphs"]


@pytest.mark.usefixtures("coral")
def test_options(tiny: Path, photos: Path) -> None:
    made(tiny, photos, min_runtime="13", timeout="600", device="pci:0")  # the stand-in checks
    for wrong in ({"min_runtime": "9"}, {"device": "isa"}, {"speed": "1"}):
        with pytest.raises(InputError):
            made(tiny, photos, **wrong)


LOG = """Edge TPU Compiler version 16.0.384591198
Number of Edge TPU subgraphs: 1
Off-chip memory used for streaming uncached model parameters: 6.62MiB
Number of operations that will run on Edge TPU: 249
Number of operations that will run on CPU: 16

Operator                       Count      Status

LOGISTIC                       57         Mapped to Edge TPU
TRANSPOSE                      5          Operation is otherwise supported, but not mapped due to some unspecified limitation
DEQUANTIZE                     1          Operation is working on an unsupported data type
CONV_2D                        1          More than one subgraph is not supported
Compilation succeeded!
"""


def test_a_log_is_read() -> None:
    report = compiler.read(LOG)
    assert (report.on_tpu, report.on_cpu, report.subgraphs) == (249, 16, 1)
    assert [(r.op, r.count) for r in report.left] == [
        ("TRANSPOSE", 5),
        ("DEQUANTIZE", 1),
        ("CONV_2D", 1),
    ]
    assert compiler.read("") == compiler.Report()
    assert [v.code for v in compiler.verdicts(report)] == ["fallback", "streamed"]


# The chip


@pytest.mark.usefixtures("coral")
def test_the_chip_that_is_named_is_opened(
    tiny: Path, photos: Path, chips: pytest.MonkeyPatch
) -> None:
    import edgetpu_runtime

    artifact = made(tiny, photos, device="usb")
    with Edgetpu().open(artifact):
        pass
    assert edgetpu_runtime.Delegate.opened == [("libedgetpu.so.1", {"device": "usb"})]
    other = made(tiny, photos, device="pci")
    with pytest.raises(DeviceError, match="no Edge TPU pci"):
        Edgetpu().open(other)
    chips.setattr(runtime, "library", lambda: False)
    with pytest.raises(ToolError, match="is not installed here"):
        Edgetpu().open(artifact)


@pytest.mark.usefixtures("coral", "chips")
def test_the_chip_is_a_row_of_the_proof(tiny: Path, photos: Path) -> None:
    rows = verify(made(tiny, photos), unlabelled(find_images(photos), ()), labelled=False).rows
    assert [r.stage for r in rows][-2:] == ["litert", "device"]
    assert rows[-1].parity.matched == rows[-2].parity.matched


@pytest.mark.usefixtures("coral", "chips")
def test_a_file_for_something_else_is_refused(tiny: Path, photos: Path) -> None:
    artifact = made(tiny, photos)
    swapped = {**artifact.payloads, "program": artifact.payload("litert")}
    with pytest.raises(InputError, match="damaged"):
        Edgetpu().open(Artifact(artifact.manifest, swapped))


# Frigate


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little detector of more cells than numbers, as Frigate's detectors want."""
    import onnx

    path = tmp_path_factory.mktemp("large") / "large.onnx"
    onnx.save(graphs.yolov8(), path)
    return path


def for_frigate(model: Path, photos: Path) -> Artifact:
    return build(model, "edgetpu", find_images(photos), options=Options(layout="frigate"))


@pytest.mark.usefixtures("coral")
def test_its_end_is_what_frigates_detector_reads(large: Path, photos: Path) -> None:
    artifact = for_frigate(large, photos)
    given = tflite_file.parse(artifact.payload("litert"), "")
    head, spec = artifact.manifest.head, artifact.manifest.input
    cells = sum(int(spec.width / s) * int(spec.height / s) for s in frigate.STRIDES)
    boxes, classes = given.shown(given.outputs)
    assert (boxes.shape, classes.shape) == ((1, cells, 64), (1, cells, head.classes))
    assert boxes.dtype == classes.dtype == "int8" and boxes.scale and classes.scale
    assert (-128 - (classes.zero or 0)) * classes.scale > -4.1
    assert (127 - (classes.zero or 0)) * classes.scale < 4.1
    assert placed(given, "edgetpu").left == ()
    written = config(artifact, "a.onchip", frigate="0.18")
    assert written.detector == "edgetpu" and "model_type: yolo-generic" in written.yaml
    assert not [f for f in written.findings if f.level == "error"]
    assert any(name.endswith(".tflite") for name in written.files)


def test_heads_that_it_does_not_read(tiny: Path, photos: Path) -> None:
    artifact = made(tiny, photos)
    head = artifact.manifest.head

    def tried(**other: object) -> str:
        with pytest.raises(UnsupportedError) as error:
            frigate.check(replace(head, **other))
        assert "zmq" in error.value.hint
        return str(error.value)

    assert "not distributions of 16 bins" in tried(coding="ltrb")
    assert "its strides are 8, 16" in tried(tensors=tuple(t for t in head.tensors if t.stride < 32))
    assert "with 1 classes" in tried(labels=("a",))
    last = replace(head.tensors[-1], activated=True)
    assert "after a sigmoid" in tried(tensors=(*head.tensors[:-1], last))


@pytest.mark.usefixtures("coral", "chips")
def test_onchip_reads_that_end_too(large: Path, photos: Path) -> None:
    own, other = made(large, photos), for_frigate(large, photos)
    image = read_image(find_images(photos)[0])
    spec = own.manifest.program_input
    assert spec is not None
    with Detector(own) as a, Detector(other) as b:
        tensor, _ = prepare(image, spec)
        x, y = a.session(tensor), b.session(tensor)
        for name in own.manifest.head.outputs:
            first, second = (np.asarray(v[name].real()) for v in (x, y))
            assert first.shape == second.shape
            inside = np.abs(first) < frigate.CLAMP
            step = 2 * max(x[name].scale, y[name].scale)
            assert np.abs(first - second)[inside].max() <= step
    rows = verify(other, unlabelled(find_images(photos), ()), labelled=False).rows
    assert [r.stage for r in rows][-2:] == ["litert", "device"]


def test_frigates_own_detector(
    python: str,  # noqa: F811
    large: Path,
    photos: Path,
    tmp_path: Path,
    coral: pytest.MonkeyPatch,
) -> None:
    """Its rows are those that onchip tells of Frigate, on the very file that it would load."""
    lacks = subprocess.run([python, "-c", "import ai_edge_litert"], capture_output=True).returncode
    if lacks:
        pytest.skip(f"{python} lacks ai_edge_litert")
    from onchip.vision import frigate as told

    artifact = for_frigate(large, photos)
    (tmp_path / "model_edgetpu.tflite").write_bytes(artifact.payload("program"))
    spec = artifact.manifest.program_input
    assert spec is not None
    inputs = np.stack([prepare(read_image(p), spec)[0] for p in find_images(photos)])
    model = {"path": str(tmp_path / "model_edgetpu.tflite"), "width": spec.width,
             "height": spec.height, "model_type": "yolo-generic"}  # fmt: skip
    rows = its_own(python, tmp_path, {"all": ({"edgetpu": str(STANDINS), "model": model}, inputs)})
    size = (spec.width, spec.height)
    with Edgetpu().steps(artifact)["litert"].open() as session:
        for image, theirs in zip(inputs, rows["all"], strict=True):
            ours = told.rows(told.seen(artifact.manifest.head, session(image), size), size)
            same = np.lexsort(theirs.T), np.lexsort(ours.T)
            np.testing.assert_allclose(ours[same[1]], theirs[same[0]], atol=2e-3)
    assert rows["all"][:, 0, 1].max() > 0.4  # something is seen


def test_check_of_a_compiled_file(
    tiny: Path, photos: Path, cli: Cli, coral: pytest.MonkeyPatch
) -> None:
    """A file for Coral without an artifact: its outputs are those of the detector, or not."""
    text = (
        "mqtt: {enabled: false}\ncameras: {a: {ffmpeg: {inputs: [{path: a, roles: [detect]}]}}}\n"
    )
    text += "detectors: {a: {type: edgetpu}}\nmodel: {path: /config/m.tflite, model_type: yolo-generic, "
    text += "width: 64, height: 64}\n"
    (cli.folder / "config.yml").write_text(text)
    for artifact, wrong in ((made(tiny, photos), True), (for_frigate(tiny, photos), False)):
        (cli.folder / "m.tflite").write_bytes(artifact.payload("program"))
        done = cli("frigate", "check", "config.yml", "m.tflite", "--json", code=None)
        found = {f["code"]: f["cause"] for f in json.loads(done.stdout)["findings"]}
        assert ("outputs" in found) == wrong
        assert not wrong or "(1, cells, 64)" in found["outputs"]


# The command line


def test_from_the_command_line(
    tiny: Path, photos: Path, cli: Cli, coral: pytest.MonkeyPatch
) -> None:
    done = cli("build", tiny, "-t", "edgetpu", "-c", photos, "-o", "a.onchip")
    assert "weights on the chip 2.91MiB" in done.stdout
    told = json.loads(cli("inspect", "a.onchip", "--json").stdout)
    assert told["target"] == "edgetpu" and told["tools"]["edgetpu_compiler"] == "16.0.384591198"
    said = cli("detect", "a.onchip", find_images(photos)[0], code=None)
    assert said.returncode in (4, 5) and "Edge TPU" in said.stderr


def test_it_is_listed() -> None:
    assert "edgetpu" in targets.names() and chip.Edgetpu.frigate == ("edgetpu",)
