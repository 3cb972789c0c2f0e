"""Find what a network expects of its pixels by trying what is plausible on the user's images.

The right preprocessing is the one under which the network sees best: by mAP where the images have
labels, else by what it is sure of in an image and in its mirror image alike. Letterbox kinds
differ little without labels, and the report says how sure the choice is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onchip.detections import Detections, pairs
from onchip.graph.pixels import BYTES, CENTERED, IMAGENET, UNIT, Pixels, convention
from onchip.measure.accuracy import accuracy, match
from onchip.spec import HeadSpec, InputSpec, Verdict
from onchip.vision.decode import decode
from onchip.vision.preprocess import Image, prepare

Tensors = dict[str, npt.NDArray[np.float32]]
Run = Callable[[npt.NDArray[np.generic]], Tensors]
MARGIN = 1.15  # by how much another choice must beat the family's convention
SURE = 0.25  # scores that count without labels
FAINT = 0.05  # and with them: enough of the curve to compare by


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
        """How far the best of the other colour orders and value ranges is behind, 0 to 1."""
        return self._behind(lambda p: (p.color, p.mean, p.std) != self._values)

    @property
    def _values(self) -> tuple[object, object, object]:
        return (self.pixels.color, self.pixels.mean, self.pixels.std)

    def _behind(self, other: Callable[[Pixels], bool]) -> float:
        best = dict(self.tried)[self.pixels]
        rest = max((s for p, s in self.tried if other(p)), default=0.0)
        return max(0.0, 1 - max(rest, 0.0) / best) if best > 0 else 0.0

    def verdict(self) -> Verdict:
        """Say what was taken and how sure that is."""
        measure = "mAP" if self.labelled else "agreement with mirror images"
        best = dict(self.tried)[self.pixels]
        sure = self.certainty >= 0.1
        text = (
            f"the model does not say how its pixels are prepared; tried {len(self.tried)} ways on "
            f"{self.images} images and took {_describe(self.pixels)}: {measure} {best:.3f}, other "
            f"colour orders and value ranges are {self.certainty:.0%} or more behind"
        )
        kind = self.pixels.letterbox
        if self._behind(lambda p: p.letterbox != kind) < 0.1:
            text += f"; the letterbox kinds cannot be told apart by that, {kind} is an assumption"
        if not sure:
            text += "; not sure: check it, and say --color, --mean, --std if it is wrong"
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
    progress: Callable[[int], None] = lambda done: None,
) -> Guess:
    """Choose what `known` leaves open.

    Args:
        run: the cut float network.
        head: how to read its end.
        known: what is declared; it is never changed.
        spec: makes an input of complete pixels.
        photos: images to try on; more than a dozen gain little.
        progress: called with the number of ways tried.
    """
    usual = known.over(convention(head))
    scores: dict[Pixels, float] = {}
    best = usual
    for stage in (_values(known, usual), _placements(known)):
        for change in stage:
            pixels = change(best)
            if pixels not in scores:
                scores[pixels] = _score(run, head, spec(pixels), photos)
                progress(len(scores))
        best = max(scores, key=lambda p: scores[p] * _trust(p, usual))
    order = sorted(scores.items(), key=lambda item: -item[1])
    return Guess(best, tuple(order), all(p.truth is not None for p in photos), len(photos))


def _trust(pixels: Pixels, usual: Pixels) -> float:
    """What is usual in the family must be beaten clearly, its letterbox twice as clearly."""
    trust = MARGIN if pixels == usual else 1.0
    return trust * (MARGIN if pixels.letterbox == usual.letterbox else 1.0)


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
    """Return mAP50-95 where there are labels, else how far the mirrored images are seen alike."""
    if all(p.truth is not None for p in photos):
        matches = []
        for photo in photos:
            assert photo.truth is not None
            found = _look(run, head, spec, photo.image, FAINT)
            matches.append(match(found, photo.truth, head.classes))
        return accuracy(matches, head.classes, resamples=0).map50_95
    return sum(mirrored(run, head, spec, p.image) for p in photos) / len(photos)


def mirrored(run: Run, head: HeadSpec, spec: InputSpec, image: Image) -> float:
    """Return how much a network is sure of in an image and in its mirror image alike.

    What is seen in both counts by its score, what is seen in one of them counts against: a network
    whose pixels are wrong may be sure of much, but not of the same things.
    """
    first = _look(run, head, spec, image, SURE)
    other = _look(run, head, spec, np.ascontiguousarray(image[:, ::-1]), SURE)
    width = image.shape[1]
    turned = other.boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
    second = Detections(turned.astype(np.float32), other.scores, other.classes)
    paired = pairs(first, second)
    shared = sum(float(np.minimum(first.scores[i], second.scores[j])) ** 2 for i, j in paired)
    alone = float(np.square(first.scores).sum() + np.square(second.scores).sum()) - 2 * shared
    return shared - alone / 2


def _look(run: Run, head: HeadSpec, spec: InputSpec, image: Image, least: float) -> Detections:
    tensor, box = prepare(image, spec)
    found = decode(head, run(tensor), (spec.width, spec.height), confidence=least)
    return Detections(box.undo(found.boxes), found.scores, found.classes)
