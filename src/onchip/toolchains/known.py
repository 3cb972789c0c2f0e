"""What vendors' tools say, and what it means: `known.toml`, for builds and for the doctor."""

import re
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec
from msgspec import Struct

from onchip.spec import Verdict

Level = Literal["info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("info", "warning", "error")


class Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known line: how to find it, what it means, and the cure."""

    code: str
    pattern: str
    level: Level
    message: str
    cure: str


@cache
def lines(tool: str) -> tuple[Line, ...]:
    """Return the known lines of one tool."""
    data = files("onchip.toolchains").joinpath("known.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, tuple[Line, ...]]).get(tool, ())


def explain(tool: str, log: str, least: Level = "warning") -> tuple[Verdict, ...]:
    """Return what the lines of a log mean, each once, in the order of the table.

    Lines below the level `least` are left out: an "info" is in the log of a good build too.
    """
    return tuple(
        Verdict(code=x.code, message=f"{x.message}: {x.cure}", level=x.level)
        for x in lines(tool)
        if LEVELS.index(x.level) >= LEVELS.index(least) and re.search(x.pattern, log)
    )
