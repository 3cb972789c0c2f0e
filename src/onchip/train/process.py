"""Ultralytics in a process of its own, in onchip's own environment.

So its memory, threads, prints and settings stay apart, and it ends when onchip does.
"""

import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path

from onchip.errors import ToolError
from onchip.toolchains.install import Environment
from onchip.toolchains.worker import Worker

NAME = "Ultralytics"
OLDEST = (8, 4, 190)  # loads checkpoints restricted, and knows raw outputs of end-to-end networks
INSTALL = "pip install 'onchip[train]'"


@dataclass(frozen=True)
class Here(Environment):
    """The Python that onchip itself runs in."""

    @property
    def python(self) -> Path:
        """The interpreter."""
        return Path(sys.executable)

    @property
    def mend(self) -> str:
        """The command that installs what training needs."""
        return INSTALL


def check_installed() -> None:
    """Find out whether Ultralytics and PyTorch are here, without loading them.

    Raises:
        ToolError: one is missing, or too old.
    """
    for package, name in (("ultralytics", NAME), ("torch", "PyTorch")):
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise ToolError(
                f"training and export need {name}, which is not installed", f"install it: {INSTALL}"
            ) from error
        if package == "ultralytics" and _numbers(found) < OLDEST:
            least = ".".join(map(str, OLDEST))
            raise ToolError(
                f"{name} {found} is too old; {least} or newer is needed",
                "renew it: pip install --upgrade ultralytics",
            )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> _numbers("8.4.190rc1")
    (8, 4, 190)
    """
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def start(*, online: bool = False) -> Worker:
    """Start it; `online` lets it fetch weights.

    Raises:
        ToolError: it is not installed, or does not start.
    """
    check_installed()
    here = Here("ultralytics", importlib.metadata.version("ultralytics"), Path(sys.prefix))
    settings = {"YOLO_OFFLINE": "0" if online else "1"}
    return Worker(here, Path(__file__).with_name("inside.py"), NAME, settings=settings)
