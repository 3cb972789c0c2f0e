"""Put an artifact on a board, prove there that it sees as it does here, and only then switch to it.

Everything is looked at before anything is copied. What is copied is named by its digest and becomes
visible when it is whole, so that a deploy which is cut off anywhere leaves the old model running,
and the next one goes on from there. (What happens on the board itself: `board.py`.)
"""

import getpass
import hashlib
import platform
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from onchip.artifact import Artifact, load
from onchip.detect.program import Limits, Program
from onchip.detections import Detections
from onchip.device import Check, Probe, doctor, told
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
from onchip.device.packing import Needs, half, onchip_wheel
from onchip.device.service import Unit, digest
from onchip.device.ssh import Board, FullError, PipError
from onchip.errors import (
    DeviceError,
    GateError,
    InputError,
    OnchipError,
)
from onchip.measure.parity import pair, parity
from onchip.measure.proof import Gate
from onchip.targets import target as targets
from onchip.vision.preprocess import read_image

FOLDER = "~/.local/share/onchip"
SEEN = Limits()  # which detections count in the proof
SECONDS = 3.0  # that the speed is measured for
AT_ONCE = 8  # boards
BEFORE = "the model of before still runs"

Facts = Mapping[str, Any]


class Proof(Struct, frozen=True, kw_only=True):
    """The board against this machine on the same images, and how fast it is.

    `matched`, `mean_iou` and `score_shift` are as in the proof of a build; `boxes` is how many this
    machine saw. `fps` and `latency_ms` are of the board, `temperature` its hottest place after it.
    """

    images: int
    boxes: int
    matched: float
    mean_iou: float
    score_shift: float
    gate: float
    passed: bool
    fps: float
    latency_ms: float
    temperature: float | None = None
    at: str = ""


class Deployed(Struct, frozen=True, kw_only=True):
    """What a deploy came to. `changed` is False where all was there already."""

    board: str
    model: str
    folder: str
    release: str
    previous: str | None
    changed: bool
    installed: bool = False
    proof: Proof | None = None
    service: str | None = None
    lingers: bool | None = None


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One board of an inventory."""

    host: str
    folder: str = FOLDER
    service: str = ""


class _Inventory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    board: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """One board's row: what was deployed, or what kept it from that."""

    host: str
    deployed: Deployed | None = None
    error: OnchipError | None = None


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How to deploy. `wheels` is a folder of the user's own; `keep` switches past the gate too."""

    gate: Gate = field(default_factory=Gate)
    keep: bool = False
    again: bool = False  # prove although nothing has changed
    offline: bool = False
    wheels: Path | None = None

    @property
    def carried(self) -> bool:
        """Whether the board gets all wheels from here."""
        return self.offline or self.wheels is not None


class Cargo:
    """What is deployed, made ready once for all boards.

    Args:
        path: the artifact.
        photos: the images of the proof.

    Raises:
        InputError: it is no artifact, or is not compiled yet.
    """

    def __init__(self, path: Path, photos: Sequence[Path]) -> None:
        self.path = path
        self.artifact: Artifact = load(path)
        self.manifest = self.artifact.manifest
        self.artifact.payload("program")
        self.target = targets.get(self.manifest.target)
        self.runtime = self.target.runtime()
        self.data = path.read_bytes()
        self.digest = hashlib.sha256(self.data).hexdigest()
        self.photos = tuple(photos)
        self._turn = threading.Lock()

    @property
    def program(self) -> str:
        """The compiled file's name."""
        return self.manifest.payloads["program"].file

    @cached_property
    def wheel(self) -> tuple[str, bytes]:
        """The wheel of this onchip."""
        return onchip_wheel()

    @cached_property
    def images(self) -> tuple[tuple[str, bytes], ...]:
        """The images of the proof, under plain names."""
        return tuple(
            (f"{number:03d}{path.suffix.lower()}", path.read_bytes())
            for number, path in enumerate(self.photos)
        )

    @cached_property
    def images_key(self) -> str:
        """What names the images."""
        return digest(*(data for _, data in self.images))

    def reference(self) -> dict[str, Detections]:
        """What this machine sees in each image, by name: the plan, as the chip computes it."""
        with self._turn:
            return self._reference

    @cached_property
    def _reference(self) -> dict[str, Detections]:
        program = _here(self.artifact)
        names = [name for name, _ in self.images]
        return {
            name: program(read_image(path), SEEN)
            for name, path in zip(names, self.photos, strict=True)
        }

    def probes(self) -> list[type[Probe]]:
        """Who knows the vendor of the compiled file, and can ask another machine."""
        return [p for p in doctor.PROBES if self.program.endswith(p.suffix) and p.wants]


