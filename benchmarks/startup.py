"""`onchip --help` against `python -c pass`, and against the same help through click."""

import shutil
import subprocess
import sys
import time

from common import ratio

ROUNDS = 40


def timed(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    onchip = shutil.which("onchip") or str(sys.executable).replace("python", "onchip")
    timed(onchip, "--help")
    ours, python, click = [], [], []
    for _ in range(ROUNDS):
        ours.append(timed(onchip, "--help"))
        python.append(timed(sys.executable, "-c", "pass"))
        click.append(timed(sys.executable, "-c", "import click"))
    ratio("onchip --help over python -c pass", ours, python)
    ratio("import click alone over python -c pass", click, python)


if __name__ == "__main__":
    main()
