"""What a user reads, to the letter."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from onchip.detections import Detections
from onchip.measure import diagnose
from onchip.measure.accuracy import Accuracy
from onchip.measure.diagnose import Cause
from onchip.measure.latency import Latency
from onchip.measure.parity import Parity
from onchip.measure.proof import Example, Gate, Proof, Row, dump, restore
from onchip.report import data, text
from onchip.report.pictures import LOST, NEW, compared
from onchip.report.plots import HEIGHT, WIDTH, lines, whiskers
from onchip.spec import InputSpec, Verdict
from onchip.targets.published import Published


def accuracy(value: float) -> Accuracy:
    return Accuracy(20, value, value + 0.2, (value - 0.03, value + 0.04), (), np.zeros(0))


def proof(broken: bool) -> Proof:
    last = 0.1 if broken else 0.425
    rows = (
        Row("original", accuracy(0.43), Parity(1, 1, 0, {}, 50), 0.0, None, None),
        Row("compiled", accuracy(last), Parity(0.95, 0.97, -0.01, {"a": 30.0, "b": 25.5}, 50), 43 - 100 * last, (0.1, 1.2), 43 - 100 * last),
    )  # fmt: skip
    failures = ("compiled loses 33.0 points of mAP (gate 1.5)",) if broken else ()
    causes = (Cause("shared_scale", "one scale over boxes and scores", "compiled"),)
    return Proof(
        rows, 20, True, Gate(), failures, "compiled" if broken else "", causes if broken else ()
    )


def test_a_proof_that_holds() -> None:
    assert text.proof(proof(broken=False)) == (
        "stage     mAP50-95      interval  mAP50  step  drop  its interval  matched    IoU  score shift  SQNR dB\n"
        "original      43.0  40.0 to 47.0   63.0         0.0                100.0 %  1.000       +0.000\n"
        "compiled      42.5  39.5 to 46.5   62.5   0.5   0.5    0.1 to 1.2   95.0 %  0.970       -0.010     25.5\n"
        "passed on 20 images with labels: 0.5 points lost in all (vendors' own builds lose a median of 1.2)"
    )


def test_a_proof_that_fails() -> None:
    assert text.proof(proof(broken=True)).splitlines()[-3:] == [
        "FAILED on 20 images with labels, first at: compiled",
        "  compiled loses 33.0 points of mAP (gate 1.5)",
        "  cause: one scale over boxes and scores",
    ]


def test_a_proof_as_data() -> None:
    found = data.proof(proof(broken=True))
    assert found["passed"] is False
    assert found["cause"] == {
        "code": "shared_scale",
        "stage": "compiled",
        "message": "one scale over boxes and scores",
    }
    assert set(found) == {
        "stages", "images", "passed", "broken", "failures", "cause", "causes", "gate", "verdicts",
    }  # fmt: skip


def test_latency() -> None:
    found = Latency(9, {50: 20.0, 90: 30.0, 99: 40.0}, {"decode": 1.0, "inference": 18.25})
    assert text.latency(found) == (
        "50.0 images per second, one after the other; 9 timed\n"
        "whole, ms: p50 20.0, p90 30.0, p99 40.0\n"
        "part       median ms\n"
        "decode           1.0\n"
        "inference       18.2"
    )
    assert data.latency(found)["latency_ms"] == {"p50": 20.0, "p90": 30.0, "p99": 40.0}
    assert data.latency(found)["published"] is None


def test_a_speed_beside_the_published_one() -> None:
    parts = {"decode": 4.0, "preprocess": 1.0, "inference": 10.0, "postprocess": 0.5}
    found = Latency(100, {50: 16.0, 90: 20.0, 99: 30.0}, parts)
    beside = Published("yolov8n", "Some Zoo 1.0", 202.0, 438.0, ("another host",))
    said = text.latency(found, beside).splitlines()
    assert said[-4:] == [
        "published for yolov8n: 202 a second, inference alone, 438 with eight at a time",
        "  (Some Zoo 1.0); inference alone here: 100.0 a second, 50%",
        "why they differ: 6.0 ms of each image here are not inference",
        "  another host",
    ]
    assert data.latency(found, beside)["published"]["network"] == "yolov8n"


def test_accuracy() -> None:
    assert text.accuracy(accuracy(0.43)) == (
        "mAP50-95 43.0 (95 % interval 40.0 to 47.0), mAP50 63.0, on 20 images"
    )


def test_warnings_come_before_notes() -> None:
    found = [
        Verdict(code="a", message="note it"),
        Verdict(code="b", message="mind it", level="warning"),
    ]
    assert text.verdicts(found) == ["warning: mind it", "note: note it"]


def test_detections_as_data() -> None:
    seen = Detections(np.array([[1, 2, 3.456, 4]]), np.array([0.87654]), np.array([1]))
    assert data.detections(seen, ("a", "b"), "x.jpg", 3) == {
        "source": "x.jpg",
        "frame": 3,
        "detections": [
            {"label": "b", "class_id": 1, "score": 0.8765, "box": [1.0, 2.0, 3.46, 4.0]}
        ],
    }


def test_networks_that_see_nothing_alike_have_a_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = InputSpec(name="images", width=32, height=32)
    evidence = SimpleNamespace(input=spec, labelled=False, broken="cut", photos=[])
    monkeypatch.setattr(diagnose, "_sight", lambda *_: -86.0)  # it disagrees with its mirror image
    assert diagnose.diagnose(evidence) == ()  # type: ignore[arg-type]


def test_a_proof_comes_back_from_its_bytes(tmp_path: Path) -> None:
    box = np.array([[1, 2, 3, 4]], np.float32)
    seen = Detections(box, np.array([0.5]), np.array([1]))
    example = Example(tmp_path / "ä b.jpg", 0.5, {"original": seen, "compiled": seen[:0]}, seen)
    made = replace(proof(broken=True), examples=(example,))
    again = restore(dump(made))
    assert dump(restore(dump(again))) == dump(again)
    assert text.proof(again) == text.proof(made)
    assert again.examples[0].path == tmp_path / "ä b.jpg"
    assert again.examples[0].first.boxes.tolist() == [[1, 2, 3, 4]]
    assert len(again.examples[0].last) == 0


def test_what_is_lost_and_what_is_new_is_marked() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    first = Detections(
        np.array([[10, 10, 50, 50], [80, 20, 120, 60]]), np.array([0.9, 0.8]), np.array([0, 1])
    )
    later = Detections(
        np.array([[11, 10, 50, 50], [20, 70, 60, 110]]), np.array([0.9, 0.8]), np.array([0, 1])
    )
    picture, lost, new = compared(image, first, later, ("a", "b"))
    assert (lost, new) == (1, 1)
    assert picture[20, 81].tolist() == list(LOST)
    assert picture[70, 21].tolist() == list(NEW)
    same, *none = compared(image, first, first, ("a", "b"))
    assert none == [0, 0]
    assert not (same == LOST).all(-1).any()


def test_curves_stay_inside_their_frame() -> None:
    made = lines({"up": [0.1, float("nan"), 0.5, 0.9], "down & out": [3, 2, 1, 0]}, "epoch")
    assert "down &amp; out" in made
    for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", made):
        assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT
    assert made.count("M") == 3  # a gap where a value is missing
    assert lines({"one": [1.0]}, "epoch") == ""
    assert whiskers({"cut": (40.0, 38.0, 42.5)}, "mAP").count("<circle") == 1