def _here(artifact: Artifact) -> Program:
    """Return what sees on this machine, with or without the vendor's software."""
    from onchip.build import cut_model, quantized
    from onchip.graph.run import Runner

    manifest = artifact.manifest
    if "plan" not in artifact.payloads:
        return Program(Runner(cut_model(artifact).bytes), manifest.input, manifest.head)
    spec = replace(manifest.input, dtype="uint8" if manifest.input.uniform else "float32")
    run = Runner(quantized(artifact).bytes, optimize=False)
    return Program(run, spec, manifest.head)


# --- one board


def deploy(
    board: Board,
    cargo: Cargo,
    wish: Wish,
    *,
    folder: str = FOLDER,
    service: str = "",
    say: Say = lambda text: None,
) -> Deployed:
    """Deploy to one board.

    Raises:
        DeviceError: the board does not fit, or fails.
        GateError: it sees other than this machine; the model of before still runs.
        OnchipError: whatever else keeps it from that.
    """
    say("looking at the board")
    facts = look(board, cargo, folder)
    python = check(facts, cargo)
    unit = Unit.read(service, cargo.path.name, facts["folder"])
    needs = half(cargo.runtime.requirements, unit.extra)
    env = env_key(needs, python, cargo.wheel)
    name = f"{cargo.path.stem}-{digest(cargo.digest, env, unit.digest)}"
    now = facts["state"]["current"]
    if now and now["name"] == name and now.get("settled") and not wish.again:
        return _deployed(board, cargo, facts, name, changed=False, service=unit.name or None)
    if now and now["service"] and not unit.name:
        raise InputError(
            f"{now['service']} runs on {board.at.text}, and needs to know what to run",
            f"name it again: --service {shlex.quote(now['command'])}",
        )
    taken = len(cargo.data) + sum(len(data) for _, data in cargo.images)
    check_room(facts, env, taken)
    board.ask("hold", who=f"{getpass.getuser()}@{platform.node()}")
    found = board.ask("look", folder=folder, modules=[], wants={})["state"]
    try:
        installed = env not in found["envs"]
        if installed:
            wanted = Needs(env, needs, python, facts)
            install(board, wanted, cargo.wheel, carried=wish.carried, wheels=wish.wheels, say=say)
        if name not in found["releases"]:
            _copy(board, cargo, unit, name, env, say)
    except (FullError, PipError):
        with suppress(OnchipError):  # make room again; the next deploy would, too
            board.ask("tidy")
        raise
    proof = _prove(board, cargo, wish.gate, name, unit.name, found, say)
    if not proof.passed and not wish.keep:
        raise GateError(
            f"{board.at.text} sees other than this machine: {proof.matched:.1%} of "
            f"{proof.boxes} boxes match (gate {proof.gate:.0%})",
            "the model of before still runs; --keep takes the new one nevertheless",
        )
    board.ask("note", name=name, facts={"proof": msgspec.to_builtins(proof)})
    board.ask("switch", name=name)
    try:
        lingers = _serve(board, unit, say)
    except DeviceError:
        if found["current"]:
            board.ask("switch", name=found["current"]["name"])
        raise
    board.ask("tidy")
    board.ask("note", name=name, facts={"settled": True})
    return _deployed(
        board, cargo, {**facts, "state": found}, name,
        changed=True, installed=installed, proof=proof, service=unit.name or None, lingers=lingers,
    )  # fmt: skip


