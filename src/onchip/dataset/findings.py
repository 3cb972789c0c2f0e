"""What can be wrong with a data set. What each kind is called and means is in `findings.toml`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from onchip.dataset.yolo import Values

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Mark:
    """A box to point at in a picture, in parts of the image, and what to write on it."""

    box: Values
    text: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: its code, where it is, what is there, and the images it is about."""

    code: str
    place: str
    message: str
    images: tuple[Path, ...] = ()
    marks: tuple[Mark, ...] = ()

    @property
    def level(self) -> Level:
        """How grave it is."""
        return kinds()[self.code].level

    @property
    def text(self) -> str:
        """One line."""
        return f"{self.place} {self.message}".strip()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding: what it is called, what it means for training, and what to do."""

    level: Level
    title: str
    means: str
    do: str


@cache
def kinds() -> Mapping[str, Kind]:
    """Return every kind of finding by its code, in the order in which they are shown."""
    data = files("onchip.dataset").joinpath("findings.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, Kind])


def grouped(found: Iterable[Finding]) -> list[tuple[str, list[Finding]]]:
    """Group findings by code, the gravest first, in the order of `kinds`."""
    groups: dict[str, list[Finding]] = {}
    for finding in found:
        groups.setdefault(finding.code, []).append(finding)
    order = {code: number for number, code in enumerate(kinds())}
    return sorted(groups.items(), key=lambda g: (LEVELS.index(kinds()[g[0]].level), order[g[0]]))
