"""Write a data set down: lists of its images where they lie, or folders with copies or links."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from onchip.dataset import yolo
from onchip.dataset.coco import document
from onchip.dataset.facts import size_of
from onchip.dataset.places import elsewhere_of
from onchip.dataset.source import Source
from onchip.dataset.split import Split
from onchip.errors import InputError
from onchip.progress import Progress
from onchip.writing import write_whole

NOTES, RECORD = "data.yaml", "split.json"
Parts = Mapping[str, Sequence[Path]]


def lists(source: Source, split: Split, out: Path, *, force: bool = False) -> Path:
    """Write `train.txt`, `val.txt`, `data.yaml` and `split.json`; no photo is copied or moved.

    Returns the `data.yaml`. The same split may be written again; another one only with `force`.

    Raises:
        InputError: something else is there, a name fits no list, or it cannot be written.
    """
    files = {f"{part}.txt": listing(paths, out) for part, paths in split.parts.items()}
    if source.document is not None:
        raise InputError(
            "trainers find no labels beside the photos of a COCO document",
            "write folders that they do: --link OUT or --copy OUT",
        )
    for image in (p for paths in split.parts.values() for p in paths):
        if not yolo.place(image).is_file() and (other := elsewhere_of(image)) is not None:
            raise InputError(
                f"trainers do not find {source.said(other)}; they look for "
                f"{source.said(yolo.place(image))}",
                "write folders that they do: --link OUT or --copy OUT",
            )
    files[RECORD] = record(source, split)
    said = f"# Dealt by onchip dataset split: seed {split.seed}; {RECORD} has the rest.\n"
    files[NOTES] = said.encode() + notes({part: f"{part}.txt" for part in split.parts}, source)
    _room(out, files[RECORD], force)
    for name, data in files.items():
        write_whole(out / name, data)
    for part in {"train", "val", "test"} - set(split.parts):
        (out / f"{part}.txt").unlink(missing_ok=True)  # of the split that was there before
    return out / NOTES


def listing(paths: Sequence[Path], out: Path) -> bytes:
    """Return a list of images for trainers: a line each, from the folder `out` of the list.

    Raises:
        InputError: a name fits on no line.
    """
    lines = []
    for path in paths:
        line = os.path.relpath(path.absolute(), out.absolute())
        if not line.isprintable():
            raise InputError(
                f"{line!r} fits on no line of a list", "rename it, or write folders: --link OUT"
            )
        if os.path.realpath(out / line) == os.path.realpath(path):
            # Ultralytics takes lines with ./ from the folder of the list, others from where it runs
            lines.append(f"./{Path(line).as_posix()}\n")
        else:  # out is behind a link, where ../ leads elsewhere
            lines.append(f"{path.absolute().as_posix()}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def _room(out: Path, fresh: bytes, force: bool) -> None:
    """Raise InputError if what is in `out` must not be written over."""
    taken = [n for n in ("train.txt", "val.txt", "test.txt", NOTES) if (out / n).exists()]
    before = out / RECORD
    if taken and not before.is_file():
        raise InputError(
            f"{out} has a {taken[0]} that no split wrote", "write to another folder: -o OUT"
        )
    if taken and not force and before.read_bytes() != fresh:
        raise InputError(
            f"{out} holds another split, and models may have been measured on it",
            "--force deals anew, -o OUT writes somewhere else",
        )


def record(source: Source, split: Split) -> bytes:
    """Return `split.json`: what the split was made of and how, and its digest."""
    data = {
        "seed": split.seed,
        "shares": split.shares,
        "group_by": split.group_by,
        "digest": split.digest(source.root),
        "images": {part: len(paths) for part, paths in split.parts.items()},
        "groups": [[source.said(p) for p in group] for group in split.groups],
        "notes": list(split.notes),
    }
    return msgspec.json.format(msgspec.json.encode(data)) + b"\n"


def notes(parts: Mapping[str, str], source: Source) -> bytes:
    """Return a `data.yaml` that names where the images of each part are.

    Raises:
        InputError: the data set has no class names.
    """
    import yaml  # only data sets need it

    if not source.names:
        raise InputError(
            f"{source.path} has no class names", "add a classes.txt with one name on each line"
        )
    table = {**parts, "names": dict(enumerate(source.names))}
    return yaml.safe_dump(table, sort_keys=False, allow_unicode=True).encode()


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """Give a folder to write in, which is called `out` when all is written, or is gone.

    Raises:
        InputError: `out` is there already, or something cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} is there already", "name a folder that is not")
    part = out.parent / f".onchip-{os.getpid()}-{out.name}.part"
    try:
        part.mkdir(parents=True)
        yield part
        part.replace(out)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror or error}", "nothing of it was left"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def as_yolo(
    source: Source,
    parts: Parts,
    out: Path,
    *,
    link: bool,
    extra: Mapping[str, bytes] | None = None,
    progress: Progress,
) -> Path:
    """Write `images/PART`, `labels/PART` and `data.yaml`; photos are copied or linked as they are.

    Raises:
        InputError: `out` is there already, or something cannot be read or written.
    """
    places = {part: f"images/{part}" if part else "images" for part in parts}
    named = {part or "train": place for part, place in places.items()}
    with appearing(out) as folder:
        write_whole(folder / NOTES, notes(named, source))
        for name, data in (extra or {}).items():
            write_whole(folder / name, data)
        for image, target in _targets(source, parts, folder, progress):
            place(image, target, link)
            rows = _rows(source, image)
            if rows is not None:
                labels = yolo.place(target)
                labels.parent.mkdir(parents=True, exist_ok=True)
                labels.write_bytes(rows)
    return out / NOTES


