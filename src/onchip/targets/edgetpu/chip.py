"""Google's Coral Edge TPU as a target: our plan as a .tflite file, for Coral's own compiler.

Neither the compiler nor a chip was here. Where the compiler is not installed, the file that it
wants is prepared; any machine with LiteRT can run that one.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from msgspec import Struct
from msgspec.structs import replace

from onchip.artifact import Artifact
from onchip.errors import UnsupportedError
from onchip.formats import tflite as tflite_file
from onchip.formats.tflite import EDGE_TPU
from onchip.formats.tflite_npus import placed
from onchip.spec import HeadSpec, InputSpec, Verdict
from onchip.targets.edgetpu import compiler, runtime
from onchip.targets.edgetpu.compiler import Made
from onchip.targets.target import (
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
    installed,
    unfinished,
)
from onchip.targets.tflite import litert
from onchip.targets.tflite.placing import foreseen

if TYPE_CHECKING:
    from onchip.graph.read import Model
    from onchip.quantize.plan import QuantPlan

GIVEN = "litert"  # the payload that the compiler is given
FILE = "litert.tflite"
GET = "from Coral's Debian packages, on x86-64 Linux: coral.ai/docs/edgetpu/compiler"


class EdgetpuOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How it is compiled, and which chip runs it.

    `min_runtime` is the oldest runtime that must load the file; 0 leaves it to the compiler. It
    gives up after `timeout` seconds. With `fallback` operators that the chip has not may run on the
    processor. `device` is the chip: any, or the first on USB or PCI, or the nth.
    """

    min_runtime: Literal[0, 10, 11, 12, 13, 14] = 0
    timeout: int = 180
    fallback: bool = False
    device: Literal["", "usb", "usb:0", "usb:1", "pci", "pci:0", "pci:1"] = ""


