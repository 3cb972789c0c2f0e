"""Plays HailoRT's native part: chips, who uses them, what they compute, and statuses.

Sources: pyhailort and libhailort of branch hailo8 (4.23). What is refused here with a status is
refused there with the same; where the real one would go on in silence with wrong bytes (a buffer of
another kind but the right size), this refuses.
"""

import fcntl
import gc
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt
from hailo_standin import knob
from hailo_standin.ops import PostProcess, WrongSize, by_class, packed
from hailo_standin.payload import Program as Computed
from hailo_standin.payload import unpack
from hailo_standin.program_file import BY_CLASS, NC, NHW, Program, Refused, Stream, read


def _installed() -> str:
    try:
        return metadata.version("hailort")
    except metadata.PackageNotFoundError:  # run from its sources
        return "4.23.0"


LIBRARY = _installed()
__version__ = knob("NATIVE") or knob("HAILORT") or LIBRARY
Array = npt.NDArray[Any]
STATUSES = [
    "SUCCESS",
    "UNINITIALIZED",
    "INVALID_ARGUMENT",
    "OUT_OF_HOST_MEMORY",
    "TIMEOUT",
    "INSUFFICIENT_BUFFER",
    "INVALID_OPERATION",
    "NOT_IMPLEMENTED",
    "INTERNAL_FAILURE",
    "DATA_ALIGNMENT_FAILURE",
    "CHUNK_TOO_LARGE",
    "INVALID_LOGGER_LEVEL",
    "CLOSE_FAILURE",
    "OPEN_FILE_FAILURE",
    "FILE_OPERATION_FAILURE",
    "UNSUPPORTED_CONTROL_PROTOCOL_VERSION",
    "UNSUPPORTED_FW_VERSION",
    "INVALID_CONTROL_RESPONSE",
    "FW_CONTROL_FAILURE",
    "ETH_FAILURE",
    "ETH_INTERFACE_NOT_FOUND",
    "ETH_RECV_FAILURE",
    "ETH_SEND_FAILURE",
    "INVALID_FIRMWARE",
    "INVALID_CONTEXT_COUNT",
    "INVALID_FRAME",
    "INVALID_HEF",
    "PCIE_NOT_SUPPORTED_ON_PLATFORM",
    "INTERRUPTED_BY_SIGNAL",
    "START_VDMA_CHANNEL_FAIL",
    "SYNC_VDMA_BUFFER_FAIL",
    "STOP_VDMA_CHANNEL_FAIL",
    "CLOSE_VDMA_CHANNEL_FAIL",
    "ATR_TABLES_CONF_VALIDATION_FAIL",
    "EVENT_CREATE_FAIL",
    "READ_EVENT_FAIL",
    "DRIVER_OPERATION_FAILED",
    "INVALID_FIRMWARE_MAGIC",
    "INVALID_FIRMWARE_CODE_SIZE",
    "INVALID_KEY_CERTIFICATE_SIZE",
    "INVALID_CONTENT_CERTIFICATE_SIZE",
    "MISMATCHING_FIRMWARE_BUFFER_SIZES",
    "INVALID_FIRMWARE_CPU_ID",
    "CONTROL_RESPONSE_MD5_MISMATCH",
    "GET_CONTROL_RESPONSE_FAIL",
    "GET_D2H_EVENT_MESSAGE_FAIL",
    "MUTEX_INIT_FAIL",
    "OUT_OF_DESCRIPTORS",
    "UNSUPPORTED_OPCODE",
    "USER_MODE_RATE_LIMITER_NOT_SUPPORTED",
    "RATE_LIMIT_MAXIMUM_BANDWIDTH_EXCEEDED",
    "ANSI_TO_UTF16_CONVERSION_FAILED",
    "UTF16_TO_ANSI_CONVERSION_FAILED",
    "UNEXPECTED_INTERFACE_INFO_FAILURE",
    "UNEXPECTED_ARP_TABLE_FAILURE",
    "MAC_ADDRESS_NOT_FOUND",
    "NO_IPV4_INTERFACES_FOUND",
    "SHUTDOWN_EVENT_SIGNALED",
    "THREAD_ALREADY_ACTIVATED",
    "THREAD_NOT_ACTIVATED",
    "THREAD_NOT_JOINABLE",
    "NOT_FOUND",
    "COMMUNICATION_CLOSED",
    "STREAM_ABORT",
    "DRIVER_NOT_INSTALLED",
    "NOT_AVAILABLE",
    "TRAFFIC_CONTROL_FAILURE",
    "INVALID_SECOND_STAGE",
    "INVALID_PIPELINE",
    "NETWORK_GROUP_NOT_ACTIVATED",
    "VSTREAM_PIPELINE_NOT_ACTIVATED",
    "OUT_OF_FW_MEMORY",
    "STREAM_NOT_ACTIVATED",
    "DEVICE_IN_USE",
    "OUT_OF_PHYSICAL_DEVICES",
    "INVALID_DEVICE_ARCHITECTURE",
    "INVALID_DRIVER_VERSION",
    "RPC_FAILED",
    "INVALID_SERVICE_VERSION",
    "NOT_SUPPORTED",
    "NMS_BURST_INVALID_DATA",
    "OUT_OF_HOST_CMA_MEMORY",
    "QUEUE_IS_FULL",
    "DMA_MAPPING_ALREADY_EXISTS",
    "CANT_MEET_BUFFER_REQUIREMENTS",
    "DRIVER_INVALID_RESPONSE",
    "DRIVER_INVALID_IOCTL",
    "DRIVER_TIMEOUT",
    "DRIVER_INTERRUPTED",
    "CONNECTION_REFUSED",
    "DRIVER_WAIT_CANCELED",
    "HEF_FILE_CORRUPTED",
    "HEF_NOT_SUPPORTED",
    "HEF_NOT_COMPATIBLE_WITH_DEVICE",
]
STATUS = {name: number for number, name in enumerate(STATUSES)}


