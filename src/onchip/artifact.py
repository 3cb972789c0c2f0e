"""The artifact: one `.onchip` file that holds everything a board needs, and how it came to be.

It is a zip archive whose entries are stored, not compressed: `manifest.json` and the payloads that
it lists with their SHA-256. The archive's comment is the SHA-256 of the manifest, so that any
change, anywhere, is seen when the file is opened. Nothing in it is executed or unpickled.
"""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from onchip.errors import InputError
from onchip.spec import Cost, HeadSpec, InputSpec, Layout, Verdict
from onchip.zips import DAMAGED

FORMAT = 2
MANIFEST = "manifest.json"
MAX_MANIFEST = 16 << 20  # bytes
MAX_ENTRIES = 64


class Payload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file inside the artifact."""

    file: str
    sha256: str
    size: int


class Stage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One finished stage. `key` digests all that went into it: the same key, the same result."""

    name: str
    key: str
    seconds: float
    notes: dict[str, str] = {}
    skipped: bool = False  # taken from an older artifact of the same key


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the artifact is: read first, and enough to run the program in it.

    `options` are the target's own, as the user gave them, and `layout` says for whom the outputs
    are. `input` is what the float network expects, `program_input` what the compiled program does;
    `program_head` is how its end reads, where that is not as the float network's. `told` are the
    codes of what each stage had to say.
    """

    format: int
    onchip: str
    target: str
    options: dict[str, str] = {}
    layout: Layout = "onchip"
    source: str
    source_sha256: str
    input: InputSpec
    head: HeadSpec
    cost: Cost | None = None
    program_input: InputSpec | None = None
    program_head: HeadSpec | None = None
    stages: tuple[Stage, ...] = ()
    tools: dict[str, str] = {}
    verdicts: tuple[Verdict, ...] = ()
    told: dict[str, tuple[str, ...]] = {}
    payloads: dict[str, Payload] = {}


@dataclass(frozen=True)
class Artifact:
    """A manifest and the bytes of its payloads."""

    manifest: Manifest
    payloads: Mapping[str, bytes] = field(repr=False)

    def payload(self, name: str) -> bytes:
        """Return one payload.

        Raises:
            InputError: the stage that makes it has not run yet.
        """
        if name not in self.payloads:
            stages = {"plan": "optimize", "program": "compile"}
            raise InputError(
                f"the artifact has no {name} yet",
                f"finish it first: onchip {stages.get(name, 'build')} FILE.onchip",
            )
        return self.payloads[name]

    def stage(self, name: str) -> Stage | None:
        """Return the record of a stage, or None if it has not run."""
        return next((s for s in self.manifest.stages if s.name == name), None)

    def with_payloads(
        self, files: Mapping[str, tuple[str, bytes]], **changes: object
    ) -> "Artifact":
        """Return an artifact with more payloads, given as name to (file name, bytes)."""
        records = dict(self.manifest.payloads)
        for name, (file, data) in files.items():
            records[name] = Payload(file=file, sha256=_sha256(data), size=len(data))
        manifest = replace(self.manifest, payloads=records, **changes)
        return Artifact(manifest, {**self.payloads, **{n: data for n, (_, data) in files.items()}})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def save(artifact: Artifact, path: Path) -> None:
    """Write an artifact; the file appears whole or not at all.

    Raises:
        InputError: the place cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode(artifact.manifest), indent=1)
    handle, temporary = _beside(path)
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(_entry(MANIFEST), data)
                for name, record in artifact.manifest.payloads.items():
                    archive.writestr(_entry(record.file), artifact.payloads[name])
                archive.comment = _sha256(data).encode()
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Find out now, not after minutes of work, whether `path` can be written.

    Raises:
        InputError: it cannot.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name a file, such as best.onchip")
    handle, temporary = _beside(path)
    os.close(handle)
    temporary.unlink()


def _beside(path: Path) -> tuple[int, Path]:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}", "choose another place with -o"
        ) from error
    return handle, Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the same content, the same bytes


def load(path: Path) -> Artifact:
    """Open an artifact and check all of it.

    Raises:
        InputError: not an artifact, damaged, altered, or from a newer onchip.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name the .onchip file")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return _read(archive, path.stat().st_size, str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except DAMAGED as error:
        raise _damaged(str(path), f"{error}") from error


def _damaged(name: str, why: str) -> InputError:
    return InputError(
        f"{name} is not a whole .onchip file: {why}", "build it again, or copy it again"
    )


def _read(archive: zipfile.ZipFile, size: int, name: str) -> Artifact:
    entries = archive.infolist()
    _check_entries(entries, size, name)
    data = archive.read(MANIFEST)
    if archive.comment.decode("ascii", "replace") != _sha256(data):
        raise _damaged(name, "its manifest was altered")
    manifest = _manifest(data, name)
    listed = {record.file for record in manifest.payloads.values()}
    if listed | {MANIFEST} != {e.filename for e in entries}:
        raise _damaged(name, "its files are not those that the manifest lists")
    payloads = {}
    for key, record in manifest.payloads.items():
        payloads[key] = archive.read(record.file)
        if _sha256(payloads[key]) != record.sha256:
            raise _damaged(name, f"{record.file} was altered")
    return Artifact(manifest, payloads)


def _check_entries(entries: list[zipfile.ZipInfo], size: int, name: str) -> None:
    """Refuse what a hostile archive could do, before anything is read."""
    names = [e.filename for e in entries]
    if len(names) > MAX_ENTRIES or len(set(names)) != len(names):
        raise _damaged(name, "its list of files is not an artifact's")
    if MANIFEST not in names:
        raise _damaged(name, f"it has no {MANIFEST}")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise _damaged(name, f"{entry.filename!r} is compressed; an artifact's files are not")
        if not all(c.isalnum() or c in "._-" for c in entry.filename) or entry.filename[0] == ".":
            raise _damaged(name, f"{entry.filename!r} is not a name that an artifact uses")
        limit = MAX_MANIFEST if entry.filename == MANIFEST else size
        if entry.file_size > limit:
            raise _damaged(name, f"{entry.filename!r} claims {entry.file_size} bytes")
    if sum(e.file_size for e in entries) > size:
        raise _damaged(name, "its files claim more bytes than it has")


def _manifest(data: bytes, name: str) -> Manifest:
    try:
        version = msgspec.json.decode(data, type=dict[str, object]).get("format")
        if isinstance(version, int) and version > FORMAT:
            raise InputError(
                f"{name} has format {version}, but this onchip knows only up to {FORMAT}",
                "update onchip: pip install -U onchip",
            )
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise _damaged(name, f"its manifest does not read: {error}") from error
