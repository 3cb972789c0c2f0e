"""The same photo more than once: in two parts of the data set, or in one."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from onchip.dataset.boxes import count
from onchip.dataset.findings import Finding
from onchip.dataset.likeness import clusters, near_duplicates
from onchip.dataset.seen import Seen
from onchip.dataset.source import Source
from onchip.progress import Progress

# Roboflow exports each photo in several versions, named after it and a number of their own.
MADE_FROM = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{16,}$")


def copies(source: Source, seen: Sequence[Seen], progress: Progress) -> Iterator[Finding]:
    """Return copies and near-duplicates, the graver where they are in two parts."""
    yield from _listed_twice(seen)
    exact = _exact(seen)
    for group in exact:
        if len(group) > 1:
            yield from _copies(source, [seen[i] for i in group])
    first = [group[0] for group in exact]
    pairs = near_duplicates([seen[i].facts for i in first], progress)
    alike = [(pair.first, pair.second) for pair in pairs]
    named = _by_name([seen[i].path for i in first])
    for group in clusters(len(first), alike):
        if len(group) > 1:
            yield _near(source, [seen[first[i]] for i in group], "shows nearly the same as")
    together = {frozenset(group) for group in clusters(len(first), alike) if len(group) > 1}
    for group in named:
        if len(_splits(seen[first[i]] for i in group)) > 1 and frozenset(group) not in together:
            yield _near(source, [seen[first[i]] for i in group], "was made from the same photo as")


def _exact(seen: Sequence[Seen]) -> list[tuple[int, ...]]:
    groups: dict[bytes, list[int]] = defaultdict(list)
    for number, one in enumerate(seen):
        if one.facts.digest and one.facts.fault != "not-image":
            groups[one.facts.digest].append(number)
    return [tuple(group) for group in groups.values()]


def _splits(seen: Iterator[Seen] | Sequence[Seen]) -> set[str]:
    return set(chain.from_iterable(one.splits for one in seen))


def _listed_twice(seen: Sequence[Seen]) -> Iterator[Finding]:
    groups: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for one in seen:
        if len(one.splits) > 1:
            groups[one.splits].append(one.path)
    for splits, paths in groups.items():
        said = f"have {count(len(paths), 'photo')} in common"
        yield Finding("leak", " and ".join(splits), said, tuple(paths))


def _copies(source: Source, group: Sequence[Seen]) -> Iterator[Finding]:
    images = tuple(one.path for one in group)
    names = ", ".join(source.said(p) for p in images[1:4]) + (" …" if len(images) > 4 else "")
    leak = len(_splits(group)) > 1 and all(len(one.splits) == 1 for one in group)
    yield Finding(
        "leak" if leak else "duplicate",
        source.said(images[0]),
        f"is the same file as {names}",
        images,
    )
    labelled = [one for one in group if one.labelled]
    if any(not _equal(first, second) for first, second in pairwise(labelled)):
        said = f"and {names} are one photo, but their labels differ"
        yield Finding("copies-differ", source.said(images[0]), said, images)


def _equal(first: Seen, second: Seen) -> bool:
    tables = [
        np.hstack([one.boxes.classes[:, None], one.boxes.values.round(4)])
        for one in (first, second)
    ]
    one, other = (table[np.lexsort(table.T)] for table in tables)
    return one.shape == other.shape and bool(np.allclose(one, other, atol=1e-3))


def _near(source: Source, group: Sequence[Seen], said: str) -> Finding:
    images = tuple(one.path for one in group)
    names = ", ".join(source.said(p) for p in images[1:4]) + (" …" if len(images) > 4 else "")
    code = "near-leak" if len(_splits(group)) > 1 else "near-duplicate"
    return Finding(code, source.said(images[0]), f"{said} {names}", images)


def _by_name(paths: Sequence[Path]) -> list[tuple[int, ...]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for number, path in enumerate(paths):
        if made := MADE_FROM.match(path.stem):
            groups[made[1]].append(number)
    return [tuple(group) for group in groups.values() if len(group) > 1]