class HailoRTStatusException(Exception):  # noqa: N818 - the real name
    """A status that is no success; its one argument is the number, as text."""


def get_status_message(code: int) -> str:
    """Return a status's name; nothing where there is none."""
    return f"HAILO_{STATUSES[code]}" if 0 <= code < len(STATUSES) else ""


def _fail(name: str, why: str = "") -> HailoRTStatusException:
    """Log a reason and return the exception of a status."""
    if why:
        log("error", f"CHECK failed - {why}")
    return HailoRTStatusException(str(STATUS[name]))


def log(level: str, text: str) -> None:
    """Write a line as HailoRT's console log does."""
    print(f"[HailoRT] [{level}] {text}", file=sys.stderr, flush=True)


# Enumerations: no Enum of Python's, since callers may make a subclass of them


class _Value:
    def __init__(self, name: str, value: int) -> None:
        self.name, self.value = name, value

    def __int__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Value) and (self.name, self.value) == (other.name, other.value)

    def __hash__(self) -> int:
        return hash((self.name, self.value))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value}>"


def _enumeration(title: str, names: str) -> type[Any]:
    """Return a class with a member for each `NAME=number`."""
    made = type(title, (_Value,), {})
    for part in names.split():
        name, _, number = part.partition("=")
        setattr(made, name, made(name, int(number)))
    return made


SchedulingAlgorithm = _enumeration("SchedulingAlgorithm", "NONE=0 ROUND_ROBIN=1")
StreamInterface = _enumeration("StreamInterface", "PCIe=0 ETH=1 MIPI=2 INTEGRATED=3")
StreamDirection = _enumeration("StreamDirection", "H2D=0 D2H=1")
FormatType = _enumeration("FormatType", "AUTO=0 UINT8=1 UINT16=2 FLOAT32=3")
FormatFlags = _enumeration("FormatFlags", "NONE=0 TRANSPOSED=2")
PowerMode = _enumeration("PowerMode", "PERFORMANCE=0 ULTRA_PERFORMANCE=1")
FormatOrder = _enumeration(
    "FormatOrder",
    "AUTO=0 NHWC=1 NHCW=2 FCR=3 F8CR=4 NHW=5 NC=6 BAYER_RGB=7 RGB888=10 NCHW=11 YUY2=12 NV12=13 "
    "NV21=14 YYUV=15 YYVU=16 RGB4=17 I420=18 YYYYUV=19 HAILO_NMS_WITH_BYTE_MASK=20 "
    "HAILO_NMS_ON_CHIP=21 HAILO_NMS_BY_CLASS=22 HAILO_NMS_BY_SCORE=23",
)
DeviceArchitecture = _enumeration(
    "DeviceArchitecture",
    "HAILO8_A0=0 HAILO8=1 HAILO8L=2 HAILO15H=3 HAILO15L=4 HAILO15M=5 HAILO10H=6",
)
ORDERS = {NC: FormatOrder.NC, NHW: FormatOrder.NHW, BY_CLASS: FormatOrder.HAILO_NMS_BY_CLASS}
DTYPES = {FormatType.UINT8: np.uint8, FormatType.UINT16: np.uint16, FormatType.FLOAT32: np.float32}
TAKES = {"hailo8": (1, 2, 3), "hailo8l": (3,), "hailo10h": (5, 103)}  # architectures of HEFs


def get_dtype(kind: Any) -> type[Any]:
    """Return numpy's type of a format type."""
    return DTYPES[kind]


