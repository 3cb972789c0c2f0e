"""Run edgetpu_compiler on a .tflite file, and read the log that it leaves.

It is closed, for x86-64 Linux only, and was not to be had here: what it is told and what it says
are taken from Coral's documentation of version 16.
"""

import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from onchip.errors import ToolError
from onchip.spec import Verdict
from onchip.toolchains.known import explain
from onchip.toolchains.program import run

TOOL = "edgetpu_compiler"
TABLE = "edgetpu"  # of the lines that are known
MODEL = "model.tflite"
MAPPED = "Mapped to Edge TPU"
PATIENCE = 60  # seconds more than the compiler's own limit
_ROW = re.compile(r"^([A-Z][A-Z0-9_]+|[\w-]+)\s+(\d+)\s+(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """Operators of one kind, and what became of them."""

    op: str
    count: int
    status: str


@dataclass(frozen=True)
class Report:
    """What the compiler's log says; -1 and "" are what it does not say."""

    version: str = ""
    on_tpu: int = -1
    on_cpu: int = -1
    subgraphs: int = -1
    cached: str = ""
    remaining: str = ""
    streamed: str = ""
    rows: tuple[Row, ...] = ()

    @property
    def left(self) -> tuple[Row, ...]:
        """The operators that run on the processor."""
        return tuple(r for r in self.rows if r.status != MAPPED)

    @property
    def left_out(self) -> str:
        """The same in words."""
        return ", ".join(f"{r.count} {r.op} ({r.status.lower()})" for r in self.left)


@dataclass(frozen=True)
class Made:
    """The compiled file, the log, what it says, and how long it took."""

    program: bytes
    log: str
    report: Report
    seconds: float


@cache
def found() -> str:
    """Where the compiler is; "" where it is not installed."""
    return shutil.which(TOOL) or ""


@cache
def version(path: str) -> str:
    """The compiler's version; "" where it is not installed or does not say."""
    if not path:
        return ""
    with tempfile.TemporaryDirectory(prefix="onchip-") as place:
        try:
            return read(run([path, "--version"], Path(place), TOOL, limit=30)).version
        except ToolError:
            return ""


def compile_(model: bytes, *, runtime: int, limit: int) -> Made:
    """Compile a .tflite file.

    Args:
        model: the file's bytes.
        runtime: the oldest version of the Edge TPU's runtime that must load it; 0 is any.
        limit: seconds that the compiler gives itself.

    Raises:
        ToolError: it failed, crashed or hung, or wrote no file.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="onchip-") as place:
        folder = Path(place)
        (folder / MODEL).write_bytes(model)
        command = [found(), "-s", "-o", ".", "-t", str(limit)]
        command += ["-m", str(runtime)] if runtime else []
        try:
            log = run([*command, MODEL], folder, TOOL, limit + PATIENCE)
        except ToolError as error:
            raise _explained(str(error), error.log) from error
        made = folder / "model_edgetpu.tflite"
        if not made.is_file():
            raise _explained(f"{TOOL} says that all went well, and wrote no file", log)
        return Made(made.read_bytes(), log, read(log), time.monotonic() - started)


def _explained(text: str, log: str) -> ToolError:
    """An error with the cause and cure of a line that is known."""
    known = explain(TABLE, log)
    error = ToolError(text, known[0].message if known else "")
    error.log = log
    return error


def read(log: str) -> Report:
    """Read a log, as far as it says something.

    >>> read("Number of operations that will run on Edge TPU: 64").on_tpu
    64
    """
    table = log.partition("Operator  ")[2] or log.partition("Operator\t")[2]
    rows = tuple(Row(op, int(count), status) for op, count, status in _ROW.findall(table))
    # where all of it is mapped, only the table says so
    mapped, left = (
        sum(r.count for r in rows if (r.status == MAPPED) == on_tpu) if rows else -1
        for on_tpu in (True, False)
    )
    return Report(
        version=_first(r"Edge TPU Compiler version (\S+)", log),
        on_tpu=int(_first(r"will run on Edge TPU: (\d+)", log) or mapped),
        on_cpu=int(_first(r"will run on CPU: (\d+)", log) or left),
        subgraphs=int(_first(r"Number of Edge TPU subgraphs: (\d+)", log) or -1),
        cached=_first(r"On-chip memory (?:used|available) for caching[^:]*: (\S+)", log),
        remaining=_first(r"On-chip memory remaining for caching[^:]*: (\S+)", log),
        streamed=_first(r"Off-chip memory used for streaming[^:]*: (\S+)", log),
        rows=rows,
    )


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def verdicts(report: Report) -> tuple[Verdict, ...]:
    """What is worth telling of a compiled file, that is good all the same."""
    said = []
    if report.left:
        text = f"{report.on_cpu} operators run on the processor: {report.left_out}"
        said.append(Verdict(code="fallback", message=text, level="warning"))
    if report.subgraphs > 1:
        text = f"the network is in {report.subgraphs} parts: between them it goes to the processor"
        said.append(Verdict(code="subgraphs", message=text, level="warning"))
    if report.streamed and not re.match(r"0(\.0+)?B$", report.streamed):
        text = (
            f"{report.streamed} of weights do not fit into the chip's 8 MiB and are sent with "
            "every image, which is slow: use a smaller model or input"
        )
        said.append(Verdict(code="streamed", message=text, level="warning"))
    return tuple(said)
