"""Plays pyhailort: the classes that callers use, over the native part's stand-in."""

import gc
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from hailo_standin import knob
from hailo_standin.ops import BOX

from hailo_platform.pyhailort import _pyhailort
from hailo_platform.pyhailort._pyhailort import FormatOrder as FormatOrder
from hailo_platform.pyhailort._pyhailort import FormatType as FormatType

Array = npt.NDArray[Any]
DEFAULT_VSTREAM_TIMEOUT_MS = 10000
DEFAULT_VSTREAM_QUEUE_SIZE = 2


class HailoSchedulingAlgorithm(_pyhailort.SchedulingAlgorithm):  # type: ignore[misc]
    """Who switches between networks."""


class HailoStreamInterface(_pyhailort.StreamInterface):  # type: ignore[misc]
    """How a chip is connected."""


class HailoStreamDirection(_pyhailort.StreamDirection):  # type: ignore[misc]
    """Into the chip or out of it."""


class HailoFormatFlags(_pyhailort.FormatFlags):  # type: ignore[misc]
    """What else is said of a format."""


class HailoPowerMode(_pyhailort.PowerMode):  # type: ignore[misc]
    """How fast the chip may run."""


# What goes wrong


class HailoRTException(Exception):  # noqa: N818 - the real names, all of them
    """A status that is no success."""


class UdpRecvError(HailoRTException):
    """HAILO_ETH_RECV_FAILURE."""


class InvalidProtocolVersionException(HailoRTException):
    """HAILO_UNSUPPORTED_CONTROL_PROTOCOL_VERSION."""


class HailoRTFirmwareControlFailedException(HailoRTException):
    """HAILO_FW_CONTROL_FAILURE."""


class HailoRTInvalidFrameException(HailoRTException):
    """HAILO_INVALID_FRAME."""


class HailoRTUnsupportedOpcodeException(HailoRTException):
    """HAILO_UNSUPPORTED_OPCODE."""


class HailoRTTimeout(HailoRTException):
    """HAILO_TIMEOUT."""


class HailoRTStreamAborted(HailoRTException):
    """HAILO_STREAM_ABORT."""


class HailoRTStreamAbortedByUser(HailoRTException):
    """Kept for older callers."""


class HailoRTInvalidOperationException(HailoRTException):
    """HAILO_INVALID_OPERATION."""


class HailoRTInvalidArgumentException(HailoRTException):
    """HAILO_INVALID_ARGUMENT."""


class HailoRTNotFoundException(HailoRTException):
    """HAILO_NOT_FOUND."""


class HailoRTInvalidHEFException(HailoRTException):
    """HAILO_INVALID_HEF."""


class HailoRTHEFNotCompatibleWithDevice(HailoRTException):
    """HAILO_HEF_NOT_COMPATIBLE_WITH_DEVICE."""


class HailoRTEthException(HailoRTException):
    """HAILO_ETH_FAILURE."""


class HailoRTDriverOperationFailedException(HailoRTException):
    """HAILO_DRIVER_OPERATION_FAILED."""


HailoRTPCIeDriverException = HailoRTDriverOperationFailedException  # its older name


class HailoRTNetworkGroupNotActivatedException(HailoRTException):
    """HAILO_NETWORK_GROUP_NOT_ACTIVATED."""


class HailoCommunicationClosedException(HailoRTException):
    """HAILO_COMMUNICATION_CLOSED."""


