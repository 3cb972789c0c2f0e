"""Open whatever can see: a built artifact, or an ONNX model as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onchip.artifact import Artifact, load
from onchip.build import cut_model, parse
from onchip.closing import Closing
from onchip.detect.detector import Detector
from onchip.detect.program import Limits, Program
from onchip.detections import Detections
from onchip.errors import InputError
from onchip.graph.run import Runner
from onchip.vision.preprocess import Image


@dataclass(frozen=True)
class Sight(Closing):
    """Finds objects: BGR image `(H, W, 3)` in, boxes in its pixels out, best first."""

    name: str
    labels: tuple[str, ...]
    program: Program
    limits: Limits
    parallel: bool  # whether several threads may look at once
    held: Closing

    def __call__(self, image: Image) -> Detections:
        """Return what is seen."""
        return self.program(image, self.limits)

    def close(self) -> None:
        """Give the chip back."""
        self.held.close()


def open_sight(
    path: Path, photos: Sequence[Path] = (), *, limits: Limits | None = None, threads: int = 0
) -> Sight:
    """Open an .onchip file, or an .onnx model, which then sees in float and is not changed.

    Args:
        path: the file.
        photos: a few, to find out what an ONNX model does not say of its pixels.
        limits: which detections count.
        threads: of the CPU, where it computes; 0 is one per core.

    Raises:
        InputError: the file is neither, or not whole.
        UnsupportedError: it is no detector that onchip knows.
    """
    limits = limits or Limits()
    if path.suffix.lower() == ".onchip":
        artifact = load(path)
        if "program" in artifact.payloads:
            return _built(path, artifact, limits, threads)
    elif path.suffix.lower() == ".onnx":
        artifact = parse(path, "cpu", photos)
    else:
        raise InputError(
            f"{path} is no model that onchip can look through", "allowed: .onchip, .onnx"
        )
    manifest = artifact.manifest
    program = Program(Runner(cut_model(artifact).bytes, threads), manifest.input, manifest.head)
    return Sight(path.name, manifest.head.labels, program, limits, True, Closing())


def _built(path: Path, artifact: Artifact, limits: Limits, threads: int) -> Sight:
    detector = Detector(
        artifact, confidence=limits.confidence, overlap=limits.overlap, threads=threads
    )
    parallel = detector.session.parallel
    return Sight(path.name, detector.labels, detector.program, limits, parallel, detector)
