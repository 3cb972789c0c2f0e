"""What is there of Rockchip's NPU on this machine: chip, driver, library, Python package.

The driver is part of the board's kernel. The library should be of the version of the toolkit that
built a file; a much older one refuses the file. None of Rockchip's software is needed to look.
"""

import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from onchip.device import Check, Place, Probe
from onchip.formats import rknn
from onchip.formats.rknn import RknnFile
from onchip.formats.rknn_verdicts import runtime, verdicts
from onchip.formats.versions import minor, number

PACKAGE = "rknn-toolkit-lite2"
LIBRARIES = ("librknnrt.so", "librknnmrt.so")
FOLDERS = ("usr/lib", "usr/lib/*", "usr/lib64", "usr/local/lib", "lib", "oem/usr/lib")
SAYS = re.compile(rb"(?:librknnrt|librknnmrt|rknn runtime) version: ?(\d+\.\d+\.\d+)")
DRIVERS = ("proc/rknpu/version", "sys/kernel/debug/rknpu/version", "sys/module/rknpu/version")
OLD = "0.9.2"  # kernels before it know nothing of what librknnrt 2 asks for
GET = "https://github.com/airockchip/rknn-toolkit2, rknpu2/runtime"


@dataclass(frozen=True)
class Found:
    """What is there. Versions are "" where a thing is missing, or does not say.

    `chip` is what the board's device tree says, `nodes` the device files of the NPU and whether
    this user may open them, `libraries` paths and versions. `elsewhere` is the package of the
    system's Python, where onchip's own has none.
    """

    chip: str = ""
    npu: bool = False
    driver: str = ""
    nodes: tuple[tuple[str, bool], ...] = ()
    libraries: tuple[tuple[str, str], ...] = ()
    package: str = ""
    elsewhere: str = ""

    @property
    def anything(self) -> bool:
        """Whether there is anything at all of it."""
        return bool(self.chip or self.npu or self.libraries or self.package)

    @property
    def library(self) -> str:
        """The version of the library, where there is one only."""
        versions = {version for _, version in self.libraries}
        return versions.pop() if len(versions) == 1 else ""


def look(place: Place) -> Found:
    """Look at everything."""
    package = _package(place.packages)
    system = str(place.root / "usr/lib/python3/dist-packages")
    driver = next((v for file in DRIVERS if (v := _version(place.root / file))), "")
    nodes = tuple(_nodes(place.root))
    return Found(
        chip=_chip_of(place.root),
        npu=bool(driver or nodes),
        driver=driver,
        nodes=nodes,
        libraries=tuple(_libraries(place.root)),
        package=package,
        elsewhere="" if package else _package((system,)),
    )


class Rockchip(Probe):
    """What is there of Rockchip."""

    title = "Rockchip"
    suffix = ".rknn"
    runtime = "rknnrt"

    def __init__(self, place: Place) -> None:
        self.found = look(place)

    def checks(self) -> tuple[Check, ...]:
        """Say what is there, and what does not fit."""
        found = self.found
        if not found.anything:
            return ()
        return tuple(judge(found) for judge in (_chip, _driver, _device, _library, _python))

    def compiled(self, name: str, file: Path | bytes) -> tuple[Check, ...]:
        """Say what a `.rknn` is for, and whether this machine runs it."""
        read = rknn.read(file) if isinstance(file, Path) else rknn.parse(file, name)
        return (
            _made(name, read),
            _fits_chip(name, read, self.found),
            _fits_library(name, read, self.found),
        )


def _made(name: str, file: RknnFile) -> Check:
    text = (
        f"{', '.join(file.platforms) or 'an unknown chip'}, by {file.toolkit or 'an unknown SDK'}"
    )
    if file.complete:
        return Check("built for", text)
    cure = "copy it again, or build it again"
    return Check("built for", text, "error", f"{name} is damaged: it is cut off", cure)


def _fits_chip(name: str, file: RknnFile, found: Found) -> Check:
    text = ", ".join(file.platforms) or "unknown"
    wrong = [v for v in verdicts(file, found.chip) if v.code == "wrong_chip"] if found.chip else []
    if wrong:
        problem = f"{name} is built for {text}, and the chip here is a {found.chip}"
        return Check("runs on", text, "error", problem, f"build it again: -t {found.chip}")
    return Check("runs on", text)


def _fits_library(name: str, file: RknnFile, found: Found) -> Check:
    library, least = runtime(file)
    toolkit = ".".join(map(str, number(file.toolkit)))
    text = f"{library} {toolkit or least}".strip()
    here = found.library
    if not here:
        return Check("runs with", text)
    cure = f"replace the board's {library}.so by that of {toolkit or least} ({GET})"
    if least and number(here) < number(least):
        problem = f"{name} needs {library} {least} at least, and here is {here}"
        return Check("runs with", text, "error", problem, cure)
    if toolkit and minor(here) != minor(toolkit):
        problem = f"{name} was built by version {toolkit}, and {library} here is {here}"
        return Check("runs with", text, "warning", problem, f"{cure}, or build with -O sdk={here}")
    return Check("runs with", text)


