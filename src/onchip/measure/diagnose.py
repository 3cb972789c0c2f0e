"""Name the cause of a loss: try the alternative, and show that it fits better."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from onchip.dataset.samples import Sample
from onchip.detect.program import FOR_ACCURACY, Program
from onchip.errors import InputError
from onchip.graph.pixels import BYTES, CENTERED, IMAGENET, UNIT
from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.measure.accuracy import accuracy, match
from onchip.measure.parity import pair, parity
from onchip.measure.pixels import mirrored
from onchip.measure.proof import Cause
from onchip.quantize.observe import observe
from onchip.quantize.plan import QuantPlan, TensorPlan, make_plan
from onchip.quantize.precision import fidelity_loss
from onchip.quantize.ranges import fit, rounded
from onchip.quantize.regions import divide
from onchip.spec import HeadSpec, InputSpec, short
from onchip.vision.preprocess import Image, Letterbox, prepare, read_image

IMAGES = 8
RECALIBRATE = 32
FEW = 16
BETTER = 0.1  # by how much more must match for an alternative to count
PIXELS_BETTER = 1.15  # by how much better the network must see with other pixels

Tensors = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Evidence:
    """What is known when the proof is over. `broken` is the first stage past the gate, or ""."""

    model: Model
    head: HeadSpec
    input: InputSpec
    plan: QuantPlan | None
    samples: Sequence[Sample]
    labelled: bool
    broken: str

    @cached_property
    def photos(self) -> list[tuple[Image, Sample]]:
        """A few images, spread over all."""
        step = max(1, len(self.samples) // IMAGES)
        return [(read_image(s.path), s) for s in self.samples[::step][:IMAGES]]

    @cached_property
    def run(self) -> Runner:
        """The float network."""
        return Runner(self.model.bytes)

    @cached_property
    def float_tensors(self) -> Sequence[tuple[Letterbox, Tensors]]:
        """The float head tensors of the photos."""
        found = []
        for image, _ in self.photos:
            tensor, box = prepare(image, self.input)
            found.append((box, self.run(tensor)))
        return found

    def matched(
        self, change: Callable[[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]]
    ) -> float:
        """Return how many detections still match if only the head tensors are changed."""
        program = Program(self.run, self.input, self.head)
        pairs = []
        for box, tensors in self.float_tensors:
            changed = {name: change(name, values) for name, values in tensors.items()}
            pairs.append(pair(program.read(tensors, box), program.read(changed, box)))
        return parity(pairs).matched


def diagnose(evidence: Evidence) -> tuple[Cause, ...]:
    """Return what fits: wrong pixels, and the first cause of a loss in the codes."""
    pixels = _pixels(evidence)
    found = () if pixels is None else (pixels,)
    if evidence.broken not in ("plan", "compiled"):
        return found
    for find in (_shared_scale, _score_ceiling, _box_codes, _few_images):
        if (cause := find(evidence)) is not None:
            return (*found, cause)
    text = (
        "the head's codes are fine; the loss comes from the layers before it: allow more of "
        "them in float (--max-float), or calibrate on more and more varied images"
    )
    return (*found, Cause("layers", text, evidence.broken))


def _pixels(evidence: Evidence) -> Cause | None:
    """Would the network see better if its pixels were prepared another way?"""
    spec = evidence.input
    current = _sight(evidence, spec)
    # without labels, values that are far too large look like being very sure
    others = [*(_other_values(spec) if evidence.labelled else ()), *_alternatives(spec)]
    scores = {s: _sight(evidence, s) for s in others}
    # letterbox kinds are close to each other: of those that are as good, the most usual
    most = max(scores.values())
    best = next(s for s in scores if scores[s] >= most - 0.05 * abs(most))
    gain = 0.05 if evidence.labelled else 0.2
    if scores[best] < current * PIXELS_BETTER or scores[best] < current + gain:
        return None
    measure = "mAP" if evidence.labelled else "agreement with the mirror image"
    return Cause(
        "preprocessing",
        f"preprocessing mismatch: the network itself sees better with {_difference(spec, best)} "
        f"({measure} {scores[best]:.3f} instead of {current:.3f} on {len(evidence.photos)} images)",
        "input",
    )


def _other_values(spec: InputSpec) -> Iterator[InputSpec]:
    for mean, std in (UNIT, BYTES, IMAGENET, CENTERED):
        if (mean, std) != (spec.mean, spec.std):
            yield replace(spec, mean=mean, std=std)


def _alternatives(spec: InputSpec) -> Iterator[InputSpec]:
    colors = {"rgb": "bgr", "bgr": "rgb"}
    for color in (spec.color, colors[spec.color]):
        for kind in ("center", "topleft", "stretch"):
            # mean and std belong to the channels, not to their order
            turn = 1 if color == spec.color else -1
            other = replace(
                spec, color=color, letterbox=kind, mean=spec.mean[::turn], std=spec.std[::turn]
            )
            if other != spec:
                yield other


def _difference(spec: InputSpec, other: InputSpec) -> str:
    changes = []
    if (spec.mean, spec.std) != (other.mean, other.std) and spec.color == other.color:
        values = [f"mean {short(s.mean)} std {short(s.std)}" for s in (other, spec)]
        changes.append(" instead of ".join(values))
    if spec.color != other.color:
        changes.append(f"{other.color} instead of {spec.color}")
    if spec.letterbox != other.letterbox:
        changes.append(f"letterbox {other.letterbox} instead of {spec.letterbox}")
    return " and ".join(changes)


def _sight(evidence: Evidence, spec: InputSpec) -> float:
    """Return the float network's mAP50-95, or without labels its agreement with mirror images."""
    program = Program(evidence.run, spec, evidence.head)
    if not evidence.labelled:
        seen = [mirrored(evidence.run, evidence.head, spec, image) for image, _ in evidence.photos]
        return sum(seen) / len(seen)
    matches = []
    for image, sample in evidence.photos:
        truth = sample.truth((image.shape[1], image.shape[0]))
        matches.append(match(program(image, FOR_ACCURACY), truth, evidence.head.classes))
    return accuracy(matches, evidence.head.classes, resamples=0).map50_95


