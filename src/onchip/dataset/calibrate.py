"""Choose photos for calibration, and check ones that were chosen.

The best few photos are those that every photo of the camera has one like itself among: facility
location, chosen greedily (Nemhauser, Wolsey and Fisher, "An analysis of approximations for
maximizing submodular set functions", 1978). What a photo is like is where in it which colours are,
how light is spread over it, and its shape.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from onchip.dataset import layout
from onchip.dataset.boxes import count
from onchip.dataset.facts import Facts, facts
from onchip.dataset.findings import Finding
from onchip.dataset.likeness import clusters, near_duplicates
from onchip.dataset.source import shown
from onchip.detections import Floats
from onchip.errors import InputError
from onchip.progress import Progress
from onchip.sampling import some
from onchip.several import each
from onchip.spec import InputSpec
from onchip.vision.preprocess import find_images, letterbox, read_image
from onchip.writing import write_whole

ENOUGH = 64
MOST = 2000  # photos of each kind that are compared
CELLS = 4  # of a side, in which colours are averaged
LEVELS = 16  # steps of the histogram of light
# How far apart two sets may be: mean distance of their sorted values (Wasserstein's first), in
# steps of 256. Sets of 32 photos drawn from one source reach 13 in light and 7 in colour; night
# against day has 30 to 70, grey against colour 12.
LIGHT = 18.0
COLOUR = 8.0
SHAPE = 0.1  # the share of the input that may be grey bars in one set and not in the other
GREY = 2.0  # mean distance from grey, in steps of 256
ENDS = (16.0, 240.0)  # mean light of what is nearly black, or white
SOME = 0.05  # the share of photos of a kind that is told

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Photo:
    """One photo and what is known of its file."""

    path: Path
    facts: Facts


@dataclass(frozen=True)
class Calibration:
    """A set of calibration photos against those that it should be like."""

    photos: tuple[Path, ...]
    like: int  # how many photos it was compared with
    light: float  # how far apart they are, in steps of 256
    colour: float
    bars: tuple[float, float]  # the share of the input that is grey bars, here and there
    findings: tuple[Finding, ...]


def look(paths: Sequence[Path], what: str, progress: Progress) -> list[Photo]:
    """Look at photos."""
    found = []
    for done, (path, seen) in enumerate(zip(paths, each(facts, paths), strict=True), 1):
        found.append(Photo(path, seen))
        progress(what, done, len(paths))
    return found


def choose(
    photos: Sequence[Photo],
    like: Sequence[Photo],
    wanted: int,
    progress: Progress,
    *,
    or_fewer: bool = False,
) -> tuple[Photo, ...]:
    """Choose the photos that those in `like` have one like themselves among, the best first.

    Broken photos, copies, and what is nearly black or white are not chosen.

    Raises:
        InputError: there are fewer usable photos than wanted, and not even so `or_fewer`.
    """
    usable = [p for p in photos if p.facts.thumb and not p.facts.fault and not _blank(p)]
    pairs = near_duplicates([p.facts for p in usable], progress)
    groups = clusters(len(usable), [(pair.first, pair.second) for pair in pairs])
    first: dict[bytes, Photo] = {}
    for group in groups:
        first.setdefault(usable[group[0]].facts.digest, usable[group[0]])
    different = list(first.values())
    if len(different) < (1 if or_fewer else wanted):
        raise InputError(
            f"{count(wanted, 'photo')} wanted, but only {len(different)} of {len(photos)} are "
            "whole and different",
            f"add photos, or ask for fewer: -n {max(1, len(different))}",
        )
    offered = some(different, max(MOST, wanted))
    goal = some([p for p in like if p.facts.thumb] or different, MOST)
    nearness = _nearness(_features(goal), _features(offered))
    chosen: list[int] = []
    best = np.zeros(len(goal), np.float32)
    for _ in range(min(wanted, len(offered))):
        gain = np.maximum(nearness - best[:, None], 0).sum(axis=0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        best = np.maximum(best, nearness[:, chosen[-1]])
    return tuple(offered[i] for i in chosen)


def _features(photos: Sequence[Photo]) -> Array:
    return np.stack([_feature(p) for p in photos])


def _feature(photo: Photo) -> Array:
    lab = cv2.cvtColor(photo.facts.picture(), cv2.COLOR_BGR2LAB)
    cells = cv2.resize(lab, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32)
    spread, _ = np.histogram(lab[..., 0], bins=LEVELS, range=(0, 256))
    spread = np.sqrt(spread / spread.sum())
    width, height = photo.facts.size
    return np.concatenate([cells.ravel() / 128, spread, [np.log(width / height)]]).astype(
        np.float32
    )


def _nearness(goal: Array, some: Array) -> Array:
    """Return how like each of `goal` is to each of `some`, from 0 to 1."""
    squares = (goal**2).sum(1)[:, None] + (some**2).sum(1)[None, :] - 2 * goal @ some.T
    middle = max(float(np.median(squares)), 1e-6)
    return np.exp(-np.maximum(squares, 0) / middle).astype(np.float32)


def judge(
    photos: Sequence[Photo],
    like: Sequence[Photo],
    root: Path,
    size: tuple[int, int],
    progress: Progress,
) -> Calibration:
    """Compare a calibration set with the photos that it should be like; `size` is the input's."""
    usable = [p for p in photos if p.facts.thumb and not p.facts.fault]
    others = [p for p in like if p.facts.thumb and not p.facts.fault]
    ours, theirs = _pixels(usable), _pixels(others)
    light = _apart(ours[:, 0], theirs[:, 0])
    colour = max(_apart(ours[:, i], theirs[:, i]) for i in (1, 2))
    bars = _bars(usable, size), _bars(others, size)
    findings = (
        *_each(photos, root),
        *_copies(usable, root, progress),
        *_all(usable, others, light, colour, bars),
    )
    paths = tuple(p.path for p in photos)
    return Calibration(paths, len(others), light, colour, bars, findings)


