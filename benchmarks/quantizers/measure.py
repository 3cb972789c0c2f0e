"""What a quantized network loses, on the same images and with the same decoder as the float one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onchip.dataset.samples import Sample
from onchip.detect.program import FOR_ACCURACY, Program
from onchip.detections import Detections
from onchip.measure.accuracy import Matches, accuracy, match
from onchip.measure.parity import Pairing, pair, parity
from onchip.spec import HeadSpec
from onchip.vision.codes import FloatTensors, real
from onchip.vision.decode import levels, scores
from onchip.vision.preprocess import read_image

CLEAR = 0.25  # what the float network sees with at least this score is the truth of fidelity

Figures = dict[str, float | list[float]]


@dataclass
class _Noise:
    """Power of a signal and of its error."""

    power: float = 0.0
    error: float = 0.0

    def add(self, wanted: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> None:
        self.power += float(np.square(wanted, dtype=np.float64).sum())
        self.error += float(np.square(wanted - found, dtype=np.float64).sum())

    @property
    def decibels(self) -> float:
        return 10 * float(np.log10((self.power + 1e-20) / (self.error + 1e-20)))


@dataclass
class _Seen:
    """Matches of every image: float and quantized with the true boxes, quantized with float's."""

    floats: list[Matches] = field(default_factory=list)
    found: list[Matches] = field(default_factory=list)
    faithful: list[Matches] = field(default_factory=list)
    pairings: list[Pairing] = field(default_factory=list)
    boxes: _Noise = field(default_factory=_Noise)
    classes: _Noise = field(default_factory=_Noise)


def losses(floats: Program, quantized: Program, samples: Sequence[Sample]) -> Figures:
    """Run both programs over labelled images and return what is lost between them.

    AP, its drop with the 95 % interval of the difference (both resampled on the same images) and
    fidelity (AP against the float network's own detections) are in points, `matched` is the F1 of
    clear detections in percent, the SQNR of the head's boxes and scores in dB.
    """
    head, seen = floats.head, _Seen()
    size = (floats.input.width, floats.input.height)
    for sample in samples:
        image = read_image(sample.path)
        truth = sample.truth((image.shape[1], image.shape[0]))
        wanted, wanted_tensors = floats.see(image, FOR_ACCURACY)
        found, found_tensors = quantized.see(image, FOR_ACCURACY)
        clear = _clear(wanted)
        seen.floats.append(match(wanted, truth, head.classes))
        seen.found.append(match(found, truth, head.classes))
        seen.faithful.append(match(found, clear, head.classes))
        seen.pairings.append(pair(clear, _clear(found)))
        _compare(head, size, wanted_tensors, found_tensors, seen)
    before, after = accuracy(seen.floats, head.classes), accuracy(seen.found, head.classes)
    interval = np.percentile(100 * (before.draws - after.draws), [2.5, 97.5])
    return {
        "float_ap": 100 * before.map50_95,
        "ap": 100 * after.map50_95,
        "drop": 100 * (before.map50_95 - after.map50_95),
        "drop_interval": [float(v) for v in interval],
        "fidelity": 100 * accuracy(seen.faithful, head.classes, resamples=0).map50_95,
        "matched": 100 * parity(seen.pairings).matched,
        "boxes_db": seen.boxes.decibels,
        "scores_db": seen.classes.decibels,
    }


def _clear(found: Detections) -> Detections:
    return found[found.scores >= CLEAR]


def _compare(
    head: HeadSpec, size: tuple[int, int], wanted: FloatTensors, found: FloatTensors, seen: _Seen
) -> None:
    pairs = zip(levels(head, wanted, size), levels(head, found, size), strict=True)
    for first, second in pairs:
        seen.boxes.add(real(first.box), real(second.box))
        seen.classes.add(scores(first), scores(second))