def _chip(found: Found) -> Check:
    return Check("chip", found.chip or "none that the board names")


def _driver(found: Found) -> Check:
    if found.chip and not found.npu:
        return Check(
            "driver", "none", "error", "the board's kernel has no driver for its NPU",
            "take the board maker's image, or a kernel with CONFIG_ROCKCHIP_RKNPU",
        )  # fmt: skip
    if not found.driver:
        what = "there, its version is told to root only" if found.nodes else "not told"
        return Check("driver", what)
    if number(found.driver) < number(OLD) and found.library.startswith("2."):
        return Check(
            "driver", found.driver, "warning",
            f"the driver is {found.driver}, and librknnrt {found.library} wants {OLD} or later",
            "update the board's kernel",
        )  # fmt: skip
    return Check("driver", found.driver)


def _device(found: Found) -> Check:
    text = ", ".join(node for node, _ in found.nodes) or "none"
    closed = [node for node, opens in found.nodes if not opens]
    if closed:
        return Check(
            "device", text, "error", f"this user may not open {closed[0]}",
            f"sudo usermod -aG render,video $USER, and log in again; in a container: "
            f"--device {closed[0]}",
        )  # fmt: skip
    return Check("device", text)


def _library(found: Found) -> Check:
    text = ", ".join(f"{path} {v or 'of an unknown version'}" for path, v in found.libraries)
    if len({v for _, v in found.libraries}) > 1:
        return Check(
            "library", text, "warning", "there are several libraries: programs mix them up",
            "remove all but the newest",
        )  # fmt: skip
    if found.npu and not found.libraries:
        return Check(
            "library", "none", "error", "the NPU is there, but its library is not",
            f"copy librknnrt.so to /usr/lib ({GET})",
        )  # fmt: skip
    return Check("library", text or "none")


def _python(found: Found) -> Check:
    text = f"{PACKAGE} {found.package}" if found.package else "none"
    if found.elsewhere:
        return Check(
            "Python", f"{PACKAGE} {found.elsewhere}, of the system's Python", "warning",
            "onchip's Python does not see it", f"pip install {PACKAGE}, where onchip is installed",
        )  # fmt: skip
    if found.npu and not found.package:
        return Check(
            "Python", text, "warning", "onchip cannot run the NPU without Rockchip's package",
            f"pip install {PACKAGE}",
        )  # fmt: skip
    if found.package and found.library and minor(found.package) != minor(found.library):
        return Check(
            "Python", text, "warning",
            f"the Python package is {found.package} and the library {found.library}",
            f"pip install {PACKAGE}=={found.library}",
        )  # fmt: skip
    return Check("Python", text)


def _chip_of(root: Path) -> str:
    """Return the chip that the device tree names last: "radxa,rock-5b", then "rockchip,rk3588"."""
    words = _bytes(root / "proc/device-tree/compatible").split(b"\0")
    names = [
        w.partition(b",")[2].decode(errors="replace") for w in words if w.startswith(b"rockchip,")
    ]
    return next((name for name in reversed(names) if re.fullmatch(r"r[kv]\d{4}\w{0,2}", name)), "")


def _nodes(root: Path) -> Iterator[tuple[str, bool]]:
    found = [root / "dev/rknpu"] if (root / "dev/rknpu").exists() else []
    for card in sorted(root.glob("sys/class/drm/renderD*")):
        if b"rknpu" in _bytes(card / "device/uevent").lower():
            found.append(root / "dev/dri" / card.name)
    for path in found:
        yield f"/{path.relative_to(root)}", os.access(path, os.R_OK | os.W_OK)


def _libraries(root: Path) -> Iterator[tuple[str, str]]:
    seen: set[Path] = set()
    for folder in FOLDERS:
        for name in LIBRARIES:
            for path in sorted(root.glob(f"{folder}/{name}")):
                if path.is_file() and (real := path.resolve()) not in seen:
                    seen.add(real)
                    yield f"/{path.relative_to(root)}", _says(path)


def _says(path: Path) -> str:
    """Return the version that a library's own text says."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            match = SAYS.search(data)
            return match[1].decode() if match else ""
    except (OSError, ValueError):  # not readable, or empty
        return ""


def _package(places: tuple[str, ...]) -> str:
    found = distributions(name=PACKAGE, path=list(places))
    return next((d.version for d in found if d.version), "")


def _version(path: Path) -> str:
    match = re.search(rb"(\d+\.\d+\.\d+)", _bytes(path))
    return match[1].decode() if match else ""


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""