def _pixels(photos: Sequence[Photo]) -> Floats:
    """Return some pixels of all photos, `(n, 3)`: light, green to red, blue to yellow."""
    small = [p.facts.picture()[::4, ::4] for p in photos]
    tables = [cv2.cvtColor(np.ascontiguousarray(s), cv2.COLOR_BGR2LAB) for s in small]
    rows = [t.reshape(-1, 3).astype(np.float32) for t in tables]
    return np.concatenate(rows) if rows else np.zeros((0, 3), np.float32)


def _apart(one: Floats, other: Floats) -> float:
    if not len(one) or not len(other):
        return 0.0
    steps = np.linspace(0, 100, 101)
    return float(np.abs(np.percentile(one, steps) - np.percentile(other, steps)).mean())


def _bars(photos: Sequence[Photo], size: tuple[int, int]) -> float:
    """Return the mean share of the input that is not picture."""
    shares = []
    for photo in photos:
        width, height = photo.facts.size
        scale = min(size[0] / width, size[1] / height)
        shares.append(1 - width * height * scale**2 / (size[0] * size[1]))
    return float(np.mean(shares)) if shares else 0.0


def _blank(photo: Photo) -> bool:
    light = float(cv2.cvtColor(photo.facts.picture(), cv2.COLOR_BGR2GRAY).mean())
    return not ENDS[0] <= light <= ENDS[1]


def _grey(photo: Photo) -> bool:
    lab = cv2.cvtColor(photo.facts.picture(), cv2.COLOR_BGR2LAB).astype(np.float32)
    return float(np.hypot(lab[..., 1] - 128, lab[..., 2] - 128).mean()) < GREY


def _each(photos: Sequence[Photo], root: Path) -> Iterator[Finding]:
    for photo in photos:
        name = shown(photo.path, root)
        if photo.facts.fault:
            yield Finding("calib-broken", name, photo.facts.why, (photo.path,))
        elif _blank(photo):
            yield Finding("calib-exposure", name, "shows next to nothing", (photo.path,))


