"""Hailo's chips as targets.

What is planned here rests on Hailo's public zoo and logs; the arithmetic is the documented outline
(8-bit codes with a zero point, one scale per tensor, activations fused into the layer before them),
not measured as Rockchip's was: the compiler decides its own scales. Neither the compiler nor a chip
was run; see docs/targets/hailo.md.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from onchip.artifact import Artifact
from onchip.errors import InputError, ToolError, UnsupportedError
from onchip.formats import hef as hef_file
from onchip.formats.hailo_versions import table
from onchip.formats.hef import HefFile
from onchip.spec import HeadSpec, InputSpec, QuantSpec
from onchip.targets.hailo import guard, nms
from onchip.targets.hailo.options import HailoOptions
from onchip.targets.target import (
    MOVES,
    Compiled,
    Foresight,
    Job,
    Part,
    Prepared,
    Runtime,
    Session,
    Step,
    Target,
    Task,
    VendorError,
    text_of,
)
from onchip.toolchains import install

if TYPE_CHECKING:
    from onchip.graph.read import Model
    from onchip.quantize.plan import QuantPlan

TOOL = "hailo"
QUANTIZED_STEP = "quantized"

_ACTIVATIONS = frozenset({"relu", "leakyrelu", "relu6", "hardswish", "silu"})


class Hailo(Target):
    """What all of Hailo's chips share; a chip adds its name and its line of compilers."""

    quant = QuantSpec(
        raised=("int16",),
        ops=frozenset({"Conv", "ConvTranspose", "Add", "Mul", "Sigmoid", "AveragePool"})
        | {"LeakyRelu", "Relu", "Clip", "HardSwish", "GlobalAveragePool"}
        | MOVES,
        shared=MOVES,
        fused=_ACTIVATIONS,
        fused_depthwise=_ACTIVATIONS,
        folded=frozenset({"Sigmoid"}),
    )
    options = HailoOptions
    verified = "planned against Hailo's zoo; its compiler and a chip by stand-ins only, never run"
    takes_plan = False
    uses_photos = True
    reproducible = False
    line: ClassVar[str] = "3"  # of the compiler

    def environment(self, version: str = "") -> install.Environment:
        """The compiler's environment for this chip: the one named, or the newest of its line.

        Raises:
            ToolError: there is none.
        """
        return install.ready(TOOL, version or self.line)

    def version(self) -> str:
        """The compiler's version; empty where it is not installed."""
        try:
            return self.environment().version
        except ToolError:
            return ""

    def parts(self) -> tuple[Part, ...]:
        """The compiler, and on a board the runtime."""
        board = "found" if find_spec("hailo_platform") else ""
        get = f"onchip toolchain install {TOOL} --wheel FILE"
        return (
            Part(f"Hailo Dataflow Compiler {self.line}.x", self.version(), get),
            Part("HailoRT (on the board)", board, "sudo apt install hailo-all, on a Raspberry Pi"),
        )

    def runtime(self) -> Runtime:
        """HailoRT's Python package, which comes with its driver and library."""
        get = "sudo apt install hailo-all (Raspberry Pi), or HailoRT's wheel for that Python"
        return Runtime(modules={"hailo_platform": get})

    def portable(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """Put the user's own script, if one is named, in the place of its name."""
        text = text_of(given.get("script", ""), "-O script= names a model script (.alls)")
        return {**given, "script": text} if text else given

    def settings(self, given: Mapping[str, str]) -> Struct:
        """Read the options, and the user's own script, if one is named."""
        options = super().settings(self.portable(given))
        assert isinstance(options, HailoOptions)
        options.check(self.line)
        return options

    def foresee(self, task: Task, plan: "QuantPlan | None" = None) -> Foresight:
        """Say what the compiler will be told, what it will do with it, and what will go wrong."""
        from onchip.targets.hailo.foresee import foresee

        return foresee(self.name, task, self._options(task), plan)

    def compile(self, job: Job) -> Compiled | Prepared:
        """Quantize and compile; without the compiler, prepare all that it will want.

        Raises:
            InputError: the options contradict each other, or there are no photos.
            ToolError: the compiler failed, or did less than it was asked to.
            UnsupportedError: the compiler cannot translate the network.
        """
        from onchip.targets.hailo.build import Site, build
        from onchip.targets.hailo.foresee import prepared
        from onchip.toolchains.machine import gpus

        options = self._options(job)
        if job.head.coding in ("query", "xywh"):
            raise UnsupportedError(
                f"the end of a {job.head.family} network is no map of cells, and how Hailo lays "
                "such tensors out is not known here",
                "onchip plan names the operations that Hailo has not; detectors with a grid (YOLO, "
                "NanoDet, SSD) are built",
            )
        try:
            environment = self.environment(options.sdk)
        except ToolError as error:
            return prepared(self.name, job, options, error)
        free = next((str(g.number) for g in gpus() if g.free), "")
        return build(Site(self.name, environment, free), job, options)

    def check_frigate(self, model: "Model", head: HeadSpec, spec: InputSpec) -> None:
        """Refuse a head that HailoRT and the chip leave undecoded: Frigate reads only boxes."""
        if not (known := nms.support(head, self.name)).engines:
            raise UnsupportedError(
                f"Frigate reads only boxes that HailoRT has suppressed: {known.reason}",
                "leave --layout out, and serve it to Frigate's zmq detector: onchip frigate serve",
            )

    def _options(self, task: Task) -> HailoOptions:
        """What the user decided; for Frigate the boxes are made wherever they can be.

        Raises:
            InputError: the user wants them for Frigate, and not made.
        """
        options = task.options
        assert isinstance(options, HailoOptions)
        if task.layout != "frigate" or options.nms not in ("auto", "none"):
            return options
        if options.nms == "none":
            raise InputError(
                "Frigate reads only boxes that HailoRT has suppressed, and -O nms=none makes none",
                "leave -O nms out, or leave --layout frigate out",
            )
        return replace(options, nms=nms.support(task.head, self.name).engines[0])

    def open(self, artifact: Artifact, threads: int = 0) -> Session:
        """Run on this board's chip, or elsewhere in the compiler's emulator.

        Raises:
            InputError: the program is damaged or for another chip.
            ToolError: neither HailoRT nor the compiler is installed.
            DeviceError: the chip does not answer.
        """
        made = self._program(artifact)
        if find_spec("hailo_platform"):
            return self._chip(artifact, made)
        steps = self.steps(artifact)
        if QUANTIZED_STEP in steps:
            return steps[QUANTIZED_STEP].open()
        raise ToolError(
            "neither HailoRT nor Hailo's compiler is installed here: a .hef cannot be run",
            "run it on the board, or install the compiler for its emulator: "
            f"onchip toolchain install {TOOL} --wheel FILE",
        )

    def _program(self, artifact: Artifact) -> HefFile:
        made = hef_file.parse(artifact.payload("program"), "program.hef")
        if not made.complete or not made.groups or made.header.good is False:
            raise InputError("the program in the artifact is damaged", "build it again")
        arch = table().arch_of(made.arch)
        if arch is not None and self.name not in arch.devices:
            raise InputError(f"the program was built for {arch.name}, which {self.name} runs not")
        return made

    def _chip(self, artifact: Artifact, made: HefFile) -> Session:
        from onchip.targets.hailo.runtime import HailoChip

        manifest, program = artifact.manifest, artifact.payload("program")
        head = manifest.program_head or manifest.head
        if head.coding == "found":
            name = made.groups[0].outputs[0].name
            return HailoChip(program, {name: (head.tensors[0].name, head.classes)})
        outputs = {}
        for tensor in head.tensors:
            own = [t.name for t in made.groups[0].outputs if tensor.node in t.original]
            if not own:
                raise InputError(
                    f"the program in the artifact does not end at {tensor.node}", "build it again"
                )
            outputs[own[0]] = (tensor.name, 0)
        return HailoChip(program, outputs)

    def steps(self, artifact: Artifact) -> Mapping[str, Step]:
        """The compiler's emulators, where it is installed, and the chip, where there is one."""
        manifest = artifact.manifest
        if manifest.program_input is None:
            return {}
        taken, head = manifest.program_input, manifest.program_head or manifest.head
        steps = {}
        if "har_quantized" in artifact.payloads and self.version():
            steps = self._emulated(artifact, taken, head)
        if find_spec("hailo_platform"):
            steps["device"] = Step(lambda: self.open(artifact), taken, head)
        return steps or {"compiled": Step(lambda: self.open(artifact), taken, head)}

    def _emulated(self, artifact: Artifact, taken: InputSpec, head: HeadSpec) -> dict[str, Step]:
        from onchip.targets.hailo.build import PACKAGE, Site
        from onchip.targets.hailo.emulate import FLOAT, NATIVE, QUANTIZED, Emulator, Shared, load

        manifest = artifact.manifest
        options = super().settings(manifest.options)
        assert isinstance(options, HailoOptions)
        har = artifact.payload("har_quantized")
        boxes = artifact.payloads.get("nms", b"").decode()
        site = Site(self.name, self._same(manifest.tools.get(PACKAGE, "") or options.sdk))
        shared = Shared(lambda: load(site.worker(options), self.name, har, boxes))
        floats = replace(manifest.input, layout="nhwc")
        return {
            "native": Step(lambda: Emulator(shared, NATIVE, manifest.head), floats, manifest.head),
            "optimized": Step(lambda: Emulator(shared, FLOAT, head), taken, head),
            QUANTIZED_STEP: Step(lambda: Emulator(shared, QUANTIZED, head), taken, head),
        }

    def _same(self, version: str) -> install.Environment:
        """The compiler that built it, or else the newest that is here."""
        try:
            return self.environment(version)
        except ToolError:
            return self.environment()

    def analysis(
        self, artifact: Artifact, tensor: npt.NDArray[np.generic]
    ) -> Mapping[str, VendorError]:
        """Hailo's compiler hands out no figures by layer, only by output.

        Raises:
            UnsupportedError: always, with those that its log has.
        """
        log = artifact.payloads.get("log", b"").decode(errors="replace")
        outputs = ", ".join(f"{n} {v:.3g} dB" for n, v in guard.read(log).snr.items())
        more = f"; of the outputs its log says: {outputs}" if outputs else ""
        raise UnsupportedError(f"Hailo's compiler gives no figures by layer{more}")


class Hailo8(Hailo):
    """Hailo-8."""

    name = "hailo8"
    title = "Hailo-8 (26 TOPS)"
    frigate = ("hailo8l",)


class Hailo8l(Hailo):
    """Hailo-8L, half a Hailo-8."""

    name = "hailo8l"
    title = "Hailo-8L (13 TOPS)"
    frigate = ("hailo8l",)


class Hailo10h(Hailo):
    """Hailo-10H, of the newer line."""

    name = "hailo10h"
    title = "Hailo-10H (40 TOPS in 4 bits)"
    line = "5"


class Hailo15h(Hailo):
    """Hailo-15H, inside a camera's processor."""

    name = "hailo15h"
    title = "Hailo-15H (20 TOPS)"
    line = "5"


class Hailo15m(Hailo):
    """Hailo-15M."""

    name = "hailo15m"
    title = "Hailo-15M (11 TOPS)"
    line = "5"


class Hailo15l(Hailo):
    """Hailo-15L."""

    name = "hailo15l"
    title = "Hailo-15L (7 TOPS)"
    line = "5"
