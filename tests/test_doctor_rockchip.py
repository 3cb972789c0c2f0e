"""The doctor on boards with a Rockchip NPU, as far as their files tell; made in tests, none was real."""

from collections.abc import Callable
from pathlib import Path

import pytest

from onchip.device import Check, Place
from onchip.device.rockchip import Rockchip, look

COMPATIBLE = b"radxa,rock-5b\0rockchip,rk3588\0"


class Machine:
    """A board's files of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.root, self.site = folder / "root", folder / "site"
        self.place = Place(self.root, "", (str(self.site),))

    def file(self, path: str, data: bytes = b"") -> Path:
        made = self.root / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(data)
        return made

    def library(self, version: str, path: str = "usr/lib/librknnrt.so") -> None:
        text = f"librknnrt version: {version} (429f97ae6b@2025-04-09T09:09:27)".encode()
        self.file(path, b"\x7fELF" + bytes(5000) + text + bytes(100))

    def package(self, version: str, site: Path | None = None) -> None:
        info = (site or self.site) / f"rknn_toolkit_lite2-{version}.dist-info"
        info.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: rknn-toolkit-lite2\nVersion: {version}\n"
        (info / "METADATA").write_text(text)

    def checks(self) -> dict[str, Check]:
        return {c.name: c for c in Rockchip(self.place).checks()}

    def wrong(self) -> dict[str, str]:
        """What is wrong, by the check that says so."""
        return {n: f"{c.level}: {c.problem}" for n, c in self.checks().items() if c.problem}


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.root.mkdir()
    machine.site.mkdir()
    return machine


@pytest.fixture
def board(bare: Machine) -> Machine:
    """A Rock 5B on which all is well."""
    bare.file("proc/device-tree/compatible", COMPATIBLE)
    bare.file("sys/kernel/debug/rknpu/version", b"RKNPU driver: v0.9.8\n")
    bare.file("sys/class/drm/renderD129/device/uevent", b"DRIVER=RKNPU\nOF_NAME=npu\n")
    bare.file("sys/class/drm/renderD128/device/uevent", b"DRIVER=panthor\n")
    bare.file("dev/dri/renderD128")
    bare.file("dev/dri/renderD129")
    bare.library("2.3.2")
    bare.package("2.3.2")
    return bare


def test_all_is_well(board: Machine) -> None:
    assert board.wrong() == {}
    assert {n: c.found for n, c in board.checks().items()} == {
        "chip": "rk3588",
        "driver": "0.9.8",
        "device": "/dev/dri/renderD129",
        "library": "/usr/lib/librknnrt.so 2.3.2",
        "Python": "rknn-toolkit-lite2 2.3.2",
    }


def test_nothing_is_there(bare: Machine) -> None:
    assert bare.checks() == {}
    bare.file("proc/device-tree/compatible", b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert bare.checks() == {}


def test_the_version_of_the_driver_is_told_to_root_only(board: Machine) -> None:
    (board.root / "sys/kernel/debug/rknpu/version").unlink()
    assert board.wrong() == {} and "root only" in board.checks()["driver"].found


def no_driver(board: Machine) -> None:
    (board.root / "sys/kernel/debug/rknpu/version").unlink()
    (board.root / "sys/class/drm/renderD129/device/uevent").write_bytes(b"DRIVER=mali\n")


def old_driver(board: Machine) -> None:
    board.file("sys/kernel/debug/rknpu/version", b"RKNPU driver: v0.8.2\n")


def no_library(board: Machine) -> None:
    (board.root / "usr/lib/librknnrt.so").unlink()


def two_libraries(board: Machine) -> None:
    board.library("1.5.2", "usr/local/lib/librknnrt.so")


def no_package(board: Machine) -> None:
    next(board.site.iterdir()).rename(board.root / "elsewhere")


def package_of_the_system(board: Machine) -> None:
    no_package(board)
    board.package("2.3.2", board.root / "usr/lib/python3/dist-packages")


def other_package(board: Machine) -> None:
    board.library("1.6.0")


@pytest.mark.parametrize(
    ("change", "check", "says"),
    [
        (no_driver, "driver", "error: the board's kernel has no driver"),
        (old_driver, "driver", "warning: the driver is 0.8.2, and librknnrt 2.3.2 wants 0.9.2"),
        (no_library, "library", "error: the NPU is there, but its library is not"),
        (two_libraries, "library", "warning: there are several libraries"),
        (no_package, "Python", "warning: onchip cannot run the NPU"),
        (package_of_the_system, "Python", "warning: onchip's Python does not see it"),
        (other_package, "Python", "warning: the Python package is 2.3.2 and the library 1.6.0"),
    ],
)
def test_one_thing_is_wrong(
    change: Callable[[Machine], None], check: str, says: str, board: Machine
) -> None:
    change(board)
    wrong = board.wrong()
    assert wrong.pop(check).startswith(says) and wrong == {}
    assert board.checks()[check].cure


def test_a_device_that_this_user_may_not_open(
    board: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert board.wrong() == {"device": "error: this user may not open /dev/dri/renderD129"}
    assert "render" in board.checks()["device"].cure


def test_a_library_that_does_not_say_its_version(board: Machine) -> None:
    board.file("usr/lib/librknnrt.so", b"")
    assert look(board.place).libraries == (("/usr/lib/librknnrt.so", ""),)
    assert board.wrong() == {}


@pytest.mark.data
def test_a_file_for_this_board_and_one_for_another(board: Machine, data: Path) -> None:
    path = data / "rknn" / "yolov8n_rk3566.rknn"
    checks = {c.name: c for c in Rockchip(board.place).compiled(path.name, path)}
    assert checks["runs on"].problem.endswith("and the chip here is a rk3588")
    board.file("proc/device-tree/compatible", b"radxa,zero3\0rockchip,rk3566\0")
    board.library("2.5.0")
    checks = {c.name: c for c in Rockchip(board.place).compiled(path.name, path)}
    assert not any(c.level == "error" for c in checks.values())
    board.library("1.4.0")
    checks = {c.name: c for c in Rockchip(board.place).compiled(path.name, path)}
    assert checks["runs with"].level == "error" and "1.5.2 at least" in checks["runs with"].problem
    half = path.read_bytes()[: path.stat().st_size // 2]
    (made, *_) = Rockchip(board.place).compiled(path.name, half)
    assert made.level == "error" and "cut off" in made.problem
