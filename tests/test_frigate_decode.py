"""Frigate's decode as onchip tells it, held against Frigate's own code where that is here."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from onchip.artifact import Artifact, load
from onchip.build import Options, build, foresee
from onchip.dataset.samples import load as load_data
from onchip.dataset.samples import unlabelled
from onchip.detect.program import Limits, Program
from onchip.detections import Detections, iou
from onchip.device.frigate.model import FrigateModel, frigate_model
from onchip.errors import InputError, UnsupportedError
from onchip.formats import rknn as rknn_file
from onchip.graph.decoded import NAME, table
from onchip.measure.frigate import as_frigate
from onchip.measure.parity import pair, parity
from onchip.spec import HeadSpec, HeadTensor
from onchip.targets import target as targets
from onchip.verify import verify
from onchip.vision import frigate
from onchip.vision.nms import nms
from onchip.vision.preprocess import find_images, prepare, read_image

import graphs
from conftest import Cli

SIZE = (96, 64)
MODELS = ("yolov8n", "yolov5n", "nanodet_m", "yolox_nano")
Rows = dict[str, np.ndarray]
ONCHIP = {"quantizer": "onchip"}


def head(classes: int = 5) -> HeadSpec:
    """A head of so many classes, for `table` and `found` to begin with."""
    tensor = HeadTensor(name="x", node="x", role="box", stride=8.0, start=0, stop=4)
    labels = tuple(f"class{n}" for n in range(classes))
    return HeadSpec(
        family="yolov8", coding="dfl", scoring="class", labels=labels, tensors=(tensor,)
    )


def scene(seed: int, classes: int = 5, count: int = 60) -> np.ndarray:
    """A table `(1, 4 + classes, count)`: some objects, each seen several times."""
    random = np.random.default_rng(seed)
    objects = random.uniform((10, 10, 5, 5), (80, 50, 40, 30), (8, 4))
    boxes = objects[random.integers(0, 8, count)] + random.normal(0, 2, (count, 4))
    scores = random.beta(0.6, 1.5, (count, classes))
    return np.concatenate([np.abs(boxes), scores], axis=1).T[None].astype(np.float32)


def by_class(seed: int, classes: int = 5, most: int = 12) -> np.ndarray:
    """Boxes as HailoRT gives them: `(classes, 5, most)`, in each class the best first."""
    random = np.random.default_rng(seed)
    low = random.uniform(0, 0.6, (classes, most, 2))
    scores = -np.sort(-random.uniform(0, 1, (classes, most)), axis=1)
    scores[scores < 0.2] = 0
    boxes = np.concatenate([low, low + random.uniform(0, 0.4, low.shape)], axis=2)
    whole = np.concatenate([boxes, scores[..., None]], axis=2)
    return (whole * (scores > 0)[..., None]).swapaxes(1, 2).astype(np.float32)


def ours(name: str, made: np.ndarray) -> np.ndarray:
    if name.startswith("hailo"):
        return frigate.rows(frigate.seen(head().found("nms"), {"nms": made[None]}, SIZE), SIZE)
    return frigate.rows(frigate.seen(table(head()), {NAME: made}, SIZE), SIZE)


@pytest.fixture(scope="module")
def python() -> str:
    """A Python that runs Frigate's own code; tests that need it are skipped without it."""
    source = os.environ.get("FRIGATE_SRC")
    if not source or not (Path(source) / "frigate").is_dir():
        pytest.skip("Frigate's source is not here; set FRIGATE_SRC to a checkout")
    found = os.environ.get("FRIGATE_PYTHON", sys.executable)
    needs = "import cv2, numpy, onnxruntime, openvino, peewee, pydantic, requests, ruamel.yaml"
    missing = subprocess.run([found, "-c", needs], capture_output=True, text=True, timeout=60)
    if missing.returncode:
        pytest.skip(f"{found} lacks a library of Frigate's: {missing.stderr.splitlines()[-1]}")
    return found


def its_own(python: str, folder: Path, jobs: dict[str, tuple[dict[str, Any], np.ndarray]]) -> Rows:
    """What Frigate's own code answers."""
    for name, (_, given_) in jobs.items():
        np.save(folder / f"{name}.npy", given_)
    (folder / "jobs.json").write_text(json.dumps({n: job for n, (job, _) in jobs.items()}))
    child = Path(__file__).parent / "frigate_detect_child.py"
    done = subprocess.run(
        [python, str(child), str(folder)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "rows.npz"))


