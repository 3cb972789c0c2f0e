"""The calibration photos: made into inputs, and what was wrong with them."""

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onchip.errors import InputError
from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.measure.alike import Figures, Look, figures, look
from onchip.quantize import sound
from onchip.quantize.observe import Maker
from onchip.quantize.probes import Probes
from onchip.sampling import some
from onchip.spec import HeadSpec, InputSpec, Verdict
from onchip.vision.preprocess import prepare, read_image

FEW = 16
WHY = "the training diverged, or photos are not prepared as the network expects: run it in float"

Tensor = npt.NDArray[np.generic]


class Calibration:
    """Photos as makers of inputs. What cannot be used is left out, and told.

    Args:
        paths: the photos.
        digests: of their files, to tell copies.
        spec: what the network expects of its pixels.
    """

    def __init__(self, paths: Sequence[Path], digests: Sequence[bytes], spec: InputSpec) -> None:
        self._paths, self._digests, self._spec = paths, digests, spec
        self._figures: dict[Path, Figures] = {}
        self._left: dict[Path, str] = {}
        self.makers: list[Maker] = [self._maker(path) for path in paths]

    def _maker(self, path: Path) -> Maker:
        return lambda: self._make(path)

    def _make(self, path: Path) -> Tensor | None:
        try:
            image = read_image(path)
        except InputError as error:
            self._left[path] = str(error)
            return None
        if sound.is_plain(image):
            self._left[path] = f"{path} is of one colour: it shows nothing"
            return None
        if path not in self._figures:
            self._figures[path] = figures(image)
        return prepare(image, self._spec)[0]

    def refuse(self, number: int, tensor: str) -> None:
        """Leave out a photo on which a tensor of the network is NaN or infinite."""
        path = self._paths[number]
        self._left[path] = f"on {path} the network's {tensor} is NaN or infinite"

    def probes(self, model: Model, head: HeadSpec, count: int) -> Probes:
        """Return a few inputs, spread over all, on which the network gives numbers.

        Raises:
            InputError: there is none.
        """
        run = Runner(model.bytes)
        first = some(self.makers, count)
        others = (m for m in self.makers if m not in first)  # where some of the first are no use
        made = (t for make in chain(first, others) if (t := make()) is not None)
        pairs = ((t, run(t)) for t in made)
        found = list(islice((p for p in pairs if not sound.first_unsound(p[1])), count))
        if not found and self.used():
            text = f"the network gives NaN or infinite values on all {self.used()} photos"
            raise InputError(text, WHY)
        return Probes(head, [t for t, _ in found], [w for _, w in found])

    def used(self) -> int:
        """Return how many photos were of use, once all were asked for.

        Raises:
            InputError: none was.
        """
        used = sum(path not in self._left for path in self._paths)
        if not used:
            text = f"none of the {len(self._paths)} calibration images can be used"
            raise InputError(text, min(self._left.values()))
        return used

    @property
    def look(self) -> Look | None:
        """How the photos look that were of use."""
        return look(f for path, f in sorted(self._figures.items()) if path not in self._left)

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return what there is to say of the photos."""
        found = []
        if self._left:
            count, first = len(self._left), min(self._left.values())
            each = "calibration image was" if count == 1 else "calibration images were"
            text = f"{count} {each} left out; the first: {first}"
            found.append(Verdict(code="images_unreadable", message=text, level="warning"))
        pairs = zip(self._paths, self._digests, strict=True)
        digests = [digest for path, digest in pairs if path not in self._left]
        if (different := len(set(digests))) < FEW:
            text = (
                f"only {different} calibration image{'s' * (different != 1)}: "
                "ranges may not cover what the camera will see"
            )
            found.append(Verdict(code="few_images", message=text, level="warning"))
        return (*found, *sound.photos_said(digests))
