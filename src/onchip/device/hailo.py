"""What is there of Hailo on this machine: chip, driver, firmware, library, Python package.

HailoRT's driver and library run only with each other's exact version, the firmware must be of the
library's major and minor one, and the Python package is linked to one library. None of Hailo's
software is needed to look.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onchip.device import Check, Place, Probe
from onchip.formats import hef
from onchip.formats.hailo_versions import spans, table
from onchip.formats.hef import HefFile
from onchip.formats.versions import minor, number
from onchip.toolchains.known import find

VENDOR = "0x1e60"
CHIPS = {  # the PCI device: what it is called, and its driver (from the drivers' sources)
    "0x2864": ("Hailo-8 or 8L", "hailo_pci"),
    "0x45c4": ("Hailo-10H", "hailo1x_pci"),
    "0x43a2": ("Hailo-15L", "hailo1x_pci"),
    "0x26a2": ("Hailo-12L", "hailo1x_pci"),
}
DRIVERS = ("hailo_pci", "hailo1x_pci")
LIBRARIES = ("lib", "lib/*", "usr/lib", "usr/lib/*", "usr/local/lib", "opt/hailo/lib")
IDENTIFY, VERSION = "hailortcli fw-control identify", "hailortcli --version"
NODES = ("dev/hailo[0-9]*", "dev/h1x-[0-9]*")
WANTS = {
    "texts": [
        "sys/bus/pci/devices/*/vendor",
        "sys/bus/pci/devices/*/device",
        *(f"sys/module/{m}/version" for m in DRIVERS),
    ],
    "nodes": [*NODES],
    "names": [f"{folder}/libhailort.so.*" for folder in LIBRARIES],
    "packages": ["hailort"],
    "programs": [[IDENTIFY.split(), [*NODES]], [VERSION.split(), []]],
}
BOOT = "check the cable and its seat; on a Raspberry Pi 5: dtparam=pciex1, then restart"


@dataclass(frozen=True)
class Found:
    """What is there. Versions are "" where a thing is missing.

    `chips` are PCI addresses with devices, `drivers` modules with versions, `nodes` device files
    and whether this user may open them. `chip` and `firmware` are what the chip itself says,
    `refusal` what hailortcli said instead. `elsewhere` is the package of the system's Python, where
    onchip's own has none.
    """

    chips: tuple[tuple[str, str], ...] = ()
    drivers: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[tuple[str, bool], ...] = ()
    libraries: tuple[str, ...] = ()
    cli: str = ""
    chip: str = ""
    firmware: str = ""
    refusal: str = ""
    package: str = ""
    elsewhere: str = ""

    @property
    def anything(self) -> bool:
        """Whether there is anything at all of it."""
        return bool(
            self.chips or self.drivers or self.nodes or self.libraries or self.cli or self.package
        )

    @property
    def driver(self) -> str:
        """The version of the driver, where there is one only."""
        return next(iter(self.drivers.values())) if len(self.drivers) == 1 else ""

    @property
    def library(self) -> str:
        """The version of the library, where there is one only."""
        return self.libraries[0] if len(self.libraries) == 1 else ""


def look(place: Place) -> Found:
    """Look at everything; ask the chip too, where there is a driver and hailortcli."""
    facts = place.gather("hailo", WANTS)
    texts, programs, packages = facts["texts"], facts["programs"], facts["packages"]["hailort"]
    said = programs.get(IDENTIFY, "")
    package, elsewhere = place.package(packages)
    return Found(
        chips=tuple(_chips(texts)),
        drivers={m: v for m in DRIVERS if (v := texts.get(f"sys/module/{m}/version"))},
        nodes=tuple((f"/{node}", opens) for node, opens in facts["nodes"].items()),
        libraries=_libraries(facts["names"]),
        cli=_match(r"version (\d+\.\d+\.\d+)", programs.get(VERSION, "")),
        chip=_match(r"Device Architecture: (\w+)", said),
        firmware=_match(r"Firmware Version: (\d+\.\d+\.\d+)", said),
        refusal="" if "Firmware Version:" in said else said,
        package=package,
        elsewhere=elsewhere,
    )


class Hailo(Probe):
    """What is there of Hailo."""

    key = "hailo"
    wants = WANTS
    title = "Hailo"
    suffix = ".hef"
    runtime = "hailort"

    def __init__(self, place: Place) -> None:
        self.found = look(place)

    def checks(self) -> tuple[Check, ...]:
        """Say what is there, and what does not fit."""
        found = self.found
        if not found.anything:
            return ()
        judges = (_chip, _driver, _device, _library, _firmware, _python)
        return tuple(judge(found) for judge in judges)

    def compiled(self, name: str, file: Path | bytes) -> tuple[Check, ...]:
        """Say what a `.hef` is for, and whether this machine runs it."""
        read = hef.read(file) if isinstance(file, Path) else hef.parse(file, name)
        return (
            _made(name, read),
            _fits_chip(name, read, self.found),
            _fits_library(name, read, self.found),
        )


def _made(name: str, file: HefFile) -> Check:
    arch = table().arch_of(file.arch)
    text = arch.prints if arch else f"an unknown chip ({file.arch})"
    text += f", by compiler {file.compiler or 'unknown'}"
    if file.header.good and file.complete:
        return Check("built for", text)
    damage = "its checksum is wrong" if file.header.good is False else "it is cut off"
    problem = f"{name} is damaged: {damage}"
    return Check("built for", text, "error", problem, "copy it again, or build it again")


def _fits_chip(name: str, file: HefFile, found: Found) -> Check:
    arch, chip = table().arch_of(file.arch), found.chip.partition("_")[0].lower()
    devices = ", ".join(arch.devices) if arch else ""
    if not arch or not chip or chip not in table().devices():
        return Check("runs on", devices or "unknown")
    if chip not in arch.devices:
        problem = f"{name} is built for {arch.prints}, and the chip here is a {found.chip}"
        return Check("runs on", devices, "error", problem, f"build it again: -t {chip}")
    if chip in arch.slower:
        problem = f"{name} is built for {arch.prints}, and runs on {found.chip} with less speed"
        return Check("runs on", devices, "warning", problem, f"build it again: -t {chip}")
    return Check("runs on", devices)


def _fits_library(name: str, file: HefFile, found: Found) -> Check:
    if not file.complete:
        return Check("runs with", "cannot be told")
    strict = file.compiler if file.strict else ""
    releases = table().loading(file.header.form, file.extensions, file.arch, strict)
    text = f"HailoRT {spans(releases)}" if releases else "no HailoRT that is known"
    minors = [minor(r.version) for r in releases]
    here, known = minor(found.library), [minor(r.version) for r in table().hailort]
    if not found.library or here not in known or here in minors:
        return Check("runs with", text)
    newer = bool(minors) and number(here) < min(map(number, minors))
    cure = "update driver and library together" if newer else "build it again with a newer compiler"
    problem = f"{name} runs with {text}, and here is {found.library}"
    return Check("runs with", text, "error", problem, cure)


def _chip(found: Found) -> Check:
    text = ", ".join(
        f"{CHIPS.get(device, (f'device {device}',))[0]} at {address}"
        for address, device in found.chips
    )
    if found.chip:
        text += f", says {found.chip}"
    if found.drivers and not found.chips and not found.nodes:
        return Check("chip", "none", "warning", "a driver is loaded, and no chip is there", BOOT)
    return Check("chip", text.removeprefix(", ") or "none on PCIe")


def _driver(found: Found) -> Check:
    text = ", ".join(f"{m} {v}" for m, v in found.drivers.items()) or "none"
    wanted = dict.fromkeys(CHIPS[d][1] for _, d in found.chips if d in CHIPS)
    missing = [m for m in wanted if m not in found.drivers]
    if found.chips and not found.drivers:
        load = f"sudo modprobe {missing[0] if missing else DRIVERS[0]}"
        return Check(
            "driver", text, "error", "the chip is there, but its driver is not loaded",
            f"{load}; if it is not there: sudo apt install hailo-all (Raspberry Pi), or Hailo's "
            "package hailort-pcie-driver; then restart",
        )  # fmt: skip
    if missing:
        return Check(
            "driver", text, "error",
            f"{text} is not the driver of this chip, which is {missing[0]}",
            "install that one; Hailo-8 and 8L take versions 4.x, the others 5.x",
        )  # fmt: skip
    spare = [m for m in found.drivers if wanted and m not in wanted]
    if spare:
        return Check(
            "driver", text, "warning", f"{spare[0]} is loaded too, and may take the chip",
            f"echo blacklist {spare[0]} | sudo tee /etc/modprobe.d/hailo.conf, and restart",
        )  # fmt: skip
    if found.driver and found.library and found.driver != found.library:
        return Check(
            "driver", text, "error",
            f"the driver is {found.driver} and the library {found.library}, and HailoRT runs only "
            "with equal ones",
            "install both of one version, and restart",
        )  # fmt: skip
    return Check("driver", text)


def _device(found: Found) -> Check:
    text = ", ".join(node for node, _ in found.nodes) or "none"
    closed = [node for node, opens in found.nodes if not opens]
    if closed:
        return Check(
            "device", text, "error", f"this user may not open {closed[0]}",
            "install the driver's udev rule (51-hailo-udev.rules); in a container: "
            f"--device {closed[0]}",
        )  # fmt: skip
    if found.chips and found.drivers and not found.nodes:
        return Check(
            "device", text, "error", "the driver made no device file: it did not start the chip",
            "the kernel says why: sudo dmesg | grep hailo | onchip doctor --log -; in a container: "
            "--device /dev/hailo0",
        )  # fmt: skip
    return Check("device", text)


def _library(found: Found) -> Check:
    text = ", ".join(f"libhailort {v}" for v in found.libraries) or "none"
    text += f", hailortcli {found.cli}" if found.cli else ""
    if len(found.libraries) > 1:
        return Check(
            "library", text, "warning", "there are several libraries: programs mix them up",
            "remove all but the one of the driver's version",
        )  # fmt: skip
    if found.library and found.cli and found.cli != found.library:
        return Check(
            "library", text, "error", "libhailort and hailortcli are of different versions",
            "two installs are mixed: remove one of them",
        )  # fmt: skip
    if found.chips and not found.libraries and not found.cli:
        return Check(
            "library", text, "error", "the chip is there, but HailoRT is not installed",
            "sudo apt install hailo-all (Raspberry Pi), or Hailo's package hailort of the "
            "driver's version",
        )  # fmt: skip
    return Check("library", text)


def _firmware(found: Found) -> Check:
    if found.firmware:
        if found.library and minor(found.firmware) != minor(found.library):
            return Check(
                "firmware", found.firmware, "error",
                f"the firmware is {found.firmware} and the library {found.library}",
                "install the driver's firmware, and switch the board off and on",
            )  # fmt: skip
        return Check("firmware", found.firmware)
    if not found.refusal:
        return Check("firmware", "not asked: hailortcli or the device is missing")
    known = find("hailort", found.refusal)
    if not known:
        last = found.refusal.strip().splitlines()[-1][:200]
        return Check(
            "firmware", "unknown", "error", f"hailortcli does not reach the chip: {last}",
            "sudo dmesg | grep hailo | onchip doctor --log -",
        )  # fmt: skip
    if known[0].code == "driver_version" and _driver(found).level == "error":
        return Check("firmware", "unknown, for the driver's version")
    return Check("firmware", "unknown", "error", known[0].message, known[0].cure)


def _python(found: Found) -> Check:
    text = f"hailort {found.package}" if found.package else "none"
    if found.package and found.library and found.package != found.library:
        return Check(
            "Python", text, "error",
            f"the Python package is {found.package} and the library {found.library}",
            "install HailoRT's wheel of the library's version",
        )  # fmt: skip
    if found.elsewhere:
        return Check(
            "Python", f"hailort {found.elsewhere}, of the system's Python", "warning",
            "onchip's Python does not see it",
            "install onchip into an environment that does: python3 -m venv --system-site-packages",
        )  # fmt: skip
    if found.nodes and not found.package:
        return Check(
            "Python", text, "warning", "onchip cannot run the chip without HailoRT's package",
            "sudo apt install python3-hailort (Raspberry Pi), or HailoRT's wheel of the library's "
            "version",
        )  # fmt: skip
    return Check("Python", text)


def _chips(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, text in texts.items():
        folder, _, file = name.rpartition("/")
        if file == "vendor" and text == VENDOR:
            yield folder.rpartition("/")[2], texts.get(f"{folder}/device", "")


def _libraries(names: Sequence[str]) -> tuple[str, ...]:
    found = {m[1] for n in names if (m := re.search(r"/libhailort\.so\.(\d+\.\d+\.\d+)$", n))}
    return tuple(sorted(found, key=number))


def _match(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""
