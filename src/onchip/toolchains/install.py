"""Install a vendor's SDK into an environment of its own, under the user's data folder.

An environment is a folder `NAME-VERSION` with a venv and `onchip.json`, which says which steps are
done: an install that was cut off goes on where it stopped. Nothing is ever installed into onchip's
own environment. An SDK that only its vendor gives out comes from the user's own wheel, which is
looked at, as the machine is, before anything is installed.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from platformdirs import user_data_path

from onchip.errors import InputError, ToolError, UnsupportedError
from onchip.progress import Progress, silent
from onchip.toolchains import machine, pins
from onchip.toolchains import wheel as user_wheel
from onchip.toolchains.known import explain
from onchip.toolchains.pins import Pin, Source, Tool, tool
from onchip.toolchains.wheel import Wheel

STATE = "onchip.json"
LOG = "install.log"

Tell = Callable[[str], None]  # is told what is no error, but worth knowing


class State(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How far an install is: the pins it follows, the steps done, and whether it was checked.

    `wheel` is the SHA-256 of the wheel that the user brought, where the SDK comes from one.
    """

    pins: str
    done: Annotated[int, Meta(ge=0)] = 0
    checked: bool = False
    wheel: str = ""


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
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    @property
    def lack(self) -> str:
        """What keeps it from use, as far as a glance shows; empty where nothing does."""
        state = self.state
        if not self.folder.exists():
            return "not installed"
        try:
            pin = tool(self.name).pin(self.version)
        except InputError:
            return "a version that this onchip no longer knows"
        if state is None or not state.checked:
            return "only half installed"
        if state.pins != pin.digest:
            return "installed from older pins"
        return "" if self.python.exists() else "without its Python"

    @property
    def mend(self) -> str:
        """The command that installs it anew, or removes one that onchip no longer knows."""
        known = tool(self.name)
        if known.wheel is not None:
            return f"onchip toolchain install {self.name} --wheel FILE"
        verb = "install" if self.version in [p.version for p in known.versions] else "remove"
        return f"onchip toolchain {verb} {self.name} --version {self.version}"

    @property
    def ready(self) -> bool:
        """Whether it was installed to the end, from the pins that onchip has now."""
        return not self.lack


def home() -> Path:
    """Return the folder that holds all environments: `ONCHIP_TOOLCHAINS`, or the user's data."""
    given = os.environ.get("ONCHIP_TOOLCHAINS")
    # absolute, for a worker runs in a folder of its own
    return Path(given).absolute() if given else user_data_path("onchip") / "toolchains"


def environment(name: str, version: str = "") -> Environment:
    """Return where a tool's environment is, or would be."""
    chosen = tool(name).pin(version).version
    return Environment(name, chosen, home() / f"{name}-{chosen}")


def ready(name: str, version: str = "") -> Environment:
    """Return a tool's environment, ready to use; the newest that is, where no version is named.

    Of a tool that comes from the user's own wheels, the beginning of a version will do: "3" or
    "3.31".

    Raises:
        ToolError: it is not installed, or only half.
    """
    known = tool(name)
    if known.wheel is not None:
        found = [e for e in installed() if e.name == name and pins.within(e.version, version)]
    else:
        versions = [version] if version else [p.version for p in known.versions]
        found = [environment(name, v) for v in versions]
    for one in found:
        if one.ready:
            return one
    there = next((e for e in found if e.folder.exists()), None)
    if there is not None:
        raise ToolError(f"{known.title} {there.version} is {there.lack}", f"run: {there.mend}")
    named = f"{known.title} {version}".strip()
    if known.wheel is not None:
        raise ToolError(f"{named} is not installed", _bring(name, known.wheel))
    command = f"run: onchip toolchain install {name}"
    raise ToolError(
        f"{named} is not installed", command + (f" --version {version}" if version else "")
    )


def _bring(name: str, source: Source) -> str:
    """Say where a wheel comes from, and what to do with it."""
    return (
        f"get {source.file} from {source.place}; then: onchip toolchain install {name} --wheel FILE"
    )


def installed() -> list[Environment]:
    """Return every environment that exists, whole or not, those of forgotten versions last."""
    found = [environment(n, p.version) for n, t in pins.tools().items() for p in t.versions]
    for name in pins.tools():
        others = [
            Environment(name, folder.name.removeprefix(f"{name}-"), folder)
            for folder in home().glob(f"{name}-[0-9]*")
        ]
        # ours only: whoever copies an environment away may lose nothing
        found += [
            one
            for one in sorted(others, key=lambda e: pins.order(e.version), reverse=True)
            if one not in found and one.log.exists() and _ours(one)
        ]
    return [e for e in found if e.folder.exists()]


