"""The seam: what a chip family must offer, and nothing about any chip.

A target is one file and one entry point in the group `onchip.targets`. Ours come through the same
door as anyone else's.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from onchip.errors import InputError, ToolError
from onchip.spec import HeadSpec, InputSpec, QuantSpec, Verdict

if TYPE_CHECKING:
    from onchip.graph.read import Model
    from onchip.quantize.plan import QuantPlan

Tensors = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Job:
    """All that a compiler may need: the float graph, the plan, and the plan as a QDQ graph."""

    model: "Model"
    head: HeadSpec
    input: InputSpec
    plan: "QuantPlan"
    qdq: bytes


@dataclass(frozen=True)
class Compiled:
    """What a compiler made: the file's bytes, what it now expects, and who made it."""

    payload: bytes
    suffix: str
    input: InputSpec
    tools: dict[str, str]
    verdicts: tuple[Verdict, ...] = ()


class Session(ABC):
    """A program on a chip: tensor in, head tensors out (float, by name). Close it when done.

    `parallel` says that it may be called from several threads at once.
    """

    parallel: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, tensor: npt.NDArray[np.generic]) -> Tensors:
        """Run one input of the artifact's `InputSpec`."""

    def close(self) -> None:  # noqa: B027 - most have nothing to give back
        """Give the chip back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Target(ABC):
    """One chip family: its arithmetic, its compiler, its runtime."""

    name: ClassVar[str]
    title: ClassVar[str]
    quant: ClassVar[QuantSpec]

    @abstractmethod
    def version(self) -> str:
        """The compiler's version: part of what a compiled file was made of."""

    @abstractmethod
    def compile(self, job: Job) -> Compiled:
        """Make the file that the chip runs."""

    @abstractmethod
    def open(self, payload: bytes, threads: int = 0) -> Session:
        """Load a compiled file on this machine; `threads` bounds a CPU's, 0 is all."""


def _entries() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group="onchip.targets"):
        if entry.name in found and found[entry.name].value != entry.value:
            raise ToolError(
                f"two packages offer a target called {entry.name!r}: "
                f"{found[entry.name].value} and {entry.value}",
                "uninstall one of them",
            )
        found[entry.name] = entry
    return found


def names() -> tuple[str, ...]:
    """Return the names of all installed targets, without loading any."""
    return tuple(sorted(_entries()))


def get(name: str) -> Target:
    """Return one target.

    Raises:
        InputError: there is none of that name.
        ToolError: its package is broken.
    """
    entries = _entries()
    if name not in entries:
        raise InputError(f"no target called {name!r}", f"allowed are {', '.join(sorted(entries))}")
    try:
        found = entries[name].load()()
    except Exception as error:  # a broken plug-in breaks only itself
        raise ToolError(f"target {name!r} cannot be loaded: {error}") from error
    if not isinstance(found, Target):
        raise ToolError(f"target {name!r} is not a Target: {entries[name].value}")
    return found
