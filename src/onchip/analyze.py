"""Where a build broke, on one page: layer by layer, with the cause named by experiment."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from onchip.artifact import Artifact
from onchip.build import compile_, cut_model, planned_model, quantized
from onchip.dataset.samples import Dataset
from onchip.errors import OnchipError
from onchip.graph.run import Runner
from onchip.measure.diagnose import contradiction, diagnose, gathered, origins, strayed
from onchip.measure.faults import Fault, Trial, find_faults
from onchip.measure.layers import LayerError, layer_errors
from onchip.measure.parity import Noise
from onchip.measure.proof import Cause
from onchip.progress import Progress, silent
from onchip.quantize.plan import QuantPlan, Raising
from onchip.sampling import some
from onchip.spec import Verdict
from onchip.targets import target as targets
from onchip.targets.target import VendorError
from onchip.vision.codes import all_real
from onchip.vision.preprocess import Image, prepare, read_image

LOOKED_AT = 8  # images for the layers
COMPARED = 4  # images for the compiled file
SOUND = 0.9  # the agreement from which the head's codes are not suspected


@dataclass(frozen=True)
class Analysis:
    """What was found.

    `how` is how the plan was made, line by line, and `raising` what raising layers would win.
    `vendor` is the vendor's own analysis by tensor, where there is one.
    """

    target: str
    images: int
    agreement: float
    errors: tuple[LayerError, ...]
    faults: tuple[Fault, ...]
    causes: tuple[Cause, ...]
    how: tuple[str, ...] = ()
    raising: tuple[Raising, ...] = ()
    vendor: dict[str, VendorError] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()

    @property
    def order(self) -> tuple[Cause | Fault, ...]:
        """What was found, what to look at first before the rest."""
        wrong = [f for f in self.faults if f.wrong]
        late = [c for c in self.causes if c.stage != "input" and c.code != "shared_scale"]
        early = [c for c in self.causes if c not in late]
        return (*early, *wrong, *late, *(f for f in self.faults if not f.wrong))

    @property
    def code(self) -> str:
        """What is wrong, as a stable code; "" where nothing is but the number of bits."""
        first = next(iter(self.order), None)
        return "" if first is None or first.code == "bits" else first.code

    @property
    def place(self) -> str:
        """The layer where it is wrong; "" where it is not in one place."""
        first = next(iter(self.order), None)
        return "" if first is None else _place(first)

    @property
    def first(self) -> str:
        """What to look at first, in one line."""
        if self.order:
            return told(self.order[0])
        return (
            f"no layer stands out: the plan agrees {self.agreement:.1%} with the float network, "
            "and no single repair wins much"
        )


def _place(found: Cause | Fault) -> str:
    return found.node if isinstance(found, Fault) else found.layer


def told(found: Cause | Fault) -> str:
    """One line for people."""
    return found.message if isinstance(found, Cause) else found.describe()


def analyze(
    artifact: Artifact, data: Dataset, *, labelled: bool, progress: Progress = silent
) -> Analysis:
    """Look into a plan layer by layer.

    Args:
        artifact: at least optimized; with a program, the vendor's own analysis is joined.
        data: images, with their true boxes if `labelled`.
        labelled: whether the network's sight can be measured by mAP.
        progress: is told how far it is.

    Raises:
        InputError: there is no plan yet, or an image cannot be read.
    """
    manifest, model = artifact.manifest, planned_model(artifact)
    plan = msgspec.json.decode(artifact.payload("plan"), type=QuantPlan)
    photos = [read_image(s.path) for s in some(data.samples, LOOKED_AT)]
    inputs = [prepare(p, manifest.input)[0] for p in photos]
    errors = layer_errors(
        model, manifest.head, plan, inputs, lambda done: progress("layers", done, len(inputs))
    )
    progress("causes", 0, 1)
    trial = Trial.begin(model, manifest.head, inputs)
    alike = trial.plan(plan).agreement
    broken = "plan" if alike < SOUND else ""
    own = cut_model(artifact)
    evidence = gathered(artifact, own, model, data.samples, labelled, broken)
    causes = origins(evidence) or diagnose(evidence)
    faults: tuple[Fault, ...] = ()
    progress("causes", 1, 1)
    if not causes:  # of a wrong network, or one that is fed wrongly, no layer can be blamed
        faults = find_faults(
            trial,
            own,
            manifest.input,
            plan,
            errors,
            lambda done, total: progress("repairs", done, total),
        )
        said = contradiction(evidence)
        causes = (*_program(artifact, photos[:COMPARED]), *(() if said is None else (said,)))
    vendor, verdicts = _vendor(artifact, inputs)
    return Analysis(
        target=manifest.target,
        images=len(inputs),
        agreement=alike,
        errors=errors,
        faults=faults,
        causes=causes,
        how=_how(artifact),
        raising=plan.raising,
        vendor=vendor,
        verdicts=verdicts,
    )


def _how(artifact: Artifact) -> tuple[str, ...]:
    """The recipe of a plan, and what each of its algorithms did."""
    manifest = artifact.manifest
    notes = next((s.notes for s in manifest.stages if s.name == "optimize"), {})
    codes = manifest.told.get("optimize", ())
    done = [v.message for v in manifest.verdicts if v.code in codes and v.level == "info"]
    return (*([f"recipe {notes['recipe']}"] if "recipe" in notes else []), *done)


def _program(artifact: Artifact, photos: Sequence[Image]) -> tuple[Cause, ...]:
    """Hold the compiled file against the plan, where it runs here and is the same each time.

    Where a vendor's own emulator must run it, that is what `onchip verify` is for.
    """
    manifest, target = artifact.manifest, targets.get(artifact.manifest.target)
    if not target.takes_plan or not target.reproducible or any(not p.found for p in target.parts()):
        return ()
    steps = list(target.steps(artifact).values())
    if not steps or (steps[0].head is not manifest.head and steps[0].head != manifest.head):
        return ()
    spec = manifest.input
    planned = Runner(quantized(artifact).bytes, threads=1, optimize=False)
    inner = replace(spec, dtype="uint8" if spec.uniform else "float32")
    wanted = Runner(planned_model(artifact).bytes)
    noises = Noise(manifest.head), Noise(manifest.head)
    with steps[0].open() as session:
        for image in photos:
            middle = planned(prepare(image, inner)[0])
            noises[0].add(wanted(prepare(image, spec)[0]), middle)
            noises[1].add(middle, all_real(session(prepare(image, steps[0].input)[0])))
    cause = strayed(noises[0].sqnr_db(), noises[1].sqnr_db(), "compiled")
    return _other_file(artifact) if cause is None else (cause,)


def _other_file(artifact: Artifact) -> tuple[Cause, ...]:
    """Does the same compiler make another file of the plan now?"""
    manifest = artifact.manifest
    try:
        again = compile_(artifact)
    except OnchipError:  # its compiler is not here, or wants more than the artifact holds
        return ()
    if again.manifest.tools != manifest.tools or "program" not in again.payloads:
        return ()
    if again.payload("program") == artifact.payload("program"):
        return ()
    text = (
        "the compiled file is not that of the plan: the same compiler makes another of it; "
        "compile it again"
    )
    return (Cause("program", text, "compiled"),)


def _vendor(
    artifact: Artifact, inputs: Sequence[npt.NDArray[np.generic]]
) -> tuple[dict[str, VendorError], tuple[Verdict, ...]]:
    """The vendor's own analysis of the first image; that it is not there is no failure."""
    if artifact.manifest.program_input is None:
        return {}, ()
    target = targets.get(artifact.manifest.target)
    try:
        return dict(target.analysis(artifact, inputs[0])), ()
    except OnchipError as error:
        return {}, (Verdict(code="no_vendor_analysis", message=str(error), level="info"),)
