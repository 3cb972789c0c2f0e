"""The layers that a user names: by name or pattern, or as the part of one (`Conv_44/3`).

Parts are made by the range split, so that whether a part is there is known once the network is
rewritten (see rewrite.py).
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from onchip.errors import InputError
from onchip.quantize.regions import Layer


def named(names: Iterable[str], found: Sequence[Layer]) -> tuple[str, ...]:
    """Return the layers that are named, in order; parts of them behind.

    Raises:
        InputError: there is no such layer.
    """
    nodes = [x.node for x in found]
    fits = {name: [n for n in nodes if n == name or fnmatchcase(n, name)] for name in names}
    parts = [name for name, fitting in fits.items() if not fitting]
    _refuse([name for name in parts if name.rpartition("/")[0] not in nodes], nodes)
    taken = {n for fitting in fits.values() for n in fitting}
    return (*(n for n in nodes if n in taken), *parts)


def check(names: Iterable[str], found: Sequence[Layer]) -> None:
    """Refuse layers that the rewritten network does not have.

    Raises:
        InputError: a layer was not split, or into fewer parts.
    """
    nodes = [x.node for x in found]
    _refuse([name for name in names if name not in nodes], nodes)


def _refuse(missing: Sequence[str], nodes: Sequence[str]) -> None:
    if missing:
        near = get_close_matches(missing[0], nodes, 3) or nodes[:3]
        raise InputError(
            f"the cut graph has no layer {', '.join(missing)}",
            f"such as {', '.join(near)}; onchip inspect FILE.onchip --layers lists a plan's",
        )