class Edgetpu(Target):
    """Integers only; Coral's compiler makes the file, libedgetpu runs it within LiteRT."""

    name = "edgetpu"
    title = "Google Coral Edge TPU"
    verified = (
        "its compiler and a chip by stand-ins only; what the compiler is given: run in LiteRT"
    )
    options: ClassVar[type[Struct]] = EdgetpuOptions
    quant = replace(litert.QUANT, raised=())
    frigate = ("edgetpu",)

    def version(self) -> str:
        """The compiler's version; "" where it is not installed."""
        return compiler.version(compiler.found())

    def parts(self) -> tuple[Part, ...]:
        """The compiler, LiteRT, and the chip's library."""
        own = installed(litert.PACKAGE)
        there = "found" if runtime.library() else ""
        return (
            Part(compiler.TOOL, self.version(), GET),
            Part(litert.PACKAGE, own, litert.INSTALL),
            Part("libedgetpu (with the chip)", there, runtime.INSTALL),
        )

    def runtime(self) -> Runtime:
        """LiteRT, and libedgetpu."""
        return Runtime(
            requirements=(litert.PACKAGE,), files={"usr/lib/*/libedgetpu.so.1": runtime.INSTALL}
        )

    def check_frigate(self, model: "Model", head: HeadSpec, spec: InputSpec) -> None:
        """Refuse a head that Frigate's edgetpu detector does not read."""
        from onchip.targets.edgetpu import frigate

        frigate.check(head)

    def foresee(self, task: Task, plan: "QuantPlan | None" = None) -> Foresight:
        """Say what a build would do; with photos, also what the chip has not, as documented."""
        begun = super().foresee(task, plan)
        if plan is None:
            return begun
        given = self._given(Job(**vars(task), plan=plan, qdq=b""))
        return foreseen(begun, given.payload, "edgetpu")

    def compile(self, job: Job) -> Compiled | Prepared:
        """Write the plan as a .tflite file and compile it; without the compiler, stop there.

        Raises:
            ToolError: LiteRT is not installed, or the compiler failed.
            UnsupportedError: the chip has not all of the network, and the processor may not help.
        """
        options = job.options
        assert isinstance(options, EdgetpuOptions)
        given = self._given(job)
        extras = {GIVEN: (FILE, given.payload)}
        if not compiler.found():
            missing = unfinished(f"{compiler.TOOL} is not installed")
            return Prepared(missing=missing, verdicts=_foreseen(given.payload), extras=extras)
        made = compiler.compile_(given.payload, runtime=options.min_runtime, limit=options.timeout)
        _checked(made, options)
        return Compiled(
            payload=made.program,
            suffix="tflite",
            input=given.input,
            tools={**given.tools, compiler.TOOL: made.report.version or self.version()},
            verdicts=compiler.verdicts(made.report),
            notes=_notes(made),
            extras={**extras, "log": ("compile.log", made.log.encode())},
        )

    def _given(self, job: Job) -> Compiled:
        """The file for the compiler; Frigate's has an end of its own."""
        tools = {litert.PACKAGE: installed(litert.PACKAGE)}
        if job.layout != "frigate":
            return litert.compiled(job, tools)
        from onchip.targets.edgetpu import frigate

        return litert.compiled(job, tools, partial(frigate.ends, head=job.head))

    def open(self, artifact: Artifact, threads: int = 0) -> Session:
        """Run on the chip.

        Raises:
            InputError: the program is damaged, or not compiled for the Edge TPU.
            ToolError: LiteRT or libedgetpu is not installed.
            DeviceError: no chip answers.
        """
        litert.check_compiled(artifact.payload("program"), EDGE_TPU)
        options = self.settings(artifact.manifest.options)
        assert isinstance(options, EdgetpuOptions)
        delegates = [runtime.delegate(options.device)]
        return _read(artifact, litert.LitertSession(artifact.payload("program"), 0, delegates))

    def steps(self, artifact: Artifact) -> Mapping[str, Step]:
        """What the compiler was given, in LiteRT, and the chip, where there is one."""
        manifest, found = artifact.manifest, dict[str, Step]()
        spec = manifest.program_input or litert.taken(manifest.input)
        if GIVEN in artifact.payloads:
            found["litert"] = Step(lambda: _litert(artifact), spec, manifest.head)
        if "program" in artifact.payloads and runtime.library():
            found["device"] = Step(lambda: self.open(artifact), spec, manifest.head)
        return found


def _litert(artifact: Artifact) -> Session:
    return _read(artifact, litert.LitertSession(artifact.payload(GIVEN), 1))


def _read(artifact: Artifact, session: Session) -> Session:
    """Hand out the head's own tensors, also of a file that ends as Frigate wants it."""
    if artifact.manifest.layout != "frigate":
        return session
    from onchip.targets.edgetpu import frigate

    return frigate.Apart(session, artifact.manifest.head, artifact.manifest.input)


def _foreseen(given: bytes) -> tuple[Verdict, ...]:
    """What the compiler would leave to the processor, by Coral's documentation."""
    found = placed(tflite_file.parse(given, FILE), "edgetpu")
    level: Literal["info", "warning"] = "warning" if found.left else "info"
    text = f"by Coral's documentation {found.describe()}"
    return (Verdict(code="foreseen", message=text, level=level),)


def _checked(made: Made, options: EdgetpuOptions) -> None:
    report = made.report
    if report.on_cpu > 0 and not options.fallback:
        raise UnsupportedError(
            f"the Edge TPU runs {report.on_tpu} of {report.on_tpu + report.on_cpu} operators; left "
            f"to the processor: {report.left_out or 'the log does not say which'}",
            "-O fallback=true takes it all the same",
        )


def _notes(made: Made) -> dict[str, str]:
    report = made.report
    notes = {
        "on the Edge TPU": f"{report.on_tpu} of {report.on_tpu + max(report.on_cpu, 0)} operators",
        "weights on the chip": report.cached,
        "room left": report.remaining,
        "weights sent each time": report.streamed,
        "seconds in the compiler": f"{made.seconds:.1f}",
    }
    if report.on_tpu < 0:
        del notes["on the Edge TPU"]
    return {name: text for name, text in notes.items() if text}
