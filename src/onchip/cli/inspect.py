"""inspect, targets."""

from pathlib import Path

import click

from onchip.artifact import load
from onchip.cli.options import as_json, command, size
from onchip.cli.output import print_json, print_text
from onchip.report import data as as_data
from onchip.report import inspect as report
from onchip.report import text as as_text
from onchip.targets import target as targets


@command("onchip inspect best.onnx")
@click.argument("file", type=Path)
@click.option("--imgsz", help="Input size, for a model without one: 640 or 640x480.")
@click.option("--layers", is_flag=True, help="List every node, or the plan's every layer.")
@click.option("--log", is_flag=True, help="Print the compiler's log that an artifact keeps.")
@click.option("-t", "--target", default="", help="The chip that a compiled file is meant for.")
@as_json
def inspect_verb(
    file: Path, imgsz: str | None, layers: bool, log: bool, target: str, as_json: bool
) -> None:
    """Show what is in FILE: a model's head and pixels, an artifact's plan and stages, or what a
    compiled file says of itself, with no vendor software."""
    if report.is_artifact(file):
        found = report.artifact(load(file), file, log=log)
    elif report.is_rknn(file):
        found = report.rknn(file, target)
    else:
        found = report.model(file, size(imgsz))
    if as_json:
        print_json(found.data)
    else:
        print_text(found.text + ("\n\n" + found.layers if layers or log else ""))


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
