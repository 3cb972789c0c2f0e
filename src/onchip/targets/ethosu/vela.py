"""Run Vela on a .tflite file, and read what it writes beside the one that it makes.

Vela runs in a process of its own: its compiler is C++, and has been seen to end by a signal.
"""

import csv
import io
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import Struct

from onchip.errors import ToolError
from onchip.toolchains.program import run

PACKAGE = "ethos-u-vela"
MODEL = "model.tflite"
Accelerator = Literal[
    "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256",
    "ethos-u65-512", "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024",
    "ethos-u85-2048",
]  # fmt: skip

# Vela's own columns: of its table of layers, those for people
_SHOWN = {
    "Original Operator": "operator",
    "NNG Operator": "on the NPU",
    "Target": "runs on",
    "Op Cycles": "cycles",
    "Network% (cycles)": "% of all",
    "Staging Usage": "SRAM bytes",
    "MAC Count": "MACs",
    "Util% (MAC)": "% used",
    "Name": "output",
}


class VelaOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which chip, in which system, and what matters more.

    `system` and `memory` name sections of Vela's configuration file; without them Vela takes its
    own for the chip. `config` is such a file of the user's; an artifact keeps its text. `arena` is
    the memory that the network may take, in bytes. With `fallback` operators that the NPU has not
    may run on the processor.
    """

    accelerator: Accelerator = "ethos-u55-256"
    system: str = ""
    memory: str = ""
    config: str = ""
    optimise: Literal["performance", "size"] = "performance"
    arena: int = 0
    fallback: bool = False


@dataclass(frozen=True)
class Made:
    """Vela's file, its log, its two tables as it wrote them, and how long it took."""

    program: bytes
    log: str
    summary: bytes
    layers: bytes
    seconds: float

    @property
    def figures(self) -> dict[str, str]:
        """The one row of the summary, by Vela's names."""
        return next(iter(_rows(self.summary)), {})


def compile_(model: bytes, options: VelaOptions) -> Made:
    """Compile a .tflite file for a chip.

    Raises:
        ToolError: Vela is not installed, failed, or did not say what it was asked to.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="onchip-") as place:
        folder = Path(place)
        (folder / MODEL).write_bytes(model)
        log = run(command(options, folder), folder, "Vela")
        program = _only(folder, "model_vela.tflite", log)
        summary = _only(folder, "model_summary_*.csv", log)
        layers = _only(folder, "model_per-layer.csv", log)
    return Made(program, log, summary, layers, time.monotonic() - started)


def command(options: VelaOptions, folder: Path) -> list[str]:
    """Return Vela's command line; a configuration of the user's is written into the folder."""
    words = [sys.executable, "-m", "ethosu.vela", MODEL, "--output-dir", "."]
    words += ["--accelerator-config", options.accelerator]
    words += ["--optimise", options.optimise.title()]
    words += ["--verbose-performance", "--show-cpu-operations"]
    if options.config:
        (folder / "vela.ini").write_text(options.config)
        words += ["--config", "vela.ini"]
    words += ["--system-config", options.system] if options.system else []
    words += ["--memory-mode", options.memory] if options.memory else []
    words += ["--arena-cache-size", str(options.arena)] if options.arena else []
    return words


def _only(folder: Path, pattern: str, log: str) -> bytes:
    found = sorted(folder.glob(pattern))
    if not found:
        error = ToolError(f"Vela says that all went well, and wrote no {pattern}")
        error.log = log
        raise error
    return found[0].read_bytes()


def _rows(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.decode(errors="replace"))))


def table(layers: bytes) -> str:
    """Return Vela's table of layers as aligned text, in its order."""
    rows = [[_cell(row.get(name) or "") for name in _SHOWN] for row in _rows(layers)]
    lines = [list(_SHOWN.values()), *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(_SHOWN))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 2 < n < len(_SHOWN) - 1 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(text: str) -> str:
    """Shorten a fraction.

    >>> _cell("28.080142155719663"), _cell("1230763"), _cell("Conv2D")
    ('28.1', '1230763', 'Conv2D')
    """
    if "." not in text:
        return text
    try:
        return f"{float(text):.1f}"
    except ValueError:
        return text
