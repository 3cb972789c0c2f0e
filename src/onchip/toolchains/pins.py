"""Which vendor SDKs onchip knows, and exactly what each is installed from: `pins.toml`."""

import hashlib
import re
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from onchip.errors import InputError

WHEEL = "{wheel}"  # in a step: the wheel that the user brings


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


class Release(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of the versions that begin alike: the Python and glibc that they are for."""

    version: str
    python: tuple[str, str]
    libc: str


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an SDK that only its vendor gives out is installed from the user's own wheel.

    `others` are packages that are taken for it, and what they are. `headers` are the C headers that
    a package among its requirements is compiled with, and `cure` brings them. Below `memory_mb` it
    is slow or killed; `gpu` says what becomes of it without a free NVIDIA GPU.
    """

    place: str
    file: str
    others: dict[str, str]
    headers: dict[str, tuple[str, ...]]
    cure: str
    memory_mb: int
    gpu: str
    steps: tuple[Step, ...]
    releases: tuple[Release, ...]

    def release(self, version: str) -> Release:
        """Return what is known of a version, or of the last one before it."""
        known = sorted(self.releases, key=lambda r: order(r.version))
        before = [r for r in known if order(r.version) <= order(version)]
        return (before or known[:1])[-1]

    def known(self) -> str:
        """The versions in the table, for people."""
        return ", ".join(r.version for r in self.releases)


class Tool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One vendor's SDK: of pinned versions, or from a wheel that the user brings."""

    title: str
    package: str
    machines: tuple[str, ...]
    systems: tuple[str, ...]
    space_mb: int
    check: str
    versions: tuple[Pin, ...] = ()
    wheel: Source | None = None

    def pin(self, version: str = "") -> Pin:
        """Return one version's pin, the newest where none is named.

        Any version has one where the user brings the wheel, which says on which Python it runs.

        Raises:
            InputError: onchip has no pins for that version, or none is named that it could have.
        """
        if self.wheel is not None:
            if not version:
                raise InputError(f"which version of {self.title}?", f"see {self.wheel.place}")
            return Pin(version=version, python=("", ""), steps=self.wheel.steps)
        for pin in self.versions:
            if version in ("", pin.version):
                return pin
        known = ", ".join(p.version for p in self.versions)
        raise InputError(f"{self.title} {version} has no pins here", f"allowed are {known}")


def within(version: str, prefix: str) -> bool:
    """Whether a version is the given one, or one of those that begin so.

    >>> within("3.33.1", "3.33"), within("3.33.1", "3.3"), within("3.33.1", "")
    (True, False, True)
    """
    return not prefix or f"{version}.".startswith(f"{prefix}.")


def order(version: str) -> tuple[int, ...]:
    """Return what sorts versions, the oldest first.

    >>> sorted(("3.9.1", "3.33", "5.0.0"), key=order)
    ['3.9.1', '3.33', '5.0.0']
    """
    return tuple(int(n) for n in re.findall(r"[0-9]+", version))


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
