"""Run a .rknn file on the board itself, through Rockchip's RKNNLite.

Written to the documented interface (seven calls) and tested with a stand-in that checks each call;
not run on a board.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from onchip.errors import DeviceError, ToolError
from onchip.targets.target import Session
from onchip.vision.codes import Tensors

PATIENCE = 5.0  # seconds that closing waits for a call that is still running

T = TypeVar("T")

_MASKS = {
    "auto": "NPU_CORE_AUTO",
    "0": "NPU_CORE_0",
    "1": "NPU_CORE_1",
    "2": "NPU_CORE_2",
    "0_1": "NPU_CORE_0_1",
    "0_1_2": "NPU_CORE_0_1_2",
    "all": "NPU_CORE_ALL",
}


class Board(Session):
    """The board's NPU.

    With `core` "auto" on a chip of several cores each core gets a context of its own, and calls
    from several threads run side by side: that is how these chips reach their rated speed.

    Args:
        program: the .rknn file.
        outputs: their names, in the file's order.
        core: where to run.
        cores: how many the chip has.

    Raises:
        ToolError: RKNNLite is there, but cannot be loaded.
        DeviceError: the runtime refuses the file, or the NPU does not answer.
    """

    parallel = True

    def __init__(self, program: bytes, outputs: tuple[str, ...], core: str, cores: int) -> None:
        try:
            from rknnlite.api import RKNNLite
        except (ImportError, OSError) as error:
            raise ToolError(
                f"RKNNLite cannot be loaded: {error}", "install rknn-toolkit-lite2 again"
            ) from error
        self._outputs = outputs
        self._free: SimpleQueue[Any] = SimpleQueue()  # contexts; None once closed
        self._all: list[Any] = []
        self._started = 0
        masks = [str(n) for n in range(cores)] if core == "auto" and cores > 1 else [core]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "program.rknn"  # the runtime takes files only
            path.write_bytes(program)
            try:
                for mask in masks:
                    self._start(RKNNLite, path, mask, single=cores == 1)
            except BaseException:
                self.close()
                raise
        self.depth = self._started + 1

    def _start(self, kind: Any, path: Path, mask: str, *, single: bool) -> None:
        made = _asked("start", kind)
        self._all.append(made)
        if _asked("load", lambda: made.load_rknn(str(path))):
            raise DeviceError(
                "RKNNLite does not load the file",
                "librknnrt is older than the toolkit that built it, most often: onchip inspect "
                "says which it needs",
            )
        # chips of one core know no masks
        chosen = {} if single else {"core_mask": _mask(kind, mask)}
        if _asked("init_runtime", lambda: made.init_runtime(**chosen)):
            raise DeviceError("the NPU does not start", "is its driver loaded, and may you use it?")
        self._free.put(made)
        self._started += 1

    def __call__(self, tensor: npt.NDArray[np.generic]) -> Tensors:
        """Run one input `(1, H, W, 3)` of bytes on a core that is free."""
        context = self._free.get()
        try:
            if not self._all:
                raise DeviceError("the NPU was given back while calls were waiting")
            data = np.ascontiguousarray(tensor)
            found = _asked(
                "inference", lambda: context.inference(inputs=[data], data_format=["nhwc"])
            )
        finally:
            self._free.put(context)
        if found is None or len(found) != len(self._outputs):
            raise DeviceError("the NPU gave no result", "see dmesg; a restart often helps")
        return {n: np.asarray(f, np.float32) for n, f in zip(self._outputs, found, strict=True)}

    def close(self) -> None:
        """Give the NPU back, when no call is running any more."""
        contexts, self._all = self._all, []
        if not contexts:
            return
        with suppress(Empty):  # a call that hangs is not waited for
            for _ in range(self._started):
                self._free.get(timeout=PATIENCE)
        self._free.put(None)  # calls that still wait learn of it
        with ExitStack() as releases:  # all of them, whatever one says
            for context in contexts:
                releases.callback(_asked, "release", context.release)


def _mask(kind: Any, core: str) -> Any:
    name = _MASKS[core]
    if not hasattr(kind, name):
        raise DeviceError(f"this RKNNLite knows no {name}", "build it again with -O core=auto")
    return getattr(kind, name)


def _asked(what: str, call: Callable[[], T]) -> T:
    """Make a call of the runtime, whose own errors are of many kinds."""
    try:
        return call()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DeviceError(
            f"RKNNLite failed in {what}: {reason}", "see dmesg; a restart often helps"
        ) from error
