"""Say whether photos look like those that a network was calibrated on.

Ranges fit what calibration showed. A camera at night, in infrared or out of focus shows something
else, and what is measured on its photos is then a matter of calibration, not of the chip. Six
figures of each photo are kept as means and deviations: how light, how contrasted, how colourful,
how red, how blue and how sharp it is. What is compared are the means, in deviations of photos.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from onchip.spec import Verdict
from onchip.vision.preprocess import Image

SIDE = 320  # pixels of the longer side, at which a photo is looked at
# by how much these figures deviate over 178 photos of COCO: those of a camera that stands still
# deviate less, but half as much light is nothing to worry about there either
USUAL = (0.30, 0.24, 0.63, 0.16, 0.17, 0.53)
APART = 1.0  # deviations; see docs/quantizer.md for how often it is right
SURE = 4.0  # standard errors of a difference of means
FEWEST = 8  # photos on either side, below which nothing is said
WORDS = (
    ("darker", "lighter"),
    ("with less contrast", "with more contrast"),
    ("with less colour", "with more colour"),
    ("less red", "redder"),
    ("less blue", "bluer"),
    ("less sharp", "sharper"),
)

Figures = npt.NDArray[np.float64]  # (6,): light, contrast, colour, red, blue, sharpness


class Look(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How some photos look: the mean of each figure, and how it deviates among them."""

    images: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def figures(image: Image) -> Figures:
    """Return the figures of one photo, BGR `(H, W, 3)`.

    Light, contrast, colour and sharpness are logarithms, red and blue parts of the light: twice as
    dark is as far from twice as light at noon as at dusk.
    """
    scale = SIDE / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    blue, green, red = cv2.split(small)
    spread = cv2.subtract(cv2.max(cv2.max(blue, green), red), cv2.min(cv2.min(blue, green), red))
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    light, contrast = (float(v[0, 0]) for v in cv2.meanStdDev(grey))
    edges = cv2.convertScaleAbs(cv2.Laplacian(grey, cv2.CV_16S))
    b, g, r = cv2.mean(small)[:3]
    # what is added keeps noise in black and grey photos from counting
    return np.asarray(
        [
            np.log(light + 8),
            np.log(contrast + 4),
            np.log(cv2.mean(spread)[0] + 4),
            (r - g) / (light + 8),
            (b - g) / (light + 8),
            np.log((cv2.mean(edges)[0] + 0.5) / (contrast + 4)),
        ]
    )


def look(found: Iterable[Figures]) -> Look | None:
    """Return how photos look together, by the figures of each; None where there are too few."""
    rows = np.asarray(list(found), np.float64)
    if len(rows) < FEWEST:
        return None
    return Look(
        images=len(rows),
        mean=tuple(round(float(v), 4) for v in rows.mean(axis=0)),
        deviation=tuple(round(float(v), 4) for v in rows.std(axis=0, ddof=1)),
    )


def apart(calibration: Look, other: Look) -> list[float]:
    """Return by how many deviations each figure is larger in the others.

    Where there are few photos, the deviations count as larger: their means are not so sure.
    """
    error = SURE * (1 / calibration.images + 1 / other.images) ** 0.5
    pairs = zip(other.mean, calibration.mean, calibration.deviation, USUAL, strict=True)
    return [(a - b) / max(d, usual) / max(1.0, error / APART) for a, b, d, usual in pairs]


def unlike(calibration: Look | None, other: Look | None) -> tuple[Verdict, ...]:
    """Warn where photos look unlike those of calibration, and say how."""
    if calibration is None or other is None:
        return ()
    far = apart(calibration, other)
    order = sorted(range(len(far)), key=lambda i: -abs(far[i]))
    said = [_words(i, far[i]) for i in order if abs(far[i]) > APART]
    if not said:
        return ()
    text = (
        f"the images look unlike those of calibration: {_joined(said[:3])}; "
        "calibrate on images like these, from the camera itself"
    )
    return (Verdict(code="images_unlike", message=text, level="warning"),)


def _words(index: int, far: float) -> str:
    return WORDS[index][far > 0]


def _joined(parts: Sequence[str]) -> str:
    """Join words as people do.

    >>> _joined(["darker", "redder", "less sharp"])
    'darker, redder and less sharp'
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
