"""Export: how likeness is measured, what is refused, and every family through its own code.

The tests marked `train` need torch and ultralytics (`make test ALL=1`).
"""

import ast
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onchip.dataset import samples
from onchip.detect.program import Limits
from onchip.detections import Detections
from onchip.errors import InputError, OnchipError, ToolError
from onchip.graph.pixels import ULTRALYTICS, declared
from onchip.graph.read import load
from onchip.report import train as report
from onchip.spec import HeadSpec, InputSpec
from onchip.train import checkpoint, likeness, process
from onchip.train import export as exports
from onchip.train.export import Export, Exported, Proof, export
from onchip.train.likeness import Likeness, final, join, lowered

from checkpoints import calling
from checkpoints import checkpoint as made
from checkpoints import own_home as own_home  # the fixtures
from checkpoints import ultralytics as ultralytics
from conftest import Cli

LIMITS = Limits()


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    found = np.asarray(rows, np.float32).reshape(-1, 6)
    return Detections(found[:, :4], found[:, 4], found[:, 5].astype(np.int64))


A, B = (10, 10, 50, 60, 0.9, 1), (100, 20, 140, 80, 0.5, 0)


# ---- how likeness is measured --------------------------------------------------------------------


def test_the_same_is_alike() -> None:
    found = final(detections(A, B), detections(B, A), LIMITS)
    assert found == Likeness(images=1, detections=2, matched=2)
    assert found.failures() == ()


def test_what_differs_is_said() -> None:
    moved = (10.2, 10, 50, 60, 0.9, 1)
    assert final(detections(A), detections(moved), LIMITS).failures() == (
        "boxes differ by 0.2 px (gate 0.1)",
    )
    paler = (10, 10, 50, 60, 0.898, 1)
    assert final(detections(A), detections(paler), LIMITS).failures() == (
        "scores differ by 0.002 (gate 0.001)",
    )
    assert final(detections(A, B), detections(A), LIMITS).failures() == (
        "1 of 2 detections are in one of the two alone",
    )
    other = (10, 10, 50, 60, 0.9, 2)
    assert final(detections(A), detections(other), LIMITS).missing == 2


def test_a_score_at_the_threshold_counts_on_neither_side() -> None:
    above, below = (10, 10, 50, 60, 0.2500001, 1), (10, 10, 50, 60, 0.2499999, 1)
    low = lowered(LIMITS)
    assert low.confidence == pytest.approx(0.249)
    found = final(detections(above), detections(below), LIMITS)
    assert (found.detections, found.matched, found.missing) == (1, 1, 0)
    # where the other side cannot show it
    assert final(detections(above), detections(), LIMITS).missing == 0
    # both below: it is no detection
    assert final(detections(below), detections(below), LIMITS).detections == 0
    assert final(detections((*A[:4], 0.2515, 1)), detections(), LIMITS).missing == 1


def test_an_overlap_at_the_limit_falls_either_way() -> None:
    strong = (0, 0, 100, 100, 0.9, 0)
    wide = 100 * (1 - 0.45) / (1 + 0.45)  # moved so far, two of 100 overlap by 0.45
    weak = (wide, 0, 100 + wide, 100, 0.8, 0)
    found = final(detections(strong, weak), detections(strong), LIMITS)
    assert (found.detections, found.matched, found.edge, found.missing) == (2, 1, 1, 0)
    far = (wide + 5, 0, 105 + wide, 100, 0.8, 0)
    assert final(detections(strong, far), detections(strong), LIMITS).missing == 1


def test_equal_scores_fall_either_way() -> None:
    one, two = (0, 0, 100, 100, 0.8, 0), (20, 0, 120, 100, 0.8000001, 0)
    found = final(detections(one), detections(two), LIMITS, excused=True)
    assert (found.matched, found.edge, found.missing) == (0, 2, 0)
    assert final(detections(one), detections(two), LIMITS).box_px == 20


def test_every_prediction_is_compared() -> None:
    random = np.random.default_rng(0)
    boxes = random.uniform(0, 640, (50, 4)).astype(np.float32)
    scores = random.uniform(0, 1, (50, 3)).astype(np.float32)
    assert likeness.raw((boxes, scores), (boxes, scores)) == (0, 0)
    off = boxes.copy()
    off[7, 2] += 0.5
    assert likeness.raw((boxes, scores), (off, scores))[0] == pytest.approx(0.5, abs=1e-4)
    silent = scores.copy()
    silent[7] = 0.0005  # what does not matter may lie anywhere
    assert likeness.raw((boxes, silent), (off, silent)) == (0, 0)
    assert likeness.raw((boxes, scores), (boxes[:-1], scores[:-1])) == (np.inf, np.inf)
    off[7, 2] = np.nan
    assert likeness.raw((boxes, scores), (off, scores))[0] == np.inf


