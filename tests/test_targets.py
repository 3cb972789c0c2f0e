"""Every target passes the same contract."""

import subprocess
import sys
from pathlib import Path

import pytest

from onchip.artifact import save
from onchip.build import Options, build
from onchip.errors import DeviceError, InputError
from onchip.targets.cpu import Cpu
from onchip.targets.openvino import Openvino
from onchip.targets.target import get, names
from onchip.testing import TargetContract
from onchip.vision.preprocess import find_images


class TestCpu(TargetContract):
    target = Cpu()


class TestOpenvino(TargetContract):
    target = Openvino()

    def test_a_device_that_is_not_there(self, tiny: Path, photos: Path) -> None:
        options = Options(target={"device": "NPU"})
        made = build(tiny, "openvino", find_images(photos), options=options)
        with pytest.raises(DeviceError, match="there is no NPU here"):
            self.target.open(made)


def test_unknown_target_names_the_known() -> None:
    with pytest.raises(InputError, match="no target called 'tpu9'") as caught:
        get("tpu9")
    assert "cpu" in caught.value.hint
    assert "cpu" in names()


# A process whose first calls of a session come from three threads, the first of which wakes the others.
FIRST_CALLS = """if True:
    import faulthandler, sys
    from pathlib import Path
    from threading import Thread
    from onchip.artifact import load
    from onchip.detect.detector import Detector
    from onchip.vision.preprocess import read_image

    faulthandler.dump_traceback_later(60, exit=True)
    image, begun = read_image(Path(sys.argv[2])), False

    def call(first):
        global begun
        while not begun and not first:
            pass
        begun = True
        detector(image)

    with Detector(load(Path(sys.argv[1])), threads=1) as detector:
        assert detector.session.parallel
        threads = [Thread(target=call, args=(first,)) for first in (False, False, True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
"""


@pytest.mark.parametrize("target", ["cpu", "openvino", "tflite"])
def test_first_calls_at_once(target: str, tiny: Path, photos: Path, tmp_path: Path) -> None:
    """OpenVINO's hung in every second process, and with it what looked at images in threads."""
    save(build(tiny, target, find_images(photos)), tmp_path / "a.onchip")
    command = [sys.executable, "-c", FIRST_CALLS, tmp_path / "a.onchip", find_images(photos)[0]]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.returncode, done.stderr
