"""The accuracy that Frigate's own decode leaves of an artifact, beside that of ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onchip.artifact import Artifact
from onchip.dataset.samples import Dataset, Sample
from onchip.detect.program import FOR_ACCURACY, Limits, Program
from onchip.detections import Detections
from onchip.errors import InputError, UnsupportedError
from onchip.measure.accuracy import Accuracy, Matches, accuracy, match
from onchip.measure.evaluate import check_classes
from onchip.progress import Progress, silent
from onchip.several import each
from onchip.spec import HeadSpec, InputSpec
from onchip.targets import target as targets
from onchip.vision import frigate
from onchip.vision.codes import Tensors
from onchip.vision.preprocess import Letterbox, prepare, read_image

SAME = Limits(confidence=frigate.THRESHOLD)  # ours, of what scores as much as Frigate asks for

Read = Callable[[Program, Tensors, Letterbox], Detections]


@dataclass(frozen=True)
class AsFrigate:
    """One program read three ways: by Frigate, by onchip from the same score on, and by onchip."""

    frigate: Accuracy
    same: Accuracy
    own: Accuracy

    @property
    def decode(self) -> float:
        """The points of mAP50-95 that Frigate's decode loses against ours from the same score."""
        return 100 * (self.same.map50_95 - self.frigate.map50_95)

    @property
    def threshold(self) -> float:
        """The points that lie below that score, where no decode that stops there finds them."""
        return 100 * (self.own.map50_95 - self.same.map50_95)


def read_by_frigate(artifact: Artifact) -> tuple[InputSpec, HeadSpec]:
    """Return what a program takes and how its end reads, if Frigate can read it.

    Raises:
        InputError: the artifact has no program yet.
        UnsupportedError: it ends at a raw head.
    """
    manifest = artifact.manifest
    artifact.payload("program")  # or say what is missing
    spec, head = manifest.program_input, manifest.program_head or manifest.head
    if spec is None:
        raise InputError("the artifact has no program yet", "run: onchip compile FILE.onchip")
    if manifest.layout != "frigate" and head.coding != "found":
        raise UnsupportedError(
            f"Frigate cannot read the outputs of this file: it ends at the raw {head.family} head",
            f"build it with --layout frigate: onchip build MODEL.onnx -t {manifest.target} "
            "--layout frigate -c photos/",
        )
    return spec, head


def as_frigate(artifact: Artifact, data: Dataset, *, progress: Progress = silent) -> AsFrigate:
    """Return the accuracy of a program on labelled images, as Frigate and as onchip reads it.

    Raises:
        UnsupportedError: Frigate cannot read the program's end.
        InputError: the data set has other classes, or an image cannot be read.
    """
    spec, head = read_by_frigate(artifact)
    check_classes(data, head.labels)
    ours = [_ours(limits) for limits in (SAME, FOR_ACCURACY)]
    # a program that suppresses by itself is told no limits by Frigate, and these by onchip
    passes: list[list[Read]] = [[_frigate], ours] if head.coding == "found" else [[_frigate, *ours]]
    found: list[Accuracy] = []
    with targets.get(artifact.manifest.target).open(artifact, 1) as session:
        program = Program(targets.in_turn(session), spec, head)
        for reads in passes:
            if _frigate not in reads:
                session.limit(FOR_ACCURACY.confidence, FOR_ACCURACY.overlap)
            found += _measured(program, data, reads, session.parallel, progress)
    return AsFrigate(*found)


def _measured(
    program: Program, data: Dataset, reads: Sequence[Read], parallel: bool, progress: Progress
) -> list[Accuracy]:
    """Run every image once, and read it in several ways."""

    def one(sample: Sample) -> list[Matches]:
        image = read_image(sample.path)
        tensor, box = prepare(image, program.input)
        tensors = program.run(tensor)
        truth = sample.truth((image.shape[1], image.shape[0]))
        return [match(r(program, tensors, box), truth, program.head.classes) for r in reads]

    matches: list[list[Matches]] = []
    results = each(one, data.samples) if parallel else map(one, data.samples)
    for result in results:
        matches.append(result)
        progress("eval", len(matches), len(data.samples))
    return [accuracy(way, program.head.classes) for way in zip(*matches, strict=True)]


def _frigate(program: Program, tensors: Tensors, box: Letterbox) -> Detections:
    found = frigate.seen(program.head, tensors, (program.input.width, program.input.height))
    return Detections(box.undo(found.boxes), found.scores, found.classes)


def _ours(limits: Limits) -> Read:
    return lambda program, tensors, box: program.read(tensors, box, limits)
