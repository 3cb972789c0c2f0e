"""Run a program over a data set and measure what it sees."""

from collections.abc import Callable, Sequence

from onchip.dataset.samples import Dataset, Sample
from onchip.detect.program import FOR_ACCURACY, Program
from onchip.errors import InputError
from onchip.measure.accuracy import Accuracy, Matches, accuracy, match
from onchip.several import each
from onchip.vision.preprocess import read_image


def evaluate(
    program: Program,
    data: Dataset,
    *,
    parallel: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Accuracy:
    """Return the COCO metrics of a program on labelled images.

    Args:
        program: what to measure.
        data: labelled images with the program's classes.
        parallel: the program may be called from several threads.
        progress: called with the number of images done.

    Raises:
        InputError: the data set has other classes, or an image cannot be read.
    """
    check_classes(data, program.head.labels)

    def one(sample: Sample) -> Matches:
        image = read_image(sample.path)
        found = program(image, FOR_ACCURACY)
        return match(found, sample.truth((image.shape[1], image.shape[0])), program.head.classes)

    matches = []
    results = each(one, data.samples) if parallel else map(one, data.samples)
    for done, result in enumerate(results, 1):
        matches.append(result)
        progress(done)
    return accuracy(matches, program.head.classes)


def check_classes(data: Dataset, labels: Sequence[str]) -> None:
    """Raise InputError unless the data set has as many classes as the model, in the same order."""
    if len(data.labels) != len(labels):
        raise InputError(
            f"the data set has {len(data.labels)} classes, but the model has {len(labels)}",
            "use the data.yaml that the model was trained with",
        )
    pairs = zip(data.labels, labels, strict=True)
    wrong = next(((i, d, m) for i, (d, m) in enumerate(pairs) if d != m), None)
    if wrong is not None and sorted(data.labels) == sorted(labels):
        raise InputError(
            f"class {wrong[0]} is {wrong[1]} to the data set and {wrong[2]} to the model",
            "use the data.yaml that the model was trained with, or name the model's classes in "
            "their order: --labels",
        )
