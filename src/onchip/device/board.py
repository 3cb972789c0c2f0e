"""What is sent to a board and runs there, in whatever `python3` it has: standard library only.

It must run on Python 3.6, so that it can say that a board's Python is too old. It reads orders, one
JSON line each and perhaps bytes after it, and answers each with lines of JSON, the last of which
has `done` or `failed`, and perhaps bytes after that. It judges nothing: what it finds is judged
where the order came from.

All that it makes lies in one folder, whole or not at all:

    envs/KEY/            environments, each with a file `whole` once it is
    wheels/KEY/          what an environment is made of, while it is made
    proofs/KEY/          the images of a proof
    jobs/KEY/            a build that is finished here, while it is
    data/                what a service records, for every release
    releases/NAME/       the artifact, release.json, and `env`, a link
    current, previous    links to releases; a switch renames one link over the other
    lock                 held for as long as whoever deploys is connected
"""

import errno
import hashlib
import json
import mmap
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Optional

READY = "onchip-board 1"  # what a login shell prints comes before it
WHOLE = "whole"
SILENCE = 60.0  # seconds without a sign of life, after which whoever deploys is taken for gone
ORDERS = {"hold", "fetch", "mark", "environment", "release", "note", "switch", "tidy", "run"}
ORDERS |= {"service"}
MOST_TEXT = 4096  # bytes of a file that is looked at
MOST_SAID = 1 << 16  # characters of what a program says, its end
PATIENCE = 15.0  # seconds that a program which is only asked may take
PYTHONS = ("python3", "python3.15", "python3.14", "python3.13", "python3.12", "python3.11")

Facts = Dict[str, Any]
Tell = Callable[[str], None]


class FailureError(Exception):
    """What keeps an order from being done."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.answer = {"kind": kind, "message": message, "hint": hint}


class GoneError(Exception):
    """Whoever gave the order is not there any more."""


# --- looking


def look(folder: Path, modules: List[str], wants: Dict[str, Facts]) -> Facts:
    """Say what this machine is, and what lies in the folder."""
    name, version = platform.libc_ver()
    return {
        "system": platform.system(),
        "release": _release(),
        "machine": platform.machine(),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "libc": [name, version],
        "model": _text(Path("/proc/device-tree/model")),
        "compatible": _text(Path("/proc/device-tree/compatible")).replace("\0", " ").split(),
        "pythons": [p for n in PYTHONS for p in [_python(n, modules)] if p],
        "folder": str(folder),
        "writable": _writable(folder),
        "free": _free(folder),
        "temperature": temperature(),
        "state": state(folder),
        "vendors": {key: gather(want) for key, want in wants.items()},
    }


def gather(
    want: Facts, root: Path = Path("/"), path: Optional[str] = None, packages: Any = ()
) -> Facts:
    """Return what is there of what a vendor's probe asks for.

    `want` has `texts`, `nodes`, `names` (patterns of files: to be read, to be opened, to be there),
    `searched` (a pattern of files, and a regular expression whose first group is wanted of them),
    `packages` of Python, and `programs`: what to run, and patterns of files that it needs.
    """
    nodes = _matches(root, want.get("nodes", []))
    return {
        "texts": {n: _text(p) for n, p in _matches(root, want.get("texts", [])).items()},
        "nodes": {n: os.access(str(p), os.R_OK | os.W_OK) for n, p in nodes.items()},
        "names": list(_matches(root, want.get("names", []))),
        "searched": {
            n: found
            for pattern, wanted in want.get("searched", [])
            for n, p in _matches(root, [pattern]).items()
            for found in [_search(p, wanted)]
        },
        "packages": {n: _packages(n, packages) for n in want.get("packages", [])},
        "programs": {
            " ".join(command): said(command, path)
            for command, needed in want.get("programs", [])
            if shutil.which(command[0], path=path) and (not needed or _matches(root, needed))
        },
    }


def said(command: List[str], path: Optional[str] = None) -> str:
    """Return what a program says. It runs in a folder of its own: some leave their log there."""
    program = shutil.which(command[0], path=path) or command[0]
    try:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [program, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
                cwd=folder,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {PATIENCE:.0f} s"
    except OSError as error:
        return f"it does not run: {error}"
    text = done.stdout.decode(errors="replace")[-MOST_SAID:]
    return text or f"it said nothing, and left with exit code {done.returncode}"


def temperature() -> Optional[float]:
    """Return the hottest place of the board in degrees Celsius; None where it does not say."""
    found = [_text(p) for p in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    read = [int(t) / 1000 for t in found if t.lstrip("-").isdigit()]
    return max(read) if read else None


def state(folder: Path) -> Facts:
    """Return what is deployed: the current release and the one before, and the whole environments.

    A switch that was cut between its two links leaves `previous` pointing to the current one: then
    the newest other release is the one before.
    """
    now, before = _linked(folder / "current"), _linked(folder / "previous")
    whole = sorted(
        (p for p in folder.glob("releases/*") if (p / "release.json").is_file()),
        key=lambda p: p.stat().st_mtime,
    )
    names = [p.name for p in whole]
    if before not in names or before == now:
        before = ([""] + [n for n in names if n != now])[-1]
    return {
        "current": _record(folder, now),
        "previous": _record(folder, before),
        "releases": names,
        "envs": sorted(p.parent.name for p in folder.glob("envs/*/" + WHOLE)),
        "proofs": sorted(p.name for p in folder.glob("proofs/*") if (p / WHOLE).is_file()),
    }


def _record(folder: Path, name: str) -> Optional[Facts]:
    """Return what a release's own record says; None where there is none that is whole."""
    try:
        found = json.loads((folder / "releases" / name / "release.json").read_text()) if name else 0
    except (OSError, ValueError):
        return None
    return dict(found, name=name) if isinstance(found, dict) else None


