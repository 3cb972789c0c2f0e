"""Rockchip, with the real SDK and its simulator."""

import pytest

from onchip.errors import ToolError
from onchip.targets.rknn import Rk3566, Rk3588
from onchip.testing import TargetContract
from onchip.toolchains import install


@pytest.fixture(scope="module", autouse=True)
def sdk() -> None:
    try:
        install.ready("rknn")
    except ToolError as error:
        pytest.skip(f"{error}: onchip toolchain install rknn")


@pytest.mark.rknn
class TestRk3588(TargetContract):
    target = Rk3588()


@pytest.mark.rknn
class TestRk3566(TargetContract):
    target = Rk3566()