_SEE = "See hailort.log for more information"
_DMESG = "run 'dmesg | grep hailo' for more information"
_SAID: Mapping[str, tuple[type[HailoRTException], str]] = {
    "ETH_RECV_FAILURE": (UdpRecvError, "Failed to receive data"),
    "UNSUPPORTED_CONTROL_PROTOCOL_VERSION": (
        InvalidProtocolVersionException,
        "HailoRT has failed because an invalid protocol version was received from device",
    ),
    "FW_CONTROL_FAILURE": (
        HailoRTFirmwareControlFailedException,
        "libhailort control operation failed",
    ),
    "UNSUPPORTED_OPCODE": (
        HailoRTUnsupportedOpcodeException,
        "HailoRT has failed because an unsupported opcode was sent to device",
    ),
    "INVALID_FRAME": (HailoRTInvalidFrameException, "An invalid frame was received"),
    "TIMEOUT": (
        HailoRTTimeout,
        "Received a timeout - hailort has failed because a timeout had occurred",
    ),
    "STREAM_ABORT": (HailoRTStreamAborted, "Stream was aborted"),
    "INVALID_OPERATION": (HailoRTInvalidOperationException, f"Invalid operation. {_SEE}"),
    "INVALID_ARGUMENT": (HailoRTInvalidArgumentException, f"Invalid argument. {_SEE}"),
    "NOT_FOUND": (HailoRTNotFoundException, f"Item not found. {_SEE}"),
    "INVALID_HEF": (HailoRTInvalidHEFException, f"Invalid HEF. {_SEE}"),
    "HEF_NOT_COMPATIBLE_WITH_DEVICE": (
        HailoRTHEFNotCompatibleWithDevice,
        f"HEF file is not compatible with device. {_SEE}",
    ),
    "ETH_FAILURE": (HailoRTEthException, f"Ethernet failure. {_SEE}"),
    "DRIVER_OPERATION_FAILED": (
        HailoRTDriverOperationFailedException,
        f"Failure in hailort driver ioctl. {_DMESG}",
    ),
    "COMMUNICATION_CLOSED": (
        HailoCommunicationClosedException,
        "Communication closed failure. Check server-client connection",
    ),
    "NETWORK_GROUP_NOT_ACTIVATED": (
        HailoRTNetworkGroupNotActivatedException,
        "Network group is not activated",
    ),
}


class ExceptionWrapper:
    """Turns statuses of the native part into exceptions."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        """Raise what a status means."""
        if type(value) is _pyhailort.HailoRTStatusException:
            raise self.create_exception_from_status(int(value.args[0])) from value

    @staticmethod
    def create_exception_from_status(code: int) -> HailoRTException:
        """Return the exception of a status."""
        name = _pyhailort.get_status_message(code)
        kind, text = _SAID.get(name.removeprefix("HAILO_"), (HailoRTException, ""))
        if kind is HailoRTDriverOperationFailedException and _old():
            text = f"PCIe driver failure. {_DMESG}"
        return kind(text or f"libhailort failed with error: {code} ({name})")


def _old() -> bool:
    version = tuple(int(n) for n in (knob("HAILORT") or _pyhailort.LIBRARY).split(".")[:2])
    return version < (4, 18)


def _logger() -> logging.Logger:
    return logging.getLogger("HailoRT")


# Files


class HEF:
    """A file of programs."""

    def __init__(self, hef_source: str | bytes) -> None:
        with ExceptionWrapper():
            if isinstance(hef_source, str):
                self._hef = _pyhailort.Hef.create_from_file(hef_source)
            elif isinstance(hef_source, bytes):
                self._hef = _pyhailort.Hef.create_from_buffer(hef_source)
            else:
                raise ValueError(
                    "HEF can only be created from a file path (str) or a buffer (bytes)"
                )
        self._path = hef_source if isinstance(hef_source, str) else None

    @property
    def path(self) -> str | None:
        """The file, where it was one."""
        return self._path

    def get_network_group_names(self) -> list[str]:
        """Return the groups' names."""
        return [p.name for p in self._hef.programs]

    def get_network_groups_infos(self) -> list[Any]:
        """Return the groups, each with `name` and `is_multi_context`."""
        return [_GroupInfo(p.name, p.contexts > 1) for p in self._hef.programs]

    def get_networks_names(self, network_group_name: str | None = None) -> list[str]:
        """Return the networks of a group."""
        with ExceptionWrapper():
            program = self._hef.program(network_group_name or "")
        return [f"{program.name}/{program.name}"]

    def get_input_vstream_infos(self, name: str | None = None) -> list[Any]:
        """Return what goes in. No status is turned into an exception here."""
        return self._hef.inputs(name or "")

    def get_output_vstream_infos(self, name: str | None = None) -> list[Any]:
        """Return what comes out."""
        return self._hef.outputs(name or "")

    def get_all_vstream_infos(self, name: str | None = None) -> list[Any]:
        """Return both."""
        return [*self._hef.inputs(name or ""), *self._hef.outputs(name or "")]

    def get_input_stream_infos(self, name: str | None = None) -> list[Any]:
        """Return what the chip takes."""
        return self._hef.inputs(name or "", host=False)

    def get_output_stream_infos(self, name: str | None = None) -> list[Any]:
        """Return what the chip gives."""
        return self._hef.outputs(name or "", host=False)

    def get_all_stream_infos(self, name: str | None = None) -> list[Any]:
        """Return both."""
        return [*self.get_input_stream_infos(name), *self.get_output_stream_infos(name)]

    def get_sorted_output_names(self, network_group_name: str | None = None) -> list[str]:
        """Return the outputs in the compiler's order."""
        with ExceptionWrapper():
            return [i.name for i in self._hef.outputs(network_group_name or "")]

    def bottleneck_fps(self, network_group_name: str | None = None) -> float:
        """Return what the compiler reckoned."""
        with ExceptionWrapper():
            return self._hef.program(network_group_name or "").fps

    def get_original_names_from_vstream_name(
        self, vstream_name: str, network_group_name: str | None = None
    ) -> list[str]:
        """Return the ONNX nodes of a stream."""
        with ExceptionWrapper():
            return self._hef.originals(vstream_name, network_group_name or "")

    def get_vstream_name_from_original_name(
        self, original_name: str, network_group_name: str | None = None
    ) -> str:
        """Return the stream of an ONNX node."""
        with ExceptionWrapper():
            for info in self.get_all_vstream_infos(network_group_name):
                if original_name in self._hef.originals(info.name, network_group_name or ""):
                    return str(info.name)
            raise _pyhailort.HailoRTStatusException(str(_pyhailort.STATUS["NOT_FOUND"]))

    def get_stream_names_from_vstream_name(
        self, vstream_name: str, network_group_name: str | None = None
    ) -> list[str]:
        """Return the chip's streams behind one of the host's."""
        with ExceptionWrapper():
            return self._hef.stream_names(vstream_name, network_group_name or "")