def _typed(value: object, kind: type[Any], what: str) -> Any:
    """Refuse what the native part could not convert."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise TypeError(f"{what}: incompatible function arguments, {type(value).__name__}")
    return value


# What is open


_open: WeakSet[Any] = WeakSet()


def open_resources() -> dict[str, int]:
    """Return what was opened and not released, by kind: for tests, which want nothing."""
    gc.collect()
    return dict(Counter(type(r).__name__ for r in _open if not r.closed))


# Chips


def _chips() -> dict[str, str]:
    if _lost():
        return {}
    text = knob("DEVICES") or "0000:01:00.0=hailo8"
    return {} if text == "none" else dict(p.split("=") for p in text.split(","))


def _lost() -> bool:
    gone = knob("LOST_AFTER") and Chip.frames >= int(knob("LOST_AFTER"))
    return bool(gone) or bool(knob("LOST") and Path(knob("LOST")).exists())


def _check_versions() -> None:
    library, driver = knob("HAILORT") or LIBRARY, knob("DRIVER")
    if driver == "ioctl":
        raise _fail("DRIVER_OPERATION_FAILED", "Failed, ioctl returned with errno: 22")
    if driver and driver != library:
        raise _fail(
            "INVALID_DRIVER_VERSION",
            f"Driver version ({driver}) is different from library version ({library})",
        )
    if knob("FIRMWARE") and knob("FIRMWARE") != library:
        raise _fail(
            "UNSUPPORTED_FW_VERSION",
            f"Unsupported firmware operation. Host version: {library}, device: {knob('FIRMWARE')}",
        )


class Chip:
    """One chip's use: by one group of this process, or by several processes through the service."""

    held: dict[str, "Chip"] = {}  # noqa: RUF012 - of the process
    frames = 0  # that this process ran

    def __init__(self, name: str, group: str, service: bool) -> None:
        self.name, self.group, self.users = name, group, 0
        self._lock = _lock(name, service)

    @classmethod
    def claim(cls, name: str, group: str, service: bool) -> "Chip | None":
        """Return a chip, or nothing where it is in use."""
        chip = cls.held.get(name)
        if name in knob("BUSY").split(","):
            return None
        if chip is None:
            try:
                chip = cls.held[name] = cls(name, group, service)
            except OSError:
                return None
        elif not group or chip.group != group:
            return None
        chip.users += 1
        return chip

    def leave(self) -> None:
        """Let go of it; the last one frees it."""
        self.users -= 1
        if not self.users:
            del self.held[self.name]
            if self._lock is not None:
                self._lock.close()


def _lock(name: str, service: bool) -> IO[bytes] | None:
    """Hold a chip against other processes; a service shares it among them."""
    if not knob("STATE"):
        return None
    path = Path(knob("STATE")) / f"{name.replace(':', '-')}.lock"
    file = path.open("ab")
    kind = fcntl.LOCK_SH if service else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


class Use:
    """A share of some chips, held by all that was made from one VDevice until the last is gone."""

    def __init__(self, chips: Sequence[Chip]) -> None:
        self.chips = list(chips)

    def __del__(self) -> None:
        for chip in self.chips:
            chip.leave()


@dataclass
class Version:
    """Three numbers."""

    major: int
    minor: int
    revision: int


@dataclass
class Identity:
    """What a chip says of itself."""

    protocol_version: int
    fw_version: Version
    logger_version: int
    board_name: str
    is_release: bool
    extended_context_switch_buffer: bool
    device_architecture: Any
    serial_number: str
    part_number: str
    product_name: str


@dataclass
class Temperature:
    """Two sensors, in degrees Celsius."""

    ts0_temperature: float
    ts1_temperature: float
    sample_count: int


class Device:
    """A chip, to ask it things."""

    def __init__(self, name: str) -> None:
        self.device_id, self.closed = name, False
        _open.add(self)

    @staticmethod
    def scan() -> list[str]:
        """Return the chips there are."""
        return list(_chips())

    @staticmethod
    def create(name: str) -> "Device":
        """Open one."""
        _typed(name, str, "device_id")
        if name not in _chips():
            raise _fail("INVALID_ARGUMENT", f"Requested device {name} not found")
        _check_versions()
        return Device(name)

    def release(self) -> None:
        """Close it."""
        self.closed = True

    def is_valid(self) -> bool:
        """Whether it is open."""
        return not self.closed

    def identify(self) -> Identity:
        """Return what it is."""
        self._reach()
        arch = _chips()[self.device_id]
        major, minor, revision = (int(n) for n in (knob("FIRMWARE") or LIBRARY).split("."))
        return Identity(
            2, Version(major, minor, revision), 0, arch.replace("hailo", "Hailo-"), True,
            arch == "hailo8l", getattr(DeviceArchitecture, arch.upper()), "HLDDLBB000000000",
            "HM21LB1C2LAE", f"{arch.upper()} AI ACC M.2",
        )  # fmt: skip

    def temperature(self) -> Temperature:
        """Return how warm it is."""
        self._reach()
        return Temperature(44.5, 45.0, 1)

    def power(self) -> float:
        """Return what it draws, in watts; not every board can say."""
        self._reach()
        if _chips()[self.device_id] == "hailo8l":
            raise _fail("UNSUPPORTED_OPCODE", "the board measures no power")
        return 1.25

    def _reach(self) -> None:
        if self.device_id not in _chips():
            raise _fail("DRIVER_OPERATION_FAILED", "Failed, ioctl returned with errno: 5")


# Programs


@dataclass
class QuantInfo:
    """`value = (code - qp_zp) * qp_scale`, and what was calibrated."""

    qp_zp: float
    qp_scale: float
    limvals_min: float
    limvals_max: float