some_rows = st.lists(
    st.tuples(
        *(st.floats(0, 600) for _ in range(2)),
        *(st.floats(5, 200) for _ in range(2)),
        st.floats(0.2, 1),
        st.integers(0, 3),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(some_rows)
def test_anything_is_like_itself(rows: list[tuple[float, ...]]) -> None:
    found = detections(*((x, y, x + w, y + h, s, c) for x, y, w, h, s, c in rows))  # type: ignore[misc]
    same = final(found, found, LIMITS)
    assert same.failures() == ()
    assert same.missing == 0
    assert same.detections == int((found.scores >= LIMITS.confidence).sum())


@settings(max_examples=200, deadline=None)
@given(some_rows, some_rows)
def test_likeness_is_the_same_from_both_sides(
    one: list[tuple[float, ...]], two: list[tuple[float, ...]]
) -> None:
    a, b = (
        detections(*((x, y, x + w, y + h, s, c) for x, y, w, h, s, c in rows))  # type: ignore[misc]
        for rows in (one, two)
    )
    there, back = final(a, b, LIMITS), final(b, a, LIMITS)
    assert (there.detections, there.matched, there.missing) == (
        back.detections, back.matched, back.missing,
    )  # fmt: skip
    assert there.matched + there.edge + there.missing == there.detections


def test_images_are_summed_up() -> None:
    parts = [
        Likeness(images=1, detections=3, matched=3, box_px=0.01, raw_score=1e-6),
        Likeness(images=1, detections=2, matched=1, edge=1, box_px=0.03, score=1e-5),
    ]
    assert join(parts) == Likeness(2, 5, 4, 1, 0.03, 1e-5, 0, 1e-6)
    assert join([]) == Likeness()


# ---- what is refused, and what is said -----------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"output": Path("best.pb")}, "best.pb is no name for an ONNX file"),
        ({"output": Path("none/best.onnx")}, "cannot write none/best.onnx"),
        ({"opset": 10}, "opset 10 is not one that every chip's compiler takes"),
        ({"opset": 20}, "opset 20 is not one"),
        ({}, "best.pt is a pickle"),
    ],
)  # fmt: skip
def test_wrong_wishes_are_refused(
    wrong: dict[str, object], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made(Path("best.pt"))
    with pytest.raises(OnchipError) as error:
        export(Export(Path("best.pt"), **wrong))  # type: ignore[arg-type]
    assert text in str(error.value)
    assert error.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt"]


def test_without_trust_nobody_is_asked_in_a_pipe(cli: Cli) -> None:
    made(cli.folder / "best.pt")
    done = cli("export", "best.pt", code=2)
    assert done.stderr == (
        "error: best.pt is a pickle, and loading one runs what it names; this one names 7 parts of "
        "collections, torch, ultralytics, and nothing else\n"
        "  if you trust where it comes from: --trust\n"
    )
    failure = json.loads(cli("export", "best.pt", "--json", code=2).stdout)["error"]
    assert failure["code"] == "input" and failure["hint"].endswith("--trust")


@pytest.mark.parametrize(("answer", "asked"), [("n\n", 1), ("\n", 1), ("", 1)])
def test_on_a_terminal_the_answer_is_no_unless_it_is_yes(
    answer: str, asked: int, tmp_path: Path
) -> None:
    import pty

    made(tmp_path / "best.pt")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "onchip", "export", "best.pt"]
    process_ = subprocess.Popen(
        command, cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, answer.encode() or b"\x04")
    code = process_.wait(timeout=60)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert process_.stdout is not None
    process_.stdout.close()
    assert said.count("Do you trust where it comes from? [y/N]") == asked
    assert code in (2, 130)
    assert not (tmp_path / "best.onnx").exists()


HEAD = HeadSpec(family="yolov8", coding="dfl", scoring="class", labels=("car", "van"), tensors=())
DONE = Exported(
    path=Path("best.onnx"),
    input=InputSpec(name="images", width=640, height=480),
    head=HEAD,
    opset=13,
    size=12_800_000,
    nms=False,
    proof=Proof(
        Likeness(128, 680, 678, 2, 4e-4, 2.2e-6, 3.9e-3, 2.1e-5),
        photos=True,
        black=0,
        negatives=12,
        false_alarms=1,
    ),
)


def test_what_an_export_says() -> None:
    assert (
        report.exported(DONE)
        == """\
best.onnx: 12.8 MB, opset 13
  head      yolov8, 2 classes (car, van)
  input     640x480 rgb, mean 0, std 255, letterbox center, pad 114
  proven    on 128 images: 678 of 680 detections match, 2 fall either way by rounding; box 4.0e-04 px, score 2.2e-06
  raw       every prediction: box 3.9e-03 px, score 2.1e-05
  black     no box in a black image
  negatives 1 of 12 images without objects show a box
next: onchip build best.onnx -t cpu -c photos/ (or another chip)"""
    )


