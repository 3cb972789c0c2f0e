"""Say what is wrong with this machine, or with what a log tells, and what to do about it.

Each vendor has a probe, which looks at what is live; each target says what it needs; and logs are
compared with the known lines of every tool.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onchip.artifact import Artifact, load
from onchip.device import Check, Place, Probe
from onchip.device.hailo import Hailo
from onchip.device.rockchip import Rockchip
from onchip.errors import DeviceError, InputError, OnchipError, ToolError
from onchip.targets import target as targets
from onchip.toolchains import install, machine, pins
from onchip.toolchains.known import Finding, find, tools
from onchip.toolchains.worker import readable

MOST_LOG = 4 << 20  # bytes of a log, its end
MOST_LINE = 4000  # characters
SMALL = (1, 3, 320, 320)  # the input of the network that a trial runs
RUNS = 5
PROBES: tuple[type[Probe], ...] = (Hailo, Rockchip)  # one for each vendor that has something live


@dataclass(frozen=True)
class Section:
    """What was looked at together; an error among it is one of a board, or of a tool."""

    title: str
    checks: tuple[Check, ...]
    board: bool = False


def look(files: Sequence[Path] = (), place: Place | None = None) -> tuple[Section, ...]:
    """Look at this machine, and whether it runs the files.

    Args:
        files: compiled programs: `.hef` or `.onchip`.
        place: where to look; this machine where None.

    Raises:
        InputError: a file cannot be read, or is of another kind.
    """
    opened = artifacts(files)
    sections = chips(files, opened, place or Place())
    tried = (check for path, made in opened.items() for check in _trial(path, made))
    if trials := tuple(tried) or tuple(_trials()):
        sections.append(Section("trial", trials, board=True))
    sections.append(Section("toolchains", tuple(_toolchains()) or (Check("none", "installed"),)))
    sections.append(Section("targets", tuple(_parts(targets.names()))))
    return tuple(sections)


def artifacts(files: Iterable[Path]) -> dict[Path, Artifact]:
    """Open those of the files that are artifacts.

    Raises:
        InputError: one cannot be read, or is damaged.
    """
    return {path: load(path) for path in files if path.suffix == ".onchip"}


def chips(files: Sequence[Path], opened: Mapping[Path, Artifact], place: Place) -> list[Section]:
    """Look at the vendors' chips and software in a place, and whether it runs the files.

    Raises:
        InputError: a file cannot be read, or is of another kind.
    """
    probes = [probe(place) for probe in PROBES]
    sections = [Section(p.title, checks, board=True) for p in probes if (checks := p.checks())]
    if not sections:
        vendors = " or ".join(probe.title for probe in probes)
        sections = [Section("chips", (Check("none", f"nothing of {vendors} is here"),))]
    return sections + [_compiled(path, opened.get(path), probes) for path in files]


def explain(log: bytes) -> tuple[Finding, ...]:
    """Return what a log tells: of every tool, what is the cause before what follows from it.

    Raises:
        InputError: it is not text.
    """
    text = _text(log[-MOST_LOG:])
    return tuple(f for tool in tools() for f in find(tool, text))


def failure(sections: Iterable[Section]) -> OnchipError | None:
    """Return what is wrong as one error: of a board where one is, else of a tool."""
    return _counted((s.board, c.problem) for s in sections for c in s.checks if c.level == "error")


def failure_of(findings: Iterable[Finding]) -> OnchipError | None:
    """Return what a log tells as one error; None where it tells of none."""
    boards = [probe.runtime for probe in PROBES]
    return _counted((f.tool in boards, f.message) for f in findings if f.level == "error")


def describe(sections: Iterable[Section]) -> str:
    """Say what was found, for people."""
    lines = []
    for section in sections:
        lines.append(section.title)
        width = max(len(c.name) for c in section.checks)
        for check in section.checks:
            lines.append(f"  {check.name:<{width}}  {check.found}")
            if check.problem:
                lines.append(f"    {check.level}: {check.problem}")
                lines.append(f"    do: {check.cure}")
    return "\n".join(lines)


def describe_log(findings: Sequence[Finding]) -> str:
    """Say what a log tells, for people."""
    if not findings:
        return "nothing that onchip knows is wrong in this log"
    return "\n".join(
        line
        for f in findings
        for line in (f"{f.level}: {f.message}", f"  do: {f.cure}", f"  it says: {f.said}")
    )


def _counted(problems: Iterable[tuple[bool, str]]) -> OnchipError | None:
    """Make one error of problems, each of a board or not."""
    found = sorted(problems, key=lambda p: not p[0])
    if not found:
        return None
    kind = DeviceError if found[0][0] else ToolError
    things = "1 thing is" if len(found) == 1 else f"{len(found)} things are"
    return kind(f"{things} wrong", f"first: {found[0][1]}")


def _compiled(path: Path, made: Artifact | None, probes: Sequence[Probe]) -> Section:
    """Look at a vendor's file, also one inside an artifact; else at what the target needs."""
    file: Path | bytes = path
    name, target = path.name, ""
    if made is not None:
        name, target = "", made.manifest.target
        if "program" in made.payloads:
            name, file = made.manifest.payloads["program"].file, made.payloads["program"]
    for probe in probes:
        if name.endswith(probe.suffix):
            return Section(str(path), probe.compiled(path.name, file), board=True)
    if not target:
        known = ", ".join([".onchip", *(p.suffix for p in probes)])
        raise InputError(
            f"{path} is not a compiled file that the doctor knows",
            f"it knows {known}; a log goes behind --log",
        )
    return Section(f"{path}, for {target}", tuple(_parts([target], needed=True)))


