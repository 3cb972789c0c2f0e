"""What a run has done already: per step what went in, what came out, and what that said."""

import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import msgspec
import xxhash
from msgspec import Struct

import onchip
from onchip.errors import InputError
from onchip.writing import write_whole

FILE = "state.json"
BLOCK = 1 << 20
Said = dict[str, str | int | float | bool | None]


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step that is done. `files` are what it made: path to digest."""

    key: str
    seconds: float
    when: str
    onchip: str
    said: Said = {}
    files: dict[str, str] = {}


@dataclass(frozen=True)
class Step:
    """One step of this run, done or taken from an earlier one."""

    name: str
    command: str  # that does the same by hand
    seconds: float
    skipped: bool
    said: Said


@dataclass
class Ledger:
    """Does steps and remembers them in `folder`; a step whose inputs are the same is skipped."""

    folder: Path
    tell: Callable[[Step], None]
    records: dict[str, Record] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, tell: Callable[[Step], None]) -> "Ledger":
        """Read what earlier runs left; a file that does not read is of another version."""
        try:
            data = (folder / FILE).read_bytes()
            return cls(folder, tell, msgspec.json.decode(data, type=dict[str, Record]))
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return cls(folder, tell)
        except OSError as error:
            raise InputError(f"cannot read {folder / FILE}: {error.strerror}") from error

    def step(
        self,
        name: str,
        made_of: Sequence[object],
        command: str | Callable[[Said], str],
        files: Sequence[Path],
        work: Callable[[], Said],
    ) -> Said:
        """Do one step, or take it from an earlier run.

        Args:
            name: of the step.
            made_of: everything that it depends on.
            command: that does the same by hand, or what makes it of what there was to say.
            files: what it makes.
            work: does it, and returns what there is to say.
        """
        key = digest_of(made_of)
        old = self.records.get(name)
        skipped = old is not None and old.key == key and old.files == _digests(files)
        skipped = skipped and old is not None and all(old.files.values())  # "" is none there
        if old is None or not skipped:
            self.forget(name)
            started = time.perf_counter()
            said = work()
            old = _record(key, said, round(time.perf_counter() - started, 2), _digests(files))
            self.records[name] = old
            self._save()
        by_hand = command if isinstance(command, str) else command(old.said)
        done = Step(name, by_hand, old.seconds, skipped, old.said)
        self.steps.append(done)
        self.tell(done)
        return old.said

    def begin(self, name: str, made_of: Sequence[object], said: Said) -> Said:
        """Note that a step that takes long begins; return what was noted for the same inputs."""
        note, key = f"{name} begun", digest_of(made_of)
        old = self.records.get(note)
        if old is not None and old.key == key:
            return old.said
        self.records[note] = _record(key, said)
        self._save()
        return said

    def forget(self, name: str) -> None:
        """Strike what is not true any more."""
        if self.records.pop(name, None) is not None:
            self._save()

    def _save(self) -> None:
        write_whole(self.folder / FILE, msgspec.json.format(msgspec.json.encode(self.records)))


def _record(
    key: str, said: Said, seconds: float = 0.0, files: dict[str, str] | None = None
) -> Record:
    return Record(
        key=key,
        seconds=seconds,
        when=time.strftime("%Y-%m-%d %H:%M:%S"),
        onchip=onchip.__version__,
        said=said,
        files=files or {},
    )


def digest_of(parts: Sequence[object]) -> str:
    """Digest values of any kind that JSON has; a path counts by the content of its file."""
    data = msgspec.json.encode(parts, enc_hook=_content, order="deterministic")
    return xxhash.xxh3_128_hexdigest(data)


def _content(value: object) -> str:
    if isinstance(value, Path):
        return digest(value)
    raise NotImplementedError(type(value))


def digest(path: Path) -> str:
    """Digest a file, once as long as it does not change; "" where there is none.

    Raises:
        InputError: it cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise OSError(0, "it is no file")
        return _digest(path, found.st_size, found.st_mtime_ns)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


@cache
def _digest(path: Path, size: int, time_ns: int) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            state.update(block)
    return state.hexdigest()


def _digests(files: Sequence[Path]) -> dict[str, str]:
    return {str(path): digest(path) for path in files}
