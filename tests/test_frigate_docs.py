"""The pages on Frigate: every command in them is run, as far as stand-ins and SDKs reach."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from onchip.demo.scenes import write
from onchip.targets.target import get
from test_docs import ROOT, commands, run

CONFIG = """\
mqtt: {enabled: false}
cameras:
  door: {ffmpeg: {inputs: [{path: 'rtsp://10.0.0.5/s', roles: [detect]}]}}
objects: {track: [car]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a best.onnx, photos and their data.yaml."""
    with as_file(files("onchip.demo") / "detector.onnx") as model:
        (tmp_path / "best.onnx").write_bytes(model.read_bytes())
    write(tmp_path, 8, 1000, "train")
    write(tmp_path, 8, 2000, "val")
    (tmp_path / "photos").symlink_to(tmp_path / "images" / "train")
    return tmp_path


def walk(page: str, folder: Path) -> None:
    """Run a page's commands; what it tells to paste is pasted."""
    lines = commands(ROOT / "docs" / page)
    assert len(lines) > 4
    for line in lines:
        if line.startswith("cat "):
            pasted = (folder / line.removeprefix("cat ")).read_text()
            (folder / "config.yml").write_text(CONFIG + pasted)
            continue
        if "frigate check" in line and not (folder / "config.yml").exists():
            pasted = (folder / "frigate" / "frigate.yml").read_text()
            (folder / "config.yml").write_text(CONFIG + pasted)
            shutil.copytree(folder / "frigate", folder / "onchip", dirs_exist_ok=True)
        done = run(line, folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_the_page_on_frigate(folder: Path) -> None:
    walk("frigate.md", folder)


def test_the_page_on_a_pi(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hailo_wheels

    hailo_wheels.dfc_wheel(folder)
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", str(folder / "toolchains"))
    walk("pi-hailo.md", folder)


@pytest.mark.rknn
def test_the_page_on_an_rk3588(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not get("rk3588").version():
        pytest.skip("Rockchip's SDK is not installed: onchip toolchain install rknn")
    walk("rk3588.md", folder)
