"""init, run."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onchip.cli.options import as_json, command, names
from onchip.cli.output import bars, print_json, print_text
from onchip.dataset import folders
from onchip.errors import InputError
from onchip.run import project as projects
from onchip.writing import write_whole

if TYPE_CHECKING:
    from onchip.run.ledger import Step


@command("onchip init photos/ -t hailo8l,cpu")
@click.argument("data", type=Path, required=False)
@click.option("-t", "--target", default="cpu", show_default=True, help="One or more: a,b.")
@click.option("--name", default="", help="Of the project; default: that of its folder.")
@click.option("--model", default="", help="Trained already: a .pt or .onnx; nothing is trained.")
@click.option("-o", "--output", type=Path, default=Path(projects.FILE), show_default=True)
@as_json
def init_verb(
    data: Path | None, target: str, name: str, model: str, output: Path, as_json: bool
) -> None:
    """Write the project file that onchip run takes, every setting explained.

    DATA is a data.yaml or a folder of labelled photos; without it, the one found here.
    """
    if output.exists():
        raise InputError(f"{output} exists already", "edit it, or write another: -o NAME.toml")
    found = folders.find(data or _found_here())
    place = found.notes or found.source
    title = name or projects.fitting(found.root.absolute().name)
    root = Path(os.path.normpath(output.absolute())).parent
    if model and not Path(model).is_file():
        raise InputError(f"{model} does not exist", "name a .pt or .onnx that is trained already")
    given = _shown(Path(model), root).as_posix() if model else ""
    text = projects.template(title, _shown(place, root), names(target), given, output.name)
    projects.parse(text, output)  # what is written can be read
    write_whole(output, text.encode())
    if as_json:
        print_json({"project": str(output), "images": len(found.images)})
        return
    print_text(
        f"{output}: {len(found.images)} images, {len(found.names)} classes\n"
        f"look through it, then: onchip run {shlex.quote(str(output))}"
    )


def _shown(path: Path, root: Path) -> Path:
    """Return a path as the project file in the folder `root` says it."""
    whole = Path(os.path.normpath(path.absolute()))
    return whole.relative_to(root) if whole.is_relative_to(root) else whole


def _found_here() -> Path:
    places = [p for n in folders.NOTES for p in (Path(n), *sorted(Path().glob(f"*/{n}")))]
    found = [p for p in places if p.is_file()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError("no data.yaml here", "name it, or a folder of photos: onchip init photos/")
    some = ", ".join(str(p) for p in found[:4])
    raise InputError(f"more than one data set here: {some}", "name one: onchip init DATA")


@command("onchip run onchip.toml")
@click.argument("file", type=Path, default=Path(projects.FILE))
@click.option("--trust", is_flag=True, help="Load a .pt that the project names: you vouch for it.")
@as_json
def run_verb(file: Path, trust: bool, as_json: bool) -> int:
    """Go the whole way of a project FILE: check, split, train, export, build, verify, report.

    Stages whose inputs have not changed are skipped, and what was cut off goes on where it
    stopped. Leaves with exit code 1 if a build is past its gate.
    """
    from onchip.cli.train import say_epoch
    from onchip.run import outcome
    from onchip.run.stages import run

    def tell(step: "Step") -> None:
        if not as_json:
            print_text(outcome.step_text(step))

    given = projects.read(file)
    try:
        with bars() as progress:
            done = run(given, trust=trust, tell=tell, epoch=say_epoch, progress=progress)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nto go on: onchip run {shlex.quote(str(file))}")
        raise
    if as_json:
        print_json(outcome.data(done))
    else:
        print_text(outcome.text(done))
    return done.exit_code
