"""RKNNLite on the board: a stand-in that is as strict as the documented interface of seven calls."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from onchip.errors import DeviceError, InputError, ToolError
from onchip.targets.rknn import board as rknn_board
from onchip.targets.rknn.board import Board
from onchip.targets.rknn.chips import Rk3566, Rk3576, Rk3588

PROGRAM = b"RKNN program"
IMAGE = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(1, 2, 4, 3)
FRAME = (1, 2, 4, 3)


class Npu:
    """What all contexts share: who is there, who runs where, and what goes wrong."""

    def __init__(self) -> None:
        self.contexts: list[RKNNLite] = []
        self.most_at_once = 0
        self.running: list[int] = []
        self.lock = threading.Lock()
        self.load_code = 0
        self.init_fails: Callable[[int], bool] = lambda number: False
        self.result: Callable[[np.ndarray], Any] = lambda image: [image.sum((1, 2)), image * 2.0]
        self.release_fails = False

    @property
    def unreleased(self) -> int:
        return sum(c.state != "released" for c in self.contexts)


NPU = Npu()


class RKNNLite:
    """The seven calls, each of which checks what it is given, and when."""

    NPU_CORE_AUTO, NPU_CORE_0, NPU_CORE_1, NPU_CORE_2 = 0, 1, 2, 4
    NPU_CORE_0_1, NPU_CORE_0_1_2, NPU_CORE_ALL = 3, 7, 0xFFFF

    def __init__(self, verbose: bool = False, verbose_file: str | None = None) -> None:
        self.state, self.mask, self.busy = "made", -1, False
        NPU.contexts.append(self)

    def load_rknn(self, path: str) -> int:
        assert self.state == "made"
        assert isinstance(path, str)
        assert Path(path).read_bytes() == PROGRAM
        if not NPU.load_code:
            self.state = "loaded"
        return NPU.load_code

    def init_runtime(
        self,
        target: str | None = None,
        device_id: str | None = None,
        async_mode: bool = False,
        core_mask: int = NPU_CORE_AUTO,
    ) -> int:
        assert self.state == "loaded"
        assert target is None and device_id is None and async_mode is False
        self.mask = core_mask
        if NPU.init_fails(len(NPU.contexts)):
            return -1
        self.state = "ready"
        return 0

    def inference(
        self,
        inputs: list[np.ndarray],
        data_type: list[str] | None = None,
        data_format: list[str] | None = None,
        inputs_pass_through: list[int] | None = None,
        get_frame_id: bool = False,
    ) -> list[np.ndarray] | None:
        assert self.state == "ready"
        assert data_format == ["nhwc"] and data_type is None and not inputs_pass_through
        (image,) = inputs
        assert image.dtype == np.uint8 and image.shape == FRAME and image.flags.c_contiguous
        with NPU.lock:
            assert not self.busy, "a context takes one call at a time"
            self.busy = True
            NPU.running.append(self.mask)
            NPU.most_at_once = max(NPU.most_at_once, sum(c.busy for c in NPU.contexts))
        time.sleep(0.01)
        try:
            return NPU.result(image)
        finally:
            self.busy = False

    def get_sdk_version(self) -> str:
        raise AssertionError("not needed")

    def list_support_target_platform(self, rknn_model: str) -> dict[str, list[str]]:
        raise AssertionError("not needed")

    def release(self) -> None:
        assert self.state != "released", "released twice"
        assert not self.busy, "released while it ran"
        self.state = "released"
        if NPU.release_fails:
            raise RuntimeError("the driver is gone")


@pytest.fixture(autouse=True)
def npu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Npu]:
    """The stand-in as `rknnlite.api`. Whatever a test does, it must leave nothing unreleased."""
    global NPU
    NPU = Npu()
    for name in ("rknnlite", "rknnlite.api"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["rknnlite.api"].RKNNLite = RKNNLite  # type: ignore[attr-defined]
    yield NPU
    assert NPU.unreleased == 0


def board(core: str = "auto", cores: int = 1) -> Board:
    return Board(PROGRAM, ("first", "second"), core, cores)


def test_one_core_is_given_no_mask_and_names_its_outputs(npu: Npu) -> None:
    with board() as session:
        found = session(IMAGE)
    assert [c.mask for c in npu.contexts] == [RKNNLite.NPU_CORE_AUTO]
    assert list(found) == ["first", "second"]
    np.testing.assert_array_equal(found["second"], IMAGE * 2.0)
    assert all(v.dtype == np.float32 for v in found.values())


def test_an_input_that_is_a_view_is_made_contiguous() -> None:
    with board() as session:
        found = session(np.concatenate([IMAGE, IMAGE], axis=2)[:, :, ::2])
    assert found["second"].shape == FRAME


def test_three_cores_run_side_by_side(npu: Npu) -> None:
    with board(cores=3) as session, ThreadPoolExecutor(8) as pool:
        images = [np.full(FRAME, n, np.uint8) for n in range(40)]
        found = list(pool.map(session, images))
    assert [int(f["second"].flat[0]) for f in found] == [2 * n for n in range(40)]
    assert npu.most_at_once == 3
    assert set(npu.running) == {1, 2, 4}
    assert session.parallel


@pytest.mark.parametrize(
    ("core", "mask"), [("1", 2), ("0_1", 3), ("0_1_2", 7), ("all", 0xFFFF), ("2", 4)]
)
def test_a_chosen_core_is_one_context(core: str, mask: int, npu: Npu) -> None:
    with board(core, cores=3) as session:
        session(IMAGE)
    assert npu.running == [mask]


def test_a_mask_that_the_runtime_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RKNNLite, "NPU_CORE_ALL")
    with pytest.raises(DeviceError, match="knows no NPU_CORE_ALL"):
        board("all", cores=3)


def test_a_file_that_does_not_load(npu: Npu) -> None:
    npu.load_code = -1
    with pytest.raises(DeviceError, match="does not load") as failed:
        board(cores=3)
    assert "librknnrt" in failed.value.hint
    assert len(npu.contexts) == 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_core_that_does_not_start(number: int, npu: Npu) -> None:
    npu.init_fails = lambda n: n == number
    with pytest.raises(DeviceError, match="does not start"):
        board(cores=3)
    assert len(npu.contexts) == number


@pytest.mark.parametrize("result", [None, [np.zeros(1)]])
def test_no_result(result: object, npu: Npu) -> None:
    npu.result = lambda image: result
    with board() as session, pytest.raises(DeviceError, match="gave no result"):
        session(IMAGE)


def test_a_device_lost_in_the_middle(npu: Npu) -> None:
    good, count = npu.result, iter(range(100))

    def dying(image: np.ndarray) -> Any:
        if next(count) > 10:
            raise RuntimeError("E RKNN: failed to submit!\nrknn_run: -7")
        return good(image)

    npu.result = dying
    with board(cores=3) as session, ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(session, IMAGE) for _ in range(30)]
        errors = [c.exception() for c in calls]
    assert sum(e is None for e in errors) == 11
    lost = [e for e in errors if e is not None]
    assert all(isinstance(e, DeviceError) and "rknn_run: -7" in str(e) for e in lost)
    assert all(e.exit_code == 5 for e in lost)  # type: ignore[attr-defined]


def test_every_core_is_released_though_the_first_release_fails(npu: Npu) -> None:
    npu.release_fails = True
    session = board(cores=3)
    with pytest.raises(DeviceError, match="failed in release"):
        session.close()
    assert npu.unreleased == 0
    session.close()  # and again does nothing


def test_closing_waits_for_calls_and_turns_the_rest_away() -> None:
    session = board(cores=2)
    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(session, IMAGE) for _ in range(12)]
        time.sleep(0.012)
        session.close()
        errors = [c.exception() for c in calls]
    assert any(e is None for e in errors)
    assert all(e is None or "was given back" in str(e) for e in errors)
    with pytest.raises(DeviceError, match="given back"):
        session(IMAGE)


def test_closing_does_not_wait_for_ever(npu: Npu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rknn_board, "PATIENCE", 0.05)
    hang = threading.Event()
    npu.result = lambda image: [image] * 2 if hang.wait(5) else None
    session = board()
    thread = threading.Thread(target=session, args=[IMAGE])
    thread.start()
    time.sleep(0.05)
    monkeypatch.setattr(RKNNLite, "release", lambda self: setattr(self, "state", "released"))
    session.close()
    hang.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_runtime_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["rknnlite.api"], "RKNNLite")
    with pytest.raises(ToolError, match="cannot be loaded"):
        board()


def test_cores_that_a_chip_lacks_are_refused() -> None:
    for target, core in ((Rk3566(), "1"), (Rk3576(), "0_1_2"), (Rk3576(), "2")):
        with pytest.raises(InputError, match="does not have"):
            target.settings({"core": core})
    assert Rk3588().settings({"core": "2"})
