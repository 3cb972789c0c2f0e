"""What this machine has of what an SDK needs: a compiler, headers, a libc, memory, a free GPU."""

import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

PATIENCE = 30.0  # seconds that a program may take to answer
IN_USE = 0.05  # of a GPU's memory, from which some SDKs take it for somebody else's


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: its memory in use, and all of it."""

    number: int
    name: str
    used_mb: int
    total_mb: int

    @property
    def free(self) -> bool:
        """Whether so little of its memory is in use that an SDK takes it."""
        return self.used_mb < IN_USE * self.total_mb

    def describe(self) -> str:
        """One line for people."""
        share = 100 * self.used_mb / self.total_mb if self.total_mb else 0
        return f"{self.name}, {share:.0f} % of {self.total_mb} MB in use"


def gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs of this machine; none where `nvidia-smi` is missing or broken."""
    query = "--query-gpu=index,name,memory.used,memory.total"
    found = []
    for line in _said(["nvidia-smi", query, "--format=csv,noheader,nounits"]).splitlines():
        fields = [f.strip() for f in line.split(",")]
        if len(fields) == 4 and all(f.isdigit() for f in (fields[0], *fields[2:])):
            found.append(Gpu(int(fields[0]), fields[1], int(fields[2]), int(fields[3])))
    return tuple(found)


def memory_mb() -> int:
    """Return this machine's memory; 0 where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    except (ValueError, OSError):
        return 0


def libc() -> tuple[int, ...]:
    """Return the version of glibc; empty where the C library is another."""
    name, version = platform.libc_ver()
    if name != "glibc":
        return ()
    return tuple(int(n) for n in version.split(".") if n.isdigit())


@dataclass(frozen=True)
class CCompiler:
    """The C compiler that pip would use for one Python's packages, and how it would call it."""

    command: tuple[str, ...]
    there: bool

    def finds(self, header: str) -> bool:
        """Whether it finds a header, in all the places where it looks."""
        source = f"#include <{header}>\n"
        try:
            done = subprocess.run(
                [*self.command, "-E", "-x", "c", "-o", os.devnull, "-"],
                input=source.encode(),
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return not done.returncode


def c_compiler(python: str, settings: dict[str, str]) -> CCompiler:
    """Return the C compiler of an interpreter: `CC`, or the one that it was built with.

    Its flags count: those of conda's Python name conda's headers.
    """
    code = (
        "import json, sysconfig as s; "
        "print(json.dumps([s.get_config_var('CC'), s.get_config_var('CFLAGS'), "
        "s.get_path('include')]))"
    )
    try:
        built, flags, include = msgspec.json.decode(
            _said([python, "-I", "-c", code], settings), type=tuple[str | None, str | None, str]
        )
    except msgspec.MsgspecError:
        built, flags, include = None, None, ""
    named = shlex.split(os.environ.get("CC") or built or "cc") or ["cc"]
    # of the flags only the places of headers: the others may not fit this compiler
    places = shlex.split(f"{flags or ''} {os.environ.get('CFLAGS', '')}")
    kept = [f for f in _joined(places) if f.startswith(("-I", "-isystem"))]
    command = (named[0], *kept, f"-I{include or Path(python).parent}")
    return CCompiler(command, shutil.which(named[0]) is not None)


def _joined(flags: list[str]) -> list[str]:
    """Write `-isystem PLACE` and `-I PLACE` as one word each, as compilers take them too."""
    words = iter(flags)
    return [f + next(words, "") if f in ("-I", "-isystem") else f for f in words]


def _said(command: list[str], settings: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env=settings,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout
