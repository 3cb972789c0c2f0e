"""What vendors publish for a network on a chip: `published.toml`, to compare a measured speed."""

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from onchip.spec import Cost

ALIKE = 0.1  # of weights and operations, as a logarithm: other classes change them by less


class _Network(Struct, frozen=True, forbid_unknown_fields=True):
    """A network at one size: millions of weights, G operations (two for each multiply-add)."""

    size: tuple[int, int]
    weights: float
    operations: float


class _Speed(Struct, frozen=True, forbid_unknown_fields=True):
    """Images a second: one picture at a time, and eight at a time where that is told."""

    one: float
    eight: float | None = None


class _Chip(Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    why: tuple[str, ...]
    speeds: dict[str, _Speed]


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    networks: dict[str, _Network]
    chips: dict[str, _Chip]


@dataclass(frozen=True)
class Published:
    """The vendor's images a second for a network, inference alone: one at a time, and eight.

    `why` are reasons for another figure here.
    """

    network: str
    source: str
    one: float
    eight: float | None
    why: tuple[str, ...]


def published(chip: str, size: tuple[int, int], cost: Cost) -> Published | None:
    """Return what is published for the network that a given one is, of those known for the chip.

    Args:
        chip: a target's name.
        size: width and height of the input.
        cost: of the network at that size.
    """
    table = _table()
    known = table.chips.get(chip)
    if known is None or min(cost.weights, cost.operations) <= 0:
        return None
    near: list[tuple[float, str]] = []
    for name in known.speeds:
        network = table.networks[name]
        apart = max(
            abs(math.log(cost.weights / network.weights)),
            abs(math.log(cost.operations / network.operations)),
        )
        if network.size == size and apart <= ALIKE:
            near.append((apart, name))
    if not near:
        return None
    name = min(near)[1]
    speed = known.speeds[name]
    return Published(name, known.source, speed.one, speed.eight, known.why)


@cache
def _table() -> _Table:
    data = files("onchip.targets").joinpath("published.toml").read_bytes()
    return msgspec.toml.decode(data, type=_Table)