def _trial(path: Path, made: Artifact) -> Iterable[Check]:
    """Run an artifact on its chip, where it has a program and the chip's runtime is here."""
    if "program" not in made.payloads or made.manifest.program_input is None:
        return
    target = targets.get(made.manifest.target)
    if _is_here(target.runtime()):
        spec = made.manifest.program_input
        tensor = np.zeros(spec.shape, spec.dtype)
        yield _timed(path.name, lambda: target.open(made), tensor)


def _is_here(runtime: targets.Runtime) -> bool:
    names = {d.name.lower().replace("_", "-") for d in distributions()}
    return all(map(find_spec, runtime.modules)) and names.issuperset(runtime.requirements)


def _trials() -> Iterable[Check]:
    """Run a small network on each device that needs no vendor's compiler for it."""
    model = resources.files("onchip.demo").joinpath("detector.onnx").read_bytes()
    tensor = np.zeros(SMALL, np.float32)
    for name in targets.names():
        try:
            devices = targets.get(name).trial(model)
        except OnchipError:  # a broken plug-in is told of among the targets
            continue
        yield from (_timed(device, opened, tensor) for device, opened in devices.items())


def _timed(name: str, opened: Callable[[], targets.Session], tensor: npt.NDArray[Any]) -> Check:
    try:
        with opened() as session:
            session(tensor)
            spent = []
            for _ in range(RUNS):
                started = time.perf_counter()
                session(tensor)
                spent.append(time.perf_counter() - started)
    except OnchipError as error:
        return Check(name, "does not run", "error", str(error), error.hint or "see above")
    return Check(name, f"runs, {1000 * min(spent):.1f} ms an image")


def _toolchains() -> Iterable[Check]:
    wanted: dict[str, str] = {}
    for found in install.installed():
        name = f"{found.name} {found.version}"
        source = pins.tool(found.name).wheel
        wanted |= {source.gpu: name} if source else {}
        if found.lack:
            yield Check(name, found.lack, "error", f"{name} is {found.lack}", f"run: {found.mend}")
        else:
            yield Check(name, "installed; onchip toolchain doctor starts it")
    gpus = machine.gpus() if wanted else ()
    seen = "; ".join(g.describe() for g in gpus) or "no NVIDIA GPU"
    for why, name in wanted.items():
        if any(g.free for g in gpus):
            yield Check("GPU", seen)
        else:
            problem = f"none is free for {name}: {why}"
            cure = "nvidia-smi shows what uses it" if gpus else "see what it costs: onchip verify"
            yield Check("GPU", seen, "warning", problem, cure)


def _parts(names: Iterable[str], *, needed: bool = False) -> Iterable[Check]:
    """What targets need on this machine, what several of them need once."""
    wanted: dict[targets.Part, list[str]] = {}
    for name in names:
        try:
            for part in targets.get(name).parts():
                wanted.setdefault(part, []).append(name)
        except OnchipError as error:  # a broken plug-in breaks only itself
            yield Check(name, "broken", "error", str(error), error.hint or "install it again")
    for part, users in wanted.items():
        found = part.found or f"not here ({part.hint})"
        yield Check(part.name, found if needed else f"{found}, for {', '.join(users)}")


def _text(log: bytes) -> str:
    """Return a log's text without colours, and of each progress bar only the last state."""
    for mark, coding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if log.startswith(mark):  # as PowerShell writes what is piped into a file
            log = log[2:].decode(coding, errors="replace").encode()
    if b"\0" in log[:4096]:
        raise InputError("this is not a log: it is not text", "name the file that a tool wrote")
    return "\n".join(readable(line)[:MOST_LINE] for line in log.split(b"\n"))
