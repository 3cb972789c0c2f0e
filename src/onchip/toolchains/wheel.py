"""Read what a wheel says of itself, and whether it is whole, before pip sees it.

A wheel (PEP 427) is a zip whose one folder `*.dist-info` holds `METADATA` (name, version, Python,
requirements) and `WHEEL` (for which Pythons and systems it was built).
"""

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from onchip.errors import InputError, UnsupportedError
from onchip.zips import DAMAGED

MOST_ENTRIES = 100_000
MOST_DIRECTORY = 8 << 20  # bytes of a zip's own list of its entries
MOST_TEXT = 1 << 20  # bytes of METADATA or WHEEL
MOST_UNPACKED = 8 << 30  # bytes of everything
LAST = 1 << 16  # bytes at the end of a zip in which its list is named
MINORS = range(
    10, 30
)  # of Python 3: the first that the worker's protocol runs on, and what may come

_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,4}([.+]?[A-Za-z][A-Za-z0-9.]{0,20})?")
_CLAUSE = re.compile(r"(>=|<=|==|!=|~=|>|<)\s*(\d{1,3})(?:\.(\d{1,3}))?((?:\.\d{1,3})*)(\.\*)?")


@dataclass(frozen=True)
class Wheel:
    """What a wheel is.

    `name` is normalized (PEP 503); `tags` are `PYTHON-ABI-PLATFORM`; `python` is its
    Requires-Python; `requires` names the packages that it wants, with all else cut off.
    """

    path: Path
    name: str
    version: str
    tags: tuple[str, ...]
    python: str
    requires: tuple[str, ...]
    sha256: str

    @property
    def file(self) -> str:
        """The name that pip accepts; a browser may have made another of it, as `… (1).whl`."""
        parts = [t.split("-") for t in self.tags]
        tag = "-".join(".".join(dict.fromkeys(column)) for column in zip(*parts, strict=True))
        return f"{self.name.replace('-', '_')}-{self.version}-{tag}.whl"

    def minors(self) -> tuple[int, ...]:
        """The Pythons 3.x that it says it runs on, of those that onchip's worker runs on."""
        return tuple(m for m in MINORS if _allows(self.python, m) and _tagged(self.tags, m))

    def fits(self, system: str, machine: str) -> bool:
        """Whether it was built for a system and machine, as `platform` names them."""
        places = [t.split("-")[2] for t in self.tags]
        ends = f"_{machine}"
        return "any" in places or any(system.lower() in p and p.endswith(ends) for p in places)


def read(path: Path) -> Wheel:
    """Read a wheel's own words, and check that all of it can be unpacked.

    Raises:
        InputError: it is not there, not a wheel, damaged, or claims too much.
        UnsupportedError: no Python that onchip could use runs it.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file", "name the .whl file itself")
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}", "name the .whl file itself"
        ) from error
    try:
        with file:
            _check_end(path, file)
            with ZipFile(file) as packed:
                info = _folder(path, packed)
                meta = _fields(_text(path, packed, f"{info}/METADATA"))
                built = _fields(_text(path, packed, f"{info}/WHEEL"))
                _check_whole(path, packed)
            digest = _sha256(file)
    # places before the file's begin are OSErrors
    except (*DAMAGED, OSError) as error:
        raise _damaged(path, "its list of files is wrong") from error
    name, version = meta.get("name", [""])[0], meta.get("version", [""])[0]
    tags = tuple(t for t in built.get("tag", []) if re.fullmatch(r"[\w.]+-[\w.]+-[\w.]+", t))
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?", name):
        raise _damaged(path, "it does not say its name")
    if not _VERSION.fullmatch(version):
        raise _damaged(path, "it does not say its version")
    if not tags:
        raise _damaged(path, "it does not say for which system it is")
    return Wheel(
        path=path,
        name=normal(name),
        version=version,
        tags=tags,
        python=meta.get("requires-python", [""])[0],
        requires=tuple(
            normal(found[0])
            for r in meta.get("requires-dist", [])
            if (found := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", r))
            and not re.search(r"\bextra\s*==", r)
        ),
        sha256=digest,
    )


def python_range(wheel: Wheel, known: tuple[str, str]) -> tuple[str, str]:
    """Return the first and last Python that a wheel runs on.

    Its own word comes first; where it names no last one, `known` is believed.

    Raises:
        UnsupportedError: none of those that onchip's worker needs.
    """
    minors = wheel.minors()
    if not minors:
        raise UnsupportedError(
            f"{wheel.path.name} is for {wheel.python or _pythons(wheel)}, and onchip's side of it "
            f"needs Python 3.{MINORS[0]} or newer",
            "take a newer version of it",
        )
    if minors[-1] == MINORS[-1]:
        low, high = (int(v.split(".")[1]) for v in known)
        minors = tuple(m for m in minors if low <= m <= high) or minors
    return (f"3.{minors[0]}", f"3.{minors[-1]}")


def normal(name: str) -> str:
    """Return a package's name as PEP 503 compares it.

    >>> normal("Hailo_Model.Zoo")
    'hailo-model-zoo'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def _pythons(wheel: Wheel) -> str:
    return ", ".join(dict.fromkeys(t.split("-")[0] for t in wheel.tags))


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged, or no wheel: {why}", "download it again")


