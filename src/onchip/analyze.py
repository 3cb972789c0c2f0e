"""Where a build broke, on one page: layer by layer, with the cause named by experiment."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from onchip.artifact import Artifact
from onchip.build import cut_model
from onchip.dataset.samples import Dataset
from onchip.errors import OnchipError
from onchip.measure.diagnose import Evidence, diagnose
from onchip.measure.faults import WORTH, Fault, Faults, find_faults
from onchip.measure.layers import LayerError, layer_errors
from onchip.measure.proof import Cause
from onchip.progress import Progress, silent
from onchip.quantize.plan import QuantPlan
from onchip.spec import Verdict
from onchip.targets import target as targets
from onchip.targets.target import VendorError
from onchip.vision.preprocess import prepare, read_image

LOOKED_AT = 8  # images for the layers
SOUND = 0.9  # the agreement from which the head's codes are not suspected
WORTH_SEEN = 0.03  # of agreement, that a repair must win to be called a fault


@dataclass(frozen=True)
class Analysis:
    """What was found. `vendor` is the vendor's own analysis by tensor, where there is one."""

    target: str
    images: int
    agreement: float
    errors: tuple[LayerError, ...]
    faults: tuple[Fault, ...]
    causes: tuple[Cause, ...]
    vendor: dict[str, VendorError] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()

    @property
    def first(self) -> str:
        """What to look at first, in one line."""
        if self.causes:
            return self.causes[0].message
        if self.faults:
            fault = self.faults[0]
            won = f"heads {fault.win_db:+.1f} dB, agreement {fault.win:+.1%}"
            return f"{fault.node}: {fault.message} (repaired: {won})"
        return (
            f"no layer stands out: the plan agrees {self.agreement:.1%} with the float network, "
            "and no single repair wins much"
        )


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
    manifest, model = artifact.manifest, cut_model(artifact)
    plan = msgspec.json.decode(artifact.payload("plan"), type=QuantPlan)
    step = max(1, len(data.samples) // LOOKED_AT)
    photos = [read_image(s.path) for s in data.samples[::step][:LOOKED_AT]]
    inputs = [prepare(p, manifest.input)[0] for p in photos]
    errors = layer_errors(
        model, manifest.head, plan, inputs, lambda done: progress("layers", done, len(inputs))
    )
    faults = find_faults(
        model,
        manifest.head,
        plan,
        errors,
        inputs,
        lambda done, total: progress("repairs", done, total),
    )
    progress("causes", 0, 1)
    broken = "plan" if faults.agreement < SOUND else ""
    evidence = Evidence(model, manifest.head, manifest.input, plan, data.samples, labelled, broken)
    causes = tuple(c for c in diagnose(evidence) if c.code not in ("layers", "few_images"))
    vendor, verdicts = _vendor(artifact, inputs)
    progress("causes", 1, 1)
    return Analysis(
        target=manifest.target,
        images=len(inputs),
        agreement=faults.agreement,
        errors=errors,
        faults=_worth(faults),
        causes=causes,
        vendor=vendor,
        verdicts=verdicts,
    )


def _worth(faults: Faults) -> tuple[Fault, ...]:
    return tuple(f for f in faults.found if f.win_db >= WORTH or f.win >= WORTH_SEEN)


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