def test_the_decode_is_frigates_own(python: str, tmp_path: Path) -> None:
    jobs: dict[str, tuple[dict[str, Any], np.ndarray]] = {
        f"table{n}": ({"decode": SIZE}, scene(n, count=(60, 400)[n % 2])) for n in range(40)
    }
    jobs |= {f"hailo{n}": ({"hailo": None}, by_class(n)) for n in range(20)}
    jobs["tableNone"] = ({"decode": SIZE}, scene(1) * 0)
    jobs["hailoNone"] = ({"hailo": None}, by_class(1) * 0)
    found = its_own(python, tmp_path, jobs)
    for name, (_, made) in jobs.items():
        np.testing.assert_allclose(ours(name, made), found[name], atol=1e-6, err_msg=name)


@pytest.mark.data
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_its_plugins_see_the_same(target: str, python: str, data: Path, tmp_path: Path) -> None:
    """Its rows are ours of the same table; its runtime may be older and round otherwise."""
    photos = find_images(data / "coco" / "images")
    jobs: dict[str, tuple[dict[str, Any], np.ndarray]] = {}
    artifacts: dict[str, Artifact] = {}
    for name in MODELS:
        made = build(
            data / "models" / f"{name}.onnx", target, photos[:8], options=Options(layout="frigate")
        )
        told = frigate_model(made)
        path = tmp_path / told.file
        path.write_bytes(made.payload("program"))
        inputs = inputs_of(made, photos[8:16])
        for kind in told.detectors:
            jobs[f"{name}-{kind}"] = ({"plugin": kind, "model": keys(told, path)}, inputs)
            artifacts[f"{name}-{kind}"] = made
    found = its_own(python, tmp_path, jobs)
    for name, made in artifacts.items():
        wanted = read_as_frigate(made, found[f"{name}/tables"])
        apart = np.abs(wanted - found[name]).max()
        assert apart < 1e-6, name
        with targets.get(target).open(made, 1) as session:
            mine = read_as_frigate(made, [session(x)[NAME] for x in jobs[name][1]])
        alike = parity([pair(*map(detections, r)) for r in zip(mine, wanted, strict=True)])
        assert (wanted[..., 1] > 0).sum() > 8 and alike.matched > 0.85
        print(
            f"{name}: {int((wanted[..., 1] > 0).sum())} boxes, {apart:.1e} apart; "
            f"{alike.matched:.1%} of them by the runtime here, boxes {alike.mean_iou:.3f} alike"
        )


def keys(told: FrigateModel, path: Path) -> dict[str, Any]:
    return {
        "path": str(path),
        "model_type": told.model_type,
        "width": told.width,
        "height": told.height,
        "input_tensor": told.input_tensor,
        "input_pixel_format": told.input_pixel_format,
        "input_dtype": told.input_dtype,
    }


def inputs_of(made: Artifact, photos: list[Path]) -> np.ndarray:
    assert made.manifest.program_input is not None
    return np.stack([prepare(read_image(p), made.manifest.program_input)[0] for p in photos])


def read_as_frigate(made: Artifact, tables: Iterable[Any]) -> np.ndarray:
    head, spec = made.manifest.program_head, made.manifest.program_input
    assert head is not None and spec is not None
    size = (spec.width, spec.height)
    seen = [frigate.seen(head, {NAME: t}, size) for t in tables]
    return np.stack([frigate.rows(found, size) for found in seen])


def detections(rows: np.ndarray) -> Detections:
    some = rows[rows[:, 1] > 0]
    return Detections(some[:, [3, 2, 5, 4]], some[:, 1], some[:, 0])


@given(st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_what_frigate_keeps(seed: int) -> None:
    made = scene(seed, count=300)
    found = frigate.seen(table(head()), {NAME: made}, SIZE)
    assert len(found) <= frigate.ROWS
    assert (found.scores > 0.4).all() and (np.diff(found.scores) <= 0).all()
    reached = np.concatenate([found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]], axis=1)
    overlaps = iou(reached, reached) - np.eye(len(found))
    assert (overlaps <= 0.4 + 1e-5).all()
    several = frigate.seen(head().found("nms"), {"nms": by_class(seed)[None]}, SIZE)
    assert (np.diff(several.classes) >= 0).all() and len(several) <= frigate.ROWS


