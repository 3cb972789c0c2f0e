"""Every command in the tutorial and the README is run, in order, in one folder."""

import re
import shlex
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

import av
import cv2
import pytest

from onchip.demo.scenes import write
from onchip.targets.target import get
from onchip.watch.config import parse

ROOT = Path(__file__).parents[1]


def commands(path: Path) -> list[str]:
    """The lines after `$` in console blocks, without comments."""
    blocks = re.findall(r"```console\n(.*?)```", path.read_text(), re.DOTALL)
    lines = [line[2:].split("  #")[0].strip() for b in blocks for line in b.splitlines()]
    return [line for line in lines if line]


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    parts = shlex.split(command)
    assert parts[0] == "onchip", command
    full = [sys.executable, "-m", "onchip", *parts[1:]]
    return subprocess.run(full, cwd=folder, capture_output=True, text=True, timeout=600)


def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    lines = commands(ROOT / "docs" / "tutorial.md")
    assert len(lines) >= 10
    for line in lines:
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    for block in python_blocks(ROOT / "docs" / "tutorial.md"):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "car" in done.stdout or "sign" in done.stdout or "person" in done.stdout


def clip_of(photos: list[Path], path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 480, 270, "yuv420p"
        for photo in photos:
            image = cv2.resize(cv2.imread(str(photo)), (480, 270))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        container.mux(stream.encode(None))


def test_the_readme_runs_with_a_model_of_that_name(tmp_path: Path) -> None:
    with as_file(files("onchip.demo") / "detector.onnx") as model:
        (tmp_path / "best.onnx").write_bytes(model.read_bytes())
    write(tmp_path, 24, 1000, "train")
    write(tmp_path, 24, 2000, "val")
    (tmp_path / "photos").symlink_to(tmp_path / "images" / "train")
    frames = sorted((tmp_path / "images" / "val").glob("*.jpg"))[:5]
    (tmp_path / "photo.jpg").write_bytes(frames[0].read_bytes())
    clip_of(frames, tmp_path / "clip.mp4")
    for line in commands(ROOT / "README.md"):
        if line.startswith("make "):  # what runs this test
            continue
        if "-t rk3588" in line and not get("rk3588").version():  # the SDK is not installed
            continue
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "seen" / "clip.mp4").exists()
    for block in python_blocks(ROOT / "README.md"):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_the_demo_catches_the_broken_build(tmp_path: Path) -> None:
    import json

    done = run("onchip demo -o again --json", tmp_path)
    story = json.loads(done.stdout)
    assert story["good"]["passed"]
    assert story["good"]["stages"][-1]["drop"] < 1.5
    assert not story["broken"]["passed"]
    assert [c["code"] for c in story["broken"]["causes"]] == ["preprocessing", "shared_scale"]
    assert "rgb instead of bgr" in story["broken"]["causes"][0]["message"]
    for name in ("good.html", "broken.html", "good.jpg", "broken.jpg", "detector.onchip"):
        assert (tmp_path / "again" / name).stat().st_size > 10_000


def test_links_in_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_the_hailo_page_runs_with_stand_ins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The PC's half with the compiler's stand-in, the board's half with the runtime's."""
    import hailo_wheels

    with as_file(files("onchip.demo") / "detector.onnx") as model:
        (tmp_path / "best.onnx").write_bytes(model.read_bytes())
    write(tmp_path, 8, 1000, "train")
    write(tmp_path, 8, 2000, "val")
    (tmp_path / "photos").symlink_to(tmp_path / "images" / "train")
    photo = min((tmp_path / "images" / "val").glob("*.jpg"))
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    hailo_wheels.dfc_wheel(tmp_path)
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", str(tmp_path / "toolchains"))
    lines = commands(ROOT / "docs" / "targets" / "hailo.md")
    board = next(i for i, line in enumerate(lines) if line.startswith("onchip doctor"))
    for line in lines[:board]:
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "hailo" / "model.alls").exists()
    monkeypatch.setenv("PYTHONPATH", str(hailo_wheels.STANDINS))
    monkeypatch.setenv("HAILO_STANDIN_DEVICES", "0000:01:00.0=hailo8l")
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", str(tmp_path / "none"))  # a board has none
    for line in lines[board:]:
        done = run(line, tmp_path)
        healthy = "doctor" not in line  # which looks for a real chip
        assert done.returncode == 0 or not healthy, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "device" in done.stdout
    for block in python_blocks(ROOT / "docs" / "targets" / "hailo.md"):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout, done.stderr


def test_the_page_for_the_phone_is_true(tmp_path: Path) -> None:
    """Its files are taken by the parser, and the trial watches what it says."""
    text = (ROOT / "docs" / "phone.md").read_text()
    tables = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    trial, real, page, mqtt = tables
    (tmp_path / "page.password").write_text("a long password\n")
    secrets = {"FRONT_PASSWORD": "p@ss/word", "MQTT_PASSWORD": "x"}
    whole = parse(real + page + mqtt, tmp_path / "cameras.toml", secrets)
    assert [camera.name for camera in whole.cameras] == ["front"] and whole.mqtt is not None

    with as_file(files("onchip.demo") / "detector.onnx") as model:
        (tmp_path / "best.onnx").write_bytes(model.read_bytes())
    write(tmp_path, 24, 1000, "train")
    built = run("onchip build best.onnx -t cpu -c images/train -o best.onchip", tmp_path)
    assert built.returncode == 0, built.stderr
    clip_of(sorted((tmp_path / "images" / "train").glob("*.jpg"))[:8], tmp_path / "clip.mp4")
    (tmp_path / "cameras.toml").write_text(trial)
    (line,) = commands(ROOT / "docs" / "phone.md")
    done = run(line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trial" in done.stdout and "clip.mp4" in done.stdout
