"""The machine that runs it all: what is there, and whether it fits together."""

import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Place:
    """Where to look: the root of the files, where programs are (as PATH), and Python's packages."""

    root: Path = Path("/")
    path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    packages: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, and what is wrong with it, if anything is."""

    name: str
    found: str
    level: Literal["info", "warning", "error"] = "info"
    problem: str = ""
    cure: str = ""


class Probe(ABC):
    """Looks at what is there of one vendor, once, when it is made.

    `suffix` is of the vendor's compiled files, `runtime` its runtime's table of known lines.
    """

    title: ClassVar[str]
    suffix: ClassVar[str]
    runtime: ClassVar[str]

    @abstractmethod
    def __init__(self, place: Place) -> None: ...

    @abstractmethod
    def checks(self) -> tuple[Check, ...]:
        """Say what is there, and what does not fit."""

    @abstractmethod
    def compiled(self, name: str, file: Path | bytes) -> tuple[Check, ...]:
        """Say what a compiled file is for, and whether this machine runs it.

        Raises:
            InputError: it is no such file.
        """