def test_two_objects_far_from_the_corner_become_one() -> None:
    """OpenCV is given corners for sizes: of two cars side by side at the lower right one is lost."""
    boxes = np.asarray([[60, 40, 10, 10], [75, 40, 10, 10]], np.float32)
    made = np.zeros((1, 6, 2), np.float32)
    made[0, :4], made[0, 4] = boxes.T, (0.9, 0.8)
    read = table(head(2))
    assert len(frigate.seen(read, {NAME: made}, SIZE)) == 1
    apart = Detections([[55, 35, 65, 45], [70, 35, 80, 45]], [0.9, 0.8], [0, 0])
    assert len(nms(apart, 0.4)) == 2


def test_rows_and_back() -> None:
    found = Detections([[9.6, 6.4, 48, 32]], [0.5], [3])
    rows = frigate.rows(found, SIZE)
    assert rows.shape == (20, 6) and not rows[1:].any()
    np.testing.assert_allclose(rows[0], [3, 0.5, 0.1, 0.1, 0.5, 0.5], rtol=1e-6)


@pytest.fixture(scope="module")
def layout(tiny: Path, photos: Path) -> Artifact:
    return build(tiny, "cpu", find_images(photos), options=Options(layout="frigate"))


def test_what_frigate_is_told(layout: Artifact) -> None:
    assert frigate_model(layout) == FrigateModel(
        detectors=("onnx",),
        model_type="yolo-generic",
        input_tensor="nchw",
        input_pixel_format="rgb",
        input_dtype="int",
        width=96,
        height=64,
        labels=layout.manifest.head.labels,
        file="tiny.onnx",
    )
    named = Artifact(replace(layout.manifest, source="SuperVision.onnx"), layout.payloads)
    assert frigate_model(named).file == "model.onnx"


def test_artifacts_that_frigate_cannot_read(layout: Artifact, built: Path) -> None:
    plain = load(built)
    with pytest.raises(UnsupportedError, match="raw yolov8 head") as refused:
        frigate_model(plain)
    assert "--layout frigate" in refused.value.hint
    other = Artifact(replace(layout.manifest, target="rv1106"), layout.payloads)
    with pytest.raises(UnsupportedError, match="no detector that runs a file for rv1106"):
        frigate_model(other)
    empty = Artifact(layout.manifest, {})
    with pytest.raises(InputError, match="no program yet"):
        frigate_model(empty)


@pytest.mark.data
def test_the_accuracy_that_frigate_leaves(data: Path, cli: Cli) -> None:
    coco = data / "coco"
    cli(
        "build", data / "models" / "yolov8n.onnx", "-c", coco / "images", "--images", "8",
        "--recipe", "fast", "--layout", "frigate", "-o", "f.onchip",
    )  # fmt: skip
    common = ("f.onchip", "--data", coco / "data.yaml", "--images", "16")
    said = cli("eval", *common, "--as-frigate").stdout
    assert "Frigate's decode costs" in said and "where Frigate does not look" in said
    told = json.loads(cli("eval", *common, "--as-frigate", "--json").stdout)
    plain = json.loads(cli("eval", *common, "--json").stdout)
    assert told["own"]["0.001"] == plain
    assert told["own"]["0.4"]["map50_95"] < plain["map50_95"]
    lost = 100 * (told["own"]["0.4"]["map50_95"] - told["map50_95"])
    assert told["points_lost"]["decode"] == pytest.approx(lost, abs=0.01)


@pytest.mark.data
def test_our_decode_from_the_same_score(data: Path, layout: Artifact) -> None:
    wrong = load_data(data / "coco" / "data.yaml")
    with pytest.raises(InputError, match="80 classes, but the model has 5"):
        as_frigate(layout, wrong)
    limits = Limits(confidence=0.4)
    assert layout.manifest.program_input is not None and layout.manifest.program_head is not None
    with targets.get("cpu").open(layout, 1) as session:
        program = Program(session, layout.manifest.program_input, layout.manifest.program_head)
        found = program(read_image(wrong.samples[0].path), limits)
    assert (found.scores >= 0.4).all()


