"""Intel's processors, graphics and NPUs through OpenVINO."""

from collections.abc import Callable, Mapping
from functools import partial
from queue import SimpleQueue
from threading import Lock
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from onchip.artifact import Artifact
from onchip.errors import DeviceError, ToolError
from onchip.spec import QuantSpec
from onchip.targets.target import MOVES, Compiled, Job, Part, Runtime, Session, Target, installed
from onchip.vision.codes import CODES, Tensors, codes_of, named

INSTALL = "pip install 'onchip[openvino]'"

# The first array that OpenVINO makes in a process: it hangs where two threads ask for theirs at
# once, since each waits for what the other holds, Python's lock and that of looking up NumPy's.
FIRST = Lock()


class OpenvinoOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of the machine's devices runs it."""

    device: Literal["CPU", "GPU", "NPU", "AUTO"] = "CPU"


class Openvino(Target):
    """OpenVINO's runtime; it compiles when it loads, so the file is the QDQ graph."""

    name = "openvino"
    title = "Intel CPU, GPU, NPU (OpenVINO)"
    verified = "run on an x86-64 CPU; not on an Intel GPU or NPU"
    frigate = ("openvino", "onnx")
    options: ClassVar[type[Struct]] = OpenvinoOptions
    quant = QuantSpec(
        raised=("float32",),
        pair_limit=32767,  # processors without VNNI add pairs of products in 16 bits
        ops=MOVES
        | {"Conv", "Add", "Mul", "Sigmoid", "LeakyRelu", "Relu"}
        | {"AveragePool", "GlobalAveragePool"},
        shared=MOVES,
    )

    def version(self) -> str:
        """OpenVINO's version; "" where it is not installed."""
        return installed("openvino")

    def parts(self) -> tuple[Part, ...]:
        """The runtime."""
        return (Part("openvino", self.version(), INSTALL),)

    def trial(self, model: bytes) -> "Mapping[str, Callable[[], OpenvinoSession]]":
        """On each device that OpenVINO finds."""
        if not self.version():
            return {}
        import openvino

        devices = openvino.Core().available_devices
        return {f"OpenVINO {name}": partial(OpenvinoSession, model, name) for name in devices}

    def runtime(self) -> Runtime:
        """OpenVINO."""
        return Runtime(requirements=("openvino",))

    def compile(self, job: Job) -> Compiled:
        """Take the QDQ graph as it is: a file for every machine, with OpenVINO or not yet."""
        from onchip.targets.qdq import compiled

        return compiled(job, {"openvino": self.version()})

    def open(self, artifact: Artifact, threads: int = 0) -> "OpenvinoSession":
        """Compile the graph for the device that the artifact was built for."""
        options = self.settings(artifact.manifest.options)
        assert isinstance(options, OpenvinoOptions)
        return OpenvinoSession(artifact.payload("program"), options.device, threads)


class OpenvinoSession(Session):
    """One graph on one device. `threads` 1 means that many calls share it, as Cpu's does.

    Raises:
        ToolError: OpenVINO is not installed, or does not take the file.
        DeviceError: there is no such device.
    """

    parallel = True

    def __init__(self, payload: bytes, device: str = "CPU", threads: int = 0) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ToolError(f"OpenVINO cannot be loaded: {error}", INSTALL) from error
        core = openvino.Core()
        there = core.available_devices
        if device != "AUTO" and not {device} & {*there, *(n.partition(".")[0] for n in there)}:
            raise DeviceError(f"there is no {device} here", f"OpenVINO finds {', '.join(there)}")
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT" if threads == 1 else "LATENCY"}
        if threads > 1 and device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(model=payload)
            self._compiled = core.compile_model(model, device, settings)
            at_once = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        except RuntimeError as error:
            raise ToolError(f"OpenVINO cannot load the file: {_first(error)}") from error
        place = ["framework", CODES]  # where OpenVINO keeps a file's metadata
        told = {CODES: model.get_rt_info(place).astype(str)} if model.has_rt_info(place) else {}
        self._codes = codes_of(told)
        self._names = [output.get_any_name() for output in self._compiled.outputs]
        self.depth = max(2, at_once)
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.depth):
            request = self._compiled.create_infer_request()
            with FIRST:
                _ = request.get_input_tensor().data
            self._free.put(request)

    def __call__(self, tensor: npt.NDArray[np.generic]) -> Tensors:
        """Run one input, on a request that is free."""
        request = self._free.get()
        try:
            request.infer([tensor])
            # the request's memory is used again by the next call
            found = [request.get_tensor(name).data.copy() for name in self._names]
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO failed: {_first(error)}") from error
        finally:
            self._free.put(request)
        return named(self._names, found, self._codes)


def _first(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