def test_what_a_failed_export_says() -> None:
    proof = Proof(Likeness(1, 3, 2, 0, 0.5, 0, 0, 0), True, 2, 0, 0)
    failed = replace(DONE, path=Path("best.failed.onnx"), nms=True, proof=proof)
    assert (
        report.exported(failed)
        == """\
best.failed.onnx: 12.8 MB, opset 13, suppresses by itself
  head      yolov8, 2 classes (car, van)
  input     640x480 rgb, mean 0, std 255, letterbox center, pad 114
  proven    on 1 image: 2 of 3 detections match; box 5.0e-01 px, score 0.0e+00
  black     2 boxes in a black image
warning: it sees things in the dark: train with images that show nothing
failed: 1 of 3 detections are in one of the two alone
failed: boxes differ by 0.5 px (gate 0.1)"""
    )
    data = report.exported_data(failed)
    assert data["passed"] is False and len(data["failures"]) == 2  # type: ignore[arg-type]


def test_without_images_or_detections_it_says_so() -> None:
    nothing = replace(DONE, proof=Proof(Likeness(images=2), False, 0, 0, 0))
    text = report.exported(nothing)
    assert "on noise (name images: --data, -c): nothing is detected there by either" in text
    assert "negatives" not in text
    assert report.exported_data(nothing)["proof"]["images"] == 0  # type: ignore[index]


def test_notes_carry_pixels_and_nothing_of_this_machine(tiny: Path) -> None:
    proto = load(tiny).proto
    onnx.helper.set_model_props(
        proto,
        {
            "description": "Ultralytics YOLOv8n model trained on /home/anna/secret/data.yaml",
            "date": "2026-11-21T18:00:00",
            "names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e'}",
            "imgsz": "[64, 96]",
            "stride": "32",
            "task": "detect",
            "args": "{'data': '/home/anna/secret/data.yaml', 'nms': True, 'opset': 13}",
        },
    )
    data = exports._noted(proto)
    assert b"anna" not in data and b"2026" not in data
    model = onnx.ModelProto()
    model.ParseFromString(data)
    notes = {p.key: p.value for p in model.metadata_props}
    assert notes["mean"] == "0,0,0" and notes["std"] == "255,255,255" and notes["pad"] == "114"
    assert (notes["color"], notes["letterbox"]) == ("rgb", "center")
    assert ast.literal_eval(notes["args"]) == {"nms": True, "opset": 13}
    assert exports._noted(model) == data


# ---- export itself -------------------------------------------------------------------------------

FAMILIES = ("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n")
SIZE = 160
# run in a process of its own: networks of random weights that nevertheless see something
MAKE = """
import sys
from pathlib import Path
from onchip.train.standin import prepare

prepare(Path.cwd() / "config")
import torch
from ultralytics import YOLO

for name in sys.argv[1:]:
    torch.manual_seed(0)
    model = YOLO(name + ".yaml")
    with torch.no_grad():
        model.model.train()
        for layer in model.model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 0.5
        for _ in range(3):
            model.model.predict(torch.rand(2, 3, 160, 160))
        model.model.eval()
        for branch in ("cv3", "one2one_cv3"):
            for level in getattr(model.model.model[-1], branch, None) or []:
                level[-1].bias.fill_(-1.5)
                level[-1].weight.mul_(3)
    model.save(name + ".pt")
"""


