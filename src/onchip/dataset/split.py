"""Deal the images of a data set into train, val and test.

Every class, and the photos without objects, is dealt in the wanted shares: iterative
stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data",
2011), of groups instead of single images. What shows the same, or was taken in one burst, is one
group and stays together, so that nothing is measured on what was learned.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from onchip.dataset.boxes import count
from onchip.dataset.copies import MADE_FROM
from onchip.dataset.likeness import clusters, near_duplicates, signature
from onchip.dataset.seen import Seen
from onchip.errors import InputError
from onchip.progress import Progress, silent

BURST = 0.8  # how like one another neighbours of a burst are
LARGEST = 0.1  # the most of all images that may stay together for being alike
NUMBER = re.compile(r"\d+")
NONE = -1  # the class of photos without objects
ANY = -2  # and of every photo


@dataclass(frozen=True)
class Split:
    """Which images are in which part; `groups` are those that had to stay together."""

    parts: Mapping[str, tuple[Path, ...]]
    groups: tuple[tuple[Path, ...], ...]
    shares: Mapping[str, float]
    seed: int
    group_by: str
    notes: tuple[str, ...]

    def digest(self, root: Path) -> str:
        """Return a digest of which image is where, the same on any machine."""
        lines = sorted(f"{part}\t{_key(p, root)}" for part, ps in self.parts.items() for p in ps)
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def split(
    seen: Sequence[Seen],
    root: Path,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    group_by: str = "",
    unlabelled: bool = False,
    progress: Progress = silent,
) -> Split:
    """Deal images, each once. The same images, labels and options give the same split anywhere.

    Args:
        seen: the images and their labels.
        root: what their names are relative to.
        val: the share of images to measure on while training.
        test: the share to measure on in the end.
        seed: of the dealing.
        group_by: a pattern; images for whose name it finds the same stay together.
        unlabelled: deal photos that nobody labelled too; they are learned as without objects.
        progress: is told how far the search for what is alike is.

    Raises:
        InputError: the shares, the pattern or the images do not allow a split.
    """
    shares = _shares(val, test)
    if seed < 0:
        raise InputError(f"--seed {seed} is no seed", "allowed are whole numbers from 0")
    whole = [one for one in seen if not one.facts.fault]
    usable = [one for one in whole if one.labelled or unlabelled]
    if len(usable) < len(shares) + 1:
        raise InputError(
            f"{count(len(usable), 'labelled image')} cannot be split in {len(shares)}",
            "label more photos: onchip annotate",
        )
    usable.sort(key=lambda one: _key(one.path, root))
    groups, notes = _groups(usable, root, group_by, progress)
    if len(whole) > len(usable):
        said = count(len(whole) - len(usable), "photo")
        notes = (*notes, f"{said} that nobody labelled left out; --unlabelled deals them too")
    if len(seen) > len(whole):
        notes = (*notes, f"{count(len(seen) - len(whole), 'file')} that cannot be read left out")
    dealt = _deal(usable, groups, shares, seed)
    parts: dict[str, list[Path]] = {part: [] for part in shares}
    for group, part in zip(groups, dealt, strict=True):
        parts[part] += [usable[i].path for i in group]
    empty = [part for part, paths in parts.items() if not paths]
    if empty:
        largest = max(groups, key=len)
        raise InputError(
            f"no image is left for {' and '.join(empty)}: the largest group that stays together "
            f"has {len(largest)} of {len(usable)}",
            "take photos at other times and places, or group them otherwise with --group-by",
        )
    together = tuple(tuple(usable[i].path for i in g) for g in groups if len(g) > 1)
    ordered = {part: tuple(sorted(ps, key=lambda p: _key(p, root))) for part, ps in parts.items()}
    return Split(ordered, together, shares, seed, group_by, notes)


def _shares(val: float, test: float) -> dict[str, float]:
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise InputError(
            f"--val {val:g} --test {test:g} leaves nothing to train on",
            "shares are parts of one: --val 0.2 --test 0.1",
        )
    shares = {"train": 1 - val - test, "val": val, "test": test}
    return {part: share for part, share in shares.items() if share}


def _key(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _groups(
    seen: Sequence[Seen], root: Path, group_by: str, progress: Progress
) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """Return the groups of images that stay together, and what is to be said about them.

    A camera that never moves makes one group of all its photos; such a one is cut in runs of
    neighbours, for nothing could be dealt otherwise. What was made of one photo is never cut.
    """
    firm = [*_same_bytes(seen), *_by_name(seen, root, group_by)]
    alike = [(p.first, p.second) for p in near_duplicates([one.facts for one in seen], progress)]
    if not group_by:
        alike += _bursts(seen, root)
    whole = {i: group for group in clusters(len(seen), firm) for i in group}
    most = max(2, int(LARGEST * len(seen)))
    groups: list[tuple[int, ...]] = []
    cut = 0
    for group in clusters(len(seen), [*firm, *alike]):
        pieces = dict.fromkeys(whole[i] for i in sorted(group, key=lambda i: _order(seen[i], root)))
        runs = _runs(list(pieces), most) if len(group) > most else [group]
        groups += runs
        cut += len(group) if len(runs) > 1 else 0
    if not cut:
        return groups, ()
    said = (
        f"{count(cut, 'photo')} look like long bursts of one camera; they were cut in runs of "
        f"{most} neighbours, and those at a cut are alike"
    )
    return groups, (said,)


def _runs(pieces: Sequence[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    runs: list[list[int]] = [[]]
    for piece in pieces:
        if runs[-1] and len(runs[-1]) + len(piece) > most:
            runs.append([])
        runs[-1] += piece
    return [tuple(run) for run in runs]


def _same_bytes(seen: Sequence[Seen]) -> list[tuple[int, int]]:
    first: dict[bytes, int] = {}
    return [(first.setdefault(one.facts.digest, i), i) for i, one in enumerate(seen)]


def _by_name(seen: Sequence[Seen], root: Path, group_by: str) -> list[tuple[int, int]]:
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(
            f"--group-by {group_by!r} is no pattern: {error}", r"an example: --group-by '^[^_]+'"
        ) from error
    first: dict[object, int] = {}
    pairs = []
    for number, one in enumerate(seen):
        made = MADE_FROM.match(one.path.stem)
        found = pattern.search(_key(one.path, root)) if group_by else None
        names: list[object] = [("made", made[1])] if made else []
        if found:
            names.append(found.groups() or found[0])
        pairs += [(first.setdefault(name, number), number) for name in names]
    if group_by and not any(isinstance(name, str) or name for name in first):
        raise InputError(f"--group-by {group_by!r} finds nothing in any name")
    return pairs


def _bursts(seen: Sequence[Seen], root: Path) -> list[tuple[int, int]]:
    """Return neighbours by number that look alike, as frames of one video do."""
    pairs = []
    order = sorted(range(len(seen)), key=lambda i: _order(seen[i], root))
    before = np.zeros(0, np.float32)
    for first, second in pairwise([order[0], *order]):
        sign = signature(seen[second].facts.picture()).astype(np.float32)
        series = [_order(seen[i], root)[0] for i in (first, second)]
        if first != second and series[0] == series[1] and _like(before, sign) >= BURST:
            pairs.append((first, second))
        before = sign
    return pairs


def _order(one: Seen, root: Path) -> tuple[str, tuple[int, ...], str]:
    """Return what sorts images as they were taken: the series, the numbers in the name."""
    name = _key(one.path, root)
    return NUMBER.sub("#", name), tuple(int(n) for n in NUMBER.findall(name)), name


def _like(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1))


def _deal(
    seen: Sequence[Seen],
    groups: Sequence[tuple[int, ...]],
    shares: Mapping[str, float],
    seed: int,
) -> list[str]:
    """Return the part of each group: the rarest class first, to where it is wanted most."""
    random = np.random.default_rng(seed)
    rank = random.permutation(len(groups)).tolist()  # what decides between equals
    has = [_images_of(seen[i] for i in group) for group in groups]
    total: Counter[int] = sum(has, Counter())
    wanted = {part: {c: share * n for c, n in total.items()} for part, share in shares.items()}
    dealt = [""] * len(groups)
    left: dict[int, set[int]] = defaultdict(set)
    for number, classes in enumerate(has):
        for label in classes:
            left[label].add(number)
    while left[ANY]:
        label = min((c for c in left if left[c]), key=lambda c: (c == ANY, len(left[c]), c))
        # large groups first: small ones even out what those left uneven
        for number in sorted(left[label], key=lambda g: (-len(groups[g]), rank[g])):
            part = max(shares, key=lambda p: (wanted[p][label], wanted[p][ANY], shares[p]))
            dealt[number] = part
            for each, n in has[number].items():
                wanted[part][each] -= n
                left[each].discard(number)
    return dealt


def _images_of(seen: Iterable[Seen]) -> Counter[int]:
    """Return how many images of a group show each class."""
    found: Counter[int] = Counter()
    for one in seen:
        found.update({*one.boxes.classes.tolist()} or {NONE})
        found[ANY] += 1
    return found
