"""Rockchip, with the real SDK and its simulator."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import version_converter

from onchip.artifact import Artifact, load
from onchip.build import Options, build, quantized
from onchip.dataset.samples import unlabelled
from onchip.detect.detector import Detector
from onchip.errors import InputError, UnsupportedError
from onchip.formats import rknn as rknn_file
from onchip.graph.run import Runner
from onchip.quantize.recipe import PLAIN, RECIPES
from onchip.spec import HeadSpec
from onchip.targets import target as targets
from onchip.targets.rknn.chips import Rk3566, Rk3588
from onchip.testing import TargetContract
from onchip.verify import verify
from onchip.vision import decode
from onchip.vision.preprocess import find_images, prepare, read_image

import graphs
from conftest import Cli

pytestmark = [pytest.mark.rknn, pytest.mark.usefixtures("sdk")]

CHIPS = ("rk3562", "rk3566", "rk3568", "rk3576", "rk3588", "rv1103", "rv1106", "rv1126b")


class TestRk3588(TargetContract):
    target = Rk3588()


class TestRk3566(TargetContract):
    target = Rk3566()


def made(model: Path, photos: Path, chip: str = "rk3588", **options: str) -> Artifact:
    return build(model, chip, find_images(photos), options=Options(target=options))


def tensors(artifact: Artifact, photo: Path) -> dict[str, np.ndarray]:
    assert artifact.manifest.program_input is not None
    with targets.get(artifact.manifest.target).open(artifact) as session:
        return dict(session(prepare(read_image(photo), artifact.manifest.program_input)[0]))


def float_tensors(artifact: Artifact, photo: Path) -> dict[str, np.ndarray]:
    tensor = prepare(read_image(photo), artifact.manifest.input)[0]
    return Runner(artifact.payload("cut"))(tensor)


def similarity(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    x, y = (np.concatenate([t[n].ravel() for n in sorted(a)]) for t in (a, b))
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("chip", CHIPS)
def test_every_chip_builds(chip: str, tiny: Path, photos: Path) -> None:
    artifact = made(tiny, photos, chip, quantizer="onchip")
    program = rknn_file.parse(artifact.payload("program"), "")
    assert chip in program.platforms and program.complete
    assert program.custom_string.startswith("onchip ")
    assert artifact.payload("table").startswith(b"# The compiler's own table")
    photo = find_images(photos)[0]
    assert similarity(tensors(artifact, photo), float_tensors(artifact, photo)) > 0.99


WAYS = {
    "mmse": {"algorithm": "mmse"},
    "kl_divergence": {"algorithm": "kl_divergence"},
    "layer": {"method": "layer"},
    "hybrid auto": {"hybrid": "auto"},
    "hybrid proposal": {"hybrid": "proposal"},
    "hybrid list": {"hybrid": "Mul_6_out, /model.22/cv3.0/cv3.0.2/Conv_out"},
    "level 0": {"level": "0"},
}


@pytest.mark.parametrize("name", WAYS)
def test_the_vendors_ways(name: str, tiny: Path, photos: Path) -> None:
    artifact = made(tiny, photos, quantizer="vendor", **WAYS[name])
    notes = artifact.stage("compile").notes  # type: ignore[union-attr]
    assert notes["quantizer"].startswith("the SDK's ")
    assert any("agreement with the float network" in v.message for v in artifact.manifest.verdicts)
    # the simulator builds again from the calibration photos that the artifact keeps
    photo = find_images(photos)[0]
    first, second = tensors(artifact, photo), tensors(artifact, photo)
    assert similarity(first, float_tensors(artifact, photo)) > 0.9
    assert all(np.array_equal(first[n], second[n]) for n in first)


def test_verify_of_the_vendors_way(tiny: Path, photos: Path, tmp_path: Path) -> None:
    artifact = made(tiny, photos, quantizer="vendor")
    data = unlabelled(find_images(photos), ())
    rows = {r.stage: r.parity for r in verify(artifact, data, labelled=False).rows}
    assert rows["compiled"].matched > 0.8
    without = {k: v for k, v in artifact.payloads.items() if k != "calibration"}
    with pytest.raises(InputError, match="no calibration photos"):
        targets.get("rk3588").open(Artifact(artifact.manifest, without))


def test_nothing_quantized(tiny: Path, photos: Path) -> None:
    artifact = made(tiny, photos, quantizer="none")
    photo = find_images(photos)[0]
    assert similarity(tensors(artifact, photo), float_tensors(artifact, photo)) > 0.99999
    assert artifact.stage("compile").notes["quantizer"] == "none: float16"  # type: ignore[union-attr]


def test_a_hybrid_build_is_held_against_ours(tiny: Path, photos: Path) -> None:
    artifact = made(tiny, photos, hybrid="auto")
    text = next(v.message for v in artifact.manifest.verdicts if v.code == "quantizer")
    assert "onchip's plan" in text and "the SDK's own quantization" in text and "is used" in text


OPTIONS = {
    "no such name": (["speed=9"], 2, "its options"),
    "no such value": (["algorithm=best"], 2, "algorithm"),
    "not a number": (["memory_mb=lots"], 2, "memory_mb"),
    "no equals": (["quantizer"], 2, "write -O NAME=VALUE"),
    "contradiction": (["quantizer=onchip", "hybrid=auto"], 2, "are the vendor's"),
    "no such tensor": (["hybrid=nowhere"], 2, "no tensor nowhere"),
    "a tensor inside a layer": (["quantizer=vendor", "hybrid=Sigmoid_2_out"], 4, "Sigmoid_2_out"),
    "no such file": (["ops=none.py"], 2, "no file none.py"),
    "no such core": (["core=7"], 2, "core"),
    "no such sdk": (["sdk=0.1"], 2, "0.1"),
    "too little memory": (["memory_mb=50", "quantizer=onchip"], 4, "memory"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_wrong_options(name: str, tiny: Path, photos: Path, cli: Cli) -> None:
    given, code, text = OPTIONS[name]
    flags = [x for one in given for x in ("-O", one)]
    done = cli("build", tiny, "-t", "rk3588", "-c", photos, *flags, "-o", "a.onchip", code=code)
    assert text in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("chip", ["rv1103", "rv1106"])
def test_chips_of_integers_keep_nothing_in_float(chip: str, tiny: Path, photos: Path) -> None:
    layer = "/model.22/cv3.0/cv3.0.2/Conv"
    with pytest.raises(UnsupportedError, match="it has integers only"):
        build(tiny, chip, find_images(photos), options=Options(keep_float=(layer,)))


@pytest.mark.parametrize("layer", ["/model.22/cv3.0/cv3.0.2/Conv", "Conv_10", "Conv_0"])
def test_a_layer_kept_in_float(layer: str, tiny: Path, photos: Path) -> None:
    """Though other layers read what it reads, and they stay in integers."""
    options = Options(keep_float=(layer,), target={"quantizer": "onchip", "level": "2"})
    artifact = build(tiny, "rk3588", find_images(photos), options=options)
    rows = [x for x in table(artifact) if len(x.split()) > 2 and x.split()[1].startswith("Conv")]
    assert ["FLOAT16" in x for x in rows].count(True) == 1
    photo = find_images(photos)[0]
    found = tensors(artifact, photo)
    assert similarity(found, Runner(quantized(artifact).bytes)(pixels(artifact, photo))) > 0.999


def test_building_again_tells_of_this_build_only(tiny: Path, photos: Path) -> None:
    first = made(tiny, photos, quantizer="vendor")
    options = Options(target={"quantizer": "onchip"})
    second = build(tiny, "rk3588", find_images(photos), options=options, older=first)
    assert "calibration" in first.payloads and "calibration" not in second.payloads
    codes = [v.code for v in second.manifest.verdicts]
    assert codes.count("quantizer") == 1


def test_an_opset_newer_than_the_sdk_reads(photos: Path, tmp_path: Path) -> None:
    proto = version_converter.convert_version(graphs.yolov8(), 22)
    onnx.save(proto, tmp_path / "new.onnx")
    assert "program" in made(tmp_path / "new.onnx", photos).payloads


def test_places_with_spaces_and_letters(tiny: Path, photos: Path, cli: Cli) -> None:
    folder = cli.folder / "meine Köder 照片"
    (folder / "pho tos").mkdir(parents=True)
    for path in find_images(photos):
        (folder / "pho tos" / f"é {path.name}").write_bytes(path.read_bytes())
    (folder / "pho tos" / "0 broken.jpg").write_bytes(b"\xff\xd8 half a photo")
    (folder / "my model.onnx").write_bytes(tiny.read_bytes())
    temporary = folder / "tem p"
    temporary.mkdir()
    command = [sys.executable, "-m", "onchip", "build", folder / "my model.onnx", "-t", "rk3588"]
    command += ["-c", folder / "pho tos", "-o", folder / "ö ut.onchip", "-O", "quantizer=vendor"]
    done = subprocess.run(
        [str(c) for c in command],
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 calibration image was left out; the first: " in done.stdout
    assert cli("detect", folder / "ö ut.onchip", folder / "pho tos" / "é 0.png", "--json").stdout
    assert {p.name for p in temporary.iterdir()} <= {".ses"}  # which is ONNX Runtime's own


def children(process: int) -> list[int]:
    """The processes that a process started, and theirs."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        if parent == process:
            found += [int(status.parent.name), *children(int(status.parent.name))]
    return found


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