def _linked(link: Path) -> str:
    try:
        return Path(os.readlink(str(link))).name
    except OSError:
        return ""


def _release() -> str:
    for line in _text(Path("/etc/os-release")).splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip('"')
    return platform.platform()


def _python(name: str, modules: List[str]) -> Optional[Facts]:
    """Return an interpreter's version, and which modules it finds; None where there is none."""
    code = (
        "import sys, json, importlib.util as u; print(json.dumps([list(sys.version_info[:3]), "
        "[n for n in sys.argv[1:] if u.find_spec(n)]]))"
    )
    program = shutil.which(name)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-c", code, "venv", "ensurepip", *modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
            cwd="/",
            check=False,
        )
        version, found = json.loads(done.stdout.decode())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return {"program": program, "version": version, "modules": found}


def _matches(root: Path, patterns: List[str]) -> Dict[str, Path]:
    found = sorted({p for pattern in patterns for p in root.glob(pattern)})
    return {str(p.relative_to(root)): p for p in found}


def _packages(name: str, places: Any) -> Dict[str, str]:
    """Return the versions of a Python package, by the folder that it lies in."""
    found = {}  # type: Dict[str, str]
    name = re.sub("[-_.]+", "[-_.]", name)  # a folder may write them otherwise
    for place in places or ["/usr/lib/python3/dist-packages", *sys.path[1:]]:
        for folder in sorted(Path(place).glob(name + "-*-info")) if place else []:
            here = folder if folder.is_file() else folder / "METADATA"
            if not here.is_file() and not (folder / "PKG-INFO").is_file():
                continue
            match = re.match(name + r"-([^-]+?)(-py[\d.]+)?\.(dist|egg)-info$", folder.name)
            if match:
                found.setdefault(str(place), match.group(1))
    return found


