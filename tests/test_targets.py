"""Every target passes the same contract."""

import pytest

from onchip.errors import InputError
from onchip.targets.cpu import Cpu
from onchip.targets.target import get, names
from onchip.testing import TargetContract


class TestCpu(TargetContract):
    target = Cpu()


def test_unknown_target_names_the_known() -> None:
    with pytest.raises(InputError, match="no target called 'tpu9'") as caught:
        get("tpu9")
    assert "cpu" in caught.value.hint
    assert "cpu" in names()