def _copies(photos: Sequence[Photo], root: Path, progress: Progress) -> Iterator[Finding]:
    same: dict[bytes, int] = {}
    pairs = [(same.setdefault(p.facts.digest, i), i) for i, p in enumerate(photos)]
    near = near_duplicates([p.facts for p in photos], progress)
    for group in clusters(len(photos), [*pairs, *((p.first, p.second) for p in near)]):
        if len(group) > 1:
            images = tuple(photos[i].path for i in group)
            names = ", ".join(shown(p, root) for p in images[1:4])
            said = f"shows the same as {names}" + (" …" if len(images) > 4 else "")
            yield Finding("calib-copies", shown(images[0], root), said, images)


def _all(
    ours: Sequence[Photo],
    theirs: Sequence[Photo],
    light: float,
    colour: float,
    bars: tuple[float, float],
) -> Iterator[Finding]:
    if len(ours) < ENOUGH:
        yield Finding("calib-few", "", f"there are {count(len(ours), 'photo')}")
    grey = sum(map(_grey, ours)) / max(1, len(ours))
    usual = sum(map(_grey, theirs)) / max(1, len(theirs))
    if grey > usual + max(SOME, usual):
        yield Finding("calib-grey", "", f"{grey:.0%} are grey, of the others {usual:.0%}")
    if not theirs:
        return
    if light > LIGHT:
        yield Finding("calib-light", "", f"light is {light:.0f} of 256 apart (allowed {LIGHT:g})")
    if colour > COLOUR:
        said = f"colours are {colour:.0f} of 256 apart (allowed {COLOUR:g})"
        yield Finding("calib-colour", "", said)
    if abs(bars[0] - bars[1]) > SHAPE:
        said = f"{bars[0]:.0%} of the input is grey bars, with the others {bars[1]:.0%}"
        yield Finding("calib-shape", "", said)


def write_folder(photos: Sequence[Photo], out: Path, progress: Progress) -> None:
    """Copy photos as they are to a new folder, for `onchip build -c`.

    Raises:
        InputError: `out` is there already, or it cannot be written.
    """
    with layout.appearing(out) as folder:
        for number, photo in enumerate(photos, 1):
            layout.place(photo.path, folder / f"{number:04}-{photo.path.name}", link=False)
            progress("copy", number, len(photos))
        names = [os.fsencode(p.path.absolute()).decode("utf-8", "replace") for p in photos]
        record = msgspec.json.format(msgspec.json.encode({"photos": names}))
        (folder / "calibration.json").write_bytes(record + b"\n")


def write_list(photos: Sequence[Photo], out: Path) -> None:
    """Write a text file that lists photos where they lie, for `onchip build -c`.

    Raises:
        InputError: a name fits on no line, something that is no list is there already, or it
            cannot be written.
    """
    if out.exists():
        try:
            find_images(out)
        except InputError as error:
            raise InputError(
                f"{out} is there already and is no list of photos", "name another: -o calib.txt"
            ) from error
    write_whole(out, layout.listing([p.path for p in photos], out.parent))


def write_array(
    photos: Sequence[Photo], out: Path, size: tuple[int, int], progress: Progress
) -> tuple[int, ...]:
    """Write the photos as vendors' tools take them, and return the shape of the array.

    They are letterboxed as the network sees them, RGB, uint8, `(n, height, width, 3)`; mean and
    standard deviation are not applied, which those tools do themselves.

    Raises:
        InputError: a photo cannot be read, or the file cannot be written.
    """
    width, height = size
    spec = InputSpec(name="images", width=width, height=height)
    part = out.parent / f".onchip-{os.getpid()}-{out.name}.part"
    shape = (len(photos), height, width, 3)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            for number, photo in enumerate(photos, 1):
                canvas, _ = letterbox(read_image(photo.path), spec)
                file.write(np.ascontiguousarray(canvas[..., ::-1]).tobytes())
                progress("array", number, len(photos))
        part.replace(out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return shape
