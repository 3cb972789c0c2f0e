"""demo."""

from pathlib import Path

import click

from onchip.cli.options import as_json, command
from onchip.cli.output import bars, print_json, print_text
from onchip.errors import InputError


@command("onchip demo")
@click.option(
    "-o", "--output", type=Path, default=Path("onchip-demo"), show_default=True,
    help="Folder for scenes, artifacts, pictures and reports.",
)  # fmt: skip
@as_json
def demo_verb(output: Path, as_json: bool) -> None:
    """Tell the whole story on bundled inputs: no network, no GPU, no board, under two minutes.

    A small detector is built and proven; then a broken build is made, and the proof catches it.
    """
    from onchip.demo.story import tell
    from onchip.report import data

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {output}: {error.strerror}", "choose another: -o"
        ) from error
    with bars() as progress:
        story = tell(output, (lambda line: None) if as_json else print_text, progress)
    if as_json:
        print_json({"good": data.proof(story.good), "broken": data.proof(story.broken)})
