"""doctor: what is wrong, and what to do."""

import sys
from pathlib import Path

import click
import msgspec

from onchip.cli.options import as_json, command
from onchip.cli.output import as_error, print_json, print_text, somebody
from onchip.device import doctor
from onchip.errors import InputError, OnchipError


@command("onchip doctor pi@camera best.onchip")
@click.argument("things", metavar="[BOARD] [FILES]...", nargs=-1)
@click.option("--log", type=Path, help="Explain a log instead; - is standard input.")
@click.option("--ssh-option", "options", multiple=True, help="A setting of ssh: Port=2222")
@as_json
def doctor_verb(
    things: tuple[str, ...], log: Path | None, options: tuple[str, ...], as_json: bool
) -> int:
    """Say what is wrong with this machine, and what to do: drivers, firmware, libraries, SDKs.

    With a BOARD (user@host), what is wrong there. With FILES (.hef, .rknn, .onchip), also whether
    they run. With --log, what the output of a compiler, of a program on the board, of Frigate, or
    of the kernel (dmesg) means. Nothing is changed, and no network is used but to the board. The
    exit code is 4 or 5 where something is broken.
    """
    boards = [t for t in things if _is_board(t)]
    files = tuple(Path(t) for t in things if not _is_board(t))
    for missing in (f for f in files if not f.exists()):
        raise InputError(f"there is no file {missing}", "a board is user@host or ssh://NAME")
    if len(boards) > 1:
        raise InputError(f"{len(boards)} boards are named", "look at one after the other")
    if log is not None and things:
        raise InputError("a log, or files, but not both", "leave one of them away")
    if log is not None:
        findings = doctor.explain(_read(log))
        data: dict[str, object] = {"findings": msgspec.to_builtins(findings)}
        return _done(doctor.describe_log(findings), data, doctor.failure_of(findings), as_json)
    sections = _looked(boards[0], files, options) if boards else doctor.look(files)
    data = {"sections": msgspec.to_builtins(sections)}
    return _done(doctor.describe(sections), data, doctor.failure(sections), as_json)


def _is_board(thing: str) -> bool:
    return ("@" in thing or thing.startswith("ssh://")) and not Path(thing).exists()


def _looked(
    board: str, files: tuple[Path, ...], options: tuple[str, ...]
) -> tuple[doctor.Section, ...]:
    from onchip.device import remote
    from onchip.device.ssh import Board

    with Board(board, options, prompts=somebody()) as there:
        return remote.look(there, files)


def _done(text: str, data: dict[str, object], failure: OnchipError | None, as_json: bool) -> int:
    if as_json:
        if failure is not None:
            data["error"] = as_error(failure)
        print_json(data)
        return failure.exit_code if failure is not None else 0
    print_text(text)
    if failure is not None:
        raise failure
    return 0


def _read(log: Path) -> bytes:
    """Return the end of a log, of which a piped one is not asked how long it is."""
    most = doctor.MOST_LOG
    if str(log) == "-":
        kept = b""
        while part := sys.stdin.buffer.read(1 << 20):
            kept = (kept + part)[-most:]
        return kept
    if not log.is_file():
        raise InputError(f"{log} is not a file", "name a log, or - for standard input")
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        return file.read(most)
