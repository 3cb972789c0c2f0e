"""Vendor SDKs' environments and workers, with a tiny SDK made here: no network, no vendor."""

import fcntl
import io
import json
import os
import platform
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import tracemalloc
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onchip.cli.app import run
from onchip.errors import InputError, OnchipError, ToolError
from onchip.toolchains import install as toolchains
from onchip.toolchains import known, machine, pins
from onchip.toolchains import wheel as user_wheel
from onchip.toolchains.inside import wire
from onchip.toolchains.install import Environment, State
from onchip.toolchains.worker import MOST_LOG, Worker, readable

HERE = ".".join(map(str, sys.version_info[:2]))
NEWEST, OLDER = "2.0", "1.0"
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="the SDKs, and so these tests, need Linux"
)


# --- a tiny SDK


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """Write a wheel by hand: a zip with the files and three of metadata."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{n},,\n" for n in [*files, *meta, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as file:
        for inside, text in (files | meta | {f"{info}/RECORD": record}).items():
            file.writestr(inside, text)
    return path


def wheels_in(folder: Path) -> Path:
    folder.mkdir()
    for version in (NEWEST, OLDER):
        code = "import fakedep\ndef start():\n    assert fakedep.GOOD\n"
        wheel(folder, "fakesdk", version, {"fakesdk.py": code})
    wheel(folder, "fakedep", "1.0", {"fakedep.py": "GOOD = True\n"})
    # the worker needs numpy and msgspec, which are real: let it see those that run this test
    paths = "".join(f"{sysconfig.get_path(n)}\n" for n in ("purelib", "platlib"))
    wheel(folder, "fakenumpy", "1.0", {"fakenumpy.pth": paths})
    return folder


def table(**changes: Any) -> dict[str, pins.Tool]:
    versions = [
        {
            "version": version,
            "python": (HERE, HERE),
            "steps": [
                {"packages": [f"fakesdk=={version}"], "dependencies": False},
                {"packages": ["fakedep==1.0"]},
                {"packages": ["fakenumpy==1.0"]},
            ],
        }
        for version in (NEWEST, OLDER)
    ]
    fake = {
        "title": "Fake SDK",
        "package": "fakesdk",
        "machines": [platform.machine()],
        "systems": [platform.system()],
        "space_mb": 1,
        "check": "import fakesdk; fakesdk.start()",
        "versions": versions,
    }
    return msgspec.convert({"fake": fake | changes}, dict[str, pins.Tool])


def use(monkeypatch: pytest.MonkeyPatch, tools: dict[str, pins.Tool]) -> None:
    monkeypatch.setattr(pins, "tools", lambda: tools)


def python_changed(low: str, high: str) -> dict[str, pins.Tool]:
    one = {"version": NEWEST, "python": (low, high), "steps": []}
    return table(versions=[one])


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels_in(tmp_path_factory.mktemp("wheels") / "räder 1")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake SDK is the only one, and pip is set to nothing of this machine's."""
    use(monkeypatch, table())
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    """The one install from nothing, in and through folders with spaces and more than ASCII."""
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        use(patch, table())
        for folder in ("tööl chains", "tmp dör"):
            (base / folder).mkdir()
        patch.setenv("ONCHIP_TOOLCHAINS", str(base / "tööl chains"))
        patch.setenv("TMPDIR", str(base / "tmp dör"))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        # what a user may have set, and what would put the packages elsewhere
        patch.setenv("PIP_TARGET", str(base / "elsewhere"))
        patch.setenv("PIP_USER", "1")
        patch.setenv("PYTHONPATH", str(base / "nowhere"))
        told: list[tuple[str, int, int]] = []
        found = toolchains.install("fake", wheels=wheels, progress=lambda *a: told.append(a))
    assert told == [("install", n, 3) for n in range(4)]
    assert list((base / "tmp dör").iterdir()) == []
    return found


