"""A program that sees: something that runs tensors, what it expects, and how to read its end."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.detections import Detections
from onchip.spec import HeadSpec, InputSpec
from onchip.vision.codes import FloatTensors, Tensors, all_real
from onchip.vision.decode import decode
from onchip.vision.preprocess import Image, Letterbox, prepare

Run = Callable[[npt.NDArray[np.generic]], Tensors]


@dataclass(frozen=True)
class Limits:
    """Which detections count: least score, overlap that makes two one, most per image."""

    confidence: float = 0.25
    overlap: float = 0.45
    most: int = 300


# What mAP is measured with: nearly everything, so that the whole curve is seen.
FOR_ACCURACY = Limits(confidence=0.001, overlap=0.65)


@dataclass(frozen=True)
class Program:
    """Image in, boxes out."""

    run: Run
    input: InputSpec
    head: HeadSpec

    def __call__(self, image: Image, limits: Limits | None = None) -> Detections:
        """Return what is seen in a BGR image, in its own pixels, best first."""
        tensor, box = prepare(image, self.input)
        return self.read(self.run(tensor), box, limits)

    def see(self, image: Image, limits: Limits | None = None) -> tuple[Detections, FloatTensors]:
        """Return what is seen, and the head tensors from which it was read, as floats."""
        tensor, box = prepare(image, self.input)
        tensors = self.run(tensor)
        return self.read(tensors, box, limits), all_real(tensors)

    def read(self, tensors: Tensors, box: Letterbox, limits: Limits | None = None) -> Detections:
        """Turn head tensors into detections in pixels of the original image."""
        limits = limits or Limits()
        found = decode(
            self.head,
            tensors,
            (self.input.width, self.input.height),
            confidence=limits.confidence,
            overlap=limits.overlap,
            limit=limits.most,
        )
        return Detections(box.undo(found.boxes), found.scores, found.classes)
