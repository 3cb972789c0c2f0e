"""This machine's or a board's processor through LiteRT, which runs .tflite files."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from tempfile import TemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from onchip.artifact import Artifact
from onchip.errors import InputError, ToolError
from onchip.formats import tflite as tflite_file
from onchip.spec import InputSpec, QuantSpec
from onchip.targets.cpu import depth
from onchip.targets.target import MOVES, Compiled, Job, Part, Runtime, Session, Target, installed
from onchip.vision.codes import Codes, Tensors, Values

if TYPE_CHECKING:
    from onchip.targets.tflite.write import Ends

PACKAGE = "ai-edge-litert"
INSTALL = "pip install 'onchip[tflite]'"
_SPEAKING = Lock()  # stderr is the process's own, and there is one
QUANT = QuantSpec(
    activation_signed=True,
    raised=("float32",),
    unit_step=1 / 256,
    ops=MOVES
    | {"Conv", "Add", "Mul", "Sigmoid", "LeakyRelu", "Relu", "Clip"}
    | {"AveragePool", "GlobalAveragePool"},
    shared=MOVES | {"AveragePool"},
)


class Tflite(Target):
    """LiteRT's kernels (XNNPACK), signed activations and weights; layers may stay in float."""

    name = "tflite"
    title = "CPU (LiteRT)"
    verified = "run on x86-64; not on Arm"
    quant = QUANT

    def version(self) -> str:
        """LiteRT's version; "" where it is not installed."""
        return installed(PACKAGE)

    def parts(self) -> tuple[Part, ...]:
        """LiteRT, which has the file's schema as well as the runtime."""
        return (Part(PACKAGE, self.version(), INSTALL),)

    def runtime(self) -> Runtime:
        """LiteRT."""
        return Runtime(requirements=(PACKAGE,))

    def compile(self, job: Job) -> Compiled:
        """Write the plan as a .tflite file."""
        return compiled(job, {PACKAGE: self.version()})

    def open(self, artifact: Artifact, threads: int = 0) -> "LitertSession":
        """Load the file into LiteRT's interpreter."""
        return LitertSession(artifact.payload("program"), threads)


def compiled(job: Job, tools: Mapping[str, str], ends: "Ends | None" = None) -> Compiled:
    """Return the plan as a .tflite file, as it is, or with other ends.

    Raises:
        ToolError: LiteRT's package, which has the schema, is not installed.
        UnsupportedError: the format has no operator for a node.
    """
    try:
        from onchip.targets.tflite.write import written
    except ImportError as error:
        raise missing(error) from error
    return Compiled(written(job, ends), "tflite", taken(job.input), dict(tools))


def check_compiled(program: bytes, compiled_for: str) -> None:
    """Refuse a program that is not what a compiler for an NPU made.

    Raises:
        InputError: it is not, or is cut off.
    """
    made = tflite_file.parse(program, "program.tflite")
    if not made.complete or made.compiled != compiled_for:
        raise InputError("the program in the artifact is damaged", "build it again")


def taken(spec: InputSpec) -> InputSpec:
    """Return what such a file takes: the pixels, channels last."""
    return replace(spec, dtype="uint8", layout="nhwc")


def missing(error: ImportError) -> ToolError:
    """The error where LiteRT's package cannot be loaded."""
    return ToolError(f"LiteRT cannot be loaded: {error}", INSTALL)


class LitertSession(Session):
    """One .tflite file in LiteRT. `threads` 0 is one per core; with 1 calls run beside each other.

    `delegates` are those of an accelerator, which one interpreter has for itself.

    Raises:
        ToolError: LiteRT is not installed, or does not take the file.
    """

    parallel = True

    def __init__(self, payload: bytes, threads: int = 0, delegates: Sequence[Any] = ()) -> None:
        self.depth = 2 if delegates else depth(threads)
        count = self.depth if threads == 1 and not delegates else 1
        cores = threads or os.cpu_count() or 1
        made = [interpreter(payload, cores, delegates) for _ in range(count)]
        self._free: SimpleQueue[Any] = SimpleQueue()
        for one in made:
            self._free.put(one)
        self._input = made[0].get_input_details()[0]["index"]
        self._outputs = [_Output.of(details) for details in made[0].get_output_details()]

    def __call__(self, tensor: npt.NDArray[np.generic]) -> Tensors:
        """Run one input, on an interpreter that is free."""
        one = self._free.get()
        try:
            one.set_tensor(self._input, tensor)
            one.invoke()
            return {o.name: o.read(one.get_tensor(o.index)) for o in self._outputs}
        except (RuntimeError, ValueError) as error:
            raise ToolError(f"LiteRT failed: {_first(error)}") from error
        finally:
            self._free.put(one)


@dataclass(frozen=True)
class _Output:
    """One output of a file: where it is, and what its codes stand for."""

    name: str
    index: int
    scale: float
    zero: int

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> "_Output":
        scale, zero = details["quantization"]
        return cls(details["name"], details["index"], float(scale), int(zero))

    def read(self, values: npt.NDArray[Any]) -> Values:
        """Return it as the head has it: a map's channels before its rows."""
        values = values.transpose(0, 3, 1, 2) if values.ndim == 4 else values
        return Codes(values, self.scale, self.zero) if self.scale else values


def interpreter(payload: bytes, threads: int, delegates: Sequence[Any] = ()) -> Any:
    """Load a file into LiteRT's interpreter; `delegates` are those of accelerators.

    Raises:
        ToolError: LiteRT is not installed, or does not take the file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise missing(error) from error
    try:
        with _quietly():
            made = Interpreter(
                model_content=payload, num_threads=threads, experimental_delegates=[*delegates]
            )
            made.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ToolError(f"LiteRT cannot load the file: {_first(error)}") from error
    return made


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep back what LiteRT says on stderr about how it is; there is no setting for that."""
    with _SPEAKING, TemporaryFile("w+", errors="replace") as said:
        try:
            before = os.dup(2)
        except OSError:  # a service without a stderr
            yield
            return
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            said.seek(0)
            sys.stderr.write("".join(x for x in said if not x.startswith("INFO: ")))


def _first(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