def _ours(found: Environment) -> bool:
    # the install of a wheel's version that was cut off early has no record, and no pins either
    return found.state is not None or tool(found.name).wheel is not None


def install(
    name: str,
    version: str = "",
    *,
    wheel: Path | None = None,
    wheels: Path | None = None,
    python: str = "",
    progress: Progress = silent,
    tell: Tell = lambda text: None,
) -> Environment:
    """Build a tool's environment, or finish or mend the one that is there.

    Args:
        name: the tool.
        version: one that has pins; the newest where empty.
        wheel: the user's own wheel, of a tool that comes from one.
        wheels: a folder of wheels to install from, without any network.
        python: the interpreter to build on; one that fits is looked for where empty.
        progress: is told how far it is.
        tell: is told what is worth knowing, but no error.

    Raises:
        InputError: the wheel, the folder of wheels or the interpreter is not there, or another.
        UnsupportedError: the SDK does not run on this machine.
        ToolError: this machine lacks something, or a step failed; what was done before stays.
    """
    known = tool(name)
    _check_machine(known)
    if wheels is not None and not wheels.is_dir():
        raise InputError(f"{wheels} is not a folder", "name the one that holds the .whl files")
    if known.wheel is not None and wheel is None:
        return _there(name, known, known.wheel, version)
    brought = _brought(known, version, wheel) if wheel else None
    found = environment(name, brought.version if brought else version)
    pin, digest = known.pin(found.version), brought.sha256 if brought else ""
    with _writable(), _alone(found.folder, progress) as lock:
        if found.ready and _same(found, digest) and _check(found, known) is None:
            return found
        state = _resumable(found, pin, digest)
        interpreter = str(found.python)
        if state is None:
            interpreter = _interpreter(_pythons(known, pin, brought, tell), python)
        if brought is not None:
            _check_needs(known, brought, interpreter, wheels, tell)
        if state is None:
            state = _start_over(found, known, interpreter, lock, digest)
        with _named(brought) as file:
            for number in range(state.done, len(pin.steps)):
                progress("install", number, len(pin.steps))
                state = _step(found, pin, state, file, wheels, lock)
        progress("install", len(pin.steps), len(pin.steps))
        if (failure := _check(found, known)) is not None:
            (found.folder / STATE).unlink()  # going on from here would only fail again
            raise ToolError(
                f"{known.title} {found.version} was installed but does not start: {failure}",
                f"to see all of it: {found.python} -c {shlex.quote(known.check)}; "
                "the next install starts over",
            )
        _record(found, msgspec.structs.replace(state, checked=True))
    return found


def _same(found: Environment, digest: str) -> bool:
    """Whether an environment was made from the wheel of a digest; "" is no wheel."""
    state = found.state
    return state is not None and state.wheel == digest


def _there(name: str, known: Tool, source: Source, version: str) -> Environment:
    """Return the environment of an SDK whose wheel the user did not name this time.

    Raises:
        InputError: there is none that works.
    """
    try:
        found = ready(name, version)
    except ToolError as error:
        raise InputError(
            f"{known.title} comes only from its vendor, as a wheel: name yours",
            _bring(name, source),
        ) from error
    if (wrong := _check(found, known)) is not None:
        raise InputError(
            f"{known.title} {found.version} does not start ({wrong}); mending takes its wheel",
            f"run: {found.mend}",
        )
    return found


def _brought(known: Tool, version: str, path: Path) -> Wheel:
    """Return the wheel that the user named, if it is the tool's, and of that version."""
    source = known.wheel
    if source is None:
        raise InputError(f"{known.title} does not come from a wheel of yours", "leave --wheel away")
    found = user_wheel.read(path)
    wanted = f"what is wanted is {source.file}, from {source.place}"
    if found.name != known.package:
        what = source.others.get(found.name, f"the package {found.name} {found.version}")
        raise InputError(f"{path.name} is not {known.title}: it is {what}", wanted)
    if not any(found.fits(s, m) for s in known.systems for m in known.machines):
        place = ", ".join(dict.fromkeys(t.split("-")[2] for t in found.tags))
        raise UnsupportedError(f"{path.name} is for {place}", wanted)
    if not pins.within(found.version, version):
        raise InputError(
            f"{path.name} is version {found.version}, not {version}", "leave --version away"
        )
    return found