def rollback(board: Board, *, folder: str = FOLDER) -> Deployed:
    """Go back to the release before; once more comes back.

    Raises:
        InputError: there is none.
    """
    facts = board.ask("look", folder=folder, modules=[], wants={})
    now, before = facts["state"]["current"], facts["state"]["previous"]
    if not before:
        raise InputError(
            f"{board.at.text} has no release before this one in {facts['folder']}",
            "it keeps one from the second deploy on",
        )
    board.ask("hold", who=f"{getpass.getuser()}@{platform.node()}")
    board.ask("note", name=before["name"], facts={"settled": False})
    board.ask("switch", name=before["name"])
    if before["service"]:
        board.ask("service", name=before["service"], text=before["unit"])
    board.ask("note", name=before["name"], facts={"settled": True})
    return Deployed(
        board=board.at.text,
        model=before["model"],
        folder=facts["folder"],
        release=before["name"],
        previous=now["name"] if now else None,
        changed=True,
        proof=_proof(before),
        service=before.get("service") or None,
    )


def look(board: Board, cargo: Cargo, folder: str) -> dict[str, Any]:
    """Return the facts of a board, and of what the artifact's chip needs on it."""
    wants: dict[str, Facts] = {probe.key: probe.wants for probe in cargo.probes()}
    wants["files"] = {"names": list(cargo.runtime.files)}
    return board.ask("look", folder=folder, modules=list(cargo.runtime.modules), wants=wants)


def check(facts: Facts, cargo: Cargo) -> dict[str, Any]:
    """Hold a board's facts against what the artifact needs; return the Python to use.

    Raises:
        DeviceError: it does not fit.
    """
    runtime = cargo.runtime
    check_machine(facts, runtime.machines)
    chips = facts["compatible"]
    if runtime.chips and not any(c.startswith(runtime.chips) for c in chips):
        raise DeviceError(
            f"{cargo.path.name} is built for {cargo.target.title}, and this board is "
            f"{facts['model'] or ', '.join(chips) or 'of another kind'}",
            "build it again for the board's chip: onchip targets lists them",
        )
    python = python_of(facts, runtime.modules)
    names = facts["vendors"]["files"]["names"]
    for pattern, hint in runtime.files.items():
        if pattern not in names:
            raise DeviceError(f"the board has no /{pattern}", hint)
    for wrong in _judge(facts, cargo):
        raise DeviceError(f"{wrong.name}: {wrong.problem}", wrong.cure)
    check_writable(facts)
    return python


def _judge(facts: Facts, cargo: Cargo) -> Iterable[Check]:
    """What the version table says is wrong with the board's driver, firmware and library."""
    for kind in cargo.probes():
        probe = kind(told({kind.key: facts["vendors"][kind.key]}))
        checks = probe.checks()
        if not checks:
            yield Check(kind.title, "", "error", "neither a chip nor its software is there", "")
        checks += probe.compiled(cargo.program, cargo.artifact.payload("program"))
        yield from (c for c in checks if c.level == "error")


# --- its steps


def _copy(board: Board, cargo: Cargo, unit: Unit, name: str, env: str, say: Say) -> None:
    say(f"copying {cargo.path.name}, {len(cargo.data) / 1e6:.1f} MB")
    for file, data in {cargo.path.name: cargo.data, **unit.files}.items():
        board.send(f"releases/{name}.part/{file}", data)
    record = {
        "model": cargo.path.name,
        "sha256": cargo.digest,
        "target": cargo.manifest.target,
        "env": env,
        "service": unit.name,
        "command": unit.command,
        "unit": unit.text,
    }
    board.ask("release", name=name, env=env, record=record, data_folders=list(unit.folders))


