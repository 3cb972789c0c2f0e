"""The Python API: three lines from an artifact to boxes."""

from pathlib import Path

from onchip.artifact import Artifact, load
from onchip.closing import Closing
from onchip.detect.program import Limits, Program
from onchip.detections import Detections
from onchip.errors import InputError
from onchip.targets import target as targets
from onchip.vision.preprocess import Image, read_image


class Detector(Closing):
    """Finds objects with a built artifact.

        from onchip import Detector
        detector = Detector("best.onchip")
        for box, score, label in detector("photo.jpg"): ...

    Args:
        artifact: an opened artifact, or the path of one.
        confidence: the least score that counts, 0 to 1.
        overlap: boxes of one class that overlap more than this are one.
        threads: for a CPU, how many threads each image gets: 0 is one per core, so that one is
            soon done, and 1 that several images share the cores, so that many are.

    It may be called from several threads; `session.depth` of them keep the chip busy.

    Raises:
        InputError: the file is not a whole artifact, or is not compiled yet.
    """

    def __init__(
        self,
        artifact: Artifact | Path | str,
        *,
        confidence: float = 0.25,
        overlap: float = 0.45,
        threads: int = 0,
    ) -> None:
        self.artifact = artifact if isinstance(artifact, Artifact) else load(Path(artifact))
        manifest = self.artifact.manifest
        self.artifact.payload("program")  # or say what is missing
        if manifest.program_input is None:
            raise InputError("the artifact has no program yet", "run: onchip compile FILE.onchip")
        self.limits = Limits(confidence, overlap)
        self.labels = manifest.head.labels
        self.session = targets.get(manifest.target).open(self.artifact, threads)
        self.session.limit(confidence, overlap)
        head = manifest.program_head or manifest.head
        self.program = Program(targets.in_turn(self.session), manifest.program_input, head)

    def __call__(self, image: Image | Path | str) -> Detections:
        """Return what is seen in an image file or a BGR array `(H, W, 3)`, best first."""
        if isinstance(image, Path | str):
            image = read_image(Path(image))
        return self.program(image, self.limits)

    def close(self) -> None:
        """Give the chip back."""
        self.session.close()