def test_an_sdk_that_is_killed(data: Path, cli: Cli) -> None:
    photos = data / "coco" / "images" / "val2017"
    arguments = [data / "models" / "yolov8n.onnx", "-t", "rk3588", "-c", photos, "--images", 8]
    arguments += ["--recipe", "fast", "-O", "quantizer=onchip", "-o", "a.onchip"]
    command = [sys.executable, "-m", "onchip", "build", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=cli.folder, stderr=subprocess.PIPE, text=True)
    workers: list[int] = []
    while not workers and process.poll() is None:
        time.sleep(0.1)
        workers = [c for c in children(process.pid) if b"rknn_calls" in command_of(c)]
    log = Path(f"/proc/{workers[0]}/cwd/worker.log")
    while not log.exists() or b"building" not in log.read_bytes():
        time.sleep(0.02)
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 4, errors
    assert "was killed" in errors
    left = load(cli.folder / "a.onchip")
    assert {"plan", "log"} <= left.payloads.keys() and "program" not in left.payloads
    done = json.loads(cli("build", *arguments, "--json").stdout)
    assert [s["skipped"] for s in done["stages"]] == [True, True, False]


CUSTOM = """
import numpy as np


class cstSigmoid:
    op_type = "cstSigmoid"

    def shape_infer(self, node, in_shapes, in_dtypes):
        return in_shapes.copy(), in_dtypes.copy()

    def compute(self, node, inputs):
        return [1 / (1 + np.exp(-inputs[0]))]


class cstSoftmax:
    op_type = "cstSoftmax"

    def shape_infer(self, node, in_shapes, in_dtypes):
        return in_shapes.copy(), in_dtypes.copy()

    def compute(self, node, inputs):
        raise AssertionError("it lies after the cut")
"""


