"""Seconds of `onchip deploy` to a real OpenSSH server on loopback: first, and with nothing changed.

The board is that of the tests, with a home of its own and a real pip. Needs sshd.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import DATA, ROOT, photos
from onchip.artifact import save
from onchip.build import build
from onchip.device.ssh import COMMAND

sys.path.insert(0, str(ROOT / "tests"))
import sshd

ROUNDS = 7


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sshd.Server(Path(name) / "board") as board:
        path = Path(name) / "best.onchip"
        save(build(DATA / "models" / "yolov8n.onnx", "cpu", photos(32)), path)
        print(f"first: {deploy(board, path):.1f} s", flush=True)
        times = [deploy(board, path) for _ in range(ROUNDS)]
        middle, low, high = statistics.median(times), min(times), max(times)
        print(f"nothing changed: {middle:.2f} s ({low:.2f} to {high:.2f})")


def deploy(board: sshd.Server, path: Path) -> float:
    """Deploy from the command line, as a user does."""
    images = DATA / "coco" / "images" / "val2017"
    command = [sys.executable, "-m", "onchip", "deploy", path, board.name, "-c", images]
    started = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, COMMAND: board.ssh})
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