@dataclass
class HailoFormat:
    """How a stream's bytes lie."""

    type: Any
    order: Any
    flags: Any = field(default_factory=lambda: FormatFlags.NONE)


@dataclass
class NmsShape:
    """How many boxes there can be."""

    number_of_classes: int
    max_bboxes_per_class: int
    max_accumulated_mask_size: int = 0


@dataclass(repr=False)
class VStreamInfo:
    """What goes into a network or comes out of it, as the host sees it."""

    name: str
    network_name: str
    direction: Any
    format: HailoFormat
    quant_info: QuantInfo
    size: tuple[int, int, int]
    nms: NmsShape | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, without batch."""
        return _shape(self.format.order, self.size, self.nms)

    @property
    def nms_shape(self) -> NmsShape:
        """How many boxes there can be."""
        if self.nms is None:
            raise RuntimeError("nms_shape is availale only on nms order vstreams")
        return self.nms

    def __repr__(self) -> str:
        return f'VStreamInfo("{self.name}")'


def _shape(order: Any, size: tuple[int, int, int], nms: NmsShape | None) -> tuple[int, ...]:
    if nms is not None:
        return nms.number_of_classes, 5, nms.max_bboxes_per_class
    if order == FormatOrder.NC:
        return size[2:]
    if order == FormatOrder.NHW:
        return size[:2]
    return (size[2], *size[:2]) if order == FormatOrder.NCHW else size


def _info(stream: Stream, program: Program, direction: Any, host: bool) -> VStreamInfo:
    kind = FormatType.UINT16 if stream.bits == 16 else FormatType.UINT8
    order = ORDERS.get(stream.order, FormatOrder.NHWC if host else FormatOrder.NHCW)
    quant = QuantInfo(stream.zero, stream.scale, stream.low, stream.high)
    network = f"{program.name}/{program.name}"
    return VStreamInfo(
        stream.name, network, direction, HailoFormat(kind, order), quant, stream.shape
    )


class Hef:
    """A file of programs."""

    def __init__(self, data: bytes) -> None:
        try:
            self.programs = read(data)
        except Refused as error:
            raise _fail(STATUSES[error.status], str(error)) from error

    @staticmethod
    def create_from_file(path: str) -> "Hef":
        """Read a file."""
        try:
            return Hef(Path(path).read_bytes())
        except OSError as error:
            raise _fail("OPEN_FILE_FAILURE", f"Failed opening file {path}") from error

    @staticmethod
    def create_from_buffer(data: bytes) -> "Hef":
        """Read bytes."""
        return Hef(data)

    def program(self, name: str) -> Program:
        """Return a program by its group's or network's name; the first for no name."""
        for p in self.programs:
            if name in ("", p.name, f"{p.name}/{p.name}"):
                return p
        raise _fail("NOT_FOUND", f"Network or network group {name} not found")

    def inputs(self, name: str = "", host: bool = True) -> list[VStreamInfo]:
        """Return what goes in."""
        program = self.program(name)
        return [_info(s, program, StreamDirection.H2D, host) for s in program.inputs]

    def outputs(self, name: str = "", host: bool = True) -> list[VStreamInfo]:
        """Return what comes out: of the chip, or of the post-process on the host."""
        program = self.program(name)
        if program.post is None or not host:
            return [_info(s, program, StreamDirection.D2H, host) for s in program.layers]
        order = HailoFormat(FormatType.FLOAT32, FormatOrder.HAILO_NMS_BY_CLASS)
        nms = NmsShape(program.post.classes, program.post.most)
        network = f"{program.name}/{program.name}"
        return [VStreamInfo(program.post_name, network, StreamDirection.D2H, order, QuantInfo(0.0, 1.0, 0.0, 0.0), (0, 0, 0), nms)]  # fmt: skip

    def stream_names(self, vstream: str, name: str = "") -> list[str]:
        """Return the chip's streams behind one of the host's."""
        program = self.program(name)
        if program.post is not None and vstream == program.post_name:
            return [s.name for s in program.layers]
        if vstream in [s.name for s in (*program.inputs, *program.layers)]:
            return [vstream]
        raise _fail("NOT_FOUND", f"vstream {vstream} not found")

    def originals(self, vstream: str, name: str = "") -> list[str]:
        """Return the ONNX nodes behind a stream of the host's."""
        program, wanted = self.program(name), self.stream_names(vstream, name)
        streams = [s for s in (*program.inputs, *program.layers) if s.name in wanted]
        return [o for s in streams for o in s.original]


