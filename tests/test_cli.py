"""The command line as a user meets it: every verb, golden text, bad input, Ctrl-C."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from onchip.artifact import load
from onchip.cli import VERBS

import graphs
from conftest import Cli


def test_help_lists_every_verb(cli: Cli) -> None:
    text = cli("--help").stdout
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert cli().stdout == text
    assert cli("--version").stdout.startswith("onchip 0.")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_ends_with_an_example(verb: str, cli: Cli) -> None:
    text = cli(verb, "--help").stdout
    assert f"Example: onchip {verb}" in text
    assert "--json" in text


def test_help_loads_no_library() -> None:
    code = "import sys; sys.argv = ['onchip', '--help']; import onchip.cli; onchip.cli.main(); "
    code += "sys.exit(any(m in sys.modules for m in ('click', 'numpy', 'onnx', 'msgspec')))"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_build_says_what_it_did(built: Path, cli: Cli) -> None:
    text = cli("inspect", built).stdout
    assert "tiny.onnx for cpu" in text
    assert "head    yolov8, 5 classes (kind0, kind1, kind2, kind3, kind4)" in text
    assert "input   96x64 rgb, mean 0, std 255, letterbox center, pad 114" in text
    assert "only 6 calibration images" in text
    layers = cli("inspect", built, "--layers").stdout
    assert "calibrated on 6 images" in layers


def test_stages_hand_over_the_same_file_and_skip(tiny: Path, photos: Path, cli: Cli) -> None:
    cli("parse", tiny, "-c", photos, "-o", "a.onchip")
    assert "program" not in load(cli.folder / "a.onchip").payloads
    assert "no plan yet" in cli("compile", "a.onchip", code=2).stderr
    cli("optimize", "a.onchip", "-c", photos)
    done = json.loads(cli("compile", "a.onchip", "--json").stdout)
    assert [s["name"] for s in done["stages"]] == ["parse", "optimize", "compile"]
    again = json.loads(cli("build", tiny, "-c", photos, "-o", "a.onchip", "--json").stdout)
    assert [s["skipped"] for s in again["stages"]] == [True, True, True]
    assert again["peak_rss_mb"] > 10


def test_memory_is_its_own_and_not_that_of_who_started_it(
    tiny: Path, photos: Path, tmp_path: Path
) -> None:
    code = """if True:
        import subprocess, sys
        held = bytearray(b"1" * (800 << 20))
        subprocess.run([sys.executable, "-m", "onchip", *sys.argv[1:]], check=True)
    """
    command = ["build", tiny, "-c", photos, "-o", tmp_path / "a.onchip", "--json"]
    started = [sys.executable, "-c", code, *map(str, command)]
    done = subprocess.run(started, check=True, capture_output=True, text=True)
    assert 10 < json.loads(done.stdout)["peak_rss_mb"] < 700


def test_inspect_a_model(tiny: Path, cli: Cli) -> None:
    found = json.loads(cli("inspect", tiny, "--json").stdout)
    assert found["format"] == "onnx"
    assert found["inputs"] == [{"name": "images", "shape": [1, 3, 64, 96], "dtype": "float32"}]
    assert found["end_nodes"][0] == "/model.22/cv2.0/cv2.0.2/Conv"
    assert found["head"]["family"] == "yolov8"
    text = cli("inspect", tiny).stdout
    assert "strides 8, 16, 32; 16 bins per side" in text


def test_detect_images_json_and_drawn(built: Path, photos: Path, cli: Cli) -> None:
    done = cli("detect", built, photos, "-o", "seen", "--confidence", "0.01", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 6
    assert set(rows[0]) == {"source", "frame", "detections"}
    for row in rows:
        height, width = cv2.imread(row["source"]).shape[:2]
        for found in row["detections"]:
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 <= x2 <= width + 0.01
            assert 0 <= y1 <= y2 <= height + 0.01
            assert found["label"] == f"kind{found['class_id']}"
    assert len(list((cli.folder / "seen").glob("*.jpg"))) == 6


def test_detect_a_video(built: Path, cli: Cli) -> None:
    import av

    path = cli.folder / "clip.mp4"
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(
                random.integers(0, 255, (64, 96, 3), np.uint8), "rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    done = cli("detect", built, path, "-o", "seen", "--json")
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == list(range(12))
    with av.open(str(cli.folder / "seen" / "clip.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12


def labelled(photos: Path, folder: Path, label: str = "0 0.5 0.5 0.4 0.4") -> Path:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for path in photos.glob("*.png"):
        (folder / "images" / path.name).write_bytes(path.read_bytes())
        (folder / "labels" / f"{path.stem}.txt").write_text(label + "\n")
    names = ", ".join(f"kind{i}" for i in range(5))
    (folder / "data.yaml").write_text(f"val: images\nnames: [{names}]\n")
    return folder / "data.yaml"


def test_verify_eval_bench(built: Path, photos: Path, cli: Cli) -> None:
    data = labelled(photos, cli.folder)
    proof = json.loads(
        cli(
            "verify", built, "--data", data, "--min-match", 0, "--report", "p.html", "--json"
        ).stdout
    )
    assert [s["stage"] for s in proof["stages"]] == ["original", "cut", "plan", "compiled"]
    assert proof["stages"][1]["matched"] == 1
    assert "<table>" in (cli.folder / "p.html").read_text()
    found = json.loads(cli("eval", built, "--data", data, "--json").stdout)
    assert found["images"] == 6
    speed = json.loads(cli("bench", built, "-c", photos, "--seconds", 0.2, "--json").stdout)
    assert set(speed["stages_ms"]) == {"decode", "preprocess", "inference", "postprocess"}
    assert set(speed["latency_ms"]) == {"p50", "p90", "p99"}


def test_the_gate_leaves_with_one(built: Path, photos: Path, cli: Cli) -> None:
    done = cli("verify", built, "-c", photos, "--min-match", 1, code=1)
    assert "FAILED on 6 images without labels" in done.stdout


BAD = {
    "no file": (["build", "none.onnx", "-c", "{photos}"], 2, "cannot read none.onnx"),
    "not onnx": (["build", "{text}", "-c", "{photos}"], 2, "not a readable ONNX|no ONNX graph"),
    "no photos": (["build", "{tiny}"], 2, "no calibration images"),
    "empty folder": (["build", "{tiny}", "-c", "{empty}"], 2, "no images in"),
    "no target": (["build", "{tiny}", "-c", "{photos}", "-t", "x"], 2, "allowed are cpu"),
    "bad size": (["build", "{tiny}", "-c", "{photos}", "--imgsz", "big"], 2, "not a size"),
    "bad mean": (["build", "{tiny}", "-c", "{photos}", "--mean", "a"], 2, "one number or three"),
    "bad option": (["build", "{tiny}", "--nonsense"], 2, "No such option"),
    "bad labels": (["build", "{tiny}", "-c", "{photos}", "--labels", "a,b"], 2, "has 5 classes"),
    "bad node": (["build", "{tiny}", "-c", "{photos}", "--end-nodes", "x"], 3, "no node x"),
    "bad layer": (["build", "{tiny}", "-c", "{photos}", "--keep-float", "x"], 2, "has no layer x"),
    "cannot write": (["build", "{tiny}", "-c", "{photos}", "-o", "no/x.onchip"], 2, "cannot write"),
    "a folder": (["build", "{tiny}", "-c", "{photos}", "-o", "{empty}"], 2, "is a folder"),
    "not ours": (
        ["build", "{tiny}", "-c", "{photos}", "-o", "{text}"],
        2,
        "is not an .onchip file",
    ),
    "no verb": (["fly"], 2, "no verb called 'fly'"),
    "not an artifact": (["detect", "{text}", "{photos}"], 2, "no model that onchip can look"),
    "half an artifact": (["detect", "{half}", "{photos}"], 2, "not a whole .onchip file"),
    "no source": (["detect", "{built}", "none.jpg"], 2, "does not exist"),
    "no image": (["detect", "{built}", "{text}"], 2, "neither an image nor a video"),
    "no data": (["eval", "{built}"], 2, "no labelled images"),
    "no images": (["verify", "{built}"], 2, "no images to verify on"),
    "not yaml": (["eval", "{built}", "--data", "{text}"], 2, "no names and folders|not a YAML"),
    "classifier": (["build", "{classifier}", "-c", "{photos}"], 3, "as a classifier's"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(
    name: str,
    cli: Cli,
    tiny: Path,
    photos: Path,
    built: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    import re

    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.txt").write_text("just words\n")
    (folder / "half.onchip").write_bytes(built.read_bytes()[:999])
    (folder / "empty").mkdir()
    onnx.save(graphs.classifier(), folder / "classifier.onnx")
    places = {
        "tiny": tiny, "photos": photos, "built": built, "text": folder / "text.txt",
        "empty": folder / "empty", "classifier": folder / "classifier.onnx", "half": folder / "half.onchip",
    }  # fmt: skip
    arguments, code, text = BAD[name]
    filled = [a.format(**places) for a in arguments]
    done = cli(*filled, code=code)
    assert re.search(text, done.stderr), done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) <= 2
    failure = json.loads(cli(*filled, "--json", code=code).stdout)["error"]
    assert set(failure) == {"code", "message", "hint"}
    assert [p.name for p in cli.folder.iterdir()] == []
    assert (folder / "text.txt").read_text() == "just words\n"


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("9 0.5 0.5 0.1 0.1", "class 9, but there are 5"),
        ("0 50 50 10 10", "out of range"),
        ("0 0.5 0.5", "3 fields"),
        ("car 0.5 0.5 0.1 0.1", "not a label"),
    ],
)
def test_bad_labels(label: str, text: str, built: Path, photos: Path, cli: Cli) -> None:
    data = labelled(photos, cli.folder, label)
    assert text in cli("eval", built, "--data", data, code=2).stderr


def test_wrong_number_of_classes(built: Path, photos: Path, cli: Cli) -> None:
    data = labelled(photos, cli.folder)
    data.write_text("val: images\nnames: [a, b]\n")
    assert "2 classes, but the model has 5" in cli("eval", built, "--data", data, code=2).stderr


def test_unreadable_photos_are_left_out_and_said(tiny: Path, photos: Path, cli: Cli) -> None:
    mixed = cli.folder / "mixed"
    mixed.mkdir()
    for path in photos.glob("*.png"):
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "broken.jpg").write_bytes(b"\xff\xd8 half a photo")
    (mixed / "empty.png").write_bytes(b"")
    done = cli("build", tiny, "-c", mixed, "-o", "a.onchip")
    assert "2 calibration images were left out" in done.stdout
    for path in mixed.glob("[0-9]*"):
        path.unlink()
    done = cli("build", tiny, "-c", mixed, "-o", "b.onchip", code=2)
    assert "none of the 2 calibration images can be used" in done.stderr
    assert not (cli.folder / "b.onchip").exists()


def test_truncated_artifact_is_refused(built: Path, photos: Path, cli: Cli) -> None:
    (cli.folder / "half.onchip").write_bytes(built.read_bytes()[:5000])
    for verb in (
        ["detect", "half.onchip", photos],
        ["inspect", "half.onchip"],
        ["compile", "half.onchip"],
    ):
        assert "not a whole .onchip file" in cli(*verb, code=2).stderr


@pytest.mark.parametrize("after", [0.6, 1.2, 2.0, 3.0])
def test_interrupting_leaves_nothing_half_written(
    after: float, photos: Path, cli: Cli, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(graphs.yolov8(width=640, height=640), model)
    before = {p.name for p in tmp_path.iterdir()}
    command = [
        sys.executable,
        "-m",
        "onchip",
        "build",
        str(model),
        "-c",
        str(photos),
        "-o",
        "x.onchip",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT), errors
    left = {p.name for p in tmp_path.iterdir()} - before
    assert left <= {"x.onchip"}
    if left:
        load(tmp_path / "x.onchip")


def test_two_builds_into_one_path(tiny: Path, photos: Path, cli: Cli) -> None:
    command = [
        sys.executable,
        "-m",
        "onchip",
        "build",
        str(tiny),
        "-c",
        str(photos),
        "-o",
        "x.onchip",
    ]
    both = [subprocess.Popen(command, cwd=cli.folder, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    assert [p.name for p in cli.folder.iterdir()] == ["x.onchip"]
    assert "program" in load(cli.folder / "x.onchip").payloads


def test_no_colours_or_bars_when_piped(built: Path, photos: Path, cli: Cli) -> None:
    done = cli("verify", built, "-c", photos, code=None)  # random weights prove nothing
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_interrupting_while_a_library_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some turn Ctrl-C into an ImportError."""
    from onchip.cli import app

    def load(name: str) -> object:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr(app, "import_module", load)
    assert app.run(["targets"]) == 130

    def broken(name: str) -> object:
        raise ImportError("no such library")

    monkeypatch.setattr(app, "import_module", broken)
    with pytest.raises(ImportError, match="no such library"):
        app.run(["targets"])
