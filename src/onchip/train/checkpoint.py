"""Look into a `.pt` without loading it, for it is a pickle: loading one runs what it names.

A checkpoint is a zip with `data.pkl` and the weights. The pickle's operations are listed, never
carried out, and every name that it would import must be one of those that networks are made of.
Source of the format: torch.serialization; of the names: what the restricted loading of Ultralytics
(`ULTRALYTICS_SAFE_LOAD`) and of PyTorch (`weights_only`) allow, which onchip has switched on too.
"""

import hashlib
import pickletools
import re
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from platformdirs import user_data_path

from onchip.errors import InputError, OnchipError, UnsupportedError
from onchip.zips import DAMAGED

MAX_PICKLE = 64 << 20  # bytes; that of a large network has one or two million
RECORD = "trained"
DETECTORS = {"DetectionModel", "YOLOv10DetectionModel"}
OTHERS = {
    "SegmentationModel": "segmentation network",
    "PoseModel": "pose network",
    "OBBModel": "network of turned boxes (OBB)",
    "ClassificationModel": "classification network",
    "RTDETRDetectionModel": "RT-DETR",
    "WorldModel": "YOLO-World",
    "YOLOEModel": "YOLOE",
    "SemanticSegmentationModel": "semantic segmentation network",
    "DepthModel": "depth network",
}
NETWORKS = "ultralytics.nn.tasks"
# module and name, as a pickle of a network may have them
KNOWN = re.compile(
    r"""(__builtin__|builtins)\ (set|getattr|complex|bytearray)   # getattr: of networks only
    | _codecs\ encode
    | collections\ (OrderedDict|Counter)
    | pathlib(\._local)?\ (Posix|Windows)Path
    | numpy\ dtype | numpy\._?core\.multiarray\ scalar
    | torch\ (\w+Storage|Size|Tensor|device|bool|b?float\d\w*|u?int\d+|complex\d+)
    | torch\.nn\.parameter\ (Parameter|Buffer)
    | torch\._utils\ _rebuild_\w+
    | torch\.nn\.modules(\.\w+)*\ [A-Z]\w*
    | ultralytics\.nn\.(modules(\.\w+)*|tasks|distill_model)\ (v\d+)?[A-Z]\w*
    | ultralytics\.(yolo\.)?utils\ IterableSimpleNamespace
    | ultralytics\.utils\.(loss|tal)\ \w*(Loss|Assigner)""",
    re.VERBOSE,
)
# those that the restricted loading knows; others have no place in a checkpoint
OPERATIONS = re.compile(
    "APPENDS?|BIN(FLOAT|INT[12]?|UNICODE|PERSID)|(LONG_)?BIN(GET|PUT)|BUILD|GLOBAL|LONG1|MARK|"
    "EMPTY_(DICT|LIST|SET|TUPLE)|NEW(FALSE|TRUE|OBJ)|NONE|PROTO|REDUCE|SETITEMS?|"
    "SHORT_BINSTRING|STOP|TUPLE[123]?"
)
OWN_LAYERS = "if it has layers of your own, export it where they are: yolo export format=onnx"


class Untrusted(InputError):  # noqa: N818 - it is a question
    """Nobody has vouched for a checkpoint yet; the user may."""


@dataclass(frozen=True)
class Checkpoint:
    """What a `.pt` of a detector is, as far as that shows from outside."""

    path: Path
    sha256: str
    names: tuple[str, ...]  # what its pickle imports: "module name"

    @property
    def ours(self) -> bool:
        """Whether onchip trained it, on this machine and for this user."""
        try:
            return self.sha256 in _record().read_text().split()
        except (OSError, UnicodeDecodeError):
            return False

    def describe(self) -> str:
        """What it is, for whoever must decide whether to trust it."""
        owners = sorted({n.partition(" ")[0].partition(".")[0].strip("_") for n in self.names})
        return (
            f"{self.path} is a pickle, and loading one runs what it names; this one names "
            f"{len(self.names)} parts of {', '.join(owners)}, and nothing else"
        )


def look(path: Path) -> Checkpoint:
    """Read what a checkpoint is and what it would import; nothing of it is loaded.

    Raises:
        InputError: it is no checkpoint, damaged, or imports what no network needs.
        UnsupportedError: it is a network that is no detector, or from another library.
    """
    pickle, digest = _parts(path)
    names, odd = _contents(pickle, path)
    _refuse_foreign(names, odd, path)
    _refuse_others(names, path)
    return Checkpoint(path, digest, names)


def require_trust(found: Checkpoint, trust: bool) -> None:
    """Refuse a checkpoint that neither the user nor onchip's own training vouches for.

    Raises:
        Untrusted: nobody does.
    """
    if not trust and not found.ours:
        raise Untrusted(found.describe(), "if you trust where it comes from: --trust")


def remember(*paths: Path) -> None:
    """Note checkpoints that onchip trained itself; where that cannot be, they will be asked for."""
    known = [digest(p) for p in paths if p.is_file()]
    with suppress(OSError):
        _record().parent.mkdir(parents=True, exist_ok=True)
        with _record().open("a") as file:
            file.write("".join(f"{d}\n" for d in known))


def _record() -> Path:
    # not in the folder of the run: a run folder from elsewhere must not vouch for itself
    return user_data_path("onchip") / RECORD


