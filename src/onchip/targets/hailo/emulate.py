"""Run a network in the compiler's own emulators: as parsed, as optimized in float, as quantized."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import numpy.typing as npt

from onchip.errors import ToolError
from onchip.formats import har as har_file
from onchip.spec import HeadSpec
from onchip.targets.hailo.names import derived, ends
from onchip.targets.hailo.script import NMS_FILE
from onchip.targets.target import Session
from onchip.toolchains.worker import Worker
from onchip.vision.codes import FloatTensors

NATIVE = "SDK_NATIVE"
FLOAT = "SDK_FP_OPTIMIZED"
QUANTIZED = "SDK_QUANTIZED"
LEAST_SCORE = 0.001  # of the boxes that a network which suppresses by itself gives


@dataclass(frozen=True)
class Loaded:
    """A network in a worker, and the layers at which it ends, in the order of its outputs."""

    worker: Worker
    ends: tuple[str, ...]
    layers: Mapping[str, str]
    turn: Lock = field(default_factory=Lock)  # a worker answers one call at a time

    @classmethod
    def take(cls, worker: Worker, hn: str) -> "Loaded":
        """Read the compiler's own description of the network."""
        described = json.loads(hn)
        return cls(worker, ends(described), derived(described))

    def infer(
        self,
        context: str,
        tensor: npt.NDArray[np.generic],
        head: HeadSpec,
        least: float = LEAST_SCORE,
    ) -> FloatTensors:
        """Run one input `(1, H, W, 3)`, and name what comes out as `head` does.

        `least` is the least score of boxes that the network suppresses by itself.

        Raises:
            ToolError: the emulator failed, or gives something else than the head.
        """
        suppressed = head.coding == "found"
        pixels = np.ascontiguousarray(tensor, np.float32)
        score = least if suppressed else 0.0
        with self.turn:
            found = self.worker.call("infer", context=context, tensor=pixels, score=score)
        if suppressed:
            return {head.tensors[0].name: _checked(found, head)}
        return self._by_name(found, head)

    def _by_name(self, found: Sequence[npt.NDArray[np.generic]], head: HeadSpec) -> FloatTensors:
        if len(found) != len(self.ends):
            raise ToolError(
                f"the emulator gives {len(found)} outputs, the network has {len(self.ends)}"
            )
        by_layer = dict(zip(self.ends, found, strict=True))
        named = {}
        for tensor in head.tensors:
            layer = self.layers.get(tensor.node, "")
            if layer not in by_layer:
                raise ToolError(f"the compiler's network does not end at {tensor.node}")
            named[tensor.name] = np.moveaxis(np.asarray(by_layer[layer], np.float32), -1, 1)
        return named


def load(worker: Worker, arch: str, har: bytes, boxes: str) -> Loaded:
    """Load a HAR into a worker, which is closed where that fails.

    `boxes` is the text of the NMS file that its script names, "" where it names none.

    Raises:
        InputError: it is damaged.
        ToolError: the compiler does not take it.
    """
    try:
        har_file.parse(har, "quantized.har")  # the compiler believes whatever it is given
        (worker.folder / "network.har").write_bytes(har)
        if boxes:
            (worker.folder / NMS_FILE).write_text(boxes)
        found = worker.call("load", har="network.har", arch=arch)
        return Loaded.take(worker, found["hn"])
    except BaseException:
        worker.close()
        raise


def _checked(found: Sequence[npt.NDArray[np.generic]], head: HeadSpec) -> npt.NDArray[np.float32]:
    shape = found[0].shape if len(found) == 1 else ()
    if len(shape) != 4 or shape[:3] != (1, head.classes, 5):
        raise ToolError(
            f"the emulator gives {[f.shape for f in found]}, not boxes of {head.classes} classes"
        )
    return np.asarray(found[0], np.float32)


class Shared:
    """One worker for all of an artifact's emulators; it ends with the last of them."""

    def __init__(self, start: Callable[[], Loaded]) -> None:
        self._start = start
        self._loaded: Loaded | None = None
        self._users = 0
        self._lock = Lock()

    def take(self) -> Loaded:
        """Return the network, which the first caller loads."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._start()
            self._users += 1
            return self._loaded

    def give(self) -> None:
        """End the worker when nobody uses it any more."""
        with self._lock:
            self._users -= 1
            if not self._users and self._loaded is not None:
                self._loaded.worker.close()
                self._loaded = None


class Emulator(Session):
    """One of the compiler's emulators, for one input after the other."""

    def __init__(self, shared: Shared, context: str, head: HeadSpec) -> None:
        self._shared, self._context, self._head = shared, context, head
        self._least = LEAST_SCORE
        self._loaded: Loaded | None = shared.take()

    def __call__(self, tensor: npt.NDArray[np.generic]) -> FloatTensors:
        """Run one input of the step's `InputSpec`."""
        if self._loaded is None:
            raise ToolError("the emulator was closed")
        return self._loaded.infer(self._context, tensor, self._head, self._least)

    def limit(self, confidence: float, overlap: float) -> None:
        """Have the emulator give no boxes of less than that; suppression is the file's own."""
        self._least = confidence

    def close(self) -> None:
        """End the emulator."""
        if self._loaded is not None:
            self._loaded = None
            self._shared.give()
