"""Classes: what they are called, how many boxes each has, and in which split."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from onchip.dataset import folders
from onchip.dataset.boxes import called, count
from onchip.dataset.findings import Finding
from onchip.dataset.seen import Seen
from onchip.dataset.source import Source

RARE = 100  # a class with so many times fewer boxes than the most common one is rare
FEW = 10  # and one with fewer boxes than this


def per_class(source: Source, seen: Sequence[Seen]) -> Mapping[str, tuple[int, ...]]:
    """Return for each split how many boxes of each class it has."""
    counts: dict[str, Counter[int]] = {split: Counter() for split in source.splits}
    for one in seen:
        for split in one.splits:
            counts[split].update(one.boxes.classes.tolist())
    top = max((max(c, default=-1) for c in counts.values()), default=-1)
    size = len(source.names) or top + 1
    return {split: tuple(c[i] for i in range(size)) for split, c in counts.items()}


def balance(source: Source, counts: Mapping[str, tuple[int, ...]]) -> Iterator[Finding]:
    """Return what is wrong with names and numbers of classes."""
    yield from _names(source)
    if not any(map(any, counts.values())):
        return
    learned = counts.get("train") if any(counts.get("train", ())) else None
    measured = [c for split, c in counts.items() if split != "train"] if learned else []
    most = max(learned or next(iter(counts.values())))
    for index, boxes in enumerate(zip(*counts.values(), strict=True)):
        name = called(source.names, index)
        taught = learned[index] if learned else boxes[0]
        tested = sum(c[index] for c in measured)
        if not any(boxes):
            yield Finding("class-unused", name, "has no box")
        elif not taught and tested:
            yield Finding(
                "class-unlearned", name, f"has {count(tested, 'box', 'boxes')}, none in train"
            )
        elif taught < FEW or taught * RARE < most:
            said = f"has {count(taught, 'box', 'boxes')}; the most common class has {most:,}"
            yield Finding("class-rare", name, said)
        if measured and taught and not tested:
            yield Finding(
                "class-unmeasured", name, f"has {count(taught, 'box', 'boxes')}, all in train"
            )


def _names(source: Source) -> Iterator[Finding]:
    same: dict[str, str] = {}
    for name in source.names:
        plain = " ".join(name.lower().split())
        if not plain or name != name.strip() or not name.isprintable():
            yield Finding("class-names", repr(name), "is empty, or has spaces around it")
        if plain in same:
            yield Finding("class-names", repr(name), f"is as good as {same[plain]!r}")
        same.setdefault(plain, name)
    notes = source.folders.notes
    if notes is None:
        return
    table = folders.read_notes(notes)
    names = table.get("names")
    read = list(names.values()) if isinstance(names, dict) else names
    for bare in [n for n in read if isinstance(n, bool | None)] if isinstance(read, list) else []:
        said = "is what YAML makes of a bare word such as no, on or null; write it in quotes"
        yield Finding("class-names", str(bare), said)
    if "nc" in table and table["nc"] != len(source.names):
        said = f"says nc: {table['nc']}, but has {count(len(source.names), 'name')}"
        yield Finding("class-count", source.said(notes), said)