@pytest.fixture
def labelled(photos: Path, tmp_path: Path) -> Path:
    """The noise photos with a box each."""
    shutil.copytree(photos, tmp_path / "images")
    (tmp_path / "labels").mkdir()
    for photo in find_images(photos):
        (tmp_path / "labels" / f"{photo.stem}.txt").write_text("2 0.5 0.5 0.4 0.4\n")
    names = ", ".join(f"class{n}" for n in range(5))
    (tmp_path / "data.yaml").write_text(f"val: images\nnames: [{names}]\n")
    return tmp_path / "data.yaml"


def test_eval_of_a_raw_head_as_frigate(built: Path, labelled: Path, cli: Cli) -> None:
    lines = cli("eval", built, "--data", labelled, "--as-frigate", code=3).stderr.splitlines()
    assert "it ends at the raw yolov8 head" in lines[0] and "--layout frigate" in lines[1]


def test_a_chip_that_suppresses_is_told_no_limits(
    tiny: Path, photos: Path, labelled: Path, compiler: pytest.MonkeyPatch
) -> None:
    """As Frigate it keeps the file's own thresholds; onchip's reading sets its own."""
    made = build(tiny, "hailo8l", find_images(photos), options=Options(layout="frigate"))
    assert made.manifest.program_head is not None
    assert made.manifest.program_head.coding == "found"
    told = frigate_model(made)
    assert told.detectors == ("hailo8l",) and told.file == "tiny.hef"
    assert (told.input_tensor, told.input_dtype) == ("nhwc", "int")
    found = as_frigate(made, load_data(labelled))
    assert found.frigate.images == found.own.images == 6
    assert found.own.map50_95 >= found.same.map50_95


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("yolov8", {"nms": "none"}, "-O nms=none makes none"),
        ("damo", {}, "Frigate reads only boxes that HailoRT has suppressed"),
        ("rtdetr", {}, "Frigate reads only boxes that HailoRT has suppressed"),
    ],
)
def test_heads_that_hailort_leaves(
    name: str,
    options: dict[str, str],
    said: str,
    photos: Path,
    tmp_path: Path,
    compiler: pytest.MonkeyPatch,
) -> None:
    onnx.save(graphs.BUILDERS[name](), tmp_path / "m.onnx")
    wanted = Options(layout="frigate", target=options)
    with pytest.raises((InputError, UnsupportedError), match=said):
        build(tmp_path / "m.onnx", "hailo8l", find_images(photos), options=wanted)


def test_a_head_that_only_the_chip_decodes(
    photos: Path, tmp_path: Path, compiler: pytest.MonkeyPatch
) -> None:
    onnx.save(graphs.yolov6(), tmp_path / "m.onnx")
    wanted = Options(layout="frigate")
    seen = foresee(tmp_path / "m.onnx", "hailo8l", find_images(photos), options=wanted)[1]
    assert "engine=nn_core" in seen.files["model.alls"]


@pytest.mark.rknn
@pytest.mark.usefixtures("sdk")
def test_a_rockchip_file_decodes_in_float16(tiny: Path, photos: Path) -> None:
    options = Options(layout="frigate")
    made = build(tiny, "rk3588", find_images(photos), options=options)
    plain = build(tiny, "rk3588", find_images(photos), options=Options(target=ONCHIP))
    told = frigate_model(made)
    assert told.detectors == ("rknn",) and told.file == "tiny.rknn"
    assert (told.input_tensor, told.input_dtype) == ("nhwc", "int")
    parsed = rknn_file.parse(made.payload("program"), "tiny.rknn")
    assert [o.name for o in parsed.outputs] == [NAME]
    data = unlabelled(find_images(photos), ())
    rows, before = (verify(a, data, labelled=False).rows for a in (made, plain))
    assert rows[-1].stage == "compiled"
    assert rows[-1].parity.matched > before[-1].parity.matched - 0.05
    vendor = Options(layout="frigate", target={"quantizer": "vendor"})
    with pytest.raises(InputError, match="to the same 256 steps"):
        build(tiny, "rk3588", find_images(photos), options=vendor)
