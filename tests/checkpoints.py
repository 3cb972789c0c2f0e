"""Checkpoints made by hand, as `torch.save` lays them out, and what their tests share."""

import pickle
import zipfile
from pathlib import Path

import pytest

from onchip.errors import ToolError
from onchip.train import process

# modules and names that an Ultralytics detector imports
DETECTOR = (
    "collections OrderedDict",
    "torch HalfStorage",
    "torch._utils _rebuild_tensor_v2",
    "torch.nn.modules.conv Conv2d",
    "ultralytics.nn.modules.conv Conv",
    "ultralytics.nn.modules.head Detect",
    "ultralytics.nn.tasks DetectionModel",
)


def importing(*names: str) -> bytes:
    """A pickle that imports each "module name" and calls nothing."""
    parts = [b"\x80\x02"]
    parts += [f"c{m}\n{n}\n".encode() for m, _, n in (x.partition(" ") for x in names)]
    return b"".join([*parts, b"N."])


def calling(function: object, *arguments: object, protocol: int = 2) -> bytes:
    """A pickle that calls a function when it is loaded."""

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return function, arguments

    return pickle.dumps(Trap(), protocol)


def checkpoint(path: Path, data: bytes = importing(*DETECTOR), **more: bytes) -> Path:
    """Write a checkpoint with that pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("best/data.pkl", data)
        archive.writestr("best/version", b"3\n")
        archive.writestr("best/data/0", bytes(64))
        for name, content in more.items():
            archive.writestr(f"best/{name}", content)
    return path


def at_home(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Note what is noted of the user below a folder."""
    for name in ("DATA", "CACHE", "STATE", "CONFIG"):
        patch.setenv(f"XDG_{name}_HOME", str(folder / "home"))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is noted in the user's own folders."""
    at_home(monkeypatch, tmp_path)


@pytest.fixture(scope="session")
def ultralytics() -> None:
    """Ultralytics; tests that need it are skipped without it."""
    try:
        process.check_installed()
    except ToolError as error:
        pytest.skip(f"{error}; {error.hint}")
