"""The whole proof on one page: the same images through every stage, each against the one before."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec
import numpy as np

from onchip.artifact import Artifact
from onchip.build import cut_model, planned_model, quantized
from onchip.dataset.samples import Dataset, Sample
from onchip.detect.program import FOR_ACCURACY, Program, Run
from onchip.detections import Detections
from onchip.errors import OnchipError
from onchip.graph import read
from onchip.graph.original import Original, original
from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.measure.accuracy import Accuracy, Matches, accuracy, match
from onchip.measure.alike import Figures, Look, figures, look, unlike
from onchip.measure.diagnose import Evidence, contradiction, diagnose, gathered, origins, strayed
from onchip.measure.evaluate import check_classes
from onchip.measure.faults import Trial, find_faults
from onchip.measure.layers import layer_errors
from onchip.measure.parity import Noise, Pairing, pair, parity
from onchip.measure.proof import Cause, Example, Gate, Proof, Row
from onchip.progress import Progress, silent
from onchip.several import each
from onchip.spec import HeadSpec, InputSpec, Verdict
from onchip.targets import target as targets
from onchip.vision.codes import FloatTensors
from onchip.vision.nms import nms
from onchip.vision.preprocess import Image, prepare, read_image

CLEAR = 0.25  # the score from which a detection counts for matching
See = Callable[[Image], tuple[Detections, FloatTensors | None]]


@dataclass(frozen=True)
class Stage:
    """One row of the proof: what looks at an image, and how the tensors read that it hands out."""

    see: See
    head: HeadSpec


def verify(
    artifact: Artifact,
    data: Dataset,
    *,
    labelled: bool,
    gate: Gate | None = None,
    progress: Progress = silent,
) -> Proof:
    """Prove an artifact on images, stage by stage.

    Args:
        artifact: at least parsed; the stages that it lacks are left out.
        data: the images, and their true boxes if `labelled`.
        labelled: whether to measure mAP.
        gate: what the build may lose.
        progress: is told how far it is.

    Raises:
        InputError: an image cannot be read, or the classes do not fit.
    """
    gate = gate or Gate()
    head = artifact.manifest.head
    if labelled:
        check_classes(data, head.labels)
    with ExitStack() as opened:
        stages, verdicts = _stages(artifact, data.samples, opened)
        seen, examples, looks = _look(stages, data.samples, head, labelled, progress)
        verdicts += unlike(_calibration(artifact), look(looks))
    rows = _rows(stages, seen, head.classes, labelled)
    failures, broken = _judge(rows, gate)
    progress("diagnose", 0, 1)
    causes = _causes(artifact, data, labelled, broken, seen)
    progress("diagnose", 1, 1)
    if causes and causes[0].stage == "input":
        failures, broken = [causes[0].message, *failures], "input"
    return Proof(
        rows=tuple(rows),
        images=len(data.samples),
        labelled=labelled,
        gate=gate,
        failures=tuple(failures),
        broken=broken,
        causes=causes,
        verdicts=tuple(verdicts),
        examples=tuple(sorted(examples, key=lambda e: e.matched)),
    )


def _stages(
    artifact: Artifact, samples: Sequence[Sample], opened: ExitStack
) -> tuple[dict[str, Stage], list[Verdict]]:
    """Every stage that exists, by name, in order; what must be closed goes to `opened`."""
    manifest, model = artifact.manifest, cut_model(artifact)
    stages: dict[str, Stage] = {}
    verdicts: list[Verdict] = []
    spec = manifest.input
    example = prepare(read_image(samples[0].path), spec)[0]
    try:
        source = Model(
            read.parse(artifact.payload("source"), "source.onnx"), manifest.source_sha256
        )
        whole = read.prepared(source, (spec.width, spec.height))
        own = original(whole, model, manifest.head, example, threads=1)
        stages["original"] = Stage(_original(own, spec), manifest.head)
    except OnchipError as error:
        verdicts.append(Verdict(code="original_unread", message=str(error), level="warning"))
    stages["cut"] = _program(Runner(model.bytes, threads=1), spec, manifest.head)
    if "plan" in artifact.payloads:
        emulation = Runner(quantized(artifact).bytes, threads=1, optimize=False)
        inner = msgspec.structs.replace(spec, dtype="uint8" if spec.uniform else "float32")
        stages["plan"] = _program(emulation, inner, manifest.head)
    for name, step in targets.get(manifest.target).steps(artifact).items():
        session = opened.enter_context(step.open())
        session.limit(FOR_ACCURACY.confidence, FOR_ACCURACY.overlap)
        stages[name] = _program(targets.in_turn(session), step.input, step.head)
    return stages, verdicts


def _program(run: Run, spec: InputSpec, head: HeadSpec) -> Stage:
    program = Program(run, spec, head)
    return Stage(lambda image: program.see(image, FOR_ACCURACY), head)


def _original(own: Original, spec: InputSpec) -> See:
    def see(image: Image) -> tuple[Detections, None]:
        tensor, box = prepare(image, spec)
        boxes, scores = own(tensor)
        rows, classes = np.nonzero(scores >= FOR_ACCURACY.confidence)
        found = Detections(boxes[rows], scores[rows, classes], classes)
        if own.selected:
            found = found[np.argsort(-found.scores, kind="stable")[: FOR_ACCURACY.most]]
        else:
            found = nms(found, FOR_ACCURACY.overlap, FOR_ACCURACY.most)
        return Detections(box.undo(found.boxes), found.scores, found.classes), None

    return see


@dataclass
class _Seen:
    """What one stage saw, folded image by image; `noise` against the cut, `apart` the plan."""

    noise: Noise
    apart: Noise
    matches: list[Matches] = field(default_factory=list)
    pairings: list[Pairing] = field(default_factory=list)


def _look(
    stages: Mapping[str, Stage],
    samples: Sequence[Sample],
    head: HeadSpec,
    labelled: bool,
    progress: Progress,
) -> tuple[dict[str, _Seen], list[Example], list[Figures]]:
    looks: list[Figures] = []

    def one(sample: Sample) -> tuple[Sample, Image, list[tuple[Detections, FloatTensors | None]]]:
        image = read_image(sample.path)
        looks.append(figures(image))
        return sample, image, [stage.see(image) for stage in stages.values()]

    seen = {
        name: _Seen(Noise(head, stage.head), Noise(head, stage.head))
        for name, stage in stages.items()
    }
    examples: list[Example] = []
    for done, (sample, image, results) in enumerate(each(one, samples), 1):
        reference = _clear(results[0][0])
        tensors, planned = (dict(zip(stages, results, strict=True)).get(n, (None, None))[1]
                            for n in ("cut", "plan"))  # fmt: skip
        truth = sample.truth((image.shape[1], image.shape[0])) if labelled else None
        for folded, (found, made) in zip(seen.values(), results, strict=True):
            if truth is not None:
                folded.matches.append(match(found, truth, head.classes))
            folded.pairings.append(pair(reference, _clear(found)))
            if made and tensors and made is not tensors and tensors.keys() <= made.keys():
                folded.noise.add(tensors, made)
            if made and planned and made is not planned and planned.keys() <= made.keys():
                folded.apart.add(planned, made)
        last = seen[list(stages)[-1]].pairings[-1]
        clear = {name: _clear(found) for name, (found, _) in zip(stages, results, strict=True)}
        examples.append(Example(sample.path, parity([last]).matched, clear, truth))
        progress("verify", done, len(samples))
    return seen, examples, looks


def _calibration(artifact: Artifact) -> Look | None:
    """How the calibration photos looked."""
    if "photos" not in artifact.payloads:  # few, or of an older build
        return None
    return msgspec.json.decode(artifact.payload("photos"), type=Look)


def _clear(found: Detections) -> Detections:
    return found[found.scores >= CLEAR]


def _rows(
    stages: Mapping[str, Stage], seen: Mapping[str, _Seen], classes: int, labelled: bool
) -> list[Row]:
    rows: list[Row] = []
    for name in stages:
        found = accuracy(seen[name].matches, classes) if labelled else None
        first = rows[0].accuracy if rows else found
        above = rows[-1].accuracy if rows else None
        rows.append(
            Row(
                stage=name,
                accuracy=found,
                parity=parity(seen[name].pairings, seen[name].noise),
                drop=_points(first, found),
                drop_interval=_drop_interval(first, found),
                step=_points(above, found),
            )
        )
    return rows


def _points(first: Accuracy | None, second: Accuracy | None) -> float | None:
    if first is None or second is None:
        return None
    return 100 * (first.map50_95 - second.map50_95)


def _drop_interval(first: Accuracy | None, second: Accuracy | None) -> tuple[float, float] | None:
    """The 95 % interval of the drop: both stages resampled on the same images."""
    if first is None or second is None or first is second or not len(first.draws):
        return None
    low, high = np.percentile(100 * (first.draws - second.draws), [2.5, 97.5])
    return float(low), float(high)


def _judge(rows: Sequence[Row], gate: Gate) -> tuple[list[str], str]:
    """Return what is past the gate, and the first stage where it is."""
    failures, broken = [], ""
    for row in rows[1:]:
        found = []
        real = row.drop_interval is None or row.drop_interval[0] > 0
        if row.drop is not None and row.drop > gate.max_drop and real:
            found.append(f"{row.stage} loses {row.drop:.1f} points of mAP (gate {gate.max_drop:g})")
        if row.parity.matched < gate.min_match:
            found.append(
                f"{row.stage} matches {row.parity.matched:.1%} of the detections "
                f"(gate {gate.min_match:.0%})"
            )
        broken = broken or (row.stage if found else "")
        failures += found
    return failures, broken


def _causes(
    artifact: Artifact, data: Dataset, labelled: bool, broken: str, seen: Mapping[str, "_Seen"]
) -> tuple[Cause, ...]:
    """Name what is wrong, the first cause first: what comes after it follows from it."""
    models = cut_model(artifact), planned_model(artifact)
    evidence = gathered(artifact, *models, data.samples, labelled, broken)
    found = origins(evidence) or diagnose(evidence)
    if found or evidence.plan is None:
        return found
    if broken in ("plan", "compiled") and (found := _in_plan(evidence, broken)):
        return found
    if targets.get(artifact.manifest.target).takes_plan:
        plan = seen["plan"].noise.sqnr_db()
        for name, stage in seen.items():
            if cause := strayed(plan, stage.apart.sqnr_db(), name):
                return (cause,)
    if broken and (said := contradiction(evidence)):
        return (said,)
    text = (
        "no layer of the plan is wrong by itself; the loss comes from all of them: allow more in "
        "float (--max-float), or calibrate on more and more varied images"
    )
    return (Cause("layers", text, broken),) if broken in ("plan", "compiled") else ()


def _in_plan(evidence: Evidence, broken: str) -> tuple[Cause, ...]:
    """What `onchip analyze` finds wrong in the plan."""
    plan = evidence.plan
    assert plan is not None
    model, head, spec = evidence.model, evidence.head, evidence.input
    inputs = [prepare(image, spec)[0] for image, _ in evidence.photos]
    errors = layer_errors(model, head, plan, inputs)
    trial = Trial.begin(model, head, inputs)
    faults = find_faults(trial, evidence.own or model, spec, plan, errors)
    return tuple(Cause(f.code, f.describe(), broken, f.node) for f in faults if f.wrong)
