"""Look at a board from here, over ssh, with the same judgement as at this machine."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from onchip.device import Check, doctor, told
from onchip.device.deploy import FOLDER
from onchip.device.doctor import Section
from onchip.device.environment import LEAST_PYTHON
from onchip.device.ssh import Board

Facts = Mapping[str, Any]
HOT = 80.0  # degrees Celsius, from which small boards slow down
ROOM = 1 << 30  # bytes that a first deploy may need
MODEL = "{folder}/current"


def look(board: Board, files: Sequence[Path] = (), *, folder: str = FOLDER) -> tuple[Section, ...]:
    """Look at a board, whether it runs the files, and at the model that was deployed there.

    Raises:
        InputError: a file cannot be read, or is of another kind.
        DeviceError: the connection ended.
    """
    wants = {probe.key: dict(probe.wants) for probe in doctor.PROBES}
    facts = board.ask("look", folder=folder, modules=[], wants=wants)
    sections = [Section(board.at.text, tuple(_machine(facts)), board=True)]
    sections += doctor.chips(files, doctor.artifacts(files), told(facts["vendors"]))
    sections.append(Section("deployed", tuple(_deployed(board, facts)), board=True))
    return tuple(sections)


def _machine(facts: Facts) -> Iterable[Check]:
    yield Check("board", facts["model"] or f"{facts['system']} {facts['machine']}")
    yield Check("system", f"{facts['release'] or facts['system']}, {facts['machine']}")
    versions = [".".join(map(str, p["version"])) for p in facts["pythons"]]
    least = ".".join(map(str, LEAST_PYTHON))
    if not any(tuple(p["version"][:2]) >= LEAST_PYTHON for p in facts["pythons"]):
        yield Check(
            "Python", ", ".join(dict.fromkeys(versions)) or "none", "error",
            f"onchip needs Python {least} or later", f"sudo apt install python{least}-venv",
        )  # fmt: skip
    else:
        yield Check("Python", ", ".join(dict.fromkeys(versions)))
    yield _room(facts)
    heat = facts["temperature"]
    if heat is not None and heat >= HOT:
        yield Check(
            "heat", f"{heat:.0f} °C", "warning", "so hot the board slows itself down",
            "give it a fan or a heat sink",
        )  # fmt: skip
    elif heat is not None:
        yield Check("heat", f"{heat:.0f} °C")


def _room(facts: Facts) -> Check:
    free = facts["free"]
    text = f"{free / 1e9:.1f} GB free" if free is not None else "not told"
    if facts["writable"]:
        problem = f"{facts['folder']} cannot be written: {facts['writable']}"
        return Check("disk", text, "error", problem, "name a folder that can: deploy --folder")
    if free is not None and free < ROOM and not facts["state"]["envs"]:
        return Check("disk", text, "warning", "a first deploy may need a gigabyte", "free some")
    return Check("disk", text)


def _deployed(board: Board, facts: Facts) -> Iterable[Check]:
    """What was deployed, and whether it runs: what the board's own onchip says of it."""
    now = facts["state"]["current"]
    if now is None:
        yield Check("none", f"nothing in {facts['folder']}")
        return
    model = str(now.get("model", ""))
    yield Check("model", f"{model or 'unknown'}, release {now['name']}")
    command = [f"{MODEL}/env/bin/python", "-m", "onchip", "doctor", f"{MODEL}/{model}", "--json"]
    done = board.ask("run", command=command, pause="")
    try:
        said = msgspec.json.decode(done["out"], type=_Said)
    except msgspec.MsgspecError:
        last = (done["said"].strip().splitlines() or ["it said nothing"])[-1][:300]
        yield Check(
            "onchip", "does not run", "error", f"the board's onchip fails: {last}",
            "deploy it again: onchip deploy FILE BOARD --again",
        )  # fmt: skip
        return
    yield from (check for s in said.sections if s.title == "trial" for check in s.checks)


class _Said(msgspec.Struct):
    """What another machine's doctor says as JSON."""

    sections: tuple[Section, ...]