def as_coco(
    source: Source, parts: Parts, out: Path, *, link: bool, progress: Progress
) -> tuple[Path, ...]:
    """Write `images/PART` and `annotations/instances_PART.json`.

    Raises:
        InputError: `out` is there already, something cannot be read or written, or the data set
            has no class names.
    """
    made: dict[str, list[tuple[str, tuple[int, int], Sequence[yolo.Row]]]] = {p: [] for p in parts}
    if not source.names:
        notes({}, source)
    with appearing(out) as folder:
        for image, target in _targets(source, parts, folder, progress):
            size = size_of(image)
            if size is None:
                continue
            if str(image) != str(image).encode("utf-8", "replace").decode():
                raise InputError(f"{source.said(image)} fits in no document", "rename it first")
            place(image, target, link)
            below = target.relative_to(folder / "images")
            part = below.parts[0] if below.parts[0] in parts else ""
            name = below.relative_to(part).as_posix()
            made[part].append((name, size, source.rows(image) or ()))
        for part, photos in made.items():
            path = folder / "annotations" / f"instances_{part or 'images'}.json"
            write_whole(path, document(source.names, photos))
    return tuple(out / "annotations" / f"instances_{part or 'images'}.json" for part in parts)


def _targets(
    source: Source, parts: Parts, folder: Path, progress: Progress
) -> Iterator[tuple[Path, Path]]:
    """Yield each image and where it goes; no two of one part share a name or a label file."""
    total, done = sum(map(len, parts.values())), 0
    for part, paths in parts.items():
        taken: set[Path] = set()
        for image in paths:
            below = _below(image, source.root, parts)
            number = 1
            while below.with_suffix("") in taken:
                number += 1
                below = below.with_name(f"{image.stem}-{number}{image.suffix}")
            taken.add(below.with_suffix(""))
            yield image, folder / "images" / part / below
            done += 1
            progress("write", done, total)


def _below(image: Path, root: Path, parts: Parts) -> Path:
    """Return the name of an image below its part: as it was, without images/ and the part."""
    if not image.is_relative_to(root):
        return Path(image.name)
    *above, name = image.relative_to(root).parts
    return Path(*(p for p in above if p != "images" and p not in parts), name)


def _rows(source: Source, image: Path) -> bytes | None:
    """Return the label file of an image, as it is where there is one."""
    if source.document is not None:
        rows = source.rows(image) or ()
        return yolo.encode(r.label for r in rows if r.label is not None and not r.fault)
    right = yolo.place(image)
    labels = right if right.is_file() else elsewhere_of(image)
    return labels.read_bytes() if labels is not None else None


def place(image: Path, target: Path, link: bool) -> None:
    """Copy an image, or link to it; it is never encoded anew."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(image.absolute())
    else:
        shutil.copy2(image, target)
