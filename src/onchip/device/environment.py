"""The Python environment of onchip on another machine: what it takes, and how it is made there.

It is named by the digest of all that is in it, and made again only when that changes.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from onchip.device.packing import Needs, download
from onchip.device.service import digest
from onchip.device.ssh import Board, PipError
from onchip.errors import DeviceError, InputError, OnchipError, ToolError, UnsupportedError

LEAST_PYTHON = (3, 11)
ENVIRONMENT = 900 << 20  # bytes that a new environment may take

KINDS: Mapping[str, type[OnchipError]] = {
    kind.code: kind for kind in (InputError, UnsupportedError, ToolError, DeviceError)
}

Say = Callable[[str], None]
Wheel = tuple[str, bytes]  # its name, its bytes


def check_machine(facts: Mapping[str, Any], machines: Sequence[str]) -> None:
    """Refuse a board whose system or architecture is none of these.

    Raises:
        DeviceError: it is another.
    """
    if facts["system"] != "Linux":
        raise DeviceError(f"the board runs {facts['system']}, not Linux", "install Linux on it")
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(facts["machine"], facts["machine"])
    if machine not in machines or facts["bits"] != 64:
        bits = "" if facts["bits"] == 64 else f" with {facts['bits']} bits"
        raise DeviceError(
            f"the board is a {machine}{bits}, and this needs {' or '.join(machines)}",
            "install a 64-bit system on it, or build for another chip",
        )


def python_of(facts: Mapping[str, Any], modules: Mapping[str, str]) -> dict[str, Any]:
    """Return the board's Python to use: its own `python3` if that will do, else the newest.

    Args:
        facts: what the board said of itself.
        modules: what it must find, each with what to do where it does not.

    Raises:
        DeviceError: none will do.
    """
    good = [p for p in facts["pythons"] if tuple(p["version"][:2]) >= LEAST_PYTHON]
    if not good:
        versions = ", ".join(".".join(map(str, p["version"])) for p in facts["pythons"])
        raise DeviceError(
            f"the board's Python is {versions or 'not there'}, and onchip needs 3.11 or newer",
            "install a newer one, or a newer system: Raspberry Pi OS 12 and Debian 12 have 3.11",
        )
    for module, hint in modules.items():
        if not (having := [p for p in good if module in p["modules"]]):
            raise DeviceError(f"the board's Python has no {module}", hint)
        good = having
    if able := [p for p in good if {"venv", "ensurepip"} <= set(p["modules"])]:
        return dict(able[0])
    raise DeviceError(
        f"the board's {good[0]['program']} cannot make environments",
        "sudo apt install python3-venv, on the board",
    )


def check_writable(facts: Mapping[str, Any]) -> None:
    """Refuse a folder that cannot be written.

    Raises:
        DeviceError: it cannot.
    """
    if facts["writable"]:
        raise DeviceError(
            f"the board cannot write {facts['folder']}: {facts['writable']}",
            "name a folder that it can: --folder",
        )


def check_room(facts: Mapping[str, Any], env: str, taken: int) -> None:
    """Refuse a disk without room for so many bytes, and for the environment if it is not there.

    Raises:
        DeviceError: it is too full.
    """
    wanted = taken + (0 if env in facts["state"]["envs"] else ENVIRONMENT)
    if facts["free"] < wanted:
        raise DeviceError(
            f"the board's disk is full: {facts['free'] / 1e6:.0f} MB are free for "
            f"{facts['folder']}, and this takes {wanted / 1e6:.0f}",
            "make room, or name a folder on another disk: --folder",
        )


def env_key(requirements: Iterable[str], python: Mapping[str, Any], wheel: Wheel) -> str:
    """Return what names an environment."""
    made_of = [list(requirements), python["version"][:2], python["program"]]
    return digest(json.dumps(made_of), wheel[1])


def install(
    board: Board,
    needs: Needs,
    wheel: Wheel,
    *,
    carried: bool = False,
    wheels: Path | None = None,
    say: Say = lambda text: None,
) -> None:
    """Make an environment: onchip from here, the rest from the board's network.

    Args:
        board: where.
        needs: what it is made of.
        wheel: onchip's own.
        carried: the rest comes from here too.
        wheels: a folder with the rest; without it pip gathers them.
        say: is told what happens.

    Raises:
        PipError: pip failed there.
    """
    options = list(needs.requirements)
    place = f"wheels/{needs.key}"
    if carried:
        say("gathering the wheels")
        with download(needs, wheels) as found:
            for number, path in enumerate(found, 1):
                say(f"copying {path.name} ({number} of {len(found)})")
                board.send(f"{place}/{path.name}", path.read_bytes())
        options = ["--no-index", "--find-links", "{wheels}", *options]
    name, data = wheel
    board.send(f"{place}/{name}", data)
    say("installing")
    try:
        board.ask(
            "environment", tell=say, key=needs.key, python=needs.python["program"],
            wheels=[name], options=options,
        )  # fmt: skip
    except PipError as error:
        raise PipError(
            f"pip failed on {board.at.text}: {error}",
            "without a network there: --offline carries the wheels along",
        ) from error


def run(
    board: Board,
    command: Sequence[str],
    *,
    pause: str = "",
    tell: Say = lambda text: None,
    hint: str = "",
) -> tuple[list[dict[str, Any]], float | None]:
    """Run the board's onchip; return its lines of JSON, and the temperature after it.

    Args:
        board: where.
        command: its words; `{folder}` in them is the folder that was looked at.
        pause: a service that waits meanwhile.
        tell: is given the lines that it says on stderr.
        hint: what to do where it does not say so.

    Raises:
        OnchipError: it failed there, as it would have here.
    """
    done = board.ask("run", tell=tell, command=list(command), pause=pause)
    lines = done["out"].splitlines()
    try:
        found = [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]
    except msgspec.MsgspecError:
        found = []
    if done["code"] or not found:
        error = found[-1].get("error", {}) if found else {}
        last = (done["said"].strip().splitlines() or ["it said nothing"])[-1]
        kind = KINDS.get(error.get("code", ""), DeviceError)
        raise kind(
            f"on {board.at.text}: {error.get('message') or last[:300]}", error.get("hint") or hint
        )
    return found, done["temperature"]
