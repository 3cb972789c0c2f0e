"""doctor: what is wrong, and what to do."""

import sys
from pathlib import Path

import click
import msgspec

from onchip.cli.options import as_json, command
from onchip.cli.output import print_json, print_text
from onchip.device import doctor
from onchip.errors import InputError, OnchipError


@command("onchip doctor best.hef")
@click.argument("files", type=Path, nargs=-1)
@click.option("--log", type=Path, help="Explain a log instead; - is standard input.")
@as_json
def doctor_verb(files: tuple[Path, ...], log: Path | None, as_json: bool) -> int:
    """Say what is wrong with this machine, and what to do: drivers, firmware, libraries, SDKs.

    With FILES (.hef, .onchip), also whether it runs them. With --log, what the output of a
    compiler, of a program on the board, or of the kernel (dmesg) means. Nothing is changed, and no
    network is used. The exit code is 4 or 5 where something is broken.
    """
    if log is not None and files:
        raise InputError("a log, or files, but not both", "leave one of them away")
    if log is not None:
        findings = doctor.explain(_read(log))
        data: dict[str, object] = {"findings": msgspec.to_builtins(findings)}
        return _done(doctor.describe_log(findings), data, doctor.failure_of(findings), as_json)
    sections = doctor.look(files)
    data = {"sections": msgspec.to_builtins(sections)}
    return _done(doctor.describe(sections), data, doctor.failure(sections), as_json)


def _done(text: str, data: dict[str, object], failure: OnchipError | None, as_json: bool) -> int:
    if as_json:
        if failure is not None:
            data["error"] = {"code": failure.code, "message": str(failure), "hint": failure.hint}
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