def _check_end(path: Path, file: BufferedReader) -> None:
    """Look at the end of a zip, before `ZipFile` believes what it claims there."""
    size = file.seek(0, 2)
    file.seek(max(0, size - LAST - 22))
    last = file.read()
    file.seek(0)
    if not size:
        raise InputError(f"{path} is empty", "download it again")
    found = [m.start() for m in re.finditer(rb"PK\x05\x06", last)]
    if not found:
        begins = "is cut off" if _begins_as_zip(file) else "is no wheel: it is not even a zip"
        raise InputError(f"{path} {begins}", "download it again")
    for place in found:
        if len(last) - place < 22:
            continue
        *_, entries, directory, _, _ = struct.unpack("<4s4H2LH", last[place : place + 22])
        if entries > MOST_ENTRIES or directory > min(MOST_DIRECTORY, size):
            raise _damaged(path, "it claims too many files")
    if b"PK\x06\x07" in last:  # the form for huge zips has a list of its own
        raise _damaged(path, "it claims too many files")


def _begins_as_zip(file: BufferedReader) -> bool:
    found = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    return found


def _folder(path: Path, packed: ZipFile) -> str:
    """Return the name of the one folder that describes a wheel."""
    names = packed.namelist()
    found = {n.split("/")[0] for n in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)}
    if len(found) != 1:
        raise InputError(f"{path} is a zip, but no wheel", "name the .whl file itself")
    return found.pop()


def _text(path: Path, packed: ZipFile, name: str) -> str:
    try:
        info = packed.getinfo(name)
    except KeyError as error:
        raise _damaged(path, f"it has no {name.split('/')[-1]}") from error
    if info.file_size > MOST_TEXT:
        raise _damaged(path, f"its {name.split('/')[-1]} claims {info.file_size} bytes")
    return _content(path, packed, info).decode(errors="replace")


def _content(path: Path, packed: ZipFile, info: ZipInfo, keep: bool = True) -> bytes:
    """Unpack one file; its check sum is looked at too."""
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED) or info.flag_bits & 1:
        raise _damaged(path, "it is packed in a way that wheels are not")
    kept = []
    try:
        with packed.open(info) as file:
            while part := file.read(1 << 20):
                kept += [part] if keep else []
    except DAMAGED as error:
        raise _damaged(path, f"{info.filename[:80]!r} cannot be unpacked") from error
    return b"".join(kept)


def _check_whole(path: Path, packed: ZipFile) -> None:
    if sum(i.file_size for i in packed.infolist()) > MOST_UNPACKED:
        raise _damaged(path, f"it claims more than {MOST_UNPACKED >> 30} GB")
    for info in packed.infolist():
        _content(path, packed, info, keep=False)


def _sha256(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _fields(text: str) -> dict[str, list[str]]:
    """Read the lines `Name: value` up to the first empty one."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line.strip():
            break
        key, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            found.setdefault(key.strip().lower(), []).append(value.strip())
    return found


def _required(lines: list[str]) -> Iterator[str]:
    """Return the names in lines of Requires-Dist, without those of extras."""
    for line in lines:
        found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
        if found and not re.search(r"\bextra\s*==", line):
            yield normal(found[0])


def _tagged(tags: tuple[str, ...], minor: int) -> bool:
    """Whether the tags (PEP 425) allow Python 3.`minor`; an abi3 wheel runs on later ones too."""
    for tag in tags:
        pythons, abi, _ = tag.split("-")
        for python in pythons.split("."):
            found = re.fullmatch(r"(cp|py)3(\d*)", python)
            if found is None:
                continue
            exact = int(found[2] or 0)
            later = found[1] == "py" or "abi3" in abi
            if exact == minor or (later and exact <= minor):
                return True
    return False


def _allows(clauses: str, minor: int) -> bool:
    """Whether a Requires-Python (PEP 440) allows the latest Python 3.`minor`."""
    return all(
        _holds(found, (3, minor, 99))
        for c in clauses.split(",")
        if (found := _CLAUSE.fullmatch(c.strip()))
    )


def _holds(clause: re.Match[str], version: tuple[int, int, int]) -> bool:
    sign, major, minor, rest, star = clause.groups()
    wanted = (int(major), *([int(minor)] if minor else []), *map(int, rest.split(".")[1:]))
    here = version[: len(wanted)]
    padded = (*wanted, 0, 0)[:3]
    match sign:
        case "==":
            return here == wanted if star else version == padded or here == wanted
        case "!=":
            return here != wanted if star else version != padded
        case "~=":
            return version >= padded and version[: len(wanted) - 1] == wanted[:-1]
        case ">=":
            return version >= padded
        case ">":
            return version > padded
        case "<=":
            return version <= padded
        case _:
            return version < padded
