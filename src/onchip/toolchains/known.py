"""What vendors' tools say, and what it means: `known.toml`, for builds and for the doctor."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec
from msgspec import Struct

from onchip.spec import Verdict

Level = Literal["info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("info", "warning", "error")
MOST_QUOTED = 240  # characters of a log's line


class Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known line: how to find it, what it means, and the cure.

    `{0}` in message and cure is the pattern's first group. `after` names lines of which this one
    is only a consequence: it is not told where one of them is found. Several lines of one code
    are ways to say the same; the first that fits is told.
    """

    code: str
    pattern: str
    level: Level
    message: str
    cure: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What a log says: the tool and the code of the known line, its meaning, and the quote."""

    tool: str
    code: str
    level: Level
    message: str
    cure: str
    said: str


@cache
def _tables() -> dict[str, tuple[Line, ...]]:
    data = files("onchip.toolchains").joinpath("known.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, tuple[Line, ...]])


def tools() -> tuple[str, ...]:
    """Return the names of all tables."""
    return tuple(_tables())


def lines(tool: str) -> tuple[Line, ...]:
    """Return the known lines of one tool."""
    return _tables().get(tool, ())


def find(tool: str, log: str, least: Level = "warning") -> tuple[Finding, ...]:
    """Return what the lines of a log mean, each code once, in the order of the table.

    Lines below the level `least` are left out: an "info" is in the log of a good build too.
    """
    found: dict[str, Finding] = {}
    for line in lines(tool):
        if LEVELS.index(line.level) < LEVELS.index(least) or line.code in found:
            continue
        if found.keys() & set(line.after):
            continue
        if (match := re.search(line.pattern, log)) is not None:
            found[line.code] = Finding(
                tool=tool,
                code=line.code,
                level=line.level,
                message=_filled(line.message, match),
                cure=_filled(line.cure, match),
                said=_quote(log, match),
            )
    return tuple(found.values())


def explain(tool: str, log: str, least: Level = "warning") -> tuple[Verdict, ...]:
    """Return what the lines of a log mean, as verdicts; see `find`."""
    return tuple(
        Verdict(code=f.code, message=f"{f.message}: {f.cure}", level=f.level)
        for f in find(tool, log, least)
    )


def _filled(text: str, match: re.Match[str]) -> str:
    """Put what a pattern's groups found into a text, and take out what is left of empty ones."""
    filled = re.sub(r"\{(\d)\}", lambda m: (match[int(m[1]) + 1] or "").strip(), text)
    return re.sub(r"\s+", " ", filled.replace("()", "")).strip()


def _quote(log: str, match: re.Match[str]) -> str:
    """Return the line in which a match begins, or its group `said` where that is far behind."""
    said = "said" in match.re.groupindex and match["said"] is not None
    place = match.start("said" if said else 0)
    start = log.rfind("\n", 0, place) + 1
    end = log.find("\n", place)
    return log[start : end if end >= 0 else None].strip()[:MOST_QUOTED]
