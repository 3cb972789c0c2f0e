"""train, export."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from onchip.cli.options import as_json, command, size
from onchip.cli.output import bars, print_json, print_text
from onchip.dataset import samples
from onchip.dataset.check import check, require_sound
from onchip.dataset.samples import Dataset
from onchip.errors import InputError
from onchip.report import train as report
from onchip.train.checkpoint import Untrusted
from onchip.train.export import Export, Exported, export
from onchip.train.fit import Training, fit
from onchip.train.process import check_installed
from onchip.train.runs import Epoch, Trained, Value, state
from onchip.vision.preprocess import find_images

T = TypeVar("T")

_trust = click.option(
    "--trust", is_flag=True, help="Load a .pt that onchip did not train: you vouch for it."
)


@command("onchip train data.yaml --epochs 100 --name garden")
@click.argument("data", type=Path)
@click.option(
    "--model",
    default=Training.model,
    show_default=True,
    help="Weights to begin with (.pt), or a .yaml to begin with nothing.",
)
@click.option(
    "--epochs",
    type=int,
    default=Training.epochs,
    show_default=True,
    help="The most that are trained.",
)
@click.option(
    "--batch", type=int, default=Training.batch, show_default=True, help="Images per step."
)
@click.option(
    "--imgsz",
    type=int,
    default=Training.imgsz,
    show_default=True,
    help="Side of the network's input, in pixels.",
)
@click.option(
    "--patience",
    type=int,
    default=Training.patience,
    show_default=True,
    help="Epochs without a better mAP after which training ends.",
)
@click.option("--name", default=Training.name, show_default=True, help="Of the run.")
@click.option(
    "--project", type=Path, default=Training.project, show_default=True, help="The folder of runs."
)
@click.option("--device", default="", help="cpu, 0 (a GPU) or mps; default: the best there is.")
@click.option(
    "--seed", type=int, default=Training.seed, show_default=True, help="Of all that is random."
)
@click.option("--threads", type=int, default=0, help="CPU threads; 0 is all.")
@click.option(
    "--width",
    type=click.FloatRange(0, 4),
    default=0.0,
    help="Of a network that begins with nothing; 0.25 is yolov8n's.",
)
@click.option("--depth", type=click.FloatRange(0, 4), default=0.0, help="Likewise.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A further setting of Ultralytics; yolo cfg lists them.",
)
@click.option("--resume", is_flag=True, help="Go on with the run of that name.")
@click.option("--unchecked", is_flag=True, help="Train on a data set with errors all the same.")
@_trust
@as_json
def train_verb(
    data: Path, settings: tuple[str, ...], unchecked: bool, trust: bool, as_json: bool, **given: Any
) -> None:  # fmt: skip
    """Train a detector on DATA, a data.yaml, through Ultralytics (pip install 'onchip[train]').

    Weights, results.csv and curves are left in runs/detect/NAME. Ctrl-C ends it, --resume goes on.
    """
    wanted = Training(data=data, more=_settings(settings), **given)
    check_installed()
    if not unchecked:
        with bars() as progress:
            found = check(data, imgsz=wanted.imgsz, progress=progress)
        require_sound(found, (), "or train with them all the same: --unchecked")
        if warned := len(found.of("warning")):
            click.echo(f"the data set has {warned} warnings: onchip dataset check {data}", err=True)

    def work(trust: bool) -> Trained:
        with bars() as progress:
            return fit(replace(wanted, trust=trust), progress=progress, each=say_epoch)

    try:
        made = _trusted(work, trust)
    except KeyboardInterrupt:
        if state(wanted.folder) == "begun":
            sys.stderr.write(f"\nto go on: {_again(wanted)}")
        raise
    if as_json:
        print_json(report.training_data(made))
    else:
        print_text(report.training(made))


@command("onchip export runs/detect/train/weights/best.pt")
@click.argument("weights", type=Path)
@click.option("-o", "--output", type=Path, help="The .onnx file; default: beside the weights.")
@click.option("--imgsz", help="Input size: 640 or 640x480; default: as it was trained.")
@click.option("--opset", type=int, default=Export.opset, show_default=True, help="Of the ONNX.")
@click.option("--nms", is_flag=True, help="Put the suppression of overlaps inside.")
@click.option(
    "--data", type=Path, help="A data.yaml to prove it on; default: the one that it was trained on."
)
@click.option("--split", default="val", show_default=True, help="Which part of it.")
@click.option("-c", "--photos", help="Images without labels, instead of --data.")
@click.option("--threads", type=int, default=0, help="CPU threads; 0 is all.")
@_trust
@as_json
def export_verb(weights: Path, trust: bool, as_json: bool, imgsz: str | None, **given: Any) -> int:
    """Make the ONNX file that chips want of WEIGHTS (best.pt), and prove that it sees the same.

    Leaves with exit code 1 if it does not; the file is then called .failed.onnx.
    """
    images = _images(given.pop("data"), given.pop("split"), given.pop("photos"))
    wanted = Export(weights, size=size(imgsz), **given)

    def work(trust: bool) -> Exported:
        with bars() as progress:
            return export(replace(wanted, trust=trust), images, progress=progress)

    made = _trusted(work, trust)
    if as_json:
        print_json(report.exported_data(made))
    else:
        print_text(report.exported(made))
    return 0 if made.proof.passed else 1


def _images(data: Path | None, split: str, photos: str | None) -> Dataset | None:
    if data is not None:
        return samples.load(data, split)
    return samples.unlabelled(find_images(photos), ()) if photos else None


def _again(wanted: Training) -> str:
    """The command that goes on with a training."""
    words = ["onchip", "train", str(wanted.data), "--name", wanted.name, "--resume"]
    if wanted.project != Training.project:
        words += ["--project", str(wanted.project)]
    return shlex.join(words)


def say_epoch(epoch: Epoch, planned: int) -> None:
    """Tell of an epoch on stderr."""
    sys.stderr.write(
        f"epoch {epoch.number}/{planned}  mAP50 {epoch.map50:.3f}  mAP50-95 {epoch.map50_95:.3f}\n"
    )
    sys.stderr.flush()


def _trusted(work: Callable[[bool], T], trust: bool) -> T:
    """Do something with a checkpoint; where nobody vouches for it yet, ask whoever sits there."""
    try:
        return work(trust)
    except Untrusted as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        click.echo(f"{error}.", err=True)
        if not click.confirm("Do you trust where it comes from?", default=False, err=True):
            raise
    return work(True)


def _settings(given: Sequence[str]) -> dict[str, Value]:
    import yaml

    found: dict[str, Value] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--set {pair!r} is not a setting", "write --set NAME=VALUE")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {pair!r} does not read", "write --set NAME=VALUE") from error
        found[name.strip()] = _number(value)
    return found


def _number(value: object) -> Any:
    """YAML takes 1e-3 for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
