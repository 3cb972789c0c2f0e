"""Rockchip NPUs: our plan or the vendor's quantization, through rknn-toolkit2 in its own Python.

The arithmetic was measured in the toolkit's simulator, see docs/decisions/0008-rknn-arithmetic.md:
given the scales as `written` writes them, each layer computes the very codes that our emulation
does.
"""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from onchip.artifact import Artifact
from onchip.errors import InputError, ToolError, UnsupportedError
from onchip.formats import rknn as rknn_file
from onchip.spec import QuantSpec
from onchip.targets.rknn import analysis
from onchip.targets.rknn.build import (
    TOOL,
    Simulator,
    build,
    build_one,
    checked,
    end,
    simulator,
    way_of,
    ways,
)
from onchip.targets.rknn.options import RknnOptions, operations
from onchip.targets.target import (
    MOVES,
    Compiled,
    Job,
    Part,
    Runtime,
    Session,
    Target,
    Task,
    VendorError,
)
from onchip.toolchains import install
from onchip.toolchains.worker import Worker

if TYPE_CHECKING:
    pass

_ACTIVATIONS = frozenset({"relu", "leakyrelu", "relu6", "hardswish"})

_LAST = {"0": 0, "1": 1, "2": 2, "0_1": 1, "0_1_2": 2}  # the last core that each needs