def _plans(evidence: Evidence) -> dict[str, TensorPlan]:
    if evidence.plan is None:
        return {}
    return {t.name: t for t in evidence.plan.tensors if t.name in evidence.head.outputs}


def _coded(evidence: Evidence, names: set[str]) -> float:
    """Return how many detections match with only these head tensors as their codes have them."""
    plans, plan = _plans(evidence), evidence.plan
    assert plan is not None
    return evidence.matched(lambda n, v: plans[n].coded(v, plan.quant) if n in names else v)


def _shared_scale(evidence: Evidence) -> Cause | None:
    """Do boxes and scores share one scale, and would a scale each be better?"""
    plans = _plans(evidence)
    roles: dict[str, set[str]] = {}
    for tensor in evidence.head.tensors:
        if tensor.name in plans:
            roles.setdefault(plans[tensor.name].group, set()).add(tensor.role)
    shared = {g for g, r in roles.items() if "box" in r and ("class" in r or "object" in r)}
    names = {n for n, p in plans.items() if p.group in shared}
    if not names:
        return None
    one = _coded(evidence, names)
    each = evidence.matched(lambda n, v: _by_role(evidence, n, v) if n in names else v)
    if each < one + BETTER:
        return None
    step = max(plans[n].scale for n in names)
    return Cause(
        "shared_scale",
        f"one scale over boxes and scores: the step of {step:.3g} that the boxes need rounds "
        f"scores away; with the head rounded so {one:.0%} of the detections match, with a scale "
        f"for each {each:.0%}: cut before they are joined (leave --end-nodes to onchip)",
        evidence.broken,
    )


def _by_role(
    evidence: Evidence, name: str, values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    made = values.copy()
    for tensor in evidence.head.tensors:
        if tensor.name == name:
            part = values[:, tensor.start : tensor.stop]
            made[:, tensor.start : tensor.stop] = _whole_range(evidence, part)
    return made


def _score_ceiling(evidence: Evidence) -> Cause | None:
    """Do the scores' codes end below the scores?"""
    return _role_cause(
        evidence,
        ("class", "object"),
        "score_ceiling",
        "score ceiling: the codes of the score tensors end at {high:.2f}, the scores at {top:.2f}",
    )


def _box_codes(evidence: Evidence) -> Cause | None:
    """Are the codes of the box tensors too coarse or too short?"""
    return _role_cause(
        evidence,
        ("box", "all"),
        "box_codes",
        "box collapse: the codes of the box tensors end at {high:.2f}, their values at {top:.2f}",
    )


def _role_cause(evidence: Evidence, roles: tuple[str, ...], code: str, text: str) -> Cause | None:
    plans = _plans(evidence)
    names = {t.name for t in evidence.head.tensors if t.role in roles and t.name in plans}
    if not names:
        return None
    now = _coded(evidence, names)
    whole = evidence.matched(lambda n, v: _whole_range(evidence, v) if n in names else v)
    if whole < now + BETTER:
        return None
    assert evidence.plan is not None
    high = max(plans[n].limits(evidence.plan.quant)[1] for n in names)
    top = max(float(t[n].max()) for _, t in evidence.float_tensors for n in names)
    message = text.format(high=high, top=top)
    message += f"; so {now:.0%} of the detections match, with the whole range {whole:.0%}"
    return Cause(code, message, evidence.broken)


def _whole_range(evidence: Evidence, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    assert evidence.plan is not None
    quant = evidence.plan.quant
    return rounded(values, *fit(float(values.min()), float(values.max()), quant), quant)


def _few_images(evidence: Evidence) -> Cause | None:
    """Was it calibrated on too few images, and would these ones be better?"""
    plan = evidence.plan
    if plan is None or plan.images >= FEW:
        return None
    regions = divide(evidence.model, evidence.head, plan.quant, plan.floats)
    samples = evidence.samples[:RECALIBRATE]

    def maker(sample: Sample) -> Callable[[], npt.NDArray[np.generic] | None]:
        def make() -> npt.NDArray[np.generic] | None:
            try:
                return prepare(read_image(sample.path), evidence.input)[0]
            except InputError:  # already said by the proof itself
                return None

        return make

    seen = observe(evidence.model, evidence.head, regions, [maker(s) for s in samples])
    again = make_plan(
        evidence.model, regions, seen, plan.quant, evidence.input, images=len(samples)
    )
    probes = [prepare(image, evidence.input)[0] for image, _ in evidence.photos]
    before, after = (
        fidelity_loss(evidence.model, evidence.head, evidence.input, p, probes)
        for p in (plan, again)
    )
    if after > before * 0.7:
        return None
    return Cause(
        "few_images",
        f"too few calibration images: with {plan.images} the scores stray {before:.0%}, with "
        f"{len(samples)} of these images {after:.0%}",
        evidence.broken,
    )