def custom(folder: Path, op: str, count: int) -> Path:
    proto = graphs.yolov8()
    for node in [n for n in proto.graph.node if n.op_type == op][:count]:
        node.op_type = f"cst{op}"
    onnx.save(proto, folder / "custom.onnx")
    (folder / "my ops.py").write_text(CUSTOM)
    return folder / "custom.onnx"


@pytest.mark.parametrize("way", ["onchip", "vendor", "none"])
def test_a_custom_operation_before_the_cut(way: str, photos: Path, cli: Cli) -> None:
    model, name = custom(cli.folder, "Sigmoid", 1), "cstSigmoid=Sigmoid"
    command = ["build", model, "-t", "rk3588", "-c", photos, "--custom-op", name]
    command += ["-O", "ops=my ops.py", "-O", f"quantizer={way}", "-o", "a.onchip"]
    cli(*command)
    artifact = load(cli.folder / "a.onchip")
    assert any("cstSigmoid" in x and " CPU " in x for x in table(artifact))
    again = cli(*command, "--json").stdout
    assert '"skipped": false' not in again
    (cli.folder / "my ops.py").write_text(CUSTOM + "# changed\n")
    again = json.loads(cli(*command, "--json").stdout)
    assert [s["skipped"] for s in again["stages"]] == [True, True, False]
    detected = cli("detect", "a.onchip", photos, "--json").stdout
    assert len(detected.splitlines()) == 6
    (cli.folder / "my ops.py").unlink()
    assert "no file my ops.py" in cli("detect", "a.onchip", photos, code=2).stderr


