"""The commands of the page on data sets run as they stand, and it names every kind of finding."""

import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

from onchip.dataset.findings import kinds
from onchip.demo import scenes
from test_docs import ROOT, commands, python_blocks, run

PAGE = ROOT / "docs" / "dataset.md"


def test_every_command_runs(tmp_path: Path) -> None:
    scenes.write(tmp_path, 80, 1000, "train")
    scenes.write(tmp_path, 20, 9000, "val")
    with as_file(files("onchip.demo") / "detector.onnx") as model:
        shutil.copy(model, tmp_path / "best.onnx")
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in [*tmp_path.glob("images/train/*"), *tmp_path.glob("labels/train/*")]:
        shutil.copy(path, photos)
    labels = tmp_path / "labels/train/001000.txt"
    labels.write_text(labels.read_text() + "0 0.98 0.06 0.1 0.1\n")
    lines = commands(PAGE)
    assert len(lines) >= 12
    for line in lines:
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert labels.read_text().endswith("0 0.98 0.06 0.1 0.1\n")  # mended, and put back
    for block in python_blocks(PAGE):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout == "True []\n", done.stderr


def test_every_kind_is_named() -> None:
    text = PAGE.read_text()
    assert not [code for code in kinds() if f"`{code}`" not in text]
