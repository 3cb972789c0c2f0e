"""The seam: what a chip family must offer, and nothing about any chip.

A target is one file and one entry point in the group `onchip.targets`. Ours come through the same
door as anyone else's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from onchip.artifact import Artifact
from onchip.closing import Closing
from onchip.errors import InputError, ToolError, UnsupportedError
from onchip.progress import Progress, silent
from onchip.spec import HeadSpec, InputSpec, Layout, QuantSpec, Verdict
from onchip.vision.codes import Tensors

if TYPE_CHECKING:
    from onchip.graph.read import Model
    from onchip.quantize.plan import QuantPlan

# operations that only move values, so that what they read and give has one scale
MOVES = frozenset(
    {"MaxPool", "Resize", "Concat", "Split", "Reshape", "Transpose"}
    | {"Squeeze", "Unsqueeze", "Flatten", "Slice"}
)
UNFINISHED = "unfinished"  # the verdict of an artifact that waits for the vendor's compiler
Photos = Callable[[InputSpec, int], Iterable[npt.NDArray[np.generic]]]  # a few, or 0 for all


class NoOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A target that leaves the user nothing to decide."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is known of a build before there is a plan.

    `model` is the cut network, `network` the one that a plan is of: the same, or rewritten into one
    that loses less. `options` is of the target's own type. `photos` makes so many calibration
    inputs (0 is all) as a given spec wants them, one by one; none where the user gave no photos.
    `key` names what is compiled. `kept` are the payloads of the artifact as it stands.
    """

    model: "Model"
    network: "Model"
    head: HeadSpec
    input: InputSpec
    options: Struct = field(default_factory=NoOptions)
    layout: Layout = "onchip"
    photos: Photos = lambda spec, count: ()
    progress: Progress = silent
    key: str = ""
    kept: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job(Task):
    """All that a compiler may need: also the plan, and the plan as a QDQ graph.

    `ahead` is what the target's own `ahead` began.
    """

    plan: "QuantPlan"
    qdq: bytes
    ahead: object = None


@dataclass(frozen=True)
class Compiled:
    """What a compiler made: the file's bytes, what it now expects, and who made it.

    `notes` go into the record of the stage, `extras` beside the program: name to (file, bytes).
    `head` is how its end reads, where that is not as the float network's.
    """

    payload: bytes
    suffix: str
    input: InputSpec
    tools: dict[str, str]
    verdicts: tuple[Verdict, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    head: HeadSpec | None = None


@dataclass(frozen=True)
class Prepared:
    """All that could be done without the vendor's compiler, for a machine that has it to finish.

    `missing` says what is not here and where to finish; `extras` are as those of `Compiled`.
    """

    missing: Verdict
    verdicts: tuple[Verdict, ...] = ()
    extras: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Foresight:
    """What a build would do, known without building and without the vendor's software.

    `start_nodes` and `end_nodes` are where the vendor's compiler begins and ends, in its order;
    `unsupported` the operations between them that the chip has not; `forecast` lines for people;
    `files` what the vendor's compiler is given, by file name.
    """

    start_nodes: tuple[str, ...]
    end_nodes: tuple[str, ...]
    unsupported: tuple[str, ...] = ()
    forecast: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True)
class Step:
    """One way to run an artifact's program: on the chip, or in one of the vendor's emulators."""

    open: "Callable[[], Session]"
    input: InputSpec
    head: HeadSpec


@dataclass(frozen=True)
class VendorError:
    """A vendor's own figures for a tensor: what has added up, and the layer alone."""

    total_cosine: float
    total_distance: float
    own_cosine: float
    own_distance: float


@dataclass(frozen=True)
class Part:
    """Something that a target needs on this machine: what, whether it is there, and what to do."""

    name: str
    found: str  # its version, or "" where it is missing
    hint: str = ""