class VDeviceParams:
    """How a chip is to be used; the native part takes each value by its kind."""

    __slots__ = ("_algorithm", "_count", "_group", "_ids", "_service")

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._count, self._group, self._service = 1, "", False
        self._algorithm = SchedulingAlgorithm.NONE  # pyhailort's own default

    @staticmethod
    def default() -> "VDeviceParams":
        """Return the defaults."""
        return VDeviceParams()

    @property
    def device_ids(self) -> list[str]:
        """The chips; none for any."""
        return self._ids

    @device_ids.setter
    def device_ids(self, ids: list[str]) -> None:
        self._ids = [_typed(i, str, "device_ids") for i in _typed(ids, list, "device_ids")]
        self._count = len(ids)

    @property
    def device_count(self) -> int:
        """How many chips."""
        return self._count

    @device_count.setter
    def device_count(self, count: int) -> None:
        self._count = _typed(count, int, "device_count")

    @property
    def scheduling_algorithm(self) -> int:
        """Whether HailoRT switches between networks by itself."""
        return int(self._algorithm)

    @scheduling_algorithm.setter
    def scheduling_algorithm(self, algorithm: Any) -> None:
        self._algorithm = _typed(algorithm, SchedulingAlgorithm, "scheduling_algorithm")

    @property
    def group_id(self) -> str:
        """Under which name the chip is shared."""
        return self._group

    @group_id.setter
    def group_id(self, name: str) -> None:
        self._group = _typed(name, str, "group_id")

    @property
    def multi_process_service(self) -> bool:
        """Whether processes share it through the service."""
        return self._service

    @multi_process_service.setter
    def multi_process_service(self, wanted: bool) -> None:
        self._service = _typed(wanted, bool, "multi_process_service")


class VDevice:
    """Some chips, to run networks on."""

    def __init__(self, use: Use, scheduled: bool) -> None:
        self.use: Use | None = use
        self.scheduled, self.closed = scheduled, False
        _open.add(self)

    @staticmethod
    def create(params: VDeviceParams, ids: list[str]) -> "VDevice":
        """Claim chips."""
        _typed(params, VDeviceParams, "params")
        if ids and params.device_ids:
            raise _fail("INVALID_OPERATION", "device_ids were given twice")
        wanted = [_typed(i, str, "device_ids") for i in ids or params.device_ids]
        chips = _chips()
        if unknown := [i for i in wanted if i not in chips]:
            raise _fail("INVALID_ARGUMENT", f"Requested device {unknown[0]} not found")
        if chips:
            _check_versions()
        count = len(wanted) or params.device_count
        found: list[Chip] = []
        for name in wanted or chips:
            if len(found) < count:
                chip = Chip.claim(name, params.group_id, params.multi_process_service)
                found += [chip] if chip is not None else []
        use = Use(found)
        if len(found) < count:
            del use
            raise _fail(
                "OUT_OF_PHYSICAL_DEVICES",
                "Failed to create vdevice. there are not enough free devices. "
                f"requested: {count}, found: {len(found)}",
            )
        return VDevice(use, params.scheduling_algorithm == 1)

    def release(self) -> None:
        """Let go. The chips stay in use while something made from this is there."""
        self.use, self.closed = None, True

    def using(self) -> Use:
        """Return the chips in use."""
        if self.use is None:
            raise _fail("INVALID_OPERATION", "the vdevice was released")
        return self.use

    def get_physical_devices_ids(self) -> list[str]:
        """Return the chips' names."""
        return [c.name for c in self.using().chips]

    def arch(self) -> str:
        """Return the chips' architecture."""
        name = self.get_physical_devices_ids()[0]
        if name not in _chips():
            raise _fail("DRIVER_OPERATION_FAILED", "Failed, ioctl returned with errno: 5")
        return _chips()[name]

    def check(self, program: Program) -> None:
        """Refuse a program of another architecture."""
        arch = self.arch()
        if program.arch not in TAKES[arch]:
            raise _fail(
                "HEF_NOT_COMPATIBLE_WITH_DEVICE",
                f"HEF format is not compatible with device. Device arch: {arch.upper()}",
            )
        if arch == "hailo8" and program.arch == 3:
            log("warning", "HEF was compiled for Hailo8L device, while the device itself is Hailo8. "
                "This will result in lower performance.")  # fmt: skip


# Running


@dataclass
class Edge:
    """One input or output as the caller wants it."""

    info: VStreamInfo
    format: HailoFormat
    score: float | None = None
    iou: float | None = None
    most: int | None = None

    @property
    def nms(self) -> NmsShape | None:
        """How many boxes there can be, as the caller wants it."""
        if self.info.nms is None or self.most is None:
            return self.info.nms
        return replace(self.info.nms, max_bboxes_per_class=self.most)

    @property
    def changed(self) -> bool:
        """Whether the suppression was changed."""
        return (self.score, self.iou, self.most) != (None, None, None)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The kind of its values."""
        kind = self.info.format.type if self.format.type == FormatType.AUTO else self.format.type
        return np.dtype(DTYPES[kind])

    @property
    def count(self) -> int:
        """How many values a frame has."""
        if self.nms is not None:
            return self.nms.number_of_classes * (1 + 5 * self.nms.max_bboxes_per_class)
        return int(np.prod(self.info.size))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a frame's buffer."""
        return (self.count,) if self.nms else _shape(self.format.order, self.info.size, None)

    def check(self, is_input: bool) -> None:
        """Refuse a format that cannot be had."""
        device, wanted = self.info.format, self.format
        if self.info.nms is not None:
            if wanted.order == FormatOrder.HAILO_NMS_BY_SCORE:
                raise _fail("NOT_IMPLEMENTED", "the stand-in gives boxes by class only")
            good = self.dtype == np.float32 and wanted.order == device.order
        else:
            kinds = (device.type, FormatType.FLOAT32, FormatType.AUTO)
            orders = [device.order, FormatOrder.AUTO]
            if device.order == FormatOrder.NHWC:
                orders.append(FormatOrder.NCHW)
            good = wanted.type in kinds and wanted.order in orders
        if not good:
            raise _fail(
                "INVALID_ARGUMENT",
                f"The given format {wanted.type} {wanted.order} is not supported for "
                f"{'input' if is_input else 'output'} {self.info.name}",
            )
        if self.changed and (is_input or self.info.nms is None):
            raise _fail("INVALID_OPERATION", f"NMS config was changed for {self.info.name}")


