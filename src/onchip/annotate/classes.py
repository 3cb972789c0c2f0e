"""The list of classes: read from `data.yaml` or `classes.txt`, added to, renamed; nothing else.

A `data.yaml` is edited where its names stand and nowhere else, so comments, order and the keys of
other tools stay as they are; where that cannot be done with certainty, it is not done.
"""

import hashlib
import json
import re
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from onchip.annotate.saving import NotSavedError, StaleError, save_whole
from onchip.dataset import folders
from onchip.errors import InputError

MAX_NAME = 100  # characters
DIVIDED = ("images/train", "images/val")


@dataclass(frozen=True)
class ClassList:
    """The names of the classes in the order of their numbers, and a digest of them."""

    names: tuple[str, ...]

    @property
    def version(self) -> str:
        """Changes when any name or their order does."""
        return hashlib.blake2b(json.dumps(self.names).encode(), digest_size=9).hexdigest()


def with_name(found: ClassList, index: int, name: str) -> ClassList:
    """Return the list with class `index` called `name`; one past the end is a new class.

    Raises:
        InputError: the name is empty, too long, has odd characters, or is there already.
    """
    name = name.strip()
    if not 0 <= index <= len(found.names):
        raise InputError(f"there is no class {index}", f"allowed are 0 to {len(found.names)}")
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InputError(
            f"{name[:MAX_NAME]!r} is no name for a class",
            f"allowed are 1 to {MAX_NAME} characters on one line",
        )
    others = (n for i, n in enumerate(found.names) if i != index)
    if any(n.strip().casefold() == name.casefold() for n in others):
        raise InputError(f"there is a class {name!r} already", "choose it in the list")
    names = list(found.names)
    names[index : index + 1] = [name]
    return ClassList(tuple(names))


class ClassFile:
    """The file that holds the class list of a folder.

    Raises:
        InputError: a `data.yaml` is there and wrong; the text names the place.
    """

    def __init__(self, source: Path) -> None:
        self.path = _place(source)
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._names: tuple[str, ...] = ()
        self.now()

    def now(self) -> ClassList:
        """Return the list as it stands in the file now; empty where there is no file.

        Raises:
            InputError: the file cannot be read, or is wrong by now.
        """
        seen = _stamp(self.path)
        if seen is None or seen != self._seen:
            self._names = _read(self.path) if seen else ()
            self._seen = seen
        return ClassList(self._names)

    def change(self, version: str, index: int, name: str) -> ClassList:
        """Call class `index` `name`, and write the file.

        Raises:
            StaleError: the list is another than the one of `version`.
            InputError: the name will not do, or the file cannot be edited or written.
        """
        with self._lock:
            found = self.now()
            if found.version != version:
                raise StaleError("the list of classes was changed by another program", "classes")
            wanted = with_name(found, index, name)
            self._write(wanted.names)
            return self.now()

    def start(self, names: Sequence[str]) -> None:
        """Begin a list where there is none yet.

        Raises:
            InputError: there is one with other names, a name will not do, or it cannot be written.
        """
        wanted = ClassList(())
        for index, name in enumerate(names):
            wanted = with_name(wanted, index, name)
        found = self.now().names
        if found == wanted.names or not names:
            return
        if found:
            raise InputError(
                f"{self.path} has other classes: {', '.join(found[:8])}",
                "leave out --classes; add and rename them in the page",
            )
        self._write(wanted.names)

    def _write(self, names: tuple[str, ...]) -> None:
        if self.path.name == folders.CLASSES:
            text = "".join(f"{name}\n" for name in names)
        elif self.path.exists():
            text = _edited(self.path, _text(self.path), names)
        else:
            text = _new(self.path.parent, names)
        save_whole(self.path, text.encode())
        self._seen = None


def _place(source: Path) -> Path:
    """Return the file of a folder or a `data.yaml` that holds the names, or where it will stand."""
    if source.is_file():
        return source
    above = (source, *source.parents[:3])
    choices = [*(p / n for p in above for n in folders.NOTES), source / folders.CLASSES]
    return next((p for p in choices if p.is_file()), source / folders.NOTES[0])


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):  # a pipe would wait for a writer
        raise InputError(f"{path} is no file")
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _read(path: Path) -> tuple[str, ...]:
    if path.name == folders.CLASSES:
        return tuple(n.strip() for n in _text(path).split("\n") if n.strip())
    return folders.class_names(path, folders.read_notes(path))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _new(root: Path, names: Sequence[str]) -> str:
    lines = ["# Written by onchip annotate."]
    if all((root / place).is_dir() for place in DIVIDED):
        lines += ["train: images/train", "val: images/val"]
    else:
        lines += ["# To train, first divide the photos: onchip dataset split", "train: ."]
    named = (f"  {index}: {_scalar(name)}" for index, name in enumerate(names))
    return "\n".join([*lines, "names:", *named, ""])


def _edited(path: Path, text: str, names: Sequence[str]) -> str:
    """Return a `data.yaml` with other names and nothing else changed, which is checked."""
    before = yaml.safe_load(text)
    expected = {**before, "names": _like(before["names"], names)}
    if "nc" in before:
        expected["nc"] = len(names)
    try:
        after = _with_names(text, names)
        good = yaml.safe_load(after) == expected
    except (yaml.YAMLError, ValueError, AttributeError):
        good = False
    if not good:
        raise NotSavedError(
            f"{path} is written in a way that cannot be added to safely",
            "write the name into its list of names yourself; the page will see it",
        )
    return after


def _like(before: object, names: Sequence[str]) -> object:
    return dict(enumerate(names)) if isinstance(before, dict) else list(names)


def _with_names(text: str, names: Sequence[str]) -> str:
    """Replace the scalars that differ, and put new ones behind the last."""
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    nodes: dict[str, Any] = {key.value: value for key, value in root.value}
    listed = nodes["names"]
    old = _scalars(listed)
    edits = [
        (node.start_mark.index, node.end_mark.index, _scalar(names[index]))
        for index, node in old.items()
        if node.value != names[index]
    ]
    if "nc" in nodes:
        edits.append((nodes["nc"].start_mark.index, nodes["nc"].end_mark.index, str(len(names))))
    end = max(node.end_mark.index for node in old.values())
    indent = " " * listed.start_mark.column
    for index in range(len(old), len(names)):
        entry = f"{index}: " if isinstance(listed, yaml.MappingNode) else ""
        if listed.flow_style:
            edits.append((end, end, f", {entry}{_scalar(names[index])}"))
        else:
            line = text.find("\n", end) % (len(text) + 1)  # past a comment; the end where none is
            entry = entry or "- "
            edits.append((line, line, f"\n{indent}{entry}{_scalar(names[index])}"))
    for start, stop, new in sorted(edits, key=lambda e: e[0])[::-1]:
        text = text[:start] + new + text[stop:]
    return text


def _scalars(listed: yaml.Node) -> Mapping[int, yaml.ScalarNode]:
    if isinstance(listed, yaml.MappingNode):
        return {int(key.value): value for key, value in listed.value}
    return dict(enumerate(listed.value))


def _scalar(name: str) -> str:
    """Write a name as YAML: plain where it is read back as the same text, in quotes otherwise."""
    plain = re.fullmatch(r"[^\W\d][\w .-]*", name) and yaml.safe_load(name) == name
    return name if plain else json.dumps(name, ensure_ascii=False)
