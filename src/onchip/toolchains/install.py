"""Install a vendor's SDK into an environment of its own, under the user's data folder.

An environment is a folder `NAME-VERSION` with a venv and `onchip.json`, which says which steps are
done: an install that was cut off goes on where it stopped. Nothing is ever installed into onchip's
own environment.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct
from platformdirs import user_data_path

from onchip.errors import InputError, ToolError, UnsupportedError
from onchip.toolchains.pins import Pin, Tool, tool, tools

STATE = "onchip.json"
LOG = "install.log"

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


class State(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far an install is: the pins it follows, the steps done, and whether it was checked."""

    pins: str
    done: int = 0
    checked: bool = False


@dataclass(frozen=True)
class Environment:
    """One SDK's own Python."""

    name: str
    version: str
    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter to run the SDK with."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def log(self) -> Path:
        """What pip said."""
        return self.folder / LOG

    @property
    def state(self) -> State | None:
        """How far its install is; None where there is none, or its record is unreadable."""
        try:
            return msgspec.json.decode((self.folder / STATE).read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError):
            return None

    @property
    def ready(self) -> bool:
        """Whether it was installed to the end, from the pins that onchip has now."""
        state = self.state
        pins = tool(self.name).pin(self.version).digest
        return state is not None and state.checked and state.pins == pins and self.python.exists()


def home() -> Path:
    """Return the folder that holds all environments: `ONCHIP_TOOLCHAINS`, or the user's data."""
    given = os.environ.get("ONCHIP_TOOLCHAINS")
    return Path(given) if given else user_data_path("onchip") / "toolchains"


def environment(name: str, version: str = "") -> Environment:
    """Return where a tool's environment is, or would be."""
    chosen = tool(name).pin(version).version
    return Environment(name, chosen, home() / f"{name}-{chosen}")


def ready(name: str, version: str = "") -> Environment:
    """Return a tool's environment, ready to use; the newest that is, where no version is named.

    Raises:
        ToolError: it is not installed, or only half.
    """
    versions = [version] if version else [p.version for p in tool(name).versions]
    for one in versions:
        if (found := environment(name, one)).ready:
            return found
    half = any(environment(name, v).folder.exists() for v in versions)
    what = "is only half installed" if half else "is not installed"
    raise ToolError(f"{tool(name).title} {what}", f"run: onchip toolchain install {name}")


def installed() -> list[Environment]:
    """Return every environment that exists, whole or not."""
    found = [environment(n, p.version) for n, t in tools().items() for p in t.versions]
    return [e for e in found if e.folder.exists()]


def install(
    name: str,
    version: str = "",
    *,
    wheels: Path | None = None,
    python: str = "",
    progress: Progress = lambda what, done, total: None,
) -> Environment:
    """Build a tool's environment, or finish or mend the one that is there.

    Args:
        name: the tool.
        version: one that has pins; the newest where empty.
        wheels: a folder of wheels to install from, without any network.
        python: the interpreter to build on; one that fits is looked for where empty.
        progress: is told how far it is.

    Raises:
        InputError: the folder of wheels or the interpreter is not there.
        UnsupportedError: the SDK does not run on this machine.
        ToolError: a step failed; what was done before stays.
    """
    known, found = tool(name), environment(name, version)
    pin = known.pin(found.version)
    _check_machine(known)
    if wheels is not None and not wheels.is_dir():
        raise InputError(f"{wheels} is not a folder of wheels")
    interpreter = _interpreter(pin, python)
    found.folder.mkdir(parents=True, exist_ok=True)
    with _alone(found.folder, progress):
        if found.ready and _check(found, known) is None:
            return found
        state = found.state
        if state is None or state.pins != pin.digest or state.checked or not found.python.exists():
            _start_over(found, interpreter, pin)
        _check_space(found.folder, known)
        for number in range((found.state or State(pins="")).done, len(pin.steps)):
            progress("install", number, len(pin.steps))
            _step(found, pin, number, wheels)
        progress("install", len(pin.steps), len(pin.steps))
        if (failure := _check(found, known)) is not None:
            raise ToolError(
                f"{known.title} {found.version} was installed but does not start: {failure}",
                f"see {found.log}; then: onchip toolchain remove {name}, and install again",
            )
        _record(found, State(pins=pin.digest, done=len(pin.steps), checked=True))
    return found


