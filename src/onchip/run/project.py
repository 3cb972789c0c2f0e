"""The project file: what `onchip run` takes from photos to a proven build, written once."""

import json
import math
import re
import shlex
import tomllib
from difflib import get_close_matches
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import fields, replace

from onchip.dataset.findings import kinds
from onchip.errors import InputError
from onchip.targets import target as targets

MAX_BYTES = 1 << 20
FILE = "onchip.toml"
Value = str | int | float | bool


class Check(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which findings do not stop the run, by code."""

    allow: tuple[str, ...] = ()


class Split(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How photos without a split are divided: parts of one."""

    val: float = 0.2
    test: float = 0.0
    seed: int = 0


class Train(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the trainer is told; `set` holds further settings of Ultralytics by their own names."""

    model: str = "yolov8n.pt"
    width: float = 0.0  # of the network, where it is not the model's own
    epochs: int = 200
    batch: int = 16
    imgsz: int = 640
    patience: int = 15
    device: str = ""
    seed: int = 0
    set: dict[str, Value] = {}


class Export(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the trained network becomes ONNX; 0 is onchip's own choice."""

    imgsz: int = 0
    opset: int = 0


class Build(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For which chips, on how many calibration photos; `options` are a chip's own, by its name."""

    targets: tuple[str, ...] = ("cpu",)
    images: int = 128
    auto_precision: float | None = None
    options: dict[str, dict[str, Value]] = {}


class Verify(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """On which split, on how many images (0 is all), and what a build may lose."""

    split: str = ""
    images: int = 0
    max_drop: float = 1.5
    min_match: float = 0.8


class Project(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One detector, from its photos on. Paths are as in the file: from its folder.

    `model` is a network that is trained already (.pt or .onnx); then nothing is trained. That a
    .pt may be loaded is not for the file to say, which may be somebody else's: `--trust` does.
    """

    name: str
    data: str
    out: str = "runs"
    model: str = ""
    check: Check = Check()
    split: Split = Split()
    train: Train = Train()
    export: Export = Export()
    build: Build = Build()
    verify: Verify = Verify()


def read(path: Path) -> Project:
    """Read a project file; its paths come back whole.

    Raises:
        InputError: it cannot be read, or something in it is wrong; the text names what.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except OSError as error:
        hint = "onchip init writes one" if isinstance(error, FileNotFoundError) else ""
        raise InputError(f"cannot read {path}: {error.strerror or error}", hint) from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file", "onchip init writes one") from error
    found = parse(text, path)
    root = path.absolute().parent
    if str(root) != str(root).encode("utf-8", "replace").decode():
        raise InputError(f"{str(root)!r} has bytes in its name that are no text", "rename it")
    own = root / found.train.model  # a file, or a name that Ultralytics knows
    return replace(
        found,
        train=replace(found.train, model=str(own)) if own.is_file() else found.train,
        data=str(root / found.data),
        out=str(root / found.out),
        model=str(root / found.model) if found.model else "",
    )


def parse(text: str, path: Path) -> Project:
    """Read the text of a project file, its paths as they stand there.

    Raises:
        InputError: something in it is wrong; the text names what, and `path`.
    """
    try:
        found = msgspec.convert(tomllib.loads(text), Project)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not a TOML file: {error}", "onchip init writes one") from error
    except msgspec.ValidationError as error:
        raise _wrong(path, str(error)) from error
    _sound(found, path)
    return found


def fitting(name: str) -> str:
    """Return a name that a project may have.

    >>> fitting("My photos (2)")
    'My-photos-2'
    """
    return re.sub(r"[^\w.-]+", "-", name).strip("-._")[:100] or "project"


def _wrong(path: Path, why: str) -> InputError:
    """Turn what the decoder says into the place, and what is allowed there."""
    place = (re.search(r"at `\$(.*)`$", why) or ["", ""])[1].strip(".")
    section = next((f.type for f in fields(Project) if f.name == place), Project)
    known = [f.name for f in fields(section)]
    unknown = re.search(r"unknown field `(.*?)`", why)
    where = f"{path}, [{place}]" if place in known or section is not Project else str(path)
    if unknown is None:
        text = why.partition(" - at ")[0]
        return InputError(f"{path}: {place or 'the file'}: {text[:1].lower()}{text[1:]}")
    near = get_close_matches(unknown[1], known, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    return InputError(
        f"{where} has no setting {unknown[1]!r}", f"{meant}allowed are {', '.join(known)}"
    )


def _sound(found: Project, path: Path) -> None:
    """Raise InputError for what has the right type and makes no sense."""
    wrong = {
        "name: allowed are letters, digits, - _ and .": not re.fullmatch(
            r"\w[\w.-]{0,99}", found.name
        ),
        "split: val and test are parts of one, and something must be left to train on": not (
            0 < found.split.val < 1
            and 0 <= found.split.test < 1
            and found.split.val + found.split.test < 1
        ),
        "train: model names a .pt, or a .yaml to begin with nothing": not found.train.model,
        "split, train: seed is a whole number from 0": min(found.split.seed, found.train.seed) < 0,
        "train: width is a number, 0 for the network's own": not 0 <= found.train.width <= 4,
        "export: imgsz is a number of pixels, 0 for that of the training": found.export.imgsz < 0,
        "build: auto_precision is a number of points": not (
            found.build.auto_precision is None or 0 <= found.build.auto_precision < math.inf
        ),
        "verify: images is a number of photos, 0 for all": found.verify.images < 0,
        "train: epochs, batch, imgsz and patience are whole numbers from 1": min(
            found.train.epochs, found.train.batch, found.train.imgsz, found.train.patience
        )
        < 1,
        "build: targets names no chip; onchip targets lists them": not found.build.targets,
        "build: targets names a chip twice": len(set(found.build.targets))
        < len(found.build.targets),
        "build: images is a number of photos, 0 for all": found.build.images < 0,
        "verify: min_match is a part of one, max_drop a number of points": not (
            0 <= found.verify.min_match <= 1 and found.verify.max_drop >= 0
        ),
    }
    for text, is_wrong in wrong.items():
        if is_wrong:
            raise InputError(f"{path}: {text}")
    if unknown := [code for code in found.check.allow if code not in kinds()]:
        near = get_close_matches(unknown[0], kinds(), 3)
        raise InputError(
            f"{path}: check: allow names {unknown[0]!r}, which is no finding",
            f"near are {', '.join(near)}" if near else "onchip dataset check names them",
        )
    for name in (*found.build.targets, *found.build.options):
        targets.get(name)  # or it says which there are


TEMPLATE = """\
# From photos to a proven build, in one command:  onchip run {file}
# A stage whose inputs have not changed is skipped; what was cut off goes on where it stopped.

name = {name}
data = {data}{data_note}
{model}
[check]
allow = []              # codes of errors that may stay; onchip dataset check names them

[split]                 # for photos that data.yaml does not divide yet
val = 0.2
test = 0.0
seed = 0

[train]                 # through Ultralytics: pip install 'onchip[train]'
model = "yolov8n.pt"    # a local .pt, a name that Ultralytics knows, or yolov8n.yaml: from nothing
epochs = 200
batch = 16
imgsz = 640
patience = 15
# set = {{ degrees = 5.0 }}   further settings of Ultralytics, by their own names

[build]
targets = [{targets}]   # onchip targets lists the chips
images = 128            # calibration photos, of the part for training
# options = {{ hailo8l = {{ level = 2 }} }}

[verify]
split = ""              # what to prove on; by itself test, where there is one, else val
max_drop = 1.5          # the gate: points of mAP50-95
min_match = 0.8         # and the share of detections that must match
"""


def template(
    name: str, data: Path, chips: tuple[str, ...], model: str = "", file: str = FILE
) -> str:
    """Return a project file with every setting that people change, explained."""
    note = "  # a data.yaml, or a folder of photos with labels"
    given = f"model = {_quoted(model)}  # trained already: [train] is not used\n"
    return TEMPLATE.format(
        file=shlex.quote(file) if file.isprintable() else FILE,
        name=_quoted(name),
        data=_quoted(data.as_posix()),
        data_note=note,
        model=given if model else "",
        targets=", ".join(map(_quoted, chips)),
    )


def _quoted(text: str) -> str:
    """A basic string of TOML, which is written as JSON's; but it has no bare delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
