"""toolchain: vendor SDKs, each in an environment of its own."""

from pathlib import Path

import click

from onchip.cli.options import as_json, command
from onchip.cli.output import bars, print_json, print_text
from onchip.errors import InputError, ToolError
from onchip.toolchains import install as toolchains
from onchip.toolchains.install import Environment
from onchip.toolchains.pins import tools

ACTIONS = ("install", "list", "remove", "doctor")


@command("onchip toolchain install rknn")
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("name", required=False, default="")
@click.option("--version", default="", help="Of the SDK; the newest that onchip knows by default.")
@click.option("--wheels", type=Path, help="Install from this folder of wheels, without network.")
@click.option("--python", default="", help="The interpreter to build the environment on.")
@as_json
def toolchain_verb(
    action: str, name: str, version: str, wheels: Path | None, python: str, as_json: bool
) -> None:
    """Install, list, check or remove a vendor's SDK.

    An SDK never enters onchip's own environment. An install that was cut off goes on where it
    stopped; one that is broken is mended.
    """
    if action in ("install", "remove") and not name:
        raise InputError(f"{action} which?", f"allowed are {', '.join(tools())}")
    found: list[Environment] = []
    if action == "install":
        with bars() as progress:
            found = [
                toolchains.install(name, version, wheels=wheels, python=python, progress=progress)
            ]
    elif action == "remove":
        found = toolchains.remove(name, version)
    else:
        found = [e for e in toolchains.installed() if name in ("", e.name)]
    wrong = {e.folder: toolchains.doctor(e) for e in found} if action == "doctor" else {}
    if as_json:
        print_json({"toolchains": [_data(e, action, wrong.get(e.folder)) for e in found]})
    else:
        print_text("\n".join(_line(e, action, wrong.get(e.folder)) for e in found) or _none())
    broken = [e for e in found if wrong.get(e.folder)]
    if broken:
        raise ToolError(
            f"{len(broken)} of {len(found)} toolchains do not work",
            f"mend with: onchip toolchain install {broken[0].name} --version {broken[0].version}",
        )


def _none() -> str:
    lines = [f"{n:<8} {t.title}, {t.space_mb} MB: not installed" for n, t in tools().items()]
    return "\n".join([*lines, "install one with: onchip toolchain install NAME"])


def _line(found: Environment, action: str, wrong: str | None) -> str:
    state = "removed" if action == "remove" else wrong or _state(found)
    return f"{found.name:<8} {found.version:<8} {state}  {found.folder}"


def _state(found: Environment) -> str:
    return "ready" if found.ready else "half installed"


def _data(found: Environment, action: str, wrong: str | None) -> dict[str, object]:
    return {
        "name": found.name,
        "version": found.version,
        "folder": str(found.folder),
        "ready": action != "remove" and found.ready and not wrong,
        "problem": wrong,
    }