def remove(name: str, version: str = "") -> list[Environment]:
    """Remove a tool's environments, or one version's, and return what was removed.

    Raises:
        InputError: there is none.
    """
    wanted = tool(name).pin(version).version if version else ""
    found = [e for e in installed() if e.name == name and wanted in ("", e.version)]
    if not found:
        raise InputError(f"{name} {version}".strip() + " is not installed")
    for one in found:
        with _alone(one.folder, lambda what, done, total: None):
            (one.folder / STATE).unlink(missing_ok=True)  # from here on it is not ready
            shutil.rmtree(one.folder)
    return found


def doctor(found: Environment) -> str | None:
    """Return what is wrong with an environment, or None."""
    if not found.ready:
        return "the install did not finish, or follows older pins"
    return _check(found, tool(found.name))


def _check_machine(known: Tool) -> None:
    here = (platform.system(), platform.machine())
    if here[0] not in known.systems or here[1] not in known.machines:
        raise UnsupportedError(
            f"{known.title} does not run on {' '.join(here)}",
            f"it runs on {', '.join(known.systems)} with {' or '.join(known.machines)}",
        )


def _check_space(folder: Path, known: Tool) -> None:
    free = shutil.disk_usage(folder).free >> 20
    if free < known.space_mb:
        raise ToolError(
            f"{known.title} needs {known.space_mb} MB, but {folder} has only {free} MB free",
            "make room, or set ONCHIP_TOOLCHAINS to a folder elsewhere",
        )


def _interpreter(pin: Pin, given: str) -> str:
    """Return a Python that the SDK runs on: the given one, ours, or one on the path."""
    low, high = (tuple(int(n) for n in v.split(".")) for v in pin.python)
    wanted = f"Python {pin.python[0]} to {pin.python[1]}"
    if given:
        path = shutil.which(given)
        if path is None:
            raise InputError(f"no interpreter called {given!r}", f"{wanted} is needed")
        if not low <= _version(path) <= high:
            found = ".".join(map(str, _version(path)))
            raise InputError(f"{given} is Python {found}", f"{wanted} is needed")
        return path
    if low <= sys.version_info[:2] <= high:
        return sys.executable
    for minor in range(high[1], low[1] - 1, -1):
        if path := shutil.which(f"python3.{minor}"):
            return path
    raise ToolError(
        f"the SDK needs {wanted}, and none was found", "install one, or name it: --python PATH"
    )


def _version(path: str) -> tuple[int, ...]:
    code = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    try:
        return tuple(int(n) for n in done.stdout.split())
    except ValueError:
        return ()


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Wait until no other process works on this environment."""
    import fcntl

    lock = folder.parent / f"{folder.name}.lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another install", 0, 0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start_over(found: Environment, interpreter: str, pin: Pin) -> None:
    shutil.rmtree(found.folder / "venv", ignore_errors=True)
    found.log.unlink(missing_ok=True)
    _run(found, [interpreter, "-m", "venv", str(found.folder / "venv")], "making the environment")
    _record(found, State(pins=pin.digest))


def _step(found: Environment, pin: Pin, number: int, wheels: Path | None) -> None:
    step = pin.steps[number]
    command = [str(found.python), "-m", "pip", "install", "--disable-pip-version-check"]
    command += [] if step.dependencies else ["--no-deps"]
    if wheels is not None:
        command += ["--no-index", "--find-links", str(wheels.resolve())]
    _run(found, [*command, *step.packages], f"installing {', '.join(step.packages[:3])}")
    _record(found, State(pins=pin.digest, done=number + 1))


def _run(found: Environment, command: list[str], what: str) -> None:
    # a PYTHONPATH of the caller must not leak in
    settings = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    with found.log.open("ab") as log:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=settings, check=False
        )
    if done.returncode:
        raise ToolError(
            f"{what} failed: {_reason(found.log)}",
            f"the whole log is {found.log}; without a network: --wheels FOLDER; "
            "the next try goes on from here",
        )


def _reason(log: Path) -> str:
    """Return the last line of a log that says what went wrong."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [x.removeprefix("ERROR: ") for x in lines if x.startswith(("ERROR", "OSError"))]
    return errors[-1] if errors else (lines[-1] if lines else "no reason given")


def _check(found: Environment, known: Tool) -> str | None:
    """Start the SDK, and return why that does not work."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [str(found.python), "-c", known.check],
            capture_output=True,
            text=True,
            timeout=300,
            env=settings,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else "no reason given") if done.returncode else None


def _record(found: Environment, state: State) -> None:
    path = found.folder / STATE
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(state))
    temporary.replace(path)
