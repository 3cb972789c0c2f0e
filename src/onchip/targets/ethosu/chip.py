"""Arm's Ethos-U as a target: our plan as a .tflite file, which Vela compiles.

No chip was here. Vela computes nothing: what it made can be counted, not run. So an artifact runs,
wherever it is opened, as the very file that Vela was given, in LiteRT.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from onchip.artifact import Artifact
from onchip.errors import ToolError, UnsupportedError
from onchip.formats import tflite as tflite_file
from onchip.formats.tflite import ETHOS_U, TfliteFile
from onchip.formats.tflite_npus import placed
from onchip.spec import Verdict
from onchip.targets.ethosu import vela
from onchip.targets.ethosu.vela import PACKAGE, Made, VelaOptions
from onchip.targets.target import (
    Compiled,
    Foresight,
    Job,
    Part,
    Runtime,
    Session,
    Step,
    Target,
    Task,
    installed,
    text_of,
)
from onchip.targets.tflite import litert
from onchip.targets.tflite.placing import foreseen

if TYPE_CHECKING:
    from onchip.quantize.plan import QuantPlan

INSTALL = "pip install 'onchip[ethosu]'"
_MEMORIES = {
    "SRAM": "sram",
    "DRAM": "dram",
    "flash on chip": "on_chip_flash",
    "flash": "off_chip_flash",
}
GIVEN = "litert"  # the payload that Vela was given


class Ethosu(Target):
    """All of Arm's Ethos-U; which one is an option."""

    name = "ethosu"
    title = "Arm Ethos-U55, U65, U85 (Vela)"
    verified = "compiled with Vela 5.2.0; run in LiteRT only, never on a chip"
    options: ClassVar[type[Struct]] = VelaOptions
    quant = replace(litert.QUANT, raised=())

    def version(self) -> str:
        """Vela's version; "" where it is not installed."""
        return installed(PACKAGE)

    def parts(self) -> tuple[Part, ...]:
        """Vela, and LiteRT, which has the schema and runs what Vela is given."""
        own = installed(litert.PACKAGE)
        return (Part(PACKAGE, self.version(), INSTALL), Part(litert.PACKAGE, own, INSTALL))

    def runtime(self) -> Runtime:
        """LiteRT: boards with an Ethos-U that Linux sees were never tried."""
        return Runtime(requirements=(litert.PACKAGE,))

    def portable(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """Put the text of the user's own configuration, if one is named, in place of its name."""
        text = text_of(given.get("config", ""), "-O config= names a configuration of Vela's")
        return {**given, "config": text} if text else given

    def settings(self, given: Mapping[str, str]) -> Struct:
        """Read the options, and the configuration that they name."""
        return super().settings(self.portable(given))

    def foresee(self, task: Task, plan: "QuantPlan | None" = None) -> Foresight:
        """Say what a build would do; with photos, also what Vela will leave to the processor."""
        begun, options = super().foresee(task, plan), task.options
        assert isinstance(options, VelaOptions)
        if plan is None:
            return begun
        given = litert.compiled(Job(**vars(task), plan=plan, qdq=b""), {})
        return foreseen(begun, given.payload, _family(options))

    def compile(self, job: Job) -> Compiled:
        """Write the plan as a .tflite file and have Vela compile it.

        Raises:
            ToolError: Vela or LiteRT is not installed, or Vela failed.
            UnsupportedError: the NPU has not all of the network, and the processor may not help.
        """
        options = job.options
        assert isinstance(options, VelaOptions)
        if not self.version():
            raise ToolError("Vela is not installed", INSTALL)
        given = litert.compiled(job, {litert.PACKAGE: installed(litert.PACKAGE)})
        made = vela.compile_(given.payload, options)
        before = tflite_file.parse(given.payload, vela.MODEL)
        left = on_processor(tflite_file.parse(made.program, "Vela's file"))
        if left and not options.fallback:
            raise UnsupportedError(
                f"{_told(before, left, options)}; Vela leaves to the processor: {', '.join(left)}",
                "-O fallback=true takes it all the same; onchip plan names what an NPU has not",
            )
        return Compiled(
            payload=made.program,
            suffix="tflite",
            input=given.input,
            head=given.head,
            tools={**given.tools, PACKAGE: self.version()},
            verdicts=tuple(_verdicts(made, left)),
            notes=_notes(made, len(before.operators), len(left)),
            extras={
                GIVEN: ("litert.tflite", given.payload),
                "log": ("compile.log", made.log.encode()),
                "table": ("layers.txt", vela.table(made.layers).encode()),
                "layers": ("layers.csv", made.layers),
                "summary": ("summary.csv", made.summary),
            },
        )

    def open(self, artifact: Artifact, threads: int = 0) -> Session:
        """Run what Vela was given, in LiteRT.

        Raises:
            InputError: the program is damaged, or not Vela's.
            ToolError: LiteRT is not installed.
        """
        litert.check_compiled(artifact.payload("program"), ETHOS_U)
        return litert.LitertSession(artifact.payload(GIVEN), threads)

    def steps(self, artifact: Artifact) -> Mapping[str, Step]:
        """What Vela was given, in LiteRT: named for what runs it, since the NPU does not."""
        manifest = artifact.manifest
        if manifest.program_input is None:
            return {}
        head = manifest.program_head or manifest.head
        return {"litert": Step(lambda: self.open(artifact, 1), manifest.program_input, head)}


def on_processor(made: TfliteFile) -> tuple[str, ...]:
    """Return the operators that Vela's file has beside its own, by kind and output."""
    return tuple(
        f"{o.op} {made.shown(o.outputs)[0].name}" for o in made.operators if o.op != ETHOS_U
    )


def _told(file: TfliteFile, left: tuple[str, ...], options: VelaOptions) -> str:
    """Why something is left, as far as it can be foreseen."""
    found = placed(file, _family(options))
    return found.describe() if found.left else f"{options.accelerator} does not run all of it"


def _family(options: VelaOptions) -> str:
    return "ethosu85" if "u85" in options.accelerator else "ethosu55"


def _verdicts(made: Made, left: tuple[str, ...]) -> list[Verdict]:
    text = (
        "there is no Ethos-U here: opened, this artifact runs as the .tflite that Vela was given, "
        "in LiteRT; Vela's figures are its estimates, and nothing was measured"
    )
    found = [Verdict(code="not_on_chip", message=text)]
    if left:
        text = f"{len(left)} operators run on the processor: {', '.join(left)}"
        found.append(Verdict(code="fallback", message=text, level="warning"))
    return found


def _notes(made: Made, count: int, left: int) -> dict[str, str]:
    """Vela's summary, as far as people ask for it."""
    figures = made.figures
    notes = {
        "on the NPU": f"{count - left} of {count} operators",
        "estimated": f"{_number(figures, 'inferences_per_second'):.3g} inferences/s at "
        f"{_number(figures, 'core_clock') / 1e6:.4g} MHz",
        "accelerator": figures.get("accelerator_configuration", ""),
        "system": figures.get("system_config", ""),
        "memory": figures.get("memory_mode", ""),
    }
    for name, place in _MEMORIES.items():
        if used := _number(figures, f"{place}_memory_used"):
            notes[name] = f"{used:.0f} KiB"
    return {**notes, "seconds in Vela": f"{made.seconds:.1f}"}


def _number(figures: Mapping[str, str], name: str) -> float:
    try:
        return float(figures.get(name, ""))
    except ValueError:
        return 0.0
