"""Which Hailo versions belong together, and which can load a file: `hailo_versions.toml`."""

from collections.abc import Collection
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from onchip.formats.versions import minor, number


class HailoRT(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One release: the headers of files that it reads, and the compilers released with it.

    `adds` are the extensions that are new in it, `needs` those that a file must have.
    """

    version: str
    headers: tuple[str, ...]
    adds: frozenset[int] = frozenset()
    needs: frozenset[int] = frozenset()
    dfc: tuple[str, ...] = ()
    zoo: tuple[str, ...] = ()

    @property
    def line(self) -> int:
        """The major version: 4 is for Hailo-8 and 8L, 5 for the others."""
        return number(self.version)[0]


class Arch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file may be compiled for, by the code that it carries.

    `prints` is how hailortcli 4.x calls it. `devices` accept it, the intended one first; those in
    `slower` warn. With `layouts` a file holds the network once for each set of clusters.
    `hailort` are the releases that run it, from and to; "" is open.
    """

    code: int
    name: str
    prints: str
    devices: tuple[str, ...]
    hailort: tuple[tuple[str, str], ...]
    slower: tuple[str, ...] = ()
    layouts: bool = False

    @property
    def line(self) -> int:
        """The newest major version of HailoRT that runs it."""
        return number(self.hailort[-1][0])[0]

    def runs_on(self, release: HailoRT) -> bool:
        """Whether a release of HailoRT runs it on a device that accepts it."""
        version = number(release.version)
        return any(
            number(first) <= version and (not last or version <= number(last))
            for first, last in self.hailort
        )


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole table."""

    hailort: tuple[HailoRT, ...]
    arch: tuple[Arch, ...]
    extensions: dict[int, str]

    def known(self, release: HailoRT) -> frozenset[int]:
        """The extensions that a release knows."""
        upto = self.hailort[: self.hailort.index(release) + 1]
        return frozenset().union(*(r.adds for r in upto))

    def arch_of(self, code: int) -> Arch | None:
        """What a file with that code was compiled for, if it is known."""
        return next((a for a in self.arch if a.code == code), None)

    def devices(self) -> tuple[str, ...]:
        """Every chip, each once."""
        return tuple(dict.fromkeys(d for a in self.arch for d in a.devices))

    def extension(self, code: int) -> str:
        """The name of an extension, or its number."""
        return self.extensions.get(code, str(code))

    def with_compiler(self, version: str) -> tuple[HailoRT, ...]:
        """The releases that came with a compiler: "3.31.0", or the start of that."""
        wanted = number(version)
        return tuple(
            r for r in self.hailort if any(number(d)[: len(wanted)] == wanted for d in r.dfc)
        )

    def loading(
        self, header: str, extensions: Collection[int], arch: int, strict: str = ""
    ) -> tuple[HailoRT, ...]:
        """The releases that load such a file and run it.

        `strict` is the compiler's version, where the file demands the same one of HailoRT.
        """
        found = self.arch_of(arch)
        same = number(strict)[:2]
        return tuple(
            r
            for r in self.hailort
            if header in r.headers
            and self.known(r).issuperset(extensions)
            and r.needs.issubset(extensions)
            and (found is None or found.runs_on(r))
            and (not strict or number(r.version)[:2] == same)
        )


@cache
def table() -> Table:
    """Return the table."""
    data = files("onchip.formats").joinpath("hailo_versions.toml").read_bytes()
    return msgspec.toml.decode(data, type=Table, strict=False)


def spans(releases: Collection[HailoRT]) -> str:
    """Say which releases these are: "4.18 to 4.20" where nothing between them is missing.

    >>> spans(table().hailort[:2] + table().hailort[-1:])
    '4.6 to 4.7 and 5.2'
    """
    minors = [minor(r.version) for r in table().hailort]
    runs: list[list[str]] = []
    before: HailoRT | None = None
    for release in table().hailort:
        if release in releases:
            name = minor(release.version)
            name = name if minors.count(name) == 1 else release.version
            if before in releases and before is not None and before.line == release.line:
                runs[-1].append(name)
            else:
                runs.append([name])
        before = release
    return " and ".join(r[0] if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in runs)