def edges(hef: Hef, name: str) -> tuple[dict[str, Edge], dict[str, Edge]]:
    """Return a program's inputs and outputs with their own formats."""
    found = []
    for infos in (hef.inputs(name), hef.outputs(name)):
        found.append({i.name: Edge(i, HailoFormat(i.format.type, i.format.order)) for i in infos})
    return found[0], found[1]


class Engine:
    """Computes frames as the chip and the host behind it do."""

    def __init__(
        self, program: Program, inputs: Mapping[str, Edge], outputs: Mapping[str, Edge]
    ) -> None:
        self._program, self._inputs, self._outputs = program, inputs, outputs
        self._computed: Computed | None = unpack(program.ccws)

    @property
    def _post(self) -> PostProcess | None:
        """The post-process as the caller wants it now."""
        post = self._program.post
        if post is None:
            return None
        edge = self._outputs[self._program.post_name]
        chosen = {"score": edge.score, "iou": edge.iou, "most": edge.most}
        return replace(post, **{k: v for k, v in chosen.items() if v is not None})  # type: ignore[arg-type]

    def __call__(self, frame: Mapping[str, Array]) -> dict[str, Array]:
        """Run one frame; raises a status."""
        if _lost():
            raise _fail("DRIVER_OPERATION_FAILED", "Failed, ioctl returned with errno: 5")
        if knob("SLOW"):
            time.sleep(int(knob("SLOW")) / 1000)
        if self._computed is None:
            raise _fail("INTERNAL_FAILURE", "a real compiler's instructions: no stand-in runs them")
        Chip.frames += 1
        stream = self._program.inputs[0]
        layers = self._computed(self._entered(frame[stream.name], stream))
        scope = f"{self._program.name}/"
        found = {s.name: layers[s.name.removeprefix(scope)] for s in self._program.layers}
        if (post := self._post) is not None:
            try:
                return {self._program.post_name: packed(by_class(post, found), post)}
            except WrongSize as error:
                raise _fail("INVALID_ARGUMENT", str(error)) from error
        return {s.name: self._left(found[s.name], s) for s in self._program.layers}

    def _entered(self, values: Array, stream: Stream) -> Array:
        """Return pixels as the chip reads them, from bytes or from floats."""
        edge = self._inputs[stream.name]
        values = values.reshape(edge.shape)
        if edge.format.order == FormatOrder.NCHW:
            values = values.transpose(1, 2, 0)
        if values.dtype == np.float32:
            codes = np.clip(np.rint(values / stream.scale + stream.zero), 0, (1 << stream.bits) - 1)
        else:
            codes = values.astype(np.float32)
        return np.asarray((codes - stream.zero) * np.float32(stream.scale), np.float32)

    def _left(self, values: Array, stream: Stream) -> Array:
        """Return a layer's values as the caller wants them."""
        edge = self._outputs[stream.name]
        if edge.dtype != np.float32:
            codes = np.rint(values / stream.scale + stream.zero)
            values = np.clip(codes, 0, (1 << stream.bits) - 1)
        if edge.format.order == FormatOrder.NCHW:
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values.reshape(edge.shape), edge.dtype)


class InferModel:
    """A program with the formats that the caller wants."""

    def __init__(self, device: VDevice, hef: Hef, name: str) -> None:
        if name and name not in [p.name for p in hef.programs]:
            raise _fail("NOT_FOUND", f"Model {name} not found")
        self.use = device.using()  # keeps the chips
        self._device, self.program = device, hef.program(name)
        self.hef, self.batch = hef, 0
        self._many = len(hef.programs) > 1 and not name
        self.inputs, self.outputs = edges(hef, name)

    def set_batch_size(self, size: int) -> None:
        """Set how many frames go at once."""
        if not 0 <= _typed(size, int, "batch_size") < 1 << 16:
            raise TypeError("batch_size: incompatible function arguments")
        self.batch = size

    def configure(self) -> "Configured":
        """Load it."""
        if self._many:
            raise _fail("INVALID_ARGUMENT", "HEF contains multiple network groups")
        self._device.check(self.program)
        for is_input, found in ((True, self.inputs), (False, self.outputs)):
            for edge in found.values():
                edge.check(is_input)
        return Configured(self, self.use, self._device.scheduled)


