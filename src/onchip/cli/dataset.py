"""dataset: check, split, calibrate, stats, convert."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onchip.cli.options import as_json, command, group, size
from onchip.cli.output import bars, print_json, print_text
from onchip.errors import InputError
from onchip.report import dataset as report


@group("onchip dataset check data.yaml --page check.html")
def dataset_verb(context: click.Context) -> None:
    """Look after photos and their labels.

    DATA is a data.yaml, a folder of photos, or a COCO document (.json). With --json each of these
    prints one JSON object.
    """
    if context.invoked_subcommand is None:
        print_text(context.get_help())


_images = click.option("--images", type=Path, help="Where the photos of a COCO document are.")
_imgsz = click.option(
    "--imgsz",
    type=click.IntRange(32, 8192),
    default=640,
    show_default=True,
    help="Side of the training input, in pixels; what is small is small there.",
)
_link = click.option("--link", is_flag=True, help="Link to the photos instead of copying them.")


@command("onchip dataset check data.yaml --page check.html")
@click.argument("data", type=Path)
@_images
@_imgsz
@click.option("--model", type=Path, help="Ask an .onchip or .onnx what it thinks of the labels.")
@click.option("--page", type=Path, help="Write an HTML page with pictures here.")
@click.option("--fix", is_flag=True, help="Mend what is safe to mend, with a copy of what was.")
@click.option("--undo", is_flag=True, help="Put back what the newest --fix changed.")
@as_json
def check_verb(data: Path, as_json: bool, page: Path | None, **given: Any) -> int:
    """Say what is wrong with DATA, what that means for training, and what to do.

    Leaves with exit code 1 if there are errors; warnings and notes alone are 0. --fix cuts off
    boxes at the edge, drops exact twins and boxes without a size, and moves aside label files
    without a photo and files that are no image.
    """
    from onchip.dataset.fix import fix, undo

    if given["undo"]:
        back = undo(data)
        _tell(report.undone(back), report.undone_data(back), as_json)
        return 0
    mended = None
    with bars() as progress:
        options = {"images": given["images"], "imgsz": given["imgsz"], "progress": progress}
        found = _checked(data, given["model"], options)
        if given["fix"]:
            mended = fix(found)
            if mended.changes:
                found = _checked(data, given["model"], options)
        if page is not None:
            from onchip.report.dataset_page import page as made
            from onchip.report.document import write

            write(made(found, progress), page)
    text, table = report.check(found), report.check_data(found)
    if mended is not None:
        text = f"{report.fixed(mended, found.source)}\n\n{text}"
        table["fixed"] = report.fixed_data(mended, found.source)
    _tell(text, table, as_json)
    return 0 if found.passed else 1


def _checked(data: Path, model: Path | None, options: dict[str, Any]) -> Any:
    from onchip.dataset.check import check

    if model is None:
        return check(data, **options)
    from onchip.dataset.dispute import LEAST
    from onchip.dataset.source import open_source
    from onchip.detect.program import Limits
    from onchip.sight import open_sight

    photos = open_source(data, options["images"]).images[:8]
    with open_sight(model, photos, limits=Limits(LEAST), threads=1) as sight:
        return check(data, sight=sight, **options)


@command("onchip dataset split photos/ --val 0.2 --test 0.1")
@click.argument("data", type=Path)
@_images
@click.option("--val", default=0.2, show_default=True, help="Share to measure on in training.")
@click.option("--test", default=0.0, show_default=True, help="Share to measure on in the end.")
@click.option("--seed", default=0, show_default=True, help="Of the dealing.")
@click.option("--group-by", default="", help="A pattern: names with the same match stay together.")
@click.option("--unlabelled", is_flag=True, help="Deal photos that nobody labelled too.")
@click.option("-o", "--out", type=Path, help="Where the lists go; split/ in DATA by default.")
@click.option("--copy", type=Path, help="Copy the photos to folders in this new one instead.")
@click.option("--link", type=Path, help="Link to the photos from folders in this new one instead.")
@click.option("--force", is_flag=True, help="Deal anew what is split already.")
@as_json
def split_verb(data: Path, as_json: bool, out: Path | None, **given: Any) -> None:
    """Deal the images of DATA into train, val and test, every class in its share.

    Photos that show nearly the same, and bursts, stay together. No photo is moved: lists of them
    are written, and a data.yaml. The same input gives the same split.
    """
    from onchip.dataset import layout
    from onchip.dataset.seen import look
    from onchip.dataset.source import open_source
    from onchip.dataset.split import split

    source = open_source(data, given["images"])
    folder = given["copy"] or given["link"]
    if given["copy"] and given["link"]:
        raise InputError("--copy or --link?", "allowed is one of them")
    if {"val", "test"} & set(source.splits) and not given["force"]:
        raise InputError(f"{data} is split already", "--force deals all of its images anew")
    with bars() as progress:
        seen = look(source, 640, progress)
        names = ("val", "test", "seed", "group_by", "unlabelled")
        found = split(seen, source.root, progress=progress, **{n: given[n] for n in names})
        if folder is not None:
            extra = {layout.RECORD: layout.record(source, found)}
            link = given["link"] is not None
            notes = layout.as_yolo(
                source, found.parts, folder, link=link, extra=extra, progress=progress
            )
        else:
            out = out or source.root / "split"
            notes = layout.lists(source, found, out, force=given["force"])
    _tell(report.split(found, notes), report.split_data(found, source, notes), as_json)


@command("onchip dataset calibrate data.yaml -n 64 -o calib/")
@click.argument("data", type=Path)
@click.option(
    "-n", "--number", type=click.IntRange(1), default=64, show_default=True, help="How many."
)
@click.option("--like", help="A part of DATA, or photos, of the kind the camera gives [val].")
@click.option("-o", "--out", type=Path, help="A new folder, or a .txt to list them in.")
@click.option("--check", is_flag=True, help="Choose none: say how good the photos in DATA are.")
@click.option("--npy", type=Path, help="Also write them letterboxed, uint8 RGB NHWC, as .npy.")
@click.option("--imgsz", default="640", show_default=True, help="Of the input: 640, or 640x480.")
@as_json
def calibrate_verb(data: Path, as_json: bool, out: Path | None, **given: Any) -> int:
    """Choose the photos of DATA that a build is best calibrated on, or check ones that you have.

    They are different from each other, whole, and like those that the camera will give. What they
    were made of is not encoded anew. `onchip build -c` takes the folder, and the list.
    """
    from onchip.dataset import calibrate

    limits = size(given["imgsz"]) or (640, 640)
    photos, goal, root = _candidates(data, given["like"], given["check"])
    array = None
    with bars() as progress:
        looked = calibrate.look(photos, "look", progress)
        like = calibrate.look(goal, "like", progress) if goal else []
        chosen: Sequence[calibrate.Photo] = looked
        if not given["check"]:
            chosen = calibrate.choose(looked, like, given["number"], progress)
        found = calibrate.judge(chosen, like, root, limits, progress)
        if out is not None and out.suffix.lower() == ".txt":
            calibrate.write_list(chosen, out)
        elif out is not None:
            calibrate.write_folder(chosen, out, progress)
        if given["npy"] is not None:
            array = calibrate.write_array(chosen, given["npy"], limits, progress)
    name = report.plain(out) if out is not None else ""
    text = report.calibration(found, name)
    if out is None and not given["check"]:
        text += "\n" + "\n".join(report.plain(p) for p in found.photos)
    table = report.calibration_data(found, name, array)
    _tell(text, table, as_json)
    return 0 if table["passed"] else 1


def _candidates(data: Path, like: str | None, whole: bool) -> tuple[list[Path], list[Path], Path]:
    """Return the photos to choose from, those that they should be like, and their folder."""
    from onchip.dataset.source import open_source
    from onchip.vision.preprocess import find_images

    if data.suffix.lower() == ".txt" or not data.exists():  # a list, or a glob
        photos, splits, root = find_images(data), {}, data.parent
    else:
        source = open_source(data)
        splits, root = dict(source.splits), source.root
        # what is measured on is not calibrated on, or the proof would be too good
        photos = list(source.images if whole else splits.get("train", source.images))
    if not photos:
        raise InputError(f"no images in {data}", "allowed are jpg, png, bmp, webp and tiff")
    if like is None:
        return photos, list(splits.get("val", ())), root
    return photos, list(splits[like]) if like in splits else find_images(like), root


@command("onchip dataset stats data.yaml")
@click.argument("data", type=Path)
@_images
@_imgsz
@as_json
def stats_verb(data: Path, images: Path | None, imgsz: int, as_json: bool) -> None:
    """Count what DATA holds: images, boxes of each class, their sizes, and the photos' sizes."""
    from onchip.dataset.stats import stats

    with bars() as progress:
        source, found = stats(data, images=images, imgsz=imgsz, progress=progress)
    _tell(report.stats(source, found, imgsz), report.stats_data(source, found, imgsz), as_json)


