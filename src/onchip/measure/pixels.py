"""Find what a network expects of its pixels by trying what is plausible on the user's images.

The right preprocessing is the one under which the network sees best: by mAP where the images have
labels, else by how many objects it is sure of. Letterbox kinds differ little without labels, and
the report says how sure the choice is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onchip.detections import Detections
from onchip.graph.pixels import BYTES, CENTERED, IMAGENET, UNIT, Pixels, convention
from onchip.measure.accuracy import accuracy, match
from onchip.spec import HeadSpec, InputSpec, Verdict
from onchip.vision.decode import decode
from onchip.vision.preprocess import Image, prepare

Tensors = dict[str, npt.NDArray[np.float32]]
Run = Callable[[npt.NDArray[np.generic]], Tensors]
MARGIN = 1.05  # by how much another choice must beat the family's convention
SURE = 0.25


@dataclass(frozen=True)
class Photo:
    """A decoded image, with its true boxes where they are known."""

    image: Image
    truth: Detections | None = None


@dataclass(frozen=True)
class Guess:
    """The choice, its score, and every choice that was tried, best first."""

    pixels: Pixels
    tried: tuple[tuple[Pixels, float], ...]
    labelled: bool
    images: int

    @property
    def certainty(self) -> float:
        """How far the best choice of another kind is behind, 0 to 1."""
        scores = [s for p, s in self.tried if p != self.pixels]
        best = dict(self.tried)[self.pixels]
        return max(0.0, 1 - max(scores, default=0.0) / best) if best > 0 else 0.0

    def verdict(self) -> Verdict:
        """Say what was taken and how sure that is."""
        measure = "mAP" if self.labelled else "confidence"
        second = next(((p, s) for p, s in self.tried if p != self.pixels), None)
        best = dict(self.tried)[self.pixels]
        text = (
            f"the model does not say how its pixels are prepared; tried {len(self.tried)} ways on "
            f"{self.images} images and took {_describe(self.pixels)} ({measure} {best:.3f}"
        )
        text += f"; next {_describe(second[0])}, {second[1]:.3f})" if second else ")"
        sure = self.certainty >= 0.1
        if not sure:
            text += "; not sure: check it, and say --color, --mean, --std, --letterbox if it is wrong"
        return Verdict(code="pixels_guessed", message=text, level="info" if sure else "warning")


def _describe(pixels: Pixels) -> str:
    assert pixels.mean and pixels.std
    mean = ",".join(f"{v:g}" for v in dict.fromkeys(pixels.mean))
    std = ",".join(f"{v:g}" for v in dict.fromkeys(pixels.std))
    return f"{pixels.color} mean {mean} std {std} {pixels.letterbox}"


def guess(
    run: Run,
    head: HeadSpec,
    known: Pixels,
    spec: Callable[[Pixels], InputSpec],
    photos: Sequence[Photo],
) -> Guess:
    """Choose what `known` leaves open.

    Args:
        run: the cut float network.
        head: how to read its end.
        known: what is declared; it is never changed.
        spec: makes an input of complete pixels.
        photos: images to try on; more than a dozen gain little.
    """
    usual = known.over(convention(head))
    scores: dict[Pixels, float] = {}
    best = usual
    for stage in (_values(known, usual), _placements(known)):
        for change in stage:
            pixels = change(best)
            if pixels not in scores:
                scores[pixels] = _score(run, head, spec(pixels), photos)
        best = max(scores, key=lambda p: scores[p] * (MARGIN if p == usual else 1.0))
    order = sorted(scores.items(), key=lambda item: -item[1])
    return Guess(best, tuple(order), all(p.truth is not None for p in photos), len(photos))


Change = Callable[[Pixels], Pixels]


def _values(known: Pixels, usual: Pixels) -> Iterator[Change]:
    """Colour orders and value ranges."""
    ranges = [(usual.mean, usual.std), UNIT, BYTES, IMAGENET, CENTERED]
    for color in [known.color] if known.color else ["rgb", "bgr"]:
        for mean, std in ranges:
            assert mean and std
            ordered = (mean, std)
            if color == "bgr" and (mean, std) == IMAGENET:
                ordered = (mean[::-1], std[::-1])
            chosen = Pixels(
                color=color,  # type: ignore[arg-type]
                mean=known.mean or ordered[0],
                std=known.std or ordered[1],
            )
            yield lambda pixels, chosen=chosen: chosen.over(pixels)  # type: ignore[misc]


def _placements(known: Pixels) -> Iterator[Change]:
    kinds = [known.letterbox] if known.letterbox else ["center", "topleft", "stretch"]
    for kind in kinds:
        yield lambda pixels, kind=kind: replace(pixels, letterbox=kind)  # type: ignore[misc]


def _score(run: Run, head: HeadSpec, spec: InputSpec, photos: Sequence[Photo]) -> float:
    """Return mAP50-95 where there are labels, else the mean sum of confident scores."""
    labelled = all(p.truth is not None for p in photos)
    matches, total = [], 0.0
    for photo in photos:
        tensor, box = prepare(photo.image, spec)
        least = 0.001 if labelled else SURE
        found = decode(head, run(tensor), (spec.width, spec.height), confidence=least)
        found = Detections(box.undo(found.boxes), found.scores, found.classes)
        if photo.truth is not None and labelled:
            matches.append(match(found, photo.truth, head.classes))
        total += float(np.square(found.scores).sum())
    if labelled:
        return accuracy(matches, head.classes, resamples=0).map50_95
    return total / len(photos)
