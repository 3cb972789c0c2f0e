"""Run a .hef on the chip itself, through HailoRT.

Written to the interface of pyhailort 4.23 and tested with a stand-in that checks each call; not run
on a chip. The asynchronous interface is used where HailoRT has it: a Hailo-10H has no other.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from onchip.errors import DeviceError, OnchipError, ToolError
from onchip.targets.target import Session
from onchip.toolchains.known import explain
from onchip.vision.codes import Codes, Tensors

PATIENCE_MS = 10_000  # for one frame
RETURN = 15.0  # seconds that a lost chip is waited for
PAUSE = 0.5  # seconds between looks
GROUP = "SHARED"  # several networks of one process share the chip under one name
# how HailoRT says of a chip that it has found that somebody else has it
IN_USE = ("HAILO_DEVICE_IN_USE", "HAILO_OUT_OF_PHYSICAL_DEVICES")
VALUES = 5  # of a box: top, left, bottom, right, score

# HailoRT's names of formats that are codes
_WHOLE: Mapping[str, type[np.generic]] = {"UINT8": np.uint8, "UINT16": np.uint16}

T = TypeVar("T")


class Loaded(Protocol):
    """A network on the chip, by either interface."""

    def run(self, tensor: npt.NDArray[np.generic]) -> Mapping[str, Any]:
        """Run one input `(1, H, W, 3)`, and return HailoRT's outputs by its own names.

        Raw ones are `(1, C, H, W)`, boxes a list for each class.
        """

    def close(self) -> None:
        """Give the chip back."""


class HailoChip(Session):
    """A Hailo chip with one network on it, shared with others of the process.

    Args:
        program: the .hef file.
        outputs: HailoRT's name of each output to (the tensor's name, classes; 0 where it is raw).

    Raises:
        ToolError: HailoRT is there, but cannot be loaded.
        DeviceError: there is no chip, it is in use, or it refuses the file.
    """

    parallel = True
    depth = 3  # one on the chip, one on its way there, one prepared

    def __init__(self, program: bytes, outputs: Mapping[str, tuple[str, int]]) -> None:
        self._program, self._outputs = program, dict(outputs)
        self._limits: tuple[float, float] | None = None
        self._lock = Lock()
        self._closed = False
        self._platform = _platform()
        self._loaded: Loaded | None = self._load()

    def _load(self) -> Loaded:
        return load(self._platform, self._program, self._outputs, self._limits)

    def limit(self, confidence: float, overlap: float) -> None:
        """Set the thresholds of HailoRT's own suppression; what the file says is only a default."""
        wanted = (confidence, overlap)
        suppresses = any(classes for _, classes in self._outputs.values())
        with self._lock:
            if not suppresses or wanted == self._limits:
                return
            self._limits = wanted
            self._unload()
            self._loaded = self._load()

    def __call__(self, tensor: npt.NDArray[np.generic]) -> Tensors:
        """Run one input `(1, H, W, 3)` of bytes; a chip that was lost is taken up again once."""
        if self._closed:
            raise DeviceError("the chip has been given back")
        loaded = self._loaded
        try:
            if loaded is None:
                raise DeviceError("the chip was lost")
            found = loaded.run(tensor)
        except DeviceError as error:
            found = self._found_again(loaded, error).run(tensor)
        return {
            name: _boxes(found[own], classes) if classes else found[own]
            for own, (name, classes) in self._outputs.items()
        }

    def _found_again(self, lost: Loaded | None, error: DeviceError) -> Loaded:
        """Wait until the chip answers again, and load the network anew; one caller does it."""
        with self._lock:
            if self._loaded is not lost and self._loaded is not None:
                return self._loaded
            self._unload()
            until = time.monotonic() + RETURN
            while True:
                try:
                    self._loaded = self._load()
                    return self._loaded
                except OnchipError:
                    if time.monotonic() > until:
                        raise error from None
                time.sleep(PAUSE)

    def _unload(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            with suppress(OnchipError):  # a lost chip cannot be given back in order
                loaded.close()

    def close(self) -> None:
        """Give the chip back."""
        with self._lock:
            self._closed = True
            self._unload()


def _platform() -> Any:
    try:
        import hailo_platform
    except (ImportError, OSError) as error:
        causes = explain("hailort", str(error))
        raise ToolError(
            f"HailoRT's Python package cannot be loaded: {error}",
            causes[0].message if causes else "install the wheel of the library's own version",
        ) from error
    return hailo_platform


def load(
    platform: Any,
    program: bytes,
    outputs: Mapping[str, tuple[str, int]],
    limits: tuple[float, float] | None,
) -> Loaded:
    """Load a network by the interface that this HailoRT has.

    Raises:
        DeviceError: there is no chip, it is in use, or it refuses the file.
    """
    kind = Model if hasattr(platform.VDevice, "create_infer_model") else Streams
    return kind(platform, program, outputs, limits)


class Model:
    """The asynchronous interface: several callers, several frames on their way."""

    def __init__(
        self,
        platform: Any,
        program: bytes,
        outputs: Mapping[str, tuple[str, int]],
        limits: tuple[float, float] | None,
    ) -> None:
        self._outputs = outputs
        self._codes: dict[str, tuple[type[np.generic], float, float]] = {}
        self._lock = Lock()
        with ExitStack() as opened:
            device = opened.enter_context(_device(platform))
            self._model = _asked("load", lambda: device.create_infer_model(program))
            _asked("set up", lambda: self._set_up(platform, limits))
            self._network = _asked("configure", self._model.configure)
            opened.enter_context(self._network)
            self._opened = opened.pop_all()

    def _set_up(self, platform: Any, limits: tuple[float, float] | None) -> None:
        self._model.set_batch_size(1)
        self._model.input().set_format_type(platform.FormatType.UINT8)
        for name, (_, classes) in self._outputs.items():
            output = self._model.output(name)
            own = _WHOLE.get(output.format.type.name) if not classes else None
            quants: Sequence[Any] = output.quant_infos if own else ()
            if own and len(quants) == 1 and quants[0].qp_scale > 0:
                self._codes[name] = (own, float(quants[0].qp_scale), float(quants[0].qp_zp))
                continue  # the chip's own integers: only the few that pass become numbers
            output.set_format_type(platform.FormatType.FLOAT32)
            if classes and limits is not None:
                output.set_nms_score_threshold(limits[0])
                output.set_nms_iou_threshold(limits[1])

    def run(self, tensor: npt.NDArray[np.generic]) -> Mapping[str, Any]:
        """Run one input."""
        buffers = {n: self._buffer(n) for n in self._outputs}
        frame = np.require(tensor[0], requirements=("C", "W"))  # HailoRT takes no read-only array
        failed: list[Exception] = []

        def ended(completion_info: Any) -> None:
            # the only place where a failure is told: waiting raises nothing but a timeout
            if completion_info.exception is not None:
                failed.append(completion_info.exception)

        def begin() -> Any:
            with self._lock:
                self._network.wait_for_async_ready(PATIENCE_MS)
                bindings = self._network.create_bindings(output_buffers=buffers)
                bindings.input().set_buffer(frame)
                return bindings, self._network.run_async([bindings], ended)

        def finish() -> None:
            job.wait(PATIENCE_MS)
            if failed:
                raise failed[0]

        bindings, job = _asked("run", begin)
        _asked("run", finish)
        return {n: self._values(n, bindings.output(n).get_buffer()) for n in self._outputs}

    def _buffer(self, name: str) -> npt.NDArray[np.generic]:
        kind = self._codes[name][0] if name in self._codes else np.float32
        return np.empty(self._model.output(name).shape, kind)

    def _values(self, name: str, found: Any) -> Any:
        if self._outputs[name][1]:
            return found
        if name not in self._codes:
            return _tensor(found)
        _, scale, zero = self._codes[name]
        return Codes(_tensor(found), scale, zero)

    def close(self) -> None:
        """Give the chip back; a model that lives keeps it."""
        self._model = self._network = None
        _asked("release", self._opened.close)


class Streams:
    """The older interface, one frame at a time, of HailoRT before the asynchronous one."""

    def __init__(
        self,
        platform: Any,
        program: bytes,
        outputs: Mapping[str, tuple[str, int]],
        limits: tuple[float, float] | None,
    ) -> None:
        self._boxes = {name: bool(classes) for name, (_, classes) in outputs.items()}
        self._lock = Lock()
        with ExitStack() as opened:
            device = opened.enter_context(_device(platform))
            self._pipeline = _asked("load", lambda: self._set_up(platform, device, program, opened))
            if limits is not None and any(classes for _, classes in outputs.values()):
                _asked("set up", lambda: self._limit(limits))
            self._opened = opened.pop_all()

    def _set_up(self, platform: Any, device: Any, program: bytes, opened: ExitStack) -> Any:
        hef = platform.HEF(program)
        interface = platform.HailoStreamInterface.PCIe
        settings = platform.ConfigureParams.create_from_hef(hef, interface=interface)
        group = device.configure(hef, settings)[0]
        kind = platform.FormatType
        taken = platform.InputVStreamParams.make(group, format_type=kind.UINT8)
        given = platform.OutputVStreamParams.make(group, format_type=kind.FLOAT32)
        self._input = hef.get_input_vstream_infos()[0].name
        pipeline = opened.enter_context(platform.InferVStreams(group, taken, given))
        opened.enter_context(group.activate(group.create_params()))
        return pipeline

    def _limit(self, limits: tuple[float, float]) -> None:
        self._pipeline.set_nms_score_threshold(limits[0])
        self._pipeline.set_nms_iou_threshold(limits[1])

    def run(self, tensor: npt.NDArray[np.generic]) -> Mapping[str, Any]:
        """Run one input."""
        with self._lock:
            found = _asked(
                "run", lambda: self._pipeline.infer({self._input: np.ascontiguousarray(tensor)})
            )
        return {
            n: found[n][0] if boxes else _tensor(found[n][0]) for n, boxes in self._boxes.items()
        }

    def close(self) -> None:
        """Give the chip back."""
        _asked("release", self._opened.close)


def _device(platform: Any) -> Any:
    """Open the chip, shared: with HailoRT's service also between processes."""
    if not _asked("scan", platform.Device.scan):
        raise DeviceError(
            "no Hailo chip was found",
            "is it in its slot, is the driver loaded? onchip doctor looks at each",
        )

    def opened(service: bool) -> Any:
        params = platform.VDevice.create_params()
        params.scheduling_algorithm = platform.HailoSchedulingAlgorithm.ROUND_ROBIN
        params.group_id = GROUP
        if service:
            params.multi_process_service = True
        return platform.VDevice(params)

    try:
        return _asked("open", lambda: opened(service=False))
    except DeviceError as error:
        if not any(x in str(error) for x in IN_USE):
            raise
    try:
        return _asked("open", lambda: opened(service=True))
    except DeviceError as error:
        raise DeviceError(
            "another process holds the chip",
            "end it (fuser /dev/hailo0 names it), or start HailoRT's service, through which "
            "processes share a chip: sudo systemctl enable --now hailort.service",
        ) from error


def _tensor(found: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`(1, C, H, W)` of HailoRT's `(H, W, C)`."""
    return np.ascontiguousarray(np.moveaxis(found, -1, 0)[None])


def _boxes(found: Sequence[npt.NDArray[np.floating]], classes: int) -> npt.NDArray[np.float32]:
    """`(1, classes, 5, most)` of HailoRT's boxes class by class."""
    most = max((len(rows) for rows in found), default=0)
    packed = np.zeros((1, classes, VALUES, max(most, 1)), np.float32)
    for number, rows in enumerate(found):
        packed[0, number, :, : len(rows)] = np.asarray(rows, np.float32).reshape(-1, VALUES).T
    return packed


def _asked(what: str, call: Callable[[], T]) -> T:
    """Make a call of HailoRT, whose errors are of many kinds."""
    try:
        return call()
    except OnchipError:
        raise
    except Exception as error:
        cause = f"{error.__cause__}" if error.__cause__ is not None else ""
        said = " ".join(x for x in (str(error).strip() or type(error).__name__, cause) if x)
        causes = explain("hailort", f"{type(error).__name__}: {said}")
        raise DeviceError(
            f"HailoRT failed to {what}: {said.splitlines()[0]}",
            causes[0].message if causes else "onchip doctor looks for the cause",
        ) from error
