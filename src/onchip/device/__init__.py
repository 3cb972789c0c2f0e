"""The machine that runs it all: what is there, and whether it fits together."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from onchip.device import board

Wants = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where to look: the root of the files, where programs are (as PATH), and Python's packages."""

    root: Path = Path("/")
    path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    packages: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))

    def gather(self, key: str, wants: Wants) -> dict[str, Any]:
        """Return what is there of what the probe called `key` asks for (`board.gather`)."""
        system = str(self.root / "usr/lib/python3/dist-packages")
        return board.gather(dict(wants), self.root, self.path, (*self.packages, system))

    def package(self, versions: Mapping[str, str]) -> tuple[str, str]:
        """Of a package's versions by folder, return that which onchip sees, else one elsewhere."""
        own = next((v for folder, v in versions.items() if folder in self.packages), "")
        return own, "" if own else next(iter(versions.values()), "")


@dataclass(frozen=True)
class Told(Place):
    """Another machine, which has said already what is there."""

    answers: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def gather(self, key: str, wants: Wants) -> dict[str, Any]:
        """Return what the other machine said to the probe called `key`."""
        return self.answers[key]


def told(answers: Mapping[str, dict[str, Any]]) -> Told:
    """Return the place that `answers`, by probe, tell of; all packages there are to be used."""
    packages = {
        place
        for facts in answers.values()
        for found in facts["packages"].values()
        for place in found
    }
    return Told(packages=tuple(sorted(packages)), answers=answers)


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

    `key` names it, `wants` is what it asks of a machine (`board.gather`); without it a probe looks
    at this machine only. `suffix` is of the vendor's compiled files, `runtime` its runtime's table
    of known lines.
    """

    key: ClassVar[str] = ""
    wants: ClassVar[Wants] = {}
    title: ClassVar[str]
    suffix: ClassVar[str]
    runtime: ClassVar[str]

    @abstractmethod
    def __init__(self, place: Place) -> None: ...

    @abstractmethod
    def checks(self) -> tuple[Check, ...]:
        """Say what is there, and what does not fit; nothing where there is nothing at all."""

    @abstractmethod
    def compiled(self, name: str, file: Path | bytes) -> tuple[Check, ...]:
        """Say what a compiled file is for, and whether this machine runs it.

        Raises:
            InputError: it is no such file.
        """