def test_a_custom_operation_computes_what_was_said(photos: Path, tmp_path: Path) -> None:
    model = custom(tmp_path, "Sigmoid", 2)
    options = Options(
        custom_ops={"cstSigmoid": "Sigmoid"}, target={"ops": str(tmp_path / "my ops.py")}
    )
    artifact = build(model, "rk3588", find_images(photos), options=options)
    photo = find_images(photos)[0]
    found = tensors(artifact, photo)
    assert similarity(found, float_tensors(artifact, photo)) > 0.99
    assert similarity(found, Runner(quantized(artifact).bytes)(pixels(artifact, photo))) > 0.99


def pixels(artifact: Artifact, photo: Path) -> np.ndarray:
    return prepare(read_image(photo), replace(artifact.manifest.input, dtype="uint8"))[0]


def table(artifact: Artifact) -> list[str]:
    return artifact.payload("table").decode().splitlines()


def zoo_boxes(
    outputs: list[np.ndarray], size: int, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rknn_model_zoo's post_process of YOLOv8, before its NMS: boxes, classes, scores."""
    boxes, classes, scores = [], [], []
    for branch in range(3):
        box, score, total = (outputs[3 * branch + n][0] for n in range(3))
        stride = size // box.shape[1]
        for i in range(box.shape[1]):
            for j in range(box.shape[2]):
                if total[0, i, j] < least:
                    continue
                best = int(score[:, i, j].argmax())
                if score[best, i, j] <= least:
                    continue
                parts = np.exp(box[:, i, j].reshape(4, -1))
                sides = (parts / parts.sum(1, keepdims=True)) @ np.arange(parts.shape[1])
                x, y = j + 0.5, i + 0.5
                corners = (x - sides[0], y - sides[1], x + sides[2], y + sides[3])
                boxes.append([c * stride for c in corners])
                classes.append(best)
                scores.append(score[best, i, j])
    return np.asarray(boxes), np.asarray(classes), np.asarray(scores)


def our_boxes(
    head: HeadSpec, found: dict[str, np.ndarray], size: int, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, scores = decode.dense(head, found, (size, size))
    cells = np.flatnonzero(scores.max(1) > least)
    return boxes[cells], scores[cells].argmax(1), scores[cells].max(1)


@pytest.fixture(scope="module")
def zoo(data: Path) -> Artifact:
    photos = find_images(data / "coco" / "images" / "train2017")[::8][:24]
    options = Options(layout="zoo", recipe=RECIPES["fast"], target={"quantizer": "onchip"})
    return build(data / "models" / "yolov8n.onnx", "rk3588", photos, options=options)


def test_the_zoos_post_process_reads_our_build(zoo: Artifact, data: Path) -> None:
    program = rknn_file.parse(zoo.payload("program"), "")
    shapes = [t.shape for t in program.outputs]
    assert shapes == [(1, n, g, g) for g in (80, 40, 20) for n in (64, 80, 1)]
    assert {t.dtype for t in program.outputs} == {"int8"}
    for tensor in program.outputs:
        if tensor.shape[1] != 64:  # scores, and their sum: all of 0 to 1 has codes
            assert (round(255 * tensor.scale, 4), tensor.zero) == (1.0, -128)  # type: ignore[operator]
    seen = 0
    assert zoo.manifest.program_input is not None
    with targets.get("rk3588").open(zoo) as session:
        for photo in find_images(data / "coco" / "images" / "val2017")[:12]:
            image = prepare(read_image(photo), zoo.manifest.program_input)[0]
            found = dict(session(image))
            in_order = [found[t.name] for t in program.outputs]
            theirs = zoo_boxes(in_order, 640, 0.25)
            ours = our_boxes(zoo.manifest.head, found, 640, 0.25)
            assert len(theirs[0]) == len(ours[0])
            if len(ours[0]):
                np.testing.assert_allclose(theirs[0], ours[0], atol=0.01)
                np.testing.assert_array_equal(theirs[1], ours[1])
                np.testing.assert_allclose(theirs[2], ours[2])
            seen += len(ours[0])
    assert seen > 20


def test_the_zoos_layout_sees_what_the_network_does(zoo: Artifact, data: Path) -> None:
    photos = find_images(data / "coco" / "images" / "val2017")[:6]
    proof = verify(zoo, unlabelled(photos, ()), labelled=False)
    rows = {r.stage: r.parity for r in proof.rows}
    assert rows["cut"].matched == 1
    assert rows["compiled"].matched > 0.9
    with Detector(zoo) as detector:
        assert len(detector(read_image(photos[0]))) >= 0


@pytest.mark.parametrize("name", ["yolov5", "yolox"])
@pytest.mark.parametrize("chip", ["rk3588", "rv1106"])
def test_other_layouts_of_the_zoo(name: str, chip: str, photos: Path, tmp_path: Path) -> None:
    onnx.save(graphs.BUILDERS[name](), tmp_path / "m.onnx")
    # by the error alone: what does no harm to detections may be cut off, and these are compared
    options = Options(layout="zoo", recipe=PLAIN, target={"quantizer": "onchip"})
    artifact = build(tmp_path / "m.onnx", chip, find_images(photos), options=options)
    program = rknn_file.parse(artifact.payload("program"), "")
    assert [t.dtype for t in program.outputs] == ["int8"] * 3
    photo = find_images(photos)[0]
    assert similarity(tensors(artifact, photo), float_tensors(artifact, photo)) > 0.98


def test_several_targets_side_by_side(tiny: Path, photos: Path, cli: Cli) -> None:
    found = json.loads(cli("build", tiny, "-t", "rk3588,cpu,rk3566", "-c", photos, "--json").stdout)
    assert [b["target"] for b in found["builds"]] == ["rk3588", "cpu", "rk3566"]
    for chip in ("rk3588", "cpu", "rk3566"):
        assert load(cli.folder / f"tiny.{chip}.onchip").manifest.target == chip
    again = cli("build", tiny, "-t", "rk3588,cpu", "-c", photos, "--memory", 2500).stdout
    assert again.count("skipped (nothing changed)") == 6


def test_of_several_targets_the_one_that_fails_is_told_and_the_others_are_kept(
    tiny: Path, photos: Path, cli: Cli
) -> None:
    arguments = ["build", tiny, "-t", "rv1106,cpu", "-c", photos, "--keep-float", "*Conv"]
    assert "rv1106 has no layers in float" in cli(*arguments, code=3).stderr
    assert load(cli.folder / "tiny.cpu.onchip").payloads["program"]
    assert not (cli.folder / "tiny.rv1106.onchip").exists()
    assert "no target" in cli("build", tiny, "-t", ",", "-c", photos, code=2).stderr


def test_interrupting_several_builds_ends_every_sdk(data: Path, cli: Cli) -> None:
    photos = data / "coco" / "images" / "val2017"
    model = data / "models" / "yolov8n.onnx"
    command = [sys.executable, "-m", "onchip", "build", str(model), "-t", "rk3588,rk3566"]
    command += ["-c", str(photos), "--images", "4", "--recipe", "fast", "-o", "."]
    process = subprocess.Popen(command, cwd=cli.folder, stderr=subprocess.PIPE, text=True)
    workers: list[int] = []
    while len(workers) < 2 and process.poll() is None:
        time.sleep(0.1)
        workers = [c for c in children(process.pid) if b"rknn_calls" in command_of(c)]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors and "Traceback" not in errors
    assert not any(Path(f"/proc/{w}").exists() for w in workers)
    assert not list(cli.folder.iterdir())


def test_the_sdks_own_analysis_is_joined(tiny: Path, photos: Path, cli: Cli) -> None:
    cli("build", tiny, "-t", "rk3588", "-c", photos, "-O", "quantizer=vendor", "-o", "a.onchip")
    found = json.loads(cli("analyze", "a.onchip", "-c", photos, "--json").stdout)
    joined = [x["vendor"] for x in found["layers"] if x["vendor"]]
    assert len(joined) > len(found["layers"]) / 2
    assert all(0 < v["own"]["cosine"] <= 1 for v in joined)
    assert "vendor own" in cli("analyze", "a.onchip", "-c", photos).stdout
    cli("build", tiny, "-t", "rk3588", "-c", photos, "-O", "quantizer=onchip", "-o", "b.onchip")
    assert "no analysis of the SDK's own" in cli("analyze", "b.onchip", "-c", photos).stdout
