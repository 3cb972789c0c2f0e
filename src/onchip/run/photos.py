"""The steps that are about photos: look them through, deal them, choose those to calibrate on."""

from pathlib import Path

import msgspec

import onchip
from onchip.dataset import calibrate, folders, layout, samples
from onchip.dataset.check import check, require_sound
from onchip.dataset.samples import Dataset
from onchip.dataset.seen import look
from onchip.dataset.source import open_source
from onchip.dataset.split import split
from onchip.errors import InputError
from onchip.report.dataset_page import page
from onchip.report.document import write
from onchip.run.ledger import Said
from onchip.run.way import CALIBRATION, Way, line
from onchip.sampling import some
from onchip.vision.preprocess import find_images


def checked(way: Way) -> None:
    """Stop at errors of the data set; one without any label can still prove a build."""
    allowed, place = way.project.check.allow, way.place("check.html")

    def work() -> Said:
        report = check(way.found.source, imgsz=way.project.train.imgsz, progress=way.progress)
        write(page(report), place)
        if way.labelled or not way.project.model:
            hint = f"pictures: {place}; to let some stay: [check] allow = [CODES]"
            require_sound(report, allowed, hint)
        return {
            "images": sum(p.images for p in report.parts),
            "boxes": sum(p.boxes for p in report.parts),
            "errors": len(report.of("error")),
            "warnings": len(report.of("warning")),
        }

    imgsz = way.project.train.imgsz
    words = ["dataset", "check", way.found.source, "--imgsz", imgsz, "--page", place]
    # what data.yaml says of its classes is looked at too
    made_of: list[object] = [onchip.__version__, way.whole, way.found.notes, allowed, imgsz]
    made_of += [bool(way.project.model)]  # without one it must do to train on
    way.book.step("check", made_of, line(*words), [place], work)


def divided(way: Way) -> None:
    """Deal the photos into train and val, where data.yaml does not do it yet."""
    given = way.project.split
    there = way.found.splits.keys()
    if {"train", "val"} <= there:
        return
    if {"val", "test"} & there:  # what somebody kept to measure on is not dealt out to be learned
        missing = "train" if "val" in there else "val"
        raise InputError(
            f"{way.found.source} names {' and '.join(there)} images, and no {missing} images",
            f"add a line like  {missing}: images/{missing}, or leave train alone to have it dealt",
        )
    out = way.place("split")
    words: list[object] = ["dataset", "split", way.found.source, "-o", out, "--force"]
    for name in ("val", "test", "seed"):
        words += [f"--{name}", getattr(given, name)]

    def work() -> Said:
        source = open_source(way.found.source)
        seen = look(source, way.project.train.imgsz, way.progress)
        made = split(
            seen,
            source.root,
            val=given.val,
            test=given.test,
            seed=given.seed,
            progress=way.progress,
        )
        layout.lists(source, made, out, force=True)
        return {part: len(paths) for part, paths in made.parts.items()}

    made_of = [way.whole, way.where, msgspec.to_builtins(given)]
    way.book.step("split", made_of, line(*words), [out / layout.NOTES], work)
    way.found = folders.find(out / layout.NOTES)


def measurable(way: Way) -> None:
    """Refuse to measure on a part that is not there, before hours go into what it is to prove."""
    wanted, there = way.project.verify.split, way.found.splits
    if wanted and wanted not in there:
        raise InputError(
            f"[verify] split: {way.found.source} names no {wanted} images",
            f"allowed are {', '.join(there)}",
        )


def calibration(way: Way) -> list[Path]:
    """Choose the photos that builds are calibrated on, of those for training, and list them."""
    splits, place = way.found.splits, way.place(CALIBRATION)
    photos = splits.get("train") or way.found.images
    like = splits.get("val", ())
    most = min(way.project.build.images or len(photos), len(photos))

    def work() -> Said:
        looked = calibrate.look(photos, "calibrate", way.progress)
        goal = calibrate.look(like, "like", way.progress)
        chosen = calibrate.choose(looked, goal, most, way.progress, or_fewer=True)
        calibrate.write_list(chosen, place)
        return {"photos": len(chosen)}

    made_of = [onchip.__version__, way.whole, way.where, way.found.splits, most]
    words = ["dataset", "calibrate", way.found.source, "-o", place, "-n"]

    def command(said: Said) -> str:
        return line(*words, said["photos"])  # which may be fewer than wanted

    way.book.step("calibrate", made_of, command, [place], work)
    return find_images(place)


def labelled(way: Way, split: str) -> bool:
    """Whether a split can be measured on."""
    return way.labelled and way.found.notes is not None and split in way.found.splits


def images(way: Way, split: str, most: int) -> tuple[Dataset, bool]:
    """The images of a split with their true boxes, or all of them where nothing is labelled."""
    if labelled(way, split) and way.found.notes is not None:
        data = samples.load(way.found.notes, split)
        return Dataset(tuple(some(data.samples, most)), data.labels), True
    return samples.unlabelled(some(way.found.images, most), way.found.names), False
