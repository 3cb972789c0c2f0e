"""Open whatever can see: a built artifact, or an ONNX model as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onchip.artifact import Artifact, load
from onchip.closing import Closing
from onchip.detect.detector import Detector
from onchip.detect.program import Limits, Program
from onchip.detections import Detections
from onchip.errors import InputError
from onchip.targets.cpu import depth
from onchip.vision.preprocess import Image


@dataclass(frozen=True)
class Sight(Closing):
    """Finds objects: BGR image `(H, W, 3)` in, boxes in its pixels out, best first."""

    name: str
    labels: tuple[str, ...]
    program: Program
    limits: Limits
    parallel: bool  # whether several threads may look at once
    depth: int  # how many of them keep the chip busy
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
    if path.suffix.lower() == ".onnx":
        return _whole(path, photos, limits, threads)
    if path.suffix.lower() != ".onchip":
        raise InputError(
            f"{path} is no model that onchip can look through", "allowed: .onchip, .onnx"
        )
    artifact = load(path)
    if "program" in artifact.payloads:
        return _built(path, artifact, limits, threads)
    return _float(path, artifact, limits, threads)


def _built(path: Path, artifact: Artifact, limits: Limits, threads: int) -> Sight:
    detector = Detector(
        artifact, confidence=limits.confidence, overlap=limits.overlap, threads=threads
    )
    session = detector.session
    known = (session.parallel, session.depth)
    return Sight(path.name, detector.labels, detector.program, limits, *known, detector)


def _whole(path: Path, photos: Sequence[Path], limits: Limits, threads: int) -> Sight:
    from onchip.build import parse  # only here: a board that runs artifacts needs no compiler

    return _float(path, parse(path, "cpu", photos), limits, threads)


def _float(path: Path, artifact: Artifact, limits: Limits, threads: int) -> Sight:
    """See with the float network of an artifact that is not compiled."""
    from onchip.build import cut_model
    from onchip.graph.run import Runner

    manifest = artifact.manifest
    program = Program(Runner(cut_model(artifact).bytes, threads), manifest.input, manifest.head)
    labels = manifest.head.labels
    return Sight(path.name, labels, program, limits, True, depth(threads), Closing())
