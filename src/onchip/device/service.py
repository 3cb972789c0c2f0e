"""What runs on a board for good: a systemd service of its user."""

import hashlib
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onchip.errors import InputError

# verbs that run until they are ended, and the extra that each needs
LONG = {("watch",): "watch", ("detect",): "", ("frigate", "serve"): "frigate"}


@dataclass(frozen=True)
class Unit:
    """A systemd service of the board's user. `files` go along; `folders` outlive a release."""

    name: str = ""
    text: str = ""
    command: str = ""
    extra: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    folders: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What changes it."""
        return digest(self.name, self.text, *self.files, *self.files.values())

    @staticmethod
    def read(command: str, model: str, folder: str) -> "Unit":
        """Make a unit of `watch cameras.toml`; files that are here go along.

        Raises:
            InputError: it is no such command, or its file names another model.
        """
        words = shlex.split(command)
        if not words:
            return Unit()
        verb = next((v for v in LONG if tuple(words[: len(v)]) == v), None)
        if verb is None:
            raise InputError(
                f"--service {command!r} is none",
                f"""as in --service "watch cameras.toml", or "frigate serve {model}\"""",
            )
        files, folders, there = {}, [], [*verb]
        for word in words[len(verb) :]:
            path = Path(word)
            if path.is_file() and path.name != model:  # which goes along as what is deployed
                files[path.name] = path.read_bytes()
                if path.suffix == ".toml":
                    folders += _data_folders(path, model)
            there.append(path.name if path.is_file() else word)
        place = Path(folder)
        name = "onchip.service" if place.name == "onchip" else f"onchip-{place.name}.service"
        python = _word(f"{folder}/current/env/bin/python")
        run = " ".join([python, "-m", "onchip", *map(_word, there)])
        text = UNIT.format(command=command.replace("\n", " "), folder=_percent(folder), run=run)
        return Unit(name, text, command, LONG[verb], files, tuple(folders))


UNIT = """[Unit]
Description=onchip {command}

[Service]
WorkingDirectory={folder}/current
ExecStart={run}
Restart=on-failure
RestartSec=5

[Install]
WantedBy=default.target
"""


def _data_folders(path: Path, model: str) -> list[str]:
    """Return the folders that a file of cameras records into, beside itself."""
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if Path(str(found.get("model", model))).name != model:
        raise InputError(
            f"{path} watches with {found['model']}, and {model} is deployed",
            f'on the board they lie side by side: model = "{model}"',
        )
    data = Path(str(found.get("data", "watch")))
    return (
        [] if data.is_absolute() or len(data.parts) != 1 or data.name in ("..", "") else [data.name]
    )


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """Quote a word as systemd reads it."""
    plain = _percent(text).replace("$", "$$")
    if plain and not set(plain) & set(" \t\"'\\;"):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def digest(*parts: str | bytes) -> str:
    """Return a short name for bytes."""
    made = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        made.update(len(data).to_bytes(8, "big") + data)
    return made.hexdigest()[:16]
