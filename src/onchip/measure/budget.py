"""How many points a plan loses on some photos: by their labels, or against the float network."""

from collections.abc import Sequence

from onchip.detect.program import FOR_ACCURACY, Program
from onchip.detections import Detections
from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.measure.accuracy import accuracy, match
from onchip.measure.parity import pair, parity
from onchip.measure.pixels import Photo
from onchip.several import each
from onchip.spec import HeadSpec, InputSpec

CLEAR = 0.25  # the score from which a detection counts without labels


class Loss:
    """Measures graphs against the float network on fixed photos.

    With labels a point is one of mAP50-95, without them one in a hundred detections that does not
    match the float network's own.

    Args:
        model: the cut float graph.
        head: how to read its end.
        spec: its input.
        photos: images, with their true boxes where these are known.
    """

    def __init__(
        self, model: Model, head: HeadSpec, spec: InputSpec, photos: Sequence[Photo]
    ) -> None:
        self._head, self._spec, self._photos = head, spec, photos
        self.labelled = bool(photos) and all(p.truth is not None for p in photos)
        self._float = self._seen(model.bytes)
        self._best = self._accuracy(self._float) if self.labelled else 100.0

    @property
    def unit(self) -> str:
        """What a point is."""
        kind = "points of mAP50-95" if self.labelled else "points of matched detections"
        return f"{kind} on {len(self._photos)} photos"

    def __call__(self, graph: bytes) -> float:
        """Return the points that a graph loses."""
        found = self._seen(graph)
        if self.labelled:
            return self._best - self._accuracy(found)
        pairs = [
            pair(a[a.scores >= CLEAR], b[b.scores >= CLEAR])
            for a, b in zip(self._float, found, strict=True)
        ]
        return self._best - 100 * parity(pairs).matched

    def _seen(self, graph: bytes) -> list[Detections]:
        program = Program(Runner(graph, threads=1), self._spec, self._head)
        return list(each(lambda p: program(p.image, FOR_ACCURACY), self._photos))

    def _accuracy(self, found: Sequence[Detections]) -> float:
        matches = [
            match(d, p.truth, self._head.classes)
            for d, p in zip(found, self._photos, strict=True)
            if p.truth is not None
        ]
        return 100 * accuracy(matches, self._head.classes, resamples=0).map50_95
