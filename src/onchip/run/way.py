"""A run on its way: what it was given, what it knows by now, and where its files stand."""

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from onchip.dataset import yolo
from onchip.dataset.folders import Folders
from onchip.progress import Progress
from onchip.run.ledger import Ledger, digest, digest_of
from onchip.run.project import Project

if TYPE_CHECKING:
    from onchip.train.runs import Epoch

CALIBRATION = "calibration.txt"


@dataclass
class Way:
    """A run on its way: what it was given, and what it knows by now."""

    project: Project
    trust: bool
    book: Ledger
    progress: Progress
    epoch: Callable[["Epoch", int], None]
    found: Folders
    results: Path | None = None
    photos: list[Path] = field(default_factory=list)  # that builds are calibrated on

    @cached_property
    def labelled(self) -> bool:
        """Whether anybody labelled any of the images."""
        return any(yolo.place(image).is_file() for image in self.found.images)

    @cached_property
    def whole(self) -> str:
        """The digest of the data set: images and labels by content, their parts, the names."""
        images, root, made = self.found.images, self.found.root, []
        names = {p: _name(p, root) for p in images}
        for done, image in enumerate(images, 1):
            made.append((names[image], digest(image), digest(yolo.place(image))))
            self.progress("read", done, len(images))
        parts = {n: [names[p] for p in ps] for n, ps in self.found.splits.items()}
        return digest_of([parts, made, self.found.names])

    @cached_property
    def where(self) -> str:
        """Where the data set stands, for steps that name its photos in what they make."""
        return os.fsencode(Path(self.project.data).absolute()).decode(errors="backslashreplace")

    def place(self, name: str) -> Path:
        """Where a file of this run stands."""
        return self.book.folder / name


def _name(path: Path, root: Path) -> str:
    return os.fsencode(os.path.relpath(path, root)).decode(errors="backslashreplace")


def line(*words: object) -> str:
    return shlex.join(["onchip", *map(str, words)])