def copied(found: Checkpoint, place: Path) -> None:
    """Copy a checkpoint that was looked into to where it will be loaded, entry by entry.

    Zip files can be made that PyTorch reads otherwise than Python does: two of them one behind the
    other, for instance. What is written here holds what was looked into, and nothing else.

    Raises:
        InputError: it is another by now, damaged, or holds more than its size.
    """
    with _opened(found.path) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != found.sha256:
            raise InputError(f"{found.path} changed while it was read", "try again")
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(place, "w") as new:
            entries = [e for e in old.infolist() if not e.is_dir()]
            if sum(e.file_size for e in entries) > found.path.stat().st_size:
                raise _damaged(found.path, "it is compressed, as no checkpoint is")
            for entry in entries:
                with old.open(entry) as source, new.open(entry.filename, "w") as target:
                    shutil.copyfileobj(source, target)


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parts(path: Path) -> tuple[bytes, str]:
    """Return the pickle of a checkpoint, and the file's digest."""
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name the .pt file in it: weights/best.pt")
    with _opened(path) as file:
        _refuse_strangers(file.read(16), path)
        with zipfile.ZipFile(file) as archive:
            pickle = _pickle(archive, path)
        file.seek(0)
        return pickle, hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a checkpoint; what is wrong with it is said in one line."""
    try:
        with path.open("rb") as file:
            yield file
    except OnchipError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except DAMAGED as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged or cut off: {why}", "copy it again, or take another")


def _refuse_strangers(start: bytes, path: Path) -> None:
    """A checkpoint begins as a zip; PyTorch would take what does not for a bare pickle."""
    if start.startswith(b"PK\x03\x04"):
        return
    if not start:
        raise InputError(f"{path} is empty", "copy it again")
    if start.startswith((b"\x80\x02\x8a\nl\xfc", b"\x80\x02}", b"\x80\x04")):
        raise InputError(
            f"{path} is in the format of PyTorch before 1.6, which onchip does not load",
            "load it with its own code and torch.save it again",
        )
    hint = "an ONNX model is built as it is: onchip build" if path.suffix == ".onnx" else ""
    raise InputError(f"{path} is no PyTorch checkpoint (.pt)", hint)


def _pickle(archive: zipfile.ZipFile, path: Path) -> bytes:
    entries = archive.infolist()
    names = [e.filename for e in entries]
    tails = {n.rpartition("/")[2] for n in names}
    if "constants.pkl" in tails or any("/code/" in n for n in names):
        raise InputError(
            f"{path} is TorchScript, from which the network cannot be exported",
            "name the checkpoint that it was made of, such as best.pt",
        )
    # two of a name may read differently here and there
    pickles = [e for e in entries if e.filename.rpartition("/")[2].lower() == "data.pkl"]
    if len(pickles) != 1 or len(set(names)) != len(names):
        raise InputError(
            f"{path} is a zip file, but no PyTorch checkpoint", "name a .pt, such as best.pt"
        )
    with archive.open(pickles[0]) as file:
        data = file.read(MAX_PICKLE + 1)
    if len(data) > MAX_PICKLE:
        raise InputError(f"{path} has a pickle of more than {MAX_PICKLE >> 20} MB: no checkpoint")
    return data


def _contents(data: bytes, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names that a pickle imports, and operations that no checkpoint has."""
    names: dict[str, None] = {}
    odd: dict[str, None] = {}
    texts = ["?", "?"]
    try:
        for operation, value, _ in pickletools.genops(data):
            if operation.name in ("GLOBAL", "INST"):
                names[str(value)] = None
            elif operation.name == "STACK_GLOBAL":  # as far as the last two texts tell
                names[" ".join(texts[-2:])] = None
            elif isinstance(value, str):
                texts = [texts[-1], value]
            if not OPERATIONS.fullmatch(operation.name):
                odd[operation.name] = None
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise _damaged(path, f"its pickle does not read ({error})") from error
    return tuple(names), tuple(odd)


def _refuse_foreign(names: tuple[str, ...], odd: tuple[str, ...], path: Path) -> None:
    if any(n.partition(" ")[0] in ("models.yolo", "models.common") for n in names):
        raise UnsupportedError(
            f"{path} is from the yolov5 repository, which Ultralytics' package cannot load",
            "export it there: python export.py --weights best.pt --include onnx; onchip build "
            "takes that .onnx",
        )
    foreign = [n for n in names if not KNOWN.fullmatch(n)]
    if foreign:
        shown = ", ".join(_shown(n) for n in foreign[:4]) + (", …" if len(foreign) > 4 else "")
        raise InputError(
            f"{path} would run {shown} when it is loaded, which no network needs: "
            "onchip does not load it, whoever vouches for it",
            OWN_LAYERS,
        )
    if odd:
        raise InputError(
            f"{path} has a pickle as no checkpoint has it ({', '.join(odd[:4])}): onchip does not "
            "load it",
            OWN_LAYERS,
        )


def _shown(name: str) -> str:
    text = name.replace(" ", ".", 1)
    return "".join(c if c.isprintable() else "?" for c in text)[:80]


def _refuse_others(names: tuple[str, ...], path: Path) -> None:
    kinds = [n.partition(" ")[2] for n in names if n.partition(" ")[0] == NETWORKS]
    other = next((k for k in kinds if k not in DETECTORS), None)
    if other is not None:
        raise UnsupportedError(
            f"{path} is of another kind: {OTHERS.get(other, other)}",
            "onchip takes YOLO detectors: 5u, 8, 9, 10, 11, 12 and 26",
        )
    if not kinds:
        raise InputError(
            f"{path} holds weights (a state_dict), and no network to go with them",
            "name Ultralytics' own checkpoint, such as weights/best.pt; other networks export "
            "themselves: torch.onnx.export",
        )
