"""Name the cause of a loss: try the alternative, and show that it fits better."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from onchip.artifact import Artifact
from onchip.dataset.samples import Sample
from onchip.detect.program import Limits, Program
from onchip.detections import pairs
from onchip.errors import OnchipError
from onchip.graph import read
from onchip.graph.pixels import BYTES, CENTERED, IMAGENET, UNIT, convention, declared
from onchip.graph.prove import Cut
from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.measure.accuracy import accuracy, match
from onchip.measure.origin import (
    Given,
    changed_network,
    cut_again,
    difference,
    readings,
    wrong_labels,
)
from onchip.measure.parity import pair, parity
from onchip.measure.pixels import mirrored
from onchip.measure.proof import Cause
from onchip.quantize.plan import QuantPlan, TensorPlan
from onchip.quantize.ranges import fit, rounded
from onchip.spec import HeadSpec, InputSpec, Letterboxing, short
from onchip.targets import target as targets
from onchip.vision.decode import logit
from onchip.vision.preprocess import Image, Letterbox, prepare, read_image

IMAGES = 8
LABELLED = 32  # images that tell whether labels are those of other classes
CURVE = Limits(confidence=0.05, overlap=0.65, most=100)  # enough of the curve to compare by
PROBES = 2  # images that tell two networks apart
BETTER = 0.1  # by how much more must match for an alternative to count
PIXELS_BETTER = 1.15  # by how much better the network must see with other pixels
NEAR = 0.8  # of the sight, from which another way is looked at on more images
SURE = 2.3  # standard errors, by which it must be better there
UNSURE = 0.02  # is added to a score and to what is missing to one: log odds of 0 and 1 are infinite
FEW = 12  # images, with fewer of which that cannot be told

Tensors = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Evidence:
    """What is known of a build. `broken` is the first stage past the gate, or ""."""

    model: Model
    head: HeadSpec
    input: InputSpec
    plan: QuantPlan | None
    samples: Sequence[Sample]
    labelled: bool
    broken: str
    given: Given | None = None  # the network as it was given
    own: Model | None = None  # the cut of it

    @cached_property
    def photos(self) -> list[tuple[Image, Sample]]:
        """A few images, spread over all."""
        return list(self.more(IMAGES))

    def more(self, count: int) -> Iterator[tuple[Image, Sample]]:
        """So many images, spread over all."""
        step = max(1, len(self.samples) // count)
        return ((read_image(s.path), s) for s in self.samples[::step][:count])

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


def gathered(
    artifact: Artifact,
    own: Model,
    planned: Model,
    samples: Sequence[Sample],
    labelled: bool,
    broken: str,
) -> Evidence:
    """Return what an artifact tells of itself.

    Args:
        artifact: at least parsed.
        own: its cut network.
        planned: the network that its plan is of.
        samples: images, with their true boxes if `labelled`.
        labelled: whether sight can be measured by mAP.
        broken: the first stage past the gate, or "".
    """
    manifest, plan = artifact.manifest, None
    if "plan" in artifact.payloads:
        plan = msgspec.json.decode(artifact.payload("plan"), type=QuantPlan)
    return Evidence(
        model=planned,
        head=manifest.head,
        input=manifest.input,
        plan=plan,
        samples=samples,
        labelled=labelled,
        broken=broken,
        given=_given(artifact),
        own=own,
    )


def _given(artifact: Artifact) -> Given | None:
    """The network that an artifact was made of; None where it cannot be read."""
    manifest = artifact.manifest
    try:
        source = read.parse(artifact.payload("source"), manifest.source)
    except OnchipError:  # the proof says so itself
        return None
    return Given(
        Model(source, manifest.source_sha256),
        (manifest.input.width, manifest.input.height),
        manifest.layout,
        targets.get(manifest.target).takes_plan and manifest.layout == "onchip",
    )


def origins(evidence: Evidence) -> tuple[Cause, ...]:
    """Return what is wrong beside pixels and codes: the network, its reading, or the labels."""
    if evidence.given is None or evidence.own is None:
        return ()
    again = cut_again(evidence.given)
    tensors = [prepare(image, evidence.input)[0] for image, _ in evidence.photos[:PROBES]]
    cause = changed_network(again, evidence.own, evidence.model, evidence.head, tensors)
    cause = cause or _reading(evidence, again)
    if cause is None and evidence.labelled:
        program = Program(evidence.run, evidence.input, evidence.head)
        cause = wrong_labels(program, evidence.more(LABELLED), evidence.head.labels)
    return () if cause is None else (cause,)


def _reading(evidence: Evidence, again: Cut | None) -> Cause | None:
    """Would the network see better if its end were read as the network itself shows it?"""
    other = readings(again, evidence.head)
    if other is None:
        return None
    now, then = (_sight(dataclasses.replace(evidence, head=h), evidence.input)
                 for h in (evidence.head, other))  # fmt: skip
    if then <= now:
        return None
    measure = "mAP" if evidence.labelled else "agreement with the mirror image"
    return Cause(
        "reading",
        f"the network's end is read wrongly: it shows {difference(evidence.head, other)} "
        f"({measure} {then:.3f} instead of {now:.3f} on {len(evidence.photos)} images)",
        "input",
    )


def diagnose(evidence: Evidence) -> tuple[Cause, ...]:
    """Return what fits: wrong pixels, and one scale over what is joined in one tensor."""
    pixels = _pixels(evidence)
    found = () if pixels is None else (pixels,)
    if evidence.broken not in ("plan", "compiled"):
        return found
    shared = _shared_scale(evidence)
    return found if shared is None else (*found, shared)


INDEPENDENT = 4.0  # dB, with one to spare


def strayed(plan: Mapping[str, float], program: Mapping[str, float], stage: str) -> Cause | None:
    """Is a compiled file further from the plan than rounding alone would have it?

    Where both are sound and their errors are independent, they are 3 dB further from each other
    than from float.

    Args:
        plan: SQNR in dB of the plan's head tensors against the float ones, by name.
        program: the same of the compiled file's against the plan's.
        stage: in which it runs.
    """
    names = plan.keys() & program.keys()
    if not names:
        return None
    kept, near = (float(np.mean([of[n] for n in names])) for of in (plan, program))
    if near >= kept - INDEPENDENT:
        return None
    return Cause(
        "program",
        f"the compiled file is not that of the plan: it is {near:.1f} dB from the plan, which "
        f"itself is {kept:.1f} dB from float; compile it again",
        stage,
    )


def _pixels(evidence: Evidence) -> Cause | None:
    """Would the network see better if its pixels were prepared another way?"""
    spec = evidence.input
    current = _sight(evidence, spec)
    # without labels, values that are far too large look like being very sure
    others = [*(_other_values(evidence) if evidence.labelled else ()), *_alternatives(spec)]
    scores = {s: _sight(evidence, s) for s in others}
    # letterbox kinds are close to each other: of those that are as good, the most usual
    most = max(scores.values())
    best = next(s for s in scores if scores[s] >= most - 0.05 * abs(most))
    gain = 0.05 if evidence.labelled else 0.2
    if scores[best] >= max(current * PIXELS_BETTER, current + gain):
        measure = "mAP" if evidence.labelled else "agreement with the mirror image"
        figures = (measure, scores[best], current, len(evidence.photos))
        return _mismatch(spec, best, figures)
    # a network is worse with other colours and values than its own, image after image
    close = [s for s in scores if s.letterbox == spec.letterbox and scores[s] >= NEAR * current]
    return _better_everywhere(evidence, close) if evidence.labelled else None


def _mismatch(spec: InputSpec, best: InputSpec, figures: tuple[str, float, float, int]) -> Cause:
    measure, then, now, count = figures
    return Cause(
        "preprocessing",
        f"preprocessing mismatch: the network itself sees better with {_difference(spec, best)} "
        f"({measure} {then:.3f} instead of {now:.3f} on {count} images)",
        "input",
    )


def _better_everywhere(evidence: Evidence, others: Sequence[InputSpec]) -> Cause | None:
    """Is one of these a little better on nearly every image?"""
    photos = list(evidence.more(LABELLED))
    if not others or len(photos) < FEW:
        return None
    now = _true_scores(evidence, evidence.input, photos)
    found = {s: _true_scores(evidence, s, photos) for s in others}
    sure = {s: surely_better(now, scores) for s, scores in found.items()}
    best = max(sure, key=lambda s: sure[s])
    if sure[best] < SURE:
        return None
    before, after = (float(np.concatenate(v).mean()) for v in (now, found[best]))
    if after <= before:
        return None
    figures = ("the mean score of true boxes", after, before, len(photos))
    return _mismatch(evidence.input, best, figures)


def _true_scores(
    evidence: Evidence, spec: InputSpec, photos: Sequence[tuple[Image, Sample]]
) -> list[npt.NDArray[np.float64]]:
    """How sure the network is of what is there: by image, the score of each true box, or 0."""
    program, found = Program(evidence.run, spec, evidence.head), []
    for image, sample in photos:
        truth = sample.truth((image.shape[1], image.shape[0]))
        seen, scores = program(image, CURVE), np.zeros(len(truth))
        for i, j in pairs(truth, seen):
            scores[i] = seen.scores[j]
        found.append(scores)
    return found


def surely_better(
    now: Sequence[npt.NDArray[np.float64]], then: Sequence[npt.NDArray[np.float64]]
) -> float:
    """By how many standard errors scores are better, in log odds; boxes of one image go together.

    An image counts by the root of its boxes: they are neither one observation nor independent.
    """
    images = [(a, b) for a, b in zip(now, then, strict=True) if len(a)]
    gains = np.asarray([(_odds(b) - _odds(a)).sum() / np.sqrt(len(a)) for a, b in images])
    if len(gains) < FEW:
        return 0.0
    return float(gains.mean() / max(gains.std(ddof=1) / np.sqrt(len(gains)), 1e-9))


def _odds(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return logit((scores + UNSURE) / (1 + 2 * UNSURE))


def contradiction(evidence: Evidence) -> Cause | None:
    """Are pixels prepared otherwise than the model itself says? That may cost little."""
    if evidence.given is None:
        return None
    said, spec = declared(evidence.given.source), evidence.input
    names = [
        n
        for n in ("color", "mean", "std", "letterbox", "pad")
        if getattr(said, n) is not None and getattr(said, n) != getattr(spec, n)
    ]
    if not names:
        return None
    ours, theirs = (", ".join(f"{n} {getattr(v, n)}" for n in names) for v in (spec, said))
    text = f"the model says that its pixels are prepared with {theirs}; here it is {ours}"
    return Cause("preprocessing", text, "declared")


def _other_values(evidence: Evidence) -> Iterator[InputSpec]:
    spec, usual = evidence.input, convention(evidence.head)
    for mean, std in ((usual.mean, usual.std), UNIT, BYTES, IMAGENET, CENTERED):
        if mean and std and (mean, std) != (spec.mean, spec.std):
            turned = (mean, std) == IMAGENET and spec.color == "bgr"
            ordered = (mean[::-1], std[::-1]) if turned else (mean, std)
            yield replace(spec, mean=ordered[0], std=ordered[1])


def _alternatives(spec: InputSpec) -> Iterator[InputSpec]:
    """Other colour orders and placements, those first that change least."""
    other = {"rgb": "bgr", "bgr": "rgb"}[spec.color]
    # mean and std belong to the channels, not to their order; but they may have been left so
    for color, turn in ((spec.color, 1), (other, -1), (other, 1)):
        for kind in sorted(get_args(Letterboxing), key=lambda k: k != spec.letterbox):
            made = replace(
                spec, color=color, letterbox=kind, mean=spec.mean[::turn], std=spec.std[::turn]
            )
            uniform = turn == 1 and color == other and spec.mean == spec.mean[::-1]
            if made != spec and not uniform:
                yield made


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
    if not evidence.labelled:
        seen = [mirrored(evidence.run, evidence.head, spec, image) for image, _ in evidence.photos]
        return sum(seen) / len(seen)
    program, matches = Program(evidence.run, spec, evidence.head), []
    for image, sample in evidence.photos:
        truth = sample.truth((image.shape[1], image.shape[0]))
        matches.append(match(program(image, CURVE), truth, evidence.head.classes))
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


def _whole_range(evidence: Evidence, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    assert evidence.plan is not None
    quant = evidence.plan.quant
    return rounded(values, *fit(float(values.min()), float(values.max()), quant), quant)
