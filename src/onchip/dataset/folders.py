"""Which images a data set has, in which part of it, and what its classes are called.

A data set is a `data.yaml` (names, and folders or lists of images by split), a folder with one, or
just a folder of photos. Source of the format: Ultralytics' data set guide.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onchip.errors import InputError
from onchip.vision.preprocess import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")
NOTES = ("data.yaml", "data.yml", "dataset.yaml")
CLASSES = "classes.txt"  # what labelling tools without a data.yaml leave
_COMPRESSED = (".heic", ".heif", ".avif", ".gif", ".jxl", ".jp2", ".jfif")
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw")
UNREAD_SUFFIXES = frozenset((*_COMPRESSED, *_RAW, ".svg", ".psd"))
TRAINED = "args.yaml"  # what a run of Ultralytics leaves in its folder
MAX_NOTES = 8 << 20


@dataclass(frozen=True)
class Folders:
    """The images of a data set by split; a folder without `data.yaml` is one split called ""."""

    source: Path
    root: Path
    notes: Path | None  # the data.yaml, where there is one
    names: tuple[str, ...]  # of the classes; none where nothing says
    splits: Mapping[str, tuple[Path, ...]]

    @property
    def images(self) -> tuple[Path, ...]:
        """All images, each once, in the order of the splits."""
        return tuple(dict.fromkeys(p for paths in self.splits.values() for p in paths))


def find(source: Path) -> Folders:
    """Find the images and class names of a `data.yaml` or a folder.

    Raises:
        InputError: nothing is there, or `data.yaml` is wrong; the text names the place.
    """
    source = Path(os.path.abspath(source))  # noqa: PTH100 - labels stand by the folder's full name
    if source.is_dir():
        notes = next((source / n for n in NOTES if (source / n).is_file()), None)
        return _listed(notes) if notes else _plain(source)
    if not source.exists():
        raise InputError(f"{source} does not exist", "name a data.yaml or a folder of photos")
    return _listed(source)


def _listed(path: Path) -> Folders:
    notes = read_notes(path)
    splits = {name: listed(path, notes, name) for name in SPLITS if notes.get(name)}
    if not splits:
        raise InputError(f"{path} names no images", "add a line like  train: images/train")
    return Folders(path, path.parent, path, class_names(path, notes), splits)


def _plain(folder: Path) -> Folders:
    names: tuple[str, ...] = ()
    above = [folder, *folder.absolute().parents[:3]]
    notes = next((p / n for p in above for n in NOTES if (p / n).is_file()), None)
    if notes is not None:
        names = class_names(notes, read_notes(notes))
    elif (folder / CLASSES).is_file():
        names = tuple(_text(folder / CLASSES).split("\n"))
        names = tuple(n.strip() for n in names if n.strip())
    return Folders(folder, folder, notes, names, {"": walk(folder)})


def walk(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> tuple[Path, ...]:
    """Return the files below a folder that have one of `suffixes`, sorted.

    Hidden ones are left out, and pictures that a training made.
    """
    found = []
    for place, folders, files in os.walk(folder):
        if TRAINED in files and Path(place) != folder:  # its pictures show what a training saw
            folders.clear()
            continue
        folders[:] = [f for f in folders if not f.startswith(".")]
        paths = (Path(place, name) for name in files if not name.startswith("."))
        found += [p for p in paths if p.suffix.lower() in suffixes]
    return tuple(sorted(found, key=str))  # paths compare slowly


def listed(path: Path, notes: Mapping[str, object], split: str) -> tuple[Path, ...]:
    """Return the images of one split of a `data.yaml`: folders, and text files that list images.

    Raises:
        InputError: a place does not exist.
    """
    root = path.parent / str(notes.get("path") or ".")
    found: list[Path] = []
    for item in entries(notes, split):
        named = str(item)
        choices = [root / named, path.parent / named]
        # unlike Path.exists, this is no error where a name is too long
        place = next((c for c in choices if os.path.exists(c)), None)  # noqa: PTH110
        if place is None:
            raise InputError(
                f"{path} names {named[:200]}, which does not exist", f"looked in {str(root)[:200]}"
            )
        if place.is_dir():
            found += walk(place)
        elif place.suffix.lower() == ".txt" and place.is_file():
            lines = [line.strip() for line in _text(place).splitlines()]
            found += [place.parent / line for line in lines if line]
        else:
            found.append(place)
    return tuple(dict.fromkeys(Path(os.path.normpath(p)) for p in found))


def entries(notes: Mapping[str, object], split: str) -> Sequence[object]:
    """Return what a `data.yaml` names for a split: one place, or several."""
    entry = notes[split]
    return entry if isinstance(entry, list) else [entry]


def read_notes(path: Path) -> dict[str, object]:
    """Read a `data.yaml`.

    Raises:
        InputError: it cannot be read, or is none.
    """
    import yaml  # only data sets need it

    try:
        notes = yaml.safe_load(_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is not a YAML file", "name a data.yaml") from error
    if not isinstance(notes, dict):
        raise InputError(f"{path} holds no names and folders", "name a data.yaml")
    for key in ("path", "nc", "names", *SPLITS):
        found = notes.get(key)
        items = list(found.values()) if isinstance(found, dict) else found
        if isinstance(items, list) and any(isinstance(i, list | dict | set) for i in items):
            # a few lines of YAML may stand for more than memory holds
            raise InputError(f"{path} has more than texts and numbers under {key}")
    return notes


def class_names(path: Path, notes: Mapping[str, object]) -> tuple[str, ...]:
    """Return the class names of a `data.yaml`, in the order of their numbers.

    Raises:
        InputError: there are none, or their numbers have gaps.
    """
    names = notes.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            numbers = ", ".join(str(n) for n in list(names)[:8])
            raise InputError(
                f"{path} numbers its classes {numbers}", "allowed are 0, 1, 2 … without a gap"
            )
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"{path} has no class names", "add a line like  names: [car, truck]")
    return tuple(str(n) for n in names)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_NOTES + 1)
        if len(data) <= MAX_NOTES:
            if b"\0" in data:  # which no path may hold
                raise InputError(f"{path} is not a text file", "save it as UTF-8")
            return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file", "name a data.yaml") from error
    raise InputError(f"{path} is too large ({MAX_NOTES >> 20} MiB are allowed)")
