"""`onchip watch FILE` with a stand-in for the chip, which says each event as a line of JSON.

    python watch_faults_child.py cameras.toml SWITCH

The stand-in sees one object after another, each for a while at a place of its own. As long as there
is a file SWITCH it fails, in the way that the file names.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from onchip.cli import main
from onchip.cli import watch as command
from onchip.detections import Detections
from onchip.errors import DeviceError
from onchip.vision.preprocess import Image
from onchip.watch import watch

STAYS = 0.8  # seconds for which an object is seen
PLACES = 5
FAILURES: dict[str, Callable[[], Exception]] = {
    "device": lambda: DeviceError("the chip is gone", "plug it in"),
    "other": lambda: RuntimeError("odd"),
}


class StandIn:
    """A chip that takes some milliseconds, and sees somebody come and go."""

    labels = ("person", "car")
    parallel = False
    depth = 1

    def __init__(self, switch: Path) -> None:
        self.switch = switch
        self.fail()

    def fail(self) -> None:
        if self.switch.exists():
            raise FAILURES[self.switch.read_text()]()

    def __call__(self, image: Image) -> Detections:
        self.fail()
        time.sleep(0.005)
        height, width = image.shape[:2]
        number, along = divmod(time.monotonic() + width / 100, STAYS)
        x = 0.05 + 0.18 * (number % PLACES) + 0.02 * along
        box = np.asarray([[x, 0.2, x + 0.15, 0.8]]) * (width, height, width, height)
        return Detections(box, np.asarray([0.9]), np.asarray([int(number) % 2]))

    def close(self) -> None:
        pass


if __name__ == "__main__":
    file, switch = sys.argv[1:]
    watch.open_model = lambda config: StandIn(Path(switch))
    command.line = lambda event: msgspec.json.encode(event).decode()
    sys.argv[1:] = ["watch", file]
    main()
