"""inspect, diff, targets."""

from pathlib import Path

import click

from onchip.artifact import load
from onchip.cli.options import as_json, command, size
from onchip.cli.output import print_json, print_text
from onchip.formats.hef_verdicts import Expected
from onchip.report import compare
from onchip.report import data as as_data
from onchip.report import hef as hailo
from onchip.report import inspect as report
from onchip.report import text as as_text
from onchip.report.tflite import tflite
from onchip.targets import target as targets


@command("onchip inspect best.onnx")
@click.argument("file", type=Path)
@click.option("--imgsz", help="Input size, for a model without one: 640 or 640x480.")
@click.option("--layers", is_flag=True, help="List every node, or the plan's every layer.")
@click.option("--log", is_flag=True, help="Print the compiler's log that an artifact keeps.")
@click.option(
    "-t", "--target", default="", help="What a compiled file is meant for: a chip, or an .onchip."
)
@as_json
def inspect_verb(
    file: Path, imgsz: str | None, layers: bool, log: bool, target: str, as_json: bool
) -> None:
    """Show what is in FILE: a model's head and pixels, an artifact's plan and stages, or what a
    compiled file says of itself, with no vendor software."""
    found = _inspect(file, size(imgsz), log=log, wanted=_wanted(target))
    if as_json:
        print_json(found.data)
    else:
        print_text(found.text + ("\n\n" + found.layers if layers or log else ""))


def _inspect(
    file: Path, imgsz: tuple[int, int] | None, *, log: bool, wanted: Expected
) -> report.Inspection:
    if hailo.is_hef(file):
        return hailo.hef(file, wanted)
    if hailo.is_har(file):
        return hailo.har(file, wanted)
    if report.is_tflite(file):  # before artifacts: there may be a zip archive behind it
        return tflite(file, wanted.chip)
    if report.is_artifact(file):
        made = load(file)
        return hailo.with_program(report.artifact(made, file, log=log), made)
    if report.is_rknn(file):
        return report.rknn(file, wanted.chip)
    return report.model(file, imgsz)


def _wanted(target: str) -> Expected:
    """What a compiled file should be: for a chip, or as an artifact's manifest says."""
    if target.endswith(".onchip"):
        return hailo.expected(load(Path(target)))
    return Expected(chip=target)


@command("onchip diff before.hef after.hef")
@click.argument("a", type=Path)
@click.argument("b", type=Path)
@as_json
def diff_verb(a: Path, b: Path, as_json: bool) -> int:
    """Show what differs between two compiled files or artifacts, the gravest first.

    Exit code 0 if nothing does, 1 if something does. Files of two formats are compared in what
    both say: .hef and .har, or a compiled file and the .onchip that it came from.
    """
    found = compare.compare(a, b)
    if as_json:
        print_json(compare.as_data(found, a, b))
    else:
        print_text(compare.as_text(found, a, b))
    return 0 if found.equal else 1


@command("onchip targets")
@click.argument("name", required=False, default="")
@as_json
def targets_verb(name: str, as_json: bool) -> None:
    """List the chips that onchip builds for, what is installed, and what was verified.

    With a NAME, also the target's own options for -O.
    """
    found = [targets.get(name)] if name else [targets.get(n) for n in targets.names()]
    if as_json:
        print_json({"targets": [as_data.target(t) for t in found]})
        return
    print_text("\n".join(as_text.target(t) for t in found))
    if name:
        print_text("\n".join(["options (-O NAME=VALUE):", *as_text.target_options(found[0])]))