def _pythons(known: Tool, pin: Pin, brought: Wheel | None, tell: Tell) -> tuple[str, str]:
    """Return the first and the last Python that an SDK runs on."""
    if brought is None or known.wheel is None:
        return pin.python
    release = known.wheel.release(pin.version)
    if not pins.within(pin.version, release.version):
        tell(
            f"{known.title} {pin.version} is not among the versions that onchip knows "
            f"({known.wheel.known()}): it is installed all the same"
        )
    return user_wheel.python_range(brought, release.python)


def _check_needs(
    known: Tool, brought: Wheel, interpreter: str, wheels: Path | None, tell: Tell
) -> None:
    """Look whether this machine has what an SDK needs, before pip finds out.

    Raises:
        ToolError: it lacks something.
        UnsupportedError: it is of another kind.
    """
    source = known.wheel
    assert source is not None
    here, made = machine.libc(), pins.order(source.release(brought.version).libc)
    if not here:
        raise UnsupportedError(
            f"{known.title} needs a Linux with glibc", "its vendor supports Ubuntu"
        )
    if lacking := _missing_headers(source, brought, interpreter, wheels):
        raise ToolError(f"{known.title} needs {' and '.join(lacking)} on this machine", source.cure)
    if here < made:
        tell(
            f"glibc here is {_dotted(here)}; {known.title} {brought.version} is made for "
            f"{_dotted(made)}, and may not start"
        )
    memory = machine.memory_mb()
    if 0 < memory < source.memory_mb:
        tell(f"{memory} MB of memory are few for {known.title}: {source.memory_mb} are advised")
    gpus = machine.gpus()
    if not any(g.free for g in gpus):
        seen = "; ".join(g.describe() for g in gpus) or "there is none"
        tell(f"no free NVIDIA GPU ({seen}): {source.gpu}")


def _missing_headers(
    source: Source, brought: Wheel, interpreter: str, wheels: Path | None
) -> list[str]:
    """Return the headers that are missing for what pip must compile, or the compiler."""
    built = [
        headers
        for package, headers in source.headers.items()
        if package in brought.requires
        and not (wheels and any(wheels.glob(f"{package.replace('-', '_')}-*.whl")))
    ]
    if not built:
        return []
    compiler = machine.c_compiler(interpreter, settings())
    if not compiler.there:
        return [f"a C compiler ({compiler.command[0]})"]
    return [f"the header {h}" for headers in built for h in headers if not compiler.finds(h)]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@contextmanager
def _named(brought: Wheel | None) -> Iterator[str]:
    """Give a wheel the name that pip insists on, whatever the download called it."""
    if brought is None:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="onchip-") as folder:
        link = Path(folder) / brought.file
        link.symlink_to(brought.path.absolute())
        yield str(link)


def remove(name: str, version: str = "", progress: Progress = silent) -> list[Environment]:
    """Remove a tool's environments, or one version's, and return what was removed.

    Raises:
        InputError: there is none.
    """
    title = tool(name).title
    found = [e for e in installed() if e.name == name and version in ("", e.version)]
    if not found:
        named = f"{title} {version}".strip()
        raise InputError(f"{named} is not installed", "see: onchip toolchain list")
    for one in found:
        with _writable(), _alone(one.folder, progress):
            (one.folder / STATE).unlink(missing_ok=True)  # from here on it is not ready
            if one.folder.exists():  # another may have removed it while we waited
                shutil.rmtree(one.folder)
    return found


def doctor(found: Environment) -> str | None:
    """Return what is wrong with an environment, or None."""
    return found.lack or _check(found, tool(found.name))


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


def _interpreter(pythons: tuple[str, str], given: str) -> str:
    """Return a Python that the SDK runs on: the given one, ours, or one on the path."""
    low, high = (tuple(int(n) for n in v.split(".")) for v in pythons)
    wanted = f"Python {' to '.join(pythons)}" if low < high else f"Python {pythons[0]}"
    if given:
        path = shutil.which(given)
        if path is None:
            raise InputError(f"no interpreter called {given!r}", f"{wanted} is needed")
        version = _version(path)
        if not version:
            raise InputError(f"{given} is not a Python that runs", f"{wanted} is needed")
        if not low <= version <= high:
            raise InputError(
                f"{given} is Python {'.'.join(map(str, version))}", f"{wanted} is needed"
            )
        return path
    if low <= sys.version_info[:2] <= high:
        return sys.executable
    for minor in range(high[1], low[1] - 1, -1):
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
            path = shutil.which(f"python3.{minor}", path=folder)
            if path and low <= _version(path) <= high:  # a version manager's may not run
                return path
    raise ToolError(
        f"the SDK needs {wanted}, and none was found", "install one, or name it: --python PATH"
    )