class _Settled(RknnOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options, and what the file of custom operations holds: a build is made of that too."""

    ops_digest: str = ""


class Rknn(Target):
    """What all Rockchip NPUs share; a chip adds its name."""

    quant = QuantSpec(
        weight_top=126,  # the SDK turns codes of 128 into 127: these survive
        barred_zero=128,  # as a signed code it is 0, which the SDK takes for "symmetric"
        raised=("float16",),
        ops=frozenset({"Conv", "ConvTranspose", "Add", "Mul", "Sigmoid", "AveragePool"})
        | {"LeakyRelu", "Relu", "Clip", "HardSwish", "GlobalAveragePool", "ReduceSum"}
        | MOVES,
        shared=MOVES,
        fused=_ACTIVATIONS | {"silu"},
        fused_depthwise=_ACTIVATIONS,
        folded=frozenset({"Sigmoid"}),
    )
    options = RknnOptions
    verified = "compiled and simulated with rknn-toolkit2 2.5.0; not run on a board"
    cores: ClassVar[int] = 1
    uses_photos = True
    frigate: ClassVar[tuple[str, ...]] = ("rknn",)
    reproducible = False  # two builds differ in bytes that the SDK never wrote

    def version(self) -> str:
        """The toolkit's version; empty where it is not installed."""
        try:
            return install.ready(TOOL).version
        except ToolError:
            return ""

    def parts(self) -> tuple[Part, ...]:
        """The toolkit, and on a board its runtime."""
        board = "found" if find_spec("rknnlite") else ""
        return (
            Part("rknn-toolkit2", self.version(), f"onchip toolchain install {TOOL}"),
            Part("RKNNLite (on the board)", board, "pip install rknn-toolkit-lite2, on the board"),
        )

    def runtime(self) -> Runtime:
        """RKNNLite, and the library under it."""
        library = "copy librknnrt.so of rknn-toolkit2's release there: to /usr/lib"
        return Runtime(
            requirements=("rknn-toolkit-lite2",),
            files={"usr/lib/librknnrt.so": library},
            machines=("aarch64",),
            chips=(f"rockchip,{self.name}",),
        )

    def settings(self, given: Mapping[str, str]) -> Struct:
        """Read the options and look at the file of custom operations, if one is named."""
        options = super().settings(given)
        assert isinstance(options, RknnOptions)
        if _LAST.get(options.core, 0) >= self.cores:
            raise InputError(
                f"-O core={options.core} names a core that {self.name} does not have",
                f"its cores are 0 to {self.cores - 1}; left out, all are used",
            )
        path = operations(options)
        digest = hashlib.blake2b(Path(path).read_bytes()).hexdigest() if path else ""
        return _Settled(**msgspec.structs.asdict(options), ops_digest=digest)

    @contextmanager
    def ahead(self, task: Task) -> Iterator[object]:
        """Begin the SDK's own quantization, if it will be wanted: it takes longest."""
        options = task.options
        assert isinstance(options, RknnOptions)
        if "vendor" not in ways(task, options) or not self.version():
            yield None
            return
        environment, started = install.ready(TOOL, options.sdk), list[Worker]()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(
                build_one, self.name, environment, task, options, "vendor", started
            )
            try:
                yield future
            finally:
                end([future], started)

    def compile(self, job: Job) -> Compiled:
        """Build our plan and the vendor's quantization, and keep the better one.

        Raises:
            ToolError: the SDK is not installed, or failed.
            InputError: the options contradict each other, or photos are needed and not given.
        """
        options = checked(job)
        return build(self.name, install.ready(TOOL, options.sdk), job, options)

    def open(self, artifact: Artifact, threads: int = 0) -> Session:
        """Run on this board's NPU, or elsewhere in the SDK's simulator.

        The simulator cannot load a .rknn file: it builds the same model again, in some seconds.

        Raises:
            InputError: the program is damaged or for another chip.
            ToolError: neither the board's runtime nor the SDK is installed.
        """
        program = artifact.payload("program")
        made = rknn_file.parse(program, artifact.manifest.payloads["program"].file)
        if not made.complete:
            raise InputError("the program in the artifact was cut short", "build it again")
        if self.name not in made.platforms:
            raise InputError(
                f"the program was built for {', '.join(made.platforms)}, not for {self.name}"
            )
        options = super().settings(artifact.manifest.options)  # a board needs no operations' file
        assert isinstance(options, RknnOptions)
        if find_spec("rknnlite"):
            from onchip.targets.rknn.board import Board

            return Board(program, tuple(o.name for o in made.outputs), options.core, self.cores)
        return simulator(self.name, artifact, options)

    def analysis(
        self, artifact: Artifact, tensor: npt.NDArray[np.generic]
    ) -> Mapping[str, VendorError]:
        """The SDK's own accuracy analysis, which it makes only of what it quantized itself.

        Raises:
            UnsupportedError: the program follows onchip's plan.
        """
        if way_of(artifact) != "vendor":
            raise UnsupportedError(
                "no analysis of the SDK's own: it makes one only of what it quantized itself"
            )
        with self.open(artifact) as session:
            if not isinstance(session, Simulator):
                raise UnsupportedError("no analysis of the SDK's own: a board does not make one")
            pixels = np.asarray(tensor, np.float32)
            shape = (1, 3, 1, 1)
            mean, std = (
                np.reshape(v, shape)
                for v in (artifact.manifest.input.mean, artifact.manifest.input.std)
            )
            bytes_ = np.clip(np.rint(pixels * std + mean), 0, 255).astype(np.uint8)
            return analysis.read(session.vendor_analysis(bytes_))


class Rk3562(Rknn):
    """RK3562: one core."""

    name = "rk3562"
    title = "Rockchip RK3562 (1 TOPS)"


class Rk3566(Rknn):
    """RK3566: one core."""

    name = "rk3566"
    title = "Rockchip RK3566 (0.8 TOPS)"


class Rk3568(Rknn):
    """RK3568: one core."""

    name = "rk3568"
    title = "Rockchip RK3568 (0.8 TOPS)"


class Rk3576(Rknn):
    """RK3576: two cores."""

    name = "rk3576"
    title = "Rockchip RK3576 (6 TOPS, two cores)"
    cores = 2


class Rk3588(Rknn):
    """RK3588 and RK3588S: three cores."""

    name = "rk3588"
    title = "Rockchip RK3588 (6 TOPS, three cores)"
    cores = 3


class Rv1103(Rknn):
    """RV1103: integers only."""

    name = "rv1103"
    title = "Rockchip RV1103 (0.5 TOPS, integers only)"
    frigate = ()
    quant = replace(Rknn.quant, raised=())


class Rv1106(Rknn):
    """RV1106: integers only."""

    name = "rv1106"
    title = "Rockchip RV1106 (0.5 to 1 TOPS, integers only)"
    frigate = ()
    quant = replace(Rknn.quant, raised=())


class Rv1126b(Rknn):
    """RV1126B: one core."""

    name = "rv1126b"
    title = "Rockchip RV1126B (3 TOPS)"
    frigate = ()