def named(found: Mapping[str, Any], name: str, kind: str) -> Any:
    """Return one of several by name; the only one for no name."""
    if name == "":
        if len(found) != 1:
            raise _fail("INVALID_OPERATION", f"Model has more than one {kind}!")
        return next(iter(found.values()))
    if name not in found:
        raise _fail("NOT_FOUND", f"{kind.capitalize()} {name} not found!")
    return found[name]


class Binding:
    """The buffer of one input or output for one frame."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.array: Array | None = None

    def set_buffer(self, array: Array) -> None:
        """Take a buffer. Only when it runs is its size looked at."""
        if not isinstance(array, np.ndarray):
            raise TypeError("set_buffer(): incompatible function arguments")
        if not array.flags.writeable:
            raise ValueError("array is not writeable")
        self.array = array

    def check(self, kind: str) -> Array:
        """Return the buffer, if it is one that the frame fits."""
        edge = self.edge
        if self.array is None:
            raise _fail("NOT_FOUND", f"Couldnt find {kind} buffer for '{edge.info.name}'")
        if self.array.nbytes != edge.count * edge.dtype.itemsize:
            raise _fail(
                "INVALID_OPERATION",
                f"{kind.capitalize()} buffer size {self.array.nbytes} is different than expected "
                f"{edge.count * edge.dtype.itemsize} for {kind} '{edge.info.name}'",
            )
        if self.array.dtype != edge.dtype:
            raise _fail(
                "INVALID_OPERATION", f"{edge.info.name} is {edge.dtype}, not {self.array.dtype}"
            )
        return self.array


class Bindings:
    """The buffers of one frame."""

    def __init__(self, inputs: Mapping[str, Edge], outputs: Mapping[str, Edge]) -> None:
        self.inputs = {n: Binding(e) for n, e in inputs.items()}
        self.outputs = {n: Binding(e) for n, e in outputs.items()}


class Job:
    """Frames on their way."""

    def __init__(self, frames: Sequence[Bindings], done: Callable[[int], None]) -> None:
        self.frames, self.done = frames, done
        self.finished = threading.Event()

    def wait(self, milliseconds: float) -> None:
        """Wait until it is done, well or badly: only the callback is told which."""
        if not self.finished.wait(milliseconds / 1000):
            raise _fail("TIMEOUT", "Waiting for async job to finish has failed with timeout")


class Pipeline:
    """The thread that runs frames, and how many wait for it."""

    def __init__(self, engine: Engine, size: int) -> None:
        self._engine, self.size = engine, size
        self.status = 0  # after a failure nothing runs any more
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._waiting = 0
        self._room = threading.Condition()
        self._thread: threading.Thread | None = None

    def ready(self, milliseconds: float, frames: int) -> None:
        """Wait until so many frames can be taken."""
        with self._room:
            if not self._room.wait_for(
                lambda: self.status or self._waiting + frames <= self.size, milliseconds / 1000
            ):
                raise _fail("TIMEOUT", f"Got timeout in `wait_for_async_ready` ({milliseconds}ms)")
        self.check()

    def check(self) -> None:
        """Raise what stopped it."""
        if self.status:
            raise HailoRTStatusException(str(self.status))

    def put(self, job: Job) -> None:
        """Take frames."""
        with self._room:
            if self._waiting + len(job.frames) > self.size:
                raise _fail("QUEUE_IS_FULL", "the pipeline takes no more frames")
            self._waiting += len(job.frames)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                for frame in job.frames:
                    self.check()
                    self._run(frame)
            except HailoRTStatusException as error:
                self.status = self.status or int(error.args[0])
            with self._room:
                self._waiting -= len(job.frames)
                self._room.notify_all()
            job.done(self.status)
            job.finished.set()

    def _run(self, frame: Bindings) -> None:
        found = self._engine({n: b.check("input") for n, b in frame.inputs.items()})
        for name, values in found.items():
            frame.outputs[name].check("output").reshape(-1)[:] = values.reshape(-1)

    def stop(self) -> None:
        """Abort what waits, and end the thread."""
        self.status = self.status or STATUS["STREAM_ABORT"]
        self._jobs.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


class Configured:
    """A loaded program, ready to run."""

    def __init__(self, model: InferModel, use: Use, scheduled: bool) -> None:
        self._use, self._scheduled = use, scheduled
        self._edges = model.inputs, model.outputs
        engine = Engine(model.program, model.inputs, model.outputs)
        self._pipeline = Pipeline(engine, 2 * max(1, model.batch))
        self._active, self.closed = scheduled, False
        _open.add(self)

    @property
    def queue_size(self) -> int:
        """How many frames may wait."""
        return self._pipeline.size

    def create_bindings(self) -> Bindings:
        """Return empty buffers for a frame."""
        self._usable()
        return Bindings(*self._edges)

    def activate(self, wanted: bool = True) -> None:
        """Make it the one that runs, or not; with a scheduler nobody may."""
        self._usable()
        if self._scheduled:
            raise _fail("INVALID_OPERATION", "Manually activating is not allowed with a scheduler")
        self._active = wanted

    def check_scheduled(self) -> None:
        """Refuse settings of a scheduler that there is not."""
        self._usable()
        if not self._scheduled:
            raise _fail("INVALID_OPERATION", "Cannot set scheduler parameters without a scheduler")

    def wait_for_async_ready(self, milliseconds: float, frames: int) -> None:
        """Wait until so many frames can be taken."""
        self._usable()
        self._pipeline.ready(milliseconds, frames)

    def run_async(self, frames: Sequence[Bindings], done: Callable[[int], None]) -> Job:
        """Begin to run frames."""
        self._usable()
        self._pipeline.check()
        if not self._active:
            raise _fail("NETWORK_GROUP_NOT_ACTIVATED", "Trying to run before activation")
        for frame in frames:
            for kind, found in (("input", frame.inputs), ("output", frame.outputs)):
                for binding in found.values():
                    binding.check(kind)
        job = Job(frames, done)
        self._pipeline.put(job)
        return job

    def _usable(self) -> None:
        if self.closed:
            raise _fail("INVALID_OPERATION", "the model was shut down")

    def shutdown(self) -> None:
        """Stop: what waits is aborted, and nothing can be run any more."""
        if not self.closed:
            self.closed = True
            self._pipeline.stop()

    def __del__(self) -> None:
        self.shutdown()


# The older way: streams of a configured network group


class ActivateNetworkGroupParams:
    """There is nothing to set."""

    @staticmethod
    def default() -> "ActivateNetworkGroupParams":
        """Return the defaults."""
        return ActivateNetworkGroupParams()


@dataclass
class ConfigureParams:
    """How a network group is to be loaded."""

    interface: Any
    batch_size: int = 0
    power_mode: Any = field(default_factory=lambda: PowerMode.PERFORMANCE)
    stream_params_by_name: dict[str, Any] = field(default_factory=dict)
    network_params_by_name: dict[str, Any] = field(default_factory=dict)


@dataclass
class VStreamParams:
    """How a stream's bytes are to lie."""

    user_buffer_format: HailoFormat
    timeout_ms: int
    queue_size: int


