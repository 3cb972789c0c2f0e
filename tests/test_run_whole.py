"""From labelled photos to a trained, built and proven detector, by one command."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onchip.demo.scenes import LABELS, write

from conftest import Cli

pytestmark = pytest.mark.train

SCENES, SEED = 120, 820_000
UNSEEN, UNSEEN_SEED = 60, 830_000
TRAIN = """
model = "yolov8n.yaml"
width = {width}
epochs = {epochs}
batch = 8
imgsz = {imgsz}
set = {{ optimizer = "AdamW", lr0 = 0.01, warmup_epochs = 1, mosaic = 0, rect = true, cache = "ram" }}
"""


def project(folder: Path, count: int, epochs: int, width: float, imgsz: int) -> None:
    """Leave scenes and their project file."""
    write(folder / "scenes", count, SEED, "all")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(LABELS))
    (folder / "scenes/data.yaml").write_text(f"train: images/all\nnames:\n{names}")
    train = TRAIN.format(width=width, epochs=epochs, imgsz=imgsz)
    (folder / "onchip.toml").write_text(
        f'name = "scenes"\ndata = "scenes"\n[train]{train}[build]\ntargets = ["cpu", "hailo8l"]\n'
    )


def test_from_photos_to_a_proven_file(tmp_path: Path, cli: Cli) -> None:
    # enough to see something; benchmarks/train_scenes.py trains until it sees well
    project(tmp_path, SCENES, epochs=10, width=0.125, imgsz=320)
    done = json.loads(cli("run", "--json", timeout=1800).stdout)
    steps = ["check", "split", "train", "export", "calibrate", "build cpu", "verify cpu"]
    assert [s["name"] for s in done["steps"]][:7] == steps
    assert done["builds"][0]["verdict"] == "passed"
    made = tmp_path / "runs/onchip/scenes"
    run = tmp_path / "runs/detect/scenes"
    for name in ("weights/best.pt", "weights/last.pt", "results.csv", "results.png"):
        assert (run / name).is_file(), name
    page = (made / "report.html").read_text()
    assert page.count("<svg") >= 5  # curves and intervals
    assert "the whole" not in page and "epoch" in page

    # scenes that nothing has seen yet
    notes = write(tmp_path / "unseen", UNSEEN, UNSEEN_SEED, "val")
    proof = json.loads(cli("verify", made / "scenes.cpu.onchip", "--data", notes, "--json").stdout)
    rows = {row["stage"]: row for row in proof["stages"]}
    assert rows["original"]["map50"] >= 0.1
    assert rows["compiled"]["map50"] >= 0.1
    assert rows["compiled"]["drop"] <= 1.0

    again = json.loads(cli("run", "--json").stdout)
    assert all(s["skipped"] for s in again["steps"])
    assert again["builds"] == done["builds"]


def test_a_run_that_was_cut_off_in_training_goes_on_there(tmp_path: Path, cli: Cli) -> None:
    project(tmp_path, 24, epochs=6, width=0.0625, imgsz=96)
    text = (tmp_path / "onchip.toml").read_text()
    (tmp_path / "onchip.toml").write_text(f"{text}[verify]\nmax_drop = 100.0\nmin_match = 0.0\n")
    command = [sys.executable, "-m", "onchip", "run"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 3/6"):
            break
    os.killpg(process.pid, signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(120) == 130, said
    assert "Traceback" not in said
    rows = (tmp_path / "runs/detect/scenes/results.csv").read_text().splitlines()[1:]
    assert 2 <= len(rows) < 6

    done = cli("run", "--json", code=None)
    steps = {s["name"]: s for s in json.loads(done.stdout)["steps"]}
    assert steps["check"]["skipped"] and steps["split"]["skipped"]
    epochs = [int(n) for n in re.findall(r"^epoch (\d+)/6", done.stderr, re.M)]
    assert epochs[0] > 2 and epochs[-1] == 6
    assert steps["train"]["said"]["epochs"] == 6
    # other settings are another training, which leaves the first as it is
    before = (tmp_path / "runs/detect/scenes/weights/best.pt").read_bytes()
    text = (tmp_path / "onchip.toml").read_text().replace("epochs = 6", "epochs = 2")
    (tmp_path / "onchip.toml").write_text(text)
    cli("run", code=None)
    assert (tmp_path / "runs/detect/scenes/weights/best.pt").read_bytes() == before
    assert (tmp_path / "runs/detect/scenes-2/weights/best.pt").is_file()
