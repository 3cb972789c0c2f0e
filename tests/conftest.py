"""What tests share: the real models and images, a tiny detector, and a built artifact."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from onchip.errors import ToolError
from onchip.toolchains import install

import forked
import graphs

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "src" / "onchip" / "demo" / "detector.onnx"


collect_ignore = [
    "standins",
    "rtsp_server.py",
    "frigate_child.py",
    "frigate_detect_child.py",
]  # they are for processes and tests that ask for them


def pytest_configure() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real models and images; tests that need it are skipped without it."""
    folder = Path(os.environ.get("ONCHIP_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "models").is_dir():
        text = f"the real models and images are not here ({folder}); set ONCHIP_DATA"
        if os.environ.get("ONCHIP_REQUIRE_DATA"):
            pytest.fail(text)
        pytest.skip(text)
    return folder


@pytest.fixture(scope="session")
def sdk() -> None:
    """Rockchip's SDK; tests that need it are skipped without it."""
    try:
        install.ready("rknn")
    except ToolError as error:
        if os.environ.get("ONCHIP_REQUIRE_DATA"):
            pytest.fail(str(error))
        pytest.skip(f"{error}; {error.hint}")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little YOLOv8-like detector of random weights."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(graphs.yolov8(), path)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noise photos of several sizes."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(6):
        shape = (60 + 10 * number, 100 - 8 * number, 3)
        small = random.integers(0, 255, (6, 6, 3), np.uint8)
        image = cv2.resize(small, shape[1::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window, for what a person does on a page."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


class Cli:
    """Runs the command line in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, *arguments: object, code: int | None = 0, timeout: int = 600
    ) -> subprocess.CompletedProcess[str]:
        done = forked.run([str(a) for a in arguments], self.folder, timeout)
        assert code in (None, done.returncode), f"{done.args}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos for the demo's detector."""
    from onchip.demo.scenes import write
    from onchip.vision.preprocess import find_images

    folder = tmp_path_factory.mktemp("scenes")
    write(folder, 16, 800_000, "train")
    return find_images(folder / "images" / "train")


@pytest.fixture(scope="session")
def parsed(scenes: list[Path]) -> Any:
    """The demo's detector, parsed for the CPU."""
    from onchip.build import parse

    return parse(DEMO, "cpu", scenes)


@pytest.fixture(scope="session")
def built(tiny: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The little detector built for the CPU."""
    folder = tmp_path_factory.mktemp("built")
    Cli(folder)("build", tiny, "-c", photos, "-o", folder / "tiny.onchip")
    return folder / "tiny.onchip"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line, in an empty folder."""
    return Cli(tmp_path)


@pytest.fixture(scope="session")
def hailo_toolchains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of toolchains with stand-ins for both lines of Hailo's compiler, from wheels."""
    import hailo_wheels

    home, wheels = tmp_path_factory.mktemp("toolchains"), tmp_path_factory.mktemp("wheels")
    before = os.environ.get("ONCHIP_TOOLCHAINS")
    os.environ["ONCHIP_TOOLCHAINS"] = str(home)
    try:
        for version in ("3.33.1", "5.2.0"):
            install.install("hailo", wheel=hailo_wheels.dfc_wheel(wheels, version))
    finally:
        del os.environ["ONCHIP_TOOLCHAINS"]
        if before is not None:
            os.environ["ONCHIP_TOOLCHAINS"] = before
    return home


@pytest.fixture
def compiler(hailo_toolchains: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Hailo's compiler, played by its stand-in; a test steers it by HAILO_STANDIN_ variables."""
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", str(hailo_toolchains))
    return monkeypatch


@pytest.fixture
def hailort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """HailoRT and a Hailo-8L, played by their stand-in."""
    import hailo_wheels

    monkeypatch.syspath_prepend(str(hailo_wheels.STANDINS))
    monkeypatch.setenv("HAILO_STANDIN_DEVICES", "0000:01:00.0=hailo8l")
    monkeypatch.setenv("HAILO_STANDIN_STATE", str(tmp_path))
    yield monkeypatch
    for name in [n for n in sys.modules if n.partition(".")[0] in ("hailo_platform", "tensorflow")]:
        del sys.modules[name]