class _GroupInfo:
    def __init__(self, name: str, many: bool) -> None:
        self.name, self.is_multi_context = name, many


# Chips


class DeviceArchitectureTypes(IntEnum):
    """Chips, as the firmware numbers them."""

    HAILO8_A0 = 0
    HAILO8 = 1
    HAILO8L = 2
    HAILO15H = 3
    HAILO15L = 4
    HAILO15M = 5
    HAILO10H = 6

    def __str__(self) -> str:
        """Return the bare name."""
        return self.name


class HailoFirmwareVersion:
    """A firmware's version."""

    def __init__(self, major: int, minor: int, revision: int) -> None:
        self.major, self.minor, self.revision = major, minor, revision

    def __str__(self) -> str:
        """Return how the firmware is named."""
        return f"{self.major}.{self.minor}.{self.revision} (release,app)"


class BoardInformation:
    """What a chip says of itself."""

    def __init__(self, said: _pyhailort.Identity) -> None:
        version = said.fw_version
        self.protocol_version = said.protocol_version
        self.firmware_version = HailoFirmwareVersion(version.major, version.minor, version.revision)
        self.logger_version = said.logger_version
        self.board_name = said.board_name
        self.is_release = said.is_release
        self.device_architecture = DeviceArchitectureTypes(int(said.device_architecture))
        self.serial_number = said.serial_number
        self.part_number = said.part_number
        self.product_name = said.product_name


class Control:
    """What can be asked of a chip."""

    def __init__(self, device: _pyhailort.Device) -> None:
        self.__device = device
        self._identify_info = self.identify()

    @property
    def _device(self) -> _pyhailort.Device:
        if not self.__device.is_valid():
            raise HailoRTInvalidOperationException(
                "The device in use has been released. This can happen if 'device.release()' has "
                "been called, or one-liner usage of control 'Device().control.XX()'"
            )
        return self.__device

    def identify(self) -> BoardInformation:
        """Return what it is."""
        with ExceptionWrapper():
            return BoardInformation(self._device.identify())

    def get_chip_temperature(self) -> Any:
        """Return how warm it is."""
        with ExceptionWrapper():
            return self._device.temperature()

    def power_measurement(self) -> float:
        """Return what it draws, in watts."""
        with ExceptionWrapper():
            return self._device.power()


class Device:
    """A chip, to ask it things; networks run on a VDevice."""

    @classmethod
    def scan(cls) -> list[str]:
        """Return the chips there are."""
        return _pyhailort.Device.scan()

    def __init__(self, device_id: str | None = None) -> None:
        gc.collect()
        self._device: _pyhailort.Device | None = None
        if device_id is None:
            found = Device.scan()
            if not found:
                raise HailoRTException("HailoRT device not found in the system")
            device_id = found[0]
        self._device_id = device_id
        self._device = _pyhailort.Device.create(device_id)  # its statuses come as they are
        self._control_object = Control(self._device)

    def __enter__(self) -> "Device":
        """Use it."""
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        """Close it."""
        self.release()
        return False

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Close it."""
        if self._device is not None:
            self._device.release()
            self._device = None

    @property
    def device_id(self) -> str:
        """Its name."""
        return self._device_id

    @property
    def control(self) -> Control:
        """What can be asked of it."""
        return self._control_object


class VDevice:
    """Some chips, to run networks on."""

    def __init__(self, params: Any = None, *, device_ids: list[str] | None = None) -> None:
        gc.collect()
        self._vdevice: _pyhailort.VDevice | None = None
        self._creation_pid = os.getpid()
        params = VDevice.create_params() if params is None else params
        with ExceptionWrapper():
            self._vdevice = _pyhailort.VDevice.create(params, device_ids or [])

    @staticmethod
    def create_params() -> _pyhailort.VDeviceParams:
        """Return parameters to change: by themselves they want no scheduler."""
        return _pyhailort.VDeviceParams.default()

    def __enter__(self) -> "VDevice":
        """Use it."""
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        """Release it."""
        self.release()
        return False

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Let go."""
        if self._vdevice is not None:
            self._vdevice.release()
            self._vdevice = None

    def get_physical_devices_ids(self) -> list[str]:
        """Return the chips' names."""
        with ExceptionWrapper():
            return self._native().get_physical_devices_ids()

    def get_physical_devices(self) -> list[Device]:
        """Return the chips."""
        return [Device(i) for i in self.get_physical_devices_ids()]

    def create_infer_model(self, hef_source: str | bytes, name: str = "") -> "InferModel":
        """Read a program for this device."""
        if os.getpid() != self._creation_pid:
            raise HailoRTException(
                "InferModel can be created only from the process VDevice was created in."
            )
        with ExceptionWrapper():
            if type(hef_source) is bytes:
                hef = _pyhailort.Hef.create_from_buffer(hef_source)
            elif isinstance(hef_source, str):
                hef = _pyhailort.Hef.create_from_file(hef_source)
            else:
                raise TypeError(
                    "create_infer_model_from_file(): incompatible function arguments, "
                    f"{type(hef_source).__name__}"
                )
            return InferModel(_pyhailort.InferModel(self._native(), hef, name), hef_source)

    def configure(
        self, hef: HEF, configure_params_by_name: Mapping[str, Any] | None = None
    ) -> list["ConfiguredNetwork"]:
        """Load the programs of a file, for the older way."""
        if self._creation_pid != os.getpid():
            raise HailoRTException(
                "VDevice can only be configured from the process it was created in."
            )
        with ExceptionWrapper():
            native, given = hef._hef, configure_params_by_name or {}
            if unknown := set(given) - {p.name for p in native.programs}:
                log = f"params for {sorted(unknown)}, which the HEF has not"
                raise _pyhailort._fail("INVALID_ARGUMENT", log)
            groups = [_pyhailort.NetworkGroup(self._native(), native, p) for p in native.programs]
        return [ConfiguredNetwork(g) for g in groups]

    def _native(self) -> _pyhailort.VDevice:
        if self._vdevice is None:
            raise AttributeError("'NoneType' object has no attribute: the VDevice was released")
        return self._vdevice


# The newer way


class AsyncInferCompletionInfo:
    """What a callback is told."""

    def __init__(self, exception: HailoRTException | None) -> None:
        self._exception = exception

    @property
    def exception(self) -> HailoRTException | None:
        """What went wrong; None where nothing did. No one else is told."""
        return self._exception


class InferModel:
    """A program with the formats that the caller wants."""

    class InferStream:
        """One input or output before it is configured."""

        def __init__(self, edge: _pyhailort.Edge) -> None:
            self._edge = edge

        @property
        def name(self) -> str:
            """Its name."""
            return self._edge.info.name

        @property
        def shape(self) -> list[int]:
            """The shape of a frame's buffer."""
            return list(self._edge.shape)

        @property
        def format(self) -> _pyhailort.HailoFormat:
            """How its bytes are to lie."""
            return self._edge.format

        @property
        def quant_infos(self) -> list[_pyhailort.QuantInfo]:
            """Its codes: always one."""
            return [self._edge.info.quant_info]

        @property
        def is_nms(self) -> bool:
            """Whether it is boxes."""
            return self._edge.info.nms is not None

        def set_format_type(self, type: Any) -> None:  # noqa: A002 - the real name
            """Want another kind of values."""
            self._edge.format.type = _pyhailort._typed(type, _pyhailort.FormatType, "type")

        def set_format_order(self, order: Any) -> None:
            """Want another order of values."""
            self._edge.format.order = _pyhailort._typed(order, _pyhailort.FormatOrder, "order")

        def set_nms_score_threshold(self, threshold: float) -> None:
            """Want boxes from this score on. Where there are none, `configure` fails."""
            self._edge.score = float(threshold)

        def set_nms_iou_threshold(self, threshold: float) -> None:
            """Suppress boxes from this overlap on."""
            self._edge.iou = float(threshold)

        def set_nms_max_proposals_per_class(self, max_proposals: int) -> None:
            """Want at most so many boxes of a class; the buffer gets smaller with it."""
            self._edge.most = _pyhailort._typed(max_proposals, int, "max_proposals")

    def __init__(self, infer_model: _pyhailort.InferModel, source: str | bytes) -> None:
        self._infer_model, self._source = infer_model, source

    @property
    def hef(self) -> HEF:
        """The file."""
        return HEF(self._source)

    def set_batch_size(self, batch_size: int) -> None:
        """Set how many frames go at once."""
        self._infer_model.set_batch_size(batch_size)

    def set_power_mode(self, power_mode: Any) -> None:
        """Set how fast the chip may run."""
        _pyhailort._typed(power_mode, _pyhailort.PowerMode, "power_mode")

    def configure(self) -> "ConfiguredInferModel":
        """Load it; formats that cannot be had are refused here."""
        with ExceptionWrapper():
            return ConfiguredInferModel(self._infer_model.configure(), self)

    @property
    def input_names(self) -> list[str]:
        """The inputs' names."""
        return list(self._infer_model.inputs)

    @property
    def output_names(self) -> list[str]:
        """The outputs' names."""
        return list(self._infer_model.outputs)

    @property
    def inputs(self) -> list[InferStream]:
        """The inputs."""
        return [self.InferStream(e) for e in self._infer_model.inputs.values()]

    @property
    def outputs(self) -> list[InferStream]:
        """The outputs."""
        return [self.InferStream(e) for e in self._infer_model.outputs.values()]

    def input(self, name: str = "") -> InferStream:
        """Return an input."""
        with ExceptionWrapper():
            return self.InferStream(_pyhailort.named(self._infer_model.inputs, name, "input"))

    def output(self, name: str = "") -> InferStream:
        """Return an output."""
        with ExceptionWrapper():
            return self.InferStream(_pyhailort.named(self._infer_model.outputs, name, "output"))


class ConfiguredInferModel:
    """A loaded program."""

    class Bindings:
        """The buffers of one frame."""

        class InferStream:
            """The buffer of one input or output."""

            def __init__(self, binding: _pyhailort.Binding) -> None:
                self._binding = binding
                self._buffer: Array | None = None

            def set_buffer(self, buffer: Array) -> None:
                """Give a buffer, in order and writable; its size is looked at when it runs."""
                if not buffer.flags.c_contiguous:
                    raise HailoRTException("Buffer must be C_CONTIGUOUS")
                with ExceptionWrapper():
                    self._binding.set_buffer(buffer)
                self._buffer = buffer

            def get_buffer(self, tf_format: bool | None = False) -> Any:
                """Return the buffer; boxes as a list of `(n, 5)`, or `(classes, 5, most)`, or raw."""
                nms = self._binding.edge.nms
                if tf_format is None or nms is None or self._buffer is None:
                    return self._buffer
                found = _boxes(self._buffer, nms.number_of_classes)
                return _padded(found, nms.max_bboxes_per_class) if tf_format else found

        def __init__(self, bindings: _pyhailort.Bindings) -> None:
            self._bindings = bindings
            self._inputs = {n: self.InferStream(b) for n, b in bindings.inputs.items()}
            self._outputs = {n: self.InferStream(b) for n, b in bindings.outputs.items()}

        def input(self, name: str = "") -> InferStream:
            """Return an input's buffer."""
            with ExceptionWrapper():
                found: ConfiguredInferModel.Bindings.InferStream = _pyhailort.named(
                    self._inputs, name, "input"
                )
                return found

        def output(self, name: str = "") -> InferStream:
            """Return an output's buffer."""
            with ExceptionWrapper():
                found: ConfiguredInferModel.Bindings.InferStream = _pyhailort.named(
                    self._outputs, name, "output"
                )
                return found

        def get(self) -> _pyhailort.Bindings:
            """Return the native part."""
            return self._bindings

    def __init__(self, configured: _pyhailort.Configured, infer_model: InferModel) -> None:
        self._configured_infer_model: Any = configured
        self._infer_model = infer_model

    def __enter__(self) -> "ConfiguredInferModel":
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release it: nothing can be called any more."""
        self._configured_infer_model.shutdown()
        self._configured_infer_model = None

    def activate(self) -> None:
        """Make it the one that runs, where there is no scheduler."""
        with ExceptionWrapper():
            self._configured_infer_model.activate()

    def deactivate(self) -> None:
        """Let another one run."""
        with ExceptionWrapper():
            self._configured_infer_model.activate(False)

    def create_bindings(
        self,
        input_buffers: Mapping[str, Array] | None = None,
        output_buffers: Mapping[str, Array] | None = None,
    ) -> Bindings:
        """Return the buffers of a frame, some of them given."""
        with ExceptionWrapper():
            bindings = self.Bindings(self._configured_infer_model.create_bindings())
        for name, buffer in (input_buffers or {}).items():
            bindings.input(name).set_buffer(buffer)
        for name, buffer in (output_buffers or {}).items():
            bindings.output(name).set_buffer(buffer)
        return bindings

    def wait_for_async_ready(self, timeout_ms: int = 1000, frames_count: int = 1) -> None:
        """Wait until so many frames can be taken."""
        with ExceptionWrapper():
            self._configured_infer_model.wait_for_async_ready(timeout_ms, frames_count)

    def run_async(
        self, bindings: Sequence[Bindings], callback: Callable[..., None] | None = None
    ) -> "AsyncInferJob":
        """Begin to run frames; only the callback is told how it went."""

        def done(status: int) -> None:
            failed = ExceptionWrapper.create_exception_from_status(status) if status else None
            if callback is not None:
                callback(completion_info=AsyncInferCompletionInfo(failed))

        with ExceptionWrapper():
            native = [b.get() for b in bindings]
            return AsyncInferJob(self._configured_infer_model.run_async(native, done))

    def run(self, bindings: Sequence[Bindings], timeout: int) -> None:
        """Run frames and wait for them. That they failed is not said."""
        self.run_async(bindings).wait(timeout)

    def set_scheduler_timeout(self, timeout_ms: int) -> None:
        """Set how long the scheduler waits for more frames."""
        with ExceptionWrapper():
            self._configured_infer_model.check_scheduled()

    def set_scheduler_threshold(self, threshold: int) -> None:
        """Set how many frames the scheduler waits for."""
        with ExceptionWrapper():
            self._configured_infer_model.check_scheduled()

    def set_scheduler_priority(self, priority: int) -> None:
        """Set which network goes first."""
        with ExceptionWrapper():
            self._configured_infer_model.check_scheduled()

    def get_async_queue_size(self) -> int:
        """Return how many frames may wait."""
        with ExceptionWrapper():
            return int(self._configured_infer_model.queue_size)

    def shutdown(self) -> None:
        """Stop; nothing can be run any more."""
        with ExceptionWrapper():
            self._configured_infer_model.shutdown()


class AsyncInferJob:
    """Frames on their way."""

    def __init__(self, job: _pyhailort.Job) -> None:
        self._job = job

    def wait(self, timeout_ms: float) -> None:
        """Wait until they are done, well or badly."""
        with ExceptionWrapper():
            self._job.wait(timeout_ms)


def _boxes(buffer: Array, classes: int) -> list[Array]:
    """Read a buffer of boxes: for each class a count and its boxes."""
    flat, at, found = buffer.reshape(-1), 0, []
    for _ in range(classes):
        count = int(flat[at])
        rows = flat[at + 1 : at + 1 + BOX * count].reshape(count, BOX)
        found.append(rows if count else np.empty((0, BOX)))
        at += 1 + BOX * count
    return found


def _padded(found: Sequence[Array], most: int) -> Array:
    answer = np.zeros((len(found), BOX, most), np.float32)
    for index, rows in enumerate(found):
        answer[index, :, : len(rows)] = rows.T
    return answer


# The older way


class ConfigureParams:
    """How network groups are to be loaded."""

    @staticmethod
    def create_from_hef(hef: HEF, interface: Any) -> dict[str, _pyhailort.ConfigureParams]:
        """Return the defaults for a file."""
        _pyhailort._typed(interface, _pyhailort.StreamInterface, "interface")
        return {p.name: _pyhailort.ConfigureParams(interface) for p in hef._hef.programs}


class ConfiguredNetwork:
    """A loaded network group."""

    def __init__(self, group: _pyhailort.NetworkGroup) -> None:
        self._configured_network = group

    @property
    def name(self) -> str:
        """Its name."""
        return self._configured_network.program.name

    @staticmethod
    def create_params() -> _pyhailort.ActivateNetworkGroupParams:
        """Return what `activate` takes."""
        return _pyhailort.ActivateNetworkGroupParams.default()

    def activate(self, network_group_params: Any = None) -> Any:
        """Make it the one that runs, as a context; with a scheduler this does nothing."""
        if self._configured_network.scheduled:
            _logger().warning(
                "Calls to `activate()` when working with scheduler are deprecated! On future "
                "versions this call will raise an error."
            )
            return EmptyContextManager()
        kind = _pyhailort.ActivateNetworkGroupParams
        _pyhailort._typed(network_group_params or self.create_params(), kind, "params")
        return _Activated(self._configured_network)

    def get_networks_names(self) -> list[str]:
        """Return the networks."""
        return [f"{self.name}/{self.name}"]

    def get_input_vstream_infos(self, network_name: str | None = None) -> list[Any]:
        """Return what goes in."""
        return self._configured_network.hef.inputs(network_name or self.name)

    def get_output_vstream_infos(self, network_name: str | None = None) -> list[Any]:
        """Return what comes out."""
        return self._configured_network.hef.outputs(network_name or self.name)

    def get_sorted_output_names(self) -> list[str]:
        """Return the outputs in the compiler's order."""
        return [i.name for i in self.get_output_vstream_infos()]


class EmptyContextManager:
    """Does nothing."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class _Activated:
    def __init__(self, group: _pyhailort.NetworkGroup) -> None:
        self._activation = _pyhailort.Activation(group)

    def __enter__(self) -> "_Activated":
        with ExceptionWrapper():
            self._activation.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._activation.__exit__()


def _params(
    infos: Sequence[Any], kind: Any, timeout: int | None, size: int | None
) -> dict[str, Any]:
    kind = FormatType.AUTO if kind is None else _pyhailort._typed(kind, FormatType, "format_type")
    order = _pyhailort.FormatOrder.AUTO
    return {
        i.name: _pyhailort.VStreamParams(
            _pyhailort.HailoFormat(kind, order),
            timeout or DEFAULT_VSTREAM_TIMEOUT_MS,
            size or DEFAULT_VSTREAM_QUEUE_SIZE,
        )
        for i in infos
    }


class InputVStreamParams:
    """How inputs are to lie."""

    @staticmethod
    def make(
        configured_network: ConfiguredNetwork,
        quantized: object = None,
        format_type: Any = None,
        timeout_ms: int | None = None,
        queue_size: int | None = None,
        network_name: str | None = None,
    ) -> dict[str, Any]:
        """Return it for each input. `quantized` is not looked at."""
        infos = configured_network.get_input_vstream_infos(network_name)
        return _params(infos, format_type, timeout_ms, queue_size)

    make_from_network_group = make


class OutputVStreamParams:
    """How outputs are to lie."""

    @staticmethod
    def make(
        configured_network: ConfiguredNetwork,
        quantized: object = None,
        format_type: Any = None,
        timeout_ms: int | None = None,
        queue_size: int | None = None,
        network_name: str | None = None,
    ) -> dict[str, Any]:
        """Return it for each output. `quantized` is not looked at."""
        infos = configured_network.get_output_vstream_infos(network_name)
        return _params(infos, format_type, timeout_ms, queue_size)

    make_from_network_group = make


class InferVStreams:
    """Runs frames and waits for them."""

    def __init__(
        self,
        configured_net_group: ConfiguredNetwork,
        input_vstreams_params: Mapping[str, Any],
        output_vstreams_params: Mapping[str, Any],
        tf_nms_format: bool = False,
    ) -> None:
        self._group = configured_net_group
        self._params = input_vstreams_params, output_vstreams_params
        self._tf_nms_format = tf_nms_format
        self._total_time: float | None = None
        self._infer_pipeline: Any

    def __enter__(self) -> "InferVStreams":
        """Open the pipelines."""
        with ExceptionWrapper():
            native = self._group._configured_network
            self._infer_pipeline = _pyhailort.InferVStreams(native, *self._params)
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        """Close them."""
        self._infer_pipeline.release()
        return False

    def infer(self, input_data: dict[str, Array] | Array) -> dict[str, Any]:
        """Run a batch `(N, ...)` of each input; return a batch of each output, boxes as lists."""
        begun = time.perf_counter()
        if not isinstance(input_data, dict):
            input_data = {self._group.get_input_vstream_infos()[0].name: input_data}
        if not input_data:
            raise ValueError("Input_data can't be empty")
        count = len(next(iter(input_data.values())))
        if any(len(a) != count for a in input_data.values()):
            raise ValueError("The number of frames on all input_tensors should be equal!")
        for name in input_data:  # as the real one does, in the caller's own dictionary
            input_data[name] = self._prepared(name, input_data[name])
        with ExceptionWrapper():
            found = self._infer_pipeline.infer(input_data, count)
        outputs = {n: self._told(n, a) for n, a in found.items()}
        self._total_time = time.perf_counter() - begun
        return outputs

    def _prepared(self, name: str, values: Array) -> Array:
        dtype = self._infer_pipeline.inputs[name].dtype
        if values.dtype != dtype:
            _logger().warning(
                f"Given input data dtype ({values.dtype}) is different than inferred dtype "
                f"({dtype}). conversion for every frame will reduce performance"
            )
            values = values.astype(dtype)
        if not values.flags.c_contiguous:
            _logger().warning(f"Converting {name} numpy array to be C_CONTIGUOUS")
            values = np.ascontiguousarray(values)
        return values

    def _told(self, name: str, values: Array) -> Any:
        nms = self._infer_pipeline.outputs[name].nms
        if nms is None:
            return values
        found = [_boxes(v, nms.number_of_classes) for v in values]
        if not self._tf_nms_format:
            return found
        return np.stack([_padded(f, nms.max_bboxes_per_class) for f in found])

    def get_total_time(self) -> float | None:
        """Return how long the last batch took, in seconds."""
        return self._total_time

    def set_nms_score_threshold(self, threshold: float) -> None:
        """Want boxes from this score on. No status is turned into an exception here."""
        self._infer_pipeline.post().score = float(threshold)

    def set_nms_iou_threshold(self, threshold: float) -> None:
        """Suppress boxes from this overlap on."""
        self._infer_pipeline.post().iou = float(threshold)

    def set_nms_max_proposals_per_class(self, max_proposals_per_class: int) -> None:
        """Want at most so many boxes of a class."""
        self._infer_pipeline.post().most = max_proposals_per_class
