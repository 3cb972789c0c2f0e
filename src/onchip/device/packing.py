"""What a board is given to install: onchip as a wheel, and the wheels of what it needs."""

import base64
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import onchip
from onchip.errors import InputError, ToolError

EARLIEST = (1980, 1, 1, 0, 0, 0)  # the same content, the same bytes
COMPILER = {"onnx", "onnxruntime"}  # a board that only runs what was built needs neither
OLDEST_GLIBC = 17  # of version 2: what pip knows as manylinux2014


@dataclass(frozen=True)
class Needs:
    """What one board's environment is made of: the board's Python, and its other facts."""

    key: str
    requirements: tuple[str, ...]
    python: Mapping[str, Any]
    facts: Mapping[str, Any]


def whole() -> tuple[str, ...]:
    """Return what all of onchip needs, extras left out."""
    return _required("")


def half(runtime: Sequence[str], extra: str = "") -> tuple[str, ...]:
    """Return what onchip needs on a board, with a target's runtime and the packages of an extra."""
    known = {_name(need): need for need in whole()}
    core = {need for name, need in known.items() if name not in COMPILER}
    more = _required(extra) if extra else ()
    return tuple(sorted({*core, *more, *(known.get(r, r) for r in runtime)}))


def _required(extra: str) -> tuple[str, ...]:
    """Return the requirements of an extra; "" for those of onchip itself."""
    lines = [line.partition(";") for line in metadata.requires("onchip") or ()]
    return tuple(
        need.strip()
        for need, _, marker in lines
        if (re.fullmatch(rf"""extra == ['"]{extra}['"]""", marker.strip()) if extra else not marker)
    )


def onchip_wheel() -> tuple[str, bytes]:
    """Return the name and the bytes of a wheel of the onchip that runs here.

    However it was installed: its modules and its metadata are all that a wheel is.

    Raises:
        InputError: this onchip was not installed.
    """
    try:
        dist = metadata.distribution("onchip")
    except metadata.PackageNotFoundError as error:
        raise InputError("this onchip is not installed", "pip install onchip") from error
    root = Path(onchip.__file__).parent
    files = {
        f"onchip/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = f"onchip-{dist.version}.dist-info"
    for name in ("METADATA", "entry_points.txt"):
        text = dist.read_text(name) or (dist.read_text("PKG-INFO") if name == "METADATA" else "")
        files[f"{info}/{name}"] = (text or "").encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: onchip\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(f"{name},{_hash(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return f"onchip-{dist.version}-py3-none-any.whl", made.getvalue()


@contextmanager
def download(needs: Needs, given: Path | None = None) -> Iterator[list[Path]]:
    """Give the wheels that a board without a network needs: those of a folder, or from pip here.

    Raises:
        InputError: the folder has none.
        ToolError: pip finds none for that board.
    """
    if given is not None:
        wheels = sorted(given.glob("*.whl"))
        if not wheels:
            raise InputError(f"there are no wheels in {given}", "or let pip fetch them: --offline")
        yield wheels
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "-d", folder]
        command += ["--only-binary=:all:", "--disable-pip-version-check", *_tags(needs)]
        try:
            done = subprocess.run(  # noqa: S603 - pip, with words of our own
                [*command, *needs.requirements],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise ToolError(f"pip does not run here: {error.strerror}") from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            said = (lines or done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ToolError(
                f"pip finds no wheels for the board: {said[:300]}",
                "gather them by hand, and name their folder: --wheels FOLDER",
            )
        yield sorted(Path(folder).glob("*.whl"))


def _tags(needs: Needs) -> list[str]:
    """Return pip's words for another machine: its Python, and the C libraries that will do."""
    machine = str(needs.facts["machine"])
    version = ".".join(map(str, needs.python["version"][:2]))
    name, libc = needs.facts["libc"]
    minor = int(found[1]) if (found := re.fullmatch(r"2\.(\d+).*", libc)) else OLDEST_GLIBC
    if name != "glibc":
        platforms = [f"musllinux_1_{n}_{machine}" for n in range(3)]
    else:
        platforms = [f"manylinux_2_{n}_{machine}" for n in range(5, minor + 1)]
        platforms += [f"manylinux2014_{machine}", f"linux_{machine}"]
    words = ["--python-version", version, "--implementation", "cp"]
    return words + [w for p in platforms for w in ("--platform", p)]


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    return found[0] if found else requirement


def _hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
