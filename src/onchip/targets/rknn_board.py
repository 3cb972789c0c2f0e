"""Run a .rknn file on the board itself, through Rockchip's RKNNLite.

Written to the documented interface (seven calls) and tested with a stand-in that checks each call;
not run on a board.
"""

import tempfile
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from onchip.errors import DeviceError
from onchip.targets.target import Session, Tensors

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
        DeviceError: the runtime refuses the file, or the NPU does not answer.
    """

    parallel = True

    def __init__(self, program: bytes, outputs: tuple[str, ...], core: str, cores: int) -> None:
        from rknnlite.api import RKNNLite

        self._outputs = outputs
        self._free: SimpleQueue[Any] = SimpleQueue()
        self._all: list[Any] = []
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

    def _start(self, kind: Any, path: Path, mask: str, *, single: bool) -> None:
        made = kind()
        self._all.append(made)
        if made.load_rknn(str(path)):
            raise DeviceError(
                "RKNNLite does not load the file",
                "librknnrt is older than the toolkit that built it, most often: onchip inspect "
                "says which it needs",
            )
        # chips of one core know no masks
        chosen = {} if single else {"core_mask": getattr(kind, _MASKS[mask])}
        if made.init_runtime(**chosen):
            raise DeviceError("the NPU does not start", "is its driver loaded, and may you use it?")
        self._free.put(made)

    def __call__(self, tensor: npt.NDArray[np.generic]) -> Tensors:
        """Run one input `(1, H, W, 3)` of bytes on a core that is free."""
        context = self._free.get()
        try:
            found = context.inference(inputs=[np.ascontiguousarray(tensor)], data_format=["nhwc"])
        finally:
            self._free.put(context)
        if found is None or len(found) != len(self._outputs):
            raise DeviceError("the NPU gave no result", "see dmesg; a restart often helps")
        return {n: np.asarray(f, np.float32) for n, f in zip(self._outputs, found, strict=True)}

    def close(self) -> None:
        """Give the NPU back."""
        for context in self._all:
            context.release()
        self._all = []
