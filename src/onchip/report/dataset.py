"""What was found in a data set, as text and as JSON-ready data."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from onchip.dataset.boxes import called, count
from onchip.dataset.calibrate import Calibration
from onchip.dataset.check import Part, Report
from onchip.dataset.convert import Converted
from onchip.dataset.findings import LEVELS, Finding, grouped, kinds
from onchip.dataset.fix import Fixed, Undone
from onchip.dataset.source import Source
from onchip.dataset.split import Split
from onchip.dataset.stats import Stats
from onchip.report.text import table

Data = dict[str, object]

FIRST = 4  # places of one kind that are told


def plain(path: Path) -> str:
    """Return a path as text that any terminal and any JSON takes."""
    return os.fsencode(path).decode("utf-8", "replace")


def check(found: Report) -> str:
    """What is wrong with a data set, the gravest first."""
    classes = count(len(found.source.names), "class", "classes")
    images = count(len(found.source.images), "image")
    boxes = count(sum(p.boxes for p in found.parts), "box", "boxes")
    head = ["", "images", "label files", "unlabelled", "negatives", "boxes"]
    lines = [
        f"{plain(found.source.path)}: {images}, {boxes}, {classes}",
        table(head, [_part(p) for p in found.parts]),
        *findings(found.findings),
        "",
        verdict(found),
    ]
    return "\n".join(lines)


def _part(part: Part) -> list[str]:
    without = part.images - part.labelled
    numbers = (part.images, part.files, without, part.negatives, part.boxes)
    return [part.name or "all", *(f"{n:,}" for n in numbers)]


def findings(found: Iterable[Finding]) -> list[str]:
    """Return lines for each kind: what it is, the first places, what it means, what to do."""
    lines = []
    for code, group in grouped(found):
        kind = kinds()[code]
        lines += ["", f"{kind.level}: {kind.title} ({len(group):,})  [{code}]"]
        lines += [f"  {finding.text}" for finding in group[:FIRST]]
        if len(group) > FIRST:
            lines.append(f"  … and {len(group) - FIRST:,} more")
        lines += [f"  meaning: {kind.means}", f"  to do: {kind.do}"]
    return lines


def verdict(found: Report) -> str:
    """Say in one line whether the data set can be trained on."""
    numbers = ", ".join(count(len(found.of(level)), level) for level in LEVELS)
    return f"{'good to train' if found.passed else 'not fit to train'}: {numbers}"


def check_data(found: Report) -> Data:
    """What is wrong with a data set."""
    names = {p: found.source.said(p) for p in found.source.images}
    return {
        "source": plain(found.source.path),
        "passed": found.passed,
        "imgsz": found.imgsz,
        "images": len(found.source.images),
        "boxes": sum(p.boxes for p in found.parts),
        "splits": [
            {
                "name": p.name,
                "images": p.images,
                "label_files": p.files,
                "unlabelled": p.images - p.labelled,
                "negatives": p.negatives,
                "boxes": p.boxes,
            }
            for p in found.parts
        ],
        "classes": [
            {"name": name, "boxes": {split: numbers[i] for split, numbers in found.classes.items()}}
            for i, name in enumerate(_names(found.source, found.classes))
        ],
        "findings": findings_data(found.findings, names),
    }


def findings_data(found: Iterable[Finding], names: Mapping[Path, str]) -> list[Data]:
    """Each kind of finding and its places."""
    return [
        {
            "code": code,
            "level": kinds()[code].level,
            "title": kinds()[code].title,
            "means": kinds()[code].means,
            "do": kinds()[code].do,
            "count": len(group),
            "places": [
                {
                    "place": finding.place,
                    "message": finding.message,
                    "images": [names.get(p) or plain(p) for p in finding.images],
                }
                for finding in group
            ],
        }
        for code, group in grouped(found)
    ]


def _names(source: Source, counts: Mapping[str, Sequence[int]]) -> list[str]:
    size = max((len(c) for c in counts.values()), default=0)
    return [called(source.names, i) for i in range(size)]


def fixed(found: Fixed, source: Source) -> str:
    """What was mended."""
    if found.folder is None:
        return "nothing that is safe to mend"
    lines = [f"mended {count(len(found.changes), 'file')}; what was there is in {found.folder}"]
    lines += [f"  {source.said(c.path)}: {_done(c.data, c.said)}" for c in found.changes[:20]]
    if len(found.changes) > 20:
        lines.append(f"  … and {len(found.changes) - 20:,} more; record.json there has all")
    lines.append(f"put it back with: onchip dataset check {plain(source.path)} --undo")
    return "\n".join(lines)


def _done(data: bytes | None, said: str) -> str:
    return f"moved there, for it {said}" if data is None else said


def fixed_data(found: Fixed, source: Source) -> Data:
    """What was mended."""
    return {
        "folder": plain(found.folder) if found.folder else None,
        "files": [
            {"path": source.said(c.path), "moved": c.data is None, "said": c.said}
            for c in found.changes
        ],
    }


def undone(found: Undone) -> str:
    """What was put back."""
    lines = [f"put back {count(len(found.restored), 'file')} from {plain(found.folder)}"]
    if found.changed:
        lines.append(
            f"{count(len(found.changed), 'file')} changed since and left alone: "
            + ", ".join(plain(p) for p in found.changed[:8])
        )
    return "\n".join(lines)


def undone_data(found: Undone) -> Data:
    """What was put back."""
    return {
        "folder": plain(found.folder),
        "restored": [plain(p) for p in found.restored],
        "changed": [plain(p) for p in found.changed],
    }


def split(found: Split, notes: Path) -> str:
    """Which images are where."""
    sizes = ", ".join(f"{part} {len(paths):,}" for part, paths in found.parts.items())
    groups = count(len(found.groups), "group")
    lines = [f"{plain(notes)}: {sizes} images; {groups} of like ones kept together"]
    lines += [f"note: {said}" for said in found.notes]
    lines.append(f"train with: onchip train {plain(notes)}")
    return "\n".join(lines)


def split_data(found: Split, source: Source, notes: Path) -> Data:
    """Which images are where."""
    return {
        "data": plain(notes),
        "seed": found.seed,
        "digest": found.digest(source.root),
        "splits": {part: len(paths) for part, paths in found.parts.items()},
        "groups": [[source.said(p) for p in group] for group in found.groups],
        "notes": list(found.notes),
    }


def calibration(found: Calibration, out: str) -> str:
    """How good a calibration set is."""
    lines = [f"{count(len(found.photos), 'photo')}" + (f" in {out}" if out else "")]
    if found.like:
        ours, theirs = found.bars
        lines += [
            f"against {count(found.like, 'photo')} of the kind that the camera gives:",
            f"  light {found.light:.0f} of 256 apart, colours {found.colour:.0f}; "
            f"grey bars {ours:.0%} and {theirs:.0%} of the input",
        ]
    lines += findings(found.findings)
    if out:
        lines += ["", f"build with: onchip build best.onnx -t TARGET -c {out}"]
    return "\n".join(lines)


def calibration_data(found: Calibration, out: str, array: Sequence[int] | None) -> Data:
    """How good a calibration set is."""
    return {
        "out": out or None,
        "photos": [plain(p) for p in found.photos],
        "compared_with": found.like,
        "light": round(found.light, 2),
        "colour": round(found.colour, 2),
        "bars": [round(b, 4) for b in found.bars],
        "array": list(array) if array else None,
        "passed": not any(f.level == "error" for f in found.findings),
        "findings": findings_data(found.findings, {}),
    }


def stats(source: Source, found: Mapping[str, Stats], imgsz: int) -> str:
    """What a data set holds."""
    lines = [plain(source.path)]
    for name, one in found.items():
        mean, most = one.per_image
        lines += [
            "",
            f"{name or 'all'}: {count(one.images, 'image')}, {one.boxes:,} boxes, "
            f"{one.negatives:,} without objects, {one.unlabelled:,} unlabelled",
            f"  boxes per image: {mean:.1f}, at most {most}",
            f"  small, medium, large boxes: {_three(one.sizes)} in the photos, "
            f"{_three(one.sizes_at)} at {imgsz}",
            f"  shorter sides at {imgsz}: 5 % under {one.sides[0]:.0f} pixels, half under "
            f"{one.sides[1]:.0f}, 95 % under {one.sides[2]:.0f}",
            f"  photos: {_photos(one)}",
        ]
    head = [
        "class",
        *(f"{split or 'all'} {what}" for split in found for what in ("boxes", "images")),
    ]
    rows = []
    for index, name in enumerate(_names(source, {s: _boxes(one) for s, one in found.items()})):
        rows.append([name, *(f"{n:,}" for one in found.values() for n in one.classes[index])])
    return "\n".join([*lines, "", table(head, rows)])


def _boxes(one: Stats) -> list[int]:
    return [boxes for boxes, _ in one.classes]


def _three(numbers: Sequence[int]) -> str:
    return ", ".join(f"{n:,}" for n in numbers)


def _photos(one: Stats) -> str:
    told = ", ".join(f"{w}x{h} ({n:,})" for (w, h), n in one.photos)
    more = one.kinds - len(one.photos)
    return told + (f" and {count(more, 'other size')}" if more > 0 else "")


def stats_data(source: Source, found: Mapping[str, Stats], imgsz: int) -> Data:
    """What a data set holds."""
    names = _names(source, {s: _boxes(one) for s, one in found.items()})
    return {
        "source": plain(source.path),
        "imgsz": imgsz,
        "splits": [
            {
                "name": name,
                "images": one.images,
                "unlabelled": one.unlabelled,
                "negatives": one.negatives,
                "boxes": one.boxes,
                "boxes_per_image": {"mean": round(one.per_image[0], 3), "most": one.per_image[1]},
                "sizes": dict(zip(("small", "medium", "large"), one.sizes, strict=True)),
                "sizes_at_imgsz": dict(
                    zip(("small", "medium", "large"), one.sizes_at, strict=True)
                ),
                "sides_at_imgsz": [round(s, 2) for s in one.sides],
                "photos": [{"width": w, "height": h, "images": n} for (w, h), n in one.photos],
                "classes": [
                    {"name": names[i], "boxes": boxes, "images": images}
                    for i, (boxes, images) in enumerate(one.classes)
                ],
            }
            for name, one in found.items()
        ],
    }


def converted(found: Converted) -> str:
    """What was written in another format."""
    lines = [", ".join(plain(p) for p in found.files)]
    lines.append(f"  {count(found.images, 'image')}, {count(found.boxes, 'box', 'boxes')}")
    lines += [f"  not kept: {said}" for said in found.lost]
    return "\n".join(lines)


def converted_data(found: Converted) -> Data:
    """What was written in another format."""
    return {
        "files": [plain(p) for p in found.files],
        "images": found.images,
        "boxes": found.boxes,
        "lost": list(found.lost),
    }
