"""Finish a build on another machine, which has the vendor's SDK, over the same ssh as to a board.

What goes there is the artifact as far as it was built, with the photos where the SDK wants some;
what comes back is the artifact as `onchip compile` would have left it here.
"""

import getpass
import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from onchip import stages
from onchip.artifact import Artifact, load, save
from onchip.device.environment import (
    Say,
    check_machine,
    check_room,
    check_writable,
    env_key,
    install,
    python_of,
    run,
)
from onchip.device.packing import Needs, onchip_wheel, whole
from onchip.device.service import digest
from onchip.device.ssh import Board, FullError
from onchip.errors import DeviceError, OnchipError, ToolError
from onchip.progress import Progress, silent
from onchip.targets import target as targets

FOLDER = "~/.local/share/onchip/compile"
MACHINES = ("x86_64", "aarch64")
MADE = "made.onchip"
STEP = re.compile(r"(?P<what>.+): (?P<done>\d+) of (?P<total>\d+)")  # as cli/output.py writes it


def compile_on(
    host: Board,
    path: Path,
    photos: Sequence[Path] = (),
    *,
    options: Mapping[str, str] | None = None,
    folder: str = FOLDER,
    say: Say = lambda text: None,
    progress: Progress = silent,
) -> tuple[Artifact, OnchipError | None]:
    """Compile an artifact on another machine.

    Args:
        host: the machine.
        path: the artifact, optimized.
        photos: for vendors' tools that can quantize too.
        options: the target's own.
        folder: where all of it lies there.
        say: is told what happens.
        progress: is told how far the compiler is.

    Returns:
        The artifact as the other machine left it, and what failed: then it may hold the log.

    Raises:
        InputError: it is no artifact, or has no plan yet.
        DeviceError: the machine does not fit, or the connection ended.
        OnchipError: it failed there and left nothing.
    """
    artifact = load(path)
    artifact.payload("plan")
    target = targets.get(artifact.manifest.target)
    given = {**artifact.manifest.options, **target.portable(options or {})}
    target.settings(given)
    data = _packed(artifact.with_payloads({}, options=given))
    sent = {
        f"photos/{number:05d}{photo.suffix.lower()}": photo
        for number, photo in enumerate(photos if target.uses_photos else ())
    }
    say("looking at the machine")
    facts = host.ask("look", folder=folder, modules=[], wants={})
    python = python_of(facts, {})
    check_machine(facts, MACHINES)
    check_writable(facts)
    wheel, needs = onchip_wheel(), whole()
    env = env_key(needs, python, wheel)
    check_room(facts, env, 4 * len(data) + sum(p.stat().st_size for p in sent.values()))
    host.ask("hold", who=f"{getpass.getuser()}@{platform.node()}")
    job = f"jobs/{digest(data)}"
    try:
        if env not in facts["state"]["envs"]:
            install(host, Needs(env, needs, python, facts), wheel, say=say)
        say(f"copying {path.name}, {len(data) / 1e6:.1f} MB")
        host.send(f"{job}/given.onchip", data)
        for number, (name, photo) in enumerate(sent.items(), 1):
            progress("copy photos", number, len(sent))
            host.send(f"{job}/{name}", photo.read_bytes())
    except FullError:
        with suppress(OnchipError):  # make room again; the next one would, too
            host.ask("tidy", envs=[env])
        raise
    say(f"compiling on {host.at.text}")
    onchip = f"{facts['folder']}/envs/{env}/bin/onchip"
    failed = _compile(host, onchip, f"{facts['folder']}/{job}", bool(sent), progress)
    done = host.fetch(f"{job}/{MADE}")
    host.ask("tidy", envs=[env])
    if not done:
        raise failed or DeviceError(f"{host.at.text} gave nothing back", "look there for room")
    return _checked(done, artifact, host), failed


def _compile(
    host: Board, onchip: str, job: str, photos: bool, progress: Progress
) -> OnchipError | None:
    """Run `onchip compile` there; return what failed."""

    def heard(text: str) -> None:
        if step := STEP.fullmatch(text):
            progress(step["what"], int(step["done"]), int(step["total"]))

    order = [onchip, "compile", f"{job}/given.onchip", "-o", f"{job}/{MADE}", "--json"]
    if photos:
        order += ["-c", f"{job}/photos", "--images", "0"]
    try:
        run(host, order, tell=heard)
    except ToolError as error:  # the artifact that it leaves has the log
        error.hint = error.hint.replace("onchip toolchain", f"{onchip} toolchain")  # on no PATH
        return error
    return None


def _packed(artifact: Artifact) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.onchip"
        save(artifact, path)
        return path.read_bytes()


def _checked(data: bytes, sent: Artifact, host: Board) -> Artifact:
    """Read what came back; it must be of the same model, cut and plan."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MADE
        path.write_bytes(data)
        made = load(path)
    if any(made.payloads.get(name) != sent.payloads.get(name) for name in stages.MADE["optimize"]):
        raise ToolError(
            f"{host.at.text} gave another model back than it was given",
            "is its onchip the same? remove the folder there and do it again",
        )
    return made
