"""Options that several verbs share, and how their text is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onchip.errors import InputError

PASSWORD = "ONCHIP_PASSWORD"  # noqa: S105 - the variable that may hold a page's password
F = Callable[..., Any]

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def command(example: str) -> Callable[[F], click.Command]:
    """Make a verb whose help ends with an example."""

    def wrap(function: F) -> click.Command:
        made = click.command(
            name=function.__name__.removesuffix("_verb"),
            epilog=f"Example: {example}",
            context_settings=_HELP,
        )(function)
        return made

    return wrap


def group(example: str) -> Callable[[F], click.Group]:
    """Make a group of verbs, which without one shows its help; that ends with an example."""

    def wrap(function: F) -> click.Group:
        made = click.group(
            function.__name__.removesuffix("_verb"),
            invoke_without_command=True,
            context_settings=_HELP,
            epilog=f"Example: {example}",
        )(click.pass_context(function))
        return made

    return wrap


def names(text: str | None) -> tuple[str, ...]:
    """Read `a,b,c`, or the lines of a file of that name."""
    if not text:
        return ()
    path = Path(text)
    if path.is_file():
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        return tuple(line.strip() for line in lines if line.strip())
    return tuple(n.strip() for n in text.split(",") if n.strip())


def size(text: str | None) -> tuple[int, int] | None:
    """Read `640` or `640x480` (width x height)."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(
        p.isascii() and p.isdigit() and 8 <= int(p) <= 8192 for p in parts
    ):
        raise InputError(
            f"--imgsz {text!r} is not a size", "allowed: 640, or WIDTHxHEIGHT: 640x480"
        )
    return (int(parts[0]), int(parts[-1]))
