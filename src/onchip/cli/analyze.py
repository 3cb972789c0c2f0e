"""analyze."""

from pathlib import Path
from typing import Any

import click

from onchip.artifact import load
from onchip.cli.options import as_json, command
from onchip.cli.output import bars, print_json, print_text
from onchip.cli.prove import dataset, labelled_images, unlabelled_images
from onchip.report import layers as report


@command("onchip analyze best.onchip -c photos/ --report layers.html")
@click.argument("file", type=Path)
@labelled_images
@unlabelled_images
@click.option(
    "--images",
    type=click.IntRange(0),
    default=32,
    show_default=True,
    help="At most so many; 0 is all.",
)
@click.option("--all", "whole", is_flag=True, help="Print every layer, not only the worst.")
@click.option("--report", "page", type=Path, help="Write an HTML page with plots here.")
@as_json
def analyze_verb(
    file: Path, whole: bool, page: Path | None, as_json: bool, **given: Any
) -> None:  # fmt: skip
    """Look into the plan of FILE layer by layer: what each loses alone, what adds up, and why.

    Suspects are repaired one by one and what that wins is measured; what matters most is named
    first. Works for every target on any machine; a vendor's own analysis is joined where there is
    one.
    """
    from onchip.analyze import analyze

    artifact = load(file)
    data, labelled = dataset(given, artifact.manifest.head.labels)
    with bars() as progress:
        found = analyze(artifact, data, labelled=labelled, progress=progress)
    print_json(report.data(found)) if as_json else print_text(report.text(found, whole=whole))
    if page is not None:
        from onchip.report.document import write

        write(report.page(artifact, found), page)