@pytest.fixture(scope="module")
def family(ultralytics: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each family."""
    folder = tmp_path_factory.mktemp("families")
    done = subprocess.run(
        [sys.executable, "-c", MAKE, *FAMILIES], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> samples.Dataset:
    """Six photos that no network has seen."""
    import cv2

    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(1)
    for number in range(6):
        small = random.integers(0, 255, (5 + number, 9, 3), np.uint8)
        image = cv2.resize(small, (240 - 20 * number, 150), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    (folder / "0.txt").write_text("")
    return samples.unlabelled(sorted(folder.glob("*.png")), ())


@pytest.mark.train
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_recognised_and_alike(
    name: str, family: Path, noise: samples.Dataset, tmp_path: Path
) -> None:
    wanted = Export(family / f"{name}.pt", tmp_path / "n.onnx", size=(SIZE, SIZE), trust=True)
    found = export(wanted, noise)
    assert found.head.family == ("yolo26" if name == "yolo26n" else "yolov8")
    assert found.proof.passed, found.proof.failures
    assert found.proof.likeness.detections > 10
    assert found.proof.likeness.raw_box_px < 1e-2
    assert found.proof.negatives == 1
    model = load(tmp_path / "n.onnx")
    assert model.inputs[0].shape == (1, 3, SIZE, SIZE)
    assert [o.shape for o in model.outputs] == [(1, 84, 525)]
    assert model.opset == 13
    assert declared(model) == ULTRALYTICS


@pytest.mark.train
def test_suppression_inside(family: Path, noise: samples.Dataset, tmp_path: Path) -> None:
    wanted = Export(
        family / "yolov8n.pt", tmp_path / "n.onnx", size=(SIZE, SIZE), trust=True, nms=True
    )
    found = export(wanted, noise)
    assert found.proof.passed, found.proof.failures
    assert found.proof.likeness.matched > 10
    model = load(tmp_path / "n.onnx")
    assert "NonMaxSuppression" in {n.op_type for n in model.proto.graph.node}
    assert [o.shape for o in model.outputs] == [(1, 300, 6)]
    assert ast.literal_eval(model.metadata["args"])["nms"] is True


@pytest.mark.train
def test_the_same_checkpoint_gives_the_same_bytes_of_any_shape(
    family: Path, noise: samples.Dataset, tmp_path: Path
) -> None:
    wanted = Export(
        family / "yolov8n.pt", tmp_path / "a.onnx", size=(192, 96), trust=True, opset=17
    )
    first = export(wanted, noise)
    assert (first.input.width, first.input.height) == (192, 96)
    second = export(replace(wanted, output=tmp_path / "b.onnx"), None)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert not second.proof.photos and second.proof.passed
    assert load(tmp_path / "a.onnx").opset == 17
    with pytest.raises(InputError, match="an input of 100x96 does not divide by 32") as error:
        export(replace(wanted, size=(100, 96)), None)
    assert error.value.hint == "near is 96x96"


@pytest.mark.train
def test_what_fails_its_proof_replaces_nothing(
    family: Path, noise: samples.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likeness, "BOX_PX", -1.0)
    (tmp_path / "n.onnx").write_bytes(b"the good one")
    wanted = Export(family / "yolov8n.pt", tmp_path / "n.onnx", size=(SIZE, SIZE), trust=True)
    found = export(wanted, noise)
    assert not found.proof.passed
    assert found.path == tmp_path / "n.failed.onnx"
    assert load(found.path).outputs
    assert (tmp_path / "n.onnx").read_bytes() == b"the good one"


@pytest.mark.train
def test_a_trap_that_nobody_saw_is_refused_by_the_loader_too(family: Path, tmp_path: Path) -> None:
    mark = tmp_path / "trapped"
    data = calling(os.system, f"touch '{mark}'")
    path = tmp_path / "best.pt"
    with zipfile.ZipFile(family / "yolov8n.pt") as good, zipfile.ZipFile(path, "w") as bad:
        for entry in good.namelist():
            bad.writestr(entry, data if entry.endswith("data.pkl") else good.read(entry))
    with pytest.raises(InputError, match=r"would run posix\.system"):
        export(Export(path, trust=True))
    with process.start() as worker:
        (worker.folder / "weights.pt").write_bytes(path.read_bytes())
        with pytest.raises(ToolError):
            worker.call("open", weights="weights.pt", threads=1)
    assert not mark.exists()


@pytest.mark.train
def test_a_checkpoint_that_changes_under_way_is_not_loaded(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "n.pt"
    path.write_bytes((family / "yolov8n.pt").read_bytes())
    look = checkpoint.look

    def swapped(given: Path) -> checkpoint.Checkpoint:
        found = look(given)
        made(path, calling(os.system, "touch trapped"))
        return found

    monkeypatch.setattr(checkpoint, "look", swapped)
    with pytest.raises(InputError, match="changed while it was read"):
        export(Export(path, trust=True))


@pytest.mark.train
def test_a_real_checkpoint_on_128_photos(data: Path, cli: Cli, ultralytics: None) -> None:
    done = cli("export", data / "models" / "yolov8n.pt", "-o", "n.onnx", "--trust", "--data",
               data / "coco" / "data.yaml", "--json")  # fmt: skip
    said = json.loads(done.stdout)
    assert set(said) == {
        *("model", "bytes", "opset", "nms", "family", "labels", "input", "proof", "black"),
        *("negatives", "false_alarms", "passed", "failures"),
    }
    proof = said["proof"]
    assert proof["images"] == 128
    assert proof["detections"] > 600
    assert proof["matched"] + proof["edge"] == proof["detections"]
    assert max(proof["box_px"], proof["raw_box_px"]) <= 0.1
    assert max(proof["score"], proof["raw_score"]) <= 1e-3
    assert said["black"] == 0
    assert said["passed"]
    text = cli("plan", "n.onnx", "-t", "cpu").stdout
    assert "assumed" not in text  # its pixels are said
