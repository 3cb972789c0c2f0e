"""A Frigate configuration as a user wrote it, and what can be said of it."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from msgspec import Struct

from onchip.device.frigate.versions import Kind, Version, table, version
from onchip.errors import InputError

MOST_BYTES = 1 << 20
SIZE = 320  # Frigate's own, where the model's section says none
PREFIX = "/config/"  # where Frigate's container has the folder of its configuration


class Finding(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that will not work (error), will not work as meant (warning), or is worth knowing.

    `where` is the key in the configuration, or the model file.
    """

    code: str
    level: Literal["info", "warning", "error"]
    where: str
    cause: str
    cure: str = ""


@dataclass(frozen=True)
class Setup:
    """A configuration as it was read, with the detector that counts.

    `type` is "" where there is none, or several. `labels` are those of its label file, or None
    where that is not known. `folder` is where it stands.
    """

    data: Mapping[str, Any]
    text: str
    version: Version
    name: str  # of the version
    folder: Path
    chip: str = ""

    @property
    def detectors(self) -> Mapping[str, Any]:
        """Its section of detectors."""
        return section(self.data, "detectors")

    @property
    def model(self) -> Mapping[str, Any]:
        """Its section of the model."""
        return section(self.data, "model")

    @property
    def types(self) -> tuple[str, ...]:
        """The types of its detectors, each once."""
        found = (d.get("type", "cpu") for d in self.detectors.values() if isinstance(d, Mapping))
        return tuple(dict.fromkeys(str(t) for t in found))

    @property
    def type(self) -> str:
        """The type of its detectors, where it is one."""
        return self.types[0] if len(self.types) == 1 else ""

    @property
    def kind(self) -> Kind:
        """What is known of that type."""
        return table().detectors.get(self.type, Kind())

    @property
    def path(self) -> str:
        """The model's path, as Frigate takes it."""
        found = self.model.get("path")
        for detector in self.detectors.values():
            if isinstance(detector, Mapping):
                own = detector.get("model_path")
                if self.version.nested_model:
                    own = section(detector, "model").get("path")
                found = own or found
        return found if isinstance(found, str) else ""

    def here(self, path: str) -> Path | None:
        """Return a file of Frigate's container, where it stands beside the configuration."""
        if not path.startswith(PREFIX):
            return None
        found = self.folder / path.removeprefix(PREFIX)
        try:
            return found if found.is_file() else None
        except OSError:  # a name that no file can have
            return None


def read(path: Path, frigate: str = "", chip: str = "") -> Setup:
    """Read a configuration file.

    Raises:
        InputError: it is not YAML, or not of a version that is known.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would keep us waiting
            raise InputError(f"{path} is not a file", "name Frigate's config.yml")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{path} is larger than 1 MiB", "name Frigate's config.yml")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file", "name Frigate's config.yml") from error
    return parse(text, str(path), path.parent, frigate, chip)


def parse(text: str, name: str, folder: Path = Path(), frigate: str = "", chip: str = "") -> Setup:
    """Read the text of a configuration that stands in `folder`; `name` is for the error."""
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - a safe loader that refuses twins
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"{name} is not YAML that Frigate reads: {said}", "mend that line"
        ) from error
    if not isinstance(data, dict):
        raise InputError(f"{name} is no configuration of Frigate: it has no sections")
    said = frigate or str(data.get("version") or "").split("-")[0] or table().newest
    return Setup(data, text, version(said), said, folder, chip)


class _Loader(yaml.SafeLoader):
    """Reads YAML as Frigate does, which refuses a key that is there twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def section(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key)
    return found if isinstance(found, Mapping) else {}


def error(code: str, where: str, cause: str, cure: str) -> Finding:
    """Something that will not work."""
    return Finding(code=code, level="error", where=where, cause=cause, cure=cure)


def warning(code: str, where: str, cause: str, cure: str) -> Finding:
    """Something that will not work as it was meant."""
    return Finding(code=code, level="warning", where=where, cause=cause, cure=cure)