class Home:
    """A folder of toolchains of a test's own."""

    def __init__(self, folder: Path, made: Environment) -> None:
        self.folder = folder
        self._made = made

    def whole(self, version: str = NEWEST) -> Environment:
        """Put a whole environment there."""
        found = toolchains.environment("fake", version)
        shutil.copytree(self._made.folder, found.folder, symlinks=True, copy_function=self._put)
        self.at(found, 3, checked=True)
        return found

    def _put(self, old: str, new: str) -> str:
        """Copy what changes; link the thousand files of pip, which are only ever replaced."""
        shutil.copy(old, new) if Path(old).parent == self._made.folder else os.link(old, new)
        return new

    def half(self, done: int, version: str = NEWEST) -> Environment:
        """Put an environment there whose install was cut off."""
        found = self.whole(version)
        for name in ("fakesdk", "fakedep", "fakenumpy")[done:]:
            for path in site(found).glob(f"{name}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.at(found, done)
        return found

    def at(self, found: Environment, done: int, checked: bool = False) -> None:
        digest = pins.tool("fake").pin(found.version).digest
        state = State(pins=digest, done=done, checked=checked)
        (found.folder / "onchip.json").write_bytes(msgspec.json.encode(state))


@pytest.fixture
def home(made: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    folder = tmp_path / "toolchains"
    folder.mkdir()
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", str(folder))
    return Home(folder, made)


def site(found: Environment) -> Path:
    return found.folder / "venv" / "lib" / f"python{HERE}" / "site-packages"


def executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class Said:
    """Runs a command here, and keeps what it says."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        self._capfd.readouterr()
        got = run(["toolchain", *map(str, arguments)])
        out, err = self._capfd.readouterr()
        assert got == code, (out, err)
        if code and "--json" not in arguments:
            lines = [x for x in err.splitlines() if x]
            assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1][:2] == "  ", err
        return out, err


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    return Said(capfd)


MAIN = """
import sys
from pathlib import Path
import msgspec
from onchip.cli.app import run
from onchip.toolchains import pins
tools = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=dict[str, pins.Tool])
pins.tools = lambda: tools
sys.exit(run(["toolchain", *sys.argv[2:]]))
"""


class Elsewhere:
    """Runs a command in a process and a group of its own."""

    def __init__(self, folder: Path) -> None:
        self._main, self._pins = folder / "main.py", folder / "pins.json"
        self._main.write_text(MAIN)
        self._pins.write_bytes(msgspec.json.encode(table()))
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, *arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, str(self._main), str(self._pins), *map(str, arguments)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        self.started.append(process)
        return process


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Elsewhere]:
    processes = Elsewhere(tmp_path)
    yield processes
    for one in processes.started:
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


def ends(process: "subprocess.Popen[str]", code: int = 0) -> str:
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err
    return out + err


def until(condition: Callable[[], Any], seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)
    return found


def group(number: int) -> int:
    """The group of a process that lives, or -1."""
    try:
        state, _, found = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return -1
    return -1 if state == "Z" else int(found)


def alive(number: int) -> bool:
    return group(number) >= 0


def blocked(process: "subprocess.Popen[str]", path: Path) -> int:
    """Wait until the child of a process waits at a pipe in place of a wheel; return its number."""

    def child() -> int:
        numbers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for number in numbers:
            # it sleeps where the kernel opens a pipe without a writer, or else it has no wheel yet
            if "pip" in Path(f"/proc/{number}/cmdline").read_text():
                log = next(path.parent.parent.glob("toolchains/*/install.log")).read_text()
                if f"Processing {path}" in log:
                    return int(number)
        return 0

    return int(until(child))


@pytest.fixture
def stuck(wheels: Path, tmp_path: Path) -> Path:
    """A folder of wheels in which pip stops at fakedep: a pipe into which nobody writes."""
    folder = tmp_path / "stuck"
    shutil.copytree(wheels, folder)
    path = folder / "fakedep-1.0-py3-none-any.whl"
    path.unlink()
    os.mkfifo(path)
    return path


def nothing_left(folder: Path) -> bool:
    return not [p.name for p in folder.iterdir()]


# --- install, list, doctor, remove


def test_pins_are_sound() -> None:
    found = msgspec.toml.decode(
        Path(pins.__file__).with_suffix(".toml").read_bytes(), type=dict[str, pins.Tool]
    )
    for tool in found.values():
        assert bool(tool.versions) != bool(tool.wheel)
        for pin in tool.versions:
            packages = [p for step in pin.steps for p in step.packages]
            assert all("==" in p for p in packages)
            assert f"{tool.package}=={pin.version}" in packages
            assert any(p.startswith("msgspec==") for p in packages)
            assert len({p for p in packages if p.startswith("numpy")}) == 1
            assert tool.pin(pin.version) is pin
    assert len({p.digest for t in found.values() for p in t.versions}) == 2


def test_installed_from_nothing_is_ready_and_leaves_nothing_beside(made: Environment) -> None:
    assert made.ready and toolchains.doctor(made) is None
    assert sorted(p.name for p in made.folder.parent.iterdir()) == [f"fake-{NEWEST}"]
    assert sorted(p.name for p in made.folder.iterdir()) == ["install.log", "onchip.json", "venv"]
    assert (site(made) / "fakesdk.py").exists()


def test_list_doctor_remove(home: Home, said: Said) -> None:
    assert "Fake SDK, 1 MB: not installed" in said("list")[0]
    assert json.loads(said("list", "--json")[0]) == {"toolchains": []}
    found = home.whole()
    home.whole(OLDER)
    assert said("list")[0].splitlines() == [
        f"fake     {v}      ready  {home.folder / f'fake-{v}'}" for v in (NEWEST, OLDER)
    ]
    row = {"name": "fake", "version": NEWEST, "folder": str(found.folder)}
    good = row | {"ready": True, "problem": None}
    assert json.loads(said("doctor", "fake", "--version", NEWEST, "--json")[0]) == {
        "toolchains": [good]
    }
    assert "ready" in said("doctor")[0]
    removed = json.loads(said("remove", "fake", "--version", NEWEST, "--json")[0])
    assert removed == {"toolchains": [row | {"ready": False, "problem": None}]}
    assert [p.name for p in home.folder.iterdir()] == [f"fake-{OLDER}"]
    assert "removed" in said("remove", "fake")[0]
    assert nothing_left(home.folder)
    assert "Fake SDK is not installed" in said("remove", "fake", code=2)[1]


def test_names_that_are_wrong(home: Home, said: Said) -> None:
    for action in ("install", "list", "remove", "doctor"):
        assert "allowed are fake" in said(action, "hailo", code=2)[1]
    assert "install which?" in said("install", code=2)[1]
    assert "allowed are 2.0, 1.0" in said("install", "fake", "--version", "9", code=2)[1]
    out = said("install", "hailo", "--json", code=2)[0]
    assert json.loads(out)["error"]["code"] == "input"
    assert nothing_left(home.folder)


def test_doctor_of_one_that_is_not_there(home: Home, said: Said) -> None:
    assert "onchip toolchain install fake" in said("doctor", "fake", code=4)[1]
    home.whole()
    assert f"Fake SDK {OLDER} is not" in said("doctor", "fake", "--version", OLDER, code=4)[1]


def test_a_second_install_does_nothing(home: Home, said: Said, monkeypatch: Any) -> None:
    found = home.whole()
    before = (found.folder / "onchip.json").stat().st_mtime_ns, found.log.stat().st_size
    # not even a Python that fits is needed
    monkeypatch.setattr(toolchains, "_interpreter", None)
    assert "ready" in said("install", "fake")[0]
    assert before == ((found.folder / "onchip.json").stat().st_mtime_ns, found.log.stat().st_size)
    assert [p.name for p in home.folder.iterdir()] == [f"fake-{NEWEST}"]


def test_the_newest_ready_one_is_used(home: Home) -> None:
    home.half(1)
    older = home.whole(OLDER)
    assert toolchains.ready("fake") == older
    with pytest.raises(ToolError, match=r"2\.0 is only half installed") as caught:
        toolchains.ready("fake", NEWEST)
    assert caught.value.hint == "run: onchip toolchain install fake --version 2.0"


def test_files_of_the_user_do_not_come_in_the_way(
    home: Home, said: Said, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files beside the user are named like modules of the SDK, of pip and of Python."""
    home.half(1)
    for name in ("fakesdk", "fakedep", "pip", "logging", "zipfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", "toolchains")
    assert "ready" in said("install", "fake", "--wheels", wheels)[0]
    assert toolchains.ready("fake").folder.is_absolute()


# --- what breaks


def lose_file(found: Environment) -> None:
    (site(found) / "fakedep.py").unlink()


def lose_python(found: Environment) -> None:
    found.python.unlink()


def damage_python(found: Environment) -> None:
    found.python.unlink()
    found.python.write_bytes(b"\x7fELF nonsense")
    found.python.chmod(0o755)


def damage_record(found: Environment) -> None:
    (found.folder / "onchip.json").write_bytes(b'{"pins": "\xff')


def nonsense_record(found: Environment) -> None:
    (found.folder / "onchip.json").write_text('{"pins": "x", "done": -7, "checked": true}')


def older_pins(found: Environment) -> None:
    (found.folder / "onchip.json").write_text('{"pins": "x", "done": 3, "checked": true}')


BROKEN = {
    lose_python: "without its Python",
    damage_record: "only half installed",
    nonsense_record: "only half installed",
    older_pins: "installed from older pins",
    lose_file: "ModuleNotFoundError: No module named 'fakedep'",
    damage_python: "Exec format error",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda d: d.__name__)
def test_broken_is_seen_and_refused(
    damage: Callable[[Environment], None], home: Home, said: Said
) -> None:
    damage(home.whole())
    out, err = said("doctor", code=4)
    assert BROKEN[damage] in out
    assert "mend with: onchip toolchain install fake --version 2.0" in err
    seen = json.loads(said("doctor", "--json", code=4)[0])
    assert seen["toolchains"][0]["problem"] and not seen["toolchains"][0]["ready"]
    assert "1 of 1 toolchains do not work" in seen["error"]["message"]
    if damage in (lose_file, damage_python):
        return  # a glance does not show it: the worker says it, see below
    with pytest.raises(ToolError) as caught:
        toolchains.ready("fake")
    assert BROKEN[damage] in str(caught.value)
    assert caught.value.hint == "run: onchip toolchain install fake --version 2.0"
    assert BROKEN[damage] in said("list")[0]


@pytest.mark.parametrize("damage", [lose_file, damage_python], ids=lambda d: d.__name__)
def test_broken_in_its_depth_is_told_by_the_worker(
    damage: Callable[[Environment], None], home: Home, tmp_path: Path
) -> None:
    found = home.whole()
    damage(found)
    calls = tmp_path / "calls.py"
    calls.write_text("import fakesdk\nclass Calls:\n    def __init__(self, p): pass")
    with pytest.raises(ToolError, match=r"does not start: .*(fakedep|Exec format)") as caught:
        Worker(found, calls, "fake").call("start")
    assert caught.value.hint == "mend it: onchip toolchain install fake --version 2.0"
    assert "\n" not in str(caught.value)


def test_install_mends(home: Home, said: Said, wheels: Path) -> None:
    found = home.whole()
    lose_file(found)
    assert "ready" in said("install", "fake", "--wheels", wheels)[0]
    assert toolchains.doctor(found) is None


@pytest.mark.parametrize(
    "damage", [d for d in BROKEN if d is not lose_file], ids=lambda d: d.__name__
)
def test_what_install_would_begin_anew(damage: Callable[[Environment], None], home: Home) -> None:
    found = home.half(2)
    pin = pins.tool("fake").pin()
    assert toolchains._resumable(found, pin) == State(pins=pin.digest, done=2)
    damage(found)
    assert toolchains._resumable(found, pin) is None


def test_a_forgotten_version_is_listed_and_can_be_removed(home: Home, said: Said) -> None:
    found = home.whole()
    shutil.copytree(found.folder, home.folder / "fake-0.9", symlinks=True)
    (home.folder / "fake-notes").mkdir()  # somebody else's
    assert "no longer knows" in said("list")[0]
    assert "onchip toolchain remove fake --version 0.9" in said("doctor", code=4)[1]
    said("remove", "fake", "--version", "0.9")
    assert sorted(p.name for p in home.folder.iterdir()) == [f"fake-{NEWEST}", "fake-notes"]


def test_installed_but_it_does_not_start(
    home: Home, said: Said, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = home.half(2)
    use(
        monkeypatch, table(check="import sys; sys.stderr.buffer.write(b'\\xff no\\n'); sys.exit(1)")
    )
    err = said("install", "fake", "--wheels", wheels, code=4)[1]
    assert (
        "installed but does not start: \ufffd no" in err and "the next install starts over" in err
    )
    assert found.state is None
    use(monkeypatch, table(check="import os; os.abort()"))
    assert toolchains._check(found, pins.tool("fake")) == "no reason given, exit code -6"


# --- what is missing


def test_no_network_and_no_wheels(home: Home, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    found = home.half(1)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    err = said("install", "fake", code=4)[1]
    assert "No matching distribution found for fakedep==1.0" in err
    assert "the package index cannot be reached" in err and "--wheels FOLDER" in err
    assert str(found.log) in err
    assert found.state == State(pins=pins.tool("fake").pin().digest, done=1)


def test_a_wheel_is_missing_or_damaged(
    home: Home, said: Said, wheels: Path, tmp_path: Path
) -> None:
    found = home.half(1)
    some = tmp_path / "some"
    shutil.copytree(wheels, some)
    path = some / "fakedep-1.0-py3-none-any.whl"
    path.unlink()
    err = said("install", "fake", "--wheels", some, code=4)[1]
    assert "found for fakedep==1.0" in err and "into the folder that --wheels names" in err
    path.write_bytes(b"PK not a zip")
    err = said("install", "fake", "--wheels", some, code=4)[1]
    assert "a wheel is damaged: download it again" in err
    assert found.state is not None and found.state.done == 1
    assert (
        "none is not a folder" in said("install", "fake", "--wheels", tmp_path / "none", code=2)[1]
    )
    assert "ready" in said("install", "fake", "--wheels", wheels)[0]


@pytest.mark.parametrize("found", ["3.1", "3.99"])
def test_no_python_that_fits(
    found: str, home: Home, said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, python_changed(found, found))
    # as a version manager has it: the name is there, the Python is not
    executable(tmp_path / f"python{found}", "echo not installed; exit 127")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    err = said("install", "fake", code=4)[1]
    assert f"needs Python {found}, and none was found" in err and "--python PATH" in err
    err = said("install", "fake", "--python", sys.executable, code=2)[1]
    assert f"is Python {HERE}" in err and f"Python {found} is needed" in err
    assert nothing_left(home.folder)


def test_a_python_that_is_none(home: Home, said: Said, tmp_path: Path) -> None:
    wrong = {
        tmp_path / "missing": "no interpreter called",
        tmp_path: "no interpreter called",
        executable(tmp_path / "other", "echo hello"): "is not a Python that runs",
        tmp_path / "binary": "is not a Python that runs",
    }
    (tmp_path / "binary").write_bytes(b"\x7fELF")
    (tmp_path / "binary").chmod(0o755)
    for path, text in wrong.items():
        assert text in said("install", "fake", "--python", path, code=2)[1]
    assert nothing_left(home.folder)


def test_a_python_that_cannot_make_environments(home: Home, said: Said, tmp_path: Path) -> None:
    said_by_debian = "created successfully because ensurepip is not\navailable.  On Debian"
    text = f'[ "$3" = venv ] || exec {shlex.quote(sys.executable)} "$@"; echo "{said_by_debian}"; exit 1'
    err = said("install", "fake", "--python", executable(tmp_path / "python", text), code=4)[1]
    assert "this Python cannot make environments" in err and "python3-venv" in err
    assert "only half installed" in said("list")[0]
    said("remove", "fake")
    assert nothing_left(home.folder)


def test_another_machine(home: Home, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    err = said("install", "fake", code=3)[1]
    assert "Fake SDK does not run on Darwin arm64" in err and "it runs on Linux with" in err
    assert nothing_left(home.folder)


def test_no_room(home: Home, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9 << 20, 9 << 20, 1000))
    err = said("install", "fake", code=4)[1]
    assert "needs 1 MB" in err and "only 0 MB free" in err and "ONCHIP_TOOLCHAINS" in err
    assert nothing_left(home.folder)


def test_room_is_not_asked_for_twice(
    home: Home, said: Said, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.half(2)
    monkeypatch.setattr(shutil, "disk_usage", None)
    assert "ready" in said("install", "fake", "--wheels", wheels)[0]


def test_the_disk_fills_up_under_pip(home: Home, said: Said, wheels: Path) -> None:
    found = home.half(1)
    real = found.python.readlink()
    found.python.unlink()
    full = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    text = f'[ "$3" = pip ] || exec {shlex.quote(str(real))} "$@"; echo "{full}"; exit 1'
    executable(found.python, text)
    err = said("install", "fake", "--wheels", wheels, code=4)[1]
    assert "No space left on device" in err and "a disk is full" in err and "TMPDIR" in err
    assert found.state is not None and found.state.done == 1
    executable(found.python, f'[ "$3" = pip ] || exec {shlex.quote(str(real))} "$@"; kill -9 $$')
    err = said("install", "fake", "--wheels", wheels, code=4)[1]
    assert "installing fakedep==1.0 failed: it was ended by signal 9" in err
    assert "disk is full" not in err  # that was the try before


def test_a_home_that_cannot_be_written(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", str(tmp_path / "file" / "toolchains"))
    err = said("install", "fake", code=4)[1]
    assert f"cannot write {tmp_path / 'file'}" in err and "ONCHIP_TOOLCHAINS" in err
    assert "not installed" in said("list")[0]
    assert "is not installed" in said("doctor", "fake", code=4)[1]


# --- an SDK that only its vendor gives out

REAL = pins.tools()
PLACE = f"linux_{platform.machine()}"
CLOSED = {
    "title": "Closed Compiler",
    "package": "closed-compiler",
    "machines": [platform.machine()],
    "systems": ["Linux"],
    "space_mb": 1,
    "check": "import closed_compiler, msgspec",
    "wheel": {
        "place": "the vendor's site",
        "file": "closed_compiler-VERSION.whl",
        "others": {"closed-runtime": "the runtime, for the board"},
        "headers": {"drawing": ["drawing/draw.h", "Python.h"]},
        "cure": "sudo apt install libdrawing-dev",
        "memory_mb": 1,
        "gpu": "it is slow without",
        "steps": [{"packages": [pins.WHEEL]}, {"packages": ["fakenumpy==1.0"], "dependencies": False}],
        "releases": [
            {"version": "5.0", "python": ("3.10", "3.10"), "libc": "2.1"},
            {"version": "3.33", "python": (HERE, HERE), "libc": "2.1"},
            {"version": "3.31", "python": ("3.10", "3.10"), "libc": "2.1"},
        ],
    },
}  # fmt: skip


def closed(**changes: Any) -> dict[str, pins.Tool]:
    """The tool, with changes of what is said of its wheel."""
    return msgspec.convert(
        {"closed": CLOSED | {"wheel": CLOSED["wheel"] | changes}},  # type: ignore[operator]
        dict[str, pins.Tool],
    )


def own_wheel(
    folder: Path,
    name: str = "closed_compiler",
    version: str = "3.33.1",
    *,
    tags: tuple[str, ...] = (f"py3-none-{PLACE}",),
    meta: str = "",
    file: str = "",
    code: str = "",
    claims: str = "",
) -> Path:
    """Write the vendor's wheel by hand, under a name that may be another."""
    folder.mkdir(exist_ok=True)
    path = folder / (file or f"{name}-{version}-{tags[0]}.whl")
    info = f"{name}-{version}.dist-info"
    members = {
        f"{name}.py": code or "GOOD = True\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {claims or version}\n{meta}\nsaid\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        + "".join(f"Tag: {t}\n" for t in tags),
    }
    members[f"{info}/RECORD"] = "".join(f"{n},,\n" for n in [*members, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for inside, text in members.items():
            packed.writestr(inside, text)
    return path


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of toolchains of a test's own, for the closed tool; the GPU is free."""
    use(monkeypatch, closed())
    folder = tmp_path / "toolchains"
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", str(folder))
    monkeypatch.setattr(machine, "gpus", lambda: (machine.Gpu(0, "one", 1, 1000),))
    return folder


def pretend(version: str, *, checked: bool = True, digest: str = "d") -> Environment:
    """Put down what looks, at a glance, like an environment from a wheel."""
    found = toolchains.environment("closed", version)
    found.python.parent.mkdir(parents=True)
    found.python.write_text("")
    found.log.write_text("")
    state = State(pins=pins.tool("closed").pin(version).digest, checked=checked, wheel=digest)
    (found.folder / "onchip.json").write_bytes(msgspec.json.encode(state))
    return found


def test_from_the_users_wheel(brought: Path, said: Said, wheels: Path, tmp_path: Path) -> None:
    """Downloaded twice, as the browser names it; into an environment that did not exist."""
    own = own_wheel(
        tmp_path / "down loads",
        file="closed_compiler-3.33.1 (1).whl",
        meta="Requires-Dist: fakedep (==1.0) ; extra == 'x'",
    )
    out, err = said("install", "closed", "--wheel", own, "--wheels", wheels)
    assert out == f"closed   3.33.1   ready  {brought / 'closed-3.33.1'}\n" and err == ""
    found = toolchains.ready("closed")
    assert (found.version, toolchains.doctor(found)) == ("3.33.1", None)
    state = found.state
    assert state is not None and state.wheel == user_wheel.read(own).sha256
    assert (site(found) / "closed_compiler.py").exists()
    assert not (site(found) / "fakedep.py").exists()
    assert sorted(p.name for p in found.folder.iterdir()) == ["install.log", "onchip.json", "venv"]
    before = found.log.stat().st_size
    # again, with the wheel and without it
    assert "ready" in said("install", "closed", "--wheel", own)[0]
    assert "ready" in said("install", "closed")[0]
    assert "ready" in said("install", "closed", "--version", "3.33")[0]
    assert found.log.stat().st_size == before
    assert "ready" in said("doctor", "closed")[0]
    # another wheel of that version is another tool
    other = own_wheel(tmp_path / "other", code="GOOD = 2\n")
    assert toolchains._resumable(found, pins.tool("closed").pin("3.33.1"), "another") is None
    assert "ready" in said("install", "closed", "--wheel", other, "--wheels", wheels)[0]
    assert "2" in (site(found) / "closed_compiler.py").read_text()
    (site(found) / "closed_compiler.py").unlink()
    assert "mending takes its wheel" in said("install", "closed", code=2)[1]
    assert "mend with: onchip toolchain install closed --wheel FILE" in said("doctor", code=4)[1]
    assert "removed" in said("remove", "closed")[0]
    assert nothing_left(brought)


def test_an_install_of_a_wheel_goes_on_where_it_stopped(
    brought: Path, said: Said, wheels: Path, tmp_path: Path
) -> None:
    own, none = own_wheel(tmp_path / "own"), tmp_path / "none"
    none.mkdir()
    err = said("install", "closed", "--wheel", own, "--wheels", none, code=4)[1]
    assert "No matching distribution found for fakenumpy==1.0" in err
    found = toolchains.environment("closed", "3.33.1")
    assert found.state is not None and found.state.done == 1
    assert found.lack == "only half installed" and "only half" in said("list")[0]
    with pytest.raises(ToolError) as caught:
        toolchains.ready("closed")
    assert caught.value.hint == "run: onchip toolchain install closed --wheel FILE"
    assert "ready" in said("install", "closed", "--wheel", own, "--wheels", wheels)[0]
    assert found.log.read_text().count("Successfully installed closed") == 1


def test_the_newest_of_a_line_is_used(brought: Path) -> None:
    for version in ("3.31.0", "3.9.0", "3.33.1", "5.0.0"):
        pretend(version)
    pretend("5.1.0", checked=False)
    assert [e.version for e in toolchains.installed()] == [
        "5.1.0",
        "5.0.0",
        "3.33.1",
        "3.31.0",
        "3.9.0",
    ]
    for asked, got in {"": "5.0.0", "3": "3.33.1", "3.31": "3.31.0", "3.31.0": "3.31.0"}.items():
        assert toolchains.ready("closed", asked).version == got
    with pytest.raises(ToolError, match=r"Closed Compiler 3\.3 is not installed") as caught:
        toolchains.ready("closed", "3.3")
    assert "from the vendor's site" in caught.value.hint
    with pytest.raises(ToolError, match=r"5\.1\.0 is only half installed"):
        toolchains.ready("closed", "5.1")


def test_pins_that_change_are_seen_and_other_pythons_are_not(
    brought: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of Pythons that grows must not ask the user for the wheel again."""
    found = pretend("3.33.1")
    use(monkeypatch, closed(releases=[{"version": "9", "python": ("3.10", "3.19"), "libc": "2.1"}]))
    assert found.ready
    use(monkeypatch, closed(steps=[{"packages": [pins.WHEEL]}]))
    assert found.lack == "installed from older pins"


def test_where_a_wheel_comes_from(brought: Path, said: Said, tmp_path: Path) -> None:
    err = said("install", "closed", code=2)[1]
    assert "Closed Compiler comes only from its vendor, as a wheel: name yours" in err
    assert (
        "get closed_compiler-VERSION.whl from the vendor's site; then: onchip toolchain install closed --wheel FILE"
        in err
    )
    assert "with --wheel FILE: closed" in said("list")[0]
    assert "--wheel FILE" in said("doctor", "closed", code=4)[1]
    own = own_wheel(tmp_path / "own")
    err = said("install", "closed", "--wheel", own, "--version", "3.31", code=2)[1]
    assert "is version 3.33.1, not 3.31" in err
    assert not brought.exists()


def test_a_wheel_for_a_tool_that_has_pins(home: Home, said: Said, tmp_path: Path) -> None:
    err = said("install", "fake", "--wheel", own_wheel(tmp_path / "own"), code=2)[1]
    assert "Fake SDK does not come from a wheel of yours" in err
    assert nothing_left(home.folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(b"closed_compiler.py") + 20
    data[place] ^= 0xFF
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def page(path: Path) -> None:
    path.write_text("<!doctype html><title>Log in</title>" * 50)


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("readme.txt", "here")


def no_wheel_file(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(
            "closed_compiler-1.dist-info/METADATA", "Name: closed_compiler\nVersion: 1.0\n"
        )


def huge_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("closed_compiler-1.dist-info/METADATA", "Name: a\n" * (1 << 18))


def lzma(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("closed_compiler-1.dist-info/METADATA", "Name: a\n")


def bomb(path: Path) -> None:
    """A few bytes that claim to be twelve gigabytes."""
    with zipfile.ZipFile(path, "a") as packed:
        for name in ("a.bin", "b.bin", "c.bin"):
            packed.writestr(name, "tiny")
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    for name in (b"a.bin", b"b.bin", b"c.bin"):
        entry = data.rindex(b"PK\x01\x02", directory, data.index(name, directory))
        data[entry + 24 : entry + 28] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(data)


def many_claimed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", 1 << 30)
    path.write_bytes(data)


def zip64(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-22] + b"PK\x06\x07" + bytes(16) + path.read_bytes()[-22:])


DAMAGED = {
    cut: "is cut off",
    flip: "cannot be unpacked",
    empty: "is empty",
    page: "is not even a zip",
    other_zip: "is a zip, but no wheel",
    no_wheel_file: "it has no WHEEL",
    huge_text: "its METADATA claims 2097152 bytes",
    lzma: "packed in a way that wheels are not",
    bomb: "it claims more than 8 GB",
    many_claimed: "claims too many files",
    zip64: "claims too many files",
}


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda d: d.__name__)
def test_what_is_no_whole_wheel(
    damage: Callable[[Path], None], brought: Path, said: Said, tmp_path: Path
) -> None:
    own = own_wheel(tmp_path / "own")
    damage(own)
    err = said("install", "closed", "--wheel", own, code=2)[1]
    assert DAMAGED[damage] in err and ("download it again" in err or "name the .whl" in err)
    assert not brought.exists()


def test_a_wheel_that_is_not_there(brought: Path, said: Said, tmp_path: Path) -> None:
    assert "No such file" in said("install", "closed", "--wheel", tmp_path / "none.whl", code=2)[1]
    assert "is not a file" in said("install", "closed", "--wheel", tmp_path, code=2)[1]
    os.mkfifo(tmp_path / "pipe.whl")
    assert "is not a file" in said("install", "closed", "--wheel", tmp_path / "pipe.whl", code=2)[1]


@pytest.mark.parametrize(
    ("changes", "text", "code"),
    [
        ({"name": "closed_runtime"}, "is not Closed Compiler: it is the runtime, for the board", 2),
        ({"name": "requests"}, "is not Closed Compiler: it is the package requests 3.33.1", 2),
        ({"tags": ("py3-none-win_amd64",)}, "is for win_amd64", 3),
        ({"tags": ("py3-none-linux_riscv64",)}, "is for linux_riscv64", 3),
        ({"meta": "Requires-Python: >=3.6,<3.9"}, "is for >=3.6,<3.9, and onchip's side of it needs Python 3.10", 3),
        ({"tags": (f"cp38-cp38-{PLACE}",)}, "is for cp38, and onchip's side of it", 3),
        ({"meta": "Requires-Python: ==3.99.*"}, "needs Python 3.10 or newer", 3),
        ({"meta": "Requires-Python: >=3.25,<3.28"}, "needs Python 3.25 to 3.27, and none was found", 4),
        ({"claims": "../../../x"}, "it does not say its version", 2),
        ({"claims": "1.0/../../x"}, "it does not say its version", 2),
        ({"tags": (), "file": "a.whl"}, "it does not say for which system it is", 2),
        ({"name": "", "file": "a.whl"}, "it does not say its name", 2),
        ({"claims": "newest"}, "it does not say its version", 2),
    ],
    ids=str,
)  # fmt: skip
def test_another_wheel(
    changes: dict[str, Any], text: str, code: int, brought: Path, said: Said, tmp_path: Path
) -> None:
    own = own_wheel(tmp_path / "own", **changes)
    err = said("install", "closed", "--wheel", own, code=code)[1]
    assert text in err
    assert not brought.exists() or nothing_left(brought)


HAILO = "hailo_dataflow_compiler"


@pytest.mark.parametrize(
    ("name", "version", "tag", "text"),
    [
        ("hailort", "4.23.0", "cp310-cp310-linux_x86_64", "it is HailoRT, the runtime for the board"),
        ("hailo_model_zoo", "2.12.0", "py3-none-any", "it is the Hailo Model Zoo, which onchip does not need"),
        (HAILO, "3.33.1", "py3-none-win_amd64", "is for win_amd64"),
    ],
)  # fmt: skip
def test_hailos_other_wheels(
    name: str, version: str, tag: str, text: str, said: Said, tmp_path: Path, monkeypatch: Any
) -> None:
    use(monkeypatch, REAL)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    own = own_wheel(tmp_path / "own", name, version, tags=(tag,))
    err = said("install", "hailo", "--wheel", own, code=3 if name == HAILO else 2)[1]
    assert text in err
    assert (
        "hailo_dataflow_compiler-VERSION-py3-none-linux_x86_64.whl, from Hailo's Developer Zone, after registration"
        in err
    )


def test_hailos_compiler_runs_on_one_kind_of_machine(said: Said, monkeypatch: Any) -> None:
    use(monkeypatch, REAL)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    err = said("install", "hailo", "--wheel", "any.whl", code=3)[1]
    assert "Hailo Dataflow Compiler does not run on Linux aarch64" in err


@pytest.mark.parametrize(
    ("version", "low", "high", "known_one"),
    [
        ("3.25.0", "3.10", "3.10", True),
        ("3.33.1", "3.10", "3.12", True),
        ("5.2.0", "3.10", "3.12", True),
        ("3.34.0", "3.10", "3.12", False),
        ("6.0.0", "3.10", "3.12", False),
        ("3.14.0", "3.10", "3.10", False),
    ],
)
def test_which_python_hailos_versions_run_on(
    version: str, low: str, high: str, known_one: bool, tmp_path: Path
) -> None:
    tool = REAL["hailo"]
    own = user_wheel.read(
        own_wheel(tmp_path / "own", HAILO, version, tags=("py3-none-linux_x86_64",))
    )
    assert own.fits("Linux", "x86_64") and not own.fits("Linux", "aarch64")
    told: list[str] = []
    found = toolchains._pythons(tool, tool.pin(version), own, told.append)
    assert found == (low, high)
    assert bool(told) is not known_one
    assert all("is installed all the same" in t and "5.2, 5.1, 5.0, 3.33" in t for t in told)


RANGES = {
    ">=3.10,<3.13": (10, 12),
    ">=3.8, <=3.11": (10, 10),  # 3.11.1 is past 3.11
    "==3.12.*": (12, 12),
    "~=3.10": (10, 29),
    "~=3.10.0": (10, 10),
    ">3.10.99,<4": (11, 29),
    "!=3.10.*,>=3.9": (11, 29),
    "": (10, 29),
    "what": (10, 29),
    "<3": None,
    ">=3": (10, 29),
}


@pytest.mark.parametrize("clauses", RANGES)
def test_requires_python(clauses: str, tmp_path: Path) -> None:
    minors = user_wheel.read(
        own_wheel(tmp_path / "own", meta=f"Requires-Python: {clauses}")
    ).minors()
    assert ((minors[0], minors[-1]) if minors else None) == RANGES[clauses]


TAGS = {
    "py3-none": (10, 29),
    "cp311-cp311": (11, 11),
    "cp37-abi3": (10, 29),
    "py2.py3-none": (10, 29),
    "py311-none": (11, 29),
    "cp312-cp312.abi3": (12, 29),
    "py2-none": None,
    "pp310-pypy310_pp73": None,
}


@pytest.mark.parametrize("tag", TAGS)
def test_tags(tag: str, tmp_path: Path) -> None:
    own = user_wheel.read(own_wheel(tmp_path / "own", tags=(f"{tag}-{PLACE}",)))
    minors = own.minors()
    assert ((minors[0], minors[-1]) if minors else None) == TAGS[tag]
    assert own.file == f"closed_compiler-3.33.1-{tag}-{PLACE}.whl"


def test_a_wheel_of_a_kind_that_comes_some_day(tmp_path: Path) -> None:
    path = own_wheel(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"PK\1\2") + 6] = 64  # what version of zip its first file needs
    path.write_bytes(whole)
    with pytest.raises(InputError, match="list of files"):
        user_wheel.read(path)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_wheel_of_any_bytes_ends_in_one_line(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = own_wheel(Path(folder))
        whole = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 6))):
            place = data.draw(st.integers(0, len(whole) - 1))
            whole[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
            whole = whole or bytearray(b"x")
        path.write_bytes(whole)
        with suppress(OnchipError):
            found = user_wheel.read(path)
            assert "/" not in found.version + found.name + found.file
            return
        with pytest.raises(InputError) as caught:
            user_wheel.read(path)
        assert "\n" not in str(caught.value) and caught.value.hint


# --- what this machine has of what it needs


def c_compiler(folder: Path, *headers: str) -> None:
    """A compiler that finds these headers."""
    tests = " ".join(f"*'<{h}>'*) exit 0;;" for h in headers)
    text = f'case "$(cat)" in {tests} *) echo "no such file" >&2; exit 1;; esac'
    executable(folder / "mycc", text)


@pytest.mark.parametrize(
    ("headers", "missing"),
    [
        (("drawing/draw.h", "Python.h"), []),
        (("Python.h",), ["the header drawing/draw.h"]),
        ((), ["the header drawing/draw.h", "the header Python.h"]),
        (None, ["a C compiler (mycc)"]),
    ],
)
def test_headers_that_a_requirement_is_compiled_with(
    headers: tuple[str, ...] | None,
    missing: list[str],
    brought: Path,
    said: Said,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = own_wheel(tmp_path / "own", meta="Requires-Dist: Drawing>=1.0\n")
    monkeypatch.setenv("CC", "mycc -pthread")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if headers is not None:
        c_compiler(tmp_path, *headers)
    source, own = closed()["closed"].wheel, user_wheel.read(path)
    assert source is not None
    assert toolchains._missing_headers(source, own, sys.executable, None) == missing
    if missing:
        err = said("install", "closed", "--wheel", path, code=4)[1]
        assert f"Closed Compiler needs {' and '.join(missing)} on this machine" in err
        assert "sudo apt install libdrawing-dev" in err
        assert nothing_left(brought)
    # a wheel of that requirement needs no compiler, nor does an SDK without it
    folder = tmp_path / "wheels"
    folder.mkdir()
    assert toolchains._missing_headers(source, own, sys.executable, folder) == missing
    wheel(folder, "drawing", "1.0", {})
    assert toolchains._missing_headers(source, own, sys.executable, folder) == []
    other = user_wheel.read(own_wheel(tmp_path / "other"))
    assert toolchains._missing_headers(source, other, sys.executable, None) == []


def test_the_real_compiler_of_this_machine(tmp_path: Path, monkeypatch: Any) -> None:
    found = machine.c_compiler(sys.executable, toolchains.settings())
    if not found.there:
        pytest.skip(f"there is no C compiler here ({found.command[0]})")
    assert found.finds("stdio.h") and not found.finds("drawing/draw.h")
    (tmp_path / "drawing").mkdir()
    (tmp_path / "drawing" / "draw.h").write_text("")
    monkeypatch.setenv("CFLAGS", f"-O2 -isystem '{tmp_path}'")
    assert machine.c_compiler(sys.executable, toolchains.settings()).finds("drawing/draw.h")
    monkeypatch.setenv("CC", "")
    assert machine.c_compiler(str(tmp_path / "no python"), {}).command[0] == "cc"


def smi(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(folder / "nvidia-smi", text)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(
        tmp_path,
        "echo '0, NVIDIA GeForce RTX 4060 Ti, 409, 8188'; echo '1, A10G, 410, 8188'; echo '2, X, [N/A], 1'",
        monkeypatch,
    )
    one, two = machine.gpus()
    assert (one.free, two.free) == (True, False)
    assert one.describe() == "NVIDIA GeForce RTX 4060 Ti, 5 % of 8188 MB in use"
    for broken in ("echo 'No devices were found'; exit 6", "echo nonsense", "exec kill -9 $$"):
        smi(tmp_path, broken, monkeypatch)
        assert machine.gpus() == ()
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert machine.gpus() == ()


def test_what_is_worth_a_word(
    brought: Path, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Little memory, an old C library, a busy GPU and an unknown version keep nobody from trying."""
    releases = [{"version": "3.30", "python": (HERE, HERE), "libc": "2.999"}]
    use(monkeypatch, closed(memory_mb=1 << 30, releases=releases))
    monkeypatch.setattr(machine, "gpus", lambda: (machine.Gpu(0, "RTX", 400, 1000),))
    text = f'[ "$3" = venv ] && exit 1; exec {shlex.quote(sys.executable)} "$@"'
    python = executable(tmp_path / "python", text)
    own = own_wheel(tmp_path / "own")
    said._capfd.readouterr()
    assert (
        run(["toolchain", "install", "closed", "--wheel", str(own), "--python", str(python)]) == 4
    )
    err = said._capfd.readouterr()[1]
    words = [x.removeprefix("warning: ") for x in err.splitlines() if x.startswith("warning: ")]
    assert words[0] == (
        "Closed Compiler 3.33.1 is not among the versions that onchip knows (3.30): it is installed all the same"
    )
    assert words[1].startswith("glibc here is 2.") and words[1].endswith(
        "is made for 2.999, and may not start"
    )
    assert words[2].endswith(f"MB of memory are few for Closed Compiler: {1 << 30} are advised")
    assert words[3] == "no free NVIDIA GPU (RTX, 40 % of 1000 MB in use): it is slow without"
    assert len(words) == 4


def test_another_c_library(brought: Path, said: Said, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    err = said("install", "closed", "--wheel", own_wheel(tmp_path / "own"), code=3)[1]
    assert "needs a Linux with glibc" in err
    assert nothing_left(brought)


# --- what is cut off


def test_cut_off_while_the_environment_is_made(
    home: Home, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    """Its mending must not go on from the record of the one that it replaces."""
    found = home.half(2)
    found.python.unlink()
    text = f'[ "$3" = venv ] && touch "{tmp_path}/started" && exec sleep 60\nexec {shlex.quote(sys.executable)} "$@"'
    slow = executable(tmp_path / "python", text)
    process = elsewhere("install", "fake", "--python", slow)
    until((tmp_path / "started").exists)
    os.killpg(process.pid, signal.SIGKILL)
    ends(process, -signal.SIGKILL)
    assert found.state is None and found.lack == "only half installed"


def test_cut_off_while_the_old_one_is_removed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    for action in (toolchains.install, toolchains.remove):
        shutil.rmtree(home.folder)
        home.folder.mkdir()
        found = home.whole()
        lose_file(found)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", interrupt)
            with pytest.raises(KeyboardInterrupt):
                action("fake")
        assert found.lack == "only half installed"
        assert [p.name for p in home.folder.iterdir()] == [found.folder.name]


def test_ctrl_c_and_then_it_goes_on(
    home: Home, elsewhere: Elsewhere, said: Said, stuck: Path, wheels: Path
) -> None:
    found = home.half(1)
    process = elsewhere("install", "fake", "--wheels", stuck.parent)
    pip = blocked(process, stuck)
    os.killpg(process.pid, signal.SIGINT)
    assert "interrupted" in ends(process, 130)
    until(lambda: not alive(pip))
    assert found.state is not None and found.state.done == 1
    assert [p.name for p in home.folder.iterdir()] == [found.folder.name]
    assert "ready" in said("install", "fake", "--wheels", wheels)[0]
    assert "fakesdk" not in found.log.read_text().rpartition("Processing")[2]


def test_pip_is_killed(home: Home, elsewhere: Elsewhere, stuck: Path) -> None:
    found = home.half(1)
    process = elsewhere("install", "fake", "--wheels", stuck.parent)
    os.kill(blocked(process, stuck), signal.SIGKILL)
    assert "it was ended by signal 9" in ends(process, 4)
    assert found.state is not None and found.state.done == 1


def test_onchip_is_killed_and_its_pip_goes_on_alone(
    home: Home, elsewhere: Elsewhere, stuck: Path, wheels: Path
) -> None:
    """Two pips must never work on one environment."""
    found = home.half(1)
    first = elsewhere("install", "fake", "--wheels", stuck.parent)
    pip = blocked(first, stuck)
    first.kill()
    first.wait()
    before = found.log.read_text()
    second = elsewhere("install", "fake", "--wheels", wheels)
    time.sleep(1)
    assert alive(pip) and second.poll() is None
    assert found.log.read_text() == before  # it waits
    os.kill(pip, signal.SIGKILL)
    assert "ready" in ends(second)


def test_a_package_that_pip_left_half_is_installed_again(
    home: Home, said: Said, wheels: Path
) -> None:
    """pip takes one without its last file for installed."""
    found = home.whole()
    home.at(found, 1)
    (site(found) / "fakedep-1.0.dist-info" / "RECORD").unlink()
    lose_file(found)
    assert "ready" in said("install", "fake", "--wheels", wheels)[0]


# --- two at once


def test_two_installs_at_once(home: Home, elsewhere: Elsewhere, wheels: Path) -> None:
    found = home.half(1)
    with (home.folder / f"fake-{NEWEST}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        both = [elsewhere("install", "fake", "--wheels", wheels) for _ in range(2)]
        time.sleep(0.7)
        assert [p.poll() for p in both] == [None, None]
    assert ["ready" in ends(p) for p in both] == [True, True]
    assert found.log.read_text().count("Successfully installed fakedep") == 2  # with the first's
    assert [p.name for p in home.folder.iterdir()] == [found.folder.name]


def test_remove_waits_for_an_install(home: Home, elsewhere: Elsewhere, stuck: Path) -> None:
    home.half(1)
    first = elsewhere("install", "fake", "--wheels", stuck.parent)
    pip = blocked(first, stuck)
    both = [elsewhere("remove", "fake") for _ in range(2)]
    time.sleep(0.7)
    assert [p.poll() for p in both] == [None, None]
    os.kill(pip, signal.SIGKILL)
    ends(first, 4)
    assert ["removed" in ends(p) for p in both] == [True, True]
    assert nothing_left(home.folder)


def test_a_lock_that_was_removed_locks_nobody_in(home: Home) -> None:
    """Whoever waited for it must take the one that the next comers see."""
    folder, told = home.folder / "fake-9", list[str]()

    def second() -> None:
        with toolchains._alone(folder, lambda what, done, total: told.append(what)):
            told.append("locked" if folder.with_name("fake-9.lock").exists() else "alone with it")

    with toolchains._alone(folder, lambda what, done, total: None):
        thread = Thread(target=second)
        thread.start()
        until(lambda: told)
    thread.join(10)
    assert told == ["waiting for another install", "locked"]


def test_a_lock_left_behind_locks_nobody_out(home: Home, said: Said, wheels: Path) -> None:
    home.half(2)
    (home.folder / f"fake-{NEWEST}.lock").write_text("")
    assert "ready" in said("install", "fake", "--wheels", wheels)[0]
    assert [p.name for p in home.folder.iterdir()] == [f"fake-{NEWEST}"]


# --- the worker

CALLS = r"""
import os, signal, subprocess, sys, time
import numpy as np

class Calls:
    def __init__(self, progress):
        self.progress = progress
        print("I hello")

    def echo(self, *, value): return value

    def change(self, *, value):
        value += 1
        return value

    def scalars(self): return {"a": np.float32(1.5), "b": np.int64(-3), "c": np.bool_(True)}

    def unsendable(self, *, kind):
        return {"object": object(), "big": 1 << 80, "text": "\udcff",
                "objects": np.array([object()]), "names": np.array(["a"])}[kind]

    def report(self, *, times):
        for n in range(times):
            self.progress("work", n, times)

    def forever(self):
        while True:
            self.progress("work", 0, 0)

    def raise_(self, *, kind, message):
        raise kinds[kind](message)

    def bare(self): raise MemoryError

    def run(self, *, code):
        exec(code, globals())

    def number(self): return os.getpid()

    def child(self, *, escape=False):
        number = os.fork()
        if not number:
            if escape:
                os.setsid()
            time.sleep(60)
            os._exit(0)
        return number

def pipes():
    found = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    return [int(os.path.basename(p)) for p in found if writable_pipe(p)]

def writable_pipe(path):
    return os.path.exists(path) and os.readlink(path)[:4] == "pipe" and os.lstat(path).st_mode & 0o200

kinds = {k.__name__: k for k in (ValueError, RuntimeError, KeyError, OSError)}
"""


@pytest.fixture(scope="session")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calls") / "calls.py"
    path.write_text(CALLS)
    return path


@pytest.fixture
def start(
    made: Environment, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Worker]]:
    """Starts workers; afterwards none of their folders and processes may be left."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    workers: list[Worker] = []

    def begin(**options: Any) -> Worker:
        workers.append(Worker(made, calls, "Fake SDK 2.0", **options))
        return workers[-1]

    yield begin
    for one in workers:
        one.close()
    assert nothing_left(folder)
    groups = {one._process.pid for one in workers}
    until(lambda: not groups & {group(int(p.name)) for p in Path("/proc").glob("[0-9]*")})


def fails(worker: Worker, verb: str, **options: Any) -> ToolError:
    """Call what must fail, and check what is true of every failure."""
    with pytest.raises(ToolError) as found:
        worker.call(verb, **options)
    assert str(found.value).startswith(f"Fake SDK 2.0 failed in {verb}: ")
    assert "\n" not in str(found.value)
    assert not str(found.value).rstrip().endswith((";", ":"))
    assert not worker.folder.exists()
    assert worker._process.poll() is not None
    return found.value


ARRAYS = [
    np.array(3.5, np.float32),
    np.empty((0, 3), np.int64),
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::2, ::-1],
    np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    np.array([True, False]),
    np.array([1 + 2j], np.complex64),
    np.array([np.nan, np.inf, -0.0], np.float16),
]


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same to the last bit, tuples being lists on the way."""
    if isinstance(a, np.ndarray):
        whole = isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape
        return whole and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)  # a NaN is what it is


def test_results_of_every_kind(start: Callable[..., Worker]) -> None:
    worker = start()
    value = {"arrays": ARRAYS, "text": "ä\n", "bytes": b"\x00\xff", "none": None, "deep": [[[1]]]}
    assert same(value, worker.call("echo", value=value))
    assert worker.call("scalars") == {"a": 1.5, "b": -3, "c": True}
    array = np.zeros(3, np.int16)
    assert worker.call("change", value=array).tolist() == [1, 1, 1]  # SDKs write into theirs
    big = np.arange(50 << 18, dtype=np.float32)
    back = worker.call("echo", value=big)
    assert back.nbytes == 50 << 20 and np.array_equal(back, big)
    told: list[tuple[str, int, int]] = []
    worker.call("report", times=3, progress=lambda *a: told.append(a))
    assert told == [("work", n, 3) for n in range(3)]
    assert worker.seconds > 0 and "I hello" in worker.log
    worker.close()
    worker.close()
    with pytest.raises(ToolError, match=r"Fake SDK 2\.0 has ended: it cannot echo any more"):
        worker.call("echo", value=1)


@pytest.mark.parametrize(
    ("verb", "options", "text"),
    [
        (
            "raise_",
            {"kind": "ValueError", "message": "a\nTraceback\n  b: too big\n\n"},
            "b: too big",
        ),
        ("raise_", {"kind": "KeyError", "message": "x"}, "KeyError: 'x'"),
        ("raise_", {"kind": "RuntimeError", "message": ""}, "RuntimeError"),
        ("raise_", {"kind": "RuntimeError", "message": "\udcff \x1b[1mno"}, "\\udcff no"),
        ("raise_", {"kind": "ValueError", "message": "x" * 10_000_000}, "x" * 499),
        ("raise_", {"kind": "ValueError", "message": "E build: bad cut"}, ": bad cut"),
        ("bare", {}, "MemoryError"),
        ("unsendable", {"kind": "object"}, "TypeError: cannot send a object"),
        ("unsendable", {"kind": "objects"}, "cannot send a array of object"),
        ("unsendable", {"kind": "names"}, "cannot send a array of <U1"),
        ("unsendable", {"kind": "big"}, "OverflowError"),
        ("unsendable", {"kind": "text"}, "UnicodeEncodeError"),
        ("nonsense", {}, "no attribute 'nonsense'"),
        ("echo", {"wrong": 1}, "unexpected keyword argument 'wrong'"),
    ],
)
def test_an_exception_becomes_one_line(
    verb: str, options: dict[str, Any], text: str, start: Callable[..., Worker]
) -> None:
    if options.get("message", "").startswith("\udcff"):
        options = {"code": "raise RuntimeError('\\udcff \\x1b[1mno')"}
        verb = "run"
    error = fails(start(), verb, **options)
    assert text in str(error) and len(str(error)) < 600
    assert "I hello" in error.log or len(error.log) == MOST_LOG


ENDS = [
    ("sys.exit(3)", "it called exit(3)"),
    ("print('E build: no such layer'); exit()", "it called exit(None); E build: no such layer"),
    ("os._exit(5)", "it left with exit code 5; I hello"),
    ("os.abort()", "it died of SIGABRT; I hello"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "it died of SIGSEGV"),
    ("os.kill(os.getpid(), 40)", "it died of signal 40"),
    ("os.kill(os.getpid(), signal.SIGKILL)", "most often this machine ran out of memory"),
    ("os.closerange(0, 256); time.sleep(60)", "it closed its pipe"),
    ("[os.write(n, b'rubbish!' * 9) for n in pipes()]; time.sleep(60)", "wrote over it"),
    ("os.dup2(os.open('/dev/full', os.O_WRONLY), 2); print('x', file=sys.stderr)", "No space left"),
]


@pytest.mark.parametrize(("code", "text"), ENDS, ids=[e[0].partition(";")[0][:30] for e in ENDS])
def test_an_end(
    code: str, text: str, start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onchip.toolchains.worker.GRACE", 0.3)
    error = fails(start(), "run", code=code)
    assert text in str(error)
    if "No space" in text:
        assert "TMPDIR" in error.hint


def test_killed_from_outside(start: Callable[..., Worker]) -> None:
    worker = start()
    number = worker.call("number")
    Thread(target=lambda: (time.sleep(0.3), os.kill(number, signal.SIGKILL))).start()
    assert "it was killed" in str(fails(worker, "run", code="time.sleep(60)"))


def test_limits(start: Callable[..., Worker]) -> None:
    assert "it hung: no result after 0 s" in str(
        fails(start(), "run", code="time.sleep(60)", limit=0.4)
    )
    assert "it hung" in str(fails(start(), "forever", limit=0.4))  # it talks, and never ends
    error = fails(start(memory_mb=300), "run", code="x = np.ones(75 << 20); time.sleep(60)")
    assert "300 are allowed" in str(error)
    assert start(memory_mb=300).call("echo", value=1) == 1


def test_it_hangs_before_it_reads(made: Environment, tmp_path: Path) -> None:
    """A call larger than the pipe must not wait for ever."""
    path = tmp_path / "calls.py"
    path.write_text("import time, signal\ntime.sleep(60)")
    worker = Worker(made, path, "Fake SDK 2.0")
    os.kill(worker._process.pid, signal.SIGSTOP)
    assert "it hung" in str(fails(worker, "echo", value=np.zeros(1 << 20), limit=0.4))


def test_it_prints_without_end(
    start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onchip.toolchains.worker.MOST_PRINTED", 1 << 20)
    code = "while True: print('x' * 10000)"
    assert "it hung: it printed more than 1 MB" in str(fails(start(), "run", code=code))


def test_processes_left_behind(start: Callable[..., Worker]) -> None:
    worker = start()
    child = worker.call("child")
    worker.close()
    until(lambda: not alive(child))
    # here the child holds the pipe, and outlives its parent
    worker = start()
    child = worker.call("child")
    assert "SIGSEGV" in str(fails(worker, "run", code="os.kill(os.getpid(), signal.SIGSEGV)"))
    until(lambda: not alive(child))


def test_a_process_that_escapes_cannot_hang_us(start: Callable[..., Worker]) -> None:
    worker = start()
    child = worker.call("child", escape=True)
    try:
        began = time.monotonic()
        assert "exit code 5" in str(fails(worker, "run", code="os._exit(5)"))
        assert time.monotonic() - began < 4
    finally:
        os.kill(child, signal.SIGKILL)


def test_what_an_sdk_does_to_its_surroundings(start: Callable[..., Worker]) -> None:
    worker = start()
    harmless = (
        "assert sys.stdin.read() == '' and os.read(0, 9) == b''",
        "os.chdir('/'); os.environ.clear()",
        "sys.stdout.close(); sys.stdin.close()",
        "os.close(2)",
    )
    for code in harmless:
        worker.call("run", code=code)
        assert worker.call("echo", value=1) == 1
    worker = start()
    worker.call("run", code="os.remove('worker.log'); os.chmod('.', 0o500)")
    assert worker.log == ""
    assert worker.call("echo", value=2) == 2


def test_a_long_log_is_short_and_readable(start: Callable[..., Worker]) -> None:
    worker = start()
    code = r"""
line = b'\x1b[1;31mE\x1b[0m \x1b[2K\x1b[?25l\xff\xfe ' + b'x' * 80 + b'\x00\x07\n'
bar = b''.join(b'\rI Building: %3d%%' % n for n in range(100)) + b'\n'
for stream in (1, 2):
    for _ in range(100):
        os.write(stream, (line + bar) * 55)
print('the end')
print('E build: the last')
"""
    worker.call("run", code=code)
    log = worker.log
    assert len(log) <= MOST_LOG and log.endswith("the end\nE build: the last\n")
    assert "E \ufffd\ufffd x" in log and "Building:  99%" in log and "Building:  98%" not in log
    assert not set(log) & set("\x1b\r\x00\x07")


def test_readable() -> None:
    text = b"\x1b]0;title\x07\x1b[1;31mE\x1b[0m \x1b[2Kno\xff\r\n 1%\r 50%\r100%\r\nlast\ta\x00\x08"
    assert readable(text) == "E no\ufffd\n100%\nlast\ta"


def test_a_worker_without_python(tmp_path: Path, calls: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ToolError, match=r"Fake SDK does not start: .*No such file") as found:
        Worker(Environment("fake", NEWEST, tmp_path / "none"), calls, "Fake SDK")
    assert found.value.hint == "mend it: onchip toolchain install fake --version 2.0"
    assert nothing_left(tmp_path)


def test_a_worker_in_a_folder_with_spaces(
    made: Environment, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDKs split paths at spaces."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a b"))
    with Worker(made, calls, "Fake SDK") as worker:
        assert " " not in str(worker.folder)
        assert worker.call("echo", value=1) == 1
    assert not worker.folder.exists()
    (tmp_path / "ä").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "ä"))
    with Worker(made, calls, "Fake SDK") as worker:
        assert worker.call("echo", value=1) == 1


def test_ours_are_not_its_modules(start: Callable[..., Worker]) -> None:
    code = "import importlib.util as u; assert not [n for n in ('install', 'worker', 'pins') if u.find_spec(n)]"
    start().call("run", code=code)


HOST = """
import sys, tempfile, time
from pathlib import Path
from onchip.toolchains.install import Environment
from onchip.toolchains.worker import Worker
tempfile.tempdir = sys.argv[3]
with Worker(Environment("fake", "2.0", Path(sys.argv[1])), Path(sys.argv[2]), "Fake") as worker:
    print(worker.call("child"), flush=True)
    print(worker.call("number"), flush=True)
    try:
        worker.call("run", code="time.sleep(60)")
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_onchip_ends_during_a_call(
    number: signal.Signals, made: Environment, calls: Path, tmp_path: Path
) -> None:
    """Ctrl-C, and what leaves no time to clean up: the worker and its folder go all the same."""
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-c", HOST, made.folder, calls, tmp_path / "tmp"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        child, worker = int(host.stdout.readline()), int(host.stdout.readline())
        time.sleep(0.2)
        host.send_signal(number)
        assert host.wait(10) == (130 if number == signal.SIGINT else -number)
    until(lambda: not alive(child) and not alive(worker))
    assert nothing_left(tmp_path / "tmp")


# --- the wire

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | hnp.arrays(
        hnp.scalar_dtypes().filter(lambda d: d.kind in "biufc"),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
@settings(deadline=None)
def test_what_is_sent_is_received(value: Any) -> None:
    pipe = io.BytesIO(wire.pack(wire.Result(value)) + wire.pack(wire.Call("verb", {"a": value})))
    first, second = wire.receive(pipe), wire.receive(pipe)
    assert isinstance(first, wire.Result) and same(value, first.value)
    assert isinstance(second, wire.Call) and same(value, second.options["a"])
    with pytest.raises(wire.Closed):
        wire.receive(pipe)


@given(st.binary(max_size=64), st.booleans(), st.data())
@settings(deadline=None, max_examples=300)
def test_nonsense_is_a_closed_pipe(data: bytes, framed: bool, draw: st.DataObject) -> None:
    if draw.draw(st.booleans()):  # one that is almost right
        good = bytearray(wire.pack(wire.Result([np.zeros((2, 3), np.int8), data])))
        good[draw.draw(st.integers(8, len(good) - 1))] = draw.draw(st.integers(0, 255))
        sent = bytes(good)
    else:
        sent = struct.pack("<Q", len(data)) + data if framed else data
    try:
        wire.receive(io.BytesIO(sent))
    except wire.Closed:
        return


def array(head: object, data: bytes) -> bytes:
    encoded = msgspec.msgpack.encode(head)
    ext = msgspec.msgpack.Ext(wire.ARRAY, struct.pack("<I", len(encoded)) + encoded + data)
    return msgspec.msgpack.encode({"type": "Result", "value": ext})


HOSTILE = [
    array(["|O", [1]], b"\x00" * 8),
    array(["<f3", [1]], b"\x00" * 3),
    array(["|i0", [1]], b""),
    array(["<f4", [-1]], b"\x00" * 8),
    array(["<f4", [2**63]], b"\x00" * 8),
    array(["<f4", [2**40, 2**40]], b"\x00" * 8),
    array(["(999999999,999999999)f4", [1]], b""),
    msgspec.msgpack.encode({"type": "Result", "value": msgspec.msgpack.Ext(1, b"\x00")}),
    msgspec.msgpack.encode({"type": "Result", "value": msgspec.msgpack.Ext(1, b"\xff" * 9)}),
    b"\x82\xa4type\xa6Result\xa5value" + b"\x91" * 200_000 + b"\xc0",
    b"\x82\xa4type\xa6Result\xa5value\xdd\xff\xff\xff\xff",
    b"\x82\xa4type\xa6Result\xa5value\xc6\xff\xff\xff\xff",
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_message_is_a_closed_pipe_and_takes_no_memory(data: bytes) -> None:
    for length in (len(data), wire.MOST, 2**64 - 1):
        tracemalloc.start()
        with pytest.raises(wire.Closed):
            wire.receive(io.BytesIO(struct.pack("<Q", length) + data))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20


def test_nobody_reads() -> None:
    pipe = io.BytesIO()
    pipe.close()
    with pytest.raises(wire.Closed):
        wire.write(pipe, wire.pack(wire.Result()))


# --- what vendors' tools say

MEANT = {
    "E RKNN: [17:10:22.036] failed to config argb mode layer!": ("argb", "cut the head"),
    "E RKNN: [11:55:46.914] REGTASK: The bit width of field value exceeds the limit, target: v2, offset: 0x4038": (
        "regtask",
        "--imgsz",
    ),
    "    RuntimeError('PytorchStreamReader failed locating file constants.pkl: file not found')": (
        "not_traced",
        "ONNX",
    ),
    "E load_pytorch: Unsupport file #!": ("torch", "onchip toolchain install"),
    "E RKNN: invalid RKNN_MAGIC!": ("magic", "copy it"),
    "E RKNN: The input[0] need 4dims input, but 3dims input buffer feed": ("dimensions", "batch"),
    "W build: found outlier value, this may affect quantization accuracy": ("outlier", "analyze"),
    "E RKNN: failed to submit!, op id: 1": ("driver", "kernel"),
    "E RKNN: 6, 1\nE RKNN: Invalid RKNN model version 6": ("model_version", "librknnrt"),
    "W RKNN: RKNN Model version: 2.3.2 not match with rknn runtime version: 1.5.0": (
        "runtime_version",
        "librknnrt",
    ),
    "E load_onnx: Unsupport onnx opset 22, need <= 19!": ("opset", "19"),
}
MEANT_BY_PIP = {
    "fatal error: Python.h: No such file or directory": ("headers", "libpython3-dev"),
    "Python.h：没有那个文件或目录": ("headers", "libpython3-dev"),
    "  ERROR: Failed building wheel for ruamel.yaml.clib": ("yaml", "libyaml-dev"),
    "OSError: [Errno 28] No space left on device": ("no_space", "make room"),
}
ALSO_IN_GOOD_BUILDS = (
    "W build: The default input dtype of 'images' is changed from 'float32' to 'int8' in rknn model"
)


ON_THE_BOARD = ("magic", "model_version", "dimensions", "driver", "runtime_version")


@pytest.mark.parametrize("line", [*MEANT, *MEANT_BY_PIP])
def test_known_lines(line: str) -> None:
    code, cure = (MEANT | MEANT_BY_PIP)[line]
    tool = "pip" if line in MEANT_BY_PIP else "rknnrt" if code in ON_THE_BOARD else "rknn"
    (found,) = known.explain(tool, f"I before\n{line}\nI after")
    assert found.code == code and cure in found.message and ": " in found.message


def test_a_good_log_has_no_cause() -> None:
    assert known.explain("rknn", GOOD_LOG) == ()
    told = known.explain("rknn", GOOD_LOG, "info")
    assert [v.code for v in told] == ["input_dtype"]
    assert known.explain("rknn", ALSO_IN_GOOD_BUILDS, "info")[0].level == "info"
    assert known.explain("nobody's", GOOD_LOG) == ()


def test_what_follows_from_another_is_no_cause() -> None:
    log = SEED_LOG
    assert [v.code for v in known.explain("rknn", log)] == ["not_traced"]


SEED_LOG = """\
I rknn-toolkit2 version: 2.0.0b0+9bab5682
W config: The quant_img_RGB2BGR of input 0 is set to True, which means that the RGB2BGR conversion will be done first
W load_pytorch: Catch exception when torch.jit.load:
    RuntimeError('PytorchStreamReader failed locating file constants.pkl: file not found')
W load_pytorch: Make sure that the torch version of 'v8n.pt' is consistent with the installed torch version '2.2.1+cu121'!
E load_pytorch: Traceback (most recent call last):
E load_pytorch: RuntimeError: PytorchStreamReader failed locating file constants.pkl: file not found
W If you can't handle this error, please try updating to the latest version of the toolkit2 and runtime from:
E build: The model has not been loaded, please load it first!
E export_rknn: RKNN model does not exist, please load & build model first!
E init_runtime: RKNN model does not exist, please load & build model first!
E inference: The runtime has not been initialized, please call init_runtime first!
"""

# of the real SDK, version 2.5.0
GOOD_LOG = """\
site-packages/rknn/api/rknn.py:51: UserWarning: pkg_resources is deprecated as an API.
  self.rknn_base = RKNNBase(cur_path, verbose)
I rknn-toolkit2 version: 2.5.0
I Loading : 100%|████████████████████████████████████████████| 647/647 [00:00<00:00, 2069957.81it/s]
W load_onnx: The QAT model is loaded, but the config.optimization_level = 3, and some performance optimization passes will affect the accuracy.
                              If you need more consistent accuracy, you can try changing config.optimization_level to 2.
I OpFusing 0: 100%|████████████████████████████████████████████| 100/100 [00:00<00:00, 33920.78it/s]
I   '/model.4/cv1/conv/Conv_output_0/float' zero_point are all zero, change qtype from 'asym' to 'sym'.
W build: The default input dtype of 'images' is changed from 'float32' to 'int8' in rknn model for performance!
                       Please take care of this change when deploy rknn model with Runtime API!
W build: The default output dtype of '/model.24/m.0/Conv_output_0' is changed from 'float32' to 'int8' in rknn model for performance!
W Set temperate env rknn_compute_order=WidthFirst
I rknn building ...
I RKNN: [12:06:29.977] compress = 0, conv_eltwise_activation_fuse = 1, global_fuse = 1, multi-core-model-mode = 7, output_optimize = 1, layout_match = 1, enable_argb_group = 0
I RKNN: librknnc version: 2.5.0 (74ea630ce@2026-09-29T14:54:20)
D RKNN: [12:06:30.002] RKNN is invoked
W RKNN: [12:06:30.099] Model initializer tensor data is empty, name: empty_placeholder_0
D RKNN: [12:06:30.101] >>>>>> start: rknn::RKNNSetOpTargetPass
W RKNN: [12:06:30.131] Warning: Tensor /model.11/Constant_output_0 need parameter qtype, type is set to float16 by default!
D RKNN: [12:06:30.166] >>>>>> start: rknn::RKNNModelRegCmdbuildPass
D RKNN: [12:06:30.174] ID   OpType             DataType Target InputShape                               OutputShape            Cycles(DDR/NPU/Total)    RW(KB)
D RKNN: [12:06:30.174] 6    ConvExSwish        INT8     NPU    (1,16,160,160),(16,16,3,3),(16)          (1,16,160,160)         34741/230400/230400      402
D RKNN: [12:06:30.174] 78   OutputOperator     INT8     CPU    (1,255,40,40)                            \\                      0/0/0                    400
D RKNN: [12:06:30.177] Total Internal Memory Size: 4400KB
I rknn building done.
"""