def _version(path: str) -> tuple[int, ...]:
    """Return a Python's version; empty where it is none, or does not run."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [path, "-I", "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return tuple(int(n) for n in done.stdout.split())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ()


@contextmanager
def _writable() -> Iterator[None]:
    """Say of a folder that cannot be written what to do about it."""
    try:
        home().mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ToolError(
            f"cannot write {error.filename or home()}: {error.strerror or error}",
            "make room or give leave there, or set ONCHIP_TOOLCHAINS to a folder elsewhere",
        ) from error


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[int]:
    """Wait until no other process works on this environment; yield the lock to pass on."""
    import fcntl

    path = folder.parent / f"{folder.name}.lock"
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for another install", 0, 0)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is(file.fileno(), path):
                continue  # whoever held it has removed it: it locks nobody out any more
            try:
                yield file.fileno()
            finally:
                path.unlink(missing_ok=True)
            return


def _is(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _resumable(found: Environment, pin: Pin, digest: str = "") -> State | None:
    """Return how far an install came that was cut off, if it can go on from there."""
    state = found.state
    if state is None or state.checked or state.pins != pin.digest or state.wheel != digest:
        return None
    if not _version(str(found.python)):
        return None
    for half in found.folder.glob("venv/lib/*/site-packages/*.dist-info"):
        # pip writes RECORD last; a package without it looks installed to the next pip
        if not (half / "RECORD").exists():
            shutil.rmtree(half)
    return state


def _start_over(found: Environment, known: Tool, interpreter: str, lock: int, digest: str) -> State:
    if found.folder.exists():
        (found.folder / STATE).unlink(missing_ok=True)  # it must not speak for what comes now
        shutil.rmtree(found.folder)
    _check_space(home(), known)
    found.folder.mkdir()
    command = [interpreter, "-I", "-m", "venv", str(found.folder / "venv")]
    _run(found, command, "making the environment", lock)
    state = State(pins=known.pin(found.version).digest, wheel=digest)
    _record(found, state)
    return state


def _step(
    found: Environment, pin: Pin, state: State, file: str, wheels: Path | None, lock: int
) -> State:
    step = pin.steps[state.done]
    packages = [file if p == pins.WHEEL else p for p in step.packages]
    command = [str(found.python), "-I", "-m", "pip", "install", "--no-input"]
    command += ["--disable-pip-version-check"]
    command += [] if step.dependencies else ["--no-deps"]
    if wheels is not None:
        command += ["--no-index", "--find-links", str(wheels.resolve())]
    what = ", ".join(Path(p).name for p in packages[:3])
    _run(found, [*command, *packages], f"installing {what}", lock)
    state = msgspec.structs.replace(state, done=state.done + 1)
    _record(found, state)
    return state


def _run(found: Environment, command: list[str], what: str, lock: int) -> None:
    """Run one command of an install.

    It holds the lock too: where onchip is killed, it goes on alone, and the next install waits
    for its end.
    """
    with found.log.open("ab") as log:
        before = log.tell()
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=settings(),
            pass_fds=(lock,),
            check=False,
        )
    if done.returncode:
        said = found.log.read_bytes()[before:].decode(errors="replace")
        causes = [v.message for t in (found.name, "pip") for v in explain(t, said)]
        hints = [*causes[:1], f"the whole log is {found.log}", "the next try goes on from here"]
        raise ToolError(f"{what} failed: {_reason(said, done.returncode)}", "; ".join(hints))


def settings() -> dict[str, str]:
    """Return the environment variables for an SDK's Python: none leads packages elsewhere."""
    elsewhere = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_PYTHON", "PIP_DRY_RUN"}
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k not in elsewhere
    }
    return kept | {"PIP_USER": "0"}  # a pip.conf may say "user"


def _reason(said: str, code: int) -> str:
    """Return the last line of a log that says what went wrong."""
    if code < 0:
        return f"it was ended by signal {-code}"
    lines = said.splitlines()
    errors = [x.removeprefix("ERROR: ") for x in lines if x.startswith(("ERROR", "OSError"))]
    return errors[-1] if errors else (lines[-1] if lines else "no reason given")


def _check(found: Environment, known: Tool) -> str | None:
    """Start the SDK, and return why that does not work."""
    try:
        done = subprocess.run(
            [str(found.python), "-I", "-c", known.check],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            env=settings(),
            cwd=found.folder,  # not the user's, whose files may be named like the SDK's modules
            check=False,
        )
    except OSError as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return "it hung"
    lines = done.stderr.strip().splitlines()
    if not done.returncode:
        return None
    return lines[-1] if lines else f"no reason given, exit code {done.returncode}"


def _record(found: Environment, state: State) -> None:
    path = found.folder / STATE
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(state))
    temporary.replace(path)