def _prove(
    board: Board, cargo: Cargo, gate: Gate, name: str, unit: str, found: Facts, say: Say
) -> Proof:
    """Have the board look at the images, with its own environment and before it switches."""
    key = cargo.images_key
    if key not in found["proofs"]:
        for file, data in cargo.images:
            board.send(f"proofs/{key}/{file}", data)
        board.ask("mark", path=f"proofs/{key}")
    board.ask("note", name=name, facts={"images": key})
    release = f"{{folder}}/releases/{name}"
    onchip = [f"{release}/env/bin/python", "-m", "onchip"]
    model, images = f"{release}/{cargo.path.name}", f"{{folder}}/proofs/{key}"
    say("proving on the board")
    limits = ["--confidence", str(SEEN.confidence), "--overlap", str(SEEN.overlap)]
    look = [*onchip, "detect", model, images, "--json", *limits]
    seen, _ = run(board, look, pause=unit, hint=BEFORE)
    boxes = {Path(frame["source"]).name: _detections(frame["detections"]) for frame in seen}
    pairings = [
        pair(reference, boxes.get(file, Detections.empty()))
        for file, reference in cargo.reference().items()
    ]
    alike = parity(pairings)
    say("measuring the speed")
    bench = [*onchip, "bench", model, "-c", images, "--json", "--seconds", f"{SECONDS:g}"]
    speed, temperature = run(board, bench, pause=unit, hint=BEFORE)
    return Proof(
        images=len(pairings),
        boxes=alike.reference,
        matched=alike.matched,
        mean_iou=alike.mean_iou,
        score_shift=alike.score_shift,
        gate=gate.min_match,
        passed=alike.matched >= gate.min_match,
        fps=speed[0]["fps"],
        latency_ms=speed[0]["latency_ms"]["p50"],
        temperature=temperature,
        at=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def _detections(rows: Sequence[Facts]) -> Detections:
    if not rows:
        return Detections.empty()
    return Detections(
        np.asarray([r["box"] for r in rows], np.float32),
        np.asarray([r["score"] for r in rows], np.float32),
        np.asarray([r["class_id"] for r in rows]),
    )


def _serve(board: Board, unit: Unit, say: Say) -> bool | None:
    """Start the service anew; return whether it also starts when nobody is logged in."""
    if not unit.name:
        return None
    say(f"starting {unit.name}")
    return bool(board.ask("service", name=unit.name, text=unit.text)["lingers"])


def _deployed(board: Board, cargo: Cargo, facts: Facts, name: str, **given: Any) -> Deployed:
    """Sum up. The release before is that which was current, or is still the one before."""
    state = facts["state"]
    before = state["current"]
    if before and before["name"] == name:
        given.setdefault("proof", _proof(before))
        before = state["previous"]
    return Deployed(
        board=board.at.text,
        model=cargo.path.name,
        folder=facts["folder"],
        release=name,
        previous=before["name"] if before else None,
        **given,
    )


def _proof(record: Facts) -> Proof | None:
    try:
        return msgspec.convert(record.get("proof"), Proof | None)
    except msgspec.ValidationError:  # of another onchip
        return None


# --- many boards


def inventory(path: Path) -> tuple[Entry, ...]:
    """Read a file of boards.

    Raises:
        InputError: it cannot be read, or names none.
    """
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=_Inventory)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise InputError(f"{path}: {error}", 'as in: [[board]] host = "pi@garage"') from error
    if not found.board:
        raise InputError(f"{path} names no board", 'as in: [[board]] host = "pi@garage"')
    return found.board


def deploy_all(
    boards: Sequence[Entry],
    cargo: Cargo,
    wish: Wish,
    *,
    options: Sequence[str] = (),
    say: Callable[[str, str], None] = lambda host, text: None,
) -> tuple[Outcome, ...]:
    """Deploy to many boards at once; what fails is one board's row, in the order of the file."""

    def one(entry: Entry) -> Outcome:
        try:
            with Board(entry.host, options) as board:
                made = deploy(
                    board, cargo, wish,
                    folder=entry.folder, service=entry.service,
                    say=lambda text: say(entry.host, text),
                )  # fmt: skip
                return Outcome(entry.host, made)
        except OnchipError as error:
            return Outcome(entry.host, error=error)

    _ = cargo.wheel, cargo.images_key, cargo.reference()  # once, before many ask for it
    with ThreadPoolExecutor(min(AT_ONCE, len(boards))) as pool:
        return tuple(pool.map(one, boards))