class NetworkGroup:
    """A loaded program, for the older way."""

    active: "NetworkGroup | None" = None

    def __init__(self, device: VDevice, hef: Hef, program: Program) -> None:
        if device.arch() == "hailo10h":
            raise _fail("NOT_IMPLEMENTED")
        device.check(program)
        self.use, self.hef, self.program = device.using(), hef, program
        self.scheduled, self.running = device.scheduled, False


class Activation:
    """A network group while it is the one that runs."""

    def __init__(self, group: NetworkGroup) -> None:
        self._group, self.closed = group, True

    def __enter__(self) -> "Activation":
        if NetworkGroup.active is not None:
            raise _fail("INVALID_OPERATION", "There is an activated network group already")
        NetworkGroup.active, self.closed = self._group, False
        _open.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        NetworkGroup.active, self.closed = None, True


class InferVStreams:
    """Pipelines for the older way."""

    def __init__(
        self, group: NetworkGroup, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> None:
        self._group = group
        own = edges(group.hef, group.program.name)
        for given, found in zip((inputs, outputs), own, strict=True):
            if set(given) != set(found):
                raise _fail("NOT_FOUND", f"params for {sorted(given)}, streams {sorted(found)}")
        self.inputs = {n: _wanted(e, inputs[n]) for n, e in own[0].items()}
        self.outputs = {n: _wanted(e, outputs[n]) for n, e in own[1].items()}
        for edge in self.inputs.values():
            edge.check(is_input=True)
        for edge in self.outputs.values():
            edge.check(is_input=False)
        self._engine = Engine(group.program, self.inputs, self.outputs)
        self.closed = False
        _open.add(self)

    def post(self) -> Edge:
        """Return the output whose suppression can be changed."""
        found = [e for e in self.outputs.values() if e.info.nms is not None]
        if not found:
            raise _fail("INVALID_OPERATION", "there is no output with NMS operations on the CPU")
        return found[0]

    def infer(self, inputs: Mapping[str, Array], count: int) -> dict[str, Array]:
        """Run frames, one after another."""
        if self.closed:
            raise _fail("INVALID_OPERATION", "the pipeline was released")
        if not self._group.scheduled and NetworkGroup.active is not self._group:
            raise _fail("NETWORK_GROUP_NOT_ACTIVATED", "Trying to write before activation")
        frames = []
        for index in range(count):
            for name, edge in self.inputs.items():
                if inputs[name][index].nbytes != edge.count * edge.dtype.itemsize:
                    raise _fail("INVALID_ARGUMENT", f"{name} has the wrong size")
            frames.append(self._engine({n: np.asarray(inputs[n][index]) for n in self.inputs}))
        return {n: np.stack([f[n] for f in frames]) for n in self.outputs}

    def release(self) -> None:
        """Close them."""
        self.closed = True


def _wanted(edge: Edge, params: VStreamParams) -> Edge:
    kind = params.user_buffer_format.type
    kind = edge.info.format.type if kind == FormatType.AUTO else kind
    return replace(edge, format=HailoFormat(kind, edge.info.format.order))
