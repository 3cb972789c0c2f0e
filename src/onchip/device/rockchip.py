"""What is there of Rockchip's NPU on this machine: chip, driver, library, Python package.

The driver is part of the board's kernel. The library should be of the version of the toolkit that
built a file; a much older one refuses the file. None of Rockchip's software is needed to look.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from onchip.device import Check, Place, Probe
from onchip.formats import rknn
from onchip.formats.rknn import RknnFile
from onchip.formats.rknn_verdicts import runtime, verdicts
from onchip.formats.versions import minor, number

PACKAGE = "rknn-toolkit-lite2"
LIBRARIES = ("librknnrt.so", "librknnmrt.so")
FOLDERS = ("usr/lib", "usr/lib/*", "usr/lib64", "usr/local/lib", "oem/usr/lib")
SAYS = r"(?:librknnrt|librknnmrt|rknn runtime) version: ?(\d+\.\d+\.\d+)"  # in their own text
DRIVERS = ("proc/rknpu/version", "sys/kernel/debug/rknpu/version", "sys/module/rknpu/version")
TREE, DRM = "proc/device-tree/compatible", "sys/class/drm/"
KEY = "rockchip"
WANTS = {
    "texts": [TREE, *DRIVERS, f"{DRM}renderD*/device/uevent"],
    "nodes": ["dev/rknpu", "dev/dri/renderD*"],
    "searched": [[f"{folder}/{name}", SAYS] for folder in FOLDERS for name in LIBRARIES],
    "packages": [PACKAGE],
}
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
    facts = place.gather(KEY, WANTS)
    texts, packages = facts["texts"], facts["packages"][PACKAGE]
    package, elsewhere = place.package(packages)
    driver = next((v for file in DRIVERS if (v := _version(texts.get(file, "")))), "")
    nodes = tuple(_nodes(texts, facts["nodes"]))
    return Found(
        chip=_chip_of(texts.get(TREE, "")),
        npu=bool(driver or nodes),
        driver=driver,
        nodes=nodes,
        libraries=tuple((f"/{path}", said) for path, said in facts["searched"].items()),
        package=package,
        elsewhere=elsewhere,
    )


class Rockchip(Probe):
    """What is there of Rockchip."""

    key = KEY
    wants = WANTS
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


def _chip_of(compatible: str) -> str:
    """Return the chip that the device tree names last: "radxa,rock-5b", then "rockchip,rk3588"."""
    names = [word.removeprefix("rockchip,") for word in compatible.split("\0")]
    return next((name for name in reversed(names) if re.fullmatch(r"r[kv]\d{4}\w{0,2}", name)), "")


def _nodes(texts: Mapping[str, str], nodes: Mapping[str, bool]) -> Iterator[tuple[str, bool]]:
    cards = {
        n.split("/")[3]
        for n, text in texts.items()
        if n.startswith(DRM) and "RKNPU" in text.upper()
    }
    for node, opens in nodes.items():
        if node == "dev/rknpu" or node.rpartition("/")[2] in cards:
            yield f"/{node}", opens


def _version(text: str) -> str:
    match = re.search(r"(\d+\.\d+\.\d+)", text)
    return match[1] if match else ""
