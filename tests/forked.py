"""Runs onchip in processes that are forked from one which has loaded its libraries: a second less each."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

LOADED = ("analyze", "build", "dataset", "detect", "inspect", "prove", "run")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([f"onchip.cli.{verb}" for verb in LOADED])


def run(arguments: Sequence[str], folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, as `subprocess.run` would.

    Raises:
        subprocess.TimeoutExpired: It took longer. It has been killed.
    """
    with tempfile.NamedTemporaryFile("w+") as out, tempfile.NamedTemporaryFile("w+") as err:
        places = [out.name, err.name]
        process = FORKS.Process(
            target=_main, args=(list(arguments), folder, dict(os.environ), places)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout, _read(out), _read(err))
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(arguments, code, _read(out), _read(err))


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _main(
    arguments: list[str], folder: Path, environment: dict[str, str], places: Sequence[str]
) -> None:
    """Become the command: its words, folder, environment and outputs."""
    for place, descriptor in zip(places, (1, 2), strict=True):
        os.dup2(os.open(place, os.O_WRONLY), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["onchip", *arguments]
    from onchip.cli import main

    main()
