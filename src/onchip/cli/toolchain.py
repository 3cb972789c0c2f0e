"""toolchain: vendor SDKs, each in an environment of its own."""

from pathlib import Path

import click

from onchip.cli.options import as_json, command
from onchip.cli.output import as_error, bars, print_json, print_text
from onchip.errors import InputError, ToolError
from onchip.toolchains import install as toolchains
from onchip.toolchains import pins
from onchip.toolchains.install import Environment

ACTIONS = ("install", "list", "remove", "doctor")


@command("onchip toolchain install rknn")
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("name", required=False, default="")
@click.option("--version", default="", help="Of the SDK; the newest that onchip knows by default.")
@click.option("--wheel", type=Path, help="The SDK itself, where only its vendor gives it out.")
@click.option("--wheels", type=Path, help="Install from this folder of wheels, without network.")
@click.option("--python", default="", help="The interpreter to build the environment on.")
@as_json
def toolchain_verb(
    action: str,
    name: str,
    version: str,
    wheel: Path | None,
    wheels: Path | None,
    python: str,
    as_json: bool,
) -> int:
    """Install, list, check or remove a vendor's SDK.

    An SDK never enters onchip's own environment. An install that was cut off goes on where it
    stopped; one that is broken is mended. Before a --wheel is installed, it is looked at, and what
    it needs on this machine.
    """
    if action in ("install", "remove") and not name:
        raise InputError(f"{action} which?", f"allowed are {', '.join(pins.tools())}")
    if name:
        pins.tool(name)  # or it says that there is none
    told: list[str] = []
    if action == "install":
        try:
            with bars() as progress:
                made = toolchains.install(
                    name,
                    version,
                    wheel=wheel,
                    wheels=wheels,
                    python=python,
                    progress=progress,
                    tell=told.append,
                )
        finally:
            for text in told if not as_json else []:
                click.echo(f"warning: {text}", err=True)
        found = [made]
    elif action == "remove":
        with bars() as progress:
            found = toolchains.remove(name, version, progress)
    else:
        found = _chosen(name, version)
    checked = action == "doctor"
    if checked and name and not found:
        toolchains.ready(name, version)  # it is not, and says how to get it
    wrong = {e.folder: toolchains.doctor(e) for e in found} if checked else {}
    failure = _failure([e for e in found if wrong.get(e.folder)], len(found))
    if as_json:
        data: dict[str, object] = {
            "toolchains": [_data(e, action, wrong.get(e.folder)) for e in found],
        }
        if action == "install":
            data["warnings"] = told
        if failure is not None:
            data["error"] = as_error(failure)
        print_json(data)
        return failure.exit_code if failure is not None else 0
    print_text("\n".join(_line(e, action, wrong.get(e.folder)) for e in found) or _none())
    if failure is not None:
        raise failure
    return 0


def _chosen(name: str, version: str) -> list[Environment]:
    every = toolchains.installed()
    return [e for e in every if name in ("", e.name) and version in ("", e.version)]


def _failure(broken: list[Environment], count: int) -> ToolError | None:
    if not broken:
        return None
    first = broken[0]
    return ToolError(f"{len(broken)} of {count} toolchains do not work", f"mend with: {first.mend}")


def _none() -> str:
    known = pins.tools().items()
    lines = [f"{n:<8} {t.title}, {t.space_mb} MB: not installed" for n, t in known]
    brought = [n for n, t in known if t.wheel]
    last = (
        f"install one with: onchip toolchain install NAME; with --wheel FILE: {', '.join(brought)}"
    )
    return "\n".join([*lines, last if brought else last.partition(";")[0]])


def _line(found: Environment, action: str, wrong: str | None) -> str:
    state = "removed" if action == "remove" else wrong or found.lack or "ready"
    return f"{found.name:<8} {found.version:<8} {state}  {found.folder}"


def _data(found: Environment, action: str, wrong: str | None) -> dict[str, object]:
    gone = action == "remove"
    return {
        "name": found.name,
        "version": found.version,
        "folder": str(found.folder),
        "ready": not gone and found.ready and not wrong,
        "problem": None if gone else wrong or found.lack or None,
    }
