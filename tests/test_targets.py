"""Every target passes the same contract."""

from pathlib import Path

import pytest

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