def _search(path: Path, wanted: str) -> str:
    """Return what a file of any size says; "" if it does not."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            match = re.search(wanted.encode(), data)
            return match.group(1).decode(errors="replace") if match else ""
    except (OSError, ValueError):  # it cannot be read, or is empty
        return ""


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MOST_TEXT).decode(errors="replace").strip().strip("\0")
    except OSError:
        return ""


def _above(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _free(folder: Path) -> int:
    found = os.statvfs(str(_above(folder)))
    return found.f_bavail * found.f_frsize


def _writable(folder: Path) -> str:
    """Return why the folder cannot be written; "" if it can."""
    near = _above(folder)
    if not near.is_dir():
        return f"{near} is a file"
    try:
        with tempfile.TemporaryFile(dir=str(near)):
            return ""
    except OSError as error:
        return "" if error.errno == errno.ENOSPC else error.strerror or str(error)


# --- making


class Place:
    """The folder on the board, held for one who deploys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = -1

    def hold(self, who: str) -> Facts:
        """Keep others away until this process ends, however it ends; whoever was cut off is gone.

        Programs that it starts hold the lock too, so that none of them is at work behind the next.
        """
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "lock"
        lock = os.open(str(path), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _text(path) or "somebody"
            os.close(lock)
            raise FailureError(
                "busy",
                f"{owner} is at work on this board just now",
                "wait until that has finished; one that was cut off lets go by itself",
            ) from error
        os.ftruncate(lock, 0)
        os.write(lock, who.encode())
        self.lock = lock
        return {}

    def receive(self, path: str, sha256: str, data: bytes) -> Facts:
        """Write a file, whole or not at all, if its bytes are those that were sent."""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise FailureError("device", f"{path} was damaged on its way", "deploy again")
        self._write(self._inside(path), data)
        return {}

    def fetch(self, path: str) -> Facts:
        """Give a file back; nothing where there is none."""
        found = self._inside(path)
        data = found.read_bytes() if found.is_file() else b""
        return {"sha256": hashlib.sha256(data).hexdigest(), "data": data}

    def mark(self, path: str) -> Facts:
        """Say that a folder is whole."""
        self._write(self._inside(path) / WHOLE, b"")
        return {}

    def environment(
        self, key: str, python: str, wheels: List[str], options: List[str], tell: Tell
    ) -> Facts:
        """Make an environment. It is made where it will stay, for it cannot be moved."""
        folder = self._inside("envs/" + key)
        if (folder / WHOLE).is_file():
            return {"made": False}
        shutil.rmtree(str(folder), ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        tell("making the environment")
        self._step([python, "-m", "venv", "--system-site-packages", str(folder)], tell)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--no-input", "--no-color"]
        pip += ["--disable-pip-version-check", "--no-compile", "--progress-bar=off"]
        near = str(self.folder / "wheels" / key)
        for names in (options, ["--no-deps", *(os.path.join(near, w) for w in wheels)]):
            words = [n.replace("{wheels}", near) for n in names]
            self._step([*pip, *words], tell)
        self._step([str(folder / "bin/python"), "-m", "onchip", "--version"], tell)
        os.sync()
        self._write(folder / WHOLE, b"")
        shutil.rmtree(near, ignore_errors=True)
        return {"made": True}

    def release(self, name: str, env: str, record: Facts, data_folders: List[str]) -> Facts:
        """Turn what was received into a release; until the switch nothing uses it.

        What it records goes into `data`, which all releases share.
        """
        part, folder = self._inside("releases/" + name + ".part"), self._inside("releases/" + name)
        for data in data_folders:
            self._inside("data/" + data).mkdir(parents=True, exist_ok=True)
            self._link(part / data, os.path.join("..", "..", "data", data))
        self._link(part / "env", os.path.join("..", "..", "envs", env))
        self._write(part / "release.json", json.dumps(record).encode())
        if folder.exists():  # it is not whole, else it would not have been sent
            shutil.rmtree(str(folder))
        part.rename(folder)
        self._settle(folder.parent)
        return {}

    def note(self, name: str, facts: Facts) -> Facts:
        """Add to a release's record."""
        path = self._inside("releases/" + name) / "release.json"
        self._write(path, json.dumps(dict(json.loads(path.read_text()), **facts)).encode())
        return {}

    def switch(self, name: str) -> Facts:
        """Make a release the current one, and the current one the one before it."""
        now = _linked(self.folder / "current")
        if now == name:
            return {"switched": False}
        if now:
            self._link(self.folder / "previous", os.path.join("releases", now))
        self._link(self.folder / "current", os.path.join("releases", name))
        return {"switched": True}

    def tidy(self, envs: Any = ()) -> Facts:
        """Remove what neither the current release nor the one before it needs, but these `envs`."""
        found = state(self.folder)
        kept = [r for r in (found["current"], found["previous"]) if r]
        names = {
            "releases": {r["name"] for r in kept},
            "envs": {r["env"] for r in kept} | set(envs),
        }
        names["proofs"] = {r.get("images", "") for r in kept[:1]}
        removed = 0
        for where in ("releases", "envs", "proofs", "wheels", "jobs"):
            for path in self.folder.glob(where + "/*"):
                if path.name not in names.get(where, set()):
                    shutil.rmtree(str(path), ignore_errors=True)
                    removed += 1
        for path in [*self.folder.glob(".onchip-*.part")]:
            path.unlink()
        return {"removed": removed}

    def run(self, command: List[str], pause: str, tell: Tell) -> Facts:
        """Run a program of the board and pass on what it says while it is at work.

        A service that holds the chip waits meanwhile.
        """
        words = [c.replace("{folder}", str(self.folder)) for c in command]
        paused = bool(pause) and not _systemctl("is-active", "--quiet", pause)[0]
        if paused:
            _systemctl("stop", pause)
        try:
            code, out, text = self._child(words, tell, apart=True)
        finally:
            if paused:
                _systemctl("start", pause)
        return {"code": code, "out": out, "said": text, "temperature": temperature()}

    def service(self, name: str, text: str) -> Facts:
        """Write a user's service, start it now and at every start of the board."""
        path = Path.home() / ".config/systemd/user" / name
        unit = text.replace("{folder}", str(self.folder))
        if _text(path) != unit.strip():
            self._write(path, unit.encode())
        for order in (["daemon-reload"], ["enable", name], ["restart", name]):
            code, words = _systemctl(*order)
            if code:
                raise FailureError("device", f"the service does not start: {words[-300:]}")
        code, words = _told(["loginctl", "enable-linger"])
        return {"lingers": not code, "said": words}

    def _child(self, command: List[str], tell: Tell, apart: bool = False) -> "tuple[int, str, str]":
        """Run a program; end it, with all that it started, when whoever ordered it is gone.

        Its results are kept apart from what it says, or are part of that.
        """
        settings = dict(os.environ, PYTHONUNBUFFERED="1", PIP_NO_INPUT="1", ONCHIP_PROGRESS="lines")
        settings.pop("PYTHONPATH", None)
        with tempfile.TemporaryFile() as out:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out if apart else subprocess.PIPE,
                stderr=subprocess.PIPE if apart else subprocess.STDOUT,
                start_new_session=True,
                cwd=str(self.folder),
                env=settings,
                pass_fds=[self.lock] if self.lock >= 0 else [],
            )
            try:
                text = "".join(self._lines(child, tell))
                code = child.wait()
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            out.seek(0)
            return code, out.read().decode(errors="replace"), text[-MOST_SAID:]

    def _lines(self, child: "subprocess.Popen[bytes]", tell: Tell) -> Iterator[str]:
        pipe = child.stdout or child.stderr
        assert pipe is not None
        heard = time.monotonic()
        while True:
            ready = select.select([pipe.fileno(), 0], [], [], SILENCE / 4)[0]
            if 0 in ready:  # no order comes while one is at work, but empty lines as signs of life
                if not os.read(0, 4096):
                    raise GoneError
                heard = time.monotonic()
            if time.monotonic() - heard > SILENCE:
                raise GoneError
            if pipe.fileno() not in ready:
                continue
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                return
            text = data.decode(errors="replace")
            if text.strip():
                tell(text.strip().splitlines()[-1][:200])
            yield text

    def _step(self, command: List[str], tell: Tell) -> None:
        try:
            code, _, text = self._child(command, tell)
        except OSError as error:
            raise FailureError("tool", f"{command[0]} does not run: {error.strerror}") from error
        if not code:
            return
        if "No space left" in text:
            raise OSError(errno.ENOSPC, "No space left on device")
        lines = [line for line in text.strip().splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        last = (errors or lines or [f"exit code {code}"])[-1]
        raise FailureError("pip", last[:300])

    def _inside(self, path: str) -> Path:
        found = self.folder / path
        if self.folder not in found.parents or ".." in found.parts:
            raise FailureError("device", f"{path} is not in {self.folder}")
        return found

    def _part(self, path: Path) -> Path:
        """Return where a file is made: not where what is cut off could become part of a release."""
        near = self.folder if self.folder in path.parents else path.parent
        return near / f".onchip-{os.getpid()}.part"

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = self._part(path)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            if part.exists():
                part.unlink()
            raise
        self._settle(path.parent)

    def _link(self, link: Path, to: str) -> None:
        part = self._part(link)
        if part.is_symlink():
            part.unlink()
        part.symlink_to(to)
        part.replace(link)
        self._settle(link.parent)

    def _settle(self, folder: Path) -> None:
        """Have the names in a folder on the disk."""
        handle = os.open(str(folder), os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _systemctl(*arguments: str) -> "tuple[int, str]":
    return _told(["systemctl", "--user", *arguments])


def _told(command: List[str]) -> "tuple[int, str]":
    settings = dict(os.environ)
    settings.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=4 * PATIENCE,
            env=settings,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"{command[0]} does not answer"
    except OSError as error:
        return 127, f"{command[0]} does not run: {error.strerror}"
    return done.returncode, done.stdout.decode(errors="replace").strip()


# --- orders


def serve(orders: Any, answers: BinaryIO) -> None:
    """Do what is ordered, one by one, until whoever orders is gone or silent."""
    place = Place(Path("/nowhere"))

    def answer(**facts: Any) -> None:
        answers.write(json.dumps(facts).encode() + b"\n")
        answers.flush()

    answers.write(b"\n" + READY.encode() + b"\n")
    answers.flush()
    while select.select([orders], [], [], SILENCE)[0]:
        line = orders.readline()
        if not line.endswith(b"\n"):
            return
        if not line.strip():  # a sign of life
            continue
        order = json.loads(line.decode())
        data = b"".join(_exactly(orders, order.pop("size", 0)))
        try:
            done = _do(place, order, data, lambda text: answer(tell=text))
            after = done.pop("data", b"")
            answer(done=dict(done, size=len(after)))
            answers.write(after)
            answers.flush()
        except FailureError as failure:
            answer(failed=failure.answer)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                return
            answer(failed=_failed(error, place.folder))


def _exactly(orders: Any, size: int) -> Iterator[bytes]:
    while size:
        data = orders.read(min(size, 1 << 20))
        if not data:
            raise GoneError
        size -= len(data)
        yield data


def _do(place: Place, order: Facts, data: bytes, tell: Tell) -> Facts:
    verb = order.pop("do")
    if verb == "look":
        place.folder = Path(os.path.abspath(os.path.expanduser(order.pop("folder"))))
        return look(place.folder, **order)
    if verb == "receive":
        return place.receive(data=data, **order)
    if verb in ("environment", "run"):
        order["tell"] = tell
    if verb not in ORDERS:
        raise FailureError("device", f"no order called {verb}")
    found = getattr(place, verb)(**order)
    assert isinstance(found, dict)
    return found


def _failed(error: OSError, folder: Path) -> Facts:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"the board's disk is full: {_free(folder) / 1e6:.0f} MB are free for {folder}"
        return {"kind": "full", "message": text, "hint": "make room, and deploy again"}
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        text = f"the board cannot write {error.filename or folder}: {error.strerror}"
        hint = "name a folder that it can: --folder"
        return {"kind": "device", "message": text, "hint": hint}
    text = f"the board failed: {error.filename or folder}: {error.strerror or error}"
    return {"kind": "device", "message": text, "hint": ""}


if __name__ == "__main__":
    try:
        # unbuffered, so that `select` tells the truth about what is waiting
        serve(open(0, "rb", buffering=0, closefd=False), sys.stdout.buffer)
    except (GoneError, BrokenPipeError, KeyboardInterrupt):
        os._exit(1)