@command("onchip dataset convert annotations.json yolo/ --to yolo")
@click.argument("data", type=Path)
@click.argument("out", type=Path)
@click.option("--to", type=click.Choice(("yolo", "coco")), required=True, help="The format of OUT.")
@_images
@_link
@as_json
def convert_verb(
    data: Path, out: Path, to: str, images: Path | None, link: bool, as_json: bool
) -> None:
    """Write DATA in another format to the new folder OUT, and say what that cannot hold.

    Photos are copied as they are, never encoded anew.
    """
    from onchip.dataset.convert import convert

    with bars() as progress:
        found = convert(data, out, to, images=images, link=link, progress=progress)
    _tell(report.converted(found), report.converted_data(found), as_json)


def _tell(text: str, table: report.Data, as_json: bool) -> None:
    if as_json:
        print_json(table)
    else:
        print_text(text)


for _verb, _text in {
    check_verb: "what is wrong with photos and labels; --fix mends what is safe",
    split_verb: "deal them into train, val and test; what is alike stays together",
    calibrate_verb: "choose photos for a build's calibration, or check chosen ones",
    stats_verb: "count images, boxes, classes and sizes",
    convert_verb: "from YOLO's layout to COCO and back",
}.items():
    _verb.short_help = _text
    dataset_verb.add_command(_verb)
