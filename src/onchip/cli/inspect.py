"""inspect, targets."""

from pathlib import Path

import click

from onchip.artifact import load
from onchip.cli.options import as_json, command, size
from onchip.cli.output import print_json, print_text
from onchip.report import inspect as report
from onchip.targets import target as targets


@command("onchip inspect best.onnx")
@click.argument("file", type=Path)
@click.option("--imgsz", help="Input size, for a model without one: 640 or 640x480.")
@click.option("--layers", is_flag=True, help="List every node, or the plan's every layer.")
@as_json
def inspect_verb(file: Path, imgsz: str | None, layers: bool, as_json: bool) -> None:
    """Show what is in FILE: a model's head and pixels, or an artifact's plan and stages."""
    if report.is_artifact(file):
        found = report.artifact(load(file), file)
    else:
        found = report.model(file, size(imgsz))
    if as_json:
        print_json(found.data)
    else:
        print_text(found.text + ("\n\n" + found.layers if layers else ""))


@command("onchip targets")
@as_json
def targets_verb(as_json: bool) -> None:
    """List the chips that onchip builds for."""
    found = [targets.get(name) for name in targets.names()]
    if as_json:
        print_json({"targets": [{"name": t.name, "title": t.title} for t in found]})
    else:
        print_text("\n".join(f"{t.name:<12} {t.title}" for t in found))
