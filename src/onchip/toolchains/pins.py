"""Which vendor SDKs onchip knows, and exactly what each is installed from: `pins.toml`."""

import hashlib
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from onchip.errors import InputError


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of pip."""

    packages: tuple[str, ...]
    dependencies: bool = True


class Pin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of an SDK: the Python it runs on (from, to) and how it is installed."""

    version: str
    python: tuple[str, str]
    steps: tuple[Step, ...]

    @property
    def digest(self) -> str:
        """Changes with every pin, so that an environment of older pins is seen."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Tool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One vendor's SDK."""

    title: str
    package: str
    machines: tuple[str, ...]
    systems: tuple[str, ...]
    space_mb: int
    check: str
    versions: tuple[Pin, ...]

    def pin(self, version: str = "") -> Pin:
        """Return one version's pin, the newest where none is named.

        Raises:
            InputError: onchip has no pins for that version.
        """
        for pin in self.versions:
            if version in ("", pin.version):
                return pin
        known = ", ".join(p.version for p in self.versions)
        raise InputError(f"{self.title} {version} has no pins here", f"allowed are {known}")


@cache
def tools() -> dict[str, Tool]:
    """Return every SDK that onchip knows, by its short name."""
    data = files("onchip.toolchains").joinpath("pins.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, Tool])


def tool(name: str) -> Tool:
    """Return one SDK.

    Raises:
        InputError: onchip knows none of that name.
    """
    if name not in tools():
        raise InputError(f"no toolchain called {name!r}", f"allowed are {', '.join(tools())}")
    return tools()[name]