@dataclass(frozen=True)
class Runtime:
    """What a board needs to run a target's programs, beside onchip; asked before one is copied.

    `requirements` are Python packages that pip brings. `modules` of Python and `files` (patterns
    below the root) come with the vendor's own software: each with what to do where it is missing.
    `machines` are architectures as `uname -m` says them, `chips` beginnings of names in the
    board's device tree, of which it must have one; none where every board will do.
    """

    requirements: tuple[str, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    machines: tuple[str, ...] = ("x86_64", "aarch64")
    chips: tuple[str, ...] = ()


class Session(Closing, ABC):
    """A program on a chip: tensor in, head tensors out by name. Close it when done.

    The tensors are floats, or the chip's own codes, which spares turning all of them into floats.
    `parallel` says that it may be called from several threads at once. `depth` is how many callers
    keep it busy, with those that prepare an image while others are on the chip.
    """

    parallel: ClassVar[bool] = False
    depth: int = 2

    @abstractmethod
    def __call__(self, tensor: npt.NDArray[np.generic]) -> Tensors:
        """Run one input of the artifact's `InputSpec`."""

    def limit(self, confidence: float, overlap: float) -> None:
        """Tell a program that suppresses boxes by itself which ones are wanted.

        It may give more than these, never fewer; the file's own limits stay.
        """

    def close(self) -> None:
        """Give the chip back."""


def installed(package: str) -> str:
    """Return a Python package's version; "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def text_of(given: str, wanted: str) -> str:
    """Return the text of an option that names a file, or the text itself, as an artifact keeps it.

    Raises:
        InputError: there is no such file; `wanted` says what the option names.
    """
    if not given or "\n" in given:
        return given
    path = Path(given)
    if not path.is_file():
        raise InputError(f"there is no file {path}", wanted)
    return path.read_text(errors="replace") + "\n"


def unfinished(missing: str, more: str = "") -> Verdict:
    """Return the verdict of an artifact whose compiler is not here."""
    text = (
        f"not compiled: {missing} here; everything before that is done. Finish it on a machine "
        "that has it (x86-64 Linux): onchip compile FILE.onchip there, or from here with --on "
        f"user@host{more}"
    )
    return Verdict(code=UNFINISHED, message=text, level="warning")


def in_turn(session: Session) -> "Callable[[npt.NDArray[np.generic]], Tensors]":
    """Return the session itself, or one caller at a time where it allows no more."""
    if session.parallel:
        return session
    turn = Lock()

    def run(tensor: npt.NDArray[np.generic]) -> Tensors:
        with turn:
            return session(tensor)

    return run


class Target(ABC):
    """One chip family: its arithmetic, its compiler, its runtime.

    `verified` says what was run to check the target, and on what. `takes_plan` says that it runs
    the plan's own network, not what its compiler makes of the float one. `uses_photos` says that
    its compiler can quantize too; `reproducible` that building twice gives the same bytes.
    `frigate` are the types of Frigate's detectors that run its files, best first.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    quant: ClassVar[QuantSpec]
    options: ClassVar[type[Struct]] = NoOptions
    verified: ClassVar[str] = ""
    takes_plan: ClassVar[bool] = True
    uses_photos: ClassVar[bool] = False
    reproducible: ClassVar[bool] = True
    frigate: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def version(self) -> str:
        """The compiler's version: part of what a compiled file was made of."""

    @contextmanager
    def ahead(self, task: Task) -> Iterator[object]:
        """Begin what needs no plan, while the plan is made; what is left is ended after the block.

        What it yields comes back as the job's `ahead`.
        """
        yield None

    @abstractmethod
    def compile(self, job: Job) -> Compiled | Prepared:
        """Make the file that the chip runs, or all that comes before, where the compiler is not."""

    def check_frigate(self, model: "Model", head: HeadSpec, spec: InputSpec) -> None:
        """Refuse a head that Frigate could not read from this target's file; most end in a table.

        Raises:
            UnsupportedError: the text says why.
        """
        from onchip.graph.decoded import refuse_short

        refuse_short(model, head, spec)

    def foresee(self, task: Task, plan: "QuantPlan | None" = None) -> Foresight:
        """Say what a build would do; needs none of the vendor's software.

        `plan` is there where photos were given.
        """
        return Foresight(
            start_nodes=(task.input.name,),
            end_nodes=task.head.end_nodes,
            unsupported=tuple(
                f"{n.name} ({n.op_type}) is computed in float"
                for n in task.model.proto.graph.node
                if n.op_type not in self.quant.ops and n.op_type != "Constant"
            ),
        )

    @abstractmethod
    def open(self, artifact: Artifact, threads: int = 0) -> Session:
        """Load an artifact's program on this machine; `threads` bounds a CPU's, 0 is all."""

    def steps(self, artifact: Artifact) -> Mapping[str, Step]:
        """The ways to run the artifact's program on this machine, by name, in the proof's order."""
        manifest = artifact.manifest
        if manifest.program_input is None:
            return {}
        head = manifest.program_head or manifest.head
        return {"compiled": Step(lambda: self.open(artifact, 1), manifest.program_input, head)}

    def analysis(
        self, artifact: Artifact, tensor: npt.NDArray[np.generic]
    ) -> Mapping[str, VendorError]:
        """The vendor's own errors, by tensor, on one float input of the artifact's `InputSpec`."""
        return {}

    def parts(self) -> tuple[Part, ...]:
        """What it needs on this machine, and what of that is there."""
        return ()

    def runtime(self) -> Runtime:
        """What a board needs to run its programs."""
        return Runtime()

    def trial(self, model: bytes) -> "Mapping[str, Callable[[], Session]]":
        """How a float ONNX network is opened on each device found here, by the device's name.

        None where a network must be compiled by the vendor first.
        """
        return {}

    def portable(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """Return the options as an artifact keeps them: a file's content instead of its name."""
        return given

    def settings(self, given: Mapping[str, str]) -> Struct:
        """Read the target's own options from text.

        Raises:
            InputError: there is no such option, or not with that value.
        """
        try:
            return msgspec.convert(dict(given), self.options, strict=False)
        except msgspec.ValidationError as error:
            known = ", ".join(f.name for f in msgspec.structs.fields(self.options)) or "none"
            raise InputError(
                f"option for {self.name}: {error}", f"its options (-O NAME=VALUE): {known}"
            ) from error


def frigate_detectors(target: Target) -> tuple[str, ...]:
    """Return the types of Frigate's detectors that run a target's files, best first.

    Raises:
        UnsupportedError: there is none.
    """
    if not target.frigate:
        raise UnsupportedError(
            f"Frigate has no detector that runs a file for {target.name}",
            "build without --layout, and serve it to Frigate's zmq detector: onchip frigate serve",
        )
    return target.frigate


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
