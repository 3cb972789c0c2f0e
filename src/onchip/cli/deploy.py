"""deploy."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from onchip.cli.options import as_json, command
from onchip.cli.output import as_error, print_json, print_text, say, somebody
from onchip.cli.prove import min_match
from onchip.errors import DeviceError, InputError
from onchip.measure.proof import Gate

if TYPE_CHECKING:
    from onchip.device.deploy import Cargo, Deployed, Outcome, Wish

SCENES = 8  # of the demo, where no photos are named
FOLDER = "~/.local/share/onchip"


@command("onchip deploy best.onchip pi@camera -c photos/")
@click.argument("file", type=Path)
@click.argument("board", required=False)
@click.option("-c", "--photos", "--images", help="Images of the proof; the demo's scenes without.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True,
              help="At most so many of them.")  # fmt: skip
@click.option("--inventory", type=Path, help="A file of boards to deploy to, all at once.")
@click.option("--folder", default=FOLDER, show_default=True, help="Where all of it lies there.")
@click.option("--service", default="", help='Run this there for good: "watch cameras.toml".')
@click.option("--offline", is_flag=True, help="Carry all wheels along: the board has no network.")
@click.option("--wheels", type=Path, help="Carry the wheels of this folder along.")
@min_match
@click.option("--keep", is_flag=True, help="Switch to it even if the proof fails.")
@click.option("--again", is_flag=True, help="Prove it although nothing has changed.")
@click.option("--rollback", is_flag=True, help="Go back: onchip deploy --rollback pi@camera")
@click.option("--ssh-option", "options", multiple=True, help="A setting of ssh: Port=2222")
@as_json
def deploy_verb(
    file: Path,
    board: str | None,
    photos: str | None,
    count: int,
    inventory: Path | None,
    folder: str,
    service: str,
    offline: bool,
    wheels: Path | None,
    min_match: float,
    keep: bool,
    again: bool,
    rollback: bool,
    options: tuple[str, ...],
    as_json: bool,
) -> int:
    """Put FILE, an .onchip, on BOARD: user@host, or a name of ~/.ssh/config.

    The system's own ssh is used. The board is looked at before anything is copied; the program is
    proven there on the same images before the board switches to it, in one step, and the one
    before is kept. What is there already is not copied again.
    """
    from onchip.device import deploy
    from onchip.device.ssh import Board

    if rollback:
        with Board(board or str(file), options, prompts=somebody()) as there:
            return _done(deploy.rollback(there, folder=folder), as_json)
    if (board is None) == (inventory is None):
        raise InputError(
            "no board is named" if board is None else "a board and an inventory are named",
            "as in: onchip deploy best.onchip pi@camera, or --inventory boards.toml",
        )
    wish = deploy.Wish(
        gate=Gate(min_match=min_match), keep=keep, again=again, offline=offline, wheels=wheels
    )
    with _images(photos, count) as images:
        cargo = deploy.Cargo(file, images)
        if inventory is not None:
            return _many(inventory, cargo, wish, options, as_json)
        with Board(str(board), options, prompts=somebody()) as there:
            made = deploy.deploy(there, cargo, wish, folder=folder, service=service, say=say)
    return _done(made, as_json)


def _many(path: Path, cargo: "Cargo", wish: "Wish", options: tuple[str, ...], as_json: bool) -> int:
    from onchip.device import deploy

    rows = deploy.deploy_all(
        deploy.inventory(path), cargo, wish,
        options=options, say=lambda host, text: say(f"{host}: {text}"),
    )  # fmt: skip
    if as_json:
        print_json({"boards": [_row(row) for row in rows]})
    else:
        print_text(table(rows))
    errors = [row.error for row in rows if row.error is not None]
    devices = [error for error in errors if isinstance(error, DeviceError)]
    return (devices or errors)[0].exit_code if errors else 0


def _done(made: "Deployed", as_json: bool) -> int:
    if as_json:
        print_json(msgspec.to_builtins(made))
    else:
        print_text(describe(made))
    return 0


def describe(made: "Deployed") -> str:
    """Say what a deploy came to, for people."""
    what = "runs" if made.changed else "ran already"
    lines = [f"{made.model} {what} on {made.board}, in {made.folder}/current"]
    if made.proof is not None:
        proof = made.proof
        lines.append(
            f"  proof: {proof.matched:.1%} of {proof.boxes} boxes match on {proof.images} images, "
            f"IoU {proof.mean_iou:.3f} (gate {proof.gate:.0%})"
        )
        if not proof.boxes:
            lines.append("  nothing was seen in them: name photos of what it detects: -c photos/")
        heat = f", {proof.temperature:.0f} °C" if proof.temperature is not None else ""
        lines.append(f"  speed: {proof.fps:.1f} per second, {proof.latency_ms:.1f} ms{heat}")
    if made.service:
        lines.append(f"  service: {made.service}; its log: journalctl --user -u {made.service}")
        if made.lingers is False:
            lines.append("  it runs only while you are logged in: sudo loginctl enable-linger")
    if made.previous:
        lines.append(
            f"  before: {made.previous}; back to it: onchip deploy --rollback {made.board}"
        )
    return "\n".join(lines)


def table(rows: "tuple[Outcome, ...]") -> str:
    """Return one line for each board."""
    width = max(len(row.host) for row in rows)
    lines = []
    for row in rows:
        made, proof = row.deployed, row.deployed.proof if row.deployed else None
        if row.error is not None:
            text = f"failed   {row.error}"
        elif proof is None:
            text = "runs"
        else:
            heat = f", {proof.temperature:.0f} °C" if proof.temperature is not None else ""
            state = "runs    " if made and made.changed else "ran     "
            text = f"{state} {proof.matched:.1%} match, {proof.fps:.1f} per second{heat}"
        lines.append(f"{row.host:<{width}}  {text}")
        if row.error is not None and row.error.hint:
            lines.append(f"{'':<{width}}  {'':<8} {row.error.hint}")
    return "\n".join(lines)


def _row(row: "Outcome") -> dict[str, object]:
    if row.error is not None:
        return {"board": row.host, "error": as_error(row.error)}
    found: dict[str, object] = msgspec.to_builtins(row.deployed)
    return found


@contextmanager
def _images(photos: str | None, count: int) -> Iterator[list[Path]]:
    """Give the images of the proof: the user's, or scenes of the demo."""
    from onchip.sampling import some
    from onchip.vision.preprocess import find_images

    if photos is not None:
        yield some(find_images(photos), count)
        return
    import cv2

    from onchip.demo.scenes import render

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{seed}.png" for seed in range(SCENES)]
        for seed, path in enumerate(paths):
            cv2.imwrite(str(path), render(seed)[0])
        yield paths
